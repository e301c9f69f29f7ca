/* Retries: what may pass, and after how long it is tried again. */
#include "retry.h"

#include <math.h>
#include <netdb.h>
#include <string.h>

#include "crypto.h"
#include "failure.h"
#include "metrics.h"

/* The first retry comes after about this; each further one after twice as
** long, give or take a half, so that clients do not come back in step. */
static const double FIRST_DELAY = 0.2, LONGEST_DELAY = 10;
/* A server that asks for more is reported instead. */
static const double LONGEST_RETRY_AFTER = 60;

/* ------------------------------------------------------------------- retries */

static bool is_transient_status(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 ||
         status == 503 || status == 504;
}

/* True if a retry of the same request may succeed. */
static bool is_transient(const tr_request *r, CURLcode code) {
  if (r->too_large || r->no_memory || r->fault != NULL)
    return false;
  if (r->answer != NULL && r->answer->error != 0)
    return r->answer->error == EAI_AGAIN;
  if (code == CURLE_OK)
    return is_transient_status(r->response.status);
  if (tr_failure_connect_status(r) != 0)
    return is_transient_status(tr_failure_connect_status(r));
  return tr_failure_is_connection(r, code);
}

/* RFC 9110, 13.1.5: a date may be sent in If-Range only if it is strong. */
static bool has_strong_validator(const tr_request *r) {
  double modified;
  if (r->etag[0] != '\0')
    return r->etag[0] == '"';
  modified = tr_date(r->last_modified);
  return modified > 0 && tr_date(r->body_date) >= modified + 60;
}

/* True if the next attempt can request the rest of the body. */
static bool can_resume(const tr_request *r) {
  return r->message == NULL && r->body.len > 0 && r->gunzip == NULL &&
         r->total_known && r->body.len < r->total && has_strong_validator(r);
}

/* True if the server has done nothing, and takes the message later. A proxy may answer so for a
** server that has done it, so a message with a condition takes the server's own code. */
static bool is_refused_for_now(const tr_request *r) {
  int status = r->response.status;
  if (r->message->is_conditional && r->code[0] == '\0')
    return false;
  return status == 429 ||
         (status == 503 && (strcmp(r->code, "SlowDown") == 0 ||
                            (r->response.has_retry_after && !r->message->is_conditional)));
}

/* True if nothing is lost by sending a message again after an answer that it failed. An upload
** may be gone then, but for its registry's refusal for now. */
static bool is_harmless(const tr_request *r) {
  tr_method method = r->message->method;
  return method == TR_GET || method == TR_HEAD ||
         (!tr_message_is_single(r->message, r->retries_left) &&
          (r->signer != NULL || r->response.status == 503));
}

/* True if a message may be sent again: the server has not got it, or says so, or getting
** it twice does not matter. Other statuses are the caller's to judge. */
static bool may_be_repeated(const tr_request *r, CURLcode code) {
  if (r->message == NULL)
    return true;
  if (code == CURLE_OK)
    return is_refused_for_now(r) || is_harmless(r);
  return !r->connected || !tr_message_is_single(r->message, r->retries_left);
}

bool tr_retry_prepare(tr_request *r, CURLcode code) {
  double delay = ldexp(FIRST_DELAY, r->attempts - 1) * (0.5 + tr_random());
  if (r->retries_left <= 0 || !is_transient(r, code) || !may_be_repeated(r, code))
    return false;
  if (delay > LONGEST_DELAY)
    delay = LONGEST_DELAY;
  if (code == CURLE_OK && r->response.retry_after > delay)
    delay = r->response.retry_after;
  if (tr_now() + delay >= r->deadline || delay > LONGEST_RETRY_AFTER)
    return false; /* better to say now what is wrong */
  r->resuming = can_resume(r);
  r->fresh_connection = code != CURLE_OK;
  r->not_before = tr_now() + delay;
  r->retries_left--;
  r->attempts++;
  tr_count(TR_COUNT_RETRIES, 1);
  if (r->answer != NULL && r->answer->error != 0)
    r->looked_up = false;
  tr_promise_set_attempts(r->promise, r->attempts);
  return true;
}
