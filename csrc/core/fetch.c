/*
** The fetch engine: one libcurl multi handle for the process, so that every
** Lua state and thread shares connections, TLS sessions and DNS answers.
**
** A multi handle may be used by one thread at a time. That thread is the
** driver. Whoever waits for a future drives the engine himself when nobody
** else does, which spares two thread switches a fetch; work that nobody
** waits for is driven by a thread of the engine's own, started when it is
** first needed and asleep when there is nothing to do.
*/
#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "blob.h"
#include "digest.h"
#include "error.h"
#include "future.h"

enum {
  MAX_HOST_CONNECTIONS = 32,
  MAX_CONNECTIONS = 128,
  SPARE_HANDLES = 16,
  /* A larger Content-Length is believed piece by piece. */
  TRUSTED_LENGTH = 64 * 1024 * 1024,
  /* The longest the driver sleeps: bounds what a lost wake-up could cost. */
  MAX_SLEEP_MS = 1000
};

/* One fetch, from tr_fetch to its result. */
typedef struct transfer {
  struct transfer *prev, *next;
  tr_future *future; /* held */
  CURL *easy;
  struct curl_slist *headers;
  char *url;   /* where we are now, after redirects */
  char *shown; /* the URL asked for, without user and password */
  tr_buffer body;
  size_t max_bytes;
  double deadline;
  int redirects_left;
  char digest[TR_HEX_MAX]; /* what the body must have, or empty */
  bool too_large, no_memory;
  char why[CURL_ERROR_SIZE];
} transfer;

static struct engine {
  pthread_mutex_t lock; /* guards all but 'active', which is the driver's */
  pthread_cond_t work;  /* tells the thread that it is its turn */
  CURLM *multi;
  bool driven, stopping, has_thread;
  pthread_t thread;
  size_t pending; /* transfers not finished yet */
  transfer *incoming, **incoming_end;
  transfer *active;
  CURL *spare[SPARE_HANDLES];
  int spares;
  atomic_bool some_unwanted;
} engine = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .work = PTHREAD_COND_INITIALIZER,
            .incoming_end = &engine.incoming};

void tr_fetch_defaults(tr_fetch_options *options) {
  *options = (tr_fetch_options){.timeout = 30,
                                .connect_timeout = 10,
                                .stall_timeout = 15,
                                .max_bytes = (size_t)1 << 30,
                                .max_redirects = 10};
}

/* ------------------------------------------------------------ transfers */

static void transfer_free(transfer *t) {
  curl_slist_free_all(t->headers);
  tr_buffer_free(&t->body);
  free(t->url);
  free(t->shown);
  if (t->future != NULL)
    tr_future_drop(t->future);
  free(t);
}

/* A copy of the URL without "user:password@", for messages. */
static char *without_credentials(const char *url) {
  const char *host = strstr(url, "://"), *at = NULL, *p;
  char *copy = strdup(url);
  if (copy == NULL || host == NULL)
    return copy;
  host += 3;
  for (p = host; *p != '\0' && strchr("/?#", *p) == NULL; p++)
    if (*p == '@')
      at = p + 1;
  if (at != NULL)
    memmove(copy + (host - url), copy + (at - url), strlen(at) + 1);
  return copy;
}

static size_t on_body(char *data, size_t size, size_t count, void *context) {
  transfer *t = context;
  size_t n = size * count; /* curl gives size 1 */
  curl_off_t announced = -1;
  if (n > t->max_bytes - t->body.len) {
    t->too_large = true;
    return 0;
  }
  curl_easy_getinfo(t->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
  if (t->body.len == 0 && announced > (curl_off_t)n)
    tr_buffer_reserve(&t->body, announced < TRUSTED_LENGTH
                                    ? (size_t)announced
                                    : (size_t)TRUSTED_LENGTH);
  if (!tr_buffer_append(&t->body, data, n)) {
    t->no_memory = true;
    return 0;
  }
  tr_future_set_progress(t->future, t->body.len,
                         announced > 0 ? (size_t)announced : 0);
  return n;
}

static long milliseconds(double seconds) {
  double ms = ceil(seconds * 1000);
  return ms < 1 ? 1 : ms > 1e9 ? 1000000000L : (long)ms;
}

/* Points the handle at 't->url', with what is left of the time. */
static bool aim(transfer *t) {
  if (isfinite(t->deadline))
    curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS,
                     milliseconds(t->deadline - tr_now()));
  return curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) ==
             CURLE_OK &&
         curl_easy_setopt(t->easy, CURLOPT_URL, t->url) == CURLE_OK;
}

/* Sets what stays the same over redirects. False: no memory, or an option
** this libcurl does not know. */
static bool configure(transfer *t, const tr_fetch_options *o) {
  CURL *easy = t->easy;
  curl_off_t limit = o->max_bytes > (size_t)INT64_MAX
                         ? INT64_MAX
                         : (curl_off_t)o->max_bytes;
  return curl_easy_setopt(easy, CURLOPT_PRIVATE, t) == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") ==
             CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_WRITEDATA, t) == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->why) == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "") == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                          (long)CURL_HTTP_VERSION_2TLS) == CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, limit) ==
             CURLE_OK &&
         curl_easy_setopt(easy, CURLOPT_USERAGENT,
                          o->user_agent != NULL ? o->user_agent
                                                : "theaterref/" TR_VERSION) ==
             CURLE_OK &&
         (o->connect_timeout < 0 ||
          curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                           milliseconds(o->connect_timeout)) == CURLE_OK) &&
         (o->stall_timeout < 0 ||
          (curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME,
                            (milliseconds(o->stall_timeout) + 999) / 1000) ==
               CURLE_OK)) &&
         (o->ca_file == NULL ||
          curl_easy_setopt(easy, CURLOPT_CAINFO, o->ca_file) == CURLE_OK);
}

static bool add_headers(transfer *t, const char *const *headers) {
  for (; headers != NULL && *headers != NULL; headers++) {
    struct curl_slist *longer = curl_slist_append(t->headers, *headers);
    if (longer == NULL)
      return false;
    t->headers = longer;
  }
  return true;
}

static transfer *transfer_new(const char *url, const tr_fetch_options *o) {
  transfer *t = calloc(1, sizeof *t);
  if (t == NULL)
    return NULL;
  t->url = strdup(url);
  t->shown = without_credentials(url);
  t->max_bytes = o->max_bytes;
  t->deadline = tr_deadline(o->timeout);
  t->redirects_left = o->max_redirects;
  if (o->digest != NULL)
    memcpy(t->digest, o->digest, strlen(o->digest) + 1);
  if (t->url == NULL || t->shown == NULL || !add_headers(t, o->headers)) {
    transfer_free(t);
    return NULL;
  }
  return t;
}

/* -------------------------------------------------------------- results */

static tr_kind kind_of(CURLcode code) {
  switch (code) {
  case CURLE_OPERATION_TIMEDOUT:
    return TR_TIMEOUT;
  case CURLE_FILESIZE_EXCEEDED:
    return TR_TOO_LARGE;
  case CURLE_URL_MALFORMAT:
  case CURLE_UNSUPPORTED_PROTOCOL:
    return TR_INVALID_REFERENCE;
  case CURLE_OUT_OF_MEMORY:
    return TR_IO;
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_SSL_ENGINE_NOTFOUND:
  case CURLE_SSL_CERTPROBLEM:
  case CURLE_SSL_CIPHER:
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_CACERT_BADFILE:
  case CURLE_SSL_ISSUER_ERROR:
    return TR_TLS;
  default:
    return TR_NETWORK;
  }
}

/* The error of a transfer that did not bring its body home. */
static void explain(const transfer *t, CURLcode code, tr_error *error) {
  const char *why = t->why[0] != '\0' ? t->why : curl_easy_strerror(code);
  tr_kind kind = kind_of(code);
  long status = 0;
  curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  if (t->no_memory) {
    tr_error_nomem(error);
  } else if (t->too_large || kind == TR_TOO_LARGE) {
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to read response body from %s: larger than the limit "
                 "of %zu bytes; raise max_bytes to allow it",
                 t->shown, t->max_bytes);
  } else {
    tr_error_set(error, kind, "Failed to %s from %s: %s%s",
                 status != 0 ? "read response body" : "fetch", t->shown, why,
                 code == CURLE_PEER_FAILED_VERIFICATION
                     ? " (for a CA of your own, give ca_file)"
                     : "");
  }
}

/* The phrase RFC 9110 gives a status; HTTP/2 sends none. */
static const char *reason_phrase(long status) {
  static const struct {
    long status;
    const char *phrase;
  } phrases[] = {{300, "Multiple Choices"},
                 {301, "Moved Permanently"},
                 {302, "Found"},
                 {303, "See Other"},
                 {304, "Not Modified"},
                 {307, "Temporary Redirect"},
                 {308, "Permanent Redirect"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {402, "Payment Required"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {406, "Not Acceptable"},
                 {407, "Proxy Authentication Required"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {410, "Gone"},
                 {411, "Length Required"},
                 {412, "Precondition Failed"},
                 {413, "Payload Too Large"},
                 {414, "URI Too Long"},
                 {415, "Unsupported Media Type"},
                 {416, "Range Not Satisfiable"},
                 {417, "Expectation Failed"},
                 {421, "Misdirected Request"},
                 {422, "Unprocessable Entity"},
                 {425, "Too Early"},
                 {426, "Upgrade Required"},
                 {428, "Precondition Required"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {451, "Unavailable For Legal Reasons"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {502, "Bad Gateway"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"},
                 {505, "HTTP Version Not Supported"}};
  size_t i;
  for (i = 0; i < sizeof phrases / sizeof *phrases; i++)
    if (phrases[i].status == status)
      return phrases[i].phrase;
  return "<unknown status code>";
}

/* Whether two URLs have the same scheme, host and port. */
static bool same_origin(const char *a, const char *b) {
  static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST,
                                    CURLUPART_PORT};
  CURLU *ua = curl_url(), *ub = curl_url();
  bool same = ua != NULL && ub != NULL &&
              curl_url_set(ua, CURLUPART_URL, a, 0) == CURLUE_OK &&
              curl_url_set(ub, CURLUPART_URL, b, 0) == CURLUE_OK;
  size_t i;
  for (i = 0; same && i < sizeof parts / sizeof *parts; i++) {
    char *pa = NULL, *pb = NULL;
    same = curl_url_get(ua, parts[i], &pa, CURLU_DEFAULT_PORT) == CURLUE_OK &&
           curl_url_get(ub, parts[i], &pb, CURLU_DEFAULT_PORT) == CURLUE_OK &&
           curl_strequal(pa, pb);
    curl_free(pa);
    curl_free(pb);
  }
  curl_url_cleanup(ua);
  curl_url_cleanup(ub);
  return same;
}

static bool starts_with(const char *text, const char *prefix) {
  return curl_strnequal(text, prefix, strlen(prefix));
}

/*
** Follows a redirect to 'to', within the rules: http and https only, never
** from https back to http, headers of the caller's only on the same origin.
** False with the error when it must not or cannot be followed.
*/
static bool redirect(transfer *t, const char *to, tr_error *error) {
  char *url = strdup(to), *shown = without_credentials(to);
  bool ok = false;
  if (url == NULL || shown == NULL) {
    tr_error_nomem(error);
  } else if (!starts_with(to, "https://") && !starts_with(to, "http://")) {
    tr_error_set(error, TR_DENIED,
                 "Failed to fetch from %s: refusing a redirect to %s, which is "
                 "neither http nor https",
                 t->shown, shown);
  } else if (starts_with(t->url, "https:") && !starts_with(to, "https:")) {
    tr_error_set(error, TR_DENIED,
                 "Failed to fetch from %s: refusing a redirect from https to "
                 "plain http, to %s",
                 t->shown, shown);
  } else if (t->redirects_left-- <= 0) {
    tr_error_set(error, TR_NETWORK,
                 "Failed to fetch from %s: too many redirects, the last to %s",
                 t->shown, shown);
  } else {
    if (!same_origin(t->url, to)) {
      curl_slist_free_all(t->headers);
      t->headers = NULL;
    }
    free(t->url);
    t->url = url;
    url = NULL;
    t->body.len = 0;
    ok = aim(t);
    if (!ok)
      tr_error_nomem(error);
  }
  free(url);
  free(shown);
  return ok;
}

/* Whether the body is what the caller pinned; else the error. */
static bool as_pinned(const transfer *t, tr_blob *blob, tr_error *error) {
  char actual[TR_HEX_MAX];
  if (t->digest[0] == '\0')
    return true;
  tr_digest(tr_algorithm_of(t->digest), tr_blob_data(blob),
            tr_blob_size(blob), actual);
  if (curl_strequal(actual, t->digest))
    return true;
  tr_error_set(error, TR_DIGEST_MISMATCH,
               "The body of %s has the digest %s, but %s was pinned", t->shown,
               actual, t->digest);
  return false;
}

/* Takes a handle for a later transfer. The lock is held. */
static void spare_handle(CURL *easy) {
  if (engine.spares < SPARE_HANDLES)
    engine.spare[engine.spares++] = easy;
  else
    curl_easy_cleanup(easy);
}

/* Gives the future its result and forgets the transfer. Driver only. */
static void finish(transfer *t, tr_blob *blob, const tr_error *error) {
  *(t->prev != NULL ? &t->prev->next : &engine.active) = t->next;
  if (t->next != NULL)
    t->next->prev = t->prev;
  curl_easy_reset(t->easy);
  pthread_mutex_lock(&engine.lock);
  spare_handle(t->easy);
  engine.pending--;
  pthread_mutex_unlock(&engine.lock);
  if (blob != NULL)
    tr_complete(t->future, blob);
  else if (error != NULL)
    tr_fail(t->future, error);
  else
    tr_future_abandon(t->future);
  tr_blob_release(blob);
  transfer_free(t);
}

/* A transfer has ended: with a result, or with another place to look. */
static void on_done(transfer *t, CURLcode code) {
  tr_error error;
  tr_blob *blob = NULL;
  char *location = NULL;
  long status = 0;
  curl_multi_remove_handle(engine.multi, t->easy);
  curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &location);
  if (code != CURLE_OK) {
    explain(t, code, &error);
  } else if (location != NULL) {
    if (redirect(t, location, &error)) {
      if (curl_multi_add_handle(engine.multi, t->easy) == CURLM_OK)
        return;
      tr_error_nomem(&error);
    }
  } else if (status < 200 || status > 299) {
    tr_error_set(&error, TR_HTTP_STATUS, "HTTP request failed for %s: %ld %s",
                 t->shown, status, reason_phrase(status));
    error.status = (int)status;
  } else if ((blob = tr_buffer_to_blob(&t->body)) == NULL) {
    tr_error_nomem(&error);
  } else if (!as_pinned(t, blob, &error)) {
    tr_blob_release(blob);
    blob = NULL;
  }
  finish(t, blob, &error);
}

/* -------------------------------------------------------------- driving */

static void adopt_incoming(void) {
  transfer *t, *next;
  pthread_mutex_lock(&engine.lock);
  t = engine.incoming;
  engine.incoming = NULL;
  engine.incoming_end = &engine.incoming;
  pthread_mutex_unlock(&engine.lock);
  for (; t != NULL; t = next) {
    next = t->next;
    t->prev = NULL;
    t->next = engine.active;
    if (t->next != NULL)
      t->next->prev = t;
    engine.active = t;
    if (curl_multi_add_handle(engine.multi, t->easy) != CURLM_OK) {
      tr_error error;
      tr_error_nomem(&error);
      finish(t, NULL, &error);
    }
  }
}

static void drop_unwanted(void) {
  transfer *t, *next;
  if (!atomic_exchange(&engine.some_unwanted, false))
    return;
  for (t = engine.active; t != NULL; t = next) {
    next = t->next;
    if (!tr_future_wanted(t->future)) {
      curl_multi_remove_handle(engine.multi, t->easy);
      finish(t, NULL, NULL);
    }
  }
}

/* Moves every transfer on by what can be done without waiting. */
static void pump(void) {
  CURLMsg *message;
  int running, left;
  adopt_incoming();
  drop_unwanted();
  curl_multi_perform(engine.multi, &running);
  while ((message = curl_multi_info_read(engine.multi, &left)) != NULL) {
    transfer *t = NULL;
    CURLcode code = message->data.result;
    if (message->msg != CURLMSG_DONE)
      continue;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
    on_done(t, code);
  }
}

static void sleep_until_something_happens(double seconds) {
  long ms = milliseconds(seconds);
  curl_multi_poll(engine.multi, NULL, 0,
                  (int)(ms < MAX_SLEEP_MS ? ms : MAX_SLEEP_MS), NULL);
}

/* Becomes the driver. False: somebody else is, or the process is ending. */
static bool take_wheel(void) {
  bool taken;
  pthread_mutex_lock(&engine.lock);
  taken = !engine.driven && !engine.stopping && engine.multi != NULL;
  if (taken)
    engine.driven = true;
  pthread_mutex_unlock(&engine.lock);
  return taken;
}

static void *run(void *unused) {
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
      pump();
      pthread_mutex_lock(&engine.lock);
      if (engine.pending == 0 || engine.stopping)
        break;
      pthread_mutex_unlock(&engine.lock);
      sleep_until_something_happens(MAX_SLEEP_MS / 1000.0);
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
  double left;
  if (!take_wheel())
    return;
  while (tr_future_state(future) == TR_PENDING) {
    pump();
    left = deadline - tr_now();
    if (left <= 0 || tr_future_state(future) != TR_PENDING)
      break;
    sleep_until_something_happens(left);
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
** a transfer under way. A thread that is driving for itself is left alone.
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
  while (engine.active != NULL) {
    transfer *t = engine.active;
    curl_multi_remove_handle(engine.multi, t->easy);
    finish(t, NULL, NULL);
  }
  while (engine.spares > 0)
    curl_easy_cleanup(engine.spare[--engine.spares]);
  curl_multi_cleanup(engine.multi);
  engine.multi = NULL;
}

static void before_fork(void) { pthread_mutex_lock(&engine.lock); }
static void in_parent(void) { pthread_mutex_unlock(&engine.lock); }

/* What a child got from its parent, so that leak checkers still find it. */
__attribute__((used)) static struct engine inherited;

/* The child starts afresh. What it inherited may be half-changed by a thread
** that did not come along, so it is left where it is. */
static void in_child(void) {
  inherited = engine;
  engine.multi = NULL;
  engine.driven = engine.stopping = engine.has_thread = false;
  engine.pending = 0;
  engine.incoming = engine.active = NULL;
  engine.incoming_end = &engine.incoming;
  engine.spares = 0;
  pthread_cond_init(&engine.work, NULL);
  pthread_mutex_unlock(&engine.lock);
}

static bool curl_ready;

static void init_once(void) {
  curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  tr_future_prepare_fork();
  pthread_atfork(before_fork, in_parent, in_child);
  atexit(at_exit);
}

/* Makes the multi handle where there is none. The lock is held. */
static bool start_engine(void) {
  if (engine.multi != NULL)
    return true;
  engine.multi = curl_multi_init();
  if (engine.multi == NULL)
    return false;
  curl_multi_setopt(engine.multi, CURLMOPT_MAX_HOST_CONNECTIONS,
                    (long)MAX_HOST_CONNECTIONS);
  curl_multi_setopt(engine.multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
                    (long)MAX_CONNECTIONS);
  return true;
}

/* A handle to configure, used before or new; NULL when there is none. */
static CURL *take_handle(void) {
  CURL *easy = NULL;
  bool ready;
  pthread_mutex_lock(&engine.lock);
  ready = start_engine();
  if (engine.spares > 0)
    easy = engine.spare[--engine.spares];
  pthread_mutex_unlock(&engine.lock);
  return easy != NULL ? easy : ready ? curl_easy_init() : NULL;
}

/* Hands a transfer to the driver. False: the process is ending. */
static bool submit(transfer *t, bool will_wait) {
  bool open;
  pthread_mutex_lock(&engine.lock);
  open = !engine.stopping && engine.multi != NULL;
  if (open) {
    *engine.incoming_end = t;
    engine.incoming_end = &t->next;
    engine.pending++;
    if (engine.driven || !will_wait)
      wake_driver();
  }
  pthread_mutex_unlock(&engine.lock);
  return open;
}

bool tr_fetch(tr_future *future, const char *url,
              const tr_fetch_options *options, tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  transfer *t;
  pthread_once(&once, init_once);
  if (options->digest != NULL && !tr_hex_valid(options->digest)) {
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "'%s' is no digest: 40 hex digits of SHA-1 or 64 of SHA-256 "
                 "were expected", options->digest);
    return false;
  }
  t = curl_ready ? transfer_new(url, options) : NULL;
  if (t == NULL)
    goto fail;
  t->easy = take_handle();
  if (t->easy == NULL || !configure(t, options) || !aim(t) ||
      !tr_future_assign(future, &worker))
    goto fail;
  t->future = tr_future_hold(future);
  if (submit(t, options->will_wait))
    return true;
fail:
  if (t != NULL) {
    if (t->easy != NULL)
      curl_easy_cleanup(t->easy);
    transfer_free(t);
  }
  tr_error_nomem(error);
  return false;
}
