/* Changes to a cache other than loads: removing, accepting, keeping. */
#include <string.h>

#include "cache_registry.h"

/* A change at work: the lock is held. */
typedef struct change {
  tr_cache *cache;
  tr_key key;
  tr_deferred deferred;
} change;

static void begin(change *c, tr_cache *cache, const char *key, size_t len) {
  *c = (change){.cache = cache, .key = tr_key_of(key, len)};
  pthread_mutex_lock(&cache->lock);
}

static void end(change *c) {
  pthread_mutex_unlock(&c->cache->lock);
  tr_deferred_release(&c->deferred);
}

/* Detach the flights of a reference: their results are not stored. */
static void disown_flights(change *c) {
  tr_item *item = tr_index_first(&c->cache->flights, &c->key), *next;
  for (; item != NULL; item = next) {
    next = item->next;
    tr_flight_disown(c->cache, tr_flight_of(item));
  }
}

bool tr_cache_remove(tr_cache *cache, const char *key, size_t len) {
  change c;
  tr_slot *s, *next;
  bool there = false;
  begin(&c, cache, key, len);
  cache->changes++;
  for (s = tr_entries_first(&cache->entries, &c.key); s != NULL; s = next) {
    next = tr_entries_next(s);
    there |= s->failure == NULL;
    tr_entries_remove(&cache->entries, s, &c.deferred);
  }
  disown_flights(&c);
  end(&c);
  return there;
}

/* Return the slot, or the next one of its reference, that has exactly this key, whatever its
** limits. */
static tr_slot *same_key(const change *c, tr_slot *s) {
  while (s != NULL && (s->item.node.len != c->key.len ||
                       memcmp(s->item.node.key, c->key.text, c->key.len) != 0))
    s = tr_entries_next(s);
  return s;
}

static tr_slot *first_of(const change *c) {
  return same_key(c, tr_entries_first(&c->cache->entries, &c->key));
}

static tr_slot *next_of(const change *c, tr_slot *s) {
  return same_key(c, tr_entries_next(s));
}

void tr_cache_accept(tr_cache *cache, const char *key, size_t len) {
  change c;
  tr_slot *s, *bytes;
  begin(&c, cache, key, len);
  for (s = first_of(&c); s != NULL; s = next_of(&c, s)) {
    bytes = tr_entries_follow(&cache->entries, s);
    s->provisional = false;
    if (bytes != NULL)
      bytes->provisional = false;
  }
  end(&c);
}

bool tr_cache_reject(tr_cache *cache, const char *key, size_t len,
                     const tr_blob *blob) {
  change c;
  tr_slot *s, *next, *bytes;
  bool removed = false;
  begin(&c, cache, key, len);
  for (s = first_of(&c); s != NULL; s = next) {
    next = next_of(&c, s);
    bytes = tr_entries_follow(&cache->entries, s);
    if (bytes == NULL || bytes->entry.blob != blob || !s->provisional)
      continue;
    if (bytes != s && bytes->provisional)
      tr_entries_remove(&cache->entries, bytes, &c.deferred);
    tr_entries_remove(&cache->entries, s, &c.deferred);
    removed = true;
  }
  cache->changes += removed;
  end(&c);
  return removed;
}

void tr_cache_drop(tr_cache *cache, const char *key, size_t len, bool others) {
  change c;
  tr_slot *s, *next;
  begin(&c, cache, key, len);
  for (s = tr_entries_first(&cache->entries, &c.key); s != NULL; s = next) {
    next = tr_entries_next(s);
    if ((same_key(&c, s) == s) != others)
      tr_entries_remove(&cache->entries, s, &c.deferred);
  }
  end(&c);
}

/* Return a copy of a slot with other bytes, as fresh, kept and accepted as it is. NULL:
** memory is short. */
static tr_slot *copy_with(const tr_slot *s, tr_blob *blob) {
  tr_key key = tr_item_key(&s->item);
  tr_slot *copy = tr_slot_new(&key, blob, NULL, s->entry.record, s->entry.expires);
  if (copy != NULL) {
    copy->kept = s->kept;
    copy->provisional = s->provisional;
    copy->retry_at = s->retry_at;
  }
  return copy;
}

void tr_cache_swap(tr_cache *cache, const char *key, size_t len, const tr_blob *old,
                   tr_blob *blob) {
  change c;
  tr_slot *s, *next, *bytes, *copy;
  begin(&c, cache, key, len);
  for (s = first_of(&c); s != NULL; s = next) {
    next = next_of(&c, s);
    bytes = tr_entries_follow(&cache->entries, s);
    copy = bytes != NULL && bytes->entry.blob == old &&
                   atomic_load_explicit(&bytes->entry.live, memory_order_relaxed)
               ? copy_with(bytes, blob)
               : NULL;
    if (copy != NULL)
      tr_entries_insert(&cache->entries, copy, &c.deferred);
  }
  end(&c);
}

/* Return a copy of a slot that is stale from now on. NULL: memory is short. */
static tr_slot *stale_copy(const tr_slot *s, double now) {
  tr_key key = tr_item_key(&s->item);
  tr_slot *copy =
      tr_slot_new(&key, s->entry.blob, NULL, s->entry.record, now);
  if (copy == NULL)
    return NULL;
  /* Not live, as the old one: every Lua state sees that. */
  atomic_store_explicit(&copy->entry.live, false, memory_order_relaxed);
  copy->provisional = s->provisional;
  return copy;
}

bool tr_cache_refresh(tr_cache *cache, const char *key, size_t len) {
  change c;
  tr_slot *s, *next, *copy;
  bool there = false;
  begin(&c, cache, key, len);
  cache->changes++;
  for (s = tr_entries_first(&cache->entries, &c.key); s != NULL; s = next) {
    next = tr_entries_next(s);
    copy = s->failure == NULL ? stale_copy(s, tr_now()) : NULL;
    there |= s->failure == NULL;
    if (copy != NULL) /* it takes the place of the old one, and no other's */
      tr_entries_insert(&cache->entries, copy, &c.deferred);
    else
      tr_entries_remove(&cache->entries, s, &c.deferred);
  }
  disown_flights(&c); /* they may have begun before the change */
  end(&c);
  return there;
}

bool tr_cache_keep(tr_cache *cache, const char *key, size_t len, bool kept) {
  change c;
  tr_slot *s = NULL;
  bool there = false;
  begin(&c, cache, key, len);
  for (s = tr_entries_first(&cache->entries, &c.key); s != NULL;
       s = tr_entries_next(s))
    if (s->failure == NULL) {
      tr_entries_keep(&cache->entries, s, kept);
      there = true;
    }
  tr_entries_trim(&cache->entries, &c.deferred);
  end(&c);
  return there;
}

void tr_cache_clear(tr_cache *cache) {
  tr_deferred deferred = {NULL};
  tr_flight *f;
  pthread_mutex_lock(&cache->lock);
  cache->changes++;
  tr_entries_clear(&cache->entries, &deferred);
  for (f = cache->loading; f != NULL; f = f->next)
    tr_flight_disown(cache, f);
  pthread_mutex_unlock(&cache->lock);
  tr_deferred_release(&deferred);
}

size_t tr_cache_len(tr_cache *cache) {
  size_t count;
  pthread_mutex_lock(&cache->lock);
  count = cache->entries.blobs;
  pthread_mutex_unlock(&cache->lock);
  return count;
}

uint64_t tr_cache_changes(tr_cache *cache) {
  uint64_t changes;
  pthread_mutex_lock(&cache->lock);
  changes = cache->changes;
  pthread_mutex_unlock(&cache->lock);
  return changes;
}
