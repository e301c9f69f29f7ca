/* Messages: methods, and the header fields of responses to them. */
#include "message.h"

#include <ctype.h>
#include <mbedtls/platform_util.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};

int tr_method_named(const char *name) {
  int i;
  for (i = 0; i < (int)(sizeof names / sizeof *names); i++)
    if (strcmp(names[i], name) == 0)
      return i;
  return -1;
}

const char *tr_method_name(tr_method method) { return names[method]; }

bool tr_method_is_idempotent(tr_method method) {
  return method != TR_POST && method != TR_PATCH;
}

bool tr_message_is_single(const tr_message *m, int retries_left) {
  return retries_left <= 0 || !tr_method_is_idempotent(m->method) || m->is_conditional;
}

tr_message *tr_message_new(const tr_send_options *o) {
  tr_message *m = calloc(1, sizeof *m);
  size_t count = 0, i;
  while (o->headers != NULL && o->headers[count] != NULL)
    count++;
  if (m == NULL)
    return NULL;
  m->method = o->method;
  m->body = o->body != NULL ? tr_blob_retain(o->body) : NULL;
  m->no_redirects = o->no_redirects;
  m->secret = o->secret;
  m->is_conditional = o->is_conditional;
  m->headers = calloc(count + 1, sizeof *m->headers);
  for (i = 0; m->headers != NULL && i < count; i++)
    if ((m->headers[i] = strdup(o->headers[i])) == NULL)
      break;
  if (m->headers != NULL && i == count)
    return m;
  tr_message_free(m);
  return NULL;
}

void tr_message_free(tr_message *m) {
  size_t i;
  if (m == NULL)
    return;
  for (i = 0; m->headers != NULL && m->headers[i] != NULL; i++) {
    if (m->secret)
      mbedtls_platform_zeroize(m->headers[i], strlen(m->headers[i]));
    free(m->headers[i]);
  }
  free(m->headers);
  if (m->secret && m->body != NULL) /* it was made for this message alone */
    mbedtls_platform_zeroize((void *)tr_blob_data(m->body), tr_blob_size(m->body));
  tr_blob_release(m->body);
  free(m);
}

/* The length of a header line's name; libcurl takes "Name;" for an empty value. */
static size_t name_length(const char *line) { return strcspn(line, ":;"); }

bool tr_message_replaces(const tr_message *m, const char *line) {
  size_t len = name_length(line), i;
  for (i = 0; m->headers[i] != NULL; i++)
    if (name_length(m->headers[i]) == len && strncasecmp(m->headers[i], line, len) == 0)
      return true;
  return false;
}

/* True for a field that is kept. */
static bool is_kept(const char *name, size_t len) {
  static const char *const kept[] = {
      "content-length", "content-type",    "docker-content-digest",
      "docker-distribution-api-version",   "docker-upload-uuid",
      "date",           "etag",            "last-modified",
      "link",           "location",        "oci-chunk-min-length",
      "oci-filters-applied",               "oci-subject",
      "range",          "retry-after",     "www-authenticate"};
  size_t i;
  if (len > 6 && strncasecmp(name, "x-amz-", 6) == 0)
    return true;
  for (i = 0; i < sizeof kept / sizeof *kept; i++)
    if (strlen(kept[i]) == len && strncasecmp(kept[i], name, len) == 0)
      return true;
  return false;
}

/* The value of a kept field, or NULL. */
static char *find_field(const tr_buffer *fields, const char *name, size_t len) {
  char *at = fields->data, *end = at != NULL ? at + fields->len : NULL;
  while (at < end) {
    char *value = at + strlen(at) + 1;
    if (strlen(at) == len && strncasecmp(at, name, len) == 0)
      return value;
    at = value + strlen(value) + 1;
  }
  return NULL;
}

/* Append ", " and another value to a field. */
static void join_field(tr_buffer *fields, char *value, const char *more, size_t len) {
  size_t old = strlen(value), offset = (size_t)(value - fields->data) + old;
  size_t tail = fields->len - offset;
  if (!tr_buffer_reserve(fields, len + 2))
    return;
  value = fields->data + offset; /* its end */
  memmove(value + len + 2, value, tail);
  memcpy(value, ", ", 2);
  memcpy(value + 2, more, len);
  fields->len += len + 2;
}

void tr_message_keep_field(tr_buffer *fields, const char *line, size_t size) {
  const char *colon = memchr(line, ':', size), *value, *end = line + size, *at;
  size_t len, i, start = fields->len;
  char *known;
  if (colon == NULL || !is_kept(line, (size_t)(colon - line)))
    return;
  len = (size_t)(colon - line);
  for (value = colon + 1; value < end && (*value == ' ' || *value == '\t');)
    value++;
  while (end > value && isspace((unsigned char)end[-1]))
    end--;
  for (at = value; at < end; at++)
    if (((unsigned char)*at < ' ' && *at != '\t') || *at == 0x7F)
      return;
  if (fields->len + size + 2 > TR_FIELDS_MAX)
    return;
  known = find_field(fields, line, len);
  if (known != NULL) {
    join_field(fields, known, value, (size_t)(end - value));
    return;
  }
  if (!tr_buffer_reserve(fields, size + 2))
    return; /* as if the server had not sent it */
  for (i = 0; i < len; i++)
    fields->data[start + i] = (char)tolower((unsigned char)line[i]);
  fields->data[start + len] = '\0';
  fields->len += len + 1;
  memcpy(fields->data + fields->len, value, (size_t)(end - value));
  fields->len += (size_t)(end - value);
  fields->data[fields->len++] = '\0';
}

const char *tr_message_field(const tr_buffer *fields, const char *name) {
  return find_field(fields, name, strlen(name));
}
