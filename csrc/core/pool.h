/* Threads that take items from a queue, and end when there are none for a while. */
#ifndef TR_POOL_H
#define TR_POOL_H

#include "thread.h"

/* The owner's lock guards a pool as it does the queue. */
typedef struct tr_pool {
  pthread_mutex_t *lock;
  const char *name; /* of its threads */
  void *(*run)(void *unused);
  int max;    /* of threads; it may change */
  int queued; /* items in the queue; the owner counts them */
  int threads, idle;
  pthread_cond_t work;
} tr_pool;

/* Prepare a pool before its first use, and in a child, which has no threads. */
void tr_pool_init(tr_pool *pool);

/* See to it that a thread takes one item more than are queued. False when there
** is no thread at all. The lock is held. */
bool tr_pool_call(tr_pool *pool);

/* A thread of the pool waits for an item. False: it is to end. The lock is held. */
bool tr_pool_wait(tr_pool *pool);

#endif
