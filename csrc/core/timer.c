/* One thread completes all timers, and ends promises that are late. It exits when it has had
** nothing to do for a while. */
#include "timer.h"

#include <stdlib.h>

#include "future.h"
#include "thread.h"

static const double MOST_SECONDS = 3600, IDLE_SECONDS = 5;

typedef struct timer {
  struct timer *next;
  double moment;
  tr_promise *promise; /* retained */
  bool is_limit;       /* of somebody else's promise */
} timer;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static timer *first; /* the earliest */
static bool is_running;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* The child has no thread, and its futures are abandoned. */
static void in_child(void) {
  first = NULL;
  is_running = false;
  tr_condition_init(&changed);
  pthread_mutex_unlock(&lock);
}

static void init_once(void) {
  tr_condition_init(&changed);
  pthread_atfork(before_fork, in_parent, in_child);
}

static void complete(timer *t) {
  tr_blob *nothing = t->is_limit ? NULL : tr_blob_new("", 0);
  if (nothing != NULL)
    tr_promise_complete(t->promise, nothing);
  else
    tr_promise_orphan(t->promise);
  tr_blob_release(nothing);
  tr_promise_release(t->promise);
  free(t);
}

static void *run(void *unused) {
  double until = tr_now() + IDLE_SECONDS;
  (void)unused;
  pthread_mutex_lock(&lock);
  while (first != NULL || tr_now() < until) {
    timer *t = first;
    if (t == NULL) {
      tr_condition_wait(&changed, &lock, until);
    } else if (t->moment > tr_now()) {
      tr_condition_wait(&changed, &lock, t->moment);
    } else {
      first = t->next;
      pthread_mutex_unlock(&lock);
      complete(t);
      until = tr_now() + IDLE_SECONDS;
      pthread_mutex_lock(&lock);
    }
  }
  is_running = false;
  pthread_mutex_unlock(&lock);
  return NULL;
}

/* Add a timer to the list. False without a thread for it. */
static bool add(timer *t) {
  timer **at = &first;
  bool runs;
  pthread_mutex_lock(&lock);
  is_running = is_running || tr_thread_start("theaterref-tim", run);
  runs = is_running;
  while (*at != NULL && (*at)->moment <= t->moment)
    at = &(*at)->next;
  if (runs) {
    t->next = *at;
    *at = t;
    pthread_cond_signal(&changed);
  }
  pthread_mutex_unlock(&lock);
  return runs;
}

/* Begin a timer for a promise, which it retains. False: memory or threads are short. */
static bool begin(tr_promise *promise, double seconds, bool is_limit) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  timer *t = malloc(sizeof *t);
  pthread_once(&once, init_once);
  if (t == NULL)
    return false;
  /* NaN counts as 0. */
  t->moment = tr_now() + (seconds > 0 ? seconds < MOST_SECONDS ? seconds : MOST_SECONDS : 0);
  t->promise = tr_promise_retain(promise);
  t->is_limit = is_limit;
  if (add(t))
    return true;
  tr_promise_release(promise);
  free(t);
  return false;
}

tr_future *tr_timer(double seconds) {
  tr_promise *promise = tr_promise_new(NULL, NULL);
  tr_future *future = promise != NULL ? tr_promise_future(promise, false) : NULL;
  if (future != NULL && !begin(promise, seconds, false)) {
    tr_future_release(future);
    future = NULL;
  }
  if (promise != NULL)
    tr_promise_release(promise);
  return future;
}

bool tr_timer_limit(tr_future *future, double seconds) {
  return begin(tr_future_promise(future), seconds, true);
}
