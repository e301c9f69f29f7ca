/* Makes signatures. */
#ifndef TR_SIGNING_H
#define TR_SIGNING_H

#include "blob.h"

/* Room for the text of a signature, its line end and its final zero. */
enum { TR_SIGNATURE_TEXT = 128 };

/* How a signature failed because of the key's password; it can be asked for then. */
typedef enum tr_password_fault {
  TR_PASSWORD_FINE,
  TR_PASSWORD_NEEDED, /* the key is encrypted, and there is no password */
  TR_PASSWORD_WRONG
} tr_password_fault;

/*
** Sign a blob with an EC P-256 key: ECDSA of the SHA-256, as cosign sign-blob and openssl
** dgst do. 'pem' is a text with the private key, which may be encrypted; 'password' is
** NULL if there is none. 'text' gets base64 and a line end. Every copy of the key that is
** made here is wiped. False with the error and the password's part in it.
*/
bool tr_sign(tr_blob *blob, const void *pem, size_t size, const char *password,
             size_t password_len, char text[TR_SIGNATURE_TEXT],
             tr_password_fault *fault, tr_error *error);

#endif
