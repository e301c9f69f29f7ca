/* The readers of signature documents; see signature.h. */
#ifndef TR_SIGNED_BYTES_H
#define TR_SIGNED_BYTES_H

#include "blob.h"
#include "error.h"
#include "requirement.h"

/* The bytes that a signature has to be about, and the keys it may be by. */
typedef struct tr_signed_bytes {
  const tr_requirement *requirement;
  tr_blob *blob; /* NULL for a bundle about a manifest, of which the digest is known */
  char sha256[TR_HEX_MAX];
  unsigned char digest[32]; /* the same, raw */
} tr_signed_bytes;

/* Fill an error with the reason why a document counts for nothing; false. */
#define TR_DISTRUST(error, ...)                                            \
  (tr_error_set(error, TR_UNTRUSTED, __VA_ARGS__), false)

static inline bool tr_out_of_memory(tr_error *error) {
  tr_error_nomem(error);
  return false;
}

/* Each adds to '*signers' the keys by which a document of its format signs the bytes, and
** returns false with the error if there are none. */
bool tr_bundle_check(const tr_signed_bytes *bytes, const char *text, size_t size,
                     tr_key_set *signers, tr_error *error);
bool tr_minisign_check(const tr_signed_bytes *bytes, const char *text, size_t size,
                       tr_key_set *signers, tr_error *error);

#endif
