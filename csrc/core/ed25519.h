/* Ed25519 signatures and BLAKE2b, as minisign needs them. */
#ifndef TR_ED25519_H
#define TR_ED25519_H

#include "theaterref.h"

enum {
  TR_ED25519_KEY_SIZE = 32,
  TR_ED25519_SIGNATURE_SIZE = 64,
  TR_BLAKE2B_SIZE = 64
};

/* Open the library that does the work: libcrypto, or else libsodium. The first call
** may read files. False with the error (TR_IO) if this machine has neither. */
bool tr_ed25519_open(tr_error *error);

/* Return true for a point of small order, or one that is not in its one form. */
bool tr_ed25519_is_weak(const unsigned char point[TR_ED25519_KEY_SIZE]);

/* Check that 'signature' is one of 'size' bytes by the key. After tr_ed25519_open; any
** thread. If it returns false, '*no_memory' tells that it could not be checked. */
bool tr_ed25519_verify(const unsigned char key[TR_ED25519_KEY_SIZE],
                       const unsigned char signature[TR_ED25519_SIGNATURE_SIZE],
                       const void *data, size_t size, bool *no_memory);

/* Write the BLAKE2b-512 of 'size' bytes. False when memory is short. */
bool tr_blake2b(const void *data, size_t size, unsigned char raw[TR_BLAKE2B_SIZE]);

/* The library in use, "libcrypto" or "libsodium"; NULL before tr_ed25519_open. */
const char *tr_ed25519_backend(void);

#endif
