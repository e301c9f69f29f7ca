/*
** What the end of an attempt means: a body, an error, or another attempt,
** where a redirect leads, after a failure that may pass, or for the rest of
** a body that broke off.
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

/* The first retry comes after about this; each further one after twice as
** long, give or take a half, so that clients do not come back in step. */
static const double FIRST_DELAY = 0.2, LONGEST_DELAY = 10;

static bool has_header(tr_transfer *t, const char *name) {
  struct curl_header *header;
  return curl_easy_header(t->easy, name, 0, CURLH_HEADER, -1, &header) ==
         CURLHE_OK;
}

/* The error of an attempt that did not bring its body home. */
static void explain(const tr_transfer *t, CURLcode code, tr_error *error) {
  const char *why = t->why[0] != '\0' ? t->why : curl_easy_strerror(code);
  tr_kind kind = tr_kind_of_curl(code);
  char tries[32] = "";
  if (t->attempts > 1)
    snprintf(tries, sizeof tries, " (after %d attempts)", t->attempts);
  if (t->no_memory)
    tr_error_nomem(error);
  else if (t->refused[0] != '\0')
    tr_error_set(error, TR_DENIED,
                 "Failed to fetch from %s: its server is at the private "
                 "address %s; to allow it, ask without refuse_private",
                 t->shown, t->refused);
  else if (t->header_bytes >
               TR_MAX_HEADERS || /* a line that libcurl refuses: */
           (code == CURLE_OUT_OF_MEMORY && !t->headed))
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to fetch from %s: more than 100 KiB in a header, or "
                 "%d KiB in all",
                 t->shown, TR_MAX_HEADERS / 1024);
  else if (t->too_large || kind == TR_TOO_LARGE)
    tr_error_set(error, TR_TOO_LARGE,
                 "Failed to read response body from %s: larger than the limit "
                 "of %zu bytes; raise max_bytes to allow it",
                 t->shown, t->max_bytes);
  else
    tr_error_set(error, kind, "Failed to %s from %s: %s%s%s",
                 tr_transfer_status(t) != 0 ? "read response body" : "fetch",
                 t->shown, why,
                 code == CURLE_PEER_FAILED_VERIFICATION
                     ? " (for a CA of your own, give ca_file)"
                     : "",
                 tries);
}

static void refuse_status(const tr_transfer *t, long status, tr_error *error) {
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
    ok = tr_transfer_aim(t);
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
  return t->answered && t->body.len > 0 && !has_header(t, "Content-Encoding") &&
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
  return tr_transfer_aim(t);
}

/* Whether the body is what the caller pinned; else the error. */
static bool as_pinned(const tr_transfer *t, tr_blob *blob, tr_error *error) {
  char actual[TR_HEX_MAX];
  if (t->digest[0] == '\0')
    return true;
  tr_digest(tr_algorithm_of(t->digest), tr_blob_data(blob), tr_blob_size(blob),
            actual);
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
    tr_transfer_copy_header(t, "ETag", t->freshness.etag);
    tr_transfer_copy_header(t, "Last-Modified", t->freshness.last_modified);
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
  long status = tr_transfer_status(t);
  *blob = NULL;
  if (code == CURLE_OK && !t->headed)
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
  if (t->resuming && (t->misfit || (code == CURLE_OK && status == 416))) {
    t->resuming = false; /* there is no rest to what we have: start over */
    t->not_before = 0;
    if (tr_transfer_aim(t))
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
    explain(t, code, error);
  else
    refuse_status(t, status, error);
  return true;
}
