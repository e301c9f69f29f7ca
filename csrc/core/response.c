/*
** The end of an attempt is a body, an error, or the start of another attempt:
** to follow a redirect, to retry, or to resume a body that broke off.
*/
#include "request.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto.h"
#include "error.h"
#include "http.h"

/* The first retry comes after about this; each further one after twice as
** long, give or take a half, so that clients do not come back in step. */
static const double FIRST_DELAY = 0.2, LONGEST_DELAY = 10;

static bool has_header(tr_request *t, const char *name) {
  struct curl_header *header;
  return curl_easy_header(t->easy, name, 0, CURLH_HEADER, -1, &header) ==
         CURLHE_OK;
}

/* The error of an attempt that did not bring its body home. */
static void describe_failure(const tr_request *t, CURLcode code,
                             tr_error *error) {
  const char *why = t->why[0] != '\0' ? t->why : curl_easy_strerror(code);
  tr_error_kind kind = tr_error_kind_of_curl(code);
  char tries[32] = "";
  if (t->attempts > 1)
    snprintf(tries, sizeof tries, " (after %d attempts)", t->attempts);
  if (t->no_memory)
    tr_error_nomem(error);
  else if (t->refused_address[0] != '\0')
    tr_error_set(error, TR_DENIED,
                 "Failed to fetch from %s: its server is at the private "
                 "address %s; to allow it, ask without refuse_private",
                 t->display_url, t->refused_address);
  else if (t->header_bytes >
               TR_MAX_HEADERS || /* a line that libcurl refuses: */
           (code == CURLE_OUT_OF_MEMORY && !t->headers_complete))
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to fetch from %s: more than 100 KiB in a header, or "
                 "%d KiB in all",
                 t->display_url, TR_MAX_HEADERS / 1024);
  else if (t->too_large || kind == TR_TOO_LARGE)
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to read response body from %s: larger than the limit "
                 "of %zu bytes; raise max_bytes to allow it",
                 t->display_url, t->max_bytes);
  else
    tr_error_set(error, kind, "Failed to %s from %s: %s%s%s",
                 tr_request_status(t) != 0 ? "read response body" : "fetch",
                 t->display_url, why,
                 code == CURLE_PEER_FAILED_VERIFICATION
                     ? " (for a CA of your own, give ca_file)"
                     : "",
                 tries);
}

static void refuse_status(const tr_request *t, long status, tr_error *error) {
  tr_error_set(error, TR_HTTP_STATUS, "HTTP request failed for %s: %ld %s",
               t->display_url, status, tr_reason_phrase(status));
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
static bool redirect(tr_request *t, const char *to, tr_error *error) {
  char *url = strdup(to), *display_url = tr_url_without_credentials(to);
  bool ok = false;
  if (url == NULL || display_url == NULL) {
    tr_error_nomem(error);
  } else if (!starts_with(to, "https://") && !starts_with(to, "http://")) {
    tr_error_set(error, TR_DENIED,
                 "Failed to fetch from %s: refusing a redirect to %s, which is "
                 "neither http nor https",
                 t->display_url, display_url);
  } else if (starts_with(t->url, "https:") && !starts_with(to, "https:")) {
    tr_error_set(error, TR_DENIED,
                 "Failed to fetch from %s: refusing a redirect from https to "
                 "plain http, to %s",
                 t->display_url, display_url);
  } else if (t->redirects_left-- <= 0) {
    tr_error_set(error, TR_NETWORK,
                 "Failed to fetch from %s: too many redirects, the last to %s",
                 t->display_url, display_url);
  } else {
    if (!tr_url_same_origin(t->url, to)) {
      curl_slist_free_all(t->caller_headers);
      t->caller_headers = NULL;
    }
    free(t->url);
    t->url = url;
    url = NULL;
    t->resuming = false;
    t->not_before = 0;
    ok = tr_request_prepare(t);
    if (!ok)
      tr_error_nomem(error);
  }
  free(url);
  free(display_url);
  return ok;
}

/* True if a retry of the same request may succeed. */
static bool is_transient(const tr_request *t, CURLcode code, long status) {
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

/* True if the next attempt can request the rest of the body. A weak validator
** does not promise the same bytes. */
static bool can_resume(tr_request *t) {
  const tr_freshness *f = &t->freshness;
  return t->body_started && t->body.len > 0 &&
         !has_header(t, "Content-Encoding") &&
         (f->etag[0] == '"' ||
          (f->etag[0] == '\0' && f->last_modified[0] != '\0'));
}

/* Prepares another attempt when there is to be one. */
static bool retry(tr_request *t, CURLcode code, long status) {
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
  return tr_request_prepare(t);
}

/* Check the body against the digest the caller gave. False with the error. */
static bool matches_digest(const tr_request *t, tr_blob *blob,
                           tr_error *error) {
  char actual[TR_HEX_MAX];
  if (t->digest[0] == '\0')
    return true;
  tr_digest(tr_algorithm_of(t->digest), tr_blob_data(blob), tr_blob_size(blob),
            actual);
  if (curl_strequal(actual, t->digest))
    return true;
  tr_error_set(error, TR_DIGEST_MISMATCH,
               "The body of %s has the digest %s, but %s was expected",
               t->display_url, actual, t->digest);
  return false;
}

/* A success: the body, if it is what was asked for. */
static tr_blob *take_body(tr_request *t, tr_error *error) {
  tr_blob *blob;
  if (!t->body_started) { /* no byte of a body came */
    t->body.len = 0;
    tr_request_copy_header(t, "ETag", t->freshness.etag);
    tr_request_copy_header(t, "Last-Modified", t->freshness.last_modified);
  }
  tr_future_set_freshness(t->future, &t->freshness);
  blob = tr_buffer_to_blob(&t->body);
  if (blob == NULL) {
    tr_error_nomem(error);
  } else if (!matches_digest(t, blob, error)) {
    tr_blob_release(blob);
    return NULL;
  }
  return blob;
}

bool tr_request_end_attempt(tr_request *t, CURLcode code, tr_blob **blob,
                            tr_error *error) {
  char *location = NULL;
  long status = tr_request_status(t);
  *blob = NULL;
  if (code == CURLE_OK && !t->headers_complete)
    code = CURLE_PARTIAL_FILE; /* libcurl takes half a header for a whole */
  if (code == CURLE_WRITE_ERROR && t->discarded > TR_ERROR_BODY)
    code = CURLE_OK; /* its status is all we wanted */
  curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &location);
  if (code == CURLE_OK && location != NULL)
    return !redirect(t, location, error);
  if (code == CURLE_OK && status == 304 && t->known != NULL) {
    tr_future_set_freshness(t->future, &t->known_freshness);
    *blob = tr_blob_retain(t->known);
    return true;
  }
  if (t->resuming &&
      (t->range_mismatch || (code == CURLE_OK && status == 416))) {
    t->resuming = false; /* there is no rest to what we have: start over */
    t->not_before = 0;
    if (tr_request_prepare(t))
      return false;
  }
  if (code == CURLE_OK && tr_is_success(status) &&
      (status != 206 || t->resuming)) {
    *blob = take_body(t, error);
    return true;
  }
  if (retry(t, code, status))
    return false;
  if (code != CURLE_OK)
    describe_failure(t, code, error);
  else
    refuse_status(t, status, error);
  return true;
}
