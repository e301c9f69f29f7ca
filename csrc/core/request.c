/*
** One attempt of a fetch: sending the request, receiving the response.
** response.c decides what the end of an attempt means.
*/
#include "request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto.h"
#include "error.h"
#include "http.h"

enum {
  /* A larger Content-Length is believed piece by piece. */
  TRUSTED_LENGTH = 64 * 1024 * 1024,
  /* libcurl's reads; its default of 16 KiB costs a third of the bandwidth. */
  READ_BUFFER = 128 * 1024
};

void tr_fetch_defaults(tr_fetch_options *options) {
  *options = (tr_fetch_options){.timeout = 30,
                                .connect_timeout = 10,
                                .stall_timeout = 15,
                                .max_bytes = (size_t)1 << 30,
                                .max_redirects = 10,
                                .retries = 2};
}

/* ----------------------------------------------------------------- sending */

void tr_request_free(tr_request *t) {
  curl_slist_free_all(t->headers);
  curl_slist_free_all(t->caller_headers);
  tr_buffer_free(&t->body);
  tr_blob_release(t->known);
  free(t->url);
  free(t->display_url);
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
static bool add_field(tr_request *t, const char *name, const char *value) {
  char line[TR_VALIDATOR_MAX + 32];
  if (value[0] == '\0')
    return true;
  snprintf(line, sizeof line, "%s: %s", name, value);
  return add_header(&t->headers, line);
}

/* The header fields of the next attempt. */
static bool make_headers(tr_request *t) {
  struct curl_slist *line;
  const tr_freshness *f = &t->freshness, *known = &t->known_freshness;
  char range[64];
  curl_slist_free_all(t->headers);
  t->headers = NULL;
  for (line = t->caller_headers; line != NULL; line = line->next)
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
bool tr_request_prepare(tr_request *t) {
  t->body_started = false;
  t->discarded = t->header_bytes = 0;
  t->range_mismatch = t->headers_complete = false;
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

/* Called when there is a connection, before anything is asked for on it. */
static int on_connected(void *context, char *peer, char *own, int peer_port,
                        int own_port) {
  tr_request *t = context;
  (void)own;
  (void)peer_port;
  (void)own_port;
  if (!tr_address_is_private(peer))
    return CURL_PREREQFUNC_OK;
  snprintf(t->refused_address, sizeof t->refused_address, "%s", peer);
  return CURL_PREREQFUNC_ABORT;
}

/* Sets what is the same for every attempt, and returns the first failure. */
static CURLcode configure(tr_request *t, const tr_fetch_options *o) {
  CURLcode code = CURLE_OK;
  curl_off_t limit =
      o->max_bytes > (size_t)INT64_MAX ? INT64_MAX : (curl_off_t)o->max_bytes;
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
    SET(CURLOPT_LOW_SPEED_TIME, (milliseconds(o->stall_timeout) + 999) / 1000);
  }
  if (o->ca_file != NULL)
    SET(CURLOPT_CAINFO, o->ca_file);
  if (o->client_cert != NULL)
    SET(CURLOPT_SSLCERT, o->client_cert);
  if (o->client_key != NULL)
    SET(CURLOPT_SSLKEY, o->client_key);
  if (o->unix_socket != NULL)
    SET(CURLOPT_UNIX_SOCKET_PATH, o->unix_socket);
  if (o->refuse_private && o->unix_socket == NULL) {
    SET(CURLOPT_PREREQFUNCTION, on_connected);
    SET(CURLOPT_PREREQDATA, t);
  }
  if (o->netrc)
    SET(CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
#undef SET
  return code;
}

static bool add_caller_headers(tr_request *t, const char *const *headers) {
  for (; headers != NULL && *headers != NULL; headers++)
    if (!add_header(&t->caller_headers, *headers))
      return false;
  return true;
}

/* Return an empty request with copies of its options. */
static tr_request *allocate(tr_future *future, const char *url,
                            const tr_fetch_options *o) {
  tr_request *t = calloc(1, sizeof *t);
  if (t == NULL)
    return NULL;
  t->future = tr_future_hold(future);
  t->known = tr_future_known(future, &t->known_freshness);
  t->url = strdup(url);
  t->display_url = tr_url_without_credentials(url);
  t->max_bytes = o->max_bytes;
  t->deadline = tr_deadline(o->timeout);
  t->redirects_left = o->max_redirects;
  t->retries_left = o->retries;
  if (o->digest != NULL)
    memcpy(t->digest, o->digest, strlen(o->digest) + 1);
  if (t->url != NULL && t->display_url != NULL &&
      add_caller_headers(t, o->headers))
    return t;
  tr_request_free(t);
  return NULL;
}

tr_request *tr_request_new(tr_future *future, const char *url,
                           const tr_fetch_options *options, CURL *easy,
                           tr_error *error) {
  tr_request *t = NULL;
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
    if (code == CURLE_OK && tr_request_prepare(t)) {
      t->attempts = 1;
      return t;
    }
    tr_request_free(t);
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
void tr_request_copy_header(tr_request *t, const char *name,
                            char to[TR_VALIDATOR_MAX]) {
  struct curl_header *header;
  to[0] = '\0';
  if (curl_easy_header(t->easy, name, 0, CURLH_HEADER, -1, &header) ==
          CURLHE_OK &&
      strlen(header->value) < TR_VALIDATOR_MAX)
    strcpy(to, header->value);
}

/* True if a 206 continues exactly at the end of the bytes received. */
static bool continues(tr_request *t) {
  struct curl_header *header;
  unsigned long long start = 0;
  return curl_easy_header(t->easy, "Content-Range", 0, CURLH_HEADER, -1,
                          &header) == CURLHE_OK &&
         sscanf(header->value, "bytes %llu-", &start) == 1 &&
         start == t->body.len;
}

long tr_request_status(const tr_request *t) {
  long status = 0;
  curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

/* The first bytes of a response's body: what do they belong to? False: to
** nothing we have. */
static bool on_answer(tr_request *t) {
  curl_off_t length = -1;
  size_t announced;
  if (t->resuming && tr_request_status(t) == 206 && !continues(t))
    return false;
  t->body_started = true;
  if (!t->resuming || tr_request_status(t) != 206)
    t->body.len = 0;
  curl_easy_getinfo(t->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  announced = length > 0 ? (size_t)length : 0;
  tr_request_copy_header(t, "ETag", t->freshness.etag);
  tr_request_copy_header(t, "Last-Modified", t->freshness.last_modified);
  if (announced > 0) /* exact, so that a body takes no more than its size */
    tr_buffer_reserve(&t->body, announced < TRUSTED_LENGTH
                                    ? announced
                                    : (size_t)TRUSTED_LENGTH);
  tr_future_set_progress(t->future, t->body.len,
                         announced > 0 ? t->body.len + announced : 0);
  return true;
}

static size_t on_header(char *data, size_t size, size_t count, void *context) {
  tr_request *t = context;
  if (data[0] == '\r' || data[0] == '\n') /* an interim answer has one too */
    t->headers_complete = tr_request_status(t) >= 200;
  t->header_bytes += size * count;
  return t->header_bytes <= TR_MAX_HEADERS ? size * count : 0;
}

static size_t on_body(char *data, size_t size, size_t count, void *context) {
  tr_request *t = context;
  size_t n = size * count; /* curl gives size 1 */
  if (!tr_is_success(tr_request_status(t))) {
    t->discarded += n;
    return t->discarded <= TR_ERROR_BODY ? n : 0;
  }
  if (!t->body_started && !on_answer(t)) {
    t->range_mismatch = true;
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
