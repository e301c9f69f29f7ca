/* One thread makes the calls of all timers, such as completing promises and ending late ones. It
** exits when it has had nothing to do for a while. */
#include "timer.h"

#include <stdlib.h>

#include "future.h"
#include "thread.h"

static const double MOST_SECONDS = 3600, IDLE_SECONDS = 5;

typedef struct timer {
  struct timer *next;
  double moment;
  void (*call)(void *context);
  void *context;
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
      t->call(t->context);
      free(t);
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

bool tr_timer_call(double seconds, void (*call)(void *context), void *context) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  timer *t = malloc(sizeof *t);
  pthread_once(&once, init_once);
  if (t == NULL)
    return false;
  /* NaN counts as 0. */
  t->moment = tr_now() + (seconds > 0 ? seconds < MOST_SECONDS ? seconds : MOST_SECONDS : 0);
  t->call = call;
  t->context = context;
  if (add(t))
    return true;
  free(t);
  return false;
}

/* Give the promise of a timer its empty blob. */
static void complete(void *context) {
  tr_promise *promise = context;
  tr_blob *nothing = tr_blob_new("", 0);
  if (nothing != NULL)
    tr_promise_complete(promise, nothing);
  else
    tr_promise_orphan(promise);
  tr_blob_release(nothing);
  tr_promise_release(promise);
}

/* End somebody else's promise. */
static void give_up(void *context) {
  tr_promise_orphan(context);
  tr_promise_release(context);
}

tr_future *tr_timer(double seconds) {
  tr_promise *promise = tr_promise_new(NULL, NULL);
  tr_future *future = promise != NULL ? tr_promise_future(promise, false) : NULL;
  if (future != NULL && tr_timer_call(seconds, complete, promise))
    return future;
  tr_future_release(future);
  if (promise != NULL)
    tr_promise_release(promise);
  return NULL;
}

bool tr_timer_limit(tr_future *future, double seconds) {
  tr_promise *promise = tr_promise_retain(tr_future_promise(future));
  if (tr_timer_call(seconds, give_up, promise))
    return true;
  tr_promise_release(promise);
  return false;
}
