/*
** Promises and futures. One lock guards them all: results arrive some ten
** thousand times a second at most, and a single lock keeps fork() manageable.
**
** A promise counts references, which keep the memory, and the futures that want
** its result. When the last one goes, work under way is told to stop, and a
** promise without a worker is orphaned.
*/
#include "future.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "blob.h"
#include "derive.h"
#include "error.h"
#include "thread.h"

/* The longest that a waiting thread sleeps before it looks whether the work has
** a driver, or the process was interrupted. */
static const double WAIT_SLICE = 0.1;

/* Somebody to signal a future's result to, beside its own descriptor. */
typedef struct watcher {
  tr_notifier *notifier;
  struct watcher *next;
} watcher;

struct tr_future {
  size_t refs;
  tr_promise *promise;
  bool leads;
  tr_notifier *own;   /* of tr_future_fd */
  watcher *watchers;  /* of tr_future_notify */
  tr_future *prev, *next;   /* of this promise */
};

struct tr_promise {
  size_t refs;
  atomic_int status; /* written under the lock */
  bool settling;     /* its result is set, but 'on_result' still runs */
  bool detached;     /* wanted, whoever waits */
  bool left;         /* its last future was collected; the worker is to know */
  bool leader_only;  /* its failure is the leader's alone */
  tr_future *futures;
  tr_blob *blob;
  tr_error error;
  tr_on_result on_result;
  void *context;
  const tr_worker *worker;
  void *work; /* of the worker, which guards it */
  pthread_cond_t arrived;
  int waiting; /* threads */
  atomic_size_t received, total;
  atomic_int attempts;
  tr_promise *source; /* whose progress is its own, or NULL */
  tr_record *record;  /* of the result */
  tr_info *info;
  void *attached; /* or NULL */
  void (*free_attached)(void *attached);
  tr_blob *known;
  tr_record *known_record;
  tr_promise *prev, *next; /* all promises of the process */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_promise *all;
static atomic_bool interrupted;

double tr_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double tr_deadline(double timeout) {
  /* A thousand million seconds and "for ever" are one to a time_t. */
  if (timeout < 0 || timeout > 1e9)
    return INFINITY;
  return tr_now() + (isnan(timeout) ? 0 : timeout);
}

void tr_interrupt(bool on) { atomic_store(&interrupted, on); }

static _Thread_local struct {
  bool (*asked)(void *context);
  void *context;
} own_interrupt;

void tr_interrupt_if(bool (*asked)(void *context), void *context) {
  own_interrupt.asked = asked;
  own_interrupt.context = context;
}

bool tr_interrupted(void) {
  return atomic_load_explicit(&interrupted, memory_order_relaxed) ||
         (own_interrupt.asked != NULL &&
          own_interrupt.asked(own_interrupt.context));
}

/* ---------------------------------------------------------------------- fork */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* Signal a result. The lock is held; nothing here blocks. */
static void signal_all(const tr_future *f) {
  const watcher *w;
  if (f->own != NULL)
    tr_notifier_signal(f->own);
  for (w = f->watchers; w != NULL; w = w->next)
    tr_notifier_signal(w->notifier);
}

static void watcher_free(watcher *w) {
  if (w != NULL)
    tr_notifier_release(w->notifier);
  free(w);
}

/* The threads that worked on these promises are not in the child. */
static void in_child(void) {
  tr_promise *p;
  tr_future *f;
  for (p = all; p != NULL; p = p->next) {
    tr_condition_init(&p->arrived); /* the child has no thread that waits */
    p->waiting = 0;
    if (atomic_load(&p->status) == TR_PENDING) {
      atomic_store(&p->status, TR_ABANDONED);
      p->worker = NULL;
      tr_error_set(&p->error, TR_CANCELLED,
                   "the load was lost in a fork(); ask again");
      for (f = p->futures; f != NULL; f = f->next)
        signal_all(f);
    }
  }
  pthread_mutex_unlock(&lock);
}

static void at_fork(void) {
  tr_notifier_prepare_fork();
  pthread_atfork(before_fork, in_parent, in_child);
}

void tr_future_prepare_fork(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
}

/* ------------------------------------------------------------------ promises */

tr_promise *tr_promise_new(tr_on_result on_result, void *context) {
  tr_promise *p = calloc(1, sizeof *p);
  if (p == NULL)
    return NULL;
  tr_future_prepare_fork();
  tr_condition_init(&p->arrived);
  p->refs = 1;
  atomic_init(&p->status, TR_PENDING);
  atomic_init(&p->attempts, 1);
  p->on_result = on_result;
  p->context = context;
  pthread_mutex_lock(&lock);
  p->next = all;
  if (all != NULL)
    all->prev = p;
  all = p;
  pthread_mutex_unlock(&lock);
  return p;
}

void tr_info_free(tr_info *info) {
  if (info == NULL)
    return;
  free(info->url);
  free(info->content_type);
  free(info->digest);
  tr_buffer_free(&info->fields);
  free(info->code);
  free(info);
}

static void promise_free(tr_promise *p) {
  pthread_cond_destroy(&p->arrived);
  if (p->source != NULL)
    tr_promise_release(p->source);
  if (p->attached != NULL)
    p->free_attached(p->attached);
  tr_blob_release(p->blob);
  tr_blob_release(p->known);
  tr_record_release(p->record);
  tr_record_release(p->known_record);
  tr_info_free(p->info);
  free(p);
}

tr_promise *tr_promise_retain(tr_promise *p) {
  pthread_mutex_lock(&lock);
  p->refs++;
  pthread_mutex_unlock(&lock);
  return p;
}

/* Drop a reference. The lock is held; true: it was the last, free it after. */
static bool drop_reference(tr_promise *p) {
  if (--p->refs > 0)
    return false;
  *(p->prev != NULL ? &p->prev->next : &all) = p->next;
  if (p->next != NULL)
    p->next->prev = p->prev;
  return true;
}

void tr_promise_release(tr_promise *p) {
  bool last;
  pthread_mutex_lock(&lock);
  last = drop_reference(p);
  pthread_mutex_unlock(&lock);
  if (last)
    promise_free(p);
}

tr_future_status tr_promise_status(tr_promise *p) {
  return (tr_future_status)atomic_load_explicit(&p->status,
                                                memory_order_acquire);
}

bool tr_promise_wanted(tr_promise *p) {
  bool wanted;
  pthread_mutex_lock(&lock);
  wanted = p->futures != NULL || p->detached;
  pthread_mutex_unlock(&lock);
  return wanted;
}

/* True if there is no result yet. The lock is held. */
static bool is_open(const tr_promise *p) {
  return atomic_load_explicit(&p->status, memory_order_relaxed) == TR_PENDING &&
         !p->settling;
}

bool tr_promise_assign(tr_promise *p, const tr_worker *worker) {
  bool open;
  pthread_mutex_lock(&lock);
  open = is_open(p);
  if (open)
    p->worker = worker;
  pthread_mutex_unlock(&lock);
  return open;
}

void tr_promise_resign(tr_promise *p) {
  pthread_mutex_lock(&lock);
  if (!is_open(p))
    p->worker = NULL;
  pthread_mutex_unlock(&lock);
}

void tr_promise_set_work(tr_promise *p, void *work) { p->work = work; }

void *tr_promise_work(const tr_promise *p) { return p->work; }

/* Set the result once, and wake everyone. The caller holds a reference. */
static bool settle(tr_promise *p, tr_future_status status, tr_blob *blob,
                   const tr_error *error) {
  tr_substitute instead = {NULL, NULL};
  tr_promise *source;
  tr_blob *known;
  tr_record *known_record;
  tr_future *f;
  pthread_mutex_lock(&lock);
  if (!is_open(p)) {
    pthread_mutex_unlock(&lock);
    return false;
  }
  p->settling = true; /* from here on nobody else sets 'record' */
  pthread_mutex_unlock(&lock);
  if (p->on_result != NULL) {
    const tr_result result = {status, blob, error, p->record};
    instead = p->on_result(p->context, &result);
  }
  pthread_mutex_lock(&lock);
  source = p->source;
  known = p->known;
  known_record = p->known_record;
  p->source = NULL;
  p->known = NULL;
  p->known_record = NULL;
  if (instead.blob != NULL)
    p->blob = instead.blob;
  else if (blob != NULL)
    p->blob = tr_blob_retain(blob);
  if (instead.record != NULL) {
    tr_record_release(p->record);
    p->record = instead.record;
  }
  if (error != NULL)
    p->error = *error;
  atomic_store_explicit(&p->status, p->blob != NULL ? TR_READY : status,
                        memory_order_release);
  if (p->waiting > 0)
    pthread_cond_broadcast(&p->arrived);
  for (f = p->futures; f != NULL; f = f->next)
    signal_all(f);
  pthread_mutex_unlock(&lock);
  if (source != NULL)
    tr_promise_release(source);
  tr_blob_release(known);
  tr_record_release(known_record);
  return true;
}

bool tr_promise_complete(tr_promise *p, tr_blob *blob) {
  return settle(p, TR_READY, blob, NULL);
}

bool tr_promise_fail(tr_promise *p, const tr_error *error) {
  return settle(p, TR_FAILED, NULL, error);
}

bool tr_promise_fail_leader(tr_promise *p, const tr_error *error) {
  pthread_mutex_lock(&lock);
  if (is_open(p))
    p->leader_only = true; /* the worker is the only one to fail it */
  pthread_mutex_unlock(&lock);
  return tr_promise_fail(p, error);
}

void tr_promise_orphan(tr_promise *p) {
  tr_error error;
  tr_error_set(&error, TR_CANCELLED, "the load was given up");
  settle(p, TR_ABANDONED, NULL, &error);
}

void tr_promise_set_progress(tr_promise *p, size_t received, size_t total) {
  atomic_store_explicit(&p->received, received, memory_order_relaxed);
  atomic_store_explicit(&p->total, total, memory_order_relaxed);
}

void tr_promise_set_received(tr_promise *p, size_t received) {
  atomic_store_explicit(&p->received, received, memory_order_relaxed);
}

void tr_promise_set_attempts(tr_promise *p, int attempts) {
  atomic_store_explicit(&p->attempts, attempts, memory_order_relaxed);
}

bool tr_promise_is_cached(const tr_promise *p) { return p->on_result != NULL; }

void tr_promise_follow(tr_promise *p, const tr_future *future) {
  tr_promise *source = future != NULL ? future->promise : NULL, *before;
  pthread_mutex_lock(&lock);
  before = source;
  if (source != NULL)
    source->refs++;
  if (is_open(p)) {
    before = p->source;
    p->source = source;
  }
  pthread_mutex_unlock(&lock);
  if (before != NULL)
    tr_promise_release(before);
}

void tr_promise_attach(tr_promise *p, void *object,
                       void (*free_object)(void *object)) {
  pthread_mutex_lock(&lock);
  p->attached = object;
  p->free_attached = free_object;
  pthread_mutex_unlock(&lock);
}

void tr_promise_set_record(tr_promise *p, tr_record *record) {
  tr_record *unused = record;
  pthread_mutex_lock(&lock);
  if (is_open(p)) {
    unused = p->record;
    p->record = record;
  }
  pthread_mutex_unlock(&lock);
  tr_record_release(unused);
}

void tr_promise_set_info(tr_promise *p, tr_info *info) {
  pthread_mutex_lock(&lock);
  if (is_open(p) && p->info == NULL) {
    p->info = info;
    info = NULL;
  }
  pthread_mutex_unlock(&lock);
  tr_info_free(info);
}

void tr_promise_set_known(tr_promise *p, tr_blob *blob, tr_record *record) {
  tr_blob *old_blob = blob;
  tr_record *old_record = record;
  if (blob != NULL)
    tr_blob_retain(blob);
  tr_record_retain(record);
  pthread_mutex_lock(&lock);
  if (is_open(p)) {
    old_blob = p->known;
    old_record = p->known_record;
    p->known = blob;
    p->known_record = record;
  }
  pthread_mutex_unlock(&lock);
  tr_blob_release(old_blob);
  tr_record_release(old_record);
}

tr_blob *tr_promise_known(tr_promise *p, tr_record **record) {
  tr_blob *known;
  pthread_mutex_lock(&lock);
  known = p->known != NULL ? tr_blob_retain(p->known) : NULL;
  *record = p->known_record != NULL ? tr_record_retain(p->known_record) : NULL;
  pthread_mutex_unlock(&lock);
  return known;
}

/* ------------------------------------------------------------------- futures */

tr_future *tr_promise_future(tr_promise *p, bool leads) {
  tr_future *f = calloc(1, sizeof *f);
  if (f == NULL)
    return NULL;
  f->refs = 1;
  f->promise = p;
  f->leads = leads;
  pthread_mutex_lock(&lock);
  p->refs++;
  f->next = p->futures;
  if (f->next != NULL)
    f->next->prev = f;
  p->futures = f;
  pthread_mutex_unlock(&lock);
  return f;
}

tr_promise *tr_future_promise(const tr_future *f) { return f->promise; }

tr_future *tr_future_create(void) {
  tr_promise *p = tr_promise_new(NULL, NULL);
  tr_future *f;
  if (p == NULL)
    return NULL;
  f = tr_promise_future(p, true);
  tr_promise_release(p);
  return f;
}

tr_future *tr_future_retain(tr_future *f) {
  pthread_mutex_lock(&lock);
  f->refs++;
  pthread_mutex_unlock(&lock);
  return f;
}

/* Take a future from its promise. Sets what is to be done then: stop the worker
** or orphan the promise. The lock is held. */
static void detach_future(tr_future *f, const tr_worker **worker,
                          bool *orphan) {
  tr_promise *p = f->promise;
  *(f->prev != NULL ? &f->prev->next : &p->futures) = f->next;
  if (f->next != NULL)
    f->next->prev = f->prev;
  if (p->detached)
    return;
  if (p->worker != NULL) /* also if someone else has set the result meanwhile */
    *worker = p->futures == NULL ? p->worker : NULL;
  else
    *orphan = is_open(p) && (f->leads || p->futures == NULL);
}

void tr_future_release(tr_future *f) {
  const tr_worker *worker = NULL;
  bool orphan = false, last;
  watcher *w;
  if (f == NULL)
    return;
  pthread_mutex_lock(&lock);
  last = --f->refs == 0;
  if (last)
    detach_future(f, &worker, &orphan);
  pthread_mutex_unlock(&lock);
  if (!last)
    return;
  if (worker != NULL)
    worker->unwanted(f->promise);
  else if (orphan)
    tr_promise_orphan(f->promise);
  tr_notifier_release(f->own);
  while ((w = f->watchers) != NULL) {
    f->watchers = w->next;
    watcher_free(w);
  }
  tr_promise_release(f->promise);
  free(f);
}

void tr_future_collect(tr_future *f) {
  const tr_worker *worker = NULL;
  tr_promise *p = f->promise;
  pthread_mutex_lock(&lock);
  if (f->refs == 1 && p->futures == f && f->next == NULL && p->worker != NULL &&
      p->on_result != NULL && is_open(p) && !p->detached) {
    p->detached = p->left = true;
    worker = p->worker;
    p->refs++;
  }
  pthread_mutex_unlock(&lock);
  tr_future_release(f);
  if (worker != NULL) {
    worker->unwanted(p);
    tr_promise_release(p);
  }
}

bool tr_promise_is_left(tr_promise *p) {
  bool left;
  pthread_mutex_lock(&lock);
  left = p->left;
  p->left = false;
  pthread_mutex_unlock(&lock);
  return left;
}

void tr_future_detach(tr_future *f) {
  pthread_mutex_lock(&lock);
  f->promise->detached = true;
  pthread_mutex_unlock(&lock);
}

bool tr_future_complete(tr_future *f, tr_blob *blob) {
  return tr_promise_complete(f->promise, blob);
}

bool tr_future_fail(tr_future *f, const tr_error *error) {
  return tr_promise_fail(f->promise, error);
}

void tr_future_abandon(tr_future *f) {
  bool idle;
  pthread_mutex_lock(&lock);
  idle = f->promise->worker == NULL;
  pthread_mutex_unlock(&lock);
  if (idle)
    tr_promise_orphan(f->promise);
}

tr_future_status tr_future_get_status(tr_future *f) {
  tr_future_status status = tr_promise_status(f->promise);
  return status == TR_FAILED && f->promise->leader_only && !f->leads
             ? TR_ABANDONED
             : status;
}

/* Sleep until there is a result or the deadline is past. The lock is held. */
static void await(tr_promise *p, double deadline) {
  double slice = tr_now() + WAIT_SLICE;
  if (slice < deadline)
    deadline = slice;
  p->waiting++;
  while (atomic_load_explicit(&p->status, memory_order_relaxed) == TR_PENDING)
    if (!tr_condition_wait(&p->arrived, &lock, deadline))
      break;
  p->waiting--;
}

/* Wait for a promise to have a result, driving its worker. False with the error:
** this thread must not. */
static bool wait_for(tr_promise *p, double deadline, tr_error *error) {
  while (tr_promise_status(p) == TR_PENDING && !tr_interrupted()) {
    const tr_worker *worker;
    pthread_mutex_lock(&lock);
    worker = p->worker;
    pthread_mutex_unlock(&lock);
    if (worker != NULL && !worker->drive(p, deadline, error))
      return false;
    if (tr_promise_status(p) != TR_PENDING || tr_now() >= deadline)
      break;
    pthread_mutex_lock(&lock);
    await(p, deadline);
    pthread_mutex_unlock(&lock);
  }
  return true;
}

tr_future_status tr_future_wait(tr_future *f, double timeout, tr_blob **blob,
                                tr_error *error) {
  tr_promise *p = f->promise;
  tr_future_status status = tr_future_get_status(f);
  bool waited = true;
  error = tr_error_or_ignored(error);
  if (status == TR_PENDING && timeout != 0) {
    waited = tr_derivation_wait(p, error) && wait_for(p, tr_deadline(timeout), error);
    tr_derivation_waited();
    status = tr_future_get_status(f);
  }
  if (status == TR_READY) { /* from now on nothing changes 'blob' */
    if (blob != NULL)
      *blob = tr_blob_retain(p->blob);
  } else if (status != TR_PENDING) {
    *error = p->error;
  } else if (waited && tr_interrupted()) {
    tr_error_set(error, TR_CANCELLED, "interrupted");
  } else if (waited) {
    tr_error_set(error, TR_TIMEOUT, "no result within %g second%s", timeout,
                 tr_plural(timeout));
  }
  return status;
}

int tr_future_fd(tr_future *f) {
  tr_notifier *fresh = NULL;
  int fd = -1;
  bool lacks;
  pthread_mutex_lock(&lock);
  lacks = f->own == NULL;
  pthread_mutex_unlock(&lock);
  if (lacks && (fresh = tr_notifier_new()) == NULL)
    return -1;
  pthread_mutex_lock(&lock);
  if (f->own == NULL) {
    f->own = fresh;
    fresh = NULL;
    if (atomic_load(&f->promise->status) != TR_PENDING)
      tr_notifier_signal(f->own);
  }
  fd = tr_notifier_fd(f->own);
  pthread_mutex_unlock(&lock);
  tr_notifier_release(fresh);
  return fd;
}

/* Take a notifier from a future's list, if it is there. The lock is held. */
static watcher *take_watcher(tr_future *f, const tr_notifier *notifier) {
  watcher **link = &f->watchers, *w;
  while (*link != NULL && (*link)->notifier != notifier)
    link = &(*link)->next;
  w = *link;
  if (w != NULL)
    *link = w->next;
  return w;
}

bool tr_future_notify(tr_future *f, tr_notifier *notifier) {
  watcher *fresh = malloc(sizeof *fresh), *before;
  if (fresh == NULL)
    return false;
  fresh->notifier = tr_notifier_retain(notifier);
  pthread_mutex_lock(&lock);
  before = take_watcher(f, notifier);
  fresh->next = f->watchers;
  f->watchers = fresh;
  if (atomic_load(&f->promise->status) != TR_PENDING)
    tr_notifier_signal(notifier);
  pthread_mutex_unlock(&lock);
  watcher_free(before);
  return true;
}

void tr_future_forget(tr_future *f, const tr_notifier *notifier) {
  watcher *w;
  pthread_mutex_lock(&lock);
  w = take_watcher(f, notifier);
  pthread_mutex_unlock(&lock);
  watcher_free(w);
}

void tr_future_progress(tr_future *f, size_t *received, size_t *total) {
  const tr_promise *p;
  pthread_mutex_lock(&lock);
  p = f->promise->source != NULL ? f->promise->source : f->promise;
  if (received != NULL)
    *received = atomic_load_explicit(&p->received, memory_order_relaxed);
  if (total != NULL)
    *total = atomic_load_explicit(&p->total, memory_order_relaxed);
  pthread_mutex_unlock(&lock);
}

void *tr_future_take(tr_future *f, void (*free_object)(void *object)) {
  tr_promise *p = f->promise;
  void *object = NULL;
  pthread_mutex_lock(&lock);
  if (atomic_load(&p->status) == TR_READY && p->free_attached == free_object) {
    object = p->attached;
    p->attached = NULL;
  }
  pthread_mutex_unlock(&lock);
  return object;
}

int tr_future_attempts(tr_future *f) {
  return atomic_load_explicit(&f->promise->attempts, memory_order_relaxed);
}

const tr_record *tr_future_record(const tr_future *f) {
  return f->promise->record;
}

const tr_info *tr_future_get_info(tr_future *f) {
  return tr_future_get_status(f) == TR_PENDING ? NULL : f->promise->info;
}
