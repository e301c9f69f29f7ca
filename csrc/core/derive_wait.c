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

static bool is_of(const tr_derivation *d, const tr_derived *what) {
  return d->what.cache == what->cache && strcmp(d->what.key, what->key) == 0;
}

/* Return the derivation of these bytes, or NULL. The lock is held. */
static const tr_derivation *find(const tr_derived *what) {
  const tr_derivation *d = all;
  while (d != NULL && !is_of(d, what))
    d = d->next;
  return d;
}

/* Return what a thread waits for, or NULL. The lock is held. */
static const tr_derived *awaited_by(tr_derivation *const *thread) {
  const tr_derivation *d = all;
  while (d != NULL && !(d->thread == thread && d->awaited.key[0] != '\0'))
    d = d->next;
  return d != NULL ? &d->awaited : NULL;
}

bool tr_derivation_begin(tr_derivation *d, const tr_cache *cache, const char *key,
                         tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  const tr_derivation *outer;
  pthread_once(&once, init_once);
  *d = (tr_derivation){.what = {.cache = cache}, .thread = &innermost, .outer = innermost};
  strcpy(d->what.key, key);
  for (outer = innermost; outer != NULL; outer = outer->outer)
    if (is_of(outer, &d->what)) {
      tr_error_set(error, TR_POLICY, "the function of derive asks for what it is to return, and "
                                     "would wait for itself");
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

bool tr_derivation_wait(const tr_cache *cache, const char *key, tr_error *error) {
  tr_derived wanted = {.cache = cache};
  const tr_derived *next = &wanted;
  const tr_derivation *d = NULL;
  if (innermost == NULL)
    return true;
  strcpy(wanted.key, key);
  pthread_mutex_lock(&lock);
  do { /* no circle of others: each was refused to the last who asked */
    d = find(next);
    next = d != NULL && d->thread != &innermost ? awaited_by(d->thread) : NULL;
  } while (next != NULL);
  if (d == NULL || d->thread != &innermost)
    innermost->awaited = wanted;
  pthread_mutex_unlock(&lock);
  if (d == NULL || d->thread != &innermost)
    return true;
  tr_error_set(error, TR_POLICY,
               is_of(d, &wanted)
                   ? "the function of derive asks for what it is to return, and would wait for "
                     "itself"
                   : "two functions of derive ask for what the other is to return, and would "
                     "wait for each other: derive in one order everywhere");
  return false;
}

void tr_derivation_waited(void) {
  if (innermost == NULL)
    return;
  pthread_mutex_lock(&lock);
  innermost->awaited.key[0] = '\0';
  pthread_mutex_unlock(&lock);
}
