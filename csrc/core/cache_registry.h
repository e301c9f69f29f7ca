/*
** A cache and its loads, for the files that work on them: cache_claim.c answers
** claims, cache_change.c changes what is there, cache_load.c begins loads and stores results, cache_registry.c opens,
** closes and counts.
*/
#ifndef TR_CACHE_REGISTRY_H
#define TR_CACHE_REGISTRY_H

#include <pthread.h>

#include "cache.h"

/* A load under way, from its claim to its result. */
typedef struct tr_flight {
  tr_item item; /* with the limits of the claim */
  tr_cache *cache;
  tr_promise *promise; /* retained */
  tr_entry *stale;     /* what it is to replace, retained; or NULL */
  tr_blob *stale_blob; /* the bytes of 'stale', retained; or NULL */
  tr_key key;          /* without limits */
  unsigned forbidden; /* traits, by the limits */
  tr_bytes content;   /* the key of the content, if the claim named one */
  double ttl;
  double keep_failure; /* as in tr_load */
  bool listed; /* in 'flights', so that others may find it */
  bool wanted; /* its result is to be kept; not after a removal */
  bool respect_no_store; /* as in tr_load */
  bool provisional; /* so are all claims that lead it or wait for it */
  struct tr_flight *prev, *next;
  char text[]; /* of the key, and the content's */
} tr_flight;

struct tr_cache {
  pthread_mutex_t lock;
  atomic_size_t refs;
  tr_cache_options options;
  tr_entries entries;
  tr_index flights;
  tr_flight *loading; /* every flight, listed or not */
  uint64_t changes;   /* how often anything was removed, refreshed or cleared */
  uint64_t stats[TR_STAT_COUNT]; /* those that are counted here */
  tr_cache_handle *handles;
  tr_consumer *consumers;
  tr_cache *prev, *next; /* all caches of the process */
  char *name, *disk;     /* or NULL */
  struct tr_row *row;       /* the totals in which it counts */
  bool closed;           /* no longer found by its name */
};

/* Return the flight that an item belongs to; NULL for NULL. */
static inline tr_flight *tr_flight_of(tr_item *item) {
  return (tr_flight *)item; /* its first member */
}

/* Detach a flight from its key: its result is not stored, and the next claim
** of the key leads. The cache's lock is held. */
void tr_flight_disown(tr_cache *cache, tr_flight *f);

#endif
