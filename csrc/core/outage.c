/*
** A silent server costs each fetch its whole timeout. For a while after a failure, a caller that
** has something else to serve need not wait for that server again.
*/
#include "outage.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "future.h"
#include "table.h"

enum { MAX_ORIGINS = 1024 };
static const double LASTS = 30; /* seconds */

typedef struct outage {
  tr_node node;
  double until;
  char origin[];
} outage;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_table outages;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void at_fork(void) {
  pthread_atfork(before_fork, after_fork, after_fork);
}

void tr_outage_prepare_fork(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
}

bool tr_is_outage(const tr_error *error) {
  return error->kind == TR_NETWORK || error->kind == TR_TIMEOUT ||
         error->kind == TR_IO || error->status >= 500 || error->status == 429 ||
         error->status == 408;
}

static outage *find(const tr_url *url, uint64_t *hash) {
  tr_node *node;
  *hash = tr_table_hash(url->text, url->origin_len);
  if (outages.slots == NULL)
    return NULL;
  node = tr_table_find(&outages, *hash, url->text, url->origin_len);
  return (outage *)node; /* its first member */
}

static void forget(outage *o) {
  tr_table_remove(&outages, &o->node);
  free(o);
}

/* Forget all, when there are too many: then each may cost a timeout again. */
static void make_room(void) {
  size_t i;
  if (outages.count < MAX_ORIGINS)
    return;
  for (i = 0; i <= outages.mask; i++)
    while (outages.slots[i] != NULL)
      forget((outage *)outages.slots[i]);
}

static void begin(const tr_url *url, uint64_t hash) {
  outage *o;
  if (outages.slots == NULL && !tr_table_init(&outages))
    return;
  make_room();
  o = calloc(1, sizeof *o + url->origin_len);
  if (o == NULL)
    return;
  memcpy(o->origin, url->text, url->origin_len);
  o->node = (tr_node){.hash = hash, .key = o->origin, .len = url->origin_len};
  o->until = tr_now() + LASTS;
  tr_table_add(&outages, &o->node);
}

void tr_outage_note(const tr_url *url, bool failed) {
  uint64_t hash;
  outage *o;
  tr_outage_prepare_fork();
  pthread_mutex_lock(&lock);
  if (failed || outages.count > 0) {
    o = find(url, &hash);
    if (o != NULL && failed)
      o->until = tr_now() + LASTS;
    else if (o != NULL)
      forget(o);
    else if (failed)
      begin(url, hash);
  }
  pthread_mutex_unlock(&lock);
}

bool tr_outage_is_on(const char *text) {
  tr_url url;
  uint64_t hash;
  outage *o;
  bool on = false;
  if (tr_url_parse(&url, text) != NULL)
    return false;
  pthread_mutex_lock(&lock);
  o = find(&url, &hash);
  on = o != NULL && tr_now() < o->until;
  pthread_mutex_unlock(&lock);
  tr_url_free(&url);
  return on;
}
