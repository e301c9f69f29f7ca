/*
** Configurations: what is the same for many fetches, such as those of a
** resolver. They are found again by their content, so that a fetch costs no
** copies of strings, and shares the handles of the ones before.
*/
#include "fetch_config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "gzip.h"

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

/* ---------------------------------------------------------------------- fork */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

void tr_config_prepare_fork(void) {
  pthread_atfork(before_fork, after_fork, after_fork);
}
