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

#include "cache_load.h"
#include "options.h"
#include "outage.h"

/* Seconds between two attempts to load a stale entry anew in the background
** when the first failed. */
static const double REFRESH_PAUSE = 1;

/* ------------------------------------------------------------- claiming */

/* A claim at work: the lock is held. */
typedef struct claim {
  tr_cache *cache;
  tr_cache_handle *handle; /* or NULL */
  tr_load load;
  double now;
  tr_deferred deferred;
} claim;

static const tr_limits no_limits;

static void begin(claim *c, tr_cache *cache, tr_cache_handle *handle,
                  const char *key, size_t len, const tr_limits *limits) {
  *c = (claim){.cache = cache,
               .handle = handle,
               .load = {.key = tr_key_of(key, len),
                        .limits = limits,
                        .ttl = cache->options.ttl,
                        .keep_failure = -1},
               .now = tr_now()};
  pthread_mutex_lock(&cache->lock);
}

static void end(claim *c) {
  pthread_mutex_unlock(&c->cache->lock);
  tr_deferred_release(&c->deferred);
}

/* A find: the slot of a key, and the one with its bytes, which is another for an
** alias. Both may be NULL. */
typedef struct found {
  tr_slot *slot, *bytes;
} found;

/* True if an entry is kept, or can still be served, revalidated or waited
** for. */
static bool useful(const claim *c, tr_slot *s) {
  const tr_cache_options *o = &c->cache->options;
  if (s->failure != NULL) /* of a load that a fork() ended: nobody's answer */
    return c->now < s->entry.expires &&
           tr_promise_status(s->failure) != TR_ABANDONED;
  return s->kept || tr_slot_is_alias(s) ||
         tr_record_has_validators(s->entry.record) ||
         c->now < s->entry.expires +
                      fmax(o->stale_while_revalidate, o->stale_if_error);
}

/* Find what is under a key. */
static found look_up(claim *c, const tr_key *key) {
  tr_entries *entries = &c->cache->entries;
  tr_slot *s = tr_entries_find(entries, key);
  if (s != NULL && !useful(c, s)) {
    tr_entries_remove(entries, s, &c->deferred);
    s = NULL;
  }
  return (found){s, s != NULL ? tr_entries_follow(entries, s) : NULL};
}

/* True if what was found can be served. */
static bool is_fresh(const found *f) {
  return f->bytes != NULL && tr_entry_fresh(&f->slot->entry) &&
         (f->bytes == f->slot || tr_entry_fresh(&f->bytes->entry));
}

/* The same, but nothing that the claim's limits forbid. */
static found look_up_allowed(claim *c, const tr_key *key) {
  found f = look_up(c, key);
  return f.slot != NULL && !tr_entry_allowed(&f.slot->entry, c->load.limits)
             ? (found){NULL, NULL}
             : f;
}

/* Find an entry for the claim's own limits, or the one for everybody. */
static found look_up_both(claim *c) {
  tr_key limited = tr_key_limited(c->load.key, c->load.limits->id);
  found own = look_up_allowed(c, &limited), common;
  if (c->load.limits->id == 0 || is_fresh(&own) ||
      (own.slot != NULL && own.slot->failure != NULL))
    return own;
  common = look_up_allowed(c, &c->load.key);
  if (common.slot == NULL || common.slot->failure != NULL)
    return own;
  return own.slot == NULL || is_fresh(&common) ? common : own;
}

static void count_hit(claim *c) {
  if (c->handle != NULL && c->handle->consumer != NULL)
    c->handle->consumer->hits++;
  c->cache->stats[TR_STAT_HITS]++;
}

/* Hand out what was found. */
static void take(const claim *c, const found *f, tr_hit *hit) {
  f->slot->provisional &= c->load.provisional;
  f->bytes->provisional &= c->load.provisional;
  hit->provisional = f->slot->provisional || f->bytes->provisional;
  hit->stored = f->slot->stored;
  hit->entry = tr_entry_retain(&f->slot->entry);
  hit->content =
      f->bytes != f->slot ? tr_entry_retain(&f->bytes->entry) : NULL;
}

bool tr_cache_find(tr_cache *cache, tr_cache_handle *handle, const char *key,
                   size_t len, const tr_limits *limits, bool provisional,
                   tr_hit *hit) {
  claim c;
  found f;
  bool is_hit;
  begin(&c, cache, handle, key, len, limits);
  c.load.provisional = provisional;
  f = look_up_both(&c);
  is_hit = is_fresh(&f);
  if (is_hit) {
    take(&c, &f, hit);
    count_hit(&c);
  }
  end(&c);
  return is_hit;
}

/* Turn a hit into its blob. */
static tr_blob *blob_of(tr_hit *hit) {
  tr_blob *blob = tr_blob_retain(tr_hit_blob(hit));
  tr_entry_release(hit->entry);
  tr_entry_release(hit->content);
  return blob;
}

tr_blob *tr_cache_get(tr_cache *cache, const char *key, size_t len) {
  tr_hit hit;
  return tr_cache_find(cache, NULL, key, len, &no_limits, false, &hit) ? blob_of(&hit) : NULL;
}

/* Serves a stale entry where the options allow it; the first to be served is
** to load it anew. */
static tr_claim serve_stale(claim *c, const found *f, bool loading,
                            tr_hit *hit, tr_future **future) {
  take(c, f, hit);
  c->cache->stats[TR_STAT_STALE]++;
  if (loading || c->now < f->slot->retry_at)
    return TR_HIT;
  f->slot->retry_at = c->now + REFRESH_PAUSE;
  *future = tr_load_begin(c->cache, &c->load, f->slot, f->bytes);
  return *future != NULL ? TR_STALE : TR_HIT;
}

/* True if the claim's reference is a URL whose server failed within the last 30
** s. */
static bool outage_is_on(const claim *c) {
  char *key = strndup(c->load.key.text, c->load.key.len);
  bool on = key != NULL && tr_outage_is_on(key);
  free(key);
  return on;
}

/* True if a stale entry may be served at once: it is not stale for long, or its
** server failed a moment ago. */
static bool may_serve_stale(const claim *c, const found *f) {
  const tr_cache_options *o = &c->cache->options;
  double expires;
  if (f->bytes == NULL ||
      !atomic_load_explicit(&f->slot->entry.live, memory_order_relaxed) ||
      !atomic_load_explicit(&f->bytes->entry.live, memory_order_relaxed))
    return false;
  expires = fmin(f->slot->entry.expires, f->bytes->entry.expires);
  return c->now < expires + o->stale_while_revalidate ||
         (c->now < expires + o->stale_if_error && outage_is_on(c));
}

/* The failure that answers a claim which would lead, or NULL, and its moment. One that is
** older than the claim's 'max_age', unless that is below 0, is none. */
static tr_promise *kept_failure(const claim *c, const found *f, double max_age,
                                double *moment) {
  const tr_slot *s = f->slot;
  tr_promise *failure = NULL;
  if (s != NULL && s->failure != NULL) {
    failure = s->failure;
    *moment = s->stored;
  } else if (s != NULL && s->recent_failure != NULL && c->now < s->recent_until &&
             tr_promise_status(s->recent_failure) != TR_ABANDONED) {
    failure = s->recent_failure;
    *moment = s->recent_at;
  }
  return failure != NULL && (max_age < 0 || c->now - *moment < max_age) ? failure : NULL;
}

/* Answers a claim that finds nothing to serve. */
static tr_claim wait_or_lead(claim *c, tr_flight *flight, const found *f,
                             tr_promise *failure, tr_future **future) {
  tr_consumer *consumer = c->handle != NULL ? c->handle->consumer : NULL;
  if (flight != NULL || failure != NULL) {
    /* A failure that is kept is everybody's, even if it was one of its leader's limits. */
    *future = flight != NULL ? tr_promise_future(flight->promise, false)
                             : tr_promise_future(failure, true);
    if (*future == NULL)
      return TR_NOMEM;
    if (flight != NULL)
      flight->provisional &= c->load.provisional;
    c->cache->stats[TR_STAT_COALESCED]++;
    if (consumer != NULL)
      consumer->coalesced++;
    return TR_WAIT;
  }
  *future = tr_load_begin(c->cache, &c->load, f->slot, f->bytes);
  if (*future == NULL)
    return TR_NOMEM;
  c->cache->stats[TR_STAT_MISSES]++;
  if (consumer != NULL)
    consumer->misses++;
  return TR_LEAD;
}

/* The flight of a claim's key and limits, or NULL. */
static tr_flight *flight_of(const claim *c) {
  tr_key limited = tr_key_limited(c->load.key, c->load.limits->id);
  return tr_flight_of(tr_index_find(&c->cache->flights, &limited));
}

tr_claim tr_cache_claim_entry(tr_cache *cache, tr_cache_handle *handle,
                              const char *key, size_t len,
                              const tr_claim_options *options,
                              const tr_limits *limits, tr_hit *hit,
                              tr_future **future) {
  bool revalidate = options->revalidate;
  double failed_at = 0;
  tr_promise *failure;
  tr_claim answer;
  tr_flight *flight;
  claim c;
  found f;
  begin(&c, cache, handle, key, len, limits);
  if (options->ttl > TR_CACHE_TTL)
    c.load.ttl = options->ttl;
  c.load.respect_no_store = options->respect_no_store;
  c.load.provisional = options->provisional;
  c.load.keep_failure = options->keep_failure;
  if (options->content_len <= TR_CONTENT_MAX)
    c.load.content = (tr_bytes){options->content, options->content_len};
  f = look_up_both(&c);
  flight = flight_of(&c);
  failure = revalidate ? NULL : kept_failure(&c, &f, options->max_age, &failed_at);
  if (failure == NULL && f.slot != NULL && f.slot->failure != NULL)
    f = (found){NULL, NULL};
  if (options->max_age >= 0 && f.bytes != NULL)
    revalidate |= c.now - f.slot->stored >= options->max_age;
  if (!revalidate && is_fresh(&f)) {
    take(&c, &f, hit);
    count_hit(&c);
    answer = TR_HIT;
  } else if (!revalidate && may_serve_stale(&c, &f)) {
    answer = serve_stale(&c, &f, flight != NULL, hit, future);
  } else {
    answer = wait_or_lead(&c, flight, &f, failure, future);
    hit->stored = flight == NULL && failure != NULL ? failed_at : 0;
  }
  end(&c);
  return answer;
}

tr_claim tr_cache_claim(tr_cache *cache, const char *key, size_t len,
                        const tr_claim_options *options, tr_blob **blob,
                        tr_future **future) {
  tr_claim_options o = TR_CLAIM_OPTIONS;
  tr_fetch_options request = TR_FETCH_OPTIONS;
  tr_limits limits;
  tr_hit hit = {0};
  tr_claim answer;
  tr_error ignored;
  *blob = NULL;
  *future = NULL;
  if (!tr_options_copy(&o, sizeof o, options, "TR_CLAIM_OPTIONS", &ignored) ||
      !tr_options_copy(&request, sizeof request, o.request, "TR_FETCH_OPTIONS",
                       &ignored))
    return TR_NOMEM;
  limits = tr_limits_of(&request);
  answer = tr_cache_claim_entry(cache, NULL, key, len, &o, &limits, &hit,
                                future);
  if (hit.entry != NULL)
    *blob = blob_of(&hit);
  return answer;
}
