/* Recognises the format of a signature, and reads those of one line. */
#include "signature.h"

#include <string.h>

#include "blob.h"
#include "crypto.h"
#include "encoding.h"
#include "signed_bytes.h"

/* The longest signature: by an RSA key of 8,192 bits. */
enum { MAX_RAW = 1024 };

static bool begins(const char *text, size_t size, const char *with) {
  return size >= strlen(with) && memcmp(text, with, strlen(with)) == 0;
}

/* A signature of cosign sign-blob, or made by openssl and base64: base64 on one line. */
static bool check_line(const tr_signed_bytes *bytes, const char *text, size_t size,
                       tr_key_set *signers, tr_error *error) {
  tr_buffer raw = {0};
  bool no_memory = false, ok;
  if (size > 0 && text[size - 1] == '\n')
    size--;
  if (size == 0 || size > MAX_RAW / 3 * 4 + 4 ||
      !tr_base64_decode(text, size, &raw, &no_memory)) {
    tr_buffer_free(&raw);
    return no_memory ? tr_out_of_memory(error)
                     : TR_DISTRUST(error, "it is not a signature: neither base64 in one "
                                          "line (base64 -w0), nor a sigstore bundle, nor "
                                          "a minisign signature");
  }
  ok = tr_requirement_check(bytes->requirement, bytes->digest, raw.data, raw.len,
                            signers);
  tr_buffer_free(&raw);
  if (!ok)
    return tr_out_of_memory(error);
  if (*signers != 0)
    return true;
  if (!tr_requirement_has(bytes->requirement, TR_KEY_ECDSA_P256) &&
      !tr_requirement_has(bytes->requirement, TR_KEY_RSA))
    return TR_DISTRUST(error, "it is not a minisign signature, and only minisign keys "
                              "are trusted");
  return TR_DISTRUST(error, "it is a signature of other bytes or by another key");
}

/* Refuse what people take for a signature of ours; true if it is nothing of the kind. */
static bool is_no_other_format(const char *text, size_t size, tr_error *error) {
  if (size == 0)
    return TR_DISTRUST(error, "it is empty");
  if (begins(text, size, "-----BEGIN PGP ") || begins(text, size, "-----BEGIN SSH "))
    return TR_DISTRUST(error, "it is a signature of PGP or SSH, which are not supported");
  if (begins(text, size, "-----BEGIN "))
    return TR_DISTRUST(error, "it is a PEM block, not a signature");
  if ((unsigned char)text[0] == 0x30 && size > 8 && (unsigned char)text[1] == size - 2)
    return TR_DISTRUST(error, "it is a binary signature; it must be in base64 "
                              "(base64 -w0 FILE)");
  return true;
}

bool tr_signature_check(const tr_requirement *requirement, tr_blob *blob,
                        const void *document, size_t size, tr_key_set *signers,
                        tr_error *error) {
  tr_signed_bytes bytes = {.requirement = requirement, .blob = blob};
  const char *text = document;
  *signers = 0;
  if (size > TR_SIGNATURE_MAX)
    return TR_DISTRUST(error, "it has more than 1 MiB");
  if (!is_no_other_format(text, size, error))
    return false;
  tr_blob_sha256(blob, bytes.sha256);
  tr_hex_decode(bytes.sha256, bytes.digest);
  if (begins(text, size, "untrusted comment:"))
    return tr_minisign_check(&bytes, text, size, signers, error);
  if (strchr("{ \t\r\n", text[0]) != NULL && text[0] != '\0')
    return tr_bundle_check(&bytes, text, size, signers, error);
  return check_line(&bytes, text, size, signers, error);
}
