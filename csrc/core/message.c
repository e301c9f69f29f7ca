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
  return retries_left <= 0 || !tr_method_is_idempotent(m->method);
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
  if (m->secret && m->fields.data != NULL)
    mbedtls_platform_zeroize(m->fields.data, m->fields.cap);
  tr_buffer_free(&m->fields);
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
static char *find_field(const tr_message *m, const char *name, size_t len) {
  char *at = m->fields.data, *end = at != NULL ? at + m->fields.len : NULL;
  while (at < end) {
    char *value = at + strlen(at) + 1;
    if (strlen(at) == len && strncasecmp(at, name, len) == 0)
      return value;
    at = value + strlen(value) + 1;
  }
  return NULL;
}

/* Append ", " and another value to a field. */
static void join_field(tr_message *m, char *value, const char *more, size_t len) {
  size_t old = strlen(value), offset = (size_t)(value - m->fields.data) + old;
  size_t tail = m->fields.len - offset;
  if (!tr_buffer_reserve(&m->fields, len + 2))
    return;
  value = m->fields.data + offset; /* its end */
  memmove(value + len + 2, value, tail);
  memcpy(value, ", ", 2);
  memcpy(value + 2, more, len);
  m->fields.len += len + 2;
}

void tr_message_keep_field(tr_message *m, const char *line, size_t size) {
  const char *colon = memchr(line, ':', size), *value, *end = line + size, *at;
  size_t len, i, start = m->fields.len;
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
  if (m->fields.len + size + 2 > TR_FIELDS_MAX)
    return;
  known = find_field(m, line, len);
  if (known != NULL) {
    join_field(m, known, value, (size_t)(end - value));
    return;
  }
  if (!tr_buffer_reserve(&m->fields, size + 2))
    return; /* as if the server had not sent it */
  for (i = 0; i < len; i++)
    m->fields.data[start + i] = (char)tolower((unsigned char)line[i]);
  m->fields.data[start + len] = '\0';
  m->fields.len += len + 1;
  memcpy(m->fields.data + m->fields.len, value, (size_t)(end - value));
  m->fields.len += (size_t)(end - value);
  m->fields.data[m->fields.len++] = '\0';
}
