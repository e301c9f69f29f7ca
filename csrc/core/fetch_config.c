/*
** Configurations: what is the same for many fetches, such as those of a
** resolver. They are found again by their content, so that a fetch costs no
** copies of strings, and shares the handles of the ones before.
*/
#include "fetch_config.h"

#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "blob.h"
#include "crypto.h"
#include "error.h"
#include "gzip.h"
#include "options.h"

enum { KEPT_CONFIGS = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_config *configs; /* the last used first */
static size_t config_count;

static bool same_text(const char *a, const char *b) {
  return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool same_list(char **a, const char *const *b) {
  size_t i;
  if (a == NULL || b == NULL)
    return a == NULL && b == NULL;
  for (i = 0; a[i] != NULL && b[i] != NULL; i++)
    if (strcmp(a[i], b[i]) != 0)
      return false;
  return a[i] == NULL && b[i] == NULL;
}

static bool matches(const tr_config *c, const tr_fetch_options *o) {
  return c->connect_timeout == o->connect_timeout &&
         c->stall_timeout == o->stall_timeout && c->netrc == o->netrc &&
         same_text(c->ca_file, o->ca_file) &&
         same_text(c->client_cert, o->client_cert) &&
         same_text(c->client_key, o->client_key) &&
         same_text(c->unix_socket, o->unix_socket) &&
         same_text(c->user_agent, o->user_agent) &&
         same_text(c->proxy, o->proxy) &&
         same_list(c->header_lines, o->headers) &&
         same_list(c->redirect_hosts, o->redirect_hosts);
}

static void free_list(char **list) {
  size_t i;
  for (i = 0; list != NULL && list[i] != NULL; i++)
    free(list[i]);
  free(list);
}

static void config_free(tr_config *c) {
  free(c->ca_file);
  free(c->client_cert);
  free(c->client_key);
  free(c->unix_socket);
  free(c->user_agent);
  free(c->proxy);
  free_list(c->header_lines);
  free_list(c->redirect_hosts);
  curl_slist_free_all(c->headers);
  curl_slist_free_all(c->foreign);
  free(c);
}

static bool copy_text(char **to, const char *from) {
  *to = from != NULL ? strdup(from) : NULL;
  return from == NULL || *to != NULL;
}

static bool copy_list(char ***to, const char *const *from) {
  size_t count = 0, i;
  if (from == NULL)
    return true;
  while (from[count] != NULL)
    count++;
  *to = calloc(count + 1, sizeof **to);
  for (i = 0; *to != NULL && i < count; i++)
    if (!copy_text(&(*to)[i], from[i]))
      return false;
  return *to != NULL;
}

static bool add_line(struct curl_slist **list, const char *line) {
  struct curl_slist *longer = curl_slist_append(*list, line);
  if (longer != NULL)
    *list = longer;
  return longer != NULL;
}

static bool make_headers(tr_config *c) {
  size_t i;
  const char *encoding = tr_gzip_available() ? "Accept-Encoding: gzip"
                                             : "Accept-Encoding: identity";
  for (i = 0; c->header_lines != NULL && c->header_lines[i] != NULL; i++)
    if (!add_line(&c->headers, c->header_lines[i]))
      return false;
  return add_line(&c->headers, encoding) && add_line(&c->foreign, encoding);
}

static tr_config *config_new(const tr_fetch_options *o) {
  tr_config *c = calloc(1, sizeof *c);
  if (c == NULL)
    return NULL;
  c->connect_timeout = o->connect_timeout;
  c->stall_timeout = o->stall_timeout;
  c->netrc = o->netrc;
  if (copy_text(&c->ca_file, o->ca_file) &&
      copy_text(&c->client_cert, o->client_cert) &&
      copy_text(&c->client_key, o->client_key) &&
      copy_text(&c->unix_socket, o->unix_socket) &&
      copy_text(&c->user_agent, o->user_agent) &&
      copy_text(&c->proxy, o->proxy) &&
      copy_list(&c->header_lines, o->headers) &&
      copy_list(&c->redirect_hosts, o->redirect_hosts) && make_headers(c))
    return c;
  config_free(c);
  return NULL;
}

/* True if a text cannot split a header in two, or end it early. */
static bool is_one_line(const char *text) {
  return text == NULL || text[strcspn(text, "\r\n")] == '\0';
}

static bool check_options(const tr_fetch_options *o, tr_error *error) {
  size_t i;
  bool ok = is_one_line(o->user_agent);
  for (i = 0; ok && o->headers != NULL && o->headers[i] != NULL; i++)
    ok = is_one_line(o->headers[i]);
  if (!ok)
    tr_error_set(error, TR_POLICY,
                 "a header or the user agent has a line break in it");
  return ok;
}

/* Free the configurations that nothing uses, past a number that is kept. */
static void trim_configs(void) {
  tr_config **link = &configs;
  size_t seen = 0;
  while (*link != NULL) {
    tr_config *c = *link;
    if (++seen > KEPT_CONFIGS && c->uses == 0) {
      *link = c->next;
      config_count--;
      config_free(c);
    } else {
      link = &c->next;
    }
  }
}

tr_config *tr_config_get(const tr_fetch_options *o, tr_error *error) {
  tr_config **link, *c;
  pthread_mutex_lock(&lock);
  for (link = &configs; (c = *link) != NULL && !matches(c, o); link = &c->next)
    ;
  if (c != NULL) {
    *link = c->next;
  } else if (!check_options(o, error)) {
    pthread_mutex_unlock(&lock);
    return NULL;
  } else {
    c = config_new(o);
    config_count += c != NULL;
  }
  if (c != NULL) {
    c->next = configs;
    configs = c;
    c->uses++;
    if (config_count > 2 * KEPT_CONFIGS)
      trim_configs();
  }
  pthread_mutex_unlock(&lock);
  if (c == NULL)
    tr_error_nomem(error);
  return c;
}

tr_config *tr_config_foreign(const tr_config *c, tr_error *error) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  o.connect_timeout = c->connect_timeout;
  o.stall_timeout = c->stall_timeout;
  o.netrc = c->netrc;
  o.ca_file = c->ca_file;
  o.unix_socket = c->unix_socket;
  o.user_agent = c->user_agent;
  o.proxy = c->proxy;
  o.headers = (const char *const *)c->header_lines;
  o.redirect_hosts = (const char *const *)c->redirect_hosts;
  return tr_config_get(&o, error);
}

tr_config *tr_config_use(tr_config *config) {
  pthread_mutex_lock(&lock);
  config->uses++;
  pthread_mutex_unlock(&lock);
  return config;
}

void tr_config_release(tr_config *config) {
  pthread_mutex_lock(&lock);
  config->uses--;
  pthread_mutex_unlock(&lock);
}

/* --------------------------------------------------------------------- scopes */

/* Add a field to the text of a scope, so that no two lists of fields have the same
** text. */
static bool add_field(tr_buffer *text, const char *name, const char *value,
                      size_t len) {
  return tr_buffer_append(text, name, strlen(name) + 1) &&
         tr_buffer_append(text, &len, sizeof len) &&
         tr_buffer_append(text, value, len);
}

/* A field for an option that is set. */
static bool add_option(tr_buffer *text, const char *name, const char *value) {
  return value == NULL || add_field(text, name, value, strlen(value));
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
  return tr_buffer_append(text, &len, sizeof len) &&
         tr_buffer_append(text, value, len);
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

bool tr_request_scope(const tr_fetch_options *options, char scope[TR_HEX_MAX],
                      tr_error *error) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_buffer text = {0};
  bool ok;
  error = tr_error_or_ignored(error);
  scope[0] = '\0';
  if (!tr_options_copy(&o, sizeof o, options, "TR_FETCH_OPTIONS", error))
    return false;
  ok = o.cache_scope != NULL ? add_option(&text, "cache_scope", o.cache_scope)
                             : add_scope(&text, &o);
  if (!ok)
    tr_error_nomem(error);
  else if (o.cache_scope != NULL)
    tr_digest(TR_SHA256, text.data, text.len, scope);
  else if (text.len > 0 && !tr_process_hmac(text.data, text.len, scope)) {
    tr_error_set(error, TR_IO, "the system has no random bytes");
    ok = false;
  }
  tr_buffer_free(&text);
  return ok;
}

/* ---------------------------------------------------------------------- fork */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

void tr_config_prepare_fork(void) {
  pthread_atfork(before_fork, after_fork, after_fork);
}
