/* Principals at S3-compatible object stores, and the hosts that may get their signatures. */
#ifndef TR_SIGNER_H
#define TR_SIGNER_H

#include <stdatomic.h>

#include "url.h"

enum { TR_REGION_MAX = 64 };

/* Strings are copied. */
typedef struct tr_signer_options {
  const char *endpoint; /* "https://host[:port]" */
  const char *region;   /* such as "us-east-1" */
  const char *service;  /* NULL: "s3" */
  const char *bucket;   /* NULL: none */
  const char *access_key_id, *secret_access_key; /* NULL: anonymous */
  const char *session_token;                     /* or NULL */
} tr_signer_options;

/* The last key that was derived from a secret. Only who sets 'busy' reads or writes the rest;
** whoever finds it set derives the key again, so that nobody waits. */
typedef struct tr_signer_key {
  atomic_flag busy;
  char day[9], region[TR_REGION_MAX];
  unsigned char bytes[32];
} tr_signer_key;

/* One principal at one endpoint. Immutable but for 'key'; any thread. */
typedef struct tr_signer {
  tr_url endpoint; /* its origin */
  char *place;     /* "<origin>/<bucket>": what is learnt about a bucket has this name */
  char *region, *service;
  char *access_key_id, *secret_access_key, *session_token; /* or NULL */
  tr_signer_key key;
  atomic_size_t refs;
} tr_signer;

/* NULL with the error. */
tr_signer *tr_signer_new(const tr_signer_options *options, tr_error *error);
tr_signer *tr_signer_retain(tr_signer *signer);
void tr_signer_release(tr_signer *signer); /* NULL is allowed */

/* True if a URL is in the endpoint's own domain, and as secure: only there do signatures and
** session tokens go. */
bool tr_signer_covers(const tr_signer *signer, const tr_url *url);

/* True for the name of a region: short, and fit for a host name and a header. */
bool tr_region_valid(const char *region);

/* Return the same URL with another region in its host, if it is one of Amazon's: malloc'ed.
** NULL: it is not, or memory is short. */
char *tr_signer_move(const tr_url *url, const char *from, const char *to);

#endif
