/*
** What the binding needs of the cache beyond the public API: entries, so
** that a Lua state can keep a handle and ask "is this still it?" without
** taking a lock or writing to memory that other threads read.
*/
#ifndef TR_CACHE_H
#define TR_CACHE_H

#include <math.h>
#include <stdatomic.h>

#include "future.h"

/* One cached blob under one key. A replacement is a new entry. */
typedef struct tr_entry {
  atomic_bool live;    /* false once evicted, removed, expired or replaced */
  atomic_bool visited; /* asked for since the eviction hand last passed */
  double expires;      /* a tr_now() moment; infinity: never */
  tr_blob *blob;
} tr_entry;

/* Whether the entry may still be served. Marks it as used. Lock-free. */
static inline bool tr_entry_fresh(tr_entry *entry) {
  if (!atomic_load_explicit(&entry->live, memory_order_acquire))
    return false;
  if (entry->expires < HUGE_VAL && tr_now() >= entry->expires)
    return false;
  if (!atomic_load_explicit(&entry->visited, memory_order_relaxed))
    atomic_store_explicit(&entry->visited, true, memory_order_relaxed);
  return true;
}

tr_entry *tr_entry_retain(tr_entry *entry);
void tr_entry_release(tr_entry *entry);

/* Like tr_cache_get and tr_cache_claim, but a hit is a retained entry. */
tr_entry *tr_cache_find(tr_cache *cache, const char *key, size_t len);
tr_claim tr_cache_claim_entry(tr_cache *cache, const char *key, size_t len,
                              tr_entry **entry, tr_future **future);

/*
** A counter of hits that its owner alone writes; the cache adds all of them
** up for its statistics. This is how a hit costs no shared cache line.
*/
typedef struct tr_hit_counter {
  _Atomic uint64_t hits;
  struct tr_hit_counter *prev, *next;
} tr_hit_counter;

void tr_cache_attach(tr_cache *cache, tr_hit_counter *counter);
/* Folds the count into the cache's own. */
void tr_cache_detach(tr_cache *cache, tr_hit_counter *counter);

static inline void tr_count_hit(tr_hit_counter *counter) {
  uint64_t hits =
      atomic_load_explicit(&counter->hits, memory_order_relaxed);
  atomic_store_explicit(&counter->hits, hits + 1, memory_order_relaxed);
}

#endif
