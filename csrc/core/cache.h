/*
** The cache's API for the binding, beyond the public one: entries, which a
** Lua state can check for freshness without a lock or a write to memory that
** other threads read; and handles, which count hits by consumer.
*/
#ifndef TR_CACHE_H
#define TR_CACHE_H

#include "cache_entries.h"

/*
** One handle on a cache. It counts its own hits, and nothing else writes that
** counter, so a hit touches no cache line that threads share.
*/
typedef struct tr_cache_handle {
  _Atomic uint64_t hits;
  struct tr_consumer *consumer; /* whose counters its hits go to, or NULL */
  struct tr_cache_handle *prev, *next;
} tr_cache_handle;

/* The counters of one named consumer. */
typedef struct tr_consumer {
  struct tr_consumer *next;
  uint64_t hits, misses, coalesced;
  char name[];
} tr_consumer;

/* The options it was opened with; they live as long as it does. */
const tr_cache_options *tr_cache_get_options(const tr_cache *cache);

/* Attach a handle. 'consumer' may be NULL. False when memory is short. */
bool tr_cache_attach(tr_cache *cache, tr_cache_handle *handle,
                     const char *consumer);
void tr_cache_detach(tr_cache *cache, tr_cache_handle *handle);

static inline void tr_count_hit(tr_cache_handle *handle) {
  uint64_t hits = atomic_load_explicit(&handle->hits, memory_order_relaxed);
  atomic_store_explicit(&handle->hits, hits + 1, memory_order_relaxed);
}

/* Copy the counters of the consumer after 'after' (NULL: of the first) and
** return that consumer, or NULL after the last. A consumer stays until the
** cache is freed. */
const tr_consumer *tr_cache_next_consumer(tr_cache *cache,
                                          const tr_consumer *after,
                                          tr_consumer *counters);

/* A hit: the entry of the key, and the one with the bytes. Both retained. */
typedef struct tr_hit {
  tr_entry *entry;
  tr_entry *content; /* NULL unless 'entry' is an alias */
  bool provisional;  /* the next claim may not be, and has to be noted */
  double stored;     /* the moment when it was loaded or confirmed */
} tr_hit;

static inline tr_blob *tr_hit_blob(const tr_hit *hit) {
  return hit->content != NULL ? hit->content->blob : hit->entry->blob;
}

/* Like tr_cache_get and tr_cache_claim, but a hit is its entries. The limits are
** those of the claim's request; 'provisional' is as in tr_claim_options. */
bool tr_cache_find(tr_cache *cache, tr_cache_handle *handle, const char *key,
                   size_t len, const tr_limits *limits, bool provisional,
                   tr_hit *hit);
tr_claim tr_cache_claim_entry(tr_cache *cache, tr_cache_handle *handle,
                              const char *key, size_t len,
                              const tr_claim_options *options,
                              const tr_limits *limits, tr_hit *hit,
                              tr_future **future);

enum { TR_NAMED_CACHES = 64 }; /* that have totals of their own */

/* The statistics of all caches of the process, also of those that are gone, by name. The first,
** with an empty name, is the sum of those that have no name, or one that cannot be displayed,
** or for which there was no room when they were opened. */
typedef struct tr_cache_totals {
  size_t count;
  char *names[TR_NAMED_CACHES + 1]; /* malloc'ed */
  uint64_t values[TR_NAMED_CACHES + 1][TR_STAT_COUNT];
} tr_cache_totals;

/* Return the totals, or NULL when memory is short. Free them. */
tr_cache_totals *tr_cache_get_totals(void);
void tr_cache_free_totals(tr_cache_totals *totals); /* NULL is allowed */

/* How often entries were removed, refreshed or cleared: a load that began before must
** not be kept elsewhere, such as on disk. */
uint64_t tr_cache_changes(tr_cache *cache);

/* Forget the entry with exactly this key, whatever its limits; with 'others', forget the
** reference's other entries instead. Loads under way go on. */
void tr_cache_drop(tr_cache *cache, const char *key, size_t len, bool others);

/* Put other memory with the same bytes in the place of 'old' where a key leads to that. */
void tr_cache_swap(tr_cache *cache, const char *key, size_t len, const tr_blob *old,
                   tr_blob *blob);

/* Close a cache by name, of which the caller has a reference (tr_cache_close). */
bool tr_cache_close_name(tr_cache *cache);

#endif
