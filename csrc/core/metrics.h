/*
** Counters and histograms of the process, which tr_metrics writes as text. Counting takes no
** lock: each thread adds to one of a few copies, of which the text shows the sums. A hit of a
** cache is counted by the cache alone.
*/
#ifndef TR_METRICS_H
#define TR_METRICS_H

#include "theaterref.h"

enum { TR_KINDS = TR_UNKNOWN_OUTCOME + 1 };

typedef enum tr_store_operation {
  TR_STORE_PUT,
  TR_STORE_GET,
  TR_STORE_LABEL,
  TR_STORE_UNLABEL,
  TR_STORE_COMMIT, /* of a batch */
  TR_STORE_DELETE, /* of content, by a garbage collection */
  TR_STORE_OPERATIONS
} tr_store_operation;

/* The rules that refuse: tr_rule_names. */
enum { TR_RULES = 5 };
/* The steps of a plan, and the whole plan: tr_plan_steps. */
enum { TR_PLAN_STEPS = 9 };

/* The limits of a script. */
typedef enum tr_script_limit {
  TR_LIMIT_TIME,
  TR_LIMIT_INSTRUCTIONS,
  TR_LIMIT_MEMORY,
  TR_LIMIT_STRING,
  TR_LIMIT_TABLE,
  TR_SCRIPT_LIMITS
} tr_script_limit;

/* The origin of derived bytes that were not in memory. */
typedef enum tr_derived_from {
  TR_DERIVED_DISK,
  TR_DERIVED_COMPUTED,
  TR_DERIVED_FAILED,
  TR_DERIVATIONS
} tr_derived_from;

/* The result of a follower's check. */
typedef enum tr_check { TR_CHECK_SAME, TR_CHECK_CHANGED, TR_CHECK_FAILED, TR_CHECKS } tr_check;

/* The parts of a fetch, of which a histogram shows how long they took. */
typedef enum tr_fetch_phase {
  TR_PHASE_QUEUE,
  TR_PHASE_CONNECT,
  TR_PHASE_FIRST_BYTE,
  TR_PHASE_TOTAL,
  TR_FETCH_PHASES
} tr_fetch_phase;

/* The counters; those of several begin with the first. */
typedef enum tr_counter {
  TR_COUNT_FETCHES,                                /* by outcome, a tr_error_kind */
  TR_COUNT_PLANS = TR_COUNT_FETCHES + TR_KINDS,    /* the same */
  TR_COUNT_STORE = TR_COUNT_PLANS + TR_KINDS,      /* by operation and outcome */
  TR_COUNT_REFUSALS = TR_COUNT_STORE + TR_STORE_OPERATIONS * TR_KINDS,
  TR_COUNT_LIMITS = TR_COUNT_REFUSALS + TR_RULES,  /* a tr_script_limit */
  TR_COUNT_CORRUPT_STORE = TR_COUNT_LIMITS + TR_SCRIPT_LIMITS,
  TR_COUNT_CORRUPT_DISK,
  TR_COUNT_CORRUPT_BUCKET,
  TR_COUNT_OUTAGES,                                /* of buckets */
  TR_COUNT_DERIVED,                                /* a tr_derived_from */
  TR_COUNT_CHECKS = TR_COUNT_DERIVED + TR_DERIVATIONS, /* of followers: a tr_check */
  TR_COUNT_END_OF_CHECKS = TR_COUNT_CHECKS + TR_CHECKS - 1,
  TR_COUNT_RECEIVED, /* bytes */
  TR_COUNT_SENT,
  TR_COUNT_RETRIES,
  TR_COUNT_RESUMES,
  TR_COUNT_REDIRECTS,
  TR_COUNTERS
} tr_counter;

/* The histograms. */
enum {
  TR_TIME_FETCH,                                   /* by tr_fetch_phase */
  TR_TIME_PLAN = TR_TIME_FETCH + TR_FETCH_PHASES,  /* by step */
  TR_HISTOGRAMS = TR_TIME_PLAN + TR_PLAN_STEPS
};

/* Add to a counter. Any thread; takes some nanoseconds. */
void tr_count(unsigned counter, uint64_t amount);
/* Add a duration to a histogram. Any thread. Below 0 it is ignored. */
void tr_count_time(unsigned histogram, double seconds);
/* Count an operation of a store, which failed with the error unless 'ok'. */
void tr_count_store(tr_store_operation operation, bool ok, const tr_error *error);
/* Count a fetch, which unless 'ok' failed with the error, or was cancelled if that is NULL.
** Content that is not there is no fault of its server: TR_NOT_FOUND. */
void tr_count_fetch(bool ok, const tr_error *error);

/* The buckets of a histogram. */
enum { TR_BUCKETS = 19 };

/* Return a counter's sum over all threads. */
uint64_t tr_counter_sum(unsigned counter);
/* Get the sums of a histogram: durations by bucket, and all durations together. */
void tr_histogram_sums(unsigned histogram, uint64_t buckets[TR_BUCKETS],
                       uint64_t *nanoseconds);
/* Return the upper bound of a bucket but the last, in nanoseconds. */
uint64_t tr_bucket_bound(int bucket);

/* The names of what refuses, ends and is timed, in the order of their numbers. */
extern const char *const tr_rule_names[TR_RULES];
extern const char *const tr_plan_steps[TR_PLAN_STEPS];

#endif
