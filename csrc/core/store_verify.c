/*
** Content is checked against its name, and moved to quarantine if it does not
** match. The process remembers which files matched, and which it synced, by their
** inode, size and times, so a file that changed is checked again.
*/
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "store.h"
#include "table.h"

enum {
  MAX_FILES = 1 << 16, /* remembered */
  /* Seconds. Theater writes content in place: what looks damaged may only be
  ** unfinished yet, and is left to its writer. */
  SETTLED = 10
};

/* What this process knows of a file, as long as the file is as it was. */
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
  unsigned facts; /* of tr_fact */
} known;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_table files;

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

bool tr_store_knows(const struct stat *st, const char *hash, tr_fact fact) {
  known *k;
  bool knows;
  lock_files();
  k = find(st);
  knows = k != NULL && (k->facts & fact) != 0 && is_as_marked(k, st, hash);
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

void tr_store_learn(const struct stat *st, const char *hash, tr_fact fact) {
  known *k;
  lock_files();
  k = find(st);
  if (k == NULL)
    k = add(st);
  if (k != NULL && !is_as_marked(k, st, hash)) {
    k->mark = mark_of(st, hash);
    k->facts = 0;
  }
  if (k != NULL)
    k->facts |= fact;
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
      is_as_marked(k, before, hash))
    k->mark = mark_of(after, hash);
  pthread_mutex_unlock(&lock);
}

/* True if data/<hash> still is the open file that was read, and unchanged. */
static bool is_unchanged(int data, int fd, const struct stat *st,
                         const char *hash) {
  struct stat now, named;
  return fstat(fd, &now) == 0 && now.st_size == st->st_size &&
         now.st_mtim.tv_sec == st->st_mtim.tv_sec &&
         now.st_mtim.tv_nsec == st->st_mtim.tv_nsec &&
         fstatat(data, hash, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         named.st_ino == st->st_ino && named.st_dev == st->st_dev;
}

/*
** Move data/<hash> to corrupt/<hash>.<random> if it still is the open file that was
** read. Nobody else moves it meanwhile: everybody who does has that file locked.
** 'name' gets its name there, or is empty.
*/
static void quarantine(const tr_store *store, int data, int fd,
                       const struct stat *st, const char *hash,
                       char name[TR_HEX_MAX + 9]) {
  tr_error ignored;
  unsigned random;
  int base, folder;
  name[0] = '\0';
  if (!tr_store_lock_file(store, fd, LOCK_EX))
    return;
  base = tr_store_open_base(store, &ignored);
  folder = base < 0 ? -1 : tr_store_make_subfolder(base, "corrupt");
  if (folder >= 0 && getrandom(&random, sizeof random, 0) == sizeof random &&
      is_unchanged(data, fd, st, hash)) {
    snprintf(name, TR_HEX_MAX + 9, "%s.%08x", hash, random);
    if (renameat(data, hash, folder, name) != 0)
      name[0] = '\0';
  }
  tr_unlock_file(fd);
  if (folder >= 0)
    close(folder);
  if (base >= 0)
    close(base);
}

static void refuse(const tr_store *store, int data, int fd,
                   const struct stat *st, const char *hash, const char *actual,
                   bool putting, tr_error *error) {
  char name[TR_HEX_MAX + 9] = "";
  if (putting || difftime(time(NULL), st->st_mtim.tv_sec) >= SETTLED)
    quarantine(store, data, fd, st, hash, name);
  tr_error_set(error, TR_CORRUPT,
               "Content %s in %s is corrupt: its %lld bytes have the hash %s; "
               "%s%s%sput the right bytes again to heal it",
               hash, store->base, (long long)st->st_size, actual,
               name[0] != '\0' ? "it was moved to quarantine as corrupt/" : "",
               name, name[0] != '\0' ? "; " : "");
}

bool tr_store_verify(const tr_store *store, int data, int fd,
                     const struct stat *st, const char *hash, tr_blob *blob,
                     bool putting, tr_error *error) {
  tr_verify when = putting ? TR_VERIFY_ONCE : store->options.verify;
  char actual[TR_HEX_MAX];
  /* An empty file is what a crash leaves that came before the bytes: this is
  ** too cheap to check for not to. */
  if (st->st_size > 0 &&
      (when == TR_VERIFY_NEVER ||
       (when == TR_VERIFY_ONCE && tr_store_knows(st, hash, TR_CHECKED))))
    return true;
  tr_digest(tr_algorithm_of(hash), tr_blob_data(blob), tr_blob_size(blob),
            actual);
  if (strcmp(actual, hash) == 0) {
    tr_store_learn(st, hash, TR_CHECKED);
    return true;
  }
  refuse(store, data, fd, st, hash, actual, putting, error);
  return false;
}
