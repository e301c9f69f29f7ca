/*
** Content is checked against its name, and moved to quarantine if it does not
** match. The process remembers a file that matched by its inode, size and
** times, so a file that changed is checked again.
*/
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "store.h"
#include "table.h"

enum {
  MAX_VERIFIED = 1 << 16, /* files remembered */
  /* Seconds. Theater writes content in place: what looks damaged may only be
  ** unfinished yet, and is left to its writer. */
  SETTLED = 10
};

/* The identity of a file whose bytes matched its name. */
typedef struct verified {
  tr_node node;
  struct mark {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
    char hash[TR_HEX_MAX];
  } mark;
} verified;

static pthread_mutex_t verified_lock = PTHREAD_MUTEX_INITIALIZER;
static tr_table verified_files;

static void mark_of(struct mark *mark, const struct stat *st,
                    const char *hash) {
  memset(mark, 0, sizeof *mark); /* padding is compared too */
  mark->device = st->st_dev;
  mark->inode = st->st_ino;
  mark->size = st->st_size;
  mark->modified = st->st_mtim;
  mark->changed = st->st_ctim;
  memcpy(mark->hash, hash, strlen(hash));
}

bool tr_store_was_verified(const struct stat *st, const char *hash) {
  struct mark mark;
  uint64_t key;
  bool found;
  mark_of(&mark, st, hash);
  key = tr_table_hash((char *)&mark, sizeof mark);
  pthread_mutex_lock(&verified_lock);
  found =
      verified_files.slots != NULL &&
      tr_table_find(&verified_files, key, (char *)&mark, sizeof mark) != NULL;
  pthread_mutex_unlock(&verified_lock);
  return found;
}

/* Forgets all marks: at the bound, starting over is simplest, and costs one
** more check of each file. */
static void forget_verified(void) {
  size_t i;
  for (i = 0; i <= verified_files.mask; i++) {
    tr_node *node = verified_files.slots[i], *next;
    for (; node != NULL; node = next) {
      next = node->next;
      free(node); /* the node is the first member */
    }
    verified_files.slots[i] = NULL;
  }
  verified_files.count = 0;
}

static void remember(const struct stat *st, const char *hash) {
  verified *v = malloc(sizeof *v);
  if (v == NULL)
    return; /* it will be checked again, that is all */
  mark_of(&v->mark, st, hash);
  v->node = (tr_node){.hash = tr_table_hash((char *)&v->mark, sizeof v->mark),
                      .key = (char *)&v->mark,
                      .len = sizeof v->mark};
  pthread_mutex_lock(&verified_lock);
  if (verified_files.slots != NULL && verified_files.count >= MAX_VERIFIED)
    forget_verified();
  if ((verified_files.slots == NULL && !tr_table_init(&verified_files)) ||
      tr_table_find(&verified_files, v->node.hash, v->node.key, v->node.len) !=
          NULL)
    free(v);
  else
    tr_table_add(&verified_files, &v->node);
  pthread_mutex_unlock(&verified_lock);
}

void tr_store_renew_verified(const struct stat *before,
                             const struct stat *after, const char *hash) {
  if (after->st_ino == before->st_ino && after->st_size == before->st_size &&
      tr_store_was_verified(before, hash))
    remember(after, hash);
}

/* Move data/<hash> to corrupt/<hash>.<random> if it is still the file that was
** read. 'name' gets its name there, or is empty. */
static void quarantine(const tr_store *store, int data, const struct stat *st,
                       const char *hash, char name[TR_HEX_MAX + 9]) {
  tr_error ignored;
  struct stat now;
  unsigned random;
  int base = tr_store_open_base(store, &ignored);
  int folder =
      base < 0 ? -1 : tr_store_open_subfolder(store, base, "corrupt", true);
  name[0] = '\0';
  if (folder >= 0 && getrandom(&random, sizeof random, 0) == sizeof random &&
      fstatat(data, hash, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
      now.st_ino == st->st_ino && now.st_dev == st->st_dev) {
    snprintf(name, TR_HEX_MAX + 9, "%s.%08x", hash, random);
    if (renameat(data, hash, folder, name) != 0)
      name[0] = '\0';
  }
  if (folder >= 0)
    close(folder);
  if (base >= 0)
    close(base);
}

static void refuse(const tr_store *store, int data, const struct stat *st,
                   const char *hash, const char *actual, bool healing,
                   tr_error *error) {
  char name[TR_HEX_MAX + 9] = "";
  if (healing || difftime(time(NULL), st->st_mtim.tv_sec) >= SETTLED)
    quarantine(store, data, st, hash, name);
  tr_error_set(error, TR_CORRUPT,
               "Content %s in %s is corrupt: its %lld bytes have the hash %s; "
               "%s%s%sput the right bytes again to heal it",
               hash, store->base, (long long)st->st_size, actual,
               name[0] != '\0' ? "it was moved to quarantine as corrupt/" : "",
               name, name[0] != '\0' ? "; " : "");
}

bool tr_store_verify(const tr_store *store, int data, const struct stat *st,
                     const char *hash, tr_blob *blob, bool healing,
                     tr_error *error) {
  tr_verify when = store->options.verify;
  char actual[TR_HEX_MAX];
  /* An empty file is what a crash leaves that came before the bytes: this is
  ** too cheap to check for not to. */
  if (st->st_size > 0 &&
      (when == TR_VERIFY_NEVER ||
       (when == TR_VERIFY_ONCE && tr_store_was_verified(st, hash))))
    return true;
  tr_digest(tr_algorithm_of(hash), tr_blob_data(blob), tr_blob_size(blob),
            actual);
  if (strcmp(actual, hash) == 0) {
    remember(st, hash);
    return true;
  }
  refuse(store, data, st, hash, actual, healing, error);
  return false;
}
