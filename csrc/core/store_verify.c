/* Content is checked against its name, and moved to quarantine if it does not match. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "future.h"
#include "metrics.h"
#include "store.h"

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
                       const struct stat *st, const char *hash, bool putting,
                       char name[TR_HEX_MAX + 9]) {
  tr_error ignored;
  unsigned random;
  int base, folder;
  name[0] = '\0';
  /* A reader leaves it to the next one. */
  if (putting ? !tr_store_lock_file(store, fd, LOCK_EX)
              : flock(fd, LOCK_EX | LOCK_NB) != 0)
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

/* True if a file has not changed for a while, by the file system's own clock: that of
** its writer's machine may be another. */
static bool is_settled(const tr_store *store, const struct stat *st) {
  tr_error ignored;
  return tr_modified(st) <= tr_store_clock(store, -2, &ignored) -
                                TR_SETTLED * INT64_C(1000000000);
}

static void refuse(const tr_store *store, int data, int fd,
                   const struct stat *st, const char *hash, const char *actual,
                   bool putting, tr_error *error) {
  char name[TR_HEX_MAX + 9] = "";
  tr_count(TR_COUNT_CORRUPT_STORE, 1);
  if (is_settled(store, st))
    quarantine(store, data, fd, st, hash, putting, name);
  tr_error_set(error, TR_CORRUPT,
               "Content %s in %s is corrupt: its %lld bytes have the hash %s; "
               "%s%s%sput the right bytes again to heal it",
               hash, store->base, (long long)st->st_size, actual,
               name[0] != '\0' ? "it was moved to quarantine as corrupt/" : "",
               name, name[0] != '\0' ? "; " : "");
}

/* The digest of a blob, in slices, between which an interrupt ends it. False with the
** error. */
static bool digest(const char *hash, tr_blob *blob, char actual[TR_HEX_MAX],
                   tr_error *error) {
  enum { SLICE = 4 << 20 };
  const char *data = tr_blob_data(blob);
  size_t left = tr_blob_size(blob);
  bool ok = true;
  tr_hash *state = tr_hash_new(tr_algorithm_of(hash));
  if (state == NULL) {
    tr_error_nomem(error);
    return false;
  }
  while (left > 0 && ok) {
    size_t size = left < SLICE ? left : SLICE;
    tr_hash_update(state, data, size);
    data += size;
    left -= size;
    ok = left == 0 || !tr_interrupted();
  }
  if (ok)
    tr_hash_finish(state, actual);
  else
    tr_error_set(error, TR_CANCELLED, "interrupted");
  tr_hash_free(state);
  return ok;
}

bool tr_store_verify(const tr_store *store, int data, int fd,
                     const struct stat *st, const char *hash, tr_blob *blob,
                     bool putting, bool seen, tr_error *error) {
  tr_verify when = putting ? TR_VERIFY_ONCE : store->options.verify;
  char actual[TR_HEX_MAX];
  /* An empty file is what a crash leaves that came before the bytes: this is
  ** too cheap to check for not to. */
  if (st->st_size > 0 &&
      (when == TR_VERIFY_NEVER ||
       (when == TR_VERIFY_ONCE && tr_store_knows(st, hash, TR_CHECKED))))
    return true;
  if (!digest(hash, blob, actual, error))
    return false;
  if (strcmp(actual, hash) == 0) {
    if (seen)
      tr_store_learn(st, hash, TR_CHECKED);
    return true;
  }
  refuse(store, data, fd, st, hash, actual, putting, error);
  return false;
}
