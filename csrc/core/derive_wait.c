/*
** The functions of derivations that run now, and what they wait for: one that waits for what
** another is to return, which waits for it in turn, would wait until its time is over.
*/
#include <pthread.h>
#include <string.h>

#include "derive.h"
#include "error.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_derivation *all;
static _Thread_local tr_derivation *innermost; /* of this thread; its address is the thread's name */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* The child has one thread: the functions of the others do not go on. */
static void in_child(void) {
  tr_derivation *d;
  all = NULL;
  for (d = innermost; d != NULL; d = d->outer) {
    d->next = all;
    d->prev = NULL;
    if (all != NULL)
      all->prev = d;
    all = d;
  }
  pthread_mutex_unlock(&lock);
}

static void init_once(void) { pthread_atfork(before_fork, in_parent, in_child); }

/* Return the derivation whose function computes a promise's result, or NULL. The lock is held. */
static const tr_derivation *find(const tr_promise *result) {
  const tr_derivation *d = all;
  while (d != NULL && d->result != result)
    d = d->next;
  return d;
}

/* Return what a thread waits for, or NULL. The lock is held. */
static const tr_promise *awaited_by(tr_derivation *const *thread) {
  const tr_derivation *d = all;
  while (d != NULL && !(d->thread == thread && d->awaited != NULL))
    d = d->next;
  return d != NULL ? d->awaited : NULL;
}

static const char *const FOR_ITSELF =
    "the function of derive asks for what it is to return, and would wait for itself";

bool tr_derivation_begin(tr_derivation *d, const tr_cache *cache, const char *key,
                         const tr_promise *result, tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  const tr_derivation *outer;
  pthread_once(&once, init_once);
  *d = (tr_derivation){
      .cache = cache, .result = result, .thread = &innermost, .outer = innermost};
  strcpy(d->key, key);
  for (outer = innermost; outer != NULL; outer = outer->outer)
    if (outer->cache == cache && strcmp(outer->key, key) == 0) { /* the cache has forgotten it */
      tr_error_set(error, TR_POLICY, "%s", FOR_ITSELF);
      return false;
    }
  pthread_mutex_lock(&lock);
  d->next = all;
  if (all != NULL)
    all->prev = d;
  all = d;
  pthread_mutex_unlock(&lock);
  innermost = d;
  return true;
}

void tr_derivation_end(tr_derivation *d) {
  pthread_mutex_lock(&lock);
  *(d->prev != NULL ? &d->prev->next : &all) = d->next;
  if (d->next != NULL)
    d->next->prev = d->prev;
  pthread_mutex_unlock(&lock);
  innermost = d->outer;
}

bool tr_derivation_wait(const tr_promise *promise, tr_error *error) {
  const tr_promise *next = promise;
  const tr_derivation *d = NULL;
  bool is_circle;
  if (innermost == NULL)
    return true;
  pthread_mutex_lock(&lock);
  do { /* no circle of others: each was refused to the last who asked */
    d = find(next);
    next = d != NULL && d->thread != &innermost ? awaited_by(d->thread) : NULL;
  } while (next != NULL);
  is_circle = d != NULL && d->thread == &innermost;
  if (!is_circle)
    innermost->awaited = promise;
  pthread_mutex_unlock(&lock);
  if (is_circle && d->result == promise)
    tr_error_set(error, TR_POLICY, "%s", FOR_ITSELF);
  else if (is_circle)
    tr_error_set(error, TR_POLICY,
                 "two functions of derive ask for what the other is to return, and would wait for "
                 "each other: derive in one order everywhere");
  return !is_circle;
}

void tr_derivation_waited(void) {
  if (innermost == NULL)
    return;
  pthread_mutex_lock(&lock);
  innermost->awaited = NULL;
  pthread_mutex_unlock(&lock);
}
