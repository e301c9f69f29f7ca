/*
** The fetch engine: one libcurl multi handle for the process, so that every
** Lua state and thread shares connections, TLS sessions and DNS answers.
**
** One thread at a time may use a multi handle: the driver. A
** thread that waits for a future becomes the driver if there is none, which
** saves two thread switches per fetch. The engine's own thread drives requests
** that no thread waits for; it starts when first needed and sleeps when idle.
*/
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"
#include "request.h"

enum {
  IDLE_HANDLES = 16,
  /* The longest the driver sleeps: bounds what a lost wake-up could cost. */
  MAX_SLEEP_MS = 1000
};

/* A host and port that requests are under way to. */
typedef struct tr_origin {
  struct tr_origin *next;
  size_t requests; /* to this origin, running or not */
  size_t running;
  char name[];
} tr_origin;

static struct engine {
  pthread_mutex_t lock; /* guards all but 'active' to 'waiting', which
                           belong to the driver */
  pthread_cond_t work;  /* wakes the engine's own thread */
  CURLM *multi;
  bool driven, stopping, has_thread;
  pthread_t thread;
  size_t max_host_connections, max_connections;
  size_t pending; /* requests not finished yet */
  tr_request *incoming, **incoming_end;
  tr_request *active, *active_last;
  tr_origin *origins;
  size_t running, waiting; /* of the active ones */
  CURL *idle[IDLE_HANDLES];
  int idle_count;
  atomic_bool some_unwanted;
} engine = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .work = PTHREAD_COND_INITIALIZER,
            .max_host_connections = 32,
            .max_connections = 128,
            .incoming_end = &engine.incoming};

/* -------------------------------------------------------------- requests */

/* Keeps a handle for a later request, if there is room. The lock is held. */
static bool keep_idle_handle(CURL *easy) {
  bool room = engine.idle_count < IDLE_HANDLES;
  if (room)
    engine.idle[engine.idle_count++] = easy;
  return room;
}

/*
** The bounds on connections are kept by not starting more requests at once:
** libcurl's own bounds park requests in a queue that it can forget to look
** at when connections close (seen in 7.88). With HTTP/2 they share
** connections, so there are fewer of those. A request counts for the origin
** it was asked of, wherever redirects lead it.
*/
static bool join_origin(tr_request *t) {
  const char *host = strstr(t->display_url, "://") + 3;
  size_t len = strcspn(host, "/?#");
  tr_origin *origin = engine.origins;
  while (origin != NULL && (strncasecmp(origin->name, host, len) != 0 ||
                            origin->name[len] != '\0'))
    origin = origin->next;
  if (origin == NULL) {
    origin = calloc(1, sizeof *origin + len + 1);
    if (origin == NULL)
      return false;
    memcpy(origin->name, host, len);
    origin->next = engine.origins;
    engine.origins = origin;
  }
  origin->requests++;
  t->origin = origin;
  return true;
}

static void leave_origin(tr_request *t) {
  tr_origin **link = &engine.origins;
  if (t->origin == NULL || --t->origin->requests > 0)
    return;
  while (*link != t->origin)
    link = &(*link)->next;
  *link = t->origin->next;
  free(t->origin);
}

static bool has_room(const tr_request *t, size_t per_origin, size_t all) {
  return t->origin->running < per_origin && engine.running < all;
}

static void stop_running(tr_request *t) {
  engine.running--;
  t->origin->running--;
}

/* Gives the future its result and forgets the request. Driver only. */
static void finish(tr_request *t, tr_blob *blob, const tr_error *error) {
  bool kept;
  *(t->prev != NULL ? &t->prev->next : &engine.active) = t->next;
  *(t->next != NULL ? &t->next->prev : &engine.active_last) = t->prev;
  if (t->waiting)
    engine.waiting--;
  else
    stop_running(t);
  leave_origin(t);
  curl_easy_reset(t->easy);
  pthread_mutex_lock(&engine.lock);
  /* A handle that failed may hold on to what it had: it is not used again. */
  kept = blob != NULL && keep_idle_handle(t->easy);
  engine.pending--;
  pthread_mutex_unlock(&engine.lock);
  if (!kept)
    curl_easy_cleanup(t->easy);
  if (blob != NULL)
    tr_future_complete(t->future, blob);
  else if (error != NULL)
    tr_future_fail(t->future, error);
  else
    tr_future_orphan(t->future);
  tr_blob_release(blob);
  tr_request_free(t);
}

/* -------------------------------------------------------------- driving */

/* Hands a request's next attempt to libcurl. Driver only. */
static void begin_attempt(tr_request *t) {
  tr_error error;
  if (curl_multi_add_handle(engine.multi, t->easy) == CURLM_OK)
    return;
  tr_error_nomem(&error);
  finish(t, NULL, &error);
}

/* An attempt has ended: the request is over, or waits for the next. */
static void on_done(tr_request *t, CURLcode code) {
  tr_error error;
  tr_blob *blob;
  curl_multi_remove_handle(engine.multi, t->easy);
  if (tr_request_end_attempt(t, code, &blob, &error)) {
    finish(t, blob, &error);
  } else if (t->not_before <= tr_now()) {
    begin_attempt(t);
  } else {
    stop_running(t);
    t->waiting = true;
    engine.waiting++;
  }
}

/* Its time is up before its turn came. */
static void fail_expired(tr_request *t) {
  tr_error error;
  tr_error_set(&error, TR_TIMEOUT,
               "Failed to fetch from %s: no turn in time; %zu other requests "
               "are under way (max_host_connections, max_connections)",
               t->display_url, engine.running);
  finish(t, NULL, &error);
}

/* Begins the attempts whose time has come, the longest waiting first, as far
** as there is room. Returns seconds to the next. */
static double start_waiting(void) {
  double now, soonest = MAX_SLEEP_MS / 1000.0;
  size_t per_origin, all;
  tr_request *t, *next;
  if (engine.waiting == 0)
    return soonest;
  pthread_mutex_lock(&engine.lock);
  per_origin = engine.max_host_connections;
  all = engine.max_connections;
  pthread_mutex_unlock(&engine.lock);
  now = tr_now();
  for (t = engine.active; t != NULL; t = next) {
    next = t->next;
    if (!t->waiting)
      continue;
    if (t->not_before > now) {
      soonest = fmin(soonest, t->not_before - now);
    } else if (now >= t->deadline) {
      fail_expired(t);
    } else if (has_room(t, per_origin, all)) {
      engine.waiting--;
      t->waiting = false;
      engine.running++;
      t->origin->running++;
      begin_attempt(t);
    } else {
      soonest = fmin(soonest, t->deadline - now);
    }
  }
  return fmax(soonest, 0);
}

/* Takes in what was submitted; it begins when there is room. */
static void adopt_incoming(void) {
  tr_error error;
  tr_request *t, *next;
  pthread_mutex_lock(&engine.lock);
  t = engine.incoming;
  engine.incoming = NULL;
  engine.incoming_end = &engine.incoming;
  pthread_mutex_unlock(&engine.lock);
  for (; t != NULL; t = next) {
    next = t->next;
    t->next = NULL;
    t->prev = engine.active_last;
    *(t->prev != NULL ? &t->prev->next : &engine.active) = t;
    engine.active_last = t;
    t->waiting = true;
    engine.waiting++;
    if (!join_origin(t)) {
      tr_error_nomem(&error);
      finish(t, NULL, &error);
    }
  }
}

/* Ends a request without a result. */
static void drop(tr_request *t) {
  if (!t->waiting)
    curl_multi_remove_handle(engine.multi, t->easy);
  finish(t, NULL, NULL);
}

static void drop_unwanted(void) {
  tr_request *t, *next;
  if (!atomic_exchange(&engine.some_unwanted, false))
    return;
  for (t = engine.active; t != NULL; t = next) {
    next = t->next;
    if (!tr_future_wanted(t->future))
      drop(t);
  }
}

/* Moves every request on by what can be done without waiting. Returns how
** many seconds there is nothing to do for sure but to listen. */
static double advance(void) {
  CURLMsg *message;
  int running, left;
  adopt_incoming();
  drop_unwanted();
  start_waiting();
  curl_multi_perform(engine.multi, &running);
  while ((message = curl_multi_info_read(engine.multi, &left)) != NULL) {
    tr_request *t = NULL;
    CURLcode code = message->data.result;
    if (message->msg != CURLMSG_DONE)
      continue;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
    on_done(t, code);
  }
  return start_waiting();
}

static void wait_for_events(double seconds) {
  double ms = ceil(seconds * 1000);
  curl_multi_poll(engine.multi, NULL, 0,
                  ms < MAX_SLEEP_MS ? (int)ms : MAX_SLEEP_MS, NULL);
}

/* Becomes the driver. False: somebody else is, or the process is ending. */
static bool become_driver(void) {
  bool taken;
  pthread_mutex_lock(&engine.lock);
  taken = !engine.driven && !engine.stopping && engine.multi != NULL;
  if (taken)
    engine.driven = true;
  pthread_mutex_unlock(&engine.lock);
  return taken;
}

static void *run(void *unused) {
  double idle;
  (void)unused;
  pthread_mutex_lock(&engine.lock);
  for (;;) {
    while (!engine.stopping && (engine.driven || engine.pending == 0))
      pthread_cond_wait(&engine.work, &engine.lock);
    if (engine.stopping)
      break;
    engine.driven = true;
    while (engine.pending > 0 && !engine.stopping) {
      pthread_mutex_unlock(&engine.lock);
      idle = advance();
      pthread_mutex_lock(&engine.lock);
      if (engine.pending == 0 || engine.stopping)
        break;
      pthread_mutex_unlock(&engine.lock);
      wait_for_events(idle);
      pthread_mutex_lock(&engine.lock);
    }
    engine.driven = false;
  }
  pthread_mutex_unlock(&engine.lock);
  return NULL;
}

/* Sees to it that a driver looks at what changed. The lock is held. Without
** a thread (no resources) the next who waits will do the work. */
static void wake_driver(void) {
  if (engine.driven) {
    curl_multi_wakeup(engine.multi);
    return;
  }
  if (!engine.has_thread)
    engine.has_thread = pthread_create(&engine.thread, NULL, run, NULL) == 0;
  pthread_cond_signal(&engine.work);
}

/* tr_worker: drives for as long as the caller would wait. */
static void drive(tr_future *future, double deadline) {
  double left, idle;
  if (!become_driver())
    return;
  while (tr_future_get_status(future) == TR_PENDING) {
    idle = advance();
    left = deadline - tr_now();
    if (left <= 0 || tr_future_get_status(future) != TR_PENDING)
      break;
    wait_for_events(left < idle ? left : idle);
  }
  pthread_mutex_lock(&engine.lock);
  engine.driven = false;
  if (engine.pending > 0)
    wake_driver();
  pthread_mutex_unlock(&engine.lock);
}

/* tr_worker: a future lost its last handle. */
static void unwanted(void) {
  atomic_store(&engine.some_unwanted, true);
  pthread_mutex_lock(&engine.lock);
  if (engine.multi != NULL && !engine.stopping)
    wake_driver();
  pthread_mutex_unlock(&engine.lock);
}

static const tr_worker worker = {drive, unwanted};

/* ------------------------------------------------------- start and stop */

/*
** Runs before libcurl's and OpenSSL's own exit handlers, which must not find
** a request under way. A thread that is driving for itself is left alone.
*/
static void at_exit(void) {
  bool joinable;
  pthread_mutex_lock(&engine.lock);
  engine.stopping = true;
  joinable = engine.has_thread;
  if (engine.driven)
    curl_multi_wakeup(engine.multi);
  pthread_cond_broadcast(&engine.work);
  pthread_mutex_unlock(&engine.lock);
  if (joinable)
    pthread_join(engine.thread, NULL);
  pthread_mutex_lock(&engine.lock);
  joinable = !engine.driven;
  pthread_mutex_unlock(&engine.lock);
  if (!joinable)
    return;
  adopt_incoming();
  while (engine.active != NULL)
    drop(engine.active);
  while (engine.idle_count > 0)
    curl_easy_cleanup(engine.idle[--engine.idle_count]);
  curl_multi_cleanup(engine.multi);
  engine.multi = NULL;
}

static void before_fork(void) { pthread_mutex_lock(&engine.lock); }
static void in_parent(void) { pthread_mutex_unlock(&engine.lock); }

/* The parent's engine, kept in a child so that leak checkers find it. */
__attribute__((used)) static struct engine inherited;

/* The child starts with an empty engine. A thread that the child does not have
** may have been changing the inherited one, so that is left alone. */
static void in_child(void) {
  inherited = engine;
  engine.multi = NULL;
  engine.driven = engine.stopping = engine.has_thread = false;
  engine.pending = engine.running = engine.waiting = 0;
  engine.incoming = engine.active = engine.active_last = NULL;
  engine.origins = NULL;
  engine.incoming_end = &engine.incoming;
  engine.idle_count = 0;
  pthread_cond_init(&engine.work, NULL);
  pthread_mutex_unlock(&engine.lock);
}

static void init_once(void) {
  tr_future_prepare_fork();
  pthread_atfork(before_fork, in_parent, in_child);
  atexit(at_exit);
}

/* Makes the multi handle where there is none. The lock is held. */
static bool start_engine(void) {
  if (engine.multi != NULL)
    return true;
  engine.multi = curl_multi_init();
  return engine.multi != NULL;
}

/* A handle to configure, used before or new; NULL when there is none. */
static CURL *take_handle(void) {
  CURL *easy = NULL;
  bool ready;
  pthread_mutex_lock(&engine.lock);
  ready = start_engine();
  if (engine.idle_count > 0)
    easy = engine.idle[--engine.idle_count];
  pthread_mutex_unlock(&engine.lock);
  return easy != NULL ? easy : ready ? curl_easy_init() : NULL;
}

/* Hands a request to the driver. False: the process is ending. */
static bool submit(tr_request *t, const tr_fetch_options *o) {
  bool open;
  pthread_mutex_lock(&engine.lock);
  open = !engine.stopping && engine.multi != NULL;
  if (open) {
    if (o->max_host_connections > 0)
      engine.max_host_connections = (size_t)o->max_host_connections;
    if (o->max_connections > 0)
      engine.max_connections = (size_t)o->max_connections;
    *engine.incoming_end = t;
    engine.incoming_end = &t->next;
    engine.pending++;
    if (engine.driven || !o->will_wait)
      wake_driver();
  }
  pthread_mutex_unlock(&engine.lock);
  return open;
}

bool tr_fetch(tr_future *future, const char *url,
              const tr_fetch_options *options, tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_request *t;
  if (strncasecmp(url, "http://", 7) != 0 &&
      strncasecmp(url, "https://", 8) != 0) {
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "Failed to fetch from %s: neither http nor https", url);
    return false;
  }
  if (!tr_curl_open(error))
    return false;
  pthread_once(&once, init_once); /* after libcurl's: its exit handler, too */
  t = tr_request_new(future, url, options, take_handle(), error);
  if (t == NULL)
    return false;
  if (tr_future_assign(future, &worker) && submit(t, options))
    return true;
  tr_error_set(error, TR_CANCELLED,
               "Failed to fetch from %s: it is too late, "
               "the process is ending",
               t->display_url);
  curl_easy_cleanup(t->easy);
  tr_request_free(t);
  return false;
}
