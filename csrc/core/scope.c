/*
** Scopes: who may share cached bytes. Only what is configured counts, not what it
** leads to: no file is read, and no helper runs.
*/
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "blob.h"
#include "crypto.h"
#include "error.h"
#include "options.h"
#include "scope.h"

/* Add a value to the text of a scope, with its final zero byte. */
static bool add_text(tr_buffer *text, const char *value) {
  return tr_buffer_append(text, value, strlen(value) + 1);
}

/* Add the name and the value of an option that is set. */
static bool add_option(tr_buffer *text, const char *name, const char *value) {
  return value == NULL || (add_text(text, name) && add_text(text, value));
}

/* The length of a header line's name. libcurl takes "Name;" for an empty value. */
static size_t header_name_len(const char *line) { return strcspn(line, ":;"); }

/* The value of a header line, without white space around it. */
static const char *header_value(const char *line, size_t *len) {
  const char *at = line + header_name_len(line);
  if (*at != '\0')
    at++;
  at += strspn(at, " \t");
  *len = strlen(at);
  while (*len > 0 && (at[*len - 1] == ' ' || at[*len - 1] == '\t'))
    (*len)--;
  return at;
}

/* The order of header lines: by name in any case, then by the rest. */
static int compare_headers(const void *a, const void *b) {
  const char *x = *(const char *const *)a, *y = *(const char *const *)b;
  size_t x_len = header_name_len(x), y_len = header_name_len(y);
  int order = strncasecmp(x, y, x_len < y_len ? x_len : y_len);
  if (order != 0)
    return order;
  if (x_len != y_len)
    return x_len < y_len ? -1 : 1;
  x = header_value(x, &x_len);
  y = header_value(y, &y_len);
  return strcmp(x, y);
}

static bool add_header_field(tr_buffer *text, const char *line) {
  size_t name_len = header_name_len(line), len, i, start = text->len;
  const char *value = header_value(line, &len);
  char *name;
  if (!tr_buffer_append(text, "header ", 7) ||
      !tr_buffer_append(text, line, name_len + 1))
    return false;
  name = text->data + start + 7;
  for (i = 0; i < name_len; i++)
    name[i] = (char)tolower((unsigned char)name[i]);
  name[name_len] = '\0';
  return tr_buffer_append(text, value, len) && add_text(text, "");
}

static bool add_headers(tr_buffer *text, const char *const *headers) {
  size_t count = 0, i;
  const char **sorted;
  bool ok;
  while (headers != NULL && headers[count] != NULL)
    count++;
  if (count == 0)
    return true;
  sorted = malloc(count * sizeof *sorted);
  if (sorted == NULL)
    return false;
  memcpy(sorted, headers, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, compare_headers);
  for (ok = true, i = 0; ok && i < count; i++)
    ok = add_header_field(text, sorted[i]);
  free(sorted);
  return ok;
}

/* The options that can change whose bytes arrive. */
static bool add_scope(tr_buffer *text, const tr_fetch_options *o) {
  return add_headers(text, o->headers) &&
         add_option(text, "client_cert", o->client_cert) &&
         add_option(text, "client_key", o->client_key) &&
         add_option(text, "netrc", o->netrc ? "" : NULL) &&
         add_option(text, "unix_socket", o->unix_socket) &&
         add_option(text, "proxy", o->proxy) &&
         add_option(text, "ca_file", o->ca_file);
}

static int compare_hosts(const void *a, const void *b) {
  return strcasecmp(((const tr_fetch_host *)a)->host,
                    ((const tr_fetch_host *)b)->host);
}

/* Add the options of one host, by the name of their scope if they have one and 'named'.
** '*differs' is set if they are others than those of a host that has none of its own. */
static bool add_host(tr_buffer *text, const tr_fetch_host *host, bool named,
                     const tr_buffer *otherwise, bool *differs, tr_error *error) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  size_t start;
  bool ok;
  if (!tr_options_copy(&o, sizeof o, host->options, "TR_FETCH_OPTIONS", error))
    return false;
  ok = add_option(text, "host", host->host);
  start = text->len;
  ok = ok && (named && o.cache_scope != NULL
                  ? add_option(text, "cache_scope", o.cache_scope)
                  : add_scope(text, &o));
  *differs |= text->len - start != otherwise->len ||
              (otherwise->len > 0 && memcmp(text->data + start, otherwise->data,
                                            otherwise->len) != 0);
  if (!ok)
    tr_error_nomem(error);
  return ok;
}

/* The options of hosts that a redirect may lead to, in the order of their names. Which one
** of them holds for a host depends on all: they are left out all together, if each is as
** if there were none. */
static bool add_hosts(tr_buffer *text, const tr_fetch_options *o, bool named,
                      tr_error *error) {
  size_t count = 0, i, before = text->len;
  tr_fetch_host *sorted;
  tr_fetch_options foreign = *o;
  tr_buffer otherwise = {0};
  bool ok, differs = false;
  while (o->hosts != NULL && o->hosts[count].host != NULL)
    count++;
  if (count == 0)
    return true;
  foreign.headers = NULL;
  foreign.client_cert = foreign.client_key = NULL;
  foreign.netrc = false;
  sorted = malloc(count * sizeof *sorted);
  ok = sorted != NULL && add_scope(&otherwise, &foreign);
  if (!ok)
    tr_error_nomem(error);
  else
    memcpy(sorted, o->hosts, count * sizeof *sorted);
  if (ok)
    qsort(sorted, count, sizeof *sorted, compare_hosts);
  for (i = 0; ok && i < count; i++)
    ok = add_host(text, &sorted[i], named, &otherwise, &differs, error);
  if (!differs)
    text->len = before;
  tr_buffer_free(&otherwise);
  free(sorted);
  return ok;
}

/* The registry and who asks it. Anybody may have what anonymous callers get. */
static bool add_auth(tr_buffer *text, const tr_auth *auth) {
  return auth == NULL || auth->principal[0] == '\0' ||
         (add_option(text, "registry", auth->registry.text) &&
          add_option(text, "principal", auth->principal));
}

bool tr_request_scope(const tr_fetch_options *options, char scope[TR_HEX_MAX],
                      tr_error *error) {
  return tr_request_scope_as(options, NULL, scope, error);
}

bool tr_request_scope_as(const tr_fetch_options *options, const tr_auth *auth,
                         char scope[TR_HEX_MAX], tr_error *error) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_buffer text = {0};
  bool ok;
  error = tr_error_or_ignored(error);
  scope[0] = '\0';
  if (!tr_options_copy(&o, sizeof o, options, "TR_FETCH_OPTIONS", error))
    return false;
  if (o.cache_scope != NULL) {
    tr_digest(TR_SHA256, o.cache_scope, strlen(o.cache_scope), scope);
    return true;
  }
  ok = add_scope(&text, &o) && add_auth(&text, auth);
  if (!ok)
    tr_error_nomem(error);
  ok = ok && add_hosts(&text, &o, true, error);
  if (ok && text.len > 0)
    ok = tr_process_hmac(text.data, text.len, scope, error);
  tr_buffer_free(&text);
  return ok;
}

bool tr_request_caller(const tr_fetch_options *options, char caller[TR_HEX_MAX],
                       tr_error *error) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_buffer text = {0};
  bool ok;
  caller[0] = '\0';
  if (!tr_options_copy(&o, sizeof o, options, "TR_FETCH_OPTIONS", error))
    return false;
  o.headers = NULL;
  ok = add_scope(&text, &o);
  if (!ok)
    tr_error_nomem(error);
  ok = ok && add_hosts(&text, &o, false, error);
  if (ok && text.len > 0)
    ok = tr_process_hmac(text.data, text.len, caller, error);
  tr_buffer_free(&text);
  return ok;
}
