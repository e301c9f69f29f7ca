/*
** The counters of the process. A child of fork() continues with the counts of its parent, as
** its caches do: the fork needs no handler, and rates stay right.
*/
#include "metrics.h"

#include <stdatomic.h>
#include <string.h>

enum {
  STRIPES = 8, /* copies of all counters: threads rarely meet in one */
  CACHE_LINE = 64
};

/* The upper bounds of the buckets, in nanoseconds; one more takes the rest. */
static const uint64_t bounds[TR_BUCKETS - 1] = {
    100000,     250000,     500000,     1000000,    2500000,    5000000,
    10000000,   25000000,   50000000,   100000000,  250000000,  500000000,
    1000000000, 2500000000, 5000000000, 10000000000, 30000000000, 60000000000};

typedef struct histogram {
  _Atomic uint64_t buckets[TR_BUCKETS], nanoseconds;
} histogram;

static struct stripe {
  _Alignas(CACHE_LINE) _Atomic uint64_t counters[TR_COUNTERS];
  histogram histograms[TR_HISTOGRAMS];
} stripes[STRIPES];

/* Return the copy of the calling thread. */
static struct stripe *own_stripe(void) {
  static atomic_uint last;
  static _Thread_local struct stripe *own;
  if (own == NULL)
    own = &stripes[atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) % STRIPES];
  return own;
}

static void add(_Atomic uint64_t *cell, uint64_t amount) {
  atomic_fetch_add_explicit(cell, amount, memory_order_relaxed);
}

void tr_count(unsigned counter, uint64_t amount) {
  add(&own_stripe()->counters[counter], amount);
}

void tr_count_time(unsigned histogram_number, double seconds) {
  histogram *h = &own_stripe()->histograms[histogram_number];
  uint64_t nanoseconds;
  int bucket = 0;
  if (!(seconds >= 0 && seconds < 1e9)) /* NaN, and what never was */
    return;
  nanoseconds = (uint64_t)(seconds * 1e9);
  while (bucket < TR_BUCKETS - 1 && nanoseconds > bounds[bucket])
    bucket++;
  add(&h->buckets[bucket], 1);
  add(&h->nanoseconds, nanoseconds);
}

void tr_count_store(tr_store_operation operation, bool ok, const tr_error *error) {
  tr_count(TR_COUNT_STORE + operation * TR_KINDS + (ok ? TR_OK : error->kind), 1);
}

void tr_count_fetch(bool ok, const tr_error *error) {
  tr_error_kind kind = ok ? TR_OK : error != NULL ? error->kind : TR_CANCELLED;
  if (kind == TR_HTTP_STATUS && (error->status == 404 || error->status == 410))
    kind = TR_NOT_FOUND;
  tr_count(TR_COUNT_FETCHES + kind, 1);
}

uint64_t tr_counter_sum(unsigned counter) {
  uint64_t sum = 0;
  int i;
  for (i = 0; i < STRIPES; i++)
    sum += atomic_load_explicit(&stripes[i].counters[counter], memory_order_relaxed);
  return sum;
}

void tr_histogram_sums(unsigned number, uint64_t buckets[TR_BUCKETS], uint64_t *nanoseconds) {
  int i, bucket;
  memset(buckets, 0, TR_BUCKETS * sizeof *buckets);
  *nanoseconds = 0;
  for (i = 0; i < STRIPES; i++) {
    histogram *h = &stripes[i].histograms[number];
    *nanoseconds += atomic_load_explicit(&h->nanoseconds, memory_order_relaxed);
    for (bucket = 0; bucket < TR_BUCKETS; bucket++)
      buckets[bucket] += atomic_load_explicit(&h->buckets[bucket], memory_order_relaxed);
  }
}

uint64_t tr_bucket_bound(int bucket) { return bounds[bucket]; }
