/* Requirements: sets of distinct keys with a threshold. */
#include "requirement.h"

#include <stdio.h>
#include <string.h>

#include "error.h"

/* Add a key at its place by fingerprint, unless it is there. */
static void add_key(tr_requirement *requirement, tr_public_key *key, int given) {
  int at = requirement->count, order = 1;
  while (at > 0 && (order = strcmp(tr_public_key_fingerprint(requirement->keys[at - 1]),
                                   tr_public_key_fingerprint(key))) > 0)
    at--;
  if (at > 0 && order == 0)
    return;
  memmove(requirement->keys + at + 1, requirement->keys + at,
          (size_t)(requirement->count - at) * sizeof *requirement->keys);
  memmove(requirement->given + at + 1, requirement->given + at,
          (size_t)(requirement->count - at) * sizeof *requirement->given);
  requirement->keys[at] = tr_public_key_retain(key);
  requirement->given[at] = given;
  requirement->count++;
}

static void make_id(tr_requirement *requirement) {
  char text[(TR_MAX_KEYS + 1) * TR_HEX_MAX];
  int i, len = 0;
  for (i = 0; i < requirement->count; i++)
    len += sprintf(text + len, "%s\n", tr_public_key_fingerprint(requirement->keys[i]));
  len += sprintf(text + len, "%d\n", requirement->threshold);
  tr_digest(TR_SHA256, text, (size_t)len, requirement->id);
}

bool tr_requirement_init(tr_requirement *requirement, tr_public_key *const *keys,
                         size_t count, long long threshold, tr_error *error) {
  size_t i;
  memset(requirement, 0, sizeof *requirement);
  if (count == 0 || count > TR_MAX_KEYS) {
    tr_error_set(error, TR_POLICY,
                 count == 0 ? "no key is trusted: a requirement without keys can never "
                              "be met"
                            : "more than %d keys in one requirement",
                 TR_MAX_KEYS);
    return false;
  }
  for (i = 0; i < count; i++)
    add_key(requirement, keys[i], (int)i);
  if (threshold < 1 || threshold > requirement->count) {
    int distinct = requirement->count;
    tr_requirement_free(requirement);
    if (threshold < 1)
      tr_error_set(error, TR_POLICY, "the threshold is %lld, and must be 1 or more",
                   threshold);
    else
      tr_error_set(error, TR_POLICY,
                   "a threshold of %lld needs as many different keys; %d %s given",
                   threshold, distinct, distinct == 1 ? "was" : "were");
    return false;
  }
  requirement->threshold = (int)threshold;
  make_id(requirement);
  return true;
}

void tr_requirement_free(tr_requirement *requirement) {
  while (requirement->count > 0)
    tr_public_key_release(requirement->keys[--requirement->count]);
}

bool tr_requirement_check(const tr_requirement *requirement,
                          const unsigned char sha256[32], const void *signature,
                          size_t size, tr_key_set *signers) {
  int i;
  for (i = 0; i < requirement->count; i++) {
    tr_key_set bit = (tr_key_set)1 << i;
    if ((*signers & bit) != 0)
      continue; /* it has signed, whatever comes after that */
    switch (tr_public_key_check(requirement->keys[i], sha256, signature, size)) {
    case TR_SIGNED:
      *signers |= bit;
      break;
    case TR_UNCHECKED:
      return false;
    case TR_NOT_SIGNED:
      break;
    }
  }
  return true;
}

bool tr_requirement_has(const tr_requirement *requirement, tr_key_type type) {
  int i;
  for (i = 0; i < requirement->count; i++)
    if (tr_public_key_type(requirement->keys[i]) == type)
      return true;
  return false;
}
