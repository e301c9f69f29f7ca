/*
** Notifiers: descriptors with a count of references. A few are kept for the next: making one
** costs more than most waits. Each is a timer: a signal is a timer that is over at once, and a deadline is one that is over
** then.
*/
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "future.h"

struct tr_notifier {
  atomic_size_t refs;
  atomic_bool signalled; /* since the last drain */
  double deadline;       /* a tr_now() moment, infinity: none; its owner's */
  int fd;
  tr_notifier *next;     /* unused ones */
  tr_notifier *all_prev, *all_next;
};

enum { MAX_UNUSED = 16 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_notifier *unused, *all;
static int unused_count;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* Have the timer over at a moment; at once if that is past; never if it is infinite. */
static void arm(const tr_notifier *n, double moment) {
  struct itimerspec when = {{0, 0}, {0, 0}};
  if (moment < 1e9) { /* far below what the fields hold */
    double whole = floor(fmax(moment, 0));
    when.it_value.tv_sec = (time_t)whole;
    when.it_value.tv_nsec = (long)((fmax(moment, 0) - whole) * 1e9);
    if (when.it_value.tv_sec == 0 && when.it_value.tv_nsec == 0)
      when.it_value.tv_nsec = 1; /* 0 would disarm it */
  }
  timerfd_settime(n->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static int new_timer(void) {
  return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
}

/* A timer would be one for parent and child: each would wake the other, and take
** its signals. The child gets its own under the same number; if it cannot have one, it
** gets none. */
static void renew(tr_notifier *n) {
  struct pollfd look = {.fd = n->fd, .events = POLLIN};
  bool signalled = poll(&look, 1, 0) > 0;
  int own = n->fd, fd;
  close(n->fd); /* first: it may be the last descriptor that there may be */
  n->fd = -1;
  fd = new_timer();
  if (fd >= 0 && fd != own && dup3(fd, own, O_CLOEXEC) == own) {
    close(fd);
    fd = own;
  }
  if (fd < 0)
    return;
  n->fd = fd;
  arm(n, signalled ? 0 : n->deadline);
}

static void in_child(void) {
  tr_notifier *n;
  for (n = all; n != NULL; n = n->all_next)
    renew(n);
  pthread_mutex_unlock(&lock);
}

static void at_fork(void) { pthread_atfork(before_fork, in_parent, in_child); }

void tr_notifier_prepare_fork(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
}

/* A signal that comes while the deadline is set again is set again, too. */
void tr_notifier_drain(tr_notifier *n) {
  uint64_t count;
  atomic_store(&n->signalled, false);
  while (read(n->fd, &count, sizeof count) < 0 && errno == EINTR)
    ;
  if (isinf(n->deadline))
    return;
  arm(n, n->deadline);
  if (atomic_load(&n->signalled))
    arm(n, 0);
}

void tr_notifier_signal(tr_notifier *n) {
  atomic_store(&n->signalled, true);
  arm(n, 0);
}

void tr_notifier_set_deadline(tr_notifier *n, double deadline) {
  n->deadline = deadline;
  arm(n, deadline);
  if (atomic_load(&n->signalled))
    arm(n, 0);
}

int tr_notifier_fd(const tr_notifier *n) { return n->fd; }

/* Take one that is unused, or return NULL. */
static tr_notifier *take_unused(void) {
  tr_notifier *n;
  pthread_mutex_lock(&lock);
  n = unused;
  if (n != NULL) {
    unused = n->next;
    unused_count--;
  }
  pthread_mutex_unlock(&lock);
  return n;
}

/* Keep one for the next, or close it. Under the lock: a child of fork() inherits no descriptor
** that is in no list. */
static void put_unused(tr_notifier *n) {
  bool keeps;
  pthread_mutex_lock(&lock);
  keeps = unused_count < MAX_UNUSED;
  if (keeps) {
    n->next = unused;
    unused = n;
    unused_count++;
  } else {
    *(n->all_prev != NULL ? &n->all_prev->all_next : &all) = n->all_next;
    if (n->all_next != NULL)
      n->all_next->all_prev = n->all_prev;
    if (n->fd >= 0)
      close(n->fd);
  }
  pthread_mutex_unlock(&lock);
  if (!keeps)
    free(n);
}

tr_notifier *tr_notifier_new(void) {
  tr_notifier *n;
  tr_notifier_prepare_fork();
  n = take_unused();
  if (n != NULL && n->fd < 0 && (n->fd = new_timer()) < 0) {
    put_unused(n); /* from a fork that could have no more */
    return NULL;
  }
  if (n == NULL) {
    n = malloc(sizeof *n);
    if (n == NULL)
      return NULL;
    n->deadline = HUGE_VAL;
    atomic_init(&n->signalled, false);
    n->fd = new_timer();
    if (n->fd < 0) {
      free(n);
      return NULL;
    }
    pthread_mutex_lock(&lock);
    n->all_prev = NULL;
    n->all_next = all;
    if (all != NULL)
      all->all_prev = n;
    all = n;
    pthread_mutex_unlock(&lock);
  }
  atomic_init(&n->refs, 1);
  return n;
}

void tr_notifier_release(tr_notifier *n) {
  if (n == NULL ||
      atomic_fetch_sub_explicit(&n->refs, 1, memory_order_acq_rel) != 1)
    return;
  n->deadline = HUGE_VAL;
  arm(n, HUGE_VAL);
  atomic_store(&n->signalled, false);
  put_unused(n);
}

tr_notifier *tr_notifier_retain(tr_notifier *n) {
  atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
  return n;
}
