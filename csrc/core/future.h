/*
** One result that arrives once. A promise is the side that makes it, with the
** result itself; a future is one handle of those who want it, and any number of
** futures may belong to one promise.
*/
#ifndef TR_FUTURE_H
#define TR_FUTURE_H

#include "blob.h"
#include "record.h"

/* Facts about a fetch; see the getters. */
struct tr_info {
  int status, attempts;
  bool unchanged;
  char *url, *content_type, *digest, *code; /* malloc'ed, or NULL */
  double queued, connected, first_byte, total; /* seconds; below 0: never */
  uint64_t received;
  tr_buffer fields; /* response headers (tr_message_keep_field), or empty */
};

typedef struct tr_promise tr_promise;

/* A promise's result, as passed to its 'on_result'. */
typedef struct tr_result {
  tr_future_status status;
  tr_blob *blob;         /* TR_READY only */
  const tr_error *error; /* any other status */
  tr_record *record;     /* TR_READY only; or NULL */
} tr_result;

/* The blob that a promise is completed with instead of its result, and its record;
** both retained. */
typedef struct tr_substitute {
  tr_blob *blob;     /* NULL: there is none */
  tr_record *record; /* NULL: the result's own */
} tr_substitute;

/*
** Called once, before any waiter is woken, when a promise gets its result: on
** the completing thread, with no lock held. It owns 'context'. A cache stores
** results by it.
*/
typedef tr_substitute (*tr_on_result)(void *context, const tr_result *result);

/* The work behind a promise. */
typedef struct tr_worker {
  /* Work on it on the calling thread until the promise has a result, the
  ** deadline is past or the process is interrupted; return at once if another
  ** thread is at it. False with the error: this thread must not wait for it. */
  bool (*drive)(tr_promise *promise, double deadline, tr_error *error);
  /* Nobody wants this result any more: stop when convenient. */
  void (*unwanted)(tr_promise *promise);
} tr_worker;

/* A promise with one reference, or NULL when memory is short. */
tr_promise *tr_promise_new(tr_on_result on_result, void *context);
tr_promise *tr_promise_retain(tr_promise *promise);
void tr_promise_release(tr_promise *promise);

/*
** A future of a promise, or NULL when memory is short. If 'leads', it is the one
** to complete the promise: releasing it before a worker has taken over orphans
** the promise.
*/
tr_future *tr_promise_future(tr_promise *promise, bool leads);
tr_promise *tr_future_promise(const tr_future *future); /* not retained */

/* Hand the work to 'worker'. False when there is a result already. */
bool tr_promise_assign(tr_promise *promise, const tr_worker *worker);

/* The worker of a promise that has a result wants to hear no more of the promise. */
void tr_promise_resign(tr_promise *p);

/* The worker's own pointer; guarded by the worker. */
void tr_promise_set_work(tr_promise *promise, void *work);
void *tr_promise_work(const tr_promise *promise);

/* Give the promise its result. False: it had one. */
bool tr_promise_complete(tr_promise *promise, tr_blob *blob);
bool tr_promise_fail(tr_promise *promise, const tr_error *error);
/* As tr_promise_fail, for a limit of the leader's own: futures that do not lead see
** TR_ABANDONED. */
bool tr_promise_fail_leader(tr_promise *promise, const tr_error *error);
/* Give up: those who wait learn that nothing will complete it. */
void tr_promise_orphan(tr_promise *promise);

tr_future_status tr_promise_status(tr_promise *promise);
/* True while any future still wants the result. */
bool tr_promise_wanted(tr_promise *promise);

/* Release a future that nobody has given up, such as one of a Lua state that closes. A load
** of a worker's into a cache goes on for a while: others may ask for the same. */
void tr_future_collect(tr_future *future);
/* True, once, if a future was collected that way: the worker is to set an end to the load. */
bool tr_promise_is_left(tr_promise *promise);

/* Set by the worker to report progress; any thread may read it. */
void tr_promise_set_progress(tr_promise *promise, size_t received,
                             size_t total);
void tr_promise_set_received(tr_promise *promise, size_t received);
void tr_promise_set_attempts(tr_promise *promise, int attempts);
/* Report the progress of another future, whose work this one waits for, until the
** result; NULL: its own again. */
void tr_promise_follow(tr_promise *promise, const tr_future *source);
/* Set the record of the blob that the promise will be completed with, which it
** takes over. NULL is allowed. No effect after the result. */
void tr_promise_set_record(tr_promise *promise, tr_record *record);
/* The same for its info. */
void tr_promise_set_info(tr_promise *promise, tr_info *info);
void tr_info_free(tr_info *info);

/* The record of the result, or NULL; only once it is TR_READY. */
const tr_record *tr_future_record(const tr_future *future);

/* True if a cache keeps the result: it has an 'on_result'. */
bool tr_promise_is_cached(const tr_promise *promise);

/* Attach an object to a promise, which frees it unless it is taken first. Once. */
void tr_promise_attach(tr_promise *promise, void *object,
                       void (*free_object)(void *object));
/* Take the object with that function from a future that is TR_READY; NULL: there is
** none, or it was taken. */
void *tr_future_take(tr_future *future, void (*free_object)(void *object));

/*
** Set what is known of an earlier load, which a conditional request may find
** unchanged: its record, and its bytes unless they are lost (NULL). Both are
** retained. Call it before the work begins.
*/
void tr_promise_set_known(tr_promise *promise, tr_blob *blob,
                          tr_record *record);
/* The known blob and record, retained; both NULL after the result. */
tr_blob *tr_promise_known(tr_promise *promise, tr_record **record);

/*
** A descriptor that futures make readable with their results. After its last reference it is
** used again, or closed: event loops must have stopped watching it.
*/
typedef struct tr_notifier tr_notifier;
tr_notifier *tr_notifier_new(void); /* NULL with errno */
tr_notifier *tr_notifier_retain(tr_notifier *notifier);
void tr_notifier_release(tr_notifier *notifier); /* NULL is allowed */
int tr_notifier_fd(const tr_notifier *notifier);
void tr_notifier_signal(tr_notifier *notifier);
void tr_notifier_drain(tr_notifier *notifier);
/* Make it readable at a tr_now() moment, too, and again after each drain; infinity:
** no longer. By its owner's thread, as tr_notifier_drain. */
void tr_notifier_set_deadline(tr_notifier *notifier, double deadline);
/* Registers the fork handler: before those of whoever signals in a child. */
void tr_notifier_prepare_fork(void);
/* Signal 'notifier', which it retains, when the future has its result. Any number of
** them may be signalled. False when memory is short. */
bool tr_future_notify(tr_future *future, tr_notifier *notifier);
/* Do not signal it any more. */
void tr_future_forget(tr_future *future, const tr_notifier *notifier);

/*
** Makes futures survive a fork(): in the child, those still pending are
** abandoned. A file that calls into futures under its own lock registers its
** fork handlers after this, so that locks are taken in one order.
*/
void tr_future_prepare_fork(void);

/* True while waiting is to end early (tr_interrupt). */
bool tr_interrupted(void);

/* Count the process as interrupted on the calling thread when 'asked' says so, too. NULL
** ends that: 'context' must last until then. */
void tr_interrupt_if(bool (*asked)(void *context), void *context);

/* Seconds of a clock that only runs forward. */
double tr_now(void);
/* The moment 'timeout' seconds from now; never, when it is below zero. A number
** that is none (NaN) is no time at all. */
double tr_deadline(double timeout);

#endif
