/* Reads private keys into mbedTLS. */
#ifndef TR_PRIVATE_KEY_H
#define TR_PRIVATE_KEY_H

#include <mbedtls/pk.h>

#include "signing.h"

/* Random bytes for mbedTLS. */
int tr_mbedtls_random(void *unused, unsigned char *out, size_t size);

/* A private key's text and password. */
typedef struct tr_key_source {
  const char *pem; /* with a final zero */
  size_t size;     /* without it */
  const char *password; /* NULL: none */
  size_t password_len;
} tr_key_source;

/* Read a key into an initialised context, which the caller frees. False with the error
** and the password's part in it. */
bool tr_private_key_read(mbedtls_pk_context *pk, const tr_key_source *source,
                         tr_password_fault *fault, tr_error *error);

#endif
