/* One result that arrives once, and the links to who makes and who keeps it. */
#ifndef TR_FUTURE_H
#define TR_FUTURE_H

#include "theaterref.h"

/*
** Told once, before anybody waiting is, when a future gets its result: 'blob'
** when it is ready, else NULL. Runs on the completing thread, with no lock
** held, and owns 'context'. This is how a cache takes in what was loaded.
*/
typedef void (*tr_on_result)(void *context, tr_state state, tr_blob *blob);

/* Whoever does the work behind a future. */
typedef struct tr_worker {
  /* Works on it on the calling thread until the future has a result or the
  ** deadline is past; may return at once when another thread is at it. */
  void (*drive)(tr_future *future, double deadline);
  /* Nobody wants this future any more: stop when convenient. */
  void (*unwanted)(void);
} tr_worker;

/* A pending future with one handle, or NULL when memory is short. */
tr_future *tr_future_new(tr_on_result on_result, void *context);

/* Hands the work to 'worker'. False when the future has a result already. */
bool tr_future_assign(tr_future *future, const tr_worker *worker);

/* A handle without an interest: it does not keep the work going. */
tr_future *tr_future_hold(tr_future *future);
void tr_future_drop(tr_future *future);

/* Gives up: those who wait learn that nobody will complete it. */
void tr_future_abandon(tr_future *future);

/* Whether anybody still has an interest. */
bool tr_future_wanted(tr_future *future);

void tr_future_set_progress(tr_future *future, size_t received, size_t total);

/*
** Makes futures survive a fork(): in the child, those still pending are
** abandoned. Whoever calls into futures under a lock of its own registers
** its own fork handlers after this, so that locks are taken in one order.
*/
void tr_future_prepare_fork(void);

/* Seconds of a clock that only runs forward. */
double tr_now(void);
/* The moment 'timeout' seconds from now; never, when it is below zero. */
double tr_deadline(double timeout);

#endif
