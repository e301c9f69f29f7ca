/*
** The cache: references to blobs for the whole process.
**
** 'entries' holds what is cached, 'flights' what is being loaded. One lock
** guards both; nothing blocks under it. What threads share without the lock
** is an entry's 'live' flag, which is how a Lua state's own handle learns
** that the cache has moved on. Eviction is SIEVE: a ring in order of
** arrival, a hand that walks it, and a visited bit that spares an entry once.
*/
#include "cache.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "table.h"

/* An entry as the cache sees it. */
typedef struct slot {
  tr_entry entry; /* first: an entry's address is its slot's */
  atomic_size_t refs;
  tr_node node;
  struct slot *older, *newer;
  char key[];
} slot;

/* A load under way, from its claim to its result. */
typedef struct flight {
  tr_node node;
  tr_cache *cache;
  tr_future *future; /* held */
  bool listed;       /* in 'flights', so that others may wait for it */
  bool wanted;       /* its result is to be kept; not after a removal */
  struct flight *prev, *next;
  char key[];
} flight;

struct tr_cache {
  pthread_mutex_t lock;
  atomic_size_t refs;
  tr_cache_options options;
  tr_table entries, flights;
  flight *loading; /* every flight, listed or not */
  slot *oldest, *newest, *hand;
  size_t bytes;
  tr_cache_stats stats;
  tr_hit_counter *counters;
  tr_cache *prev, *next; /* all caches of the process */
  char *name;            /* or NULL */
};

/* Every cache of the process: named ones are found here, and fork() locks
** them all. Taken before any cache's own lock. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static tr_cache *registry;

static void on_result(void *context, tr_state state, tr_blob *blob);

/* ------------------------------------------------------------- entries */

tr_entry *tr_entry_retain(tr_entry *entry) {
  slot *s = (slot *)entry;
  atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
  return entry;
}

void tr_entry_release(tr_entry *entry) {
  slot *s = (slot *)entry;
  if (s == NULL ||
      atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
    return;
  tr_blob_release(entry->blob);
  free(s);
}

static slot *slot_new(const char *key, size_t len, uint64_t hash,
                      tr_blob *blob, double ttl) {
  slot *s = malloc(sizeof *s + len);
  if (s == NULL)
    return NULL;
  atomic_init(&s->entry.live, true);
  atomic_init(&s->entry.visited, false);
  s->entry.expires = tr_deadline(ttl);
  s->entry.blob = tr_blob_retain(blob);
  atomic_init(&s->refs, 1);
  memcpy(s->key, key, len);
  s->node = (tr_node){.hash = hash, .key = s->key, .len = len};
  return s;
}

static slot *slot_of(tr_node *node) {
  return node == NULL ? NULL
                      : (slot *)((char *)node - offsetof(slot, node));
}

static flight *flight_of(tr_node *node) {
  return node == NULL ? NULL
                      : (flight *)((char *)node - offsetof(flight, node));
}

/* What a slot counts for against 'max_bytes'. */
static size_t weight(const slot *s) {
  return tr_blob_size(s->entry.blob) + sizeof *s + s->node.len;
}

/* Takes a slot out of the cache. The caller then releases it, unlocked:
** freeing 8 MiB under the lock would make everybody wait for it. */
static void unlink_slot(tr_cache *cache, slot *s) {
  atomic_store_explicit(&s->entry.live, false, memory_order_release);
  tr_table_remove(&cache->entries, &s->node);
  if (cache->hand == s)
    cache->hand = s->newer;
  *(s->older != NULL ? &s->older->newer : &cache->oldest) = s->newer;
  *(s->newer != NULL ? &s->newer->older : &cache->newest) = s->older;
  cache->bytes -= weight(s);
}

/* Moves an unlinked slot onto a list of those to release. */
static void push_dead(slot **dead, slot *s) {
  s->older = *dead;
  *dead = s;
}

static void release_dead(slot *dead) {
  while (dead != NULL) {
    slot *next = dead->older;
    tr_entry_release(&dead->entry);
    dead = next;
  }
}

/* One step of SIEVE: unlinks the first slot from the hand on that nobody
** asked for since the hand last passed. */
static slot *evict_one(tr_cache *cache) {
  slot *s = cache->hand != NULL ? cache->hand : cache->oldest;
  while (atomic_exchange_explicit(&s->entry.visited, false,
                                  memory_order_relaxed))
    s = s->newer != NULL ? s->newer : cache->oldest;
  cache->hand = s->newer;
  unlink_slot(cache, s);
  cache->stats.evictions++;
  return s;
}

static bool too_full(const tr_cache *cache, size_t more) {
  const tr_cache_options *o = &cache->options;
  return (o->max_bytes > 0 && cache->bytes + more > o->max_bytes) ||
         (o->max_entries > 0 && cache->entries.count + 1 > o->max_entries);
}

/* Puts a slot in, under the lock; what gives way goes to 'dead'. */
static void insert(tr_cache *cache, slot *s, slot **dead) {
  slot *old = slot_of(tr_table_find(&cache->entries, s->node.hash,
                                    s->node.key, s->node.len));
  if (old != NULL) {
    unlink_slot(cache, old);
    push_dead(dead, old);
  }
  if (cache->options.max_bytes > 0 && weight(s) > cache->options.max_bytes) {
    push_dead(dead, s); /* larger than the whole cache: passes through */
    return;
  }
  while (cache->entries.count > 0 && too_full(cache, weight(s)))
    push_dead(dead, evict_one(cache));
  tr_table_add(&cache->entries, &s->node);
  s->older = cache->newest;
  s->newer = NULL;
  *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = s;
  cache->newest = s;
  cache->bytes += weight(s);
}

/* ------------------------------------------------------- opening, closing */

static void lock_all(void) {
  tr_cache *cache;
  pthread_mutex_lock(&registry_lock);
  for (cache = registry; cache != NULL; cache = cache->next)
    pthread_mutex_lock(&cache->lock);
}

static void unlock_all(void) {
  tr_cache *cache;
  for (cache = registry; cache != NULL; cache = cache->next)
    pthread_mutex_unlock(&cache->lock);
  pthread_mutex_unlock(&registry_lock);
}

/* Makes a flight's result not kept, and its key free to be loaded anew. */
static void disown(tr_cache *cache, flight *f) {
  if (f->listed)
    tr_table_remove(&cache->flights, &f->node);
  f->listed = false;
  f->wanted = false;
}

/* In a child the threads that were loading are gone, and their futures are
** abandoned already: the next to ask leads. The flights stay unfreed, since
** a thread that is gone may have been at work on them. */
static void in_child(void) {
  tr_cache *cache;
  flight *f;
  for (cache = registry; cache != NULL; cache = cache->next) {
    for (f = cache->loading; f != NULL; f = f->next)
      disown(cache, f);
    cache->loading = NULL;
  }
  unlock_all();
}

static void at_fork(void) {
  tr_future_prepare_fork();
  pthread_atfork(lock_all, unlock_all, in_child);
}

static tr_cache *cache_new(const char *name,
                           const tr_cache_options *options) {
  tr_cache *cache = calloc(1, sizeof *cache);
  if (cache == NULL)
    return NULL;
  cache->options = *options;
  atomic_init(&cache->refs, 1);
  if (!tr_table_init(&cache->entries) || !tr_table_init(&cache->flights) ||
      (name != NULL && (cache->name = strdup(name)) == NULL)) {
    tr_table_free(&cache->entries);
    tr_table_free(&cache->flights);
    free(cache);
    return NULL;
  }
  pthread_mutex_init(&cache->lock, NULL);
  cache->next = registry;
  if (registry != NULL)
    registry->prev = cache;
  registry = cache;
  return cache;
}

static bool same_options(const tr_cache *cache, const tr_cache_options *want,
                         tr_error *error) {
  const tr_cache_options *have = &cache->options;
  if (have->max_bytes == want->max_bytes &&
      have->max_entries == want->max_entries &&
      have->no_coalesce == want->no_coalesce &&
      (have->ttl == want->ttl || (have->ttl < 0 && want->ttl < 0)))
    return true;
  tr_error_set(error, TR_IO,
               "the cache '%s' is open with max_bytes = %zu, max_entries = "
               "%zu, ttl = %g, coalesce = %s; asked for max_bytes = %zu, "
               "max_entries = %zu, ttl = %g, coalesce = %s (below 0: for "
               "ever; open it with the same options everywhere)",
               cache->name, have->max_bytes, have->max_entries, have->ttl,
               have->no_coalesce ? "false" : "true", want->max_bytes,
               want->max_entries, want->ttl,
               want->no_coalesce ? "false" : "true");
  return false;
}

tr_cache *tr_cache_open(const char *name, const tr_cache_options *options,
                        tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_cache *cache = NULL;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&registry_lock);
  if (name != NULL)
    for (cache = registry; cache != NULL; cache = cache->next)
      if (cache->name != NULL && strcmp(cache->name, name) == 0)
        break;
  if (cache == NULL) {
    cache = cache_new(name, options);
    if (cache == NULL)
      tr_error_nomem(error);
    else if (name != NULL) /* the registry's own: a named cache stays */
      tr_cache_retain(cache);
  } else if (same_options(cache, options, error)) {
    tr_cache_retain(cache);
  } else {
    cache = NULL;
  }
  pthread_mutex_unlock(&registry_lock);
  return cache;
}

tr_cache *tr_cache_retain(tr_cache *cache) {
  atomic_fetch_add_explicit(&cache->refs, 1, memory_order_relaxed);
  return cache;
}

void tr_cache_release(tr_cache *cache) {
  slot *s, *next;
  if (cache == NULL ||
      atomic_fetch_sub_explicit(&cache->refs, 1, memory_order_acq_rel) != 1)
    return;
  pthread_mutex_lock(&registry_lock);
  *(cache->prev != NULL ? &cache->prev->next : &registry) = cache->next;
  if (cache->next != NULL)
    cache->next->prev = cache->prev;
  pthread_mutex_unlock(&registry_lock);
  for (s = cache->oldest; s != NULL; s = next) {
    next = s->newer;
    atomic_store_explicit(&s->entry.live, false, memory_order_release);
    tr_entry_release(&s->entry);
  }
  tr_table_free(&cache->entries);
  tr_table_free(&cache->flights);
  pthread_mutex_destroy(&cache->lock);
  free(cache->name);
  free(cache);
}

/* ------------------------------------------------------------- claiming */

/* The fresh slot under a key, or NULL; a stale one goes to 'dead'. */
static slot *find_fresh(tr_cache *cache, uint64_t hash, const char *key,
                        size_t len, slot **dead) {
  slot *s = slot_of(tr_table_find(&cache->entries, hash, key, len));
  if (s == NULL || tr_entry_fresh(&s->entry))
    return s;
  unlink_slot(cache, s);
  push_dead(dead, s);
  return NULL;
}

tr_entry *tr_cache_find(tr_cache *cache, const char *key, size_t len) {
  uint64_t hash = tr_table_hash(key, len);
  slot *s, *dead = NULL;
  pthread_mutex_lock(&cache->lock);
  s = find_fresh(cache, hash, key, len, &dead);
  if (s != NULL) {
    tr_entry_retain(&s->entry);
    cache->stats.hits++;
  }
  pthread_mutex_unlock(&cache->lock);
  release_dead(dead);
  return s == NULL ? NULL : &s->entry;
}

tr_blob *tr_cache_get(tr_cache *cache, const char *key, size_t len) {
  tr_entry *entry = tr_cache_find(cache, key, len);
  tr_blob *blob;
  if (entry == NULL)
    return NULL;
  blob = tr_blob_retain(entry->blob);
  tr_entry_release(entry);
  return blob;
}

static flight *flight_new(tr_cache *cache, const char *key, size_t len,
                          uint64_t hash) {
  flight *f = malloc(sizeof *f + len);
  if (f == NULL)
    return NULL;
  memcpy(f->key, key, len);
  f->node = (tr_node){.hash = hash, .key = f->key, .len = len};
  f->cache = cache;
  f->listed = false;
  f->wanted = true;
  f->prev = NULL;
  f->future = tr_future_new(on_result, f);
  if (f->future == NULL) {
    free(f);
    return NULL;
  }
  return f;
}

/* Registers a new flight, under the lock. */
static void take_off(tr_cache *cache, flight *f) {
  f->next = cache->loading;
  if (f->next != NULL)
    f->next->prev = f;
  cache->loading = f;
  f->listed = !cache->options.no_coalesce;
  if (f->listed)
    tr_table_add(&cache->flights, &f->node);
  tr_future_hold(f->future);
  tr_cache_retain(cache);
}

/* Takes a flight off the books, under the lock. */
static void land(tr_cache *cache, flight *f) {
  if (f->listed)
    tr_table_remove(&cache->flights, &f->node);
  *(f->prev != NULL ? &f->prev->next : &cache->loading) = f->next;
  if (f->next != NULL)
    f->next->prev = f->prev;
}

tr_claim tr_cache_claim_entry(tr_cache *cache, const char *key, size_t len,
                              tr_entry **entry, tr_future **future) {
  uint64_t hash = tr_table_hash(key, len);
  slot *s, *dead = NULL;
  flight *f;
  tr_claim claim = TR_NOMEM;
  pthread_mutex_lock(&cache->lock);
  s = find_fresh(cache, hash, key, len, &dead);
  f = s != NULL ? NULL
                : flight_of(tr_table_find(&cache->flights, hash, key, len));
  if (s != NULL) {
    *entry = tr_entry_retain(&s->entry);
    cache->stats.hits++;
    claim = TR_HIT;
  } else if (f != NULL) {
    *future = tr_future_retain(f->future);
    cache->stats.coalesced++;
    claim = TR_WAIT;
  } else if ((f = flight_new(cache, key, len, hash)) != NULL) {
    *future = f->future;
    take_off(cache, f);
    cache->stats.misses++;
    claim = TR_LEAD;
  }
  pthread_mutex_unlock(&cache->lock);
  release_dead(dead);
  return claim;
}

tr_claim tr_cache_claim(tr_cache *cache, const char *key, size_t len,
                        tr_claimed *out) {
  tr_entry *entry = NULL;
  tr_claim claim;
  *out = (tr_claimed){0};
  claim = tr_cache_claim_entry(cache, key, len, &entry, &out->future);
  if (entry != NULL) {
    out->blob = tr_blob_retain(entry->blob);
    tr_entry_release(entry);
  }
  return claim;
}

/* A flight's result: the blob goes in before anybody who waits is told. */
static void on_result(void *context, tr_state state, tr_blob *blob) {
  flight *f = context;
  tr_cache *cache = f->cache;
  slot *dead = NULL;
  slot *s = blob == NULL ? NULL
                         : slot_new(f->key, f->node.len, f->node.hash, blob,
                                    cache->options.ttl);
  pthread_mutex_lock(&cache->lock);
  land(cache, f);
  if (s != NULL && f->wanted)
    insert(cache, s, &dead);
  else if (s != NULL)
    push_dead(&dead, s);
  if (state == TR_READY)
    cache->stats.loads++;
  else if (state == TR_FAILED)
    cache->stats.errors++;
  pthread_mutex_unlock(&cache->lock);
  release_dead(dead);
  tr_future_drop(f->future);
  free(f);
  tr_cache_release(cache);
}

/* --------------------------------------------------------- housekeeping */

static bool same_key(const flight *f, uint64_t hash, const char *key,
                     size_t len) {
  return f->node.hash == hash && f->node.len == len &&
         memcmp(f->key, key, len) == 0;
}

bool tr_cache_remove(tr_cache *cache, const char *key, size_t len) {
  uint64_t hash = tr_table_hash(key, len);
  slot *s;
  flight *f;
  pthread_mutex_lock(&cache->lock);
  s = slot_of(tr_table_find(&cache->entries, hash, key, len));
  if (s != NULL)
    unlink_slot(cache, s);
  for (f = cache->loading; f != NULL; f = f->next)
    if (same_key(f, hash, key, len))
      disown(cache, f);
  pthread_mutex_unlock(&cache->lock);
  if (s != NULL)
    tr_entry_release(&s->entry);
  return s != NULL;
}

void tr_cache_clear(tr_cache *cache) {
  slot *dead = NULL;
  flight *f;
  pthread_mutex_lock(&cache->lock);
  while (cache->oldest != NULL) {
    slot *s = cache->oldest;
    unlink_slot(cache, s);
    push_dead(&dead, s);
  }
  for (f = cache->loading; f != NULL; f = f->next)
    disown(cache, f);
  pthread_mutex_unlock(&cache->lock);
  release_dead(dead);
}

size_t tr_cache_len(tr_cache *cache) {
  size_t count;
  pthread_mutex_lock(&cache->lock);
  count = cache->entries.count;
  pthread_mutex_unlock(&cache->lock);
  return count;
}

void tr_cache_get_stats(tr_cache *cache, tr_cache_stats *stats) {
  tr_hit_counter *counter;
  pthread_mutex_lock(&cache->lock);
  *stats = cache->stats;
  for (counter = cache->counters; counter != NULL; counter = counter->next)
    stats->hits += atomic_load_explicit(&counter->hits, memory_order_relaxed);
  stats->entries = cache->entries.count;
  stats->bytes = cache->bytes;
  pthread_mutex_unlock(&cache->lock);
}

void tr_cache_attach(tr_cache *cache, tr_hit_counter *counter) {
  atomic_init(&counter->hits, 0);
  counter->prev = NULL;
  pthread_mutex_lock(&cache->lock);
  counter->next = cache->counters;
  if (counter->next != NULL)
    counter->next->prev = counter;
  cache->counters = counter;
  pthread_mutex_unlock(&cache->lock);
}

void tr_cache_detach(tr_cache *cache, tr_hit_counter *counter) {
  pthread_mutex_lock(&cache->lock);
  cache->stats.hits +=
      atomic_load_explicit(&counter->hits, memory_order_relaxed);
  *(counter->prev != NULL ? &counter->prev->next : &cache->counters) =
      counter->next;
  if (counter->next != NULL)
    counter->next->prev = counter->prev;
  pthread_mutex_unlock(&cache->lock);
}
