/* Public keys that check signatures. */
#ifndef TR_PUBLIC_KEY_H
#define TR_PUBLIC_KEY_H

#include "theaterref.h"

typedef enum tr_key_type { TR_KEY_ECDSA_P256, TR_KEY_RSA, TR_KEY_MINISIGN } tr_key_type;

/* A key with a reference count. It never changes: threads share it freely. */
typedef struct tr_public_key tr_public_key;

/*
** Read a key: one PEM block, PUBLIC KEY or RSA PUBLIC KEY, or a minisign public key, as a
** file or as its base64 line. The key is EC P-256, RSA of 2,048 to 8,192 bits, or minisign's
** Ed25519. NULL with the error, of kind TR_SYNTAX, which never quotes the text.
*/
tr_public_key *tr_public_key_read(const void *text, size_t size, tr_error *error);
tr_public_key *tr_public_key_retain(tr_public_key *key);
void tr_public_key_release(tr_public_key *key); /* NULL is allowed */

tr_key_type tr_public_key_type(const tr_public_key *key);
/* Return "ecdsa-p256", "rsa" or "minisign". Static storage. */
const char *tr_public_key_type_name(const tr_public_key *key);

/* Return the SHA-256 of the key's one canonical form in hex: of its SPKI in DER, or of
** the 32 bytes of a minisign key. */
const char *tr_public_key_fingerprint(const tr_public_key *key);

/* The result of checking a signature. */
typedef enum tr_check_result {
  TR_SIGNED,
  TR_NOT_SIGNED,
  TR_UNCHECKED /* memory is short */
} tr_check_result;

/* Check a signature of the bytes with this SHA-256: ECDSA in strict DER, or RSA PKCS#1
** v1.5. A minisign key makes none of these. */
tr_check_result tr_public_key_check(const tr_public_key *key, const unsigned char sha256[32],
                               const void *signature, size_t size);

/* Return the 32 bytes of a minisign key; its id of 8 bytes goes to '*id'. */
const unsigned char *tr_public_key_ed25519(const tr_public_key *key,
                                           const unsigned char **id);

#endif
