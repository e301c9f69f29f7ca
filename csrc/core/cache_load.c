/*
** The loads of a cache. Each ends with a blob, which becomes an entry, or with an
** error. Loads under different limits (tr_limits) know nothing of each other: one
** might fail, or bring bytes, as the other must not.
*/
#include "cache_load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "outage.h"

/* ---------------------------------------------------------------- beginning */

static tr_substitute on_result(void *context, const tr_result *result);

static tr_flight *flight_new(tr_cache *cache, const tr_load *load) {
  size_t len = load->key.len, content_len = load->content.len;
  tr_flight *f = calloc(1, sizeof *f + len + content_len);
  tr_key limited = tr_key_limited(load->key, load->limits->id);
  if (f == NULL)
    return NULL;
  if (len > 0)
    memcpy(f->text, load->key.text, len);
  if (content_len > 0)
    memcpy(f->text + len, load->content.at, content_len);
  tr_item_set_key(&f->item, &limited, f->text);
  f->item.unlisted = cache->options.no_coalesce;
  f->key = load->key;
  f->key.text = f->text;
  f->content = (tr_bytes){f->text + len, content_len};
  f->forbidden = load->limits->forbidden;
  f->cache = cache;
  f->ttl = load->ttl;
  f->keep_failure = load->keep_failure;
  f->respect_no_store = load->respect_no_store;
  f->provisional = load->provisional;
  f->wanted = true;
  f->promise = tr_promise_new(on_result, f);
  if (f->promise == NULL) {
    free(f);
    return NULL;
  }
  return f;
}

/* Tell the load what it may find unchanged. */
static void set_known(tr_flight *f, tr_slot *stale, tr_slot *bytes) {
  tr_record *record;
  if (stale == NULL || stale->failure != NULL)
    return;
  f->stale = tr_entry_retain(&stale->entry);
  f->stale_blob = bytes != NULL ? tr_blob_retain(bytes->entry.blob) : NULL;
  record = stale->entry.record;
  if (tr_record_has_validators(record) || tr_slot_is_alias(stale))
    tr_promise_set_known(f->promise, f->stale_blob, record);
}

tr_future *tr_load_begin(tr_cache *cache, const tr_load *load, tr_slot *stale,
                         tr_slot *bytes) {
  tr_flight *f = flight_new(cache, load);
  tr_future *leader = f != NULL ? tr_promise_future(f->promise, true) : NULL;
  if (leader == NULL) {
    if (f != NULL)
      tr_promise_release(f->promise);
    free(f);
    return NULL;
  }
  f->next = cache->loading;
  if (f->next != NULL)
    f->next->prev = f;
  cache->loading = f;
  f->listed = true;
  tr_index_add(&cache->flights, &f->item);
  tr_cache_retain(cache);
  set_known(f, stale, bytes);
  return leader;
}

/* ------------------------------------------------------------------- ending */

/* True if the source itself says that there is nothing; an outage does not. */
static bool is_absence(const tr_error *error) {
  return error->kind == TR_NOT_FOUND || error->status == 404 ||
         error->status == 410;
}

/* The parts of a result to store, made without the lock. */
typedef struct outcome {
  tr_slot *slot;    /* for the key: a blob, an alias or a failure; or NULL */
  tr_slot *content; /* for the content's key, beside an alias; or NULL */
  tr_substitute instead;
} outcome;

/* The record of a result, with the content that the claim named. Retained, or NULL;
** it goes into 'instead' if it is a new one. */
static tr_record *record_of(const tr_flight *f, const tr_result *result,
                            tr_substitute *instead) {
  tr_record draft = {.age = 0};
  if (result->record != NULL && (result->record->content.len > 0 ||
                                 f->content.len == 0))
    return tr_record_retain(result->record);
  if (f->content.len == 0)
    return NULL;
  if (result->record != NULL)
    draft = *result->record;
  draft.content = f->content;
  instead->record = tr_record_new(&draft);
  return instead->record != NULL ? tr_record_retain(instead->record) : NULL;
}

/* True if a record's bytes are to be stored under another key, its content's. */
static bool has_content(const tr_flight *f, const tr_record *record) {
  return record != NULL && record->content.len > 0 &&
         !(record->content.len == f->key.len &&
           memcmp(record->content.at, f->text, f->key.len) == 0);
}

static void prepare_blob(const tr_flight *f, const tr_result *result,
                         outcome *o) {
  tr_record *record = record_of(f, result, &o->instead);
  double expires = HUGE_VAL;
  if (f->ttl >= 0)
    expires = tr_deadline(f->ttl) - (record != NULL ? record->age : 0);
  if (has_content(f, record)) {
    tr_key key = tr_key_of(record->content.at, record->content.len);
    o->content = tr_slot_new(&key, result->blob, NULL, record, expires);
    o->slot = tr_slot_new(&f->key, NULL, NULL, record, expires);
  } else {
    o->slot = tr_slot_new(&f->key, result->blob, NULL, record, expires);
  }
  tr_record_release(record);
}

static void prepare_failure(const tr_flight *f, const tr_result *result,
                            outcome *o) {
  const tr_cache_options *options = &f->cache->options;
  tr_key key = tr_item_key(&f->item);
  double keep = f->keep_failure;
  if (keep < 0)
    keep = is_absence(result->error) ? options->negative_ttl : 0;
  if (keep > 0)
    o->slot = tr_slot_new(&key, NULL, f->promise, NULL, tr_deadline(keep));
  if (f->keep_failure < 0 && f->stale_blob != NULL && tr_is_outage(result->error) &&
      tr_now() < f->stale->expires + options->stale_if_error) {
    o->instead.blob = tr_blob_retain(f->stale_blob);
    if (f->stale->record != NULL)
      o->instead.record = tr_record_retain(f->stale->record);
  }
}

/* Unregister a flight that has its result. The lock is held. */
static void flight_finish(tr_flight *f) {
  tr_cache *cache = f->cache;
  if (f->listed)
    tr_index_remove(&cache->flights, &f->item);
  *(f->prev != NULL ? &f->prev->next : &cache->loading) = f->next;
  if (f->next != NULL)
    f->next->prev = f->prev;
}

/*
** Choose the key for a blob or an alias: the one for everybody, unless a fresh entry
** is there that the limits of this load forbid. Others may use that one. The lock
** is held.
*/
static tr_key choose_key(const tr_flight *f) {
  tr_slot *old = tr_entries_find(&f->cache->entries, &f->key);
  if (old != NULL && &old->entry != f->stale &&
      (old->entry.traits & f->forbidden) != 0 && tr_entry_fresh(&old->entry))
    return tr_item_key(&f->item);
  return f->key;
}

/* Store a blob under its content's key, unless a fresh one is there: then that is
** the result. The lock is held. */
static void store_content(tr_flight *f, outcome *o, tr_deferred *deferred) {
  tr_entries *entries = &f->cache->entries;
  tr_key key = tr_item_key(&o->content->item);
  tr_slot *old = tr_entries_find(entries, &key);
  if (old != NULL && old->entry.blob != NULL && tr_entry_fresh(&old->entry)) {
    old->provisional &= f->provisional;
    o->instead.blob = tr_blob_retain(old->entry.blob);
    return;
  }
  o->content->provisional = f->provisional;
  tr_entries_insert(entries, o->content, deferred);
  o->content = NULL;
}

/* Remove the slot of a key, in whose place another goes. */
static void take_place(tr_entries *entries, const tr_key *key, tr_slot *s,
                       tr_deferred *deferred) {
  tr_slot *old = tr_entries_find(entries, key);
  if (old == NULL)
    return;
  s->kept |= old->kept;
  s->provisional &= old->provisional || old->entry.blob != s->entry.blob;
  tr_entries_remove(entries, old, deferred);
}

/* Store a blob, or an alias and its blob. The lock is held. */
static void store_blob(tr_flight *f, tr_blob *blob, outcome *o,
                       tr_deferred *deferred) {
  tr_entries *entries = &f->cache->entries;
  tr_key own = tr_item_key(&f->item), key = choose_key(f);
  tr_slot *s = o->slot;
  if (o->content != NULL)
    store_content(f, o, deferred);
  if (s == NULL)
    return;
  s->provisional = f->provisional;
  take_place(entries, &own, s, deferred); /* even if the new one is for all */
  take_place(entries, &key, s, deferred);
  if (s->kept && tr_slot_is_alias(s)) /* a kept entry has its bytes itself */
    s->entry.blob =
        tr_blob_retain(o->instead.blob != NULL ? o->instead.blob : blob);
  tr_item_set_key(&s->item, &key, s->key);
  tr_entries_insert(entries, s, deferred);
  o->slot = NULL;
}

/* Note a failure beside the bytes that it leaves in place, or store it where there are
** none. The lock is held. */
static void store_failure(const tr_flight *f, outcome *o, tr_deferred *deferred) {
  tr_entries *entries = &f->cache->entries;
  tr_key own = tr_item_key(&f->item);
  tr_slot *old = tr_entries_find(entries, &own);
  tr_promise *before;
  if (old == NULL)
    old = tr_entries_find(entries, &f->key);
  if (old == NULL || old->failure != NULL) {
    tr_entries_insert(entries, o->slot, deferred);
    o->slot = NULL;
    return;
  }
  before = old->recent_failure; /* it goes with the slot that was made for the new one */
  old->recent_failure = o->slot->failure;
  old->recent_at = o->slot->stored;
  old->recent_until = o->slot->entry.expires;
  o->slot->failure = before;
}

/* Store that there is nothing, and remove what was there. The lock is held. */
static void store_absence(tr_flight *f, outcome *o, tr_deferred *deferred) {
  tr_entries *entries = &f->cache->entries;
  tr_key own = tr_item_key(&f->item);
  tr_slot *old = tr_entries_find(entries, &own);
  if (old != NULL)
    tr_entries_remove(entries, old, deferred);
  old = tr_entries_find(entries, &f->key);
  if (old != NULL && &old->entry == f->stale)
    tr_entries_remove(entries, old, deferred);
  if (o->slot != NULL)
    tr_entries_insert(entries, o->slot, deferred);
  o->slot = NULL;
}

static void release_slot(tr_slot *s) {
  if (s != NULL)
    tr_entry_release(&s->entry);
}

/* True if a result may be kept. */
static bool may_keep(const tr_flight *f, const tr_result *result) {
  return f->wanted && !(f->respect_no_store && result->record != NULL &&
                        result->record->no_store);
}

/* Runs when a flight has its result: the blob is stored before any waiter is
** woken. */
static tr_substitute on_result(void *context, const tr_result *result) {
  tr_flight *f = context;
  tr_cache *cache = f->cache;
  tr_deferred deferred = {NULL};
  outcome o = {NULL, NULL, {NULL, NULL}};
  bool failed = result->status == TR_FAILED;
  if (result->status == TR_READY)
    prepare_blob(f, result, &o);
  else if (failed)
    prepare_failure(f, result, &o);
  pthread_mutex_lock(&cache->lock);
  flight_finish(f);
  cache->stats[TR_STAT_STALE] += failed && o.instead.blob != NULL;
  if (f->wanted && failed && f->keep_failure < 0 && is_absence(result->error))
    store_absence(f, &o, &deferred);
  else if (f->wanted && failed && f->keep_failure > 0 && o.slot != NULL)
    store_failure(f, &o, &deferred);
  else if (result->status == TR_READY && may_keep(f, result))
    store_blob(f, result->blob, &o, &deferred);
  cache->stats[TR_STAT_LOADS] += result->status == TR_READY;
  cache->stats[TR_STAT_ERRORS] += failed;
  pthread_mutex_unlock(&cache->lock);
  tr_deferred_release(&deferred);
  release_slot(o.slot);
  release_slot(o.content);
  tr_entry_release(f->stale);
  tr_blob_release(f->stale_blob);
  tr_promise_release(f->promise);
  free(f);
  tr_cache_release(cache);
  return o.instead;
}
