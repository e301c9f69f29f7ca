/* Digests, their names in hex, and random bytes. */
#ifndef TR_CRYPTO_H
#define TR_CRYPTO_H

#include "theaterref.h"

/* Hex digits in a digest: 40 or 64. */
size_t tr_hex_length(tr_algorithm algorithm);

/* The algorithm of a valid digest in hex, by its length. */
tr_algorithm tr_algorithm_of(const char *hex);

/* True if the text is 40 or 64 hex digits, of either case. */
bool tr_hex_valid(const char *hex);

/* Write the bytes of a valid SHA-256 in hex. */
void tr_hex_decode(const char *hex, unsigned char raw[32]);

/* Write 'len' bytes as 2 * len lower-case digits, and a zero byte. */
void tr_hex_encode(const unsigned char *raw, size_t len, char *hex);

/* A digest that is computed piece by piece; not for two threads at a time. */
typedef struct tr_hash tr_hash;

/* A hash of no bytes yet. NULL when memory is short. */
tr_hash *tr_hash_new(tr_algorithm algorithm);
void tr_hash_update(tr_hash *hash, const void *data, size_t size);
/* Write the digest in hex. Then only tr_hash_free may follow. */
void tr_hash_finish(tr_hash *hash, char hex[TR_HEX_MAX]);
void tr_hash_free(tr_hash *hash);

/* Write the SHA-256 of a blob in hex. It is computed once in the blob's life. */
void tr_blob_sha256(tr_blob *blob, char hex[TR_HEX_MAX]);

/* Write the HMAC-SHA-256 of 'data' in hex (RFC 2104), with a key that this process
** and its children alone have. False with the error. */
bool tr_process_hmac(const void *data, size_t size, char hex[TR_HEX_MAX],
                     tr_error *error);

/*
** Use libcrypto from now on, if this process has it loaded already and it is
** faster than mbedTLS, which it is by far where the processor has instructions
** for SHA. Called once libcurl is open, which usually brings it along.
*/
void tr_crypto_use_libcrypto(void);

/* The library in use for digests: "mbedTLS" or "libcrypto". */
const char *tr_crypto_backend(void);

/* Write the MD5 of some bytes, which a protocol asks for. False: memory is short, or mbedTLS
** was built without it. */
bool tr_md5(const void *data, size_t size, unsigned char raw[16]);

/* A number from 0 to 1 that no other process repeats. Any thread. */
double tr_random(void);

#endif
