/* The process's caches: opening, closing, fork(), and who used them how. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "flights.h"

enum {
  MAX_NAMES = 256 /* of users; whoever comes later goes without */
};

/* Every cache of the process: named ones are found here, and fork() locks
** them all. Taken before any cache's own lock. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static tr_cache *registry;

void tr_cache_defaults(tr_cache_options *options) {
  *options =
      (tr_cache_options){.max_bytes = (size_t)256 << 20, .ttl = -1};
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

/* In a child the threads that were loading are gone, and their futures are
** abandoned already: the next to ask leads. The flights stay unfreed, since
** a thread that is gone may have been at work on them. */
static void in_child(void) {
  tr_cache *cache;
  tr_flight *f;
  for (cache = registry; cache != NULL; cache = cache->next) {
    for (f = cache->loading; f != NULL; f = f->next)
      tr_flight_disown(cache, f);
    cache->loading = NULL;
  }
  unlock_all();
}

static void at_fork(void) {
  tr_future_prepare_fork();
  pthread_atfork(lock_all, unlock_all, in_child);
}

/* Copies a string that may be NULL. */
static bool copy(char **to, const char *from) {
  *to = from != NULL ? strdup(from) : NULL;
  return from == NULL || *to != NULL;
}

static tr_cache *cache_new(const char *name,
                           const tr_cache_options *options) {
  tr_cache *cache = calloc(1, sizeof *cache);
  if (cache == NULL)
    return NULL;
  cache->options = *options;
  cache->options.tier = NULL;
  cache->entries.max_bytes = options->max_bytes;
  cache->entries.max_entries = options->max_entries;
  atomic_init(&cache->refs, 1);
  if (!tr_table_init(&cache->entries.index) || !tr_table_init(&cache->flights) ||
      !copy(&cache->name, name) || !copy(&cache->tier, options->tier)) {
    tr_table_free(&cache->entries.index);
    tr_table_free(&cache->flights);
    free(cache->name);
    free(cache);
    return NULL;
  }
  cache->options.tier = cache->tier;
  pthread_mutex_init(&cache->lock, NULL);
  cache->next = registry;
  if (registry != NULL)
    registry->prev = cache;
  registry = cache;
  return cache;
}

static bool same_seconds(double a, double b) {
  return a == b || (a < 0 && b < 0);
}

/* An option's name and two values, when they differ. */
typedef struct difference {
  const char *name;
  double have, want;
} difference;

/* Whether a second opening asks for what the first did; else the error. */
static bool same_options(const tr_cache *cache, const tr_cache_options *w,
                         tr_error *error) {
  const tr_cache_options *h = &cache->options;
  const difference options[] = {
      {"max_bytes", (double)h->max_bytes, (double)w->max_bytes},
      {"max_entries", (double)h->max_entries, (double)w->max_entries},
      {"ttl", h->ttl, w->ttl},
      {"negative_ttl", h->negative_ttl, w->negative_ttl},
      {"stale_while_revalidate", h->stale_while_revalidate,
       w->stale_while_revalidate},
      {"stale_if_error", h->stale_if_error, w->stale_if_error},
      {"coalesce", !h->no_coalesce, !w->no_coalesce},
      {"tier_max_bytes", (double)h->tier_max_bytes,
       (double)w->tier_max_bytes}};
  size_t i;
  for (i = 0; i < sizeof options / sizeof *options; i++) {
    const difference *d = &options[i];
    if (same_seconds(d->have, d->want))
      continue;
    tr_error_set(error, TR_IO,
                 "the cache '%s' is open with %s = %.15g, not %.15g; open it "
                 "with the same options everywhere",
                 cache->name, d->name, d->have, d->want);
    return false;
  }
  if (strcmp(h->tier != NULL ? h->tier : "", w->tier != NULL ? w->tier : "") ==
      0)
    return true;
  tr_error_set(error, TR_IO,
               "the cache '%s' is open with the tier '%s', not '%s'; open it "
               "with the same options everywhere",
               cache->name, h->tier != NULL ? h->tier : "none",
               w->tier != NULL ? w->tier : "none");
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

/* Frees a cache that nobody else sees any more. */
static void cache_free(tr_cache *cache) {
  tr_dead dead = {NULL};
  tr_who *who, *next;
  tr_entries_clear(&cache->entries, &dead);
  tr_dead_release(&dead);
  for (who = cache->names; who != NULL; who = next) {
    next = who->next;
    free(who);
  }
  tr_table_free(&cache->entries.index);
  tr_table_free(&cache->flights);
  pthread_mutex_destroy(&cache->lock);
  free(cache->name);
  free(cache->tier);
  free(cache);
}

void tr_cache_release(tr_cache *cache) {
  if (cache == NULL ||
      atomic_fetch_sub_explicit(&cache->refs, 1, memory_order_acq_rel) != 1)
    return;
  pthread_mutex_lock(&registry_lock);
  *(cache->prev != NULL ? &cache->prev->next : &registry) = cache->next;
  if (cache->next != NULL)
    cache->next->prev = cache->prev;
  pthread_mutex_unlock(&registry_lock);
  cache_free(cache);
}

/* --------------------------------------------------------------- figures */

const tr_cache_options *tr_cache_settings(const tr_cache *cache) {
  return &cache->options;
}

static uint64_t hits_of(tr_user *user) {
  return atomic_load_explicit(&user->hits, memory_order_relaxed);
}

void tr_cache_get_stats(tr_cache *cache, tr_cache_stats *stats) {
  tr_user *user;
  pthread_mutex_lock(&cache->lock);
  *stats = cache->stats;
  for (user = cache->users; user != NULL; user = user->next)
    stats->hits += hits_of(user);
  stats->evictions = cache->entries.evictions;
  stats->entries = cache->entries.blobs;
  stats->bytes = cache->entries.bytes;
  pthread_mutex_unlock(&cache->lock);
}

const tr_who *tr_cache_who(tr_cache *cache, const tr_who *after,
                           tr_who *figures) {
  const tr_who *who;
  tr_user *user;
  pthread_mutex_lock(&cache->lock);
  who = after != NULL ? after->next : cache->names;
  if (who != NULL)
    *figures = *who;
  for (user = cache->users; user != NULL; user = user->next)
    if (who != NULL && user->who == who)
      figures->hits += hits_of(user);
  pthread_mutex_unlock(&cache->lock);
  return who;
}

/* The record of a name, under the lock. NULL when memory is short, or there
** are too many names already ('full'). */
static tr_who *who_called(tr_cache *cache, const char *name, bool *full) {
  size_t count = 0, size = strlen(name) + 1;
  tr_who **link = &cache->names;
  while (*link != NULL && strcmp((*link)->name, name) != 0) {
    link = &(*link)->next;
    count++;
  }
  *full = *link == NULL && count >= MAX_NAMES;
  if (*link == NULL && !*full) {
    *link = calloc(1, sizeof **link + size);
    if (*link != NULL)
      memcpy((*link)->name, name, size);
  }
  return *link;
}

bool tr_cache_attach(tr_cache *cache, tr_user *user, const char *who) {
  bool full = false;
  atomic_init(&user->hits, 0);
  user->prev = NULL;
  user->who = NULL;
  pthread_mutex_lock(&cache->lock);
  if (who != NULL)
    user->who = who_called(cache, who, &full);
  user->next = cache->users;
  if (user->next != NULL)
    user->next->prev = user;
  cache->users = user;
  pthread_mutex_unlock(&cache->lock);
  return who == NULL || user->who != NULL || full;
}

void tr_cache_detach(tr_cache *cache, tr_user *user) {
  pthread_mutex_lock(&cache->lock);
  cache->stats.hits += hits_of(user);
  if (user->who != NULL)
    user->who->hits += hits_of(user);
  *(user->prev != NULL ? &user->prev->next : &cache->users) = user->next;
  if (user->next != NULL)
    user->next->prev = user->prev;
  pthread_mutex_unlock(&cache->lock);
}
