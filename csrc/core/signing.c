/* Signs blobs with a private key in PEM. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "signing.h"

#include <mbedtls/base64.h>
#include <mbedtls/ecp.h>
#include <mbedtls/pk.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/version.h>
#include <stdlib.h>
#include <string.h>

#include "crypto.h"
#include "error.h"
#include "key_text.h"
#include "private_key.h"

static bool is_p256(const mbedtls_pk_context *pk, tr_error *error) {
  mbedtls_pk_type_t type = mbedtls_pk_get_type(pk);
  if (type == MBEDTLS_PK_ECKEY &&
      mbedtls_pk_ec(*pk)->grp.id == MBEDTLS_ECP_DP_SECP256R1)
    return true;
  tr_error_set(error, TR_SYNTAX,
               "cannot sign with this key: it is %s; signing needs an EC P-256 key",
               type == MBEDTLS_PK_ECKEY ? "an EC key on another curve"
               : type == MBEDTLS_PK_RSA ? "an RSA key"
                                        : "a key of another type");
  return false;
}

/* Wipe what mbedTLS left of the key on the stack: its own functions do not. */
static __attribute__((noinline)) void wipe_stack(void) {
  unsigned char below[64 * 1024];
  mbedtls_platform_zeroize(below, sizeof below);
}

static int make_signature(mbedtls_pk_context *pk, const unsigned char digest[32],
                          unsigned char *raw, size_t room, size_t *len) {
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
  return mbedtls_pk_sign(pk, MBEDTLS_MD_SHA256, digest, 32, raw, room, len,
                         tr_mbedtls_random, NULL);
#else
  (void)room; /* it has MBEDTLS_PK_SIGNATURE_MAX_SIZE bytes, as this call needs */
  return mbedtls_pk_sign(pk, MBEDTLS_MD_SHA256, digest, 32, raw, len,
                         tr_mbedtls_random, NULL);
#endif
}

static bool sign_with(mbedtls_pk_context *pk, tr_blob *blob,
                      char text[TR_SIGNATURE_TEXT], tr_error *error) {
  unsigned char digest[32], raw[MBEDTLS_PK_SIGNATURE_MAX_SIZE];
  char hex[TR_HEX_MAX];
  size_t len = 0;
  tr_blob_sha256(blob, hex);
  tr_hex_decode(hex, digest);
  if (make_signature(pk, digest, raw, sizeof raw, &len) != 0 ||
      mbedtls_base64_encode((unsigned char *)text, TR_SIGNATURE_TEXT - 1, &len, raw,
                            len) != 0) {
    tr_error_set(error, TR_IO, "cannot sign: mbedTLS failed, or the system has no random "
                               "bytes");
    return false;
  }
  /* cosign, as all of Go's base64, skips line ends. */
  memcpy(text + len, "\n", 2);
  return true;
}

bool tr_sign(tr_blob *blob, const void *pem, size_t size, const char *password,
             size_t password_len, char text[TR_SIGNATURE_TEXT],
             tr_password_fault *fault, tr_error *error) {
  char *copy = size <= TR_KEY_TEXT_MAX ? malloc(size + 1) : NULL;
  const tr_key_source source = {copy, size, password, password_len};
  mbedtls_pk_context pk;
  bool ok;
  *fault = TR_PASSWORD_FINE;
  if (copy == NULL) {
    if (size <= TR_KEY_TEXT_MAX)
      tr_error_nomem(error);
    else
      tr_error_set(error, TR_SYNTAX, "cannot sign with this key: it has more than 64 KiB");
    return false;
  }
  memcpy(copy, pem, size);
  copy[size] = '\0'; /* mbedTLS tells PEM from DER by it */
  mbedtls_pk_init(&pk);
  ok = tr_private_key_read(&pk, &source, fault, error) && is_p256(&pk, error) &&
       sign_with(&pk, blob, text, error);
  mbedtls_pk_free(&pk);
  mbedtls_platform_zeroize(copy, size + 1);
  free(copy);
  wipe_stack();
  return ok;
}
