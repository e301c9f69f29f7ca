/*
** One fetch: what is asked for, what to do with what comes back. An attempt
** may end in a redirect, in a retry or, when the server can, in resuming a
** body where it broke off.
*/
#include "transfer.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digest.h"
#include "error.h"
#include "http.h"

enum {
  /* A larger Content-Length is believed piece by piece. */
  TRUSTED_LENGTH = 64 * 1024 * 1024,
  /* How much of an error's body is read, to keep its connection alive. */
  ERROR_BODY = 64 * 1024,
  /* libcurl's reads; its default of 16 KiB costs a third of the bandwidth. */
  READ_BUFFER = 128 * 1024,
  /* Of one response. libcurl bounds a line, and older ones not their sum. */
  MAX_HEADERS = 256 * 1024
};

/* The first retry comes after about this; each further one after twice as
** long, give or take a half, so that clients do not come back in step. */
static const double FIRST_DELAY = 0.2, LONGEST_DELAY = 10;

void tr_fetch_defaults(tr_fetch_options *options) {
  *options = (tr_fetch_options){.timeout = 30,
                                .connect_timeout = 10,
                                .stall_timeout = 15,
                                .max_bytes = (size_t)1 << 30,
                                .max_redirects = 10,
                                .retries = 2};
}

/* ------------------------------------------------------------------ asking */

void tr_transfer_free(tr_transfer *t) {
  curl_slist_free_all(t->headers);
  curl_slist_free_all(t->callers);
  tr_buffer_free(&t->body);
  tr_blob_release(t->known);
  free(t->url);
  free(t->shown);
  if (t->future != NULL)
    tr_future_drop(t->future);
  free(t);
}

static long milliseconds(double seconds) {
  double ms = ceil(seconds * 1000);
  return ms < 1 ? 1 : ms > 1e9 ? 1000000000L : (long)ms;
}

static bool add_header(struct curl_slist **list, const char *line) {
  struct curl_slist *longer = curl_slist_append(*list, line);
  if (longer != NULL)
    *list = longer;
  return longer != NULL;
}

/* Adds "<name>: <value>" unless the value is empty. */
static bool add_field(tr_transfer *t, const char *name, const char *value) {
  char line[TR_VALIDATOR_MAX + 32];
  if (value[0] == '\0')
    return true;
  snprintf(line, sizeof line, "%s: %s", name, value);
  return add_header(&t->headers, line);
}

/* The header fields of the next attempt. */
static bool make_headers(tr_transfer *t) {
  struct curl_slist *line;
  const tr_freshness *f = &t->freshness, *known = &t->known_freshness;
  char range[64];
  curl_slist_free_all(t->headers);
  t->headers = NULL;
  for (line = t->callers; line != NULL; line = line->next)
    if (!add_header(&t->headers, line->data))
      return false;
  if (!t->resuming && t->known != NULL)
    return add_field(t, "If-None-Match", known->etag) &&
           add_field(t, "If-Modified-Since", known->last_modified);
  if (!t->resuming)
    return true;
  snprintf(range, sizeof range, "bytes=%zu-", t->body.len);
  return add_field(t, "Range", range) &&
         add_field(t, "If-Range",
                   f->etag[0] != '\0' ? f->etag : f->last_modified);
}

/* Points the handle at 't->url', with what is left of the time. */
static bool aim(tr_transfer *t) {
  t->answered = false;
  t->discarded = t->header_bytes = 0;
  t->misfit = t->headed = false;
  t->why[0] = '\0';
  if (!t->resuming) {
    t->body.len = 0;
    t->freshness = (tr_freshness){0};
  }
  if (isfinite(t->deadline))
    curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS,
                     milliseconds(t->deadline - tr_now()));
  return make_headers(t) &&
         /* A range is of the bytes as they are sent: no packing then. */
         curl_easy_setopt(t->easy, CURLOPT_ACCEPT_ENCODING,
                          t->resuming ? NULL : "") == CURLE_OK &&
         curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) ==
             CURLE_OK &&
         curl_easy_setopt(t->easy, CURLOPT_URL, t->url) == CURLE_OK;
}

static size_t on_body(char *data, size_t size, size_t count, void *context);
static size_t on_header(char *data, size_t size, size_t count, void *context);

/* Sets what is the same for every attempt, and returns the first failure. */
static CURLcode configure(tr_transfer *t, const tr_fetch_options *o) {
  CURLcode code = CURLE_OK;
  curl_off_t limit = o->max_bytes > (size_t)INT64_MAX
                         ? INT64_MAX
                         : (curl_off_t)o->max_bytes;
#define SET(option, value)                                                     \
  do {                                                                         \
    if (code == CURLE_OK)                                                      \
      code = curl_easy_setopt(t->easy, option, value);                         \
  } while (0)
  /* Refused by a used handle that has its buffer still, and then not needed. */
  curl_easy_setopt(t->easy, CURLOPT_BUFFERSIZE, (long)READ_BUFFER);
  SET(CURLOPT_PRIVATE, t);
  SET(CURLOPT_NOSIGNAL, 1L);
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_WRITEFUNCTION, on_body);
  SET(CURLOPT_WRITEDATA, t);
  SET(CURLOPT_HEADERFUNCTION, on_header);
  SET(CURLOPT_HEADERDATA, t);
  SET(CURLOPT_ERRORBUFFER, t->why);
  SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
  /* Rather a stream than a new connection, where there may be streams. */
  SET(CURLOPT_PIPEWAIT, curl_strnequal(t->url, "https", 5) ? 1L : 0L);
  SET(CURLOPT_MAXFILESIZE_LARGE, limit);
  SET(CURLOPT_USERAGENT,
      o->user_agent != NULL ? o->user_agent : "theaterref/" TR_VERSION);
  if (o->connect_timeout >= 0)
    SET(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(o->connect_timeout));
  if (o->stall_timeout >= 0) {
    SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
    SET(CURLOPT_LOW_SPEED_TIME,
        (milliseconds(o->stall_timeout) + 999) / 1000);
  }
  if (o->ca_file != NULL)
    SET(CURLOPT_CAINFO, o->ca_file);
  if (o->client_cert != NULL)
    SET(CURLOPT_SSLCERT, o->client_cert);
  if (o->client_key != NULL)
    SET(CURLOPT_SSLKEY, o->client_key);
  if (o->unix_socket != NULL)
    SET(CURLOPT_UNIX_SOCKET_PATH, o->unix_socket);
  if (o->netrc)
    SET(CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
#undef SET
  return code;
}

static bool add_callers(tr_transfer *t, const char *const *headers) {
  for (; headers != NULL && *headers != NULL; headers++)
    if (!add_header(&t->callers, *headers))
      return false;
  return true;
}

/* An empty transfer with copies of what it needs. */
static tr_transfer *allocate(tr_future *future, const char *url,
                             const tr_fetch_options *o) {
  tr_transfer *t = calloc(1, sizeof *t);
  if (t == NULL)
    return NULL;
  t->future = tr_future_hold(future);
  t->known = tr_future_known(future, &t->known_freshness);
  t->url = strdup(url);
  t->shown = tr_url_without_credentials(url);
  t->max_bytes = o->max_bytes;
  t->deadline = tr_deadline(o->timeout);
  t->redirects_left = o->max_redirects;
  t->retries_left = o->retries;
  if (o->digest != NULL)
    memcpy(t->digest, o->digest, strlen(o->digest) + 1);
  if (t->url != NULL && t->shown != NULL && add_callers(t, o->headers))
    return t;
  tr_transfer_free(t);
  return NULL;
}

tr_transfer *tr_transfer_new(tr_future *future, const char *url,
                             const tr_fetch_options *options, CURL *easy,
                             tr_error *error) {
  tr_transfer *t = NULL;
  CURLcode code = CURLE_OK;
  if (options->digest != NULL && !tr_hex_valid(options->digest)) {
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "'%s' is no digest: 40 hex digits of SHA-1 or 64 of SHA-256 "
                 "were expected",
                 options->digest);
    curl_easy_cleanup(easy);
    return NULL;
  }
  t = easy == NULL ? NULL : allocate(future, url, options);
  if (t != NULL) {
    t->easy = easy;
    code = configure(t, options);
    if (code == CURLE_OK && aim(t)) {
      t->attempts = 1;
      return t;
    }
    tr_transfer_free(t);
  }
  curl_easy_cleanup(easy);
  if (code == CURLE_OK)
    tr_error_nomem(error);
  else
    tr_error_set(error, TR_IO, "this libcurl cannot do what is asked: %s",
                 curl_easy_strerror(code));
  return NULL;
}

/* --------------------------------------------------------------- receiving */

/* Copies a response header's value, or empties 'to' when it is not there or
** too long to be sent back. */
static void copy_header(tr_transfer *t, const char *name,
                        char to[TR_VALIDATOR_MAX]) {
  struct curl_header *header;
  to[0] = '\0';
  if (curl_easy_header(t->easy, name, 0, CURLH_HEADER, -1, &header) ==
          CURLHE_OK &&
      strlen(header->value) < TR_VALIDATOR_MAX)
    strcpy(to, header->value);
}

static bool has_header(tr_transfer *t, const char *name) {
  struct curl_header *header;
  return curl_easy_header(t->easy, name, 0, CURLH_HEADER, -1, &header) ==
         CURLHE_OK;
}

/* Whether a 206 continues right where the body broke off. */
static bool continues(tr_transfer *t) {
  struct curl_header *header;
  unsigned long long start = 0;
  return curl_easy_header(t->easy, "Content-Range", 0, CURLH_HEADER, -1,
                          &header) == CURLHE_OK &&
         sscanf(header->value, "bytes %llu-", &start) == 1 &&
         start == t->body.len;
}

static long status_of(const tr_transfer *t) {
  long status = 0;
  curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

static bool is_success(long status) { return status >= 200 && status <= 299; }

/* The first bytes of a response's body: what do they belong to? False: to
** nothing we have. */
static bool on_answer(tr_transfer *t) {
  curl_off_t length = -1;
  size_t announced;
  if (t->resuming && status_of(t) == 206 && !continues(t))
    return false;
  t->answered = true;
  if (!t->resuming || status_of(t) != 206)
    t->body.len = 0;
  curl_easy_getinfo(t->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  announced = length > 0 ? (size_t)length : 0;
  copy_header(t, "ETag", t->freshness.etag);
  copy_header(t, "Last-Modified", t->freshness.last_modified);
  if (announced > 0) /* exact, so that a body takes no more than its size */
    tr_buffer_reserve(&t->body, announced < TRUSTED_LENGTH
                                    ? announced
                                    : (size_t)TRUSTED_LENGTH);
  tr_future_set_progress(t->future, t->body.len,
                         announced > 0 ? t->body.len + announced : 0);
  return true;
}

static size_t on_header(char *data, size_t size, size_t count,
                        void *context) {
  tr_transfer *t = context;
  if (data[0] == '\r' || data[0] == '\n') /* an interim answer has one too */
    t->headed = status_of(t) >= 200;
  t->header_bytes += size * count;
  return t->header_bytes <= MAX_HEADERS ? size * count : 0;
}

static size_t on_body(char *data, size_t size, size_t count, void *context) {
  tr_transfer *t = context;
  size_t n = size * count; /* curl gives size 1 */
  if (!is_success(status_of(t))) {
    t->discarded += n;
    return t->discarded <= ERROR_BODY ? n : 0;
  }
  if (!t->answered && !on_answer(t)) {
    t->misfit = true;
    return 0;
  }
  if (n > t->max_bytes || t->body.len > t->max_bytes - n) {
    t->too_large = true;
    return 0;
  }
  if (!tr_buffer_append(&t->body, data, n)) {
    t->no_memory = true;
    return 0;
  }
  tr_future_set_received(t->future, t->body.len);
  return n;
}

/* ----------------------------------------------------------------- results */

/* The error of an attempt that did not bring its body home. */
static void explain(const tr_transfer *t, CURLcode code, tr_error *error) {
  const char *why = t->why[0] != '\0' ? t->why : curl_easy_strerror(code);
  tr_kind kind = tr_kind_of_curl(code);
  char tries[32] = "";
  if (t->attempts > 1)
    snprintf(tries, sizeof tries, " (after %d attempts)", t->attempts);
  if (t->no_memory)
    tr_error_nomem(error);
  else if (t->header_bytes > MAX_HEADERS || /* a line that libcurl refuses: */
           (code == CURLE_OUT_OF_MEMORY && !t->headed))
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to fetch from %s: more than 100 KiB in a header, or "
                 "%d KiB in all", t->shown, MAX_HEADERS / 1024);
  else if (t->too_large || kind == TR_TOO_LARGE)
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to read response body from %s: larger than the limit "
                 "of %zu bytes; raise max_bytes to allow it",
                 t->shown, t->max_bytes);
  else
    tr_error_set(error, kind, "Failed to %s from %s: %s%s%s",
                 status_of(t) != 0 ? "read response body" : "fetch", t->shown,
                 why,
                 code == CURLE_PEER_FAILED_VERIFICATION
                     ? " (for a CA of your own, give ca_file)"
                     : "",
                 tries);
}

static void refuse_status(const tr_transfer *t, long status,
                          tr_error *error) {
  tr_error_set(error, TR_HTTP_STATUS, "HTTP request failed for %s: %ld %s",
               t->shown, status, tr_reason_phrase(status));
  error->status = (int)status;
}

static bool starts_with(const char *text, const char *prefix) {
  return curl_strnequal(text, prefix, strlen(prefix));
}

/*
** Follows a redirect to 'to', within the rules: http and https only, never
** from https back to http, headers of the caller's only on the same origin.
** False with the error when it must not or cannot be followed.
*/
static bool redirect(tr_transfer *t, const char *to, tr_error *error) {
  char *url = strdup(to), *shown = tr_url_without_credentials(to);
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
    if (!tr_url_same_origin(t->url, to)) {
      curl_slist_free_all(t->callers);
      t->callers = NULL;
    }
    free(t->url);
    t->url = url;
    url = NULL;
    t->resuming = false;
    t->not_before = 0;
    ok = aim(t);
    if (!ok)
      tr_error_nomem(error);
  }
  free(url);
  free(shown);
  return ok;
}

/* Whether the same request may go better the next time. */
static bool is_transient(const tr_transfer *t, CURLcode code, long status) {
  switch (code) {
  case CURLE_OK:
    return status == 408 || status == 429 || status == 500 || status == 502 ||
           status == 503 || status == 504;
  case CURLE_OPERATION_TIMEDOUT: /* to connect; the whole time is up else */
    return status == 0 && t->deadline - tr_now() > FIRST_DELAY;
  case CURLE_COULDNT_CONNECT:
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_PARTIAL_FILE:
  case CURLE_HTTP2:
  case CURLE_HTTP2_STREAM:
    return true;
  default:
    return false;
  }
}

/* A number from 0.5 to 1.5; how random it is matters little. */
static double jitter(void) {
  static atomic_uint seed = 2463534242u;
  unsigned x = atomic_fetch_add(&seed, 2654435769u);
  x ^= x >> 16;
  x *= 2246822519u;
  x ^= x >> 13;
  return 0.5 + (double)x / 4294967295.0;
}

/* Whether the next attempt can ask for the rest of what we have. A weak
** validator does not promise the same bytes. */
static bool can_resume(tr_transfer *t) {
  const tr_freshness *f = &t->freshness;
  return t->answered && t->body.len > 0 &&
         !has_header(t, "Content-Encoding") &&
         (f->etag[0] == '"' ||
          (f->etag[0] == '\0' && f->last_modified[0] != '\0'));
}

/* Prepares another attempt when there is to be one. */
static bool retry(tr_transfer *t, CURLcode code, long status) {
  curl_off_t wish = 0;
  double delay = ldexp(FIRST_DELAY, t->attempts - 1) * jitter();
  if (t->too_large || t->no_memory || t->retries_left <= 0 ||
      !is_transient(t, code, status))
    return false;
  if (delay > LONGEST_DELAY)
    delay = LONGEST_DELAY;
  curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &wish);
  if (wish > 0 && code == CURLE_OK && (double)wish > delay)
    delay = (double)wish;
  if (tr_now() + delay >= t->deadline)
    return false; /* better to say now what is wrong */
  t->resuming = code != CURLE_OK && can_resume(t);
  t->not_before = tr_now() + delay;
  t->retries_left--;
  t->attempts++;
  tr_future_set_attempts(t->future, t->attempts);
  return aim(t);
}

/* Whether the body is what the caller pinned; else the error. */
static bool as_pinned(const tr_transfer *t, tr_blob *blob, tr_error *error) {
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

/* A success: the body, if it is what was asked for. */
static tr_blob *take_body(tr_transfer *t, tr_error *error) {
  tr_blob *blob;
  if (!t->answered) { /* no byte of a body came */
    t->body.len = 0;
    copy_header(t, "ETag", t->freshness.etag);
    copy_header(t, "Last-Modified", t->freshness.last_modified);
  }
  tr_future_set_freshness(t->future, &t->freshness);
  blob = tr_buffer_to_blob(&t->body);
  if (blob == NULL) {
    tr_error_nomem(error);
  } else if (!as_pinned(t, blob, error)) {
    tr_blob_release(blob);
    return NULL;
  }
  return blob;
}

bool tr_transfer_over(tr_transfer *t, CURLcode code, tr_blob **blob,
                      tr_error *error) {
  char *location = NULL;
  long status = status_of(t);
  *blob = NULL;
  if (code == CURLE_OK && !t->headed)
    code = CURLE_PARTIAL_FILE; /* libcurl takes half a header for a whole */
  if (code == CURLE_WRITE_ERROR && t->discarded > ERROR_BODY)
    code = CURLE_OK; /* its status is all we wanted */
  curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &location);
  if (code == CURLE_OK && location != NULL)
    return !redirect(t, location, error);
  if (code == CURLE_OK && status == 304 && t->known != NULL) {
    tr_future_set_freshness(t->future, &t->known_freshness);
    *blob = tr_blob_retain(t->known);
    return true;
  }
  if (t->resuming && (t->misfit || (code == CURLE_OK && status == 416))) {
    t->resuming = false; /* there is no rest to what we have: start over */
    t->not_before = 0;
    if (aim(t))
      return false;
  }
  if (code == CURLE_OK && is_success(status) &&
      (status != 206 || t->resuming)) {
    *blob = take_body(t, error);
    return true;
  }
  if (retry(t, code, status))
    return false;
  if (code != CURLE_OK)
    explain(t, code, error);
  else
    refuse_status(t, status, error);
  return true;
}
