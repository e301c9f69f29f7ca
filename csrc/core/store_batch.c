/*
** Many puts for the price of one sync. Content waits in temporary files; a
** commit syncs the file system, gives everything its name, syncs the names
** of the content, and only then moves the labels.
*/
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "store.h"

/* A temporary, and what it is to become. */
typedef struct item {
  struct item *next;
  char temporary[TR_TEMPORARY];
  bool placed;
  char hash[TR_HEX_MAX]; /* content's name, or what a label points at */
  char label[];          /* empty: content */
} item;

struct tr_batch {
  tr_store *store;   /* its own: the caller may close his */
  tr_store unsynced; /* the same, for steps that one sync will cover */
  int base, data;
  bool has_labels;
  item *items, **end;
};

tr_batch *tr_batch_begin(tr_store *store, tr_error *error) {
  tr_batch *b = calloc(1, sizeof *b);
  error = tr_error_or_ignored(error);
  if (b == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  b->end = &b->items;
  b->base = b->data = -1;
  b->store = tr_store_open(store->base, &store->options, error);
  if (b->store != NULL) {
    b->unsynced = (tr_store){
        .base = b->store->base, .options = b->store->options, .data = -1};
    b->unsynced.options.durable = false;
    b->data = tr_store_open_folder(b->store, "data", true, error);
  }
  if (b->data >= 0)
    b->base = tr_store_open_base(b->store, error);
  if (b->base >= 0)
    return b;
  tr_batch_free(b);
  return NULL;
}

void tr_batch_free(tr_batch *b) {
  item *i, *next;
  if (b == NULL)
    return;
  for (i = b->items; i != NULL; i = next) {
    next = i->next;
    if (!i->placed)
      unlinkat(b->base, i->temporary, 0);
    free(i);
  }
  if (b->data >= 0)
    close(b->data);
  if (b->base >= 0)
    close(b->base);
  tr_store_close(b->store);
  free(b);
}

/* Adds an item whose temporary holds these bytes. */
static bool add(tr_batch *b, const char *label, const char *hash,
                const void *bytes, size_t size, tr_error *error) {
  item *i = malloc(sizeof *i + strlen(label) + 1);
  if (i == NULL) {
    tr_error_nomem(error);
    return false;
  }
  i->next = NULL;
  i->placed = false;
  strcpy(i->hash, hash);
  strcpy(i->label, label);
  if (!tr_file_write_temporary(b->base, i->temporary, bytes, size, false)) {
    tr_error_errno(error, errno, "Failed to write",
                   label[0] != '\0' ? label : hash);
    free(i);
    return false;
  }
  b->has_labels |= label[0] != '\0';
  *b->end = i;
  b->end = &i->next;
  return true;
}

bool tr_batch_put(tr_batch *b, tr_algorithm algorithm, const void *bytes,
                  size_t size, char hash[TR_HEX_MAX], tr_error *error) {
  int fresh;
  error = tr_error_or_ignored(error);
  tr_digest(algorithm, bytes, size, hash);
  fresh = tr_store_lock_and_freshen(&b->unsynced, b->data, hash, size, error);
  return fresh == 1 || (fresh == 0 && add(b, "", hash, bytes, size, error));
}

bool tr_batch_label(tr_batch *b, const char *label, const char *hash,
                    tr_error *error) {
  char normal[TR_HEX_MAX];
  error = tr_error_or_ignored(error);
  return tr_store_check_label(label, error) &&
         tr_normal_hash(hash, normal, error) &&
         add(b, label, normal, normal, strlen(normal), error);
}

/* Gives content its name; what has it already is the same, or damaged. */
static bool place_content(tr_batch *b, item *i, tr_error *error) {
  i->placed = renameat(b->base, i->temporary, b->data, i->hash) == 0;
  if (!i->placed)
    tr_error_errno(error, errno, "Failed to write content", i->hash);
  return i->placed;
}

/* Moves a label to content that is there by now. */
static bool place_label(tr_batch *b, item *i, tr_error *error) {
  i->placed =
      tr_store_freshen_labelled(&b->unsynced, b->data, i->hash, error) &&
      tr_store_place_label(&b->unsynced, b->base, i->label, i->temporary,
                           error);
  return i->placed;
}

static bool place_all(tr_batch *b, bool labels,
                      bool (*place)(tr_batch *, item *, tr_error *),
                      tr_error *error) {
  item *i;
  for (i = b->items; i != NULL; i = i->next)
    if ((i->label[0] != '\0') == labels && !place(b, i, error))
      return false;
  return true;
}

/* Makes all that was written so far last. */
static bool sync_all(tr_batch *b, tr_error *error) {
  if (!b->store->options.durable || syncfs(b->base) == 0)
    return true;
  tr_error_errno(error, errno, "Failed to sync", b->store->base);
  return false;
}

bool tr_batch_commit(tr_batch *b, tr_error *error) {
  int lock;
  bool ok;
  error = tr_error_or_ignored(error);
  if (b->items == NULL)
    return sync_all(b, error); /* for what was there already */
  if (!sync_all(b, error))
    return false;
  lock = tr_store_lock(b->store, false, error);
  if (lock < 0)
    return false;
  ok = place_all(b, false, place_content, error) && sync_all(b, error) &&
       (!b->has_labels ||
        (place_all(b, true, place_label, error) && sync_all(b, error)));
  close(lock);
  return ok;
}
