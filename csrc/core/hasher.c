/*
** Up to two worker threads hash the bodies that are arriving, slice by slice and
** by turns, so that neither the driver nor other bodies wait for a large one.
** One lock guards the queue and every hasher; no slice is hashed under it.
*/
#include "hasher.h"

#include <stdlib.h>

#include "pool.h"

enum {
  MAX_WORKERS = 2,
  SLICE = 256 * 1024
};

struct tr_hasher {
  tr_hash *hash;
  void (*done)(void *context);
  void *context;
  const unsigned char *data;
  size_t len, hashed;
  bool queued, busy, finishing;
  tr_hasher *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t paused = PTHREAD_COND_INITIALIZER;
static tr_hasher *first, **end = &first;

static void *run(void *unused);
static tr_pool pool = {
    .lock = &lock, .name = "theaterref-sha", .run = run, .max = MAX_WORKERS};

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* The child has no workers. Its hashers belong to requests it does not have. */
static void in_child(void) {
  first = NULL;
  end = &first;
  tr_pool_init(&pool);
  pthread_cond_init(&paused, NULL);
  pthread_mutex_unlock(&lock);
}

static void init_once(void) {
  tr_pool_init(&pool);
  pthread_atfork(before_fork, in_parent, in_child);
}

tr_hasher *tr_hasher_new(tr_algorithm algorithm, void (*done)(void *context),
                         void *context) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_hasher *h = calloc(1, sizeof *h);
  pthread_once(&once, init_once);
  if (h == NULL)
    return NULL;
  h->hash = tr_hash_new(algorithm);
  if (h->hash == NULL) {
    free(h);
    return NULL;
  }
  h->done = done;
  h->context = context;
  return h;
}

/* Append to the queue. The lock is held. */
static void enqueue(tr_hasher *h) {
  h->queued = true;
  pool.queued++;
  h->next = NULL;
  *end = h;
  end = &h->next;
}

static tr_hasher *dequeue(void) {
  tr_hasher *h = first;
  first = h->next;
  if (first == NULL)
    end = &first;
  h->queued = false;
  pool.queued--;
  return h;
}

/* Hash one slice of a hasher. The lock is held before and after, not during. */
static void hash_slice(tr_hasher *h) {
  const unsigned char *data = h->data + h->hashed;
  size_t size = h->len - h->hashed < SLICE ? h->len - h->hashed : SLICE;
  h->busy = true;
  pthread_mutex_unlock(&lock);
  tr_hash_update(h->hash, data, size);
  pthread_mutex_lock(&lock);
  h->hashed += size;
  if (h->hashed < h->len) {
    h->busy = false;
    enqueue(h);
    pthread_cond_broadcast(&paused);
  } else if (h->finishing) { /* stays busy, so that it is not freed meanwhile */
    h->finishing = false;
    pthread_mutex_unlock(&lock);
    h->done(h->context);
    pthread_mutex_lock(&lock);
    h->busy = false;
    pthread_cond_broadcast(&paused);
  } else {
    h->busy = false;
    pthread_cond_broadcast(&paused);
  }
}

static void *run(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  while (tr_pool_wait(&pool))
    hash_slice(dequeue());
  pthread_mutex_unlock(&lock);
  return NULL;
}

static bool feed(tr_hasher *h, const void *data, size_t len, bool finishing) {
  bool served = true;
  pthread_mutex_lock(&lock);
  h->data = data;
  h->len = len;
  h->finishing = finishing;
  if (!h->queued && !h->busy && (h->hashed < len || finishing)) {
    served = tr_pool_call(&pool);
    if (served)
      enqueue(h);
    else
      h->finishing = false;
  }
  pthread_mutex_unlock(&lock);
  return served;
}

bool tr_hasher_feed(tr_hasher *h, const void *data, size_t len) {
  return feed(h, data, len, false);
}

bool tr_hasher_finish(tr_hasher *h, const void *data, size_t len) {
  return feed(h, data, len, true);
}

/* Take a hasher from the queue and wait for its slice. The lock is held. */
static void stop(tr_hasher *h) {
  if (h->queued) {
    tr_hasher **link = &first;
    while (*link != h)
      link = &(*link)->next;
    *link = h->next;
    if (h->next == NULL)
      end = link;
    h->queued = false;
    pool.queued--;
  }
  while (h->busy)
    pthread_cond_wait(&paused, &lock);
  if (h->queued) /* its slice was not the last */
    stop(h);
}

void tr_hasher_pause(tr_hasher *h) {
  pthread_mutex_lock(&lock);
  stop(h);
  pthread_mutex_unlock(&lock);
}

void tr_hasher_digest(tr_hasher *h, char hex[TR_HEX_MAX]) {
  tr_hash_finish(h->hash, hex);
}

void tr_hasher_free(tr_hasher *h) {
  if (h == NULL)
    return;
  pthread_mutex_lock(&lock);
  h->finishing = false;
  stop(h);
  pthread_mutex_unlock(&lock);
  tr_hash_free(h->hash);
  free(h);
}
