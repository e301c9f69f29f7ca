/* A small table, so that most requests are sent only once: a lost entry costs one round trip. */
#include "s3_places.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "table.h"

enum { PLACES = 256 };

typedef struct place {
  uint64_t hash; /* of its name; 0: unused */
  char region[TR_REGION_MAX];
  double skew;
} place;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static place places[PLACES];
static size_t next_place; /* to be replaced */

/* Find a place. The lock is held. */
static place *find(uint64_t hash) {
  size_t i;
  for (i = 0; i < PLACES; i++)
    if (places[i].hash == hash)
      return &places[i];
  return NULL;
}

/* Find a place, or make it in place of the oldest. The lock is held. */
static place *get(uint64_t hash) {
  place *p = find(hash);
  if (p != NULL)
    return p;
  p = &places[next_place];
  next_place = (next_place + 1) % PLACES;
  *p = (place){.hash = hash};
  return p;
}

static uint64_t hash_of(const char *name, size_t len) {
  return tr_table_hash(name, len) | 1;
}

bool tr_place_region(const char *name, char region[TR_REGION_MAX]) {
  const place *p;
  bool told;
  pthread_mutex_lock(&lock);
  p = find(hash_of(name, strlen(name)));
  told = p != NULL && p->region[0] != '\0';
  if (told)
    memcpy(region, p->region, TR_REGION_MAX);
  pthread_mutex_unlock(&lock);
  return told;
}

void tr_place_set_region(const char *name, const char *region) {
  pthread_mutex_lock(&lock);
  snprintf(get(hash_of(name, strlen(name)))->region, TR_REGION_MAX, "%s", region);
  pthread_mutex_unlock(&lock);
}

double tr_place_skew(const tr_url *url) {
  const place *p;
  double skew;
  pthread_mutex_lock(&lock);
  p = find(hash_of(url->text, url->origin_len));
  skew = p != NULL ? p->skew : 0;
  pthread_mutex_unlock(&lock);
  return skew;
}

void tr_place_set_skew(const tr_url *url, double seconds) {
  pthread_mutex_lock(&lock);
  get(hash_of(url->text, url->origin_len))->skew = seconds;
  pthread_mutex_unlock(&lock);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

void tr_places_prepare_fork(void) { pthread_atfork(before_fork, after_fork, after_fork); }
