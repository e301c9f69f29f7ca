/*
** The driver moves requests on, attempt by attempt: it looks hosts up, starts attempts
** when their turn comes, listens to libcurl, and keeps every deadline.
*/
#include "driver.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "authorize.h"
#include "config_files.h"
#include "error.h"
#include "failure.h"
#include "handle.h"
#include "metrics.h"
#include "outage.h"
#include "queue.h"
#include "socket.h"
#include "watchdog.h"

/* The longest that the driver sleeps, and so the longest that an interrupt
** takes to be seen. */
static const double MAX_SLEEP = 0.1;
/* For how long bodies that keep coming hold up what waits for the driver. */
static const double MAX_ADVANCE = 0.001;
/* Of all bodies together, in one turn: a millisecond or two. */
static const size_t TURN_BYTES = 1024 * 1024;
/* A load that its Lua state has left, as it closed, goes on for so long. */
static const double LEFT_SECONDS = 30;
/* One in so many places is kept for origins of which no request runs. */
enum { RESERVED = 8 };

static struct {
  CURLM *multi;
  int wake_fd; /* readable after a post */
  const tr_driver_hooks *hooks;
  tr_request *all;
  size_t running, kept_connections;
  uint64_t progress; /* changes when an attempt ends */
  double looked;     /* the time of the last look */
} driver;

/* ------------------------------------------------------------------ requests */

/* Note whether the origin asked for is well. Limits of the caller's and failures of this
** machine are not its fault; another origin that it led to may be the victim. */
static void note_outage(const tr_request *r, const tr_error *error) {
  const tr_url *asked = r->asked.text != NULL ? &r->asked : &r->url;
  if (error == NULL && r->response.status >= 500)
    return; /* of a message */
  if (error == NULL || (error->status != 0 && !tr_is_outage(error)))
    tr_outage_note(asked, false);
  else if (tr_is_outage(error) && error->kind != TR_IO && !r->timed_out &&
           r->socket_errno == 0 && tr_url_same_origin(asked, &r->url))
    tr_outage_note(asked, true);
}

/* Give the promise its result and forget the request. Driver only. */
static void finish(tr_request *r, tr_blob *blob, const tr_error *error) {
  tr_dns_cancel(&r->query);
  tr_hasher_free(r->hasher); /* from here on, no other thread posts it */
  r->hasher = NULL;
  tr_heap_remove(r);
  tr_queue_leave(r);
  *(r->all_prev != NULL ? &r->all_prev->all_next : &driver.all) = r->all_next;
  if (r->all_next != NULL)
    r->all_next->all_prev = r->all_prev;
  driver.hooks->retire(r);
  tr_authorize_finish(r, blob, error);
  tr_count_fetch(blob != NULL, error);
  if (blob != NULL || error != NULL)
    note_outage(r, error);
  if (blob != NULL)
    tr_promise_complete(r->promise, blob);
  else if (error != NULL && r->timed_out)
    tr_promise_fail_leader(r->promise, error);
  else if (error != NULL)
    tr_promise_fail(r->promise, error);
  else
    tr_promise_orphan(r->promise);
  tr_promise_resign(r->promise);
  tr_blob_release(blob);
  driver.progress++;
  tr_request_free(r);
}

/* The moment at which a request is to be looked at. */
static double next_moment(const tr_request *r) {
  double moment = HUGE_VAL;
  if (r->state == TR_REQUEST_LOOKUP ||
      (r->state == TR_REQUEST_RUNNING && !r->connected))
    moment = r->connect_by;
  else if (r->state == TR_REQUEST_RUNNING && tr_request_is_decided(r))
    moment = r->headers_at + TR_ERROR_SECONDS;
  else if (r->state == TR_REQUEST_RUNNING && r->stall_timeout >= 0)
    moment = r->last_progress + r->stall_timeout;
  else if (r->state == TR_REQUEST_RESTING)
    moment = r->not_before;
  else if (r->state == TR_REQUEST_TOKEN)
    moment = r->hold_until;
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
  curl_multi_remove_handle(driver.multi, r->handle->easy);
  tr_queue_stop(r);
  driver.running--;
  r->state = TR_REQUEST_NEW;
}

static void end_attempt(tr_request *r, CURLcode code);

/* Have a request wait for a token, or end it with the error. */
static void suspend(tr_request *r, tr_verdict verdict, const tr_error *error) {
  if (verdict == TR_VERDICT_TOKEN) {
    r->state = TR_REQUEST_TOKEN;
    schedule(r);
  } else {
    finish(r, NULL, error);
  }
}

/* Queue a request, or get what it needs before: a token, and the address of its host. */
static void proceed(tr_request *r, bool in_front) {
  if (r->auth != NULL) {
    tr_error error;
    tr_verdict verdict = tr_authorize_attempt(r, &error);
    if (verdict != TR_VERDICT_AGAIN) {
      suspend(r, verdict, &error);
      return;
    }
  }
  if (r->lookup_host == NULL || r->answer != NULL ||
      (r->answer = tr_dns_cached(r->lookup_host)) != NULL) {
    if (r->answer != NULL && r->answer->error != 0) {
      end_attempt(r, CURLE_COULDNT_RESOLVE_HOST);
      return;
    }
    tr_queue_push(r, in_front);
  } else {
    r->state = TR_REQUEST_LOOKUP;
    r->started = tr_now();
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
  driver.progress++;
  if (verdict == TR_VERDICT_DONE) {
    finish(r, blob, blob == NULL ? &error : NULL);
  } else if (verdict == TR_VERDICT_AGAIN) {
    go_on(r);
  } else if (verdict == TR_VERDICT_TOKEN) {
    suspend(r, verdict, NULL);
  } else {
    r->state = TR_REQUEST_HASHING;
    schedule(r);
  }
}

/* Check the files that libcurl is about to open for an attempt. False: the request has
** failed. */
static bool check_files(tr_request *r) {
  static const char https[] = "https:";
  char why[TR_FILE_FAULT];
  tr_error error;
  tr_error_kind kind;
  bool secure = r->url.secure || (r->proxy.url != NULL &&
                                  strncmp(r->proxy.url, https, strlen(https)) == 0);
  kind = tr_config_check_files(r->config, secure, why);
  if (kind == TR_OK)
    return true;
  tr_response_clear(&r->response); /* of the attempt before */
  tr_failure_set(r, kind, &error, why);
  r->state = TR_REQUEST_NEW;
  finish(r, NULL, &error);
  return false;
}

/* Start an attempt of a request whose turn has come. */
static void start_attempt(tr_request *r) {
  CURLcode code = CURLE_OK;
  tr_error error;
  tr_handle *h;
  bool ready;
  if (!check_files(r))
    return;
  h = tr_handle_get(r->config, &code);
  ready = h != NULL && tr_request_send(r, h);
  tr_queue_start(r);
  driver.running++;
  if (ready && curl_multi_add_handle(driver.multi, h->easy) == CURLM_OK) {
    schedule(r);
    return;
  }
  tr_queue_stop(r);
  driver.running--;
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
  r->all_next = driver.all;
  if (r->all_next != NULL)
    r->all_next->all_prev = r;
  driver.all = r;
  r->on_connected = on_connected;
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

/* A request's waiting for a token, or for an answer, is over. */
static void end_waiting(tr_request *r, bool in_front) {
  tr_error error;
  r->state = TR_REQUEST_NEW;
  if (tr_authorize_resume(r, &error))
    proceed(r, in_front);
  else
    finish(r, NULL, &error);
}

void tr_driver_take(tr_request *r) {
  tr_error error;
  tr_blob *blob;
  if (tr_promise_is_left(r->promise) && tr_now() + LEFT_SECONDS < r->deadline) {
    r->timeout = LEFT_SECONDS;
    r->deadline = tr_now() + LEFT_SECONDS;
    if (r->adopted && !schedule(r))
      return;
  }
  if (!r->adopted) {
    adopt(r);
  } else if (!tr_promise_wanted(r->promise)) {
    drop(r);
  } else if (r->state == TR_REQUEST_LOOKUP && r->looked_up) {
    r->lookup_seconds = tr_now() - r->started;
    r->state = TR_REQUEST_NEW;
    proceed(r, false);
  } else if (r->state == TR_REQUEST_TOKEN && r->wait >= TR_WAIT_OVER) {
    end_waiting(r, true);
  } else if (r->state == TR_REQUEST_HASHING && r->hashed) {
    tr_request_end_hashing(r, &blob, &error);
    finish(r, blob, blob == NULL ? &error : NULL);
  }
}

/* The moment of a request has come. */
static void on_moment(tr_request *r, double now) {
  tr_error error;
  if (now >= r->deadline) {
    r->timed_out = true;
    tr_request_time_out(r, driver.running, &error);
    break_off(r, &error);
  } else if (now < next_moment(r)) {
    schedule(r); /* there was progress since */
  } else if (r->state == TR_REQUEST_RESTING) {
    r->state = TR_REQUEST_NEW;
    proceed(r, false);
  } else if (r->state == TR_REQUEST_TOKEN) {
    if (r->wait < TR_WAIT_OVER)
      tr_authorize_release(r);
    end_waiting(r, false);
  } else {
    r->stalled = true;
    if (r->state == TR_REQUEST_RUNNING)
      stop_running(r);
    tr_dns_cancel(&r->query);
    r->state = TR_REQUEST_NEW;
    end_attempt(r, CURLE_OPERATION_TIMEDOUT);
  }
}

/* Look at the time. Time in which nobody could look counts for no limit but deadlines: the
** process may have been stopped, and then its servers are not to blame. */
static void look(void) {
  double now = tr_now(), lost = now - driver.looked - MAX_SLEEP;
  tr_request *r;
  driver.looked = tr_request_turn.now = now;
  if (lost < MAX_SLEEP)
    return;
  for (r = driver.all; r != NULL; r = r->all_next) {
    r->connect_by += lost;
    r->last_progress += lost;
    r->headers_at += lost;
    if (r->state == TR_REQUEST_LOOKUP)
      r->started += lost;
    if (r->state == TR_REQUEST_RUNNING && !r->connected)
      tr_handle_give_time(r->handle, r->connect_by - r->started);
  }
}

static void take_moments(void) {
  tr_request *r = tr_heap_first();
  while (r != NULL && r->wake_at <= driver.looked) {
    on_moment(r, driver.looked);
    r = tr_heap_first();
  }
}

/* Start as many attempts as there is room for. Returns when to look again. Servers that
** drip could hold every place: the last are for origins that have none. */
static double start_attempts(size_t all, size_t per_origin) {
  double wake_at = HUGE_VAL;
  size_t for_anybody = all - all / RESERVED;
  tr_request *r;
  while (driver.running < all &&
         (r = tr_queue_pop(per_origin, driver.running >= for_anybody,
                           &wake_at)) != NULL)
    start_attempt(r);
  return wake_at;
}

static void take_messages(void) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(driver.multi, &left)) != NULL) {
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
    CURLcode code = CURLE_OK;
    next = h->next;
    h->paused = false;
    tr_request_turn.now = tr_now();
    if (!tr_request_unpack_more(h->request))
      code = CURLE_WRITE_ERROR;
    else if (!h->paused)
      code = curl_easy_pause(h->easy, CURLPAUSE_CONT);
    if (code != CURLE_OK && code != CURLE_BAD_FUNCTION_ARGUMENT) {
      stop_running(h->request);
      end_attempt(h->request, code);
    }
  }
}

double tr_driver_advance(size_t all, size_t per_origin) {
  double wake_at, started = tr_now();
  uint64_t before;
  int running;
  if (all != driver.kept_connections) {
    curl_multi_setopt(driver.multi, CURLMOPT_MAXCONNECTS, (long)all);
    driver.kept_connections = all;
  }
  tr_watchdog_begin();
  do { /* libcurl 7.88 may keep the data of streams without an event */
    before = driver.progress;
    look();
    driver.hooks->take_posts();
    take_moments();
    wake_at = start_attempts(all, per_origin);
    tr_request_turn.share = TURN_BYTES / (driver.running + 1);
    curl_multi_perform(driver.multi, &running);
    end_turn();
    take_messages();
  } while (((driver.progress != before && driver.all != NULL) ||
            tr_request_turn.paused != NULL) &&
           tr_request_turn.now - started < MAX_ADVANCE);
  tr_watchdog_end();
  if (tr_heap_first() != NULL)
    wake_at = fmin(wake_at, tr_heap_first()->wake_at);
  return driver.progress == before && tr_request_turn.paused == NULL ? wake_at : 0;
}

void tr_driver_wait(double moment) {
  double seconds = fmin(moment - tr_now(), MAX_SLEEP);
  struct curl_waitfd post = {.fd = driver.wake_fd, .events = CURL_WAIT_POLLIN};
  uint64_t count;
  int ms = seconds <= 0 ? 0 : (int)ceil(seconds * 1000);
  curl_multi_poll(driver.multi, &post, 1, ms, NULL);
  if (post.revents != 0)
    while (read(driver.wake_fd, &count, sizeof count) < 0 && errno == EINTR)
      ;
}

/* -------------------------------------------------------------- start and stop */

void tr_driver_open(CURLM *multi, int wake_fd, const tr_driver_hooks *hooks) {
  driver.multi = multi;
  driver.wake_fd = wake_fd;
  driver.hooks = hooks;
  driver.kept_connections = 0;
}

void tr_driver_close(void) {
  tr_watchdog_begin();
  driver.hooks->take_posts();
  while (driver.all != NULL)
    drop(driver.all);
  tr_token_forget_all();
  tr_handle_free_all();
  curl_multi_cleanup(driver.multi);
  tr_watchdog_end();
}

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static tr_request *inherited;

void tr_driver_forget(void) {
  inherited = driver.all;
  driver.all = NULL;
  driver.running = 0;
  tr_request_turn.paused = NULL;
  tr_queue_forget();
  tr_token_forget_inherited();
  tr_handle_forget_all();
  tr_socket_forget_all();
  tr_watchdog_forget();
}
