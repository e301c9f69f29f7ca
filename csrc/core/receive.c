/* Receiving the body of a response. */
#include <stdlib.h>
#include <string.h>

#include "crypto.h"
#include "metrics.h"
#include "request.h"

enum {
  /* A larger Content-Length is believed piece by piece. */
  TRUSTED_LENGTH = 64 * 1024 * 1024,
  /* Larger bodies are hashed on a worker while they arrive. */
  INLINE_HASH = 64 * 1024,
  /* The worker is told of so many more bytes at a time: telling it costs some 10 us,
  ** as much as hashing 16 KiB. */
  MORE_TO_HASH = 256 * 1024,
  /* A piece of a body costs as much as so many bytes, however small it is. */
  CALL_BYTES = 1024
};

tr_turn tr_request_turn;

void tr_request_reset_body(tr_request *r) {
  tr_hasher_free(r->hasher);
  r->hasher = NULL;
  r->hashing = false;
  r->fed = 0;
  r->body.len = 0;
  r->total = 0;
  r->total_known = false;
  r->etag[0] = r->last_modified[0] = '\0';
  tr_gzip_free(r->gunzip);
  r->gunzip = NULL;
}

/* True if two validators do not contradict each other. */
static bool agree(const char *a, const char *b) {
  return a[0] == '\0' || b[0] == '\0' || strcmp(a, b) == 0;
}

/* True if a 206 continues exactly at the end of the bytes received, of the same
** body. */
static bool continues(const tr_request *r) {
  const tr_response *p = &r->response;
  return p->has_range && p->range_start == r->body.len && !p->gzip &&
         !p->other_encoding &&
         (p->range_total == 0 || !r->total_known || p->range_total == r->total) &&
         agree(p->etag, r->etag) && agree(p->last_modified, r->last_modified);
}

static void begin_part(tr_request *r) {
  r->part_end = r->response.range_end + 1;
  r->no_store |= r->response.no_store;
  if (r->response.range_total > 0) {
    r->total = r->response.range_total;
    r->total_known = true;
  }
}

/* Take the validators of a whole body. */
static void begin_whole(tr_request *r) {
  const tr_response *p = &r->response;
  tr_request_reset_body(r);
  r->resuming = false;
  r->part_end = UINT64_MAX;
  r->total_known = p->has_length && !p->chunked && !p->gzip && p->status != 204;
  r->total = r->total_known ? p->length : 0;
  r->no_store = p->no_store;
  memcpy(r->etag, p->etag, sizeof r->etag);
  memcpy(r->last_modified, p->last_modified, sizeof r->last_modified);
  memcpy(r->body_date, p->date, sizeof r->body_date);
}

bool tr_request_begin_body(tr_request *r) {
  const tr_response *p = &r->response;
  r->response.body_started = true;
  if (r->info->first_byte < 0)
    r->info->first_byte = tr_now() - r->submitted;
  if (r->resuming && p->status != 200) {
    if (p->status != 206 || !continues(r)) {
      r->range_mismatch = true;
      return false;
    }
    begin_part(r);
  } else {
    begin_whole(r);
    if (p->other_encoding) {
      r->fault = "it has a content coding that was not asked for";
      return false;
    }
    if (p->gzip && (r->gunzip = tr_gzip_new()) == NULL) {
      r->no_memory = true;
      return false;
    }
  }
  if (r->total > r->max_bytes) {
    r->too_large = true;
    return false;
  }
  if (r->total > r->body.len) /* exact, so that a body takes no more */
    tr_buffer_reserve(&r->body, (r->total < TRUSTED_LENGTH
                                     ? (size_t)r->total
                                     : (size_t)TRUSTED_LENGTH) -
                                    r->body.len);
  tr_promise_set_progress(r->promise, r->body.len, (size_t)r->total);
  return true;
}

/* Make room for a piece. The hasher must not read a buffer that moves. */
static bool make_room(tr_request *r, size_t more) {
  if (r->body.cap - r->body.len >= more)
    return true;
  if (r->hashing)
    tr_hasher_pause(r->hasher);
  return tr_buffer_reserve(&r->body, more);
}

static bool append_unpacked(tr_request *r, const char *data, size_t n) {
  if (r->hashing) /* its buffer may move within */
    tr_hasher_pause(r->hasher);
  switch (tr_gzip_append(r->gunzip, data, n, tr_request_turn.share, r->max_bytes,
                         &r->body)) {
  case TR_GZIP_OK:
  case TR_GZIP_MORE:
    return true;
  case TR_GZIP_TOO_LARGE:
    r->too_large = true;
    return false;
  case TR_GZIP_CORRUPT:
    r->fault = "its gzip coding is damaged";
    return false;
  default:
    r->no_memory = true;
    return false;
  }
}

static bool append(tr_request *r, const char *data, size_t n) {
  if (r->gunzip != NULL)
    return append_unpacked(r, data, n);
  if (n > r->max_bytes || r->body.len > r->max_bytes - n) {
    r->too_large = true;
    return false;
  }
  if (r->body.len + n > r->part_end ||
      (r->total_known && r->body.len + n > r->total)) {
    r->range_mismatch = r->resuming;
    r->fault = "it is longer than its Content-Range says";
    return false;
  }
  if (!make_room(r, n)) {
    r->no_memory = true;
    return false;
  }
  memcpy(r->body.data + r->body.len, data, n);
  r->body.len += n;
  return true;
}

/* Pass the bytes that have come to the hasher, once there are enough. */
static void feed_hasher(tr_request *r) {
  if (r->digest[0] == '\0' ||
      r->body.len < r->fed + (r->fed == 0 ? INLINE_HASH : MORE_TO_HASH))
    return;
  if (r->hasher == NULL)
    r->hasher = tr_hasher_new(tr_algorithm_of(r->digest), r->on_hashed, r);
  if (r->hasher == NULL)
    return; /* hashed at the end, then */
  r->hashing |= tr_hasher_feed(r->hasher, r->body.data, r->body.len);
  r->fed = r->body.len;
}

/* Let the other connections have their turn when this body has had its share.
** Streams of HTTP/2 share a connection, and the turn of that. */
static void yield_turn(tr_request *r, tr_handle *handle, size_t n) {
  tr_turn *turn = &tr_request_turn;
  if (r->turn != turn->now) {
    r->turn = turn->now;
    r->taken = 0;
  }
  r->taken += n + CALL_BYTES;
  if (handle->paused || r->taken < turn->share ||
      (r->response.http2 && r->gunzip == NULL) ||
      (r->total_known && r->body.len >= r->total))
    return;
  curl_easy_pause(handle->easy, CURLPAUSE_RECV);
  handle->paused = true;
  handle->next = turn->paused;
  turn->paused = handle;
}

/* Append a piece, and let others have their turn if it was large. */
static bool take_piece(tr_request *r, tr_handle *handle, const char *data,
                       size_t n) {
  size_t before = r->body.len;
  if (!append(r, data, n))
    return false;
  feed_hasher(r);
  tr_promise_set_received(r->promise, r->body.len);
  yield_turn(r, handle, r->body.len - before > n ? r->body.len - before : n);
  return true;
}

bool tr_request_unpack_more(tr_request *r) {
  if (r->gunzip == NULL || !tr_gzip_has_more(r->gunzip))
    return true;
  r->last_progress = tr_request_turn.now;
  return take_piece(r, r->handle, NULL, 0);
}

/* True if the body of a response is what is fetched. */
static bool is_wanted(const tr_request *r) {
  if (r->message != NULL)
    return true;
  return tr_is_success(r->response.status) &&
         (r->response.status != 206 || r->resuming);
}

/* Keep the reason of an object store's refusal, which has none if memory is short. */
static void keep_refusal(tr_request *r, const char *data, size_t n) {
  size_t room = TR_REFUSAL_MAX - r->refusal.len;
  tr_buffer_append(&r->refusal, data, n < room ? n : room);
}

size_t tr_request_on_body(char *data, size_t size, size_t count,
                          void *handle) {
  tr_request *r = ((tr_handle *)handle)->request;
  size_t n = size * count; /* libcurl passes size 1 */
  if (((tr_handle *)handle)->paused && r->gunzip != NULL)
    return CURL_WRITEFUNC_PAUSE; /* a few bytes may unpack to many */
  r->last_progress = tr_request_turn.now;
  r->info->received += n;
  tr_count(TR_COUNT_RECEIVED, n);
  if (!is_wanted(r)) {
    if (r->signer != NULL)
      keep_refusal(r, data, n);
    r->discarded += n; /* to keep the connection, if that is cheap */
    return r->discarded <= TR_ERROR_BODY &&
                   tr_request_turn.now < r->headers_at + TR_ERROR_SECONDS
               ? n
               : 0;
  }
  if (!r->response.body_started && !tr_request_begin_body(r))
    return 0;
  return take_piece(r, handle, data, n) ? n : 0;
}
