/* Signatures by minisign: four lines, of which the third is signed by the fourth. */
#include <string.h>

#include "ed25519.h"
#include "encoding.h"
#include "signed_bytes.h"

static const char trusted_prefix[] = "trusted comment: ";

typedef struct minisig {
  unsigned char raw[74]; /* "Ed" or "ED", the key's id, the signature */
  unsigned char global[TR_ED25519_SIGNATURE_SIZE];
  tr_line comment; /* the trusted one, without its prefix */
} minisig;

static bool read_document(const char *text, size_t size, minisig *sig,
                          tr_error *error) {
  const char *at = text, *end = text + size;
  tr_line signature, global;
  size_t prefix = strlen(trusted_prefix);
  tr_take_line(&at, end); /* anybody may change the untrusted comment */
  signature = tr_take_line(&at, end);
  sig->comment = tr_take_line(&at, end);
  global = tr_take_line(&at, end);
  if (at != end)
    return TR_DISTRUST(error, "it is a minisign signature with something behind its end");
  if (sig->comment.len < prefix || memcmp(sig->comment.at, trusted_prefix, prefix) != 0)
    return TR_DISTRUST(error, "it is a minisign signature without its trusted comment");
  sig->comment.at += prefix;
  sig->comment.len -= prefix;
  if (!tr_base64_decode_exactly(signature.at, signature.len, sig->raw, sizeof sig->raw) ||
      !tr_base64_decode_exactly(global.at, global.len, sig->global, sizeof sig->global))
    return TR_DISTRUST(error, "it is a damaged minisign signature");
  if (memcmp(sig->raw, "Ed", 2) != 0 && memcmp(sig->raw, "ED", 2) != 0)
    return TR_DISTRUST(error, "it is a minisign signature of an unknown algorithm");
  return true;
}

/* Return the key at a place in the requirement if it has the signature's id, or NULL. */
static const unsigned char *named_key(const tr_requirement *requirement, int index,
                                      const minisig *sig) {
  const unsigned char *key, *id;
  if (tr_public_key_type(requirement->keys[index]) != TR_KEY_MINISIGN)
    return NULL;
  key = tr_public_key_ed25519(requirement->keys[index], &id);
  return memcmp(id, sig->raw + 2, 8) == 0 ? key : NULL;
}

/* The id as minisign prints it: the last byte first. */
static bool unknown_key(const unsigned char *id, tr_error *error) {
  return TR_DISTRUST(error,
                     "it was made with the minisign key "
                     "%02X%02X%02X%02X%02X%02X%02X%02X, which is not trusted",
                     id[7], id[6], id[5], id[4], id[3], id[2], id[1], id[0]);
}

/* Check the signature of the bytes, or of their BLAKE2b. */
static bool check_bytes(const tr_signed_bytes *bytes, const minisig *sig,
                        const unsigned char *key, tr_error *error) {
  unsigned char hash[TR_BLAKE2B_SIZE];
  const void *data = tr_blob_data(bytes->blob);
  size_t size = tr_blob_size(bytes->blob);
  bool no_memory;
  if (sig->raw[1] == 'D') {
    if (!tr_blake2b(data, size, hash))
      return tr_out_of_memory(error);
    data = hash;
    size = sizeof hash;
  }
  if (tr_ed25519_verify(key, sig->raw + 10, data, size, &no_memory))
    return true;
  return no_memory ? tr_out_of_memory(error)
                   : TR_DISTRUST(error, "it is a signature of other bytes or by another key");
}

/* Check the signature of the trusted comment together with the first one. */
static bool check_comment(const minisig *sig, const unsigned char *key,
                          tr_error *error) {
  tr_buffer both = {0};
  bool ok, no_memory;
  if (!tr_buffer_append(&both, sig->raw + 10, TR_ED25519_SIGNATURE_SIZE) ||
      !tr_buffer_append(&both, sig->comment.at, sig->comment.len)) {
    tr_buffer_free(&both);
    return tr_out_of_memory(error);
  }
  ok = tr_ed25519_verify(key, sig->global, both.data, both.len, &no_memory);
  tr_buffer_free(&both);
  if (!ok && no_memory)
    return tr_out_of_memory(error);
  return ok || TR_DISTRUST(error, "it is a minisign signature whose trusted comment was "
                                  "changed");
}

bool tr_minisign_check(const tr_signed_bytes *bytes, const char *text, size_t size,
                       tr_key_set *signers, tr_error *error) {
  const unsigned char *key;
  minisig sig;
  int i;
  if (!read_document(text, size, &sig, error))
    return false;
  if (!tr_requirement_has(bytes->requirement, TR_KEY_MINISIGN))
    return TR_DISTRUST(error, "it is a minisign signature, and no minisign key is trusted");
  unknown_key(sig.raw + 2, error);
  for (i = 0; i < bytes->requirement->count; i++) {
    key = named_key(bytes->requirement, i, &sig);
    if (key == NULL)
      continue;
    if (!tr_ed25519_open(error))
      return false;
    if (check_bytes(bytes, &sig, key, error) && check_comment(&sig, key, error))
      *signers |= (tr_key_set)1 << i;
  }
  return *signers != 0;
}
