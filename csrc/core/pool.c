/* Pools of threads. */
#include "pool.h"

#include "future.h"

static const double IDLE_SECONDS = 10;

void tr_pool_init(tr_pool *pool) {
  pool->queued = pool->threads = pool->idle = 0;
  tr_condition_init(&pool->work);
}

bool tr_pool_call(tr_pool *pool) {
  if (pool->idle > pool->queued) /* one takes one item, however slow it wakes */
    pthread_cond_signal(&pool->work);
  else if (pool->threads < pool->max && tr_thread_start(pool->name, pool->run))
    pool->threads++;
  return pool->threads > 0;
}

bool tr_pool_wait(tr_pool *pool) {
  double until = tr_now() + IDLE_SECONDS;
  bool waited = true;
  if (pool->threads > pool->max) { /* it was larger for a while */
    pool->threads--;
    return false;
  }
  pool->idle++;
  while (pool->queued == 0 && waited)
    waited = tr_condition_wait(&pool->work, pool->lock, until);
  pool->idle--;
  if (pool->queued == 0)
    pool->threads--;
  return pool->queued > 0;
}
