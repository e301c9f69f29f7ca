/*
** The process remembers which content matched its name, and which files and folders it
** synced, by their inode, size and times: a file that changed is checked again. So are
** entries of the disk cache. A file that has just changed may do so once more without
** another time, and the clock of its file system may be a server's: a match is remembered
** if the process had seen the file's times for a while when it began to read. A sync is
** remembered at once: a writer that changes a file in place can undo its durability at any time.
*/
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "future.h"
#include "store.h"
#include "table.h"

enum { MAX_FILES = 1 << 16 /* remembered */ };

/* A file, as it was when something was learned about it. */
typedef struct known {
  tr_node node;
  struct identity {
    dev_t device;
    ino_t inode;
  } identity; /* the key */
  struct mark {
    off_t size;
    struct timespec modified, changed;
    char hash[TR_HEX_MAX];
  } mark;
  double since;   /* tr_now() when the mark was set */
  unsigned facts; /* of tr_fact */
} known;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_table files;
/* Some file is lost, and forgotten: all files count as lost, except those synced since. */
static bool any_lost;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void at_fork(void) {
  pthread_atfork(before_fork, after_fork, after_fork);
}

static void lock_files(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&lock);
}

static struct identity identity_of(const struct stat *st) {
  struct identity identity;
  memset(&identity, 0, sizeof identity); /* padding is compared too */
  identity.device = st->st_dev;
  identity.inode = st->st_ino;
  return identity;
}

static struct mark mark_of(const struct stat *st, const char *hash) {
  struct mark mark;
  memset(&mark, 0, sizeof mark);
  mark.size = st->st_size;
  mark.modified = st->st_mtim;
  mark.changed = st->st_ctim;
  memcpy(mark.hash, hash, strlen(hash));
  return mark;
}

/* The entry of a file, or NULL. Hold the lock. */
static known *find(const struct stat *st) {
  struct identity identity = identity_of(st);
  if (files.slots == NULL)
    return NULL;
  return (known *)tr_table_find(
      &files, tr_table_hash((char *)&identity, sizeof identity),
      (char *)&identity, sizeof identity); /* the node is the first member */
}

static bool is_as_marked(const known *k, const struct stat *st,
                         const char *hash) {
  struct mark mark = mark_of(st, hash);
  return memcmp(&k->mark, &mark, sizeof mark) == 0;
}

static void set_mark(known *k, const struct stat *st, const char *hash) {
  k->mark = mark_of(st, hash);
  k->since = tr_now();
}

/* Seconds after which a write gives a file another time. Clocks of file systems tick every
** 10 ms at most; those whose times are in whole milliseconds, at most every 2 s. */
static double tick(const struct stat *st) {
  return st->st_ctim.tv_nsec % 1000000 == 0 ? 2.1 : 0.02;
}

static bool has_fact(const known *k, const struct stat *st, const char *hash,
                     tr_fact fact) {
  return k != NULL && (k->facts & fact) != 0 && is_as_marked(k, st, hash);
}

/* True if a file with that hash is lost, whatever its times are by now. */
static bool is_lost(const known *k, const char *hash) {
  return k != NULL && (k->facts & TR_LOST) != 0 && strcmp(k->mark.hash, hash) == 0;
}

bool tr_store_knows(const struct stat *st, const char *hash, tr_fact fact) {
  known *k;
  bool knows;
  lock_files();
  k = find(st);
  if (fact == TR_LOST)
    knows = is_lost(k, hash) || (any_lost && !has_fact(k, st, hash, TR_SYNCED));
  else
    knows = has_fact(k, st, hash, fact);
  pthread_mutex_unlock(&lock);
  return knows;
}

/* Forget everything: at the bound, starting over is simplest, and costs one more
** check of each file. */
static void forget_files(void) {
  size_t i;
  for (i = 0; i <= files.mask; i++) {
    tr_node *node = files.slots[i], *next;
    for (; node != NULL; node = next) {
      next = node->next;
      any_lost = any_lost || (((known *)node)->facts & TR_LOST) != 0;
      free(node);
    }
    files.slots[i] = NULL;
  }
  files.count = 0;
}

/* Add an entry for a file. NULL without memory: it will be checked again, that is
** all. Hold the lock. */
static known *add(const struct stat *st) {
  known *k;
  if (files.slots == NULL && !tr_table_init(&files))
    return NULL;
  k = calloc(1, sizeof *k);
  if (k == NULL)
    return NULL;
  if (files.count >= MAX_FILES)
    forget_files();
  k->identity = identity_of(st);
  k->node = (tr_node){
      .hash = tr_table_hash((char *)&k->identity, sizeof k->identity),
      .key = (char *)&k->identity,
      .len = sizeof k->identity};
  tr_table_add(&files, &k->node);
  return k;
}

/* The entry of a file, which is made if there is none; NULL without memory. Hold the lock. */
static known *find_or_add(const struct stat *st) {
  known *k = find(st);
  return k != NULL ? k : add(st);
}

bool tr_store_saw(const struct stat *st, const char *hash) {
  known *k;
  bool long_ago = false;
  lock_files();
  k = find_or_add(st);
  if (k != NULL && !is_lost(k, hash)) {
    if (!is_as_marked(k, st, hash)) {
      set_mark(k, st, hash);
      k->facts = 0;
    }
    long_ago = tr_now() - k->since >= tick(st);
  }
  pthread_mutex_unlock(&lock);
  return long_ago;
}

void tr_store_learn(const struct stat *st, const char *hash, tr_fact fact) {
  known *k;
  lock_files();
  k = find_or_add(st);
  if (k == NULL)
    any_lost = any_lost || fact == TR_LOST;
  else if (fact == TR_LOST || !is_lost(k, hash)) {
    bool is_same = is_as_marked(k, st, hash);
    if (!is_same)
      set_mark(k, st, hash);
    k->facts = (is_same && fact != TR_LOST ? k->facts : 0) | fact;
  }
  pthread_mutex_unlock(&lock);
}

void tr_store_renew(const struct stat *before, const struct stat *after,
                    const char *hash) {
  known *k;
  if (after->st_size != before->st_size)
    return;
  lock_files();
  k = find(before);
  if (k != NULL && k->identity.inode == after->st_ino &&
      is_as_marked(k, before, hash)) {
    set_mark(k, after, hash);
    /* A new time of the last write would hide a write just before. */
    if (memcmp(&before->st_mtim, &after->st_mtim, sizeof after->st_mtim) != 0)
      k->facts &= ~(unsigned)TR_CHECKED;
  }
  pthread_mutex_unlock(&lock);
}
