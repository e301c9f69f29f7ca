/* The metrics of the process as OpenMetrics text. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blob.h"
#include "cache.h"
#include "error.h"
#include "metrics.h"

/* A family of counters: one for each value of its label and, with 'by_outcome', for each
** outcome. */
typedef struct counters {
  const char *name, *unit, *help;
  const char *label; /* NULL: it has none, and one counter */
  const char *const *values;
  unsigned count;
  bool by_outcome;
  unsigned first;
} counters;

typedef struct histograms {
  const char *name, *help;
  const char *const *phases;
  unsigned count, first;
} histograms;

/* A family about caches: a counter, or a gauge for current contents. */
typedef struct cache_family {
  const char *name, *unit, *help;
  bool is_gauge;
  tr_stat stat;
} cache_family;

const char *const tr_rule_names[TR_RULES] = {"allow", "integrity", "signatures", "accept",
                                             "allow_spawn"};
const char *const tr_plan_steps[TR_PLAN_STEPS] = {
    "manifest", "initial_state", "merge", "render", "parse",
    "allow_spawn", "secrets", "package", "total"};
static const char *const fetch_phases[TR_FETCH_PHASES] = {"queue", "connect", "first_byte",
                                                          "total"};
static const char *const operations[TR_STORE_OPERATIONS] = {"put",    "get",    "label",
                                                            "unlabel", "commit", "delete"};
static const char *const limits[TR_SCRIPT_LIMITS] = {"time", "instructions", "memory", "string",
                                                     "table"};
static const char *const places[] = {"store", "disk_cache", "bucket"};
static const char *const derivations[TR_DERIVATIONS] = {"disk", "computed", "failed"};
static const char *const checks[TR_CHECKS] = {"unchanged", "changed", "failed"};

static const counters all_counters[] = {
    {"theaterref_fetches", "", "HTTP requests that ended, by outcome; redirects and retries are part of one.",
     NULL, NULL, 1, true, TR_COUNT_FETCHES},
    {"theaterref_fetch_retries", "", "Attempts that repeated a failed one.", NULL, NULL, 1, false,
     TR_COUNT_RETRIES},
    {"theaterref_fetch_resumes", "", "Attempts that asked for the rest of a body.", NULL, NULL, 1,
     false, TR_COUNT_RESUMES},
    {"theaterref_fetch_redirects", "", "Redirects that were followed.", NULL, NULL, 1, false,
     TR_COUNT_REDIRECTS},
    {"theaterref_fetch_received_bytes", "bytes", "Bytes of response bodies, as sent.", NULL, NULL,
     1, false, TR_COUNT_RECEIVED},
    {"theaterref_fetch_sent_bytes", "bytes", "Bytes of request bodies.", NULL, NULL, 1, false,
     TR_COUNT_SENT},
    {"theaterref_store_operations", "", "Operations of stores, by outcome.", "operation",
     operations, TR_STORE_OPERATIONS, true, TR_COUNT_STORE},
    {"theaterref_store_outages", "", "Outages of buckets in which a label counted as it was.", NULL,
     NULL, 1, false, TR_COUNT_OUTAGES},
    {"theaterref_corruptions", "", "Damaged content found, and code that others could have written.",
     "place", places, 3, false, TR_COUNT_CORRUPT_STORE},
    {"theaterref_derivations", "", "Derived bytes that were not in memory, by where they came from.",
     "from", derivations, TR_DERIVATIONS, false, TR_COUNT_DERIVED},
    {"theaterref_follow_checks", "", "Checks of followers that ended, by what they found.", "result",
     checks, TR_CHECKS, false, TR_COUNT_CHECKS},
    {"theaterref_refusals", "", "References and manifests that a rule refused.", "rule",
     tr_rule_names, TR_RULES, false, TR_COUNT_REFUSALS},
    {"theaterref_script_limits", "", "Calls of policy scripts that reached a limit.", "limit",
     limits, TR_SCRIPT_LIMITS, false, TR_COUNT_LIMITS},
    {"theaterref_plans", "", "Plans that ended, by outcome.", NULL, NULL, 1, true,
     TR_COUNT_PLANS},
};

static const histograms all_histograms[] = {
    {"theaterref_fetch_seconds", "Seconds that HTTP requests spent in a phase.", fetch_phases,
     TR_FETCH_PHASES, TR_TIME_FETCH},
    {"theaterref_plan_seconds", "Seconds that plans spent in a step.", tr_plan_steps,
     TR_PLAN_STEPS, TR_TIME_PLAN},
};

static const cache_family cache_families[] = {
    {"theaterref_cache_hits", "", "Claims and gets that found something fresh.", false,
     TR_STAT_HITS},
    {"theaterref_cache_misses", "", "Claims that found nothing to serve or wait for.", false,
     TR_STAT_MISSES},
    {"theaterref_cache_coalesced", "", "Claims that waited for another caller's load.", false,
     TR_STAT_COALESCED},
    {"theaterref_cache_stale_hits", "", "Claims served past the entry's ttl.", false,
     TR_STAT_STALE},
    {"theaterref_cache_loads", "", "Loads that brought bytes.", false, TR_STAT_LOADS},
    {"theaterref_cache_load_errors", "", "Loads that failed.", false, TR_STAT_ERRORS},
    {"theaterref_cache_evictions", "", "Entries evicted to make room.", false,
     TR_STAT_EVICTIONS},
    {"theaterref_cache_entries", "", "Entries held now.", true, TR_STAT_ENTRIES},
    {"theaterref_cache_bytes", "bytes", "Bytes held now.", true, TR_STAT_BYTES},
};

/* The text that is being written. */
typedef struct text {
  tr_buffer buffer;
  bool failed; /* memory is short */
} text;

__attribute__((format(printf, 2, 3)))
static void write_line(text *t, const char *format, ...) {
  char line[512];
  va_list arguments;
  int len;
  va_start(arguments, format);
  len = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  t->failed |= len < 0 || (size_t)len >= sizeof line ||
               !tr_buffer_append(&t->buffer, line, (size_t)len);
}

static void write_head(text *t, const char *name, const char *type, const char *unit,
                       const char *help) {
  write_line(t, "# TYPE %s %s\n", name, type);
  if (unit[0] != '\0')
    write_line(t, "# UNIT %s %s\n", name, unit);
  write_line(t, "# HELP %s %s\n", name, help);
}

/* Write one counter of a family; 'value' is its label's, or NULL. */
static void write_counter(text *t, const counters *f, const char *value, unsigned counter) {
  uint64_t sum = tr_counter_sum(counter);
  if (value != NULL)
    write_line(t, "%s_total{%s=\"%s\"} %" PRIu64 "\n", f->name, f->label, value, sum);
  else
    write_line(t, "%s_total %" PRIu64 "\n", f->name, sum);
}

/* Write the counters of one value by outcome. Beside another label, failures that never happened
** are left out, since most of them cannot happen. */
static void write_outcomes(text *t, const counters *f, const char *value, unsigned first) {
  unsigned kind;
  for (kind = TR_OK; kind < TR_KINDS; kind++) {
    uint64_t sum = tr_counter_sum(first + kind);
    const char *name = tr_error_kind_name((tr_error_kind)kind);
    if (value == NULL)
      write_line(t, "%s_total{outcome=\"%s\"} %" PRIu64 "\n", f->name, name, sum);
    else if (sum > 0 || kind == TR_OK)
      write_line(t, "%s_total{%s=\"%s\",outcome=\"%s\"} %" PRIu64 "\n", f->name, f->label, value,
                 name, sum);
  }
}

static void write_counters(text *t, const counters *f) {
  unsigned i;
  write_head(t, f->name, "counter", f->unit, f->help);
  for (i = 0; i < f->count; i++) {
    const char *value = f->label != NULL ? f->values[i] : NULL;
    if (f->by_outcome)
      write_outcomes(t, f, value, f->first + i * TR_KINDS);
    else
      write_counter(t, f, value, f->first + i);
  }
}

/* Write a number of nanoseconds in seconds, as a label's value. OpenMetrics requires a decimal
** point in every locale. */
static void format_bound(uint64_t nanoseconds, char room[32]) {
  int len = snprintf(room, 32, "%" PRIu64 ".%09" PRIu64, nanoseconds / 1000000000,
                     nanoseconds % 1000000000);
  while (room[len - 1] == '0' && room[len - 2] != '.')
    room[--len] = '\0';
}

static void write_histogram(text *t, const char *name, const char *phase, unsigned number) {
  uint64_t buckets[TR_BUCKETS], nanoseconds, sum = 0;
  char bound[32];
  int i;
  tr_histogram_sums(number, buckets, &nanoseconds);
  for (i = 0; i < TR_BUCKETS; i++) {
    sum += buckets[i];
    if (i == TR_BUCKETS - 1)
      break;
    format_bound(tr_bucket_bound(i), bound);
    write_line(t, "%s_bucket{phase=\"%s\",le=\"%s\"} %" PRIu64 "\n", name, phase, bound, sum);
  }
  write_line(t, "%s_bucket{phase=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, phase, sum);
  write_line(t, "%s_count{phase=\"%s\"} %" PRIu64 "\n", name, phase, sum);
  write_line(t, "%s_sum{phase=\"%s\"} %" PRIu64 ".%09" PRIu64 "\n", name, phase,
             nanoseconds / 1000000000, nanoseconds % 1000000000);
}

static void write_histograms(text *t, const histograms *f) {
  unsigned i;
  write_head(t, f->name, "histogram", "seconds", f->help);
  for (i = 0; i < f->count; i++)
    write_histogram(t, f->name, f->phases[i], f->first + i);
}

/* Append a label's value, escaped. */
static void write_value(text *t, const char *value) {
  for (; *value != '\0'; value++) {
    const char *escaped = *value == '\\' ? "\\\\" : *value == '"' ? "\\\"" : "\\n";
    bool plain = *value != '\\' && *value != '"' && *value != '\n';
    t->failed |= !tr_buffer_append(&t->buffer, plain ? value : escaped, plain ? 1 : 2);
  }
}

static void write_cache_family(text *t, const cache_family *f, const tr_cache_totals *all) {
  size_t i;
  write_head(t, f->name, f->is_gauge ? "gauge" : "counter", f->unit, f->help);
  for (i = 0; i < all->count; i++) {
    write_line(t, "%s%s{cache=\"", f->name, f->is_gauge ? "" : "_total");
    write_value(t, all->names[i]);
    write_line(t, "\"} %" PRIu64 "\n", all->values[i][f->stat]);
  }
}

tr_blob *tr_metrics(tr_error *error) {
  text t = {0};
  tr_cache_totals *caches = tr_cache_get_totals();
  size_t i;
  error = tr_error_or_ignored(error);
  t.failed = caches == NULL;
  write_head(&t, "theaterref", "info", "", "The version of the library.");
  write_line(&t, "theaterref_info{version=\"%s\"} 1\n", TR_VERSION);
  for (i = 0; i < sizeof all_counters / sizeof *all_counters; i++)
    write_counters(&t, &all_counters[i]);
  for (i = 0; i < sizeof all_histograms / sizeof *all_histograms; i++)
    write_histograms(&t, &all_histograms[i]);
  for (i = 0; !t.failed && i < sizeof cache_families / sizeof *cache_families; i++)
    write_cache_family(&t, &cache_families[i], caches);
  write_line(&t, "# EOF\n");
  tr_cache_free_totals(caches);
  if (!t.failed)
    return tr_buffer_to_blob(&t.buffer);
  tr_buffer_free(&t.buffer);
  tr_error_nomem(error);
  return NULL;
}
