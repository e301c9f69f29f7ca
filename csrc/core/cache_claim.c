/*
** The cache: references to blobs for the whole process.
**
** 'entries' holds what is cached, 'flights' what is being loaded. One lock
** guards both; nothing blocks under it. Threads read one thing without the
** lock: an entry's 'live' flag, which tells a Lua state's own handle that the
** entry was replaced.
**
** A stale entry stays as long as it is good for something: to be served
** while a newer one is loaded, or when that fails, or to ask the server
** whether it has changed.
*/
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache_registry.h"
#include "options.h"
#include "outage.h"

/* Seconds between two attempts to load a stale entry anew in the background
** when the first failed. */
static const double REFRESH_PAUSE = 1;

static tr_flight *flight_of(tr_node *node) {
  return node == NULL ? NULL
                      : (tr_flight *)((char *)node - offsetof(tr_flight, node));
}

/* ------------------------------------------------------------- claiming */

/* A claim at work: the lock is held. */
typedef struct claim {
  tr_cache *cache;
  tr_cache_handle *handle; /* or NULL */
  const char *key;
  size_t len;
  uint64_t hash;
  double ttl;
  double now;
  tr_deferred deferred;
} claim;

static void begin(claim *c, tr_cache *cache, tr_cache_handle *handle,
                  const char *key, size_t len) {
  *c = (claim){.cache = cache,
               .handle = handle,
               .key = key,
               .len = len,
               .hash = tr_table_hash(key, len),
               .now = tr_now(),
               .ttl = cache->options.ttl};
  pthread_mutex_lock(&cache->lock);
}

static void end(claim *c) {
  pthread_mutex_unlock(&c->cache->lock);
  tr_deferred_release(&c->deferred);
}

static bool validated(const tr_slot *s) {
  return s->etag[0] != '\0' || s->last_modified[0] != '\0';
}

/* True if an entry is kept, or can still be served, revalidated or waited
** for. */
static bool useful(const claim *c, tr_slot *s) {
  const tr_cache_options *o = &c->cache->options;
  if (s->failure != NULL) /* of a load that a fork() ended: nobody's answer */
    return c->now < s->entry.expires &&
           tr_promise_status(s->failure) != TR_ABANDONED;
  return s->kept || validated(s) ||
         c->now < s->entry.expires +
                      fmax(o->stale_while_revalidate, o->stale_if_error);
}

/* The slot of a claim's key, or NULL. */
static tr_slot *look_up(claim *c) {
  tr_entries *entries = &c->cache->entries;
  tr_slot *s = tr_entries_find(entries, c->hash, c->key, c->len);
  if (s == NULL || useful(c, s))
    return s;
  tr_entries_remove(entries, s, &c->deferred);
  return NULL;
}

static void count_hit(claim *c) {
  if (c->handle != NULL && c->handle->consumer != NULL)
    c->handle->consumer->hits++;
  c->cache->stats[TR_STAT_HITS]++;
}

tr_entry *tr_cache_find(tr_cache *cache, tr_cache_handle *handle,
                        const char *key, size_t len) {
  claim c;
  tr_slot *s;
  tr_entry *entry = NULL;
  begin(&c, cache, handle, key, len);
  s = look_up(&c);
  if (s != NULL && s->failure == NULL && tr_entry_fresh(&s->entry)) {
    entry = tr_entry_retain(&s->entry);
    count_hit(&c);
  }
  end(&c);
  return entry;
}

tr_blob *tr_cache_get(tr_cache *cache, const char *key, size_t len) {
  tr_entry *entry = tr_cache_find(cache, NULL, key, len);
  tr_blob *blob;
  if (entry == NULL)
    return NULL;
  blob = tr_blob_retain(entry->blob);
  tr_entry_release(entry);
  return blob;
}

static tr_blob *on_result(void *context, const tr_result *result);

static tr_flight *flight_new(const claim *c) {
  tr_flight *f = calloc(1, sizeof *f + c->len);
  if (f == NULL)
    return NULL;
  memcpy(f->key, c->key, c->len);
  f->node = (tr_node){.hash = c->hash, .key = f->key, .len = c->len};
  f->cache = c->cache;
  f->ttl = c->ttl;
  f->wanted = true;
  f->promise = tr_promise_new(on_result, f);
  if (f->promise == NULL) {
    free(f);
    return NULL;
  }
  return f;
}

/* The freshness that a slot remembers. */
static tr_freshness freshness_of(const tr_slot *s) {
  tr_freshness f = {.age = 0};
  strcpy(f.etag, s->etag); /* as long as they were when stored */
  strcpy(f.last_modified, s->last_modified);
  strcpy(f.url, s->url);
  strcpy(f.unsigned_url, s->unsigned_url);
  return f;
}

/* Give the load the bytes that it may find unchanged. */
static void set_known(tr_flight *f, tr_slot *stale) {
  tr_freshness known;
  if (stale == NULL || stale->entry.blob == NULL)
    return;
  f->stale = tr_entry_retain(&stale->entry);
  if (!validated(stale))
    return;
  known = freshness_of(stale);
  tr_promise_set_known(f->promise, stale->entry.blob, &known);
}

/* Register a new flight and return the future that leads it. NULL when memory
** is short. */
static tr_future *flight_start(const claim *c, tr_slot *stale) {
  tr_cache *cache = c->cache;
  tr_flight *f = flight_new(c);
  tr_future *leader = f != NULL ? tr_promise_future(f->promise, true) : NULL;
  if (leader == NULL) {
    if (f != NULL)
      tr_promise_release(f->promise);
    free(f);
    return NULL;
  }
  f->next = cache->loading;
  if (f->next != NULL)
    f->next->prev = f;
  cache->loading = f;
  f->listed = !cache->options.no_coalesce;
  if (f->listed)
    tr_table_add(&cache->flights, &f->node);
  tr_cache_retain(cache);
  set_known(f, stale);
  return leader;
}

/* Serves a stale entry where the options allow it; the first to be served is
** to load it anew. */
static tr_claim serve_stale(claim *c, tr_slot *s, bool loading,
                            tr_entry **entry, tr_future **future) {
  *entry = tr_entry_retain(&s->entry);
  c->cache->stats[TR_STAT_STALE]++;
  if (loading || c->now < s->retry_at)
    return TR_HIT;
  s->retry_at = c->now + REFRESH_PAUSE;
  *future = flight_start(c, s);
  return *future != NULL ? TR_STALE : TR_HIT;
}

/* True if the claim's key is a URL whose server failed within the last 30 s. */
static bool outage_is_on(const claim *c) {
  char *key = strndup(c->key, c->len);
  bool on = key != NULL && tr_outage_is_on(key);
  free(key);
  return on;
}

/* True if a stale entry may be served at once: it is not stale for long, or its
** server failed a moment ago. */
static bool may_serve_stale(const claim *c, const tr_slot *s) {
  const tr_cache_options *o = &c->cache->options;
  if (s->failure != NULL ||
      !atomic_load_explicit(&s->entry.live, memory_order_relaxed))
    return false;
  return c->now < s->entry.expires + o->stale_while_revalidate ||
         (c->now < s->entry.expires + o->stale_if_error &&
          outage_is_on(c));
}

/* Answers a claim that finds nothing to serve. */
static tr_claim wait_or_lead(claim *c, tr_flight *f, tr_slot *stale,
                             tr_future **future) {
  tr_consumer *consumer = c->handle != NULL ? c->handle->consumer : NULL;
  if (f != NULL || (stale != NULL && stale->failure != NULL)) {
    *future =
        tr_promise_future(f != NULL ? f->promise : stale->failure, false);
    if (*future == NULL)
      return TR_NOMEM;
    c->cache->stats[TR_STAT_COALESCED]++;
    if (consumer != NULL)
      consumer->coalesced++;
    return TR_WAIT;
  }
  *future = flight_start(c, stale);
  if (*future == NULL)
    return TR_NOMEM;
  c->cache->stats[TR_STAT_MISSES]++;
  if (consumer != NULL)
    consumer->misses++;
  return TR_LEAD;
}

tr_claim tr_cache_claim_entry(tr_cache *cache, tr_cache_handle *handle,
                              const char *key, size_t len,
                              const tr_claim_options *options, tr_entry **entry,
                              tr_future **future) {
  bool revalidate = options != NULL && options->revalidate;
  tr_claim answer;
  claim c;
  tr_slot *s;
  tr_flight *f;
  begin(&c, cache, handle, key, len);
  if (options != NULL && options->ttl > TR_CACHE_TTL)
    c.ttl = options->ttl;
  s = look_up(&c);
  f = flight_of(tr_table_find(&cache->flights, c.hash, key, len));
  if (s != NULL && s->failure != NULL && revalidate)
    s = NULL;
  if (s != NULL && s->failure == NULL && !revalidate &&
      tr_entry_fresh(&s->entry)) {
    *entry = tr_entry_retain(&s->entry);
    count_hit(&c);
    answer = TR_HIT;
  } else if (s != NULL && !revalidate && may_serve_stale(&c, s)) {
    answer = serve_stale(&c, s, f != NULL, entry, future);
  } else {
    answer = wait_or_lead(&c, f, s, future);
  }
  end(&c);
  return answer;
}

tr_claim tr_cache_claim(tr_cache *cache, const char *key, size_t len,
                        const tr_claim_options *options, tr_blob **blob,
                        tr_future **future) {
  tr_claim_options o = TR_CLAIM_OPTIONS;
  tr_entry *entry = NULL;
  tr_error ignored;
  tr_claim answer;
  *blob = NULL;
  *future = NULL;
  tr_options_copy(&o, sizeof o, options, "TR_CLAIM_OPTIONS", &ignored);
  answer = tr_cache_claim_entry(cache, NULL, key, len, &o, &entry, future);
  if (entry != NULL) {
    *blob = tr_blob_retain(entry->blob);
    tr_entry_release(entry);
  }
  return answer;
}

/* ------------------------------------------------------------- results */

/* True if the error says that the reference's content does not exist. */
static bool is_absence(const tr_error *error) {
  return error->kind == TR_NOT_FOUND || error->status == 404 ||
         error->status == 410;
}

/* Return the slot to store for a result, or NULL. */
static tr_slot *slot_for(const tr_flight *f, const tr_result *result) {
  static const tr_freshness none;
  const tr_cache_options *o = &f->cache->options;
  if (result->status == TR_READY)
    return tr_slot_new(
        &f->node, result->blob, NULL, result->freshness,
        f->ttl < 0 ? HUGE_VAL : tr_deadline(f->ttl) - result->freshness->age);
  if (result->status == TR_FAILED && o->negative_ttl > 0 &&
      is_absence(result->error))
    return tr_slot_new(&f->node, NULL, f->promise, &none,
                       tr_deadline(o->negative_ttl));
  return NULL;
}

/* Return the stale blob, retained, if it may replace a failed load. */
static tr_blob *stale_substitute(const tr_flight *f, const tr_result *result) {
  if (f->stale == NULL || result->status != TR_FAILED ||
      !tr_is_outage(result->error) ||
      tr_now() >= f->stale->expires + f->cache->options.stale_if_error)
    return NULL;
  return tr_blob_retain(f->stale->blob);
}

/* Unregister a flight that has its result. The lock is held. */
static void flight_finish(tr_flight *f) {
  tr_cache *cache = f->cache;
  if (f->listed)
    tr_table_remove(&cache->flights, &f->node);
  *(f->prev != NULL ? &f->prev->next : &cache->loading) = f->next;
  if (f->next != NULL)
    f->next->prev = f->prev;
}

/* Store a result in the cache. The lock is held. */
static void store_result(tr_flight *f, const tr_result *result, tr_slot *s,
                         tr_deferred *deferred) {
  tr_entries *entries = &f->cache->entries;
  tr_slot *old =
      tr_entries_find(entries, f->node.hash, f->node.key, f->node.len);
  if (s != NULL)
    tr_entries_insert(entries, s, deferred);
  else if (old != NULL && result->status == TR_FAILED &&
           is_absence(result->error))
    tr_entries_remove(entries, old, deferred); /* it is gone at its source */
}

/* Runs when a flight has its result: the blob is stored before any waiter is
** woken. */
static tr_blob *on_result(void *context, const tr_result *result) {
  tr_flight *f = context;
  tr_cache *cache = f->cache;
  tr_deferred deferred = {NULL};
  tr_slot *s = slot_for(f, result);
  tr_blob *substitute = stale_substitute(f, result);
  pthread_mutex_lock(&cache->lock);
  flight_finish(f);
  if (f->wanted) {
    store_result(f, result, s, &deferred);
    s = NULL;
  }
  cache->stats[TR_STAT_LOADS] += result->status == TR_READY;
  cache->stats[TR_STAT_ERRORS] += result->status == TR_FAILED;
  cache->stats[TR_STAT_STALE] += substitute != NULL;
  pthread_mutex_unlock(&cache->lock);
  tr_deferred_release(&deferred);
  if (s != NULL)
    tr_entry_release(&s->entry);
  tr_entry_release(f->stale);
  tr_promise_release(f->promise);
  free(f);
  tr_cache_release(cache);
  return substitute;
}

/* --------------------------------------------------------- housekeeping */

static bool same_key(const tr_flight *f, const claim *c) {
  return f->node.hash == c->hash && f->node.len == c->len &&
         memcmp(f->key, c->key, c->len) == 0;
}

bool tr_cache_remove(tr_cache *cache, const char *key, size_t len) {
  claim c;
  tr_slot *s;
  tr_flight *f;
  begin(&c, cache, NULL, key, len);
  s = tr_entries_find(&cache->entries, c.hash, key, len);
  if (s != NULL)
    tr_entries_remove(&cache->entries, s, &c.deferred);
  for (f = cache->loading; f != NULL; f = f->next)
    if (same_key(f, &c))
      tr_flight_disown(cache, f);
  end(&c);
  return s != NULL;
}

/* Return a copy of an entry that is stale from now on. The old one is no
** longer live, which every Lua state that holds it sees. NULL: no memory. */
static tr_slot *stale_copy(const tr_slot *s, double now) {
  tr_freshness freshness = freshness_of(s);
  tr_slot *copy =
      tr_slot_new(&s->node, s->entry.blob, NULL, &freshness, now);
  if (copy != NULL)
    atomic_store_explicit(&copy->entry.live, false, memory_order_relaxed);
  return copy;
}

bool tr_cache_refresh(tr_cache *cache, const char *key, size_t len) {
  claim c;
  tr_slot *s, *copy = NULL;
  tr_flight *f;
  bool there;
  begin(&c, cache, NULL, key, len);
  s = tr_entries_find(&cache->entries, c.hash, key, len);
  there = s != NULL && s->entry.blob != NULL;
  if (there)
    copy = stale_copy(s, c.now);
  if (copy != NULL)
    tr_entries_insert(&cache->entries, copy, &c.deferred);
  else if (s != NULL)
    tr_entries_remove(&cache->entries, s, &c.deferred);
  for (f = cache->loading; f != NULL; f = f->next)
    if (same_key(f, &c))
      tr_flight_disown(cache, f); /* it may have begun before the change */
  end(&c);
  return there;
}

bool tr_cache_keep(tr_cache *cache, const char *key, size_t len, bool kept) {
  claim c;
  tr_slot *s;
  begin(&c, cache, NULL, key, len);
  s = tr_entries_find(&cache->entries, c.hash, key, len);
  if (s != NULL)
    tr_entries_keep(&cache->entries, s, kept);
  end(&c);
  return s != NULL;
}

void tr_cache_clear(tr_cache *cache) {
  tr_deferred deferred = {NULL};
  tr_flight *f;
  pthread_mutex_lock(&cache->lock);
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
