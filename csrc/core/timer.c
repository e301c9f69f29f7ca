/* One thread makes the calls of all timers, such as completing promises and ending late ones. It
** exits when it has had nothing to do for a while. */
#include "timer.h"

#include <stdlib.h>

#include "future.h"
#include "thread.h"

static const double MOST_SECONDS = 3600, IDLE_SECONDS = 5;

typedef struct timer {
  double moment;
  void (*call)(void *context);
  void (*drop)(void *context);
  void *context;
} timer;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static timer **heap; /* the earliest is the first; those of 'i' are 2i + 1 and 2i + 2 */
static size_t count, room;
static bool is_running;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* The child has no thread, and its futures are abandoned. */
static void in_child(void) {
  while (count > 0) {
    timer *t = heap[--count];
    t->drop(t->context);
    free(t);
  }
  is_running = false;
  tr_condition_init(&changed);
  pthread_mutex_unlock(&lock);
}

static void init_once(void) {
  tr_condition_init(&changed);
  tr_future_prepare_fork(); /* first, so that promises can be released in a child */
  pthread_atfork(before_fork, in_parent, in_child);
}

static void swap(size_t i, size_t k) {
  timer *t = heap[i];
  heap[i] = heap[k];
  heap[k] = t;
}

/* Put a timer into the heap. False: memory is short. */
static bool push(timer *t) {
  size_t i = count;
  if (count == room) {
    size_t more = room > 0 ? 2 * room : 16;
    timer **larger = realloc(heap, more * sizeof *heap);
    if (larger == NULL)
      return false;
    heap = larger;
    room = more;
  }
  heap[count++] = t;
  for (; i > 0 && heap[(i - 1) / 2]->moment > heap[i]->moment; i = (i - 1) / 2)
    swap(i, (i - 1) / 2);
  return true;
}

/* Take the earliest timer out of the heap. */
static timer *pop(void) {
  timer *t = heap[0];
  size_t i = 0, least;
  heap[0] = heap[--count];
  for (;; i = least) {
    size_t left = 2 * i + 1, right = left + 1;
    least = left < count && heap[left]->moment < heap[i]->moment ? left : i;
    if (right < count && heap[right]->moment < heap[least]->moment)
      least = right;
    if (least == i)
      return t;
    swap(i, least);
  }
}

static void *run(void *unused) {
  double until = tr_now() + IDLE_SECONDS;
  (void)unused;
  pthread_mutex_lock(&lock);
  while (count > 0 || tr_now() < until) {
    if (count == 0) {
      tr_condition_wait(&changed, &lock, until);
    } else if (heap[0]->moment > tr_now()) {
      tr_condition_wait(&changed, &lock, heap[0]->moment);
    } else {
      timer *t = pop();
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

/* Add a timer. False without a thread for it, or if memory is short. */
static bool add(timer *t) {
  bool added;
  pthread_mutex_lock(&lock);
  is_running = is_running || tr_thread_start("theaterref-tim", run);
  added = is_running && push(t);
  if (added)
    pthread_cond_signal(&changed);
  pthread_mutex_unlock(&lock);
  return added;
}

bool tr_timer_call(double seconds, void (*call)(void *context), void (*drop)(void *context),
                   void *context) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  timer *t = malloc(sizeof *t);
  pthread_once(&once, init_once);
  if (t == NULL)
    return false;
  /* NaN counts as 0. */
  t->moment = tr_now() + (seconds > 0 ? seconds < MOST_SECONDS ? seconds : MOST_SECONDS : 0);
  t->call = call;
  t->drop = drop;
  t->context = context;
  if (add(t))
    return true;
  free(t);
  return false;
}

static void release(void *promise) { tr_promise_release(promise); }

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
  if (future != NULL && tr_timer_call(seconds, complete, release, promise))
    return future;
  tr_future_release(future);
  if (promise != NULL)
    tr_promise_release(promise);
  return NULL;
}

bool tr_timer_limit(tr_future *future, double seconds) {
  tr_promise *promise = tr_promise_retain(tr_future_promise(future));
  if (tr_timer_call(seconds, give_up, release, promise))
    return true;
  tr_promise_release(promise);
  return false;
}
