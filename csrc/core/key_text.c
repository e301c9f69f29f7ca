/*
** A key that is given in the wrong form is the likeliest mistake of somebody who sets up
** signatures, so each has its own message. None quotes the text, which may be secret.
*/
#include "key_text.h"

#include <mbedtls/platform_util.h>
#include <stdlib.h>
#include <string.h>

#include "encoding.h"
#include "error.h"

static const char private_key[] =
    "it is a private key: keep it secret, and give its public key instead";

static bool fault(tr_error *error, const char *why) {
  tr_error_set(error, TR_SYNTAX, "invalid public key: %s", why);
  return false;
}

/* Decode base64 in lines. */
static bool decode_lines(const char *text, size_t size, tr_buffer *out,
                         tr_error *error) {
  char *joined = malloc(size + 1);
  size_t i, len = 0;
  bool no_memory = joined == NULL, ok = false;
  if (joined != NULL) {
    for (i = 0; i < size; i++)
      if (strchr(" \t\r\n", text[i]) == NULL || text[i] == '\0')
        joined[len++] = text[i];
    ok = tr_base64_decode(joined, len, out, &no_memory);
    mbedtls_platform_zeroize(joined, size + 1); /* it may be a secret by mistake */
    free(joined);
  }
  if (no_memory)
    tr_error_nomem(error);
  return ok || (no_memory ? false : fault(error, "it is not base64"));
}

/* ---------------------------------------------------------------------- PEM */

/* Return the fault of a block's label, or NULL; the form then goes to '*form'. */
static const char *label_fault(const tr_pem *block, tr_key_form *form) {
  *form = tr_pem_is(block, "RSA PUBLIC KEY") ? TR_FORM_PKCS1 : TR_FORM_SPKI;
  if (tr_pem_is(block, "PUBLIC KEY") || tr_pem_is(block, "RSA PUBLIC KEY"))
    return NULL;
  if (tr_pem_ends_in(block, "CERTIFICATE"))
    return "it is a certificate: keyless signatures are not supported; give the public "
           "key (openssl x509 -pubkey -noout -in FILE)";
  if (tr_pem_is(block, "SSH2 PUBLIC KEY") || tr_pem_is(block, "PGP PUBLIC KEY BLOCK"))
    return "keys of SSH and PGP are not supported; give an EC P-256, RSA or minisign key";
  return "its PEM block is neither PUBLIC KEY nor RSA PUBLIC KEY";
}

static bool has_private_key(const char *text, const char *end) {
  tr_pem block;
  while (tr_pem_next(&text, end, &block))
    if (tr_pem_ends_in(&block, "PRIVATE KEY"))
      return true;
  return false;
}

static bool read_pem(const char *text, const char *end, tr_key_form *form,
                     tr_buffer *out, tr_error *error) {
  const char *at = text, *why;
  tr_pem block, second;
  if (has_private_key(text, end))
    return fault(error, private_key);
  tr_pem_next(&at, end, &block);
  why = label_fault(&block, form);
  if (why != NULL)
    return fault(error, why);
  if (block.body == NULL)
    return fault(error, "its PEM block has no END line");
  if (tr_pem_next(&at, end, &second))
    return fault(error, "it has more than one PEM block; give each key by itself");
  return decode_lines(block.body, block.body_len, out, error);
}

/* ----------------------------------------------------------------- minisign */

enum { PUBLIC_SIZE = 42, SECRET_SIZE = 158 };

static bool read_minisign(const char *at, const char *end, tr_buffer *out,
                          tr_error *error) {
  static const char comment[] = "untrusted comment:";
  tr_line line = tr_take_line(&at, end);
  bool commented = line.len >= strlen(comment) &&
                   memcmp(line.at, comment, strlen(comment)) == 0;
  bool no_memory, ok;
  if (commented)
    line = tr_take_line(&at, end);
  if (line.len == (SECRET_SIZE + 2) / 3 * 4 && memcmp(line.at, "RW", 2) == 0)
    return fault(error, private_key);
  if (line.len != PUBLIC_SIZE / 3 * 4 || at != end)
    return fault(error, commented
                            ? "after its comment a minisign public key has one line of 56 "
                              "characters, and nothing more"
                            : "it is neither a PEM block nor a minisign public key");
  ok = tr_base64_decode(line.at, line.len, out, &no_memory);
  if (no_memory)
    tr_error_nomem(error);
  else if (!ok)
    fault(error, "it is not base64");
  else if (memcmp(out->data, "Ed", 2) != 0)
    ok = fault(error, "it is not a minisign key for Ed25519");
  return ok;
}

/* -------------------------------------------------------------------- texts */

bool tr_key_text_read(const char *text, size_t size, tr_key_form *form, tr_buffer *out,
                      tr_error *error) {
  static const char begin[] = "-----BEGIN ";
  if (size == 0)
    return fault(error, "it is empty");
  if (size > TR_KEY_TEXT_MAX)
    return fault(error, "it has more than 64 KiB");
  if (memmem(text, size, begin, strlen(begin)) != NULL)
    return read_pem(text, text + size, form, out, error);
  *form = TR_FORM_MINISIGN;
  return read_minisign(text, text + size, out, error);
}
