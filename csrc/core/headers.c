/* Receiving the headers of a response. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "oci_reference.h"
#include "request.h"
#include "socket.h"

/* Forget a response; its texts are ended, not cleared. */
void tr_response_clear(tr_response *p) {
  memset(p, 0, offsetof(tr_response, etag));
  p->etag[0] = p->last_modified[0] = p->date[0] = p->content_type[0] = '\0';
  p->content_digest[0] = p->bucket_region[0] = '\0';
  free(p->location);
  free(p->challenge);
  p->location = p->challenge = NULL;
}


/* The value of a header line if it has this name: without white space around it,
** and its length. NULL for any other header. */
static const char *value_of(const char *line, size_t size, const char *name,
                            size_t *len) {
  size_t name_len = strlen(name);
  const char *at = line + name_len + 1, *end = line + size;
  if (size <= name_len || line[name_len] != ':' ||
      strncasecmp(line, name, name_len) != 0)
    return NULL;
  while (at < end && (*at == ' ' || *at == '\t'))
    at++;
  while (end > at && isspace((unsigned char)end[-1]))
    end--;
  *len = (size_t)(end - at);
  return at;
}

/* Copy a value, or nothing if it is too long or has odd characters. */
static void copy_value(char *to, size_t room, const char *value, size_t len) {
  size_t i;
  to[0] = '\0';
  if (len >= room)
    return;
  for (i = 0; i < len; i++)
    if ((unsigned char)value[i] < ' ' || value[i] == 0x7F)
      return;
  memcpy(to, value, len);
  to[len] = '\0';
}

/* Read digits; false for none, or too many. */
static bool read_number(const char **at, const char *end, uint64_t *number) {
  const char *start = *at;
  *number = 0;
  for (; *at < end && isdigit((unsigned char)**at); (*at)++) {
    if (*number > UINT64_MAX / 10 - 1)
      return false;
    *number = *number * 10 + (uint64_t)(**at - '0');
  }
  return *at > start;
}

/* A Content-Length that is no number, or not the one before, says nothing about
** where the body ends: who put it there may mean to smuggle bytes. */
static void read_length(tr_response *p, const char *value, size_t len) {
  const char *at = value, *end = value + len;
  do {
    uint64_t length;
    while (at < end && (*at == ' ' || *at == ','))
      at++;
    if (!read_number(&at, end, &length) ||
        (p->has_length && length != p->length)) {
      p->bad_length = true;
      return;
    }
    p->has_length = true;
    p->length = length;
    while (at < end && *at == ' ')
      at++;
  } while (at < end && *at == ',');
  p->bad_length |= at != end;
}

/* Content-Range: bytes start-end/total, or * for the total. */
static void read_range(tr_response *p, const char *value, size_t len) {
  const char *at = value + 6, *end = value + len;
  if (len < 6 || !curl_strnequal(value, "bytes ", 6) ||
      !read_number(&at, end, &p->range_start) || at == end || *at++ != '-' ||
      !read_number(&at, end, &p->range_end) || at == end || *at++ != '/')
    return;
  p->range_total = 0;
  if (end - at == 1 && *at == '*')
    p->has_range = true;
  else
    p->has_range = read_number(&at, end, &p->range_total) && at == end &&
                   p->range_end < p->range_total;
  p->has_range = p->has_range && p->range_start <= p->range_end;
}


static void read_retry_after(tr_response *p, const char *value, size_t len) {
  const char *at = value;
  char date[TR_DATE_MAX];
  uint64_t seconds;
  p->has_retry_after = true;
  if (read_number(&at, value + len, &seconds) && at == value + len) {
    p->retry_after = (double)seconds;
  } else {
    copy_value(date, sizeof date, value, len);
    p->retry_after = tr_date(date) - (double)time(NULL);
  }
}

static bool is_word(const char *value, size_t len, const char *word) {
  return len == strlen(word) && curl_strnequal(value, word, len);
}

/* The codings of all such lines together: gzip alone is understood. */
static void read_encoding(tr_response *p, const char *value, size_t len) {
  if (len == 0 || is_word(value, len, "identity"))
    return;
  p->other_encoding |= p->gzip || !(is_word(value, len, "gzip") ||
                                    is_word(value, len, "x-gzip"));
  p->gzip = true;
}

static void read_transfer_encoding(tr_response *p, const char *value,
                                   size_t len) {
  if (is_word(value, len, "chunked"))
    p->chunked = true;
  else
    p->other_encoding |= !is_word(value, len, "identity");
}

/* Cache-Control: no cache that others may read has a body with these directives. */
static void read_cache_control(tr_response *p, const char *value, size_t len) {
  const char *at = value, *end = value + len;
  while (at < end) {
    size_t word = 0, left = (size_t)(end - at);
    while (word < left && strchr(", \t=\"", at[word]) == NULL)
      word++;
    p->no_store |= is_word(at, word, "no-store") || is_word(at, word, "private");
    at += word < left ? word + 1 : word;
  }
}

/* Keep where a redirect leads. */
static void read_location(tr_response *p, const char *value, size_t len) {
  size_t i;
  for (i = 0; i < len; i++)
    if ((unsigned char)value[i] < ' ' || value[i] == 0x7F)
      return;
  free(p->location);
  p->location = len > 0 ? strndup(value, len) : NULL;
}

/* Keep the challenges of a 401, a line for each header. */
static void read_challenge(tr_response *p, const char *value, size_t len) {
  size_t old = p->challenge != NULL ? strlen(p->challenge) : 0;
  char *longer;
  if (p->status != 401 || old + len + 2 > TR_CHALLENGE_MAX || memchr(value, '\0', len) != NULL)
    return;
  longer = realloc(p->challenge, old + len + 2);
  if (longer == NULL)
    return; /* as if the server had not sent it */
  memcpy(longer + old, value, len);
  memcpy(longer + old + len, "\n", 2);
  p->challenge = longer;
}

/*
** A header that frames the body may be written so that one program reads it and
** another does not: with a space before its colon, or folded. (RFC 9112, 5.1)
*/
static void check_framing(tr_response *p, const char *line, size_t size) {
  static const char *const names[] = {"content-length", "content-encoding",
                                      "content-range", "transfer-encoding"};
  size_t i;
  if (line[0] == ' ' || line[0] == '\t') {
    p->bad_header |= p->framing;
    return;
  }
  p->framing = false;
  if ((line[0] | 32) != 'c' && (line[0] | 32) != 't')
    return;
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    size_t len = strlen(names[i]);
    if (size > len && curl_strnequal(line, names[i], len)) {
      p->framing |= strchr(": \t", line[len]) != NULL;
      p->bad_header |= line[len] == ' ' || line[len] == '\t';
    }
  }
}

/* Note a header that matters here. */
static void read_header(tr_response *p, const char *line, size_t size) {
  const char *v;
  size_t len;
  check_framing(p, line, size);
  switch (line[0] | 32) {
  case 'c':
    if ((v = value_of(line, size, "content-length", &len)) != NULL)
      read_length(p, v, len);
    else if ((v = value_of(line, size, "content-range", &len)) != NULL)
      read_range(p, v, len);
    else if ((v = value_of(line, size, "content-encoding", &len)) != NULL)
      read_encoding(p, v, len);
    else if ((v = value_of(line, size, "content-type", &len)) != NULL)
      copy_value(p->content_type, sizeof p->content_type, v, len);
    else if ((v = value_of(line, size, "cache-control", &len)) != NULL)
      read_cache_control(p, v, len);
    break;
  case 'd':
    if ((v = value_of(line, size, "date", &len)) != NULL)
      copy_value(p->date, sizeof p->date, v, len);
    else if ((v = value_of(line, size, "docker-content-digest", &len)) != NULL)
      copy_value(p->content_digest, sizeof p->content_digest, v, len);
    break;
  case 'e':
    if ((v = value_of(line, size, "etag", &len)) != NULL)
      copy_value(p->etag, sizeof p->etag, v, len);
    break;
  case 'l':
    if ((v = value_of(line, size, "location", &len)) != NULL)
      read_location(p, v, len);
    else if ((v = value_of(line, size, "last-modified", &len)) != NULL)
      copy_value(p->last_modified, sizeof p->last_modified, v, len);
    break;
  case 'r':
    if ((v = value_of(line, size, "retry-after", &len)) != NULL)
      read_retry_after(p, v, len);
    break;
  case 't':
    if ((v = value_of(line, size, "transfer-encoding", &len)) != NULL)
      read_transfer_encoding(p, v, len);
    break;
  case 'w':
    if ((v = value_of(line, size, "www-authenticate", &len)) != NULL)
      read_challenge(p, v, len);
    break;
  case 'x':
    if ((v = value_of(line, size, "x-amz-bucket-region", &len)) != NULL)
      copy_value(p->bucket_region, sizeof p->bucket_region, v, len);
    break;
  default:
    break;
  }
}

/* True for a header that tells how an object was stored, not how it is sent. */
static bool is_content_coding(const char *line, size_t size) {
  size_t len;
  return value_of(line, size, "content-encoding", &len) != NULL;
}

/* True for a status line, not for a header or trailer that looks like one. An interim
** response may have come before, and a final one with a part of its body, when libcurl
** has turned from HTTP/2, whose trailers have no such name, to HTTP/1.1 by itself. */
static bool begins_response(const tr_response *p, const char *line,
                            size_t size) {
  return size > 5 && memcmp(line, "HTTP/", 5) == 0 && !p->amid_headers &&
         (!p->complete_headers || p->http2);
}

static void begin_response(tr_response *p, const char *line, size_t size) {
  const char *space = memchr(line, ' ', size);
  tr_response_clear(p);
  p->amid_headers = true;
  p->http2 = size > 6 && line[5] >= '2';
  if (space != NULL && line + size - space >= 4)
    p->status = (space[1] - '0') * 100 + (space[2] - '0') * 10 +
                (space[3] - '0');
}

/* Have the body of a registry's answer checked against the digest that it tells, if the
** caller asked for none. */
static void take_told_digest(tr_request *r) {
  const char *told = r->response.content_digest;
  if (r->auth == NULL || r->message != NULL ||
      (r->digest[0] != '\0' && !r->told_digest) ||
      !tr_is_success(r->response.status) ||
      !tr_oci_is_digest(told, strlen(told)))
    return;
  memcpy(r->digest, told + 7, TR_OCI_DIGEST_HEX + 1);
  r->told_digest = true;
}

static void end_headers(tr_request *r) {
  tr_response *p = &r->response;
  p->amid_headers = false;
  p->complete_headers = p->status >= 200;
  r->headers_at = tr_request_turn.now;
  if (p->complete_headers && !p->http2)
    tr_socket_answered(r->connection);
  if (p->complete_headers && r->on_answer != NULL)
    r->on_answer(r);
  if (p->complete_headers)
    take_told_digest(r);
  if (tr_request_is_decided(r)) /* the rest of the body has less time */
    r->on_connected(r);
}

size_t tr_request_on_header(char *data, size_t size, size_t count,
                            void *handle) {
  tr_request *r = ((tr_handle *)handle)->request;
  tr_response *p = &r->response;
  size_t n = size * count;
  r->header_bytes += n;
  if (r->header_bytes > TR_MAX_HEADERS)
    return 0;
  r->last_progress = tr_request_turn.now;
  if (begins_response(p, data, n)) {
    begin_response(p, data, n);
    r->fields.len = 0;
  } else if (p->complete_headers) {
    ; /* a trailer */
  } else if (data[0] == '\r' || data[0] == '\n') {
    end_headers(r);
  } else {
    if (r->signer == NULL || !is_content_coding(data, n))
      read_header(p, data, n);
    if (r->message != NULL || r->signer != NULL)
      tr_message_keep_field(&r->fields, data, n);
  }
  return n;
}
