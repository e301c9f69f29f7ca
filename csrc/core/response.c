/*
** The end of an attempt is a body, an error, or the start of another attempt:
** to follow a redirect, to retry, or to resume a body that broke off.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "authorize.h"
#include "crypto.h"
#include "error.h"
#include "failure.h"
#include "http.h"
#include "metrics.h"
#include "redact.h"
#include "redirect.h"
#include "request.h"
#include "resign.h"
#include "retry.h"
#include "socket.h"

/* ----------------------------------------------------------------- successes */

static void set_text(char **to, const char *text) {
  free(*to);
  *to = text[0] != '\0' ? strdup(text) : NULL;
}

/* Count how long the phases of a request took. */
static void count_phases(const tr_info *info) {
  tr_count_time(TR_TIME_FETCH + TR_PHASE_QUEUE, info->queued);
  if (info->connected >= 0)
    tr_count_time(TR_TIME_FETCH + TR_PHASE_CONNECT, info->connected - info->queued);
  if (info->first_byte >= 0)
    tr_count_time(TR_TIME_FETCH + TR_PHASE_FIRST_BYTE, info->first_byte - info->connected);
  tr_count_time(TR_TIME_FETCH + TR_PHASE_TOTAL, info->total);
}

/* Hand the info to the promise: it is whole now. */
static void publish_info(tr_request *r) {
  tr_info *info = r->info;
  if (info == NULL)
    return;
  r->info = NULL;
  free(info->url);
  info->url = tr_redacted(r->url.text);
  info->status = r->response.status;
  info->attempts = r->attempts;
  info->total = tr_now() - r->submitted;
  count_phases(info);
  set_text(&info->content_type, r->response.content_type);
  set_text(&info->digest, r->digest);
  set_text(&info->code, r->code);
  if (r->message != NULL ? !r->message->secret : r->signer != NULL) {
    info->fields = r->fields;
    r->fields = (tr_buffer){0};
  }
  tr_promise_set_info(r->promise, info);
}

/* Check the body against the digest the caller gave. False with the error. */
static bool check_digest(const tr_request *r, const char *actual,
                         tr_error *error) {
  if (curl_strequal(actual, r->digest))
    return true;
  tr_error_set(error, TR_DIGEST_MISMATCH,
               "The body of %s has the digest %s, but %s was expected",
               r->shown, actual, r->digest);
  return false;
}

/* Append a name and a value to the extras of a record, if they fit. */
static void add_extra(char room[TR_EXTRA_MAX], size_t *used, const char *name,
                      const char *value) {
  size_t name_size = strlen(name) + 1, size = strlen(value) + 1;
  if (*used + name_size + size > TR_EXTRA_MAX)
    return;
  memcpy(room + *used, name, name_size);
  memcpy(room + *used + name_size, value, size);
  *used += name_size + size;
}

/* Write the extras of a record: "origin", where a redirect led to, as it may be shown; and
** "version", of an object. */
static tr_bytes write_extra(const tr_request *r, char room[TR_EXTRA_MAX]) {
  static const char version[] = "x-amz-version-id";
  char *shown = r->asked.text != NULL ? tr_displayed(r->url.text) : NULL;
  const char *value = r->signer != NULL ? tr_message_field(&r->fields, version) : NULL;
  size_t used = 0;
  if (shown != NULL)
    add_extra(room, &used, "origin", shown);
  if (value != NULL && value[0] != '\0')
    add_extra(room, &used, "version", value);
  free(shown);
  return (tr_bytes){room, used};
}

/* Add what the request knows to the record of a result, and hand it to the
** promise. False: memory is short. */
static bool publish_record(tr_request *r, tr_record *draft) {
  char url[TR_URL_DIGEST], unsigned_url[TR_URL_DIGEST], extra[TR_EXTRA_MAX];
  tr_record *record;
  if (draft->extra.len == 0)
    draft->extra = write_extra(r, extra);
  if (tr_promise_is_cached(r->promise)) { /* nobody else asks for them */
    tr_url_digests(r->url.text, url, unsigned_url);
    draft->url = url;
    draft->unsigned_url = unsigned_url;
  }
  draft->hosts = (tr_bytes){r->hosts, r->hosts_len};
  draft->from_private |= r->from_private;
  record = tr_record_new(draft);
  if (record == NULL)
    return false;
  tr_promise_set_record(r->promise, record);
  return true;
}

/* True if the body may have changed within the second in which it was sent: its validators would
** be the same. (RFC 9110, 8.8.2.2) The ETag of an object store, and one that outlived another date,
** does not depend on dates. A date that is far ahead is not the moment of a change. */
static bool is_unsettled(const tr_request *r) {
  const tr_record *known = r->known_record;
  double modified = r->last_modified[0] != '\0' ? tr_date(r->last_modified) : 0;
  double since = tr_date(r->body_date) - modified;
  if (modified <= 0 || since >= 1 || since < -60 || (r->signer != NULL && r->etag[0] != '\0'))
    return false;
  return known == NULL || r->etag[0] == '\0' || strcmp(r->etag, known->etag) != 0 ||
         strcmp(r->last_modified, known->last_modified) == 0;
}

/* Turn the body into a blob, whose digest is right. */
static tr_blob *take_body(tr_request *r, tr_error *error) {
  tr_record draft = {.etag = r->etag,
                     .last_modified = r->last_modified,
                     .no_store = r->no_store,
                     .open_ended = r->open_ended,
                     .unsettled = is_unsettled(r)};
  tr_blob *blob = NULL;
  if (publish_record(r, &draft))
    blob = tr_buffer_to_blob(&r->body);
  if (blob == NULL)
    tr_error_nomem(error);
  return blob;
}

/* The whole body is here: it is the result, or goes on to the hasher. */
static tr_verdict finish_body(tr_request *r, tr_blob **blob, tr_error *error) {
  char actual[TR_HEX_MAX];
  if (r->digest[0] == '\0') {
    *blob = take_body(r, error);
    return TR_VERDICT_DONE;
  }
  if (r->hashing && tr_hasher_finish(r->hasher, r->body.data, r->body.len))
    return TR_VERDICT_HASH;
  tr_digest(tr_algorithm_of(r->digest), r->body.data, r->body.len, actual);
  if (check_digest(r, actual, error))
    *blob = take_body(r, error);
  return TR_VERDICT_DONE;
}

void tr_request_end_hashing(tr_request *r, tr_blob **blob, tr_error *error) {
  char actual[TR_HEX_MAX];
  *blob = NULL;
  tr_hasher_digest(r->hasher, actual);
  r->hashing = false;
  if (check_digest(r, actual, error))
    *blob = take_body(r, error);
  publish_info(r);
}

/* An ETag without the mark of a weak one. */
static const char *opaque_tag(const char *etag) {
  return strncmp(etag, "W/", 2) == 0 ? etag + 2 : etag;
}

/* True if a 304 is about the known blob: its validators are those that were sent. A server
** may name others by mistake. (RFC 9111, 4.3.4) */
static bool is_about_known(const tr_request *r) {
  const tr_response *p = &r->response;
  const tr_record *known = r->known_record;
  if (p->etag[0] != '\0')
    return strcmp(opaque_tag(p->etag), opaque_tag(known->etag)) == 0;
  return p->last_modified[0] == '\0' || known->last_modified[0] == '\0' ||
         strcmp(p->last_modified, known->last_modified) == 0;
}

/* A 304: the known blob is still good. Its bytes came from where they came from
** then, and were confirmed from where this response came from. */
static tr_blob *take_known(tr_request *r, tr_error *error) {
  tr_record draft = *r->known_record;
  const char *host = draft.hosts.at, *end = host + draft.hosts.len;
  bool ok = true;
  for (; ok && host < end; host += strlen(host) + 1)
    ok = tr_request_add_host(r, host);
  draft.age = 0;
  draft.no_store = r->response.no_store;
  if (r->response.etag[0] != '\0')
    draft.etag = r->response.etag;
  if (r->response.last_modified[0] != '\0')
    draft.last_modified = r->response.last_modified;
  if (!ok || !publish_record(r, &draft)) {
    tr_error_nomem(error);
    return NULL;
  }
  r->info->unchanged = true;
  return tr_blob_retain(r->known);
}

/* Begin again with an empty body, at once. */
static tr_verdict start_over(tr_request *r) {
  r->resuming = false;
  r->not_before = 0;
  return TR_VERDICT_AGAIN;
}

/* A successful status whose body has ended: is it the whole? */
static tr_verdict end_body(tr_request *r, tr_blob **blob, tr_error *error) {
  if (!r->response.body_started && !tr_request_begin_body(r)) {
    if (r->range_mismatch)
      return start_over(r);
    tr_failure_explain(r, CURLE_OK, error);
    return TR_VERDICT_DONE;
  }
  if (r->gunzip != NULL && !tr_gzip_ended(r->gunzip) &&
      !(r->response.has_length && r->response.length == 0 &&
        !r->response.chunked)) { /* a length beside chunks means nothing */
    if (!r->plain_encoding) { /* once more, without the coding */
      r->plain_encoding = true;
      return start_over(r);
    }
    tr_failure_set(r, TR_NETWORK, error, "its gzip coding breaks off");
    return TR_VERDICT_DONE;
  }
  /* Over HTTP/2, libcurl does not tell a stream's end from its reset. */
  r->open_ended = !r->response.has_length && r->response.status != 204 &&
                  (r->response.http2 || !r->response.chunked);
  if (r->require_length && r->open_ended) {
    tr_failure_set(r, TR_NETWORK, error,
                   "the response has no length, so a cut-off body cannot be detected "
                   "(require_length)");
    return TR_VERDICT_DONE;
  }
  if (r->total_known && r->body.len < r->total) { /* a part of what was asked */
    if (r->body.len > r->resumed_from && r->parts_left-- > 0) {
      r->resuming = true;
      r->not_before = 0;
      return TR_VERDICT_AGAIN;
    }
    if (tr_retry_prepare(r, CURLE_PARTIAL_FILE))
      return TR_VERDICT_AGAIN;
    tr_failure_set(r, TR_NETWORK, error, "the server does not send the rest");
    return TR_VERDICT_DONE;
  }
  return finish_body(r, blob, error);
}

/* ------------------------------------------------------------------- the end */

/* True if the response to a message is good, though the connection failed. A server may
** answer before it has the whole body, and then takes no more: libcurl calls that an error
** on HTTP/2. The status of a refusal counts without the rest of its text. */
static bool was_answered(const tr_request *r, CURLcode code) {
  const tr_response *p = &r->response;
  if (!p->complete_headers || !tr_failure_is_connection(r, code) || r->stalled)
    return false;
  return p->status >= 400 || p->status == 204 || p->status == 304 ||
         r->message->method == TR_HEAD ||
         (p->has_length && !p->chunked && !p->bad_length && r->body.len == p->length);
}

/* Correct what libcurl made of an attempt. */
static CURLcode true_code(tr_request *r, CURLcode code) {
  const tr_response *p = &r->response;
  if (code == CURLE_OK && !p->complete_headers)
    return CURLE_PARTIAL_FILE; /* it takes half a header for a whole */
  if (r->message != NULL)
    return was_answered(r, code) ? CURLE_OK : code;
  if (p->complete_headers &&
      (p->status >= 300 || (p->status == 206 && !r->resuming)))
    return CURLE_OK; /* its status is all that was wanted */
  return code;
}

/* Any response to a message is its result; the caller judges it. */
static tr_verdict end_message(tr_request *r, tr_blob **blob, tr_error *error) {
  if (tr_retry_prepare(r, CURLE_OK))
    return TR_VERDICT_AGAIN;
  if (r->message->method == TR_HEAD || r->response.body_started ||
      tr_request_begin_body(r))
    *blob = take_body(r, error);
  else
    tr_failure_explain(r, CURLE_OK, error);
  return TR_VERDICT_DONE;
}

static tr_verdict judge(tr_request *r, CURLcode code, tr_blob **blob,
                        tr_error *error) {
  int status = r->response.status;
  tr_verdict verdict;
  *blob = NULL;
  if (r->out_of_step && r->step_retries-- > 0) {
    r->fresh_connection = true;
    return start_over(r);
  }
  if (r->response.bad_header) {
    r->fault = "a header that frames its body is malformed";
    tr_failure_explain(r, code, error);
    return TR_VERDICT_DONE;
  }
  if (r->response.bad_length && code != CURLE_OPERATION_TIMEDOUT) {
    r->fault = "its Content-Length is malformed, or contradicts another";
    tr_failure_explain(r, code, error);
    return TR_VERDICT_DONE;
  }
  if (r->signer != NULL)
    tr_resign_read(r);
  if (code == CURLE_OK && r->signer != NULL && tr_resign_answer(r, &verdict, error))
    return verdict;
  if (code == CURLE_OK && tr_redirect_is_due(r))
    return tr_redirect_follow(r, error) ? TR_VERDICT_AGAIN : TR_VERDICT_DONE;
  if (code == CURLE_OK && status == 401 && r->auth != NULL &&
      tr_authorize_answer(r, &verdict, error))
    return verdict;
  if (code == CURLE_OK && r->message != NULL)
    return end_message(r, blob, error);
  if (code == CURLE_OK && status == 304 && r->conditional && !is_about_known(r)) {
    tr_blob_release(r->known);
    r->known = NULL; /* no conditions any more */
    return start_over(r);
  }
  if (code == CURLE_OK && status == 304 && r->conditional) {
    *blob = take_known(r, error);
    return TR_VERDICT_DONE;
  }
  if (code == CURLE_OK && tr_redirect_may_renew(r))
    return tr_redirect_renew(r, error) ? TR_VERDICT_AGAIN : TR_VERDICT_DONE;
  if (r->range_mismatch || (r->resuming && code == CURLE_OK && status == 416))
    return start_over(r); /* there is no rest to what we have */
  if (code == CURLE_OK && tr_is_success(status) &&
      (status != 206 || r->resuming))
    return end_body(r, blob, error);
  if (tr_retry_prepare(r, code))
    return TR_VERDICT_AGAIN;
  if (code != CURLE_OK && tr_failure_connect_status(r) != 0) {
    char reason[64];
    snprintf(reason, sizeof reason, "the proxy answered %d %s",
             tr_failure_connect_status(r), tr_reason_phrase(tr_failure_connect_status(r)));
    tr_failure_set(r, TR_HTTP_STATUS, error, reason);
    error->status = tr_failure_connect_status(r);
  } else if (code != CURLE_OK) {
    tr_failure_explain(r, code, error);
  } else {
    tr_failure_refuse_status(r, status, error);
  }
  return TR_VERDICT_DONE;
}

tr_verdict tr_request_end_attempt(tr_request *r, int code, tr_blob **blob,
                                  tr_error *error) {
  tr_verdict verdict;
  if (code != CURLE_OK && tr_socket_was_broken(r->connection))
    r->fault = TR_ENDLESS;
  if (r->auth != NULL && r->response.complete_headers && r->response.status != 401)
    tr_authorize_accepted(r);
  verdict = judge(r, true_code(r, (CURLcode)code), blob, error);
  if (verdict == TR_VERDICT_DONE)
    publish_info(r);
  return verdict;
}

void tr_request_time_out(tr_request *r, size_t running, tr_error *error) {
  tr_failure_time_out(r, running, error);
  publish_info(r);
}
