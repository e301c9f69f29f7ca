/* Finds the key in a text, in the forms that people have keys in. */
#ifndef TR_KEY_TEXT_H
#define TR_KEY_TEXT_H

#include "blob.h"

enum { TR_KEY_TEXT_MAX = 64 * 1024 }; /* bytes of a text with a key */

typedef enum tr_key_form {
  TR_FORM_SPKI,    /* DER of a SubjectPublicKeyInfo */
  TR_FORM_PKCS1,   /* DER of an RSAPublicKey */
  TR_FORM_MINISIGN /* 42 bytes: "Ed", the id, the key */
} tr_key_form;

/* Append the bytes of the one public key in a text to 'out'. False with the error. */
bool tr_key_text_read(const char *text, size_t size, tr_key_form *form, tr_buffer *out,
                      tr_error *error);

#endif
