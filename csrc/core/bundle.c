/*
** Sigstore bundles, version 0.3, made with a key. A bundle's signature is one of the bytes
** themselves, or of a statement about their digest (DSSE, in-toto). Its names and types
** follow sigstore's protobuf-specs. Everything about transparency logs is ignored: the
** trusted key alone decides.
*/
#include <stdio.h>
#include <string.h>

#include "crypto.h"
#include "encoding.h"
#include "signed_bytes.h"
#include "signed_json.h"

enum { MAX_SIGNATURES = 8, MAX_RAW = 1024 };

static const char other_bytes[] = "it is a signature of other bytes or by another key";

/* ------------------------------------------------------------------ reading */

/* Decode a string of base64 that has to be there, and is not empty. */
static bool read_base64(const char *what, const tr_json_value *value, tr_buffer *out,
                        tr_error *error) {
  tr_buffer text = {0};
  bool no_memory = false, ok = false;
  if (!tr_json_has(value))
    return TR_DISTRUST(error, "it is a sigstore bundle without '%s'", what);
  if (!tr_json_value_decode(value, &text))
    no_memory = true;
  else
    ok = text.len > 0 && tr_base64_decode(text.data, text.len, out, &no_memory);
  tr_buffer_free(&text);
  if (no_memory)
    return tr_out_of_memory(error);
  return ok || TR_DISTRUST(error, "the bundle's '%s' is not valid base64", what);
}

/* ---------------------------------------------------------- messageSignature */

/* Check that the digest in the bundle is the bytes'. A verifier that looks at the digest
** alone must come to the same result. */
static bool check_digest(const tr_signed_bytes *bytes, const tr_json_value *object,
                         tr_error *error) {
  tr_json_member members[] = {{.name = "algorithm", .type = TR_JSON_STRING},
                              {.name = "digest", .type = TR_JSON_STRING}};
  tr_buffer raw = {0};
  bool equal;
  if (!tr_json_has(object))
    return TR_DISTRUST(error, "it is a sigstore bundle without 'messageDigest'");
  if (!tr_signed_object("the bundle's digest", object, TR_NAMES_PROTOBUF, members, 2, NULL,
                   error))
    return false;
  if (!tr_signed_text(&members[0].value, "SHA2_256"))
    return TR_DISTRUST(error, "the bundle's digest is not of SHA2_256");
  if (!read_base64("digest", &members[1].value, &raw, error)) {
    tr_buffer_free(&raw);
    return false;
  }
  equal = raw.len == 32 && memcmp(raw.data, bytes->digest, 32) == 0;
  tr_buffer_free(&raw);
  return equal || TR_DISTRUST(error, "it is a signature of other bytes");
}

static bool check_message(const tr_signed_bytes *bytes, const tr_json_value *object,
                          tr_key_set *signers, tr_error *error) {
  tr_json_member members[] = {{.name = "messageDigest", .type = TR_JSON_OPEN_OBJECT},
                              {.name = "signature", .type = TR_JSON_STRING}};
  tr_buffer raw = {0};
  bool ok = tr_signed_object("the bundle's messageSignature", object, TR_NAMES_PROTOBUF,
                        members, 2, NULL, error) &&
            check_digest(bytes, &members[0].value, error) &&
            read_base64("signature", &members[1].value, &raw, error);
  if (ok && raw.len <= MAX_RAW &&
      !tr_requirement_check(bytes->requirement, bytes->digest, raw.data, raw.len,
                            signers))
    ok = tr_out_of_memory(error);
  tr_buffer_free(&raw);
  return ok && (*signers != 0 || TR_DISTRUST(error, "%s", other_bytes));
}

/* ------------------------------------------------------------ the statement */

/* Check that the one subject is the bytes, by one digest: with several, each reader could
** look at another. */
static bool check_subject(const tr_signed_bytes *bytes, const tr_json_value *subjects,
                          tr_error *error) {
  tr_json_member members[] = {{.name = "digest", .type = TR_JSON_OPEN_OBJECT}};
  tr_json_member digests[] = {{.name = "sha256", .type = TR_JSON_STRING}};
  tr_json_value subject = {.token = {.type = TR_JSON_ERROR}};
  size_t count = 0;
  if (!tr_json_has(subjects) || !tr_json_read_items(subjects, &subject, 1, &count) ||
      count != 1)
    return TR_DISTRUST(error, "its statement has %zu subjects instead of one", count);
  if (!tr_signed_object("its statement's subject", &subject, TR_NAMES_EXACT, members, 1, NULL,
                   error))
    return false;
  if (!tr_json_has(&members[0].value))
    return TR_DISTRUST(error, "its statement's subject has no digest");
  if (!tr_signed_object("its subject's digest", &members[0].value, TR_NAMES_EXACT, digests, 1,
                   &count, error))
    return false;
  if (count != 1 || !tr_json_has(&digests[0].value))
    return TR_DISTRUST(error, "its statement's subject must have one digest, sha256");
  return tr_signed_text(&digests[0].value, bytes->sha256) ||
         TR_DISTRUST(error, "it is a signature of other bytes");
}

/* Check the statement, whose signature was good. */
static bool check_statement(const tr_signed_bytes *bytes, const tr_buffer *payload,
                            tr_error *error) {
  tr_json_member members[] = {{.name = "_type", .type = TR_JSON_STRING},
                              {.name = "predicateType", .type = TR_JSON_STRING},
                              {.name = "subject", .type = TR_JSON_OPEN_ARRAY}};
  const tr_json_value statement = {.token = {.text = payload->data, .len = payload->len}};
  if (!tr_signed_object("its statement", &statement, TR_NAMES_EXACT, members, 3, NULL, error))
    return false;
  if (!tr_signed_text(&members[0].value, "https://in-toto.io/Statement/v1") &&
      !tr_signed_text(&members[0].value, "https://in-toto.io/Statement/v0.1"))
    return TR_DISTRUST(error, "its statement is not of in-toto, version 1 or 0.1");
  if (!tr_signed_text(&members[1].value, "https://sigstore.dev/cosign/sign/v1"))
    return TR_DISTRUST(error, "it is an attestation, such as SLSA's, which says "
                              "something about the bytes; that does not make it a "
                              "signature of them");
  return check_subject(bytes, &members[2].value, error);
}

/* ------------------------------------------------------------- dsseEnvelope */

static const char payload_type[] = "application/vnd.in-toto+json";

/* Write the SHA-256 of what a DSSE signature signs: the type and payload with their
** lengths. */
static bool hash_envelope(const tr_buffer *payload, unsigned char digest[32],
                          tr_error *error) {
  char head[96], hex[TR_HEX_MAX];
  tr_hash *hash = tr_hash_new(TR_SHA256);
  int len = snprintf(head, sizeof head, "DSSEv1 %zu %s %zu ", strlen(payload_type),
                     payload_type, payload->len);
  if (hash == NULL)
    return tr_out_of_memory(error);
  tr_hash_update(hash, head, (size_t)len);
  tr_hash_update(hash, payload->data, payload->len);
  tr_hash_finish(hash, hex);
  tr_hash_free(hash);
  tr_hex_decode(hex, digest);
  return true;
}

static bool check_one(const tr_signed_bytes *bytes, const tr_json_value *signature,
                      const unsigned char digest[32], tr_key_set *signers,
                      tr_error *error) {
  /* A keyid is a hint from somebody who is not trusted yet: it is not read. */
  tr_json_member members[] = {{.name = "sig", .type = TR_JSON_STRING}};
  tr_buffer raw = {0};
  bool ok = tr_signed_object("the bundle's signature", signature, TR_NAMES_PROTOBUF, members, 1,
                        NULL, error) &&
            read_base64("sig", &members[0].value, &raw, error);
  if (ok && raw.len <= MAX_RAW &&
      !tr_requirement_check(bytes->requirement, digest, raw.data, raw.len, signers))
    ok = tr_out_of_memory(error);
  tr_buffer_free(&raw);
  return ok;
}

static bool check_payload(const tr_signed_bytes *bytes, const tr_buffer *payload,
                          const tr_json_value *list, tr_key_set *signers,
                          tr_error *error) {
  tr_json_value signatures[MAX_SIGNATURES];
  unsigned char digest[32];
  size_t count = 0, i;
  if (!tr_json_has(list) ||
      !tr_json_read_items(list, signatures, MAX_SIGNATURES, &count) || count == 0 ||
      count > MAX_SIGNATURES)
    return TR_DISTRUST(error, "it is a bundle of %zu signatures; 1 to %d are read", count,
                       MAX_SIGNATURES);
  if (!hash_envelope(payload, digest, error))
    return false;
  for (i = 0; i < count; i++)
    if (!check_one(bytes, signatures + i, digest, signers, error))
      return false;
  if (*signers == 0)
    return TR_DISTRUST(error, "%s", other_bytes);
  return check_statement(bytes, payload, error);
}

static bool check_envelope(const tr_signed_bytes *bytes, const tr_json_value *object,
                           tr_key_set *signers, tr_error *error) {
  tr_json_member members[] = {{.name = "payloadType", .type = TR_JSON_STRING},
                              {.name = "payload", .type = TR_JSON_STRING},
                              {.name = "signatures", .type = TR_JSON_OPEN_ARRAY}};
  tr_buffer payload = {0};
  bool ok;
  if (!tr_signed_object("the bundle's dsseEnvelope", object, TR_NAMES_PROTOBUF, members, 3,
                   NULL, error))
    return false;
  if (!tr_signed_text(&members[0].value, payload_type))
    return TR_DISTRUST(error, "the type of its payload is not %s", payload_type);
  ok = read_base64("payload", &members[1].value, &payload, error) &&
       check_payload(bytes, &payload, &members[2].value, signers, error);
  tr_buffer_free(&payload);
  return ok;
}

/* --------------------------------------------------------------- the bundle */

/* Check that the bundle was made with a key, not with a certificate. */
static bool check_material(const tr_json_value *object, tr_error *error) {
  tr_json_member members[] = {
      {.name = "publicKey", .type = TR_JSON_OPEN_OBJECT},
      {.name = "certificate", .type = TR_JSON_OPEN_OBJECT},
      {.name = "x509CertificateChain", .type = TR_JSON_OPEN_OBJECT}};
  if (!tr_json_has(object))
    return TR_DISTRUST(error, "it is a sigstore bundle without 'verificationMaterial'");
  if (!tr_signed_object("the bundle's verificationMaterial", object, TR_NAMES_PROTOBUF, members,
                   3, NULL, error))
    return false;
  if (tr_json_has(&members[1].value) || tr_json_has(&members[2].value))
    return TR_DISTRUST(error, "it is a keyless signature, by a certificate, which is not "
                              "supported; sign with a key");
  return tr_json_has(&members[0].value) ||
         TR_DISTRUST(error, "it is a sigstore bundle without 'publicKey'");
}

bool tr_bundle_check(const tr_signed_bytes *bytes, const char *text, size_t size,
                     tr_key_set *signers, tr_error *error) {
  enum { TYPE, MATERIAL, MESSAGE, ENVELOPE };
  tr_json_member members[] = {
      {.name = "mediaType", .type = TR_JSON_STRING},
      {.name = "verificationMaterial", .type = TR_JSON_OPEN_OBJECT},
      {.name = "messageSignature", .type = TR_JSON_OPEN_OBJECT},
      {.name = "dsseEnvelope", .type = TR_JSON_OPEN_OBJECT}};
  const tr_json_value bundle = {.token = {.text = text, .len = size}};
  bool ok;
  if (!tr_signed_object("the bundle", &bundle, TR_NAMES_PROTOBUF, members, 4, NULL, error))
    return false;
  if (!tr_signed_text(&members[TYPE].value, "application/vnd.dev.sigstore.bundle.v0.3+json") &&
      !tr_signed_text(&members[TYPE].value,
               "application/vnd.dev.sigstore.bundle+json;version=0.3"))
    return TR_DISTRUST(error, "it is not a sigstore bundle of version 0.3 (cosign "
                              "writes one with --new-bundle-format)");
  if (!check_material(&members[MATERIAL].value, error))
    return false;
  if (tr_json_has(&members[MESSAGE].value) == tr_json_has(&members[ENVELOPE].value))
    return TR_DISTRUST(error, "it is a sigstore bundle with %s",
                       tr_json_has(&members[MESSAGE].value)
                           ? "both 'messageSignature' and 'dsseEnvelope'"
                           : "neither 'messageSignature' nor 'dsseEnvelope'");
  ok = tr_json_has(&members[MESSAGE].value)
           ? check_message(bytes, &members[MESSAGE].value, signers, error)
           : check_envelope(bytes, &members[ENVELOPE].value, signers, error);
  if (!ok)
    *signers = 0;
  return ok;
}
