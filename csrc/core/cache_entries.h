/*
** The content of a cache: a bounded index of slots, with eviction by SIEVE. The
** cache's lock is held around every call.
*/
#ifndef TR_CACHE_ENTRIES_H
#define TR_CACHE_ENTRIES_H

#include <math.h>
#include <stdatomic.h>

#include "future.h"
#include "table.h"

/* One cached blob under one key. A replacement is a new entry. */
typedef struct tr_entry {
  atomic_bool live;    /* false once evicted, removed, replaced or refreshed */
  atomic_bool visited; /* asked for since the eviction hand last passed */
  double expires;      /* a tr_now() moment; infinity: never */
  tr_blob *blob;       /* NULL in a slot that remembers a failure */
} tr_entry;

/* True if the entry may still be served. Marks it as used. Lock-free. */
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

/* An entry as the cache sees it. */
typedef struct tr_slot {
  tr_entry entry; /* first: an entry's address is its slot's */
  atomic_size_t refs;
  tr_node node;
  struct tr_slot *older, *newer; /* neighbours in its ring */
  tr_promise *failure;           /* retained; only without a blob */
  double retry_at; /* not loaded anew in the background before this */
  bool kept;
  const char *etag, *last_modified; /* empty: none */
  const char *url, *unsigned_url;   /* as in tr_freshness */
  size_t text_len;
  char text[]; /* the key and the validators */
} tr_slot;

/* A ring of slots in order of arrival. */
typedef struct tr_ring {
  tr_slot *oldest, *newest;
} tr_ring;

typedef struct tr_entries {
  tr_table index;
  tr_ring evictable, kept;
  tr_slot *hand;
  size_t max_bytes, max_entries; /* 0: no bound */
  size_t bytes, blobs;           /* 'blobs' are the slots that hold one */
  uint64_t evictions;
} tr_entries;

/* Slots removed under the lock, to be released after it: freeing 8 MiB under
** it would make everybody wait. */
typedef struct tr_deferred {
  tr_slot *first;
} tr_deferred;

void tr_deferred_release(tr_deferred *deferred);

/* A slot with one reference: for a blob, or else for a failed promise, of
** which it takes a hold. NULL when memory is short. */
tr_slot *tr_slot_new(const tr_node *node, tr_blob *blob, tr_promise *failure,
                     const tr_freshness *freshness, double expires);

tr_slot *tr_entries_find(const tr_entries *entries, uint64_t hash,
                         const char *key, size_t len);
/* Takes over the slot's reference. A slot that replaces a kept one is
** kept. One larger than the bounds allow goes straight to 'deferred'. */
void tr_entries_insert(tr_entries *entries, tr_slot *slot,
                       tr_deferred *deferred);
void tr_entries_remove(tr_entries *entries, tr_slot *slot,
                       tr_deferred *deferred);
void tr_entries_clear(tr_entries *entries, tr_deferred *deferred);
void tr_entries_keep(tr_entries *entries, tr_slot *slot, bool kept);

#endif
