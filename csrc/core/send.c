/* The message of an attempt. Its body is read from the blob as libcurl wants more. */
#include "send.h"

#include <string.h>

#include "metrics.h"

enum {
  UPLOAD_BUFFER = 256 * 1024,
  /* A request that must not be sent twice goes to a connection that was in use so many
  ** seconds ago: servers close idle ones, and the request may be lost with its answer. */
  IDLE_SECONDS = 15
};

/* Add a header line. False: memory is short. */
static bool add_line(tr_handle *h, const char *line) {
  struct curl_slist *longer = curl_slist_append(h->headers, line);
  if (longer != NULL)
    h->headers = longer;
  return longer != NULL;
}

bool tr_send_headers(tr_request *r, tr_handle *h) {
  size_t i;
  for (i = 0; r->first_origin && r->message->headers[i] != NULL; i++)
    if (!add_line(h, r->message->headers[i]))
      return false;
  return true;
}

/* The line of a list that says which media types are wanted, or NULL. */
static const char *find_accept(char **lines) {
  for (; lines != NULL && *lines != NULL; lines++)
    if (curl_strnequal(*lines, "Accept:", 7))
      return *lines;
  return NULL;
}

const char *tr_send_accept(const tr_request *r) {
  const char *line = r->message != NULL ? find_accept(r->message->headers) : NULL;
  if (r->first_origin || find_accept(r->config->header_lines) != NULL)
    return NULL;
  return line != NULL ? line : find_accept(r->asked_config->header_lines);
}

/* libcurl's CURLOPT_READFUNCTION. */
static size_t on_read(char *to, size_t size, size_t count, void *handle) {
  tr_request *r = ((tr_handle *)handle)->request;
  tr_message *m = r->message;
  size_t all = m->body != NULL ? tr_blob_size(m->body) : 0, n = size * count;
  if (n > all - m->at)
    n = all - m->at;
  if (n > 0)
    memcpy(to, (const char *)tr_blob_data(m->body) + m->at, n);
  m->at += n;
  tr_count(TR_COUNT_SENT, n);
  r->last_progress = tr_request_turn.now;
  return n;
}

/* libcurl's CURLOPT_SEEKFUNCTION: it begins again on another connection. */
static int on_seek(void *handle, curl_off_t offset, int origin) {
  tr_message *m = ((tr_handle *)handle)->request->message;
  size_t all = m->body != NULL ? tr_blob_size(m->body) : 0;
  if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > all)
    return CURL_SEEKFUNC_FAIL;
  m->at = (size_t)offset;
  return CURL_SEEKFUNC_OK;
}

/* Send a body, which may have no bytes; no server is asked for leave before. */
static bool set_body(const tr_message *m, tr_handle *h) {
  curl_off_t size = m->body != NULL ? (curl_off_t)tr_blob_size(m->body) : 0;
  struct curl_slist *longer = curl_slist_append(h->headers, "Expect:");
  if (longer == NULL)
    return false;
  h->headers = longer;
  return curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, longer) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_UPLOAD, 1L) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_INFILESIZE_LARGE, size) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_READFUNCTION, on_read) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_READDATA, h) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_SEEKFUNCTION, on_seek) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_SEEKDATA, h) == CURLE_OK &&
         curl_easy_setopt(h->easy, CURLOPT_UPLOAD_BUFFERSIZE,
                          size > UPLOAD_BUFFER / 4 ? (long)UPLOAD_BUFFER : 16384L) ==
             CURLE_OK;
}

bool tr_send_prepare(tr_request *r, tr_handle *h) {
  tr_message *m = r->message;
  bool has_body = m->body != NULL || m->method == TR_POST || m->method == TR_PUT ||
                  m->method == TR_PATCH;
  m->at = 0;
  r->fields.len = 0;
  h->one_time = true;
  if (m->method == TR_HEAD)
    return curl_easy_setopt(h->easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
  if (m->method == TR_GET)
    return true;
  if (tr_message_is_single(m, r->retries_left))
    curl_easy_setopt(h->easy, CURLOPT_MAXAGE_CONN, (long)IDLE_SECONDS);
  return (!has_body || set_body(m, h)) &&
         curl_easy_setopt(h->easy, CURLOPT_CUSTOMREQUEST, tr_method_name(m->method)) ==
             CURLE_OK;
}
