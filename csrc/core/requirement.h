/* Requirements on signatures: keys, and how many of them must have signed. */
#ifndef TR_REQUIREMENT_H
#define TR_REQUIREMENT_H

#include "public_key.h"

enum { TR_MAX_KEYS = 16 };

/*
** A set of keys is a mask of bits: bit 0 is the distinct key whose fingerprint is the
** first in order. So two requirements with one id agree on it, however their keys were
** listed.
*/
typedef uint32_t tr_key_set;

typedef struct tr_requirement {
  int count;                          /* of distinct keys */
  int threshold;                      /* how many of them must have signed */
  tr_public_key *keys[TR_MAX_KEYS];   /* by fingerprint */
  int given[TR_MAX_KEYS];             /* the place of each in the list, from 0 */
  char id[TR_HEX_MAX];                /* of the fingerprints and the threshold */
} tr_requirement;

/*
** Make a requirement of 'count' keys, which it retains; keys that are given twice count
** once. False with the error, of kind TR_POLICY, if no number of signatures could ever
** meet it, or if none were needed.
*/
bool tr_requirement_init(tr_requirement *requirement, tr_public_key *const *keys,
                         size_t count, long long threshold, tr_error *error);
/* Release the keys. A requirement of zero bytes has none. */
void tr_requirement_free(tr_requirement *requirement);

/* Add to '*signers' the keys by which 'signature' signs the bytes with this SHA-256.
** False when memory is short. */
bool tr_requirement_check(const tr_requirement *requirement,
                          const unsigned char sha256[32], const void *signature,
                          size_t size, tr_key_set *signers);

/* Return true if it has a key of a type. */
bool tr_requirement_has(const tr_requirement *requirement, tr_key_type type);

#endif
