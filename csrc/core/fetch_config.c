/*
** Configurations: what is the same for many fetches, such as those of a
** resolver. They are found again by their content, so that a fetch costs no
** copies of strings, and shares the handles of the ones before.
*/
#include "fetch_config.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "gzip.h"

enum { KEPT_CONFIGS = 64 }; /* that nothing uses */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_table configs;
static tr_config *oldest, *newest; /* of those that nothing uses */
static size_t unused_count;

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

static uint64_t add_text(uint64_t hash, const char *text) {
  uint64_t own = text != NULL ? tr_table_hash(text, strlen(text)) : 0;
  return (hash ^ own) * UINT64_C(0x9E3779B97F4A7C15);
}

static uint64_t add_list(uint64_t hash, const char *const *list) {
  for (; list != NULL && *list != NULL; list++)
    hash = add_text(hash, *list);
  return hash;
}

/* A hash of the texts, in which configurations differ most. */
static uint64_t hash_of(const tr_fetch_options *o) {
  uint64_t hash = add_text(0, o->ca_file);
  hash = add_text(hash, o->client_cert);
  hash = add_text(hash, o->client_key);
  hash = add_text(hash, o->unix_socket);
  hash = add_text(hash, o->user_agent);
  hash = add_text(hash, o->proxy);
  return add_list(add_list(hash, o->headers), o->redirect_hosts);
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
  return add_line(&c->headers, encoding);
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

static bool check_numbers(const tr_fetch_options *o, tr_error *error) {
  if (!isnan(o->timeout) && !isnan(o->connect_timeout) &&
      !isnan(o->stall_timeout) && o->max_redirects >= 0 && o->retries >= 0)
    return true;
  tr_error_set(error, TR_POLICY,
               "a timeout must be a number of seconds, and a number of redirects "
               "or retries must not be negative");
  return false;
}

static tr_config *config_of(tr_node *node) {
  return (tr_config *)((char *)node - offsetof(tr_config, node));
}

/* The configuration of some options, or NULL. The lock is held, from here on. */
static tr_config *find(const tr_fetch_options *o, uint64_t hash) {
  tr_node *node = configs.slots[hash & configs.mask];
  while (node != NULL && (node->hash != hash || !matches(config_of(node), o)))
    node = node->next;
  return node != NULL ? config_of(node) : NULL;
}

static tr_config *add(const tr_fetch_options *o, uint64_t hash) {
  tr_config *c = config_new(o);
  if (c == NULL)
    return NULL;
  c->node.hash = hash;
  tr_table_add(&configs, &c->node);
  return c;
}

/* Take a configuration from those that nothing uses. */
static void leave_unused(tr_config *c) {
  *(c->prev != NULL ? &c->prev->next : &oldest) = c->next;
  *(c->next != NULL ? &c->next->prev : &newest) = c->prev;
  unused_count--;
}

/* Keep a configuration that nothing uses, in place of the oldest of those. */
static void join_unused(tr_config *c) {
  c->prev = newest;
  c->next = NULL;
  *(newest != NULL ? &newest->next : &oldest) = c;
  newest = c;
  if (++unused_count <= KEPT_CONFIGS)
    return;
  c = oldest;
  leave_unused(c);
  tr_table_remove(&configs, &c->node);
  config_free(c);
}

tr_config *tr_config_get(const tr_fetch_options *o, tr_error *error) {
  tr_config *c = NULL;
  uint64_t hash = hash_of(o);
  bool possible = true;
  if (!check_numbers(o, error))
    return NULL;
  pthread_mutex_lock(&lock);
  if (configs.slots != NULL || tr_table_init(&configs)) {
    c = find(o, hash);
    if (c != NULL && c->uses == 0)
      leave_unused(c);
    else if (c == NULL && (possible = check_options(o, error)))
      c = add(o, hash);
  }
  if (c != NULL)
    c->uses++;
  pthread_mutex_unlock(&lock);
  if (c == NULL && possible)
    tr_error_nomem(error);
  return c;
}

void tr_config_options(const tr_config *c, tr_fetch_options *o) {
  o->connect_timeout = c->connect_timeout;
  o->stall_timeout = c->stall_timeout;
  o->ca_file = c->ca_file;
  o->client_cert = c->client_cert;
  o->client_key = c->client_key;
  o->unix_socket = c->unix_socket;
  o->proxy = c->proxy;
  o->user_agent = c->user_agent;
  o->headers = (const char *const *)c->header_lines;
  o->redirect_hosts = (const char *const *)c->redirect_hosts;
  o->netrc = c->netrc;
}

tr_config *tr_config_foreign(const tr_config *c, tr_error *error) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_config_options(c, &o);
  o.client_cert = o.client_key = NULL;
  o.headers = NULL;
  o.netrc = false;
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
  if (--config->uses == 0)
    join_unused(config);
  pthread_mutex_unlock(&lock);
}

/* ---------------------------------------------------------------------- fork */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

void tr_config_prepare_fork(void) {
  pthread_atfork(before_fork, after_fork, after_fork);
}
