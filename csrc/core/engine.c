/*
** The fetch engine: one libcurl multi handle for the process, so that every
** Lua state and thread shares connections, TLS sessions and name lookups.
**
** One thread at a time may use a multi handle: the driver. A thread that waits
** for a future becomes the driver if there is none, which saves two thread
** switches per fetch. The engine's own thread watches while there is work: it
** becomes the driver as soon as nobody else has been for a millisecond.
**
** Other threads hand requests to the driver by posting them. The driver alone (see
** driver.c) touches the queues, the heap, the handles and the fields of requests.
*/
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"
#include "driver.h"
#include "error.h"
#include "options.h"
#include "s3_places.h"
#include "thread.h"

/* Seconds that the engine's thread leaves the work to a thread that may wait. */
static const double GRACE = 0.001;
/* It looks that often while threads come and go, so that they need not wake it
** each time; ever less often while nothing changes, and at last not at all. */
static const double LONGEST_NAP = 0.05;
/* Seconds that a waiting thread gives the engine's thread to leave the work. */
static const double HANDOVER = 0.005;
/* Seconds that the exit of the process waits for a driver. */
static const double EXIT_PATIENCE = 5;

static struct engine {
  pthread_mutex_t lock; /* guards all fields */
  pthread_cond_t changed;
  CURLM *multi;
  int wake_fd; /* an eventfd that the driver listens to */
  bool driven, stopping, ending; /* ending: the process is */
  bool by_thread; /* the driver is the engine's thread */
  int waiting;    /* threads that want to be the driver instead */
  bool watching; /* the engine's thread looks for work */
  double nap;    /* seconds that it sleeps before it looks again */
  bool changes;  /* there was a request, or a driver, since it looked */
  bool urgent;   /* it is to drive without delay */
  bool has_thread;
  double left_at; /* when a waiting thread was the driver last */
  size_t pending; /* requests that are not finished */
  tr_request *posted, **posted_end;
  size_t max_connections, max_per_origin;
} engine = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .wake_fd = -1,
            .posted_end = &engine.posted,
            .max_connections = 128,
            .max_per_origin = 32};

/* ------------------------------------------------------------------- posting */

/* Wake the driver, if it sleeps. */
static void wake(void) {
  uint64_t one = 1;
  while (write(engine.wake_fd, &one, sizeof one) < 0 && errno == EINTR)
    ;
}

static void *run(void *unused);

/* See to it that there is a driver: at once, unless a thread is about to wait, as
** one that was the driver a moment ago does. The lock is held. */
static void call_driver(bool at_once) {
  bool urgent = at_once && tr_now() - engine.left_at > GRACE;
  if (engine.driven) {
    wake();
    return;
  }
  if (!engine.has_thread)
    engine.has_thread = tr_thread_start("theaterref-net", run);
  if ((urgent && !engine.urgent) || !engine.watching || engine.nap > GRACE) {
    engine.watching = true;
    engine.nap = GRACE;
    pthread_cond_broadcast(&engine.changed);
  }
  engine.urgent |= urgent;
  engine.changes = true;
}

/* Hand a request to the driver. The lock is held. */
static void post(tr_request *r, bool at_once) {
  if (!r->posted) {
    r->posted = true;
    r->posted_next = NULL;
    *engine.posted_end = r;
    engine.posted_end = &r->posted_next;
  }
  call_driver(at_once);
}

/* Take a request off the list of those that were posted. The lock is held. */
static void unpost(tr_request *r) {
  tr_request **link = &engine.posted;
  while (*link != r)
    link = &(*link)->posted_next;
  *link = r->posted_next;
  if (*link == NULL)
    engine.posted_end = link;
  r->posted = false;
}

/* tr_dns_query's 'done'. */
static void on_answer(tr_dns_query *query, tr_dns_answer *answer) {
  tr_request *r =
      (tr_request *)((char *)query - offsetof(tr_request, query));
  pthread_mutex_lock(&engine.lock);
  r->answer = answer;
  r->looked_up = true;
  post(r, true);
  pthread_mutex_unlock(&engine.lock);
}

/* tr_hasher's 'done'. */
static void on_hashed(void *context) {
  tr_request *r = context;
  pthread_mutex_lock(&engine.lock);
  r->hashed = true;
  post(r, true);
  pthread_mutex_unlock(&engine.lock);
}

/* tr_driver_hooks: call tr_driver_take for every request that was posted. */
static void take_all_posted(void) {
  pthread_mutex_lock(&engine.lock);
  while (engine.posted != NULL) {
    tr_request *r = engine.posted;
    unpost(r);
    pthread_mutex_unlock(&engine.lock);
    tr_driver_take(r);
    pthread_mutex_lock(&engine.lock);
  }
  pthread_mutex_unlock(&engine.lock);
}

/* tr_driver_hooks: the request is finished. */
static void retire(tr_request *r) {
  pthread_mutex_lock(&engine.lock);
  engine.pending--;
  tr_promise_set_work(r->promise, NULL);
  if (r->posted)
    unpost(r); /* nobody may drive for what is left on that list */
  pthread_mutex_unlock(&engine.lock);
}

static const tr_driver_hooks hooks = {take_all_posted, retire};

/* ----------------------------------------------------------------- who drives */

static double advance(void) {
  size_t all, per_origin;
  pthread_mutex_lock(&engine.lock);
  all = engine.max_connections;
  per_origin = engine.max_per_origin;
  pthread_mutex_unlock(&engine.lock);
  return tr_driver_advance(all, per_origin);
}

/* Sleep for some time, or until something changes. The lock is held. */
static void rest(double seconds) {
  tr_condition_wait(&engine.changed, &engine.lock, tr_now() + seconds);
}

/* Become the driver, in place of the engine's thread. False: another waiting
** thread is, or the process is ending. */
static bool become_driver(void) {
  bool possible;
  pthread_mutex_lock(&engine.lock);
  if (engine.driven && engine.by_thread && !engine.stopping) {
    engine.waiting++;
    wake();
    rest(HANDOVER);
    engine.waiting--;
  }
  possible = !engine.driven && !engine.stopping && engine.multi != NULL;
  if (possible)
    engine.driven = true;
  pthread_mutex_unlock(&engine.lock);
  return possible;
}

/* Be the driver no more. The lock is held. */
static void leave_driver(void) {
  engine.driven = engine.by_thread = false;
  if (engine.stopping || engine.waiting > 0)
    pthread_cond_broadcast(&engine.changed);
}

static bool is_stopping(void) {
  bool stopping;
  pthread_mutex_lock(&engine.lock);
  stopping = engine.stopping;
  pthread_mutex_unlock(&engine.lock);
  return stopping;
}

/* tr_worker: drive for as long as the caller would wait. */
static bool drive(tr_promise *promise, double deadline, tr_error *unused) {
  (void)unused;
  if (!become_driver())
    return true;
  while (tr_promise_status(promise) == TR_PENDING && !tr_interrupted()) {
    double moment = advance();
    if (tr_promise_status(promise) != TR_PENDING || tr_now() >= deadline ||
        is_stopping())
      break;
    tr_driver_wait(fmin(moment, deadline));
  }
  pthread_mutex_lock(&engine.lock);
  leave_driver();
  engine.left_at = tr_now();
  engine.changes = true;
  if (engine.pending > 0)
    call_driver(false);
  pthread_mutex_unlock(&engine.lock);
  return true;
}

/* tr_worker: the last future of a promise is gone. */
static void unwanted(tr_promise *promise) {
  tr_request *r;
  pthread_mutex_lock(&engine.lock);
  r = tr_promise_work(promise);
  if (r != NULL && !engine.stopping)
    post(r, true);
  pthread_mutex_unlock(&engine.lock);
}

static const tr_worker worker = {drive, unwanted};

/* ------------------------------------------------------- the engine's thread */

/* Drive until there is nothing left to do, or a waiting thread takes over. The
** lock is held. */
static void drive_all(void) {
  engine.driven = engine.by_thread = true;
  engine.urgent = false;
  while (engine.pending > 0 && !engine.stopping && engine.waiting == 0) {
    double moment;
    pthread_mutex_unlock(&engine.lock);
    moment = advance();
    pthread_mutex_lock(&engine.lock);
    if (engine.pending == 0 || engine.stopping || engine.waiting > 0)
      break;
    pthread_mutex_unlock(&engine.lock);
    tr_driver_wait(moment);
    pthread_mutex_lock(&engine.lock);
  }
  leave_driver();
}

/* True if the engine's thread is to drive: there is work, and nobody else for it.
** The lock is held. */
static bool is_needed(void) {
  return engine.pending > 0 && !engine.driven && engine.waiting == 0 &&
         (engine.urgent || tr_now() - engine.left_at >= GRACE);
}

static void *run(void *unused) {
  (void)unused;
  pthread_mutex_lock(&engine.lock);
  while (!engine.stopping) {
    if (!engine.watching) {
      pthread_cond_wait(&engine.changed, &engine.lock);
    } else if (is_needed()) {
      drive_all();
    } else if (engine.nap > LONGEST_NAP) {
      engine.watching = false;
    } else {
      engine.urgent = engine.changes = false;
      rest(engine.nap);
      if (engine.changes || (engine.pending > 0 && !engine.driven))
        engine.nap = GRACE;
      else
        engine.nap *= 2;
    }
  }
  engine.has_thread = false;
  pthread_cond_broadcast(&engine.changed);
  pthread_mutex_unlock(&engine.lock);
  return NULL;
}

/* ------------------------------------------------------------ start and stop */

/* Allow fetches again, unless the process is ending. The lock is held. */
static void start_again(void) {
  engine.stopping = engine.watching = engine.urgent = false;
  pthread_cond_broadcast(&engine.changed);
}

/* Stop driving, in every thread. True: the engine is at rest, and the caller's;
** another that stops it meanwhile is waited for. */
static bool stop(bool for_good) {
  double patience = tr_now() + EXIT_PATIENCE;
  bool at_rest;
  pthread_mutex_lock(&engine.lock);
  engine.ending |= for_good;
  while (engine.multi != NULL && engine.stopping && tr_now() < patience)
    rest(patience - tr_now());
  if (engine.multi == NULL || engine.stopping) { /* nothing to stop, or too late */
    pthread_mutex_unlock(&engine.lock);
    return false;
  }
  engine.stopping = true;
  if (engine.driven)
    wake();
  pthread_cond_broadcast(&engine.changed);
  while ((engine.driven || engine.has_thread) && tr_now() < patience)
    rest(patience - tr_now());
  at_rest = !engine.driven && !engine.has_thread;
  if (!at_rest && !engine.ending)
    start_again();
  pthread_mutex_unlock(&engine.lock);
  return at_rest;
}

/* Abandon what is under way and free what libcurl holds. */
static void clean_up(void) {
  tr_driver_close();
  pthread_mutex_lock(&engine.lock);
  engine.multi = NULL;
  close(engine.wake_fd);
  engine.wake_fd = -1;
  start_again();
  pthread_mutex_unlock(&engine.lock);
}

/* Runs before the exit handlers of libcurl and OpenSSL, which must not find a
** request under way. A driver that does not stop in time is left alone. */
static void at_exit(void) {
  if (stop(true))
    clean_up();
}

void tr_shutdown(void) {
  if (stop(false))
    clean_up();
}

static void before_fork(void) { pthread_mutex_lock(&engine.lock); }
static void in_parent(void) { pthread_mutex_unlock(&engine.lock); }

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static struct engine inherited;

/* The child starts with an empty engine. A thread that the child does not have
** may have been changing the inherited one, so that is left alone. */
static void in_child(void) {
  inherited = engine;
  engine.multi = NULL;
  engine.wake_fd = -1;
  engine.driven = engine.by_thread = engine.stopping = engine.has_thread = false;
  engine.ending = false;
  engine.waiting = 0;
  engine.left_at = 0;
  engine.watching = engine.urgent = false;
  engine.pending = 0;
  engine.posted = NULL;
  engine.posted_end = &engine.posted;
  tr_driver_forget();
  tr_condition_init(&engine.changed);
  pthread_mutex_unlock(&engine.lock);
}

static void init_once(void) {
  tr_condition_init(&engine.changed);
  tr_future_prepare_fork();
  pthread_atfork(before_fork, in_parent, in_child);
  tr_config_prepare_fork();
  tr_places_prepare_fork();
  tr_dns_prepare_fork(); /* its lock is taken before the engine's */
  atexit(at_exit);
}

/* Fill the places of standard input, output and error if they are closed: else
** sockets would take them, and a program would write its messages to servers. */
static void hold_standard_descriptors(void) {
  int fd;
  do
    fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= 2);
  if (fd > 2)
    close(fd);
}

/* Make what the engine needs. The lock is held. */
static bool start_engine(tr_error *error) {
  if (engine.multi != NULL)
    return true;
  hold_standard_descriptors();
  engine.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (engine.wake_fd < 0) {
    tr_error_errno(error, errno, "Failed to make", "an eventfd");
    return false;
  }
  engine.multi = tr_curl_new_multi();
  if (engine.multi != NULL) {
    tr_driver_open(engine.multi, engine.wake_fd, &hooks);
    return true;
  }
  close(engine.wake_fd);
  engine.wake_fd = -1;
  tr_error_nomem(error);
  return false;
}

static void start_another(tr_request *r);

/* tr_request.wake */
static void wake_request(tr_request *r) {
  pthread_mutex_lock(&engine.lock);
  post(r, true);
  pthread_mutex_unlock(&engine.lock);
}

/* Hand a request to the driver; false: its promise has a result. The lock is held. */
static bool hand_over(tr_request *r, bool at_once) {
  if (!tr_promise_assign(r->promise, &worker))
    return false;
  tr_promise_set_work(r->promise, r);
  r->on_hashed = on_hashed;
  r->query.done = on_answer;
  r->start = start_another;
  r->wake = wake_request;
  engine.pending++;
  post(r, at_once);
  return true;
}

/* tr_request.start: of the driver, which takes what is posted before it stops. */
static void start_another(tr_request *r) {
  pthread_mutex_lock(&engine.lock);
  hand_over(r, true); /* its promise is new */
  pthread_mutex_unlock(&engine.lock);
}

/* Hand a request to the driver. False with the error. */
static bool submit(tr_request *r, bool will_wait, tr_error *error) {
  bool open;
  pthread_mutex_lock(&engine.lock);
  while (engine.stopping && !engine.ending) /* tr_shutdown in another thread */
    rest(EXIT_PATIENCE);
  open = !engine.ending;
  if (!open)
    tr_error_set(error, TR_CANCELLED,
                 "Failed to fetch from %s: it is too late, the process is "
                 "ending",
                 r->shown);
  else
    open = start_engine(error);
  if (open && tr_promise_work(r->promise) != NULL) {
    tr_error_set(error, TR_CANCELLED,
                 "Failed to fetch from %s: its future waits for another fetch",
                 r->shown);
    open = false;
  } else if (open && !hand_over(r, !will_wait)) {
    tr_error_set(error, TR_CANCELLED,
                 "Failed to fetch from %s: its future has a result already",
                 r->shown);
    open = false;
  }
  pthread_mutex_unlock(&engine.lock);
  return open;
}

bool tr_engine_fetch(tr_promise *promise, const char *url,
                     const tr_fetch_options *options, const tr_request_extra *extra,
                     bool will_wait, tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_request *r;
  if (!tr_options_copy(&o, sizeof o, options, "TR_FETCH_OPTIONS", error) ||
      !tr_curl_open(error))
    return false;
  pthread_once(&once, init_once); /* after libcurl's: its exit handler, too */
  r = tr_request_new(promise, url, &o, extra, error);
  if (r == NULL)
    return false;
  if (submit(r, will_wait, error))
    return true;
  tr_request_free(r);
  return false;
}

bool tr_fetch(tr_future *future, const char *url,
              const tr_fetch_options *options, tr_error *error) {
  error = tr_error_or_ignored(error);
  if (url == NULL) {
    tr_error_set(error, TR_INVALID_REFERENCE, "the URL is missing (NULL)");
    return false;
  }
  return tr_engine_fetch(tr_future_promise(future), url, options, NULL, false,
                         error);
}

bool tr_engine_configure(const tr_engine_options *options, tr_error *error) {
  tr_engine_options o = TR_ENGINE_OPTIONS;
  tr_error ignored;
  if (!tr_options_copy(&o, sizeof o, options, "TR_ENGINE_OPTIONS",
                       error != NULL ? error : &ignored))
    return false;
  pthread_mutex_lock(&engine.lock);
  if (o.max_connections > 0)
    engine.max_connections = (size_t)o.max_connections;
  if (o.max_host_connections > 0)
    engine.max_per_origin = (size_t)o.max_host_connections;
  pthread_mutex_unlock(&engine.lock);
  return true;
}
