/*
** The fetch engine: one libcurl multi handle for the process, so that every
** Lua state and thread shares connections, TLS sessions and name lookups.
**
** One thread at a time may use a multi handle: the driver. A thread that waits
** for a future becomes the driver if there is none, which saves two thread
** switches per fetch. The engine's own thread watches while there is work: it
** becomes the driver as soon as nobody else has been for a millisecond.
**
** Other threads hand requests to the driver by posting them. The driver alone
** touches the queues, the heap, the handles and the fields of requests.
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
#include "error.h"
#include "handle.h"
#include "options.h"
#include "outage.h"
#include "queue.h"
#include "socket.h"
#include "thread.h"

/* The longest that the driver sleeps, and so the longest that an interrupt
** takes to be seen. */
static const double MAX_SLEEP = 0.1;
/* For how long bodies that keep coming hold up what waits for the driver. */
static const double MAX_ADVANCE = 0.001;
/* Of all bodies together, in one call of libcurl: a millisecond or two. */
static const size_t TURN_BYTES = 1024 * 1024;
/* Seconds that the engine's thread leaves the work to a thread that may wait. */
static const double GRACE = 0.001;
/* Seconds that it keeps watching when there is nothing to do, so that a loop of
** fetches does not have to wake it each time. */
static const double WATCH = 0.05;
/* Seconds that a waiting thread gives the engine's thread to leave the work. */
static const double HANDOVER = 0.005;
/* Seconds that the exit of the process waits for a driver. */
static const double EXIT_PATIENCE = 5;

static struct engine {
  pthread_mutex_t lock; /* guards the fields up to 'max_per_origin' */
  pthread_cond_t changed;
  CURLM *multi;
  int wake_fd; /* an eventfd that the driver listens to */
  bool driven, stopping, ending; /* ending: the process is */
  bool by_thread; /* the driver is the engine's thread */
  int waiting;    /* threads that want to be the driver instead */
  bool watching; /* the engine's thread looks for work */
  bool urgent;   /* it is to drive without delay */
  bool has_thread;
  double left_at; /* when a waiting thread was the driver last */
  size_t pending; /* requests that are not finished */
  tr_request *posted, **posted_end;
  size_t max_connections, max_per_origin;

  tr_request *all; /* the driver's, from here on */
  size_t running, kept_connections;
} engine = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .wake_fd = -1,
            .posted_end = &engine.posted,
            .max_connections = 128,
            .max_per_origin = 32};

static uint64_t progress; /* the driver's: changes when anything does */

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
  if (engine.driven) {
    wake();
    return;
  }
  if (!engine.has_thread)
    engine.has_thread = tr_thread_start("theaterref-net", run);
  if (at_once || !engine.watching) {
    engine.watching = true;
    engine.urgent |= at_once && tr_now() - engine.left_at > GRACE;
    pthread_cond_broadcast(&engine.changed);
  }
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

/* ------------------------------------------------------------------ requests */

/* Note whether the servers of a request are well: the one asked for, too, which
** is all that a cache knows. */
static void note_outage(const tr_request *r, bool failed) {
  tr_outage_note(&r->url, failed);
  if (r->asked.text != NULL)
    tr_outage_note(&r->asked, failed);
}

/* Give the promise its result and forget the request. Driver only. */
static void finish(tr_request *r, tr_blob *blob, const tr_error *error) {
  tr_dns_cancel(&r->query);
  tr_hasher_free(r->hasher); /* from here on, no other thread posts it */
  r->hasher = NULL;
  tr_heap_remove(r);
  tr_queue_leave(r);
  *(r->all_prev != NULL ? &r->all_prev->all_next : &engine.all) = r->all_next;
  if (r->all_next != NULL)
    r->all_next->all_prev = r->all_prev;
  pthread_mutex_lock(&engine.lock);
  engine.pending--;
  tr_promise_set_work(r->promise, NULL);
  if (r->posted)
    unpost(r); /* nobody may drive for what is left on that list */
  pthread_mutex_unlock(&engine.lock);
  if (blob != NULL || error != NULL)
    note_outage(r, blob == NULL && tr_is_outage(error));
  if (blob != NULL)
    tr_promise_complete(r->promise, blob);
  else if (error != NULL)
    tr_promise_fail(r->promise, error);
  else
    tr_promise_orphan(r->promise);
  tr_promise_resign(r->promise);
  tr_blob_release(blob);
  progress++;
  tr_request_free(r);
}

/* The moment at which a request is to be looked at. */
static double next_moment(const tr_request *r) {
  double moment = HUGE_VAL;
  if (r->state == TR_REQUEST_LOOKUP ||
      (r->state == TR_REQUEST_RUNNING && !r->connected))
    moment = r->connect_by;
  else if (r->state == TR_REQUEST_RUNNING && r->response.status >= 300 &&
           r->response.complete_headers) /* the status decides already */
    moment = r->headers_at + TR_ERROR_SECONDS;
  else if (r->state == TR_REQUEST_RUNNING && r->stall_timeout >= 0)
    moment = r->last_progress + r->stall_timeout;
  else if (r->state == TR_REQUEST_RESTING)
    moment = r->not_before;
  return fmin(moment, r->deadline);
}

/* Have a request looked at in time; false: it is finished for lack of memory. */
static bool schedule(tr_request *r) {
  tr_error error;
  if (tr_heap_set(r, next_moment(r)))
    return true;
  tr_error_nomem(&error);
  finish(r, NULL, &error);
  return false;
}

/* Take a running request out of the multi handle. Its handle stays with it, for
** questions about how it ended. */
static void stop_running(tr_request *r) {
  tr_handle **link = &tr_request_turn.paused;
  if (r->handle->paused) {
    while (*link != r->handle)
      link = &(*link)->next;
    *link = r->handle->next;
    r->handle->paused = false;
  }
  curl_multi_remove_handle(engine.multi, r->handle->easy);
  tr_queue_stop(r);
  engine.running--;
  r->state = TR_REQUEST_NEW;
}

static void end_attempt(tr_request *r, CURLcode code);

/* Queue a request, or look its host up before. */
static void proceed(tr_request *r, bool in_front) {
  if (r->lookup_host == NULL || r->answer != NULL ||
      (r->answer = tr_dns_cached(r->lookup_host)) != NULL) {
    if (r->answer != NULL && r->answer->error != 0) {
      end_attempt(r, CURLE_COULDNT_RESOLVE_HOST);
      return;
    }
    tr_queue_push(r, in_front);
  } else {
    r->state = TR_REQUEST_LOOKUP;
    r->connect_by = tr_deadline(r->config->connect_timeout);
    r->connected = r->looked_up = false;
    if (!tr_dns_start(&r->query, r->lookup_host)) {
      tr_error error;
      tr_error_set(&error, TR_IO,
                   "Failed to fetch from %s: no memory or thread to look up "
                   "its host",
                   r->shown);
      finish(r, NULL, &error);
      return;
    }
  }
  schedule(r);
}

/* Prepare the next attempt of a request. */
static void go_on(tr_request *r) {
  tr_error error;
  if (r->moved) { /* it counts for the origin that it goes to */
    r->moved = false;
    tr_queue_leave(r);
    if (!tr_queue_join(r)) {
      tr_error_nomem(&error);
      finish(r, NULL, &error);
      return;
    }
  }
  if (r->not_before > tr_now()) {
    r->state = TR_REQUEST_RESTING;
    if (r->answer != NULL && r->answer->error != 0) {
      tr_dns_release(r->answer); /* look it up again then */
      r->answer = NULL;
    }
    schedule(r);
  } else {
    proceed(r, true);
  }
}

/* An attempt has ended; its handle, if it had one, is not in the multi handle. */
static void end_attempt(tr_request *r, CURLcode code) {
  tr_error error;
  tr_blob *blob;
  tr_verdict verdict = tr_request_end_attempt(r, (int)code, &blob, &error);
  /* One that failed may keep its buffers and its connection: not used again. */
  if (r->handle != NULL)
    tr_handle_release(r->handle, code == CURLE_OK);
  r->handle = NULL;
  progress++;
  if (verdict == TR_VERDICT_DONE) {
    finish(r, blob, blob == NULL ? &error : NULL);
  } else if (verdict == TR_VERDICT_AGAIN) {
    go_on(r);
  } else {
    r->state = TR_REQUEST_HASHING;
    schedule(r);
  }
}

/* Start an attempt of a request whose turn has come. */
static void start_attempt(tr_request *r) {
  CURLcode code = CURLE_OK;
  tr_error error;
  tr_handle *h = tr_handle_get(r->config, &code);
  bool ready = h != NULL && tr_request_send(r, h);
  tr_queue_start(r);
  engine.running++;
  if (ready && curl_multi_add_handle(engine.multi, h->easy) == CURLM_OK) {
    progress++;
    schedule(r);
    return;
  }
  tr_queue_stop(r);
  engine.running--;
  r->state = TR_REQUEST_NEW;
  if (h != NULL)
    tr_handle_release(h, false);
  r->handle = NULL;
  if (code != CURLE_OK)
    tr_error_set(&error, TR_IO, "this libcurl cannot do what is asked: %s",
                 curl_easy_strerror(code));
  else
    tr_error_nomem(&error);
  finish(r, NULL, &error);
}

/* End a request in mid-attempt, if there is one, with an error or no result. */
static void break_off(tr_request *r, const tr_error *error) {
  if (r->state == TR_REQUEST_RUNNING) {
    stop_running(r);
    tr_handle_release(r->handle, false);
    r->handle = NULL;
  }
  finish(r, NULL, error);
}

/* End a request without a result. */
static void drop(tr_request *r) { break_off(r, NULL); }

/* --------------------------------------------------------------- the driver */

/* A request has its connection, and other limits from now on. */
static void on_connected(tr_request *r) {
  tr_queue_connected(r);
  tr_heap_set(r, next_moment(r)); /* it is in the heap: this needs no memory */
}

/* A request that the driver has not seen yet. */
static void adopt(tr_request *r) {
  tr_error error;
  r->all_next = engine.all;
  if (r->all_next != NULL)
    r->all_next->all_prev = r;
  engine.all = r;
  r->on_hashed = on_hashed;
  r->on_connected = on_connected;
  r->query.done = on_answer;
  r->adopted = true;
  if (!tr_promise_wanted(r->promise)) {
    drop(r); /* its futures are gone already */
  } else if (tr_queue_join(r)) {
    proceed(r, false);
  } else {
    tr_error_nomem(&error);
    finish(r, NULL, &error);
  }
}

/* A request that some thread has posted. */
static void take_posted(tr_request *r) {
  tr_error error;
  tr_blob *blob;
  if (!r->adopted) {
    adopt(r);
  } else if (!tr_promise_wanted(r->promise)) {
    drop(r);
  } else if (r->state == TR_REQUEST_LOOKUP && r->looked_up) {
    r->state = TR_REQUEST_NEW;
    proceed(r, false);
  } else if (r->state == TR_REQUEST_HASHING && r->hashed) {
    tr_request_end_hashing(r, &blob, &error);
    finish(r, blob, blob == NULL ? &error : NULL);
  }
}

static void take_all_posted(void) {
  pthread_mutex_lock(&engine.lock);
  while (engine.posted != NULL) {
    tr_request *r = engine.posted;
    unpost(r);
    pthread_mutex_unlock(&engine.lock);
    take_posted(r);
    pthread_mutex_lock(&engine.lock);
  }
  pthread_mutex_unlock(&engine.lock);
}

/* The moment of a request has come. */
static void on_moment(tr_request *r, double now) {
  tr_error error;
  if (now >= r->deadline) {
    tr_request_time_out(r, engine.running, &error);
    break_off(r, &error);
  } else if (now < next_moment(r)) {
    schedule(r); /* there was progress since */
  } else if (r->state == TR_REQUEST_RESTING) {
    r->state = TR_REQUEST_NEW;
    proceed(r, false);
  } else {
    r->stalled = true;
    if (r->state == TR_REQUEST_RUNNING)
      stop_running(r);
    tr_dns_cancel(&r->query);
    r->state = TR_REQUEST_NEW;
    end_attempt(r, CURLE_OPERATION_TIMEDOUT);
  }
}

static void take_moments(void) {
  tr_request *r = tr_heap_first();
  double now = r != NULL ? tr_now() : 0;
  while (r != NULL && r->wake_at <= now) {
    on_moment(r, now);
    r = tr_heap_first();
  }
}

/* Start as many attempts as there is room for. Returns when to look again. */
static double start_attempts(size_t all, size_t per_origin) {
  double wake_at = HUGE_VAL;
  tr_request *r;
  while (engine.running < all &&
         (r = tr_queue_pop(per_origin, &wake_at)) != NULL)
    start_attempt(r);
  return wake_at;
}

static void take_messages(void) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(engine.multi, &left)) != NULL) {
    tr_handle *h = NULL;
    CURLcode code = message->data.result;
    if (message->msg != CURLMSG_DONE)
      continue;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&h);
    stop_running(h->request);
    end_attempt(h->request, code);
  }
}

/* Let the bodies go on that have had their share of a turn. Those of their bytes
** that libcurl holds come at once, and may pause them again. */
static void end_turn(void) {
  tr_handle *h = tr_request_turn.paused, *next;
  tr_request_turn.paused = NULL;
  for (; h != NULL; h = next) {
    CURLcode code;
    next = h->next;
    h->paused = false;
    tr_request_turn.now = tr_now();
    code = curl_easy_pause(h->easy, CURLPAUSE_CONT);
    if (code != CURLE_OK && code != CURLE_BAD_FUNCTION_ARGUMENT) {
      stop_running(h->request);
      end_attempt(h->request, code);
    }
  }
}

/* Move every request on by what can be done without waiting. Returns the moment
** at which there is something to do for sure. */
static double advance(void) {
  double wake_at, started = tr_now();
  size_t all, per_origin;
  int running;
  uint64_t before;
  pthread_mutex_lock(&engine.lock);
  all = engine.max_connections;
  per_origin = engine.max_per_origin;
  pthread_mutex_unlock(&engine.lock);
  if (all != engine.kept_connections) {
    curl_multi_setopt(engine.multi, CURLMOPT_MAXCONNECTS, (long)all);
    engine.kept_connections = all;
  }
  do { /* libcurl 7.88 may keep the data of streams without an event */
    before = progress;
    tr_request_turn.now = tr_now();
    take_all_posted();
    take_moments();
    wake_at = start_attempts(all, per_origin);
    tr_request_turn.share = TURN_BYTES / (engine.running + 1);
    curl_multi_perform(engine.multi, &running);
    end_turn();
    take_messages();
  } while ((progress != before || tr_request_turn.paused != NULL) &&
           tr_request_turn.now - started < MAX_ADVANCE);
  if (tr_heap_first() != NULL)
    wake_at = fmin(wake_at, tr_heap_first()->wake_at);
  return progress == before && tr_request_turn.paused == NULL ? wake_at : 0;
}

/* Sleep until there is data, a post, or the moment. */
static void wait_for_events(double moment) {
  double seconds = fmin(moment - tr_now(), MAX_SLEEP);
  struct curl_waitfd post = {.fd = engine.wake_fd, .events = CURL_WAIT_POLLIN};
  uint64_t count;
  int ms = seconds <= 0 ? 0 : (int)ceil(seconds * 1000);
  curl_multi_poll(engine.multi, &post, 1, ms, NULL);
  if (post.revents != 0)
    while (read(engine.wake_fd, &count, sizeof count) < 0 && errno == EINTR)
      ;
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
    wait_for_events(fmin(moment, deadline));
  }
  pthread_mutex_lock(&engine.lock);
  leave_driver();
  engine.left_at = tr_now();
  if (engine.pending > 0 && !engine.watching)
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
    wait_for_events(moment);
    pthread_mutex_lock(&engine.lock);
  }
  leave_driver();
}

static void *run(void *unused) {
  double idle_since = tr_now();
  (void)unused;
  pthread_mutex_lock(&engine.lock);
  while (!engine.stopping) {
    if (!engine.watching) {
      pthread_cond_wait(&engine.changed, &engine.lock);
      idle_since = tr_now();
    } else if (engine.pending == 0) {
      engine.urgent = false;
      rest(WATCH);
      if (engine.pending == 0 && tr_now() - idle_since > WATCH &&
          tr_now() - engine.left_at > WATCH)
        engine.watching = false;
    } else {
      idle_since = tr_now();
      if (engine.driven || engine.waiting > 0 ||
          (!engine.urgent && idle_since - engine.left_at < GRACE))
        rest(GRACE);
      else
        drive_all();
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
  CURLM *multi = engine.multi;
  take_all_posted();
  while (engine.all != NULL)
    drop(engine.all);
  tr_handle_free_all();
  curl_multi_cleanup(multi);
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
  engine.pending = engine.running = 0;
  engine.posted = engine.all = NULL;
  tr_request_turn.paused = NULL;
  engine.posted_end = &engine.posted;
  tr_queue_forget();
  tr_handle_forget_all();
  tr_socket_forget_all();
  tr_condition_init(&engine.changed);
  pthread_mutex_unlock(&engine.lock);
}

static void init_once(void) {
  tr_condition_init(&engine.changed);
  tr_future_prepare_fork();
  pthread_atfork(before_fork, in_parent, in_child);
  tr_config_prepare_fork();
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
  engine.kept_connections = 0;
  if (engine.multi != NULL)
    return true;
  close(engine.wake_fd);
  engine.wake_fd = -1;
  tr_error_nomem(error);
  return false;
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
  } else if (open && tr_promise_assign(r->promise, &worker)) {
    tr_promise_set_work(r->promise, r);
    engine.pending++;
    post(r, !will_wait);
  } else if (open) {
    tr_error_set(error, TR_CANCELLED,
                 "Failed to fetch from %s: its future has a result already",
                 r->shown);
    open = false;
  }
  pthread_mutex_unlock(&engine.lock);
  return open;
}

bool tr_engine_fetch(tr_promise *promise, const char *url,
                     const tr_fetch_options *options, bool will_wait,
                     tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_request *r;
  if (!tr_options_copy(&o, sizeof o, options, "TR_FETCH_OPTIONS", error) ||
      !tr_curl_open(error))
    return false;
  pthread_once(&once, init_once); /* after libcurl's: its exit handler, too */
  r = tr_request_new(promise, url, &o, error);
  if (r == NULL)
    return false;
  if (submit(r, will_wait, error))
    return true;
  tr_request_free(r);
  return false;
}

bool tr_fetch(tr_future *future, const char *url,
              const tr_fetch_options *options, tr_error *error) {
  tr_error ignored;
  return tr_engine_fetch(tr_future_promise(future), url, options, false,
                         error != NULL ? error : &ignored);
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
