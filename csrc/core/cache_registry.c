/* The process's caches: opening, closing, fork(), and counters by consumer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache_registry.h"
#include "error.h"
#include "options.h"
#include "outage.h"

enum {
  MAX_CONSUMERS = 256 /* per cache; later ones are not counted by name */
};

/* Every cache of the process: named ones are found here, and fork() locks
** them all. Taken before any cache's own lock. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static tr_cache *registry;
static uint64_t turns; /* how often a cache was freed */

/* The totals of caches by name, also of those that are gone: the first, without a name, is of
** all that have no row of their own. The same lock. */
static struct tr_row {
  char *name;         /* malloc'ed; NULL: the row was never used */
  unsigned caches;    /* that count in it */
  uint64_t turn;      /* when the last one of these was gone */
  uint64_t freed[TR_STAT_COUNT]; /* sums of those that are gone */
} rows[TR_NAMED_CACHES + 1];

void tr_flight_disown(tr_cache *cache, tr_flight *f) {
  if (f->listed)
    tr_index_remove(&cache->flights, &f->item);
  f->listed = false;
  f->wanted = false;
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
** abandoned already: the next claim leads. The flights are not freed, since a
** thread that is gone may have been changing them. */
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
  tr_outage_prepare_fork();
  pthread_atfork(lock_all, unlock_all, in_child);
}

/* Copies a string that may be NULL. */
static bool copy(char **to, const char *from) {
  *to = from != NULL ? strdup(from) : NULL;
  return from == NULL || *to != NULL;
}

/* Return the row for a new cache: that of its name, one that was never used, or else the one whose
** caches have been gone for longest, if any. Its caches count from 0 again, as if the process
** were new. */
static struct tr_row *row_for(const char *name) {
  struct tr_row *row, *best = &rows[0];
  if (name == NULL || name[0] == '\0' || !tr_is_displayable(name))
    return best;
  for (row = &rows[1]; row <= &rows[TR_NAMED_CACHES]; row++) {
    if (row->name != NULL && strcmp(row->name, name) == 0)
      return row;
    if (row->caches == 0 && (best == &rows[0] || row->turn < best->turn))
      best = row;
  }
  if (best != &rows[0]) {
    char *own = strdup(name);
    if (own == NULL)
      return &rows[0];
    free(best->name);
    *best = (struct tr_row){.name = own};
  }
  return best;
}

static tr_cache *cache_new(const char *name, const tr_cache_options *options) {
  tr_cache *cache = calloc(1, sizeof *cache);
  if (cache == NULL)
    return NULL;
  cache->options = *options;
  cache->options.disk = NULL;
  cache->entries.max_bytes = options->max_bytes;
  cache->entries.max_entries = options->max_entries;
  atomic_init(&cache->refs, 1);
  if (!tr_index_init(&cache->entries.index) ||
      !tr_index_init(&cache->flights) || !copy(&cache->name, name) ||
      !copy(&cache->disk, options->disk)) {
    tr_index_free(&cache->entries.index);
    tr_index_free(&cache->flights);
    free(cache->name);
    free(cache);
    return NULL;
  }
  cache->options.disk = cache->disk;
  pthread_mutex_init(&cache->lock, NULL);
  cache->row = row_for(name);
  cache->row->caches++;
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

/* Check that a second opening has the options of the first. False with the
** error. */
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
      {"the disk cache's max_bytes", (double)h->disk_max_bytes, (double)w->disk_max_bytes}};
  size_t i;
  if (strcmp(h->disk != NULL ? h->disk : "", w->disk != NULL ? w->disk : "") !=
      0) {
    tr_error_set(error, TR_IO,
                 "the cache '%s' is open with the disk cache '%s', not '%s'; "
                 "open it with the same options everywhere",
                 cache->name, h->disk != NULL ? h->disk : "none",
                 w->disk != NULL ? w->disk : "none");
    return false;
  }
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
  return true;
}

static bool check_numbers(const tr_cache_options *o, tr_error *error) {
  if (!isnan(o->ttl) && !isnan(o->negative_ttl) &&
      !isnan(o->stale_while_revalidate) && !isnan(o->stale_if_error))
    return true;
  tr_error_set(error, TR_POLICY,
               "a cache's ttl, negative_ttl, stale_while_revalidate and "
               "stale_if_error must be numbers of seconds");
  return false;
}

static tr_cache *find_cache(const char *name) {
  tr_cache *cache = name != NULL ? registry : NULL;
  while (cache != NULL && (cache->closed || cache->name == NULL ||
                           strcmp(cache->name, name) != 0))
    cache = cache->next;
  return cache;
}

tr_cache *tr_cache_open(const char *name, const tr_cache_options *options,
                        tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_cache_options o = TR_CACHE_OPTIONS;
  tr_cache *cache;
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&o, sizeof o, options, "TR_CACHE_OPTIONS", error) ||
      !check_numbers(&o, error))
    return NULL;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&registry_lock);
  cache = find_cache(name);
  if (cache == NULL) {
    cache = cache_new(name, &o);
    if (cache == NULL)
      tr_error_nomem(error);
    else if (name != NULL) /* the registry's own, until it is closed */
      tr_cache_retain(cache);
  } else if (options == NULL || same_options(cache, &o, error)) {
    tr_cache_retain(cache);
  } else {
    cache = NULL;
  }
  pthread_mutex_unlock(&registry_lock);
  return cache;
}

bool tr_cache_close_name(tr_cache *cache) {
  bool open;
  pthread_mutex_lock(&registry_lock);
  open = cache->name != NULL && !cache->closed;
  cache->closed = true;
  pthread_mutex_unlock(&registry_lock);
  if (open)
    tr_cache_release(cache);
  return open;
}

bool tr_cache_close(const char *name) {
  tr_cache *cache;
  pthread_mutex_lock(&registry_lock);
  cache = find_cache(name);
  if (cache != NULL)
    tr_cache_retain(cache);
  pthread_mutex_unlock(&registry_lock);
  if (cache == NULL)
    return false;
  tr_cache_close_name(cache); /* false: another thread did it just now */
  tr_cache_release(cache);
  return true;
}

tr_cache *tr_cache_retain(tr_cache *cache) {
  atomic_fetch_add_explicit(&cache->refs, 1, memory_order_relaxed);
  return cache;
}

static uint64_t hits_of(tr_cache_handle *handle) {
  return atomic_load_explicit(&handle->hits, memory_order_relaxed);
}

/* Get all statistics of a cache. */
static void get_stats(tr_cache *cache, uint64_t all[TR_STAT_COUNT]) {
  tr_cache_handle *handle;
  pthread_mutex_lock(&cache->lock);
  memcpy(all, cache->stats, sizeof cache->stats);
  for (handle = cache->handles; handle != NULL; handle = handle->next)
    all[TR_STAT_HITS] += hits_of(handle);
  all[TR_STAT_EVICTIONS] = cache->entries.evictions;
  all[TR_STAT_ENTRIES] = cache->entries.blobs;
  all[TR_STAT_BYTES] = cache->entries.bytes;
  pthread_mutex_unlock(&cache->lock);
}

/* Frees a cache that nobody else sees any more. */
static void cache_free(tr_cache *cache) {
  tr_deferred deferred = {NULL};
  tr_consumer *consumer, *next;
  tr_entries_clear(&cache->entries, &deferred);
  tr_deferred_release(&deferred);
  for (consumer = cache->consumers; consumer != NULL; consumer = next) {
    next = consumer->next;
    free(consumer);
  }
  tr_index_free(&cache->entries.index);
  tr_index_free(&cache->flights);
  pthread_mutex_destroy(&cache->lock);
  free(cache->name);
  free(cache->disk);
  free(cache);
}

static void add_stats(uint64_t to[TR_STAT_COUNT], const uint64_t stats[TR_STAT_COUNT]) {
  size_t i;
  for (i = 0; i < TR_STAT_COUNT; i++)
    to[i] += stats[i];
}

void tr_cache_release(tr_cache *cache) {
  uint64_t last[TR_STAT_COUNT];
  if (cache == NULL ||
      atomic_fetch_sub_explicit(&cache->refs, 1, memory_order_acq_rel) != 1)
    return;
  get_stats(cache, last);
  pthread_mutex_lock(&registry_lock);
  add_stats(cache->row->freed, last);
  cache->row->freed[TR_STAT_ENTRIES] = cache->row->freed[TR_STAT_BYTES] = 0; /* it holds nothing any more */
  cache->row->caches--;
  cache->row->turn = ++turns;
  *(cache->prev != NULL ? &cache->prev->next : &registry) = cache->next;
  if (cache->next != NULL)
    cache->next->prev = cache->prev;
  pthread_mutex_unlock(&registry_lock);
  cache_free(cache);
}

/* -------------------------------------------------------------- counters */

const tr_cache_options *tr_cache_get_options(const tr_cache *cache) {
  return &cache->options;
}

void tr_cache_get_stats(tr_cache *cache, uint64_t *values, size_t count) {
  uint64_t all[TR_STAT_COUNT];
  get_stats(cache, all);
  memset(values, 0, count * sizeof *values);
  memcpy(values, all,
         (count < TR_STAT_COUNT ? count : TR_STAT_COUNT) * sizeof *values);
}

/* Copy the rows that are in use, each with its number in the totals. False: memory is short. The
** registry's lock is held. */
static bool copy_rows(tr_cache_totals *t, size_t numbers[TR_NAMED_CACHES + 1]) {
  size_t i;
  for (i = 0; i <= TR_NAMED_CACHES; i++) {
    const struct tr_row *row = &rows[i];
    if (i > 0 && row->name == NULL)
      continue;
    t->names[t->count] = strdup(i > 0 ? row->name : "");
    if (t->names[t->count] == NULL)
      return false;
    add_stats(t->values[t->count], row->freed);
    numbers[i] = t->count++;
  }
  return true;
}

tr_cache_totals *tr_cache_get_totals(void) {
  tr_cache_totals *t = calloc(1, sizeof *t);
  size_t numbers[TR_NAMED_CACHES + 1];
  uint64_t stats[TR_STAT_COUNT];
  tr_cache *cache;
  bool copied;
  if (t == NULL)
    return NULL;
  pthread_mutex_lock(&registry_lock);
  copied = copy_rows(t, numbers);
  for (cache = registry; copied && cache != NULL; cache = cache->next) {
    get_stats(cache, stats);
    add_stats(t->values[numbers[cache->row - rows]], stats);
  }
  pthread_mutex_unlock(&registry_lock);
  if (copied)
    return t;
  tr_cache_free_totals(t);
  return NULL;
}

void tr_cache_free_totals(tr_cache_totals *t) {
  size_t i;
  for (i = 0; t != NULL && i < t->count; i++)
    free(t->names[i]);
  free(t);
}

const tr_consumer *tr_cache_next_consumer(tr_cache *cache,
                                          const tr_consumer *after,
                                          tr_consumer *counters) {
  const tr_consumer *consumer;
  tr_cache_handle *handle;
  pthread_mutex_lock(&cache->lock);
  consumer = after != NULL ? after->next : cache->consumers;
  if (consumer != NULL)
    *counters = *consumer;
  for (handle = cache->handles; handle != NULL; handle = handle->next)
    if (consumer != NULL && handle->consumer == consumer)
      counters->hits += hits_of(handle);
  pthread_mutex_unlock(&cache->lock);
  return consumer;
}

/* Return the consumer of a name, made if there is none. The lock is held. NULL
** when memory is short, or when there are too many already ('full'). */
static tr_consumer *consumer_named(tr_cache *cache, const char *name,
                                   bool *full) {
  size_t count = 0, size = strlen(name) + 1;
  tr_consumer **link = &cache->consumers;
  while (*link != NULL && strcmp((*link)->name, name) != 0) {
    link = &(*link)->next;
    count++;
  }
  *full = *link == NULL && count >= MAX_CONSUMERS;
  if (*link == NULL && !*full) {
    *link = calloc(1, sizeof **link + size);
    if (*link != NULL)
      memcpy((*link)->name, name, size);
  }
  return *link;
}

bool tr_cache_attach(tr_cache *cache, tr_cache_handle *handle,
                     const char *consumer) {
  bool full = false;
  atomic_init(&handle->hits, 0);
  handle->prev = NULL;
  handle->consumer = NULL;
  pthread_mutex_lock(&cache->lock);
  if (consumer != NULL)
    handle->consumer = consumer_named(cache, consumer, &full);
  handle->next = cache->handles;
  if (handle->next != NULL)
    handle->next->prev = handle;
  cache->handles = handle;
  pthread_mutex_unlock(&cache->lock);
  return consumer == NULL || handle->consumer != NULL || full;
}

void tr_cache_detach(tr_cache *cache, tr_cache_handle *handle) {
  pthread_mutex_lock(&cache->lock);
  cache->stats[TR_STAT_HITS] += hits_of(handle);
  if (handle->consumer != NULL)
    handle->consumer->hits += hits_of(handle);
  *(handle->prev != NULL ? &handle->prev->next : &cache->handles) =
      handle->next;
  if (handle->next != NULL)
    handle->next->prev = handle->prev;
  pthread_mutex_unlock(&cache->lock);
}
