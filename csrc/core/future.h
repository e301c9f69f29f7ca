/* One result that arrives once, and the links to who makes and who keeps it. */
#ifndef TR_FUTURE_H
#define TR_FUTURE_H

#include "theaterref.h"

/* How old a body is, and what its server said to recognise it by: empty
** strings where it said nothing. */
enum { TR_VALIDATOR_MAX = 256 };
typedef struct tr_freshness {
  double age; /* seconds */
  char etag[TR_VALIDATOR_MAX];
  char last_modified[TR_VALIDATOR_MAX];
} tr_freshness;

/* A future's result, as passed to its maker. */
typedef struct tr_result {
  tr_future_status status;
  tr_blob *blob;                 /* TR_READY only */
  const tr_error *error;         /* any other status */
  const tr_freshness *freshness; /* TR_READY only */
} tr_result;

/*
** Told once, before anybody waiting is, when a future gets its result. Runs
** on the completing thread, with no lock held, and owns 'context'. May return
** a retained blob to complete a failed future with instead. This is how a
** cache takes in what was loaded.
*/
typedef tr_blob *(*tr_on_result)(void *context, const tr_result *result);

/* The work behind a future. */
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
void tr_future_orphan(tr_future *future);

/* True while any handle still has an interest. */
bool tr_future_wanted(tr_future *future);

/* Set by the worker to report progress; any thread may read it. */
void tr_future_set_progress(tr_future *future, size_t received, size_t total);
void tr_future_set_received(tr_future *future, size_t received);
void tr_future_set_attempts(tr_future *future, int attempts);
/* How old the blob is that the worker will complete it with, and its
** validators. Only before the result, by the worker. */
void tr_future_set_freshness(tr_future *future, const tr_freshness *f);
/* The freshness of the result; only once it is TR_READY. */
const tr_freshness *tr_future_freshness(const tr_future *future);

/*
** Set the known blob: bytes of an earlier load, which a conditional request may
** find unchanged. Call it before the work begins.
*/
void tr_future_set_known(tr_future *future, tr_blob *blob,
                         const tr_freshness *freshness);
/* The known blob, retained, or NULL. */
tr_blob *tr_future_known(tr_future *future, tr_freshness *freshness);

/*
** Makes futures survive a fork(): in the child, those still pending are
** abandoned. A file that calls into futures under its own lock registers its
** fork handlers after this, so that locks are taken in one order.
*/
void tr_future_prepare_fork(void);

/* Seconds of a clock that only runs forward. */
double tr_now(void);
/* The moment 'timeout' seconds from now; never, when it is below zero. */
double tr_deadline(double timeout);

#endif
