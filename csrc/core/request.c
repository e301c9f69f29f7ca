/*
** One attempt of a fetch: sending the request, receiving the response.
** response.c decides what the end of an attempt means.
*/
#include "request.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "crypto.h"
#include "error.h"
#include "http.h"
#include "options.h"
#include "proxy.h"
#include "redact.h"

enum {
  /* A larger Content-Length is believed piece by piece. */
  TRUSTED_LENGTH = 64 * 1024 * 1024,
  /* Larger bodies are hashed on a worker while they arrive. */
  INLINE_HASH = 64 * 1024,
  /* A body may come in so many parts, if each brings it further. */
  MAX_PARTS = 1000,
  /* How often a connection may turn out to be out of step. */
  MAX_STEP_RETRIES = 8,
  /* libcurl forgets addresses after 60 s, and would look them up itself. */
  ADDRESSES_SECONDS = 20
};

double tr_request_clock;

/* ------------------------------------------------------------------ creating */

void tr_request_free(tr_request *r) {
  if (r == NULL)
    return;
  tr_hasher_free(r->hasher); /* first: it reads the body */
  tr_buffer_free(&r->body);
  tr_gzip_free(r->gunzip);
  tr_blob_release(r->known);
  tr_dns_release(r->answer);
  tr_url_free(&r->url);
  free(r->shown);
  free(r->proxy);
  free(r->lookup_host);
  free(r->userinfo);
  tr_info_free(r->info);
  if (r->config != NULL)
    tr_config_release(r->config);
  if (r->promise != NULL)
    tr_promise_release(r->promise);
  free(r);
}

static bool check_digest(const tr_fetch_options *o, tr_error *error) {
  if (o->digest == NULL || tr_hex_valid(o->digest))
    return true;
  tr_error_set(error, TR_INVALID_REFERENCE,
               "'%s' is no digest: 40 hex digits of SHA-1 or 64 of SHA-256 "
               "were expected",
               o->digest);
  return false;
}

static bool check_numbers(const tr_fetch_options *o, tr_error *error) {
  if (!isnan(o->timeout) && !isnan(o->connect_timeout) &&
      !isnan(o->stall_timeout) && o->max_redirects >= 0 && o->retries >= 0)
    return true;
  tr_error_set(error, TR_POLICY,
               "a timeout must be a number of seconds, and a number of redirects "
               "or retries must not be negative");
  return false;
}

/* Parse the reference, and refuse a link-local address even for a proxy. */
static bool parse_reference(tr_request *r, const char *url, tr_error *error) {
  const char *fault = tr_url_parse(&r->url, url);
  if (fault != NULL) {
    tr_error_set(error, TR_INVALID_REFERENCE, "Failed to fetch from %s: %s",
                 r->shown, fault);
    return false;
  }
  if (!tr_address_is_link_local(r->url.host))
    return true;
  tr_error_set(error, TR_DENIED,
               "Failed to fetch from %s: link-local addresses, where clouds "
               "keep credentials, are never asked",
               r->shown);
  return false;
}

static bool copy_options(tr_request *r, const tr_fetch_options *o) {
  r->timeout = o->timeout;
  r->stall_timeout = o->stall_timeout;
  r->deadline = tr_deadline(o->timeout);
  r->max_bytes = o->max_bytes;
  r->redirects_left = o->max_redirects;
  r->retries_left = o->retries;
  r->parts_left = MAX_PARTS;
  r->step_retries = MAX_STEP_RETRIES;
  r->refuse_private = o->refuse_private;
  r->require_length = o->require_length;
  if (o->digest != NULL)
    memcpy(r->digest, o->digest, strlen(o->digest) + 1);
  r->userinfo = r->url.userinfo;
  r->url.userinfo = NULL;
  r->info = calloc(1, sizeof *r->info);
  if (r->info == NULL)
    return false;
  r->info->queued = r->info->connected = r->info->first_byte = -1;
  return true;
}

/* A known blob is of use only if it has the digest that is asked for. */
static void take_known(tr_request *r) {
  char actual[TR_HEX_MAX];
  r->known = tr_promise_known(r->promise, &r->known_freshness);
  if (r->known == NULL || r->digest[0] == '\0')
    return;
  tr_digest(tr_algorithm_of(r->digest), tr_blob_data(r->known),
            tr_blob_size(r->known), actual);
  if (!curl_strequal(actual, r->digest)) {
    tr_blob_release(r->known);
    r->known = NULL;
  }
}

tr_request *tr_request_new(tr_promise *promise, const char *url,
                           const tr_fetch_options *options, tr_error *error) {
  tr_request *r;
  if (!check_digest(options, error) || !check_numbers(options, error))
    return NULL;
  r = calloc(1, sizeof *r);
  if (r != NULL)
    r->shown = tr_display_url(url);
  if (r == NULL || r->shown == NULL) {
    tr_error_nomem(error);
    free(r);
    return NULL;
  }
  r->first_origin = true;
  r->attempts = 1;
  r->submitted = tr_now();
  r->promise = tr_promise_retain(promise);
  r->config = parse_reference(r, url, error) ? tr_config_get(options, error)
                                             : NULL;
  if (r->config == NULL) {
    tr_request_free(r);
    return NULL;
  }
  if (!copy_options(r, options) || !tr_request_route(r)) {
    tr_request_free(r);
    tr_error_nomem(error);
    return NULL;
  }
  take_known(r);
  return r;
}

/* --------------------------------------------------------------------- aiming */

/* True if libcurl needs no lookup for a host: an address, or localhost, which it
** knows itself. */
static bool needs_lookup(const char *host) {
  size_t len = strlen(host);
  if (strchr(host, ':') != NULL || strcmp(host, "localhost") == 0 ||
      (len > 10 && strcmp(host + len - 10, ".localhost") == 0))
    return false;
  return host[strspn(host, "0123456789.")] != '\0';
}

bool tr_request_route(tr_request *r) {
  const tr_config *c = r->config;
  free(r->proxy);
  free(r->lookup_host);
  r->proxy = r->lookup_host = NULL;
  r->looked_up = false;
  tr_dns_release(r->answer);
  r->answer = NULL;
  if (c->unix_socket != NULL)
    return (r->proxy = strdup("")) != NULL;
  if (c->proxy != NULL)
    r->proxy = strdup(c->proxy);
  else if (!tr_proxy_for(&r->url, &r->proxy))
    return false;
  if (r->proxy == NULL)
    return false;
  if (r->proxy[0] == '\0') {
    r->lookup_host = strdup(r->url.host);
    r->lookup_port = r->url.port;
  } else if (!tr_proxy_parse(r->proxy, &r->lookup_host, &r->lookup_port)) {
    return true; /* libcurl says what is wrong with it */
  }
  if (r->lookup_host != NULL && !needs_lookup(r->lookup_host)) {
    free(r->lookup_host);
    r->lookup_host = NULL;
    return true;
  }
  return r->lookup_host != NULL;
}

/* Forget a response; its texts are ended, not cleared. */
static void clear_response(tr_response *p) {
  memset(p, 0, offsetof(tr_response, etag));
  p->etag[0] = p->last_modified[0] = p->content_type[0] = p->location[0] =
      '\0';
}

/* -------------------------------------------------------------------- sending */

static bool add_header(struct curl_slist **list, const char *line) {
  struct curl_slist *longer = curl_slist_append(*list, line);
  if (longer != NULL)
    *list = longer;
  return longer != NULL;
}

/* Add "<name>: <value>" unless the value is empty, or would end the line. */
static bool add_field(tr_handle *h, const char *name, const char *value) {
  char line[TR_VALIDATOR_MAX + 32];
  if (value[0] == '\0' || value[strcspn(value, "\r\n")] != '\0')
    return true;
  snprintf(line, sizeof line, "%s: %s", name, value);
  return add_header(&h->headers, line);
}

/* Validators go to the URL that they came from: the ETag also if only the
** signature of the URL is another. */
static bool add_conditions(tr_request *r, tr_handle *h) {
  const tr_freshness *known = &r->known_freshness;
  char whole[TR_URL_DIGEST], unsigned_url[TR_URL_DIGEST];
  tr_url_digests(r->url.text, whole, unsigned_url);
  if (known->unsigned_url[0] != '\0' &&
      strcmp(known->unsigned_url, unsigned_url) != 0)
    return true;
  r->conditional = true;
  if (!add_field(h, "If-None-Match", known->etag))
    return false;
  return (known->url[0] != '\0' && strcmp(known->url, whole) != 0) ||
         add_field(h, "If-Modified-Since", known->last_modified);
}

static bool add_range(tr_request *r, tr_handle *h) {
  char range[64];
  snprintf(range, sizeof range, "bytes=%zu-", r->body.len);
  return add_field(h, "Range", range) &&
         add_field(h, "If-Range",
                   r->freshness.etag[0] != '\0'
                       ? r->freshness.etag
                       : r->freshness.last_modified);
}

/* Set the header fields: those of the configuration, if no more are needed. */
static bool set_headers(tr_request *r, tr_handle *h) {
  struct curl_slist *all, *line;
  bool plain = r->plain_encoding || r->resuming;
  curl_slist_free_all(h->headers);
  h->headers = NULL;
  all = r->first_origin ? r->config->headers : r->config->foreign;
  if (plain || (r->known != NULL && !r->resuming)) {
    for (line = all; line != NULL; line = line->next)
      if (!(plain && curl_strnequal(line->data, "Accept-Encoding:", 16)) &&
          !add_header(&h->headers, line->data))
        return false;
    if ((plain && !add_header(&h->headers, "Accept-Encoding: identity")) ||
        !(r->resuming ? add_range(r, h)
                      : r->known == NULL || add_conditions(r, h)))
      return false;
    all = h->headers;
  }
  if (all == h->set_headers && h->headers == NULL)
    return true;
  h->set_headers = all;
  return curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, all) == CURLE_OK;
}

/* Give libcurl the addresses of the name that it would look up. */
static bool set_addresses(tr_request *r, tr_handle *h) {
  struct curl_slist *fresh;
  char *line;
  size_t size;
  if (r->answer == NULL || r->answer->error != 0)
    return true;
  size = strlen(r->lookup_host) + strlen(r->answer->addresses) + 16;
  line = malloc(size);
  if (line == NULL)
    return false;
  snprintf(line, size, "+%s:%d:%s", r->lookup_host, r->lookup_port,
           r->answer->addresses);
  if (h->addresses != NULL && strcmp(h->addresses->data, line) == 0) {
    free(line);
    if (tr_now() - h->addresses_set < ADDRESSES_SECONDS)
      return true;
    h->addresses_set = tr_now();
    return curl_easy_setopt(h->easy, CURLOPT_RESOLVE, h->addresses) ==
           CURLE_OK;
  }
  fresh = curl_slist_append(NULL, line);
  free(line);
  if (fresh == NULL ||
      curl_easy_setopt(h->easy, CURLOPT_RESOLVE, fresh) != CURLE_OK) {
    curl_slist_free_all(fresh);
    return false;
  }
  curl_slist_free_all(h->addresses);
  h->addresses = fresh;
  h->addresses_set = tr_now();
  return true;
}

/* Decode %XX up to 'end'. NULL when memory is short. */
static char *decode(const char *at, const char *end) {
  char *text = malloc((size_t)(end - at) + 1), *out = text;
  while (text != NULL && at < end) {
    unsigned value;
    if (*at == '%' && end - at >= 3 && sscanf(at + 1, "%2x", &value) == 1) {
      *out++ = (char)value;
      at += 3;
    } else {
      *out++ = *at++;
    }
  }
  if (text != NULL)
    *out = '\0';
  return text;
}

/* Set user and password, which libcurl sends to this origin only. */
static bool set_user(tr_handle *h, const char *userinfo) {
  const char *end = userinfo + strlen(userinfo);
  const char *colon = strchr(userinfo, ':');
  char *user = decode(userinfo, colon != NULL ? colon : end);
  char *password = decode(colon != NULL ? colon + 1 : end, end);
  bool ok = user != NULL && password != NULL &&
            curl_easy_setopt(h->easy, CURLOPT_USERNAME, user) == CURLE_OK &&
            curl_easy_setopt(h->easy, CURLOPT_PASSWORD, password) == CURLE_OK;
  free(user);
  free(password);
  return ok;
}

/* Set what depends on the URL: itself, the proxy, user and password. */
static bool set_target(tr_request *r, tr_handle *h) {
  size_t len = strlen(r->url.text), proxy = strlen(r->proxy);
  if (strcmp(h->url, r->url.text) != 0) {
    if (curl_easy_setopt(h->easy, CURLOPT_URL, r->url.text) != CURLE_OK)
      return false;
    h->url[0] = '\0';
    if (len < sizeof h->url)
      memcpy(h->url, r->url.text, len + 1);
  }
  if (strcmp(h->proxy, r->proxy) != 0) {
    if (curl_easy_setopt(h->easy, CURLOPT_PROXY, r->proxy) != CURLE_OK)
      return false;
    h->proxy[0] = '\1'; /* none has this name */
    h->proxy[1] = '\0';
    if (proxy < sizeof h->proxy)
      memcpy(h->proxy, r->proxy, proxy + 1);
  }
  if (r->userinfo == NULL || !r->first_origin)
    return true;
  h->one_time = true;
  return set_user(h, r->userinfo);
}

bool tr_request_send(tr_request *r, tr_handle *h) {
  bool fresh = r->fresh_connection;
  h->request = r;
  h->why[0] = '\0';
  r->handle = h;
  clear_response(&r->response);
  r->discarded = r->header_bytes = 0;
  r->conditional = false;
  r->range_mismatch = r->stalled = r->out_of_step = r->connected = false;
  r->too_large = r->no_memory = false;
  r->refused[0] = '\0';
  r->tried_addresses = r->socket_errno = 0;
  r->fault = NULL;
  r->started = r->last_progress = tr_now();
  r->connect_by = tr_deadline(r->config->connect_timeout);
  if (r->info->queued < 0)
    r->info->queued = r->started - r->submitted;
  if (!r->resuming)
    tr_request_reset_body(r);
  r->resumed_from = r->body.len;
  if (fresh != h->fresh) {
    curl_easy_setopt(h->easy, CURLOPT_FRESH_CONNECT, fresh ? 1L : 0L);
    h->fresh = fresh;
  }
  return set_target(r, h) && set_headers(r, h) && set_addresses(r, h);
}

/* ------------------------------------------------------------ response headers */

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
  p->bad_length = at != end;
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

static double read_date(const char *value, size_t len) {
  char text[64];
  time_t date;
  if (len >= sizeof text)
    return 0;
  memcpy(text, value, len);
  text[len] = '\0';
  date = curl_getdate(text, NULL);
  return date > 0 ? (double)date : 0;
}

static void read_retry_after(tr_response *p, const char *value, size_t len) {
  const char *at = value;
  uint64_t seconds;
  if (read_number(&at, value + len, &seconds) && at == value + len)
    p->retry_after = (double)seconds;
  else
    p->retry_after = read_date(value, len) - (double)time(NULL);
}

static void read_encoding(tr_response *p, const char *value, size_t len) {
  p->gzip = (len == 4 && curl_strnequal(value, "gzip", 4)) ||
            (len == 6 && curl_strnequal(value, "x-gzip", 6));
  p->other_encoding =
      !p->gzip && !(len == 0 || (len == 8 && curl_strnequal(value, "identity",
                                                            8)));
}

/* Note a header that matters here. */
static void read_header(tr_response *p, const char *line, size_t size) {
  const char *v;
  size_t len;
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
    break;
  case 'd':
    if ((v = value_of(line, size, "date", &len)) != NULL)
      p->date = read_date(v, len);
    break;
  case 'e':
    if ((v = value_of(line, size, "etag", &len)) != NULL)
      copy_value(p->etag, sizeof p->etag, v, len);
    break;
  case 'l':
    if ((v = value_of(line, size, "location", &len)) != NULL)
      copy_value(p->location, sizeof p->location, v, len);
    else if ((v = value_of(line, size, "last-modified", &len)) != NULL) {
      copy_value(p->last_modified, sizeof p->last_modified, v, len);
      p->modified = read_date(v, len);
    }
    break;
  case 'r':
    if ((v = value_of(line, size, "retry-after", &len)) != NULL)
      read_retry_after(p, v, len);
    break;
  case 't':
    if ((v = value_of(line, size, "transfer-encoding", &len)) != NULL)
      p->chunked = len > 0;
    break;
  default:
    break;
  }
}

/* A status line begins a response: an interim one may have come before, and a
** whole one, when libcurl has turned from HTTP/2 to HTTP/1.1 by itself. */
static void begin_response(tr_response *p, const char *line, size_t size) {
  const char *space = memchr(line, ' ', size);
  clear_response(p);
  p->http2 = size > 6 && line[5] >= '2';
  if (space != NULL && line + size - space >= 4)
    p->status = (space[1] - '0') * 100 + (space[2] - '0') * 10 +
                (space[3] - '0');
}

size_t tr_request_on_header(char *data, size_t size, size_t count,
                            void *handle) {
  tr_request *r = ((tr_handle *)handle)->request;
  tr_response *p = &r->response;
  size_t n = size * count;
  r->header_bytes += n;
  if (r->header_bytes > TR_MAX_HEADERS)
    return 0;
  r->last_progress = tr_request_clock;
  if (n > 5 && memcmp(data, "HTTP/", 5) == 0)
    begin_response(p, data, n);
  else if (p->complete_headers)
    ; /* a trailer */
  else if (data[0] == '\r' || data[0] == '\n')
    p->complete_headers = p->status >= 200;
  else
    read_header(p, data, n);
  return n;
}

/* -------------------------------------------------------------- response body */

void tr_request_reset_body(tr_request *r) {
  if (r->hashing)
    tr_hasher_reset(r->hasher);
  r->hashing = false;
  r->fed = 0;
  r->body.len = 0;
  r->total = 0;
  r->total_known = false;
  r->freshness = (tr_freshness){0};
  tr_gzip_free(r->gunzip);
  r->gunzip = NULL;
}

/* True if a 206 continues exactly at the end of the bytes received, of the same
** body. */
static bool continues(const tr_request *r) {
  const tr_response *p = &r->response;
  return p->has_range && p->range_start == r->body.len && !p->gzip &&
         !p->other_encoding &&
         (p->range_total == 0 || !r->total_known || p->range_total == r->total) &&
         (p->etag[0] == '\0' || r->freshness.etag[0] == '\0' ||
          strcmp(p->etag, r->freshness.etag) == 0);
}

static void begin_part(tr_request *r) {
  if (r->response.range_total > 0) {
    r->total = r->response.range_total;
    r->total_known = true;
  }
}

/* Take the validators of a whole body. */
static void begin_whole(tr_request *r) {
  const tr_response *p = &r->response;
  tr_freshness *f = &r->freshness;
  tr_request_reset_body(r);
  r->resuming = false;
  r->total_known = p->has_length && !p->chunked && !p->gzip;
  r->total = r->total_known ? p->length : 0;
  memcpy(f->etag, p->etag, sizeof f->etag);
  memcpy(f->last_modified, p->last_modified, sizeof f->last_modified);
  r->body_date = p->date;
  r->body_modified = p->modified;
}

bool tr_request_begin_body(tr_request *r) {
  const tr_response *p = &r->response;
  r->response.body_started = true;
  if (r->info->first_byte < 0)
    r->info->first_byte = tr_now() - r->submitted;
  if (p->status == 206 && r->resuming) {
    if (!continues(r)) {
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
  switch (tr_gzip_append(r->gunzip, data, n, r->max_bytes, &r->body)) {
  case TR_GZIP_OK:
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
  if (r->total_known && r->body.len + n > r->total) {
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
  if (r->digest[0] == '\0' || r->body.len < r->fed + INLINE_HASH)
    return;
  if (r->hasher == NULL)
    r->hasher = tr_hasher_new(tr_algorithm_of(r->digest), r->on_hashed, r);
  if (r->hasher == NULL)
    return; /* hashed at the end, then */
  r->hashing = tr_hasher_feed(r->hasher, r->body.data, r->body.len);
  r->fed = r->body.len;
}

size_t tr_request_on_body(char *data, size_t size, size_t count,
                          void *handle) {
  tr_request *r = ((tr_handle *)handle)->request;
  size_t n = size * count; /* libcurl passes size 1 */
  r->last_progress = tr_request_clock;
  r->info->received += n;
  if (!tr_is_success(r->response.status) ||
      (r->response.status == 206 && !r->resuming)) {
    r->discarded += n;
    return r->discarded <= TR_ERROR_BODY ? n : 0;
  }
  if (!r->response.body_started && !tr_request_begin_body(r))
    return 0;
  if (!append(r, data, n))
    return 0;
  feed_hasher(r);
  tr_promise_set_received(r->promise, r->body.len);
  return n;
}
