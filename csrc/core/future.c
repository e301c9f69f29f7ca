/*
** Futures. One lock guards them all: results arrive some ten thousand times
** a second at most, and a single lock is what makes fork() manageable.
**
** A future counts handles twice. 'refs' keeps the memory; 'interest' counts
** those who still want the result. When the last interest goes, work under
** way is told to stop, and a future without a worker is abandoned.
*/
#include "future.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"

struct tr_future {
  size_t refs;
  size_t interest;
  tr_future_status status;
  bool settling; /* its result is set, but 'on_result' still runs */
  tr_blob *blob;
  tr_error error;
  tr_on_result on_result;
  void *context;
  const tr_worker *worker;
  pthread_cond_t arrived;
  int fd;
  atomic_size_t received, total;
  atomic_int attempts;
  tr_freshness freshness; /* of the result */
  tr_blob *known;
  tr_freshness known_freshness;
  tr_future *prev, *next; /* all futures of the process */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_future *all;

double tr_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double tr_deadline(double timeout) {
  /* A thousand million seconds and "for ever" are one to a time_t. */
  return timeout < 0 || timeout > 1e9 ? INFINITY : tr_now() + timeout;
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* The threads that worked on these futures did not come along. */
static void in_child(void) {
  tr_future *future;
  for (future = all; future != NULL; future = future->next)
    if (future->status == TR_PENDING) {
      future->status = TR_ABANDONED;
      future->worker = NULL;
      tr_error_set(&future->error, TR_CANCELLED,
                   "the load was lost in a fork(); ask again");
    }
  pthread_mutex_unlock(&lock);
}

static void at_fork(void) { pthread_atfork(before_fork, in_parent, in_child); }

void tr_future_prepare_fork(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
}

tr_future *tr_future_new(tr_on_result on_result, void *context) {
  pthread_condattr_t attr;
  tr_future *future = calloc(1, sizeof *future);
  if (future == NULL)
    return NULL;
  tr_future_prepare_fork();
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&future->arrived, &attr);
  pthread_condattr_destroy(&attr);
  future->refs = 1;
  future->interest = 1;
  atomic_init(&future->attempts, 1);
  future->on_result = on_result;
  future->context = context;
  future->fd = -1;
  pthread_mutex_lock(&lock);
  future->next = all;
  if (all != NULL)
    all->prev = future;
  all = future;
  pthread_mutex_unlock(&lock);
  return future;
}

tr_future *tr_future_create(void) { return tr_future_new(NULL, NULL); }

static void future_free(tr_future *future) {
  pthread_cond_destroy(&future->arrived);
  if (future->fd >= 0)
    close(future->fd);
  tr_blob_release(future->blob);
  free(future);
}

tr_future *tr_future_hold(tr_future *future) {
  pthread_mutex_lock(&lock);
  future->refs++;
  pthread_mutex_unlock(&lock);
  return future;
}

void tr_future_drop(tr_future *future) {
  bool last;
  pthread_mutex_lock(&lock);
  last = --future->refs == 0;
  if (last) {
    *(future->prev != NULL ? &future->prev->next : &all) = future->next;
    if (future->next != NULL)
      future->next->prev = future->prev;
  }
  pthread_mutex_unlock(&lock);
  if (last)
    future_free(future);
}

tr_future *tr_future_retain(tr_future *future) {
  pthread_mutex_lock(&lock);
  future->refs++;
  future->interest++;
  pthread_mutex_unlock(&lock);
  return future;
}

void tr_future_release(tr_future *future) {
  const tr_worker *worker = NULL;
  bool idle;
  if (future == NULL)
    return;
  pthread_mutex_lock(&lock);
  idle = --future->interest == 0 && future->status == TR_PENDING &&
         !future->settling;
  if (idle)
    worker = future->worker;
  pthread_mutex_unlock(&lock);
  if (worker != NULL)
    worker->unwanted();
  else if (idle)
    tr_future_orphan(future);
  tr_future_drop(future);
}

void tr_future_detach(tr_future *future) {
  pthread_mutex_lock(&lock);
  future->interest++;
  pthread_mutex_unlock(&lock);
}

bool tr_future_wanted(tr_future *future) {
  bool wanted;
  pthread_mutex_lock(&lock);
  wanted = future->interest > 0;
  pthread_mutex_unlock(&lock);
  return wanted;
}

bool tr_future_assign(tr_future *future, const tr_worker *worker) {
  bool pending;
  pthread_mutex_lock(&lock);
  pending = future->status == TR_PENDING && !future->settling;
  if (pending)
    future->worker = worker;
  pthread_mutex_unlock(&lock);
  return pending;
}

/* Sets the result once: tells 'on_result', then everybody else. The caller
** holds a handle, so the future outlives the call. */
static bool settle(tr_future *future, tr_future_status status, tr_blob *blob,
                   const tr_error *error) {
  const tr_result result = {status, blob, error, &future->freshness};
  tr_blob *instead = NULL, *known;
  uint64_t one = 1;
  int fd;
  pthread_mutex_lock(&lock);
  if (future->status != TR_PENDING || future->settling) {
    pthread_mutex_unlock(&lock);
    return false;
  }
  future->settling = true;
  pthread_mutex_unlock(&lock);
  if (future->on_result != NULL)
    instead = future->on_result(future->context, &result);
  pthread_mutex_lock(&lock);
  known = future->known;
  future->known = NULL;
  future->blob = blob != NULL ? tr_blob_retain(blob) : instead;
  if (error != NULL)
    future->error = *error;
  future->status = instead != NULL ? TR_READY : status;
  pthread_cond_broadcast(&future->arrived);
  fd = future->fd; /* one made after this is born readable */
  pthread_mutex_unlock(&lock);
  tr_blob_release(known);
  if (fd >= 0 && write(fd, &one, sizeof one) < 0) {
    /* Only a full counter can refuse, and then the descriptor is readable. */
  }
  return true;
}

bool tr_future_complete(tr_future *future, tr_blob *blob) {
  return settle(future, TR_READY, blob, NULL);
}

bool tr_future_fail(tr_future *future, const tr_error *error) {
  return settle(future, TR_FAILED, NULL, error);
}

void tr_future_orphan(tr_future *future) {
  tr_error error;
  tr_error_set(&error, TR_CANCELLED, "the load was given up");
  settle(future, TR_ABANDONED, NULL, &error);
}

void tr_future_abandon(tr_future *future) {
  bool idle;
  pthread_mutex_lock(&lock);
  idle = future->worker == NULL;
  pthread_mutex_unlock(&lock);
  if (idle)
    tr_future_orphan(future);
}

tr_future_status tr_future_get_status(tr_future *future) {
  tr_future_status status;
  pthread_mutex_lock(&lock);
  status = future->status;
  pthread_mutex_unlock(&lock);
  return status;
}

/* Waits under the lock until there is a result or the deadline is past. */
static void await(tr_future *future, double deadline) {
  struct timespec until;
  if (isinf(deadline)) {
    while (future->status == TR_PENDING)
      pthread_cond_wait(&future->arrived, &lock);
    return;
  }
  until.tv_sec = (time_t)deadline;
  until.tv_nsec = (long)((deadline - (double)until.tv_sec) * 1e9);
  while (future->status == TR_PENDING)
    if (pthread_cond_timedwait(&future->arrived, &lock, &until) == ETIMEDOUT)
      return;
}

tr_future_status tr_future_wait(tr_future *future, double timeout,
                                tr_blob **blob, tr_error *error) {
  double deadline = tr_deadline(timeout);
  const tr_worker *worker;
  tr_future_status status;
  pthread_mutex_lock(&lock);
  worker = future->status == TR_PENDING ? future->worker : NULL;
  pthread_mutex_unlock(&lock);
  if (worker != NULL)
    worker->drive(future, deadline);
  pthread_mutex_lock(&lock);
  await(future, deadline);
  status = future->status;
  if (status == TR_READY)
    *blob = tr_blob_retain(future->blob);
  else if (status == TR_FAILED || status == TR_ABANDONED)
    *error = future->error;
  pthread_mutex_unlock(&lock);
  return status;
}

int tr_future_fd(tr_future *future) {
  int fd;
  pthread_mutex_lock(&lock);
  if (future->fd < 0)
    future->fd =
        eventfd(future->status != TR_PENDING, EFD_CLOEXEC | EFD_NONBLOCK);
  fd = future->fd;
  pthread_mutex_unlock(&lock);
  return fd;
}

void tr_future_set_progress(tr_future *future, size_t received, size_t total) {
  atomic_store_explicit(&future->received, received, memory_order_relaxed);
  atomic_store_explicit(&future->total, total, memory_order_relaxed);
}

void tr_future_set_received(tr_future *future, size_t received) {
  atomic_store_explicit(&future->received, received, memory_order_relaxed);
}

void tr_future_set_attempts(tr_future *future, int attempts) {
  atomic_store_explicit(&future->attempts, attempts, memory_order_relaxed);
}

int tr_future_attempts(tr_future *future) {
  return atomic_load_explicit(&future->attempts, memory_order_relaxed);
}

void tr_future_set_freshness(tr_future *future, const tr_freshness *f) {
  pthread_mutex_lock(&lock);
  if (future->status == TR_PENDING && !future->settling)
    future->freshness = *f;
  pthread_mutex_unlock(&lock);
}

const tr_freshness *tr_future_freshness(const tr_future *future) {
  return &future->freshness;
}

void tr_future_set_known(tr_future *future, tr_blob *blob,
                         const tr_freshness *freshness) {
  tr_blob *before;
  pthread_mutex_lock(&lock);
  before = future->known;
  future->known = tr_blob_retain(blob);
  future->known_freshness = *freshness;
  pthread_mutex_unlock(&lock);
  tr_blob_release(before);
}

tr_blob *tr_future_known(tr_future *future, tr_freshness *freshness) {
  tr_blob *known;
  pthread_mutex_lock(&lock);
  known = future->known != NULL ? tr_blob_retain(future->known) : NULL;
  *freshness = future->known_freshness;
  pthread_mutex_unlock(&lock);
  return known;
}

void tr_future_progress(tr_future *future, size_t *received, size_t *total) {
  *received = atomic_load_explicit(&future->received, memory_order_relaxed);
  *total = atomic_load_explicit(&future->total, memory_order_relaxed);
}
