/*
** The content of a cache: a bounded index of slots, with eviction by SIEVE. The
** cache's lock is held around every call.
*/
#ifndef TR_CACHE_ENTRIES_H
#define TR_CACHE_ENTRIES_H

#include <math.h>
#include <stdatomic.h>

#include "cache_index.h"
#include "future.h"

/*
** An entry: a blob, an alias or a failure under one key. An alias names the key of
** its content, where the blob is. A replacement is a new entry.
*/
typedef struct tr_entry {
  atomic_bool live;     /* false once evicted, removed, replaced or refreshed */
  atomic_bool visited;  /* asked for since the eviction hand last passed */
  unsigned char traits; /* of the record (tr_record_traits) */
  bool limited;         /* for claims with certain limits; set once it is stored */
  double expires;       /* a tr_now() moment; infinity: never */
  tr_blob *blob;        /* NULL: it is an alias or a failure */
  tr_record *record;    /* or NULL */
} tr_entry;

/* True if an entry's time is over. */
bool tr_entry_expired(const tr_entry *entry);

/* True if the entry may still be served. Marks it as used. Lock-free. */
static inline bool tr_entry_fresh(tr_entry *entry) {
  if (!atomic_load_explicit(&entry->live, memory_order_acquire) ||
      (entry->expires < HUGE_VAL && tr_entry_expired(entry)))
    return false;
  if (!atomic_load_explicit(&entry->visited, memory_order_relaxed))
    atomic_store_explicit(&entry->visited, true, memory_order_relaxed);
  return true;
}

/* True if a request with these limits may have the bytes. Lock-free. */
static inline bool tr_entry_allowed(const tr_entry *entry,
                                    const tr_limits *limits) {
  return (entry->traits & limits->forbidden) == 0 ||
         tr_limits_allow(limits, entry->record);
}

tr_entry *tr_entry_retain(tr_entry *entry);
void tr_entry_release(tr_entry *entry);

/* An entry as the cache sees it. */
typedef struct tr_slot {
  tr_entry entry; /* first: an entry's address is its slot's */
  atomic_size_t refs;
  tr_item item;
  struct tr_slot *older, *newer; /* neighbours in its ring */
  tr_promise *failure;           /* retained; only without a blob */
  tr_promise *recent_failure;    /* retained: to load what has a blob, or NULL */
  double recent_at;              /* the moment of that */
  double recent_until;           /* the moment when that is no answer any more */
  double stored;                 /* the moment when it was loaded or confirmed */
  double retry_at; /* not loaded anew in the background before this */
  bool provisional; /* all who got it may still reject it */
  bool kept;
  char key[];
} tr_slot;

static inline bool tr_slot_is_alias(const tr_slot *s) {
  return s->entry.blob == NULL && s->failure == NULL;
}

/* A ring of slots in order of arrival. */
typedef struct tr_ring {
  tr_slot *oldest, *newest;
} tr_ring;

typedef struct tr_entries {
  tr_index index;
  tr_ring evictable, kept;
  tr_slot *hand;
  size_t max_bytes, max_entries; /* 0: no bound */
  size_t bytes, blobs;           /* 'blobs' are the slots that hold one */
  size_t kept_bytes, kept_slots;
  uint64_t evictions;
} tr_entries;

/* Slots removed under the lock, to be released after it: freeing 8 MiB under
** it would make everybody wait. */
typedef struct tr_deferred {
  tr_slot *first;
} tr_deferred;

void tr_deferred_release(tr_deferred *deferred);

/* A slot with one reference: for a blob, for a failed promise, or with neither
** for an alias of its record's content. Retains all three, each of which may be
** NULL. NULL when memory is short. */
tr_slot *tr_slot_new(const tr_key *key, tr_blob *blob, tr_promise *failure,
                     tr_record *record, double expires);

tr_slot *tr_entries_find(const tr_entries *entries, const tr_key *key);
/* Return the first slot of a key's reference, or NULL. */
tr_slot *tr_entries_first(const tr_entries *entries, const tr_key *key);
/* Return the next one of the same reference, or NULL. */
tr_slot *tr_entries_next(const tr_slot *slot);
/* Return the slot with the bytes of a slot: itself, or that of an alias's content.
** NULL if there are none. */
tr_slot *tr_entries_follow(const tr_entries *entries, tr_slot *slot);

/*
** Takes over the slot's reference, and removes the slot that it replaces; if that
** was kept, it is kept. It becomes the first of its reference. A slot that cannot
** fit next to kept ones goes straight to 'deferred', and evicts nothing.
*/
void tr_entries_insert(tr_entries *entries, tr_slot *slot,
                       tr_deferred *deferred);
void tr_entries_remove(tr_entries *entries, tr_slot *slot,
                       tr_deferred *deferred);
void tr_entries_clear(tr_entries *entries, tr_deferred *deferred);
/* Keep a slot from eviction, or no longer. An alias that is kept holds the bytes of
** its content itself from then on, if there are any and they fit. Call
** tr_entries_trim afterwards. */
void tr_entries_keep(tr_entries *entries, tr_slot *slot, bool kept);
/* Evict what exceeds the bounds. */
void tr_entries_trim(tr_entries *entries, tr_deferred *deferred);

#endif
