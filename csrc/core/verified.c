/*
** Which content files this process has found to match their names. A file is
** known by its inode, size and times, so one that was touched is checked
** again.
*/
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"
#include "table.h"

enum { MAX_VERIFIED = 1 << 16 /* files remembered */ };

/* What a file looked like when its bytes were found to match its name. */
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

bool tr_was_verified(const struct stat *st, const char *hash) {
  struct mark mark;
  uint64_t key;
  bool found;
  mark_of(&mark, st, hash);
  key = tr_table_hash((char *)&mark, sizeof mark);
  pthread_mutex_lock(&verified_lock);
  found = verified_files.slots != NULL &&
          tr_table_find(&verified_files, key, (char *)&mark, sizeof mark) !=
              NULL;
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

void tr_remember_verified(const struct stat *st, const char *hash) {
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
      tr_table_find(&verified_files, v->node.hash, v->node.key,
                    v->node.len) != NULL)
    free(v);
  else
    tr_table_add(&verified_files, &v->node);
  pthread_mutex_unlock(&verified_lock);
}

