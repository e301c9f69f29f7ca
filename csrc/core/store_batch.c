/*
** Many puts for the price of one sync. Content waits in temporary files; a commit
** syncs the file system, checks that everything can be placed, gives the content its
** names, syncs them, and only then moves the labels.
*/
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "metrics.h"
#include "store.h"
#include "table.h"

/* A temporary, and what it is to become. */
typedef struct item {
  tr_node node; /* the first member; content by its hash, a label by its name */
  struct item *next;
  /* Empty: content that was there already. Once a label is placed, what it was before;
  ** empty: there was none. */
  char temporary[TR_TEMPORARY_LABEL];
  char hash[TR_HEX_MAX]; /* content's name, or what a label points at */
  char label[];          /* empty: content */
} item;

struct tr_batch {
  tr_store *store;   /* its own: the caller may close theirs */
  tr_store unsynced; /* the same, for steps that one sync will cover */
  int base, data;
  /* A temporary file that is locked shared: gc deletes no '<guard>.<number>'
  ** meanwhile, which are those of the items. */
  char guard[TR_TEMPORARY];
  int guard_lock;
  uint64_t count; /* of the items so far */
  bool has_labels;
  bool is_over; /* a sync failed, or labels could not be placed */
  pid_t owner;  /* a child of a fork has no part in it */
  item *items, **end;
  tr_table index; /* one item for each: no label looks like a hash */
};

/* Make and lock the guard. A gc without a grace period may delete it before that. */
static bool make_guard(tr_batch *b, tr_error *error) {
  int tries = 8;
  struct stat st;
  while (tries-- > 0 &&
         tr_file_write_temporary(b->base, b->guard, "", 0, false)) {
    b->guard_lock = openat(b->base, b->guard, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (b->guard_lock >= 0 &&
        tr_store_lock_file(b->store, b->guard_lock, LOCK_SH) &&
        fstat(b->guard_lock, &st) == 0 && st.st_nlink > 0)
      return true;
    tr_error_errno(error, errno, "Failed to lock", b->guard);
    unlinkat(b->base, b->guard, 0);
    if (b->guard_lock >= 0)
      close(b->guard_lock);
    b->guard_lock = -1;
    b->guard[0] = '\0';
  }
  if (tries >= 0)
    tr_error_errno(error, errno, "Failed to write to the store", b->store->base);
  return false;
}

tr_batch *tr_batch_begin(tr_store *store, tr_error *error) {
  tr_batch *b = calloc(1, sizeof *b);
  error = tr_error_or_ignored(error);
  if (b == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  b->end = &b->items;
  b->base = b->data = b->guard_lock = -1;
  b->owner = getpid();
  if (!tr_table_init(&b->index))
    tr_error_nomem(error);
  else
    b->store = tr_store_open(store->base, &store->options, error);
  if (b->store != NULL) {
    b->unsynced = tr_store_unsynced(b->store);
    b->data = tr_store_make_data(b->store, error);
  }
  if (b->data >= 0)
    b->base = tr_store_open_base(b->store, error);
  if (b->base >= 0 && make_guard(b, error))
    return b;
  tr_batch_free(b);
  return NULL;
}

static void free_item(tr_batch *b, item *i) {
  if (i->node.key != NULL)
    tr_table_remove(&b->index, &i->node);
  free(i);
}

static void free_items(tr_batch *b) {
  item *i;
  while ((i = b->items) != NULL) {
    b->items = i->next;
    if (b->owner == getpid() && i->temporary[0] != '\0')
      unlinkat(b->base, i->temporary, 0);
    free_item(b, i);
  }
  b->end = &b->items;
}

void tr_batch_free(tr_batch *b) {
  if (b == NULL)
    return;
  free_items(b);
  if (b->guard_lock >= 0 && b->owner == getpid()) {
    unlinkat(b->base, b->guard, 0);
    tr_unlock_file(b->guard_lock);
  }
  if (b->guard_lock >= 0)
    close(b->guard_lock);
  if (b->data >= 0)
    close(b->data);
  if (b->base >= 0)
    close(b->base);
  tr_store_close(b->store);
  tr_table_free(&b->index);
  free(b);
}

/* The item with a hash or a label. */
static item *find(const tr_batch *b, const char *key) {
  size_t len = strlen(key);
  return (item *)tr_table_find(&b->index, tr_table_hash(key, len), key, len);
}

/* False, with the error, after the batch's end, and in a child of the process that
** began it. */
static bool is_usable(const tr_batch *b, tr_error *error) {
  if (b->owner != getpid())
    tr_error_set(error, TR_IO,
                 "a batch belongs to the process that began it, not to a child "
                 "of a fork");
  else if (b->is_over)
    tr_error_set(error, TR_IO,
                 "the batch ended when its commit failed; begin another one, and "
                 "put everything again");
  return b->owner == getpid() && !b->is_over;
}

/* Write an item's bytes to a temporary file. False with the error. */
static bool write_temporary(tr_batch *b, item *i, const void *bytes, size_t size,
                            tr_error *error) {
  snprintf(i->temporary, sizeof i->temporary, "%s.%llu", b->guard,
           (unsigned long long)b->count++);
  if (tr_file_write_new(b->base, i->temporary, bytes, size, false))
    return true;
  tr_error_errno(error, errno, "Failed to write to the store", b->store->base);
  return false;
}

/* Add an item whose temporary file holds these bytes; NULL: content that is there. */
static bool add(tr_batch *b, const char *label, const char *hash,
                const void *bytes, size_t size, tr_error *error) {
  item *i = calloc(1, sizeof *i + strlen(label) + 1);
  const char *key;
  if (i == NULL) {
    tr_error_nomem(error);
    return false;
  }
  strcpy(i->hash, hash);
  strcpy(i->label, label);
  if (bytes != NULL && !write_temporary(b, i, bytes, size, error)) {
    free(i);
    return false;
  }
  *b->end = i;
  b->end = &i->next;
  b->has_labels = b->has_labels || label[0] != '\0';
  key = label[0] != '\0' ? i->label : i->hash;
  if (find(b, key) == NULL) {
    i->node.key = key;
    i->node.len = strlen(key);
    i->node.hash = tr_table_hash(key, i->node.len);
    tr_table_add(&b->index, &i->node);
  }
  return true;
}

/* Point a label that is in the batch at another hash. */
static bool point(tr_batch *b, item *i, const char *hash, tr_error *error) {
  char before[sizeof i->temporary];
  strcpy(before, i->temporary);
  if (!write_temporary(b, i, hash, strlen(hash), error)) {
    strcpy(i->temporary, before);
    return false;
  }
  unlinkat(b->base, before, 0);
  strcpy(i->hash, hash);
  return true;
}

bool tr_batch_put(tr_batch *b, tr_algorithm algorithm, const void *bytes,
                  size_t size, char hash[TR_HEX_MAX], tr_error *error) {
  int fresh;
  error = tr_error_or_ignored(error);
  if (!is_usable(b, error))
    return false;
  tr_digest(algorithm, bytes, size, hash);
  fresh = tr_store_freshen(&b->unsynced, b->data, hash, true, error);
  if (fresh == 1) /* until the commit, gc may delete it */
    return find(b, hash) != NULL || add(b, "", hash, NULL, 0, error);
  return fresh == 0 && add(b, "", hash, bytes, size, error);
}

bool tr_batch_label(tr_batch *b, const char *label, const char *hash,
                    tr_error *error) {
  char normal[TR_HEX_MAX];
  item *there;
  error = tr_error_or_ignored(error);
  if (!is_usable(b, error) || !tr_store_check_new_label(label, error) ||
      !tr_normal_hash(hash, normal, error))
    return false;
  there = find(b, label);
  return there != NULL ? point(b, there, normal, error)
                       : add(b, label, normal, normal, strlen(normal), error);
}

typedef bool (*step)(tr_batch *, item *, tr_error *);

/* Do a step for each label, or for each content. False as soon as one fails. */
static bool each(tr_batch *b, bool labels, step step, tr_error *error) {
  item *i;
  for (i = b->items; i != NULL; i = i->next)
    if ((i->label[0] != '\0') == labels && !step(b, i, error))
      return false;
  return true;
}

/* Check that a label's content is in the store, or else in the batch. */
static bool check_content(tr_batch *b, item *i, tr_error *error) {
  return tr_store_freshen_labelled(&b->unsynced, b->data, i->hash, error) ||
         (error->kind == TR_NOT_FOUND && find(b, i->hash) != NULL);
}

/* The same before the lock, where content of others may be copied. */
static bool prepare(tr_batch *b, item *i, tr_error *error) {
  tr_store_spare_label(&b->unsynced, b->base, i->label);
  return check_content(b, i, error);
}

static bool check_temporary(tr_batch *b, item *i, tr_error *error) {
  if (faccessat(b->base, i->temporary, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    return true;
  tr_error_errno(error, errno, "Failed to write label", i->label);
  return false;
}

static bool clear_place(tr_batch *b, item *i, tr_error *error) {
  (void)error;
  tr_store_clear_place(b->base, i->label);
  return true;
}

static bool make_place(tr_batch *b, item *i, tr_error *error) {
  return tr_store_make_place(b->base, i->label, error);
}

static bool prune(tr_batch *b, item *i, tr_error *error) {
  (void)error;
  tr_store_prune(b->base, i->label);
  return true;
}

/* Check, under the lock, that every label can be placed. The second look sees the
** folders that the first one made for other labels. */
static bool can_place(tr_batch *b, tr_error *error) {
  return each(b, true, check_temporary, error) &&
         each(b, true, clear_place, error) &&
         each(b, true, make_place, error) && each(b, true, make_place, error);
}

/* The same, and leave no folder behind: content is placed next, without the lock. */
static bool check(tr_batch *b, tr_error *error) {
  bool ok = can_place(b, error);
  each(b, true, prune, error);
  return ok;
}

/* Give content its name, unless it is there by now: what has that name is the same,
** or damaged, and then quarantined or replaced. */
static bool place_content(tr_batch *b, item *i, tr_error *error) {
  int placed = 0, tries = 8;
  if (i->temporary[0] == '\0') {
    placed = tr_store_freshen(&b->unsynced, b->data, i->hash, true, error);
    if (placed == 0)
      tr_error_set(error, TR_NOT_FOUND,
                   "Content %s was deleted before the commit; put it again",
                   i->hash);
    return placed == 1;
  }
  utimensat(b->base, i->temporary, NULL, AT_SYMLINK_NOFOLLOW); /* young for gc */
  while (placed == 0 && tries-- > 0) {
    placed = tr_file_place(b->base, i->temporary, b->data, i->hash);
    if (placed < 0)
      tr_error_errno(error, errno, "Failed to write content", i->hash);
    if (placed != 0)
      break;
    placed = tr_store_freshen(&b->unsynced, b->data, i->hash, true, error);
    if (placed == 1) {
      unlinkat(b->base, i->temporary, 0);
    } else if (placed == 0 && error->kind == TR_CORRUPT &&
               renameat(b->base, i->temporary, b->data, i->hash) == 0) {
      placed = 1;
    }
  }
  if (placed == 0)
    tr_error_set(error, TR_IO,
                 "Failed to write content %s: it keeps changing meanwhile",
                 i->hash);
  return placed == 1;
}

/* Place all content, and forget what is placed. */
static bool place_contents(tr_batch *b, tr_error *error) {
  item **link = &b->items;
  bool ok = true;
  while (*link != NULL) {
    item *i = *link;
    ok = ok && (i->label[0] != '\0' || place_content(b, i, error));
    if (ok && i->label[0] == '\0') {
      *link = i->next;
      free_item(b, i);
    } else {
      link = &i->next;
    }
  }
  b->end = link;
  return ok;
}

/* Content that was in the store: its bytes may be lost. */
static bool rewrite(tr_batch *b, item *i, tr_error *error) {
  (void)error;
  if (i->temporary[0] == '\0' || i->label[0] != '\0')
    tr_store_rewrite(b->store, b->data, i->hash);
  return true;
}

/* Make all that was written so far last. A failure ends the batch: the next sync would
** succeed, though bytes of this one are lost. */
static bool sync_all(tr_batch *b, tr_error *error) {
  if (!b->store->options.durable || syncfs(b->base) == 0)
    return true;
  tr_error_errno(error, errno, "Failed to sync", b->store->base);
  each(b, false, rewrite, error);
  each(b, true, rewrite, error);
  b->is_over = true;
  return false;
}

/* Run one of the two steps that need the store's lock, if there are labels. */
static bool locked(tr_batch *b, bool (*work)(tr_batch *, tr_error *),
                   tr_error *error) {
  int lock;
  bool ok;
  if (!b->has_labels)
    return true;
  lock = tr_store_lock_folder(b->store, b->base, error);
  if (lock < 0)
    return false;
  ok = work(b, error);
  tr_store_unlock(lock);
  return ok;
}

/* Put back labels that were placed, as well as can be; the error says which could not. */
static void put_back(tr_batch *b, item *placed, tr_error *error) {
  item *next;
  for (; placed != NULL; placed = next) {
    tr_error why, first = *error;
    next = placed->next;
    if (!tr_store_put_back(b->base, placed->label, placed->temporary, &why))
      tr_error_set(error, first.kind, "%s. %s, which has moved%s%s", first.message,
                   why.message, placed->temporary[0] == '\0' ? "" : "; its former file is ",
                   placed->temporary);
    error->errnum = first.errnum;
    free_item(b, placed);
  }
}

/* Move labels to content that is there by now: all of them, or none if one fails. Each is a
** file: a process that is killed meanwhile leaves some moved, whose histories have the rest. */
static bool move_labels(tr_batch *b, tr_error *error) {
  item *placed = NULL, *i = b->items, *next;
  bool ok = true;
  for (; i != NULL && ok; i = next) {
    next = i->next;
    ok = tr_store_place_label(&b->unsynced, b->base, i->label, i->hash, i->temporary,
                              true, error);
    if (ok) { /* to those that are placed, the newest first */
      i->next = placed;
      placed = i;
      b->items = next;
    }
  }
  b->is_over = !ok;
  if (ok)
    b->items = placed; /* for free_items */
  else
    put_back(b, placed, error);
  return ok;
}

static bool place_labels(tr_batch *b, tr_error *error) {
  bool ok = each(b, true, check_content, error) && can_place(b, error) &&
            move_labels(b, error);
  if (!ok)
    each(b, true, prune, error);
  return ok;
}

static bool commit(tr_batch *b, tr_error *error) {
  if (!each(b, true, prepare, error) || !sync_all(b, error) || !locked(b, check, error) ||
      !place_contents(b, error) || !sync_all(b, error))
    return false;
  if (b->items == NULL)
    return true;
  if (!locked(b, place_labels, error))
    return false;
  free_items(b); /* what the labels were */
  return sync_all(b, error);
}

bool tr_batch_commit(tr_batch *b, tr_error *error) {
  bool ok;
  error = tr_error_or_ignored(error);
  if (!is_usable(b, error))
    return false;
  b->store->until = b->unsynced.until = tr_store_for_call(b->store).until;
  ok = commit(b, error);
  b->store->until = b->unsynced.until = 0;
  if (b->is_over)
    free_items(b);
  tr_count_store(TR_STORE_COMMIT, ok, error);
  return ok;
}
