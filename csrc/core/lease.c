/* The timers' thread looks now and then whether the future of a lease has its result. */
#include "lease.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "future.h"
#include "store.h"
#include "timer.h"

static const double LOOK_SECONDS = 0.1;

struct tr_lease {
  atomic_int lock; /* -1 once unlocked */
  atomic_int references;
  pid_t owner;
  tr_promise *promise; /* for the timers' thread, as what follows */
  double seconds;
  bool is_over;
};

tr_lease *tr_lease_new(int lock) {
  tr_lease *lease = calloc(1, sizeof *lease);
  if (lease == NULL) {
    tr_store_unlock(lock);
    return NULL;
  }
  atomic_init(&lease->lock, lock);
  atomic_init(&lease->references, 1);
  lease->owner = getpid();
  return lease;
}

static void unlock(tr_lease *lease) {
  int lock = atomic_exchange(&lease->lock, -1);
  if (lock >= 0 && lease->owner == getpid())
    tr_store_unlock(lock);
  else if (lock >= 0)
    close(lock);
}

static void drop(void *context) {
  tr_lease *lease = context;
  if (atomic_fetch_sub(&lease->references, 1) > 1)
    return;
  if (lease->promise != NULL)
    tr_promise_release(lease->promise);
  free(lease);
}

/* Look whether the lock is to be unlocked now, or later. On the timers' thread. */
static void look(void *context) {
  tr_lease *lease = context;
  bool goes_on = atomic_load(&lease->lock) >= 0 && !lease->is_over;
  double next = LOOK_SECONDS;
  if (goes_on && tr_promise_status(lease->promise) != TR_PENDING) {
    lease->is_over = true;
    next = lease->seconds;
  }
  if (goes_on && tr_timer_call(next, look, drop, lease))
    return;
  unlock(lease);
  drop(lease);
}

bool tr_lease_end_after(tr_lease *lease, const tr_future *future, double seconds) {
  if (lease->promise != NULL)
    return true;
  lease->promise = tr_promise_retain(tr_future_promise(future));
  lease->seconds = seconds;
  atomic_fetch_add(&lease->references, 1);
  if (tr_timer_call(LOOK_SECONDS, look, drop, lease))
    return true;
  atomic_fetch_sub(&lease->references, 1);
  return false;
}

void tr_lease_release(tr_lease *lease) {
  if (lease == NULL)
    return;
  unlock(lease);
  drop(lease);
}
