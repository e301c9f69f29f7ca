/*
** A cache's slots. SIEVE keeps the evictable ones in a ring in order of
** arrival; a hand walks it from the oldest on and evicts the first that
** nobody asked for since it last passed. Kept slots are in a second ring,
** which is never evicted from.
*/
#include "cache_entries.h"

#include <stdlib.h>
#include <string.h>

enum {
  FAILURE_WEIGHT = 4096 /* a promise, with its error's text */
};

/* --------------------------------------------------------------- slots */

tr_entry *tr_entry_retain(tr_entry *entry) {
  tr_slot *s = (tr_slot *)entry;
  atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
  return entry;
}

bool tr_entry_expired(const tr_entry *entry) {
  return tr_now() >= entry->expires;
}

void tr_entry_release(tr_entry *entry) {
  tr_slot *s = (tr_slot *)entry;
  if (s == NULL ||
      atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
    return;
  tr_blob_release(entry->blob);
  tr_record_release(entry->record);
  if (s->failure != NULL)
    tr_promise_release(s->failure);
  if (s->recent_failure != NULL)
    tr_promise_release(s->recent_failure);
  free(s);
}

tr_slot *tr_slot_new(const tr_key *key, tr_blob *blob, tr_promise *failure,
                     tr_record *record, double expires) {
  tr_slot *s = malloc(sizeof *s + key->len);
  if (s == NULL)
    return NULL;
  memset(s, 0, sizeof *s);
  atomic_init(&s->entry.live, true);
  atomic_init(&s->entry.visited, false);
  s->entry.expires = expires;
  s->stored = tr_now();
  s->entry.traits = (unsigned char)tr_record_traits(record);
  s->entry.blob = blob != NULL ? tr_blob_retain(blob) : NULL;
  s->entry.record = record != NULL ? tr_record_retain(record) : NULL;
  s->failure = failure != NULL ? tr_promise_retain(failure) : NULL;
  atomic_init(&s->refs, 1);
  if (key->len > 0)
    memcpy(s->key, key->text, key->len);
  tr_item_set_key(&s->item, key, s->key);
  return s;
}

void tr_deferred_release(tr_deferred *deferred) {
  tr_slot *s, *next;
  for (s = deferred->first; s != NULL; s = next) {
    next = s->older;
    tr_entry_release(&s->entry);
  }
}

static void defer_free(tr_deferred *deferred, tr_slot *s) {
  s->older = deferred->first;
  deferred->first = s;
}

/* The weight of a slot against 'max_bytes'. */
static size_t weight(const tr_slot *s) {
  return sizeof *s + s->item.node.len +
         (s->entry.blob != NULL ? tr_blob_size(s->entry.blob) : 0) +
         (s->failure != NULL ? (size_t)FAILURE_WEIGHT : 0) +
         (s->entry.record != NULL ? tr_record_size(s->entry.record) : 0);
}

/* --------------------------------------------------------------- rings */

static void ring_add(tr_ring *ring, tr_slot *s) {
  s->older = ring->newest;
  s->newer = NULL;
  *(ring->newest != NULL ? &ring->newest->newer : &ring->oldest) = s;
  ring->newest = s;
}

static void ring_remove(tr_ring *ring, tr_slot *s) {
  *(s->older != NULL ? &s->older->newer : &ring->oldest) = s->newer;
  *(s->newer != NULL ? &s->newer->older : &ring->newest) = s->older;
}

static void enter_ring(tr_entries *e, tr_slot *s) {
  ring_add(s->kept ? &e->kept : &e->evictable, s);
  if (s->kept) {
    e->kept_bytes += weight(s);
    e->kept_slots++;
  }
}

static void leave_ring(tr_entries *e, tr_slot *s) {
  if (e->hand == s)
    e->hand = s->newer;
  ring_remove(s->kept ? &e->kept : &e->evictable, s);
  if (s->kept) {
    e->kept_bytes -= weight(s);
    e->kept_slots--;
  }
}

static void evict_one(tr_entries *e, tr_deferred *deferred) {
  tr_slot *s = e->hand != NULL ? e->hand : e->evictable.oldest;
  while (
      atomic_exchange_explicit(&s->entry.visited, false, memory_order_relaxed))
    s = s->newer != NULL ? s->newer : e->evictable.oldest;
  e->hand = s;
  tr_entries_remove(e, s, deferred);
  e->evictions++;
}

/* ------------------------------------------------------------- entries */

static tr_slot *slot_of(tr_item *item) {
  return item == NULL ? NULL
                      : (tr_slot *)((char *)item - offsetof(tr_slot, item));
}

tr_slot *tr_entries_find(const tr_entries *e, const tr_key *key) {
  return slot_of(tr_index_find(&e->index, key));
}

tr_slot *tr_entries_first(const tr_entries *e, const tr_key *key) {
  return slot_of(tr_index_first(&e->index, key));
}

tr_slot *tr_entries_next(const tr_slot *s) { return slot_of(s->item.next); }

tr_slot *tr_entries_follow(const tr_entries *e, tr_slot *s) {
  tr_key key;
  if (!tr_slot_is_alias(s))
    return s->entry.blob != NULL ? s : NULL;
  key = tr_key_of(s->entry.record->content.at, s->entry.record->content.len);
  s = tr_entries_find(e, &key);
  return s != NULL && s->entry.blob != NULL ? s : NULL;
}

void tr_entries_remove(tr_entries *e, tr_slot *s, tr_deferred *deferred) {
  atomic_store_explicit(&s->entry.live, false, memory_order_release);
  tr_index_remove(&e->index, &s->item);
  leave_ring(e, s);
  e->bytes -= weight(s);
  e->blobs -= s->entry.blob != NULL;
  defer_free(deferred, s);
}

void tr_entries_clear(tr_entries *e, tr_deferred *deferred) {
  while (e->evictable.oldest != NULL)
    tr_entries_remove(e, e->evictable.oldest, deferred);
  while (e->kept.oldest != NULL)
    tr_entries_remove(e, e->kept.oldest, deferred);
}

/* True if so many bytes and slots are within the bounds. */
static bool fits(const tr_entries *e, size_t bytes, size_t slots) {
  return (e->max_bytes == 0 || bytes <= e->max_bytes) &&
         (e->max_entries == 0 || slots <= e->max_entries);
}

void tr_entries_trim(tr_entries *e, tr_deferred *deferred) {
  while (e->evictable.oldest != NULL &&
         !fits(e, e->bytes, e->index.keys.count))
    evict_one(e, deferred);
}

void tr_entries_insert(tr_entries *e, tr_slot *s, tr_deferred *deferred) {
  const tr_key key = tr_item_key(&s->item);
  tr_slot *old = tr_entries_find(e, &key);
  if (old != NULL) {
    s->kept |= old->kept;
    tr_entries_remove(e, old, deferred);
  }
  if (!fits(e, e->kept_bytes + weight(s), e->kept_slots + 1)) {
    defer_free(deferred, s);
    return;
  }
  while (!fits(e, e->bytes + weight(s), e->index.keys.count + 1))
    evict_one(e, deferred);
  s->entry.limited = s->item.limits != 0;
  tr_index_add(&e->index, &s->item);
  enter_ring(e, s);
  e->bytes += weight(s);
  e->blobs += s->entry.blob != NULL;
}

/* Give a kept alias the bytes of its content. Nobody reads the blob of an alias
** without the lock. */
static void hold_bytes(tr_entries *e, tr_slot *s) {
  tr_slot *content = tr_entries_follow(e, s);
  size_t size = content != NULL ? tr_blob_size(content->entry.blob) : 0;
  if (content == NULL || !fits(e, e->kept_bytes + weight(s) + size, 1))
    return;
  s->entry.blob = tr_blob_retain(content->entry.blob);
  e->bytes += size;
  e->blobs++;
}

void tr_entries_keep(tr_entries *e, tr_slot *s, bool kept) {
  leave_ring(e, s);
  s->kept = kept;
  if (kept && tr_slot_is_alias(s))
    hold_bytes(e, s);
  enter_ring(e, s);
}
