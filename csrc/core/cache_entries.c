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

void tr_entry_release(tr_entry *entry) {
  tr_slot *s = (tr_slot *)entry;
  if (s == NULL ||
      atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
    return;
  tr_blob_release(entry->blob);
  if (s->failure != NULL)
    tr_promise_release(s->failure);
  free(s);
}

/* Copy a string to '*at', which moves on past it; return the copy. */
static const char *keep_text(char **at, const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = memcpy(*at, text, size);
  *at += size;
  return copy;
}

tr_slot *tr_slot_new(const tr_node *node, tr_blob *blob, tr_promise *failure,
                     const tr_freshness *f, double expires) {
  size_t text_len = node->len + strlen(f->etag) + strlen(f->last_modified) +
                    strlen(f->url) + strlen(f->unsigned_url) + 4;
  tr_slot *s = malloc(sizeof *s + text_len);
  char *at;
  if (s == NULL)
    return NULL;
  memset(s, 0, sizeof *s);
  atomic_init(&s->entry.live, true);
  atomic_init(&s->entry.visited, false);
  s->entry.expires = expires;
  s->entry.blob = blob != NULL ? tr_blob_retain(blob) : NULL;
  s->failure = failure != NULL ? tr_promise_retain(failure) : NULL;
  atomic_init(&s->refs, 1);
  memcpy(s->text, node->key, node->len);
  s->text_len = text_len;
  s->node = (tr_node){.hash = node->hash, .key = s->text, .len = node->len};
  at = s->text + node->len;
  s->etag = keep_text(&at, f->etag);
  s->last_modified = keep_text(&at, f->last_modified);
  s->url = keep_text(&at, f->url);
  s->unsigned_url = keep_text(&at, f->unsigned_url);
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
  size_t bytes = s->entry.blob != NULL ? tr_blob_size(s->entry.blob)
                                       : (size_t)FAILURE_WEIGHT;
  return bytes + sizeof *s + s->text_len;
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

static void leave_ring(tr_entries *e, tr_slot *s) {
  if (e->hand == s)
    e->hand = s->newer;
  ring_remove(s->kept ? &e->kept : &e->evictable, s);
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

tr_slot *tr_entries_find(const tr_entries *e, uint64_t hash, const char *key,
                         size_t len) {
  tr_node *node = tr_table_find(&e->index, hash, key, len);
  return node == NULL ? NULL
                      : (tr_slot *)((char *)node - offsetof(tr_slot, node));
}

void tr_entries_remove(tr_entries *e, tr_slot *s, tr_deferred *deferred) {
  atomic_store_explicit(&s->entry.live, false, memory_order_release);
  tr_table_remove(&e->index, &s->node);
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

static bool fits(const tr_entries *e, size_t more) {
  return (e->max_bytes == 0 ||
          (more <= e->max_bytes && e->bytes <= e->max_bytes - more)) &&
         (e->max_entries == 0 || e->index.count < e->max_entries);
}

void tr_entries_insert(tr_entries *e, tr_slot *s, tr_deferred *deferred) {
  tr_slot *old = tr_entries_find(e, s->node.hash, s->node.key, s->node.len);
  if (old != NULL) {
    s->kept = old->kept;
    tr_entries_remove(e, old, deferred);
  }
  if (e->max_bytes == 0 || weight(s) <= e->max_bytes)
    while (e->evictable.oldest != NULL && !fits(e, weight(s)))
      evict_one(e, deferred);
  if (!fits(e, weight(s))) {
    defer_free(deferred, s);
    return;
  }
  tr_table_add(&e->index, &s->node);
  ring_add(s->kept ? &e->kept : &e->evictable, s);
  e->bytes += weight(s);
  e->blobs += s->entry.blob != NULL;
}

void tr_entries_keep(tr_entries *e, tr_slot *s, bool kept) {
  leave_ring(e, s);
  s->kept = kept;
  ring_add(kept ? &e->kept : &e->evictable, s);
}
