/* Notifiers: eventfds with a count of references, kept for the next. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "future.h"

struct tr_notifier {
  atomic_size_t refs;
  int fd;
  tr_notifier *next;     /* unused ones */
  tr_notifier *all_next; /* none is ever freed */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_notifier *unused, *all;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* An eventfd would be one for parent and child: each would wake the other, and
** take its signals. The child gets its own under the same number. */
static void renew(const tr_notifier *n) {
  struct pollfd look = {.fd = n->fd, .events = POLLIN};
  bool signalled = poll(&look, 1, 0) > 0;
  int fd = eventfd(signalled, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0)
    return;
  dup3(fd, n->fd, O_CLOEXEC);
  close(fd);
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

void tr_notifier_drain(tr_notifier *n) {
  uint64_t count;
  while (read(n->fd, &count, sizeof count) < 0 && errno == EINTR)
    ;
}

void tr_notifier_signal(tr_notifier *n) {
  uint64_t one = 1;
  while (write(n->fd, &one, sizeof one) < 0 && errno == EINTR)
    ; /* a full counter refuses it, and is readable already */
}

int tr_notifier_fd(const tr_notifier *n) { return n->fd; }

tr_notifier *tr_notifier_new(void) {
  tr_notifier *n;
  tr_notifier_prepare_fork();
  pthread_mutex_lock(&lock);
  n = unused;
  if (n != NULL)
    unused = n->next;
  pthread_mutex_unlock(&lock);
  if (n == NULL) {
    n = malloc(sizeof *n);
    if (n == NULL)
      return NULL;
    n->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->fd < 0) {
      free(n);
      return NULL;
    }
    pthread_mutex_lock(&lock);
    n->all_next = all;
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
  tr_notifier_drain(n);
  pthread_mutex_lock(&lock);
  n->next = unused;
  unused = n;
  pthread_mutex_unlock(&lock);
}

tr_notifier *tr_notifier_retain(tr_notifier *n) {
  atomic_fetch_add_explicit(&n->refs, 1, memory_order_relaxed);
  return n;
}
