/*
** Derived bytes: what a function makes of a blob, once for the process, by a claim on the
** blob's SHA-256 and the name of the recipe; and once for a disk cache.
*/
#include "derive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "blob.h"
#include "cache.h"
#include "crypto.h"
#include "disk_cache.h"
#include "error.h"
#include "metrics.h"

/* Seconds to wait for the disk cache's lock before the bytes are not kept. */
static const double PATIENCE = 1;

size_t tr_derived_key(char key[TR_DERIVED_KEY_MAX], tr_blob *blob, const char *recipe,
                      tr_error *error) {
  char hex[TR_HEX_MAX];
  size_t len = strlen(recipe);
  if (len == 0 || len > TR_RECIPE_MAX) {
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "a recipe must have 1 to %d bytes, not %zu: it names everything but the "
                 "blob that the derived bytes depend on",
                 TR_RECIPE_MAX, len);
    return 0;
  }
  tr_blob_sha256(blob, hex);
  return (size_t)snprintf(key, TR_DERIVED_KEY_MAX, "derived://%s/%s", hex, recipe);
}

/* One call of tr_derive. */
typedef struct derivation {
  tr_cache *cache;
  tr_blob *blob;
  tr_derive_work work;
  void *context;
  tr_disk *disk; /* or NULL */
  char key[TR_DERIVED_KEY_MAX];
  size_t len;
} derivation;

/* Return what is on disk, or NULL. A wrong file is a miss, and counted as corruption. */
static tr_blob *read_disk(const derivation *d) {
  tr_disk_entry entry;
  tr_error ignored;
  if (d->disk == NULL || !tr_disk_read_code(d->disk, d->key, d->len, &entry, &ignored))
    return NULL;
  tr_blob_release(entry.rest);
  return entry.body;
}

/* Compute the bytes; return memory that no file backs, or NULL with the error. */
static tr_blob *compute(const derivation *d, const tr_future *future, tr_error *error) {
  tr_derivation running;
  tr_blob *made, *own;
  if (!tr_derivation_begin(&running, d->cache, d->key, tr_future_promise(future), error))
    return NULL;
  tr_error_set(error, TR_POLICY, "the function of tr_derive returned NULL, and set no error");
  made = d->work(d->context, d->blob, error);
  tr_derivation_end(&running);
  if (made == NULL)
    return NULL;
  own = tr_blob_unmapped(made);
  tr_blob_release(made);
  if (own == NULL)
    tr_error_nomem(error);
  return own;
}

/* Lead: take the bytes from disk, or compute and keep them. A disk that cannot keep them is not
** an error: it costs another computation later. */
static tr_blob *lead(const derivation *d, tr_future *future, tr_error *error) {
  tr_blob *made = read_disk(d);
  bool is_new = made == NULL;
  tr_error ignored;
  if (is_new)
    made = compute(d, future, error);
  tr_count(TR_COUNT_DERIVED + (!is_new        ? TR_DERIVED_DISK
                               : made != NULL ? TR_DERIVED_COMPUTED
                                              : TR_DERIVED_FAILED),
           1);
  if (made == NULL) {
    tr_future_fail(future, error);
    return NULL;
  }
  tr_future_complete(future, made);
  if (is_new && d->disk != NULL)
    tr_disk_write(d->disk, d->key, d->len, tr_blob_data(made), tr_blob_size(made), "", 0,
                  PATIENCE, &ignored);
  return made;
}

/* Claim until there are bytes, or an error: a leader that gives up lets another lead. */
static tr_blob *claim(const derivation *d, double deadline, tr_error *error) {
  tr_claim_options options = TR_CLAIM_OPTIONS;
  options.ttl = -1;
  options.keep_failure = 0;
  for (;;) {
    tr_blob *blob = NULL;
    tr_future *future = NULL;
    tr_future_status status = TR_READY;
    tr_claim how = tr_cache_claim(d->cache, d->key, d->len, &options, &blob, &future);
    if (how == TR_NOMEM) {
      tr_error_nomem(error);
    } else if (how == TR_LEAD) {
      blob = lead(d, future, error);
    } else if (how == TR_WAIT) {
      status = tr_future_wait(future, isinf(deadline) ? -1 : fmax(deadline - tr_now(), 0), &blob,
                              error);
    }
    tr_future_release(future);
    if (status != TR_ABANDONED)
      return blob;
  }
}

tr_blob *tr_derive(tr_cache *cache, tr_blob *blob, const char *recipe, double timeout,
                   tr_derive_work work, void *context, tr_error *error) {
  const tr_cache_options *options = tr_cache_get_options(cache);
  derivation d = {.cache = cache, .blob = blob, .work = work, .context = context};
  tr_blob *made = NULL;
  error = tr_error_or_ignored(error);
  d.len = tr_derived_key(d.key, blob, recipe, error);
  if (d.len == 0)
    return NULL;
  if (options->disk != NULL)
    d.disk = tr_disk_open(options->disk, options->disk_max_bytes);
  if (options->disk != NULL && d.disk == NULL)
    tr_error_nomem(error);
  else
    made = claim(&d, tr_deadline(timeout), error);
  tr_disk_close(d.disk);
  return made;
}
