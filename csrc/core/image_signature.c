/*
** A payload is JSON that another program wrote:
**
**     {"critical":{"identity":{"docker-reference":"…"},
**       "image":{"docker-manifest-digest":"sha256:…"},
**       "type":"cosign container image signature"},"optional":null}
**
** Readers of JSON differ about members that are there twice, or in another case. So the
** parts that count have the members above and no others. The reference is a claim that
** nobody checks, cosign included: tools that copy an artifact keep its signatures.
*/
#include "image_signature.h"

#include <string.h>

#include "crypto.h"
#include "encoding.h"
#include "oci_reference.h"
#include "signature.h"
#include "signed_bytes.h"
#include "signed_json.h"

enum { MAX_RAW = 1024 };

/* Read an object of the payload, which has no other members than these. */
static bool read_all(const char *what, const tr_json_value *object,
                     tr_json_member *members, size_t count, tr_error *error) {
  size_t all = 0, known = 0, i;
  if (!tr_signed_object(what, object, TR_NAMES_EXACT, members, count, &all, error))
    return false;
  for (i = 0; i < count; i++)
    known += tr_json_has(&members[i].value) ? 1 : 0;
  return all == known ||
         TR_DISTRUST(error, "%s has members that a signature of cosign does not have",
                     what);
}

static bool read_digest(const tr_json_value *value, char manifest[TR_HEX_MAX],
                        tr_error *error) {
  tr_buffer text = {0};
  bool ok;
  if (!tr_json_has(value))
    return TR_DISTRUST(error, "its payload has no 'docker-manifest-digest'");
  if (!tr_json_value_decode(value, &text)) {
    tr_buffer_free(&text);
    return tr_out_of_memory(error);
  }
  ok = tr_oci_is_digest(text.data, text.len);
  if (ok) {
    memcpy(manifest, text.data + strlen("sha256:"), TR_OCI_DIGEST_HEX);
    manifest[TR_OCI_DIGEST_HEX] = '\0';
  }
  tr_buffer_free(&text);
  return ok || TR_DISTRUST(error, "its payload's digest is not sha256: and 64 lower-case "
                                  "hex digits");
}

/* Read the payload, whose signature was good. */
static bool read_payload(const char *text, size_t size, char manifest[TR_HEX_MAX],
                         tr_error *error) {
  enum { IDENTITY, IMAGE, TYPE };
  tr_json_member top[] = {{.name = "critical", .type = TR_JSON_OPEN_OBJECT},
                          {.name = "optional", .type = TR_JSON_ERROR}};
  tr_json_member critical[] = {{.name = "identity", .type = TR_JSON_OPEN_OBJECT},
                               {.name = "image", .type = TR_JSON_OPEN_OBJECT},
                               {.name = "type", .type = TR_JSON_STRING}};
  tr_json_member image[] = {{.name = "docker-manifest-digest", .type = TR_JSON_STRING}};
  const tr_json_value payload = {.token = {.text = text, .len = size}};
  if (!read_all("its payload", &payload, top, 2, error))
    return false;
  if (!tr_json_has(&top[0].value))
    return TR_DISTRUST(error, "its payload has no 'critical'");
  if (!read_all("its payload's 'critical'", &top[0].value, critical, 3, error))
    return false;
  if (!tr_signed_text(&critical[TYPE].value, "cosign container image signature"))
    return TR_DISTRUST(error, "its payload is not of the type 'cosign container image "
                              "signature'");
  if (!tr_json_has(&critical[IMAGE].value))
    return TR_DISTRUST(error, "its payload has no 'image'");
  return read_all("its payload's 'image'", &critical[IMAGE].value, image, 1, error) &&
         read_digest(&image[0].value, manifest, error);
}

bool tr_image_signature_check(const tr_requirement *requirement, const void *payload,
                              size_t payload_size, const char *signature,
                              size_t signature_size, char manifest[TR_HEX_MAX],
                              tr_key_set *signers, tr_error *error) {
  tr_buffer raw = {0};
  char hex[TR_HEX_MAX];
  unsigned char digest[32];
  bool no_memory = false, ok;
  *signers = 0;
  if (payload_size > TR_SIGNATURE_MAX)
    return TR_DISTRUST(error, "its payload has more than 1 MiB");
  if (signature_size == 0 || signature_size > MAX_RAW / 3 * 4 + 4 ||
      !tr_base64_decode(signature, signature_size, &raw, &no_memory)) {
    tr_buffer_free(&raw);
    return no_memory ? tr_out_of_memory(error)
                     : TR_DISTRUST(error, "its signature is not base64");
  }
  tr_digest(TR_SHA256, payload, payload_size, hex);
  tr_hex_decode(hex, digest);
  ok = tr_requirement_check(requirement, digest, raw.data, raw.len, signers);
  tr_buffer_free(&raw);
  if (!ok)
    return tr_out_of_memory(error);
  if (*signers == 0)
    return TR_DISTRUST(error, "it is a signature by another key, or of another payload");
  ok = read_payload(payload, payload_size, manifest, error);
  if (!ok)
    *signers = 0;
  return ok;
}

bool tr_image_bundle_check(const tr_requirement *requirement, const char *manifest,
                           const char *bundle, size_t size, tr_key_set *signers,
                           tr_error *error) {
  tr_signed_bytes bytes = {.requirement = requirement};
  *signers = 0;
  if (size > TR_SIGNATURE_MAX)
    return TR_DISTRUST(error, "it has more than 1 MiB");
  memcpy(bytes.sha256, manifest, TR_OCI_DIGEST_HEX);
  tr_hex_decode(bytes.sha256, bytes.digest);
  return tr_bundle_check(&bytes, bundle, size, signers, error);
}
