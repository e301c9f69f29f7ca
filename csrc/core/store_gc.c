/* Checks and deletions, of which store.lua makes a garbage collection. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "file.h"
#include "future.h"
#include "metrics.h"
#include "store.h"

bool tr_store_check(tr_store *store, const char *hash, tr_error *error) {
  tr_store always = tr_store_unsynced(store);
  char normal[TR_HEX_MAX];
  tr_blob *blob;
  error = tr_error_or_ignored(error);
  always.options.verify = TR_VERIFY_ALWAYS;
  if (!tr_normal_hash(hash, normal, error))
    return false;
  blob = tr_store_get_uncached(&always, normal, SIZE_MAX, error);
  tr_blob_release(blob);
  return blob != NULL;
}

/* The times of files that are deleted. */
typedef struct condition {
  int64_t from, to; /* nanoseconds, both included */
} condition;

static bool is_met(const condition *c, const struct stat *st) {
  return S_ISREG(st->st_mode) && tr_modified(st) >= c->from &&
         tr_modified(st) <= c->to;
}

/* Files older than 'grace' seconds: by the file system's clock, since another one may
** be far off. False with the error. */
static bool older_than(const tr_store *store, double grace, condition *c,
                       tr_error *error) {
  int64_t now;
  *c = (condition){INT64_MIN, INT64_MAX};
  if (grace <= 0)
    return true;
  now = tr_store_clock(store, -2, error);
  if (grace < 9e9) /* NaN and what would overflow: nothing is so old */
    c->to = now - (int64_t)(grace * 1e9);
  else
    c->to = INT64_MIN;
  return now >= 0;
}

/* Delete content in the open data/, which nobody freshens meanwhile. */
static int discard_at(int data, const char *name, const condition *c,
                      bool dry_run, tr_error *error) {
  struct stat st, named;
  int result = -1;
  int fd = openat(data, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENXIO)) /* a link, a socket */
    return 0;
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
    result = errno == EWOULDBLOCK ? 0 : -1; /* 0: somebody needs it */
  } else if (fd >= 0 && fstat(fd, &st) == 0) {
    if (!is_met(c, &st))
      result = 0;
    else if (fstatat(data, name, &named, AT_SYMLINK_NOFOLLOW) != 0)
      result = errno == ENOENT ? 0 : -1;
    else if (named.st_ino != st.st_ino || named.st_dev != st.st_dev)
      result = 0;
    else if (dry_run || unlinkat(data, name, 0) == 0)
      result = 1;
  }
  if (result < 0)
    tr_error_errno(error, errno, "Failed to delete", name);
  if (!dry_run && result != 0)
    tr_count_store(TR_STORE_DELETE, result == 1, error);
  if (fd >= 0) {
    tr_unlock_file(fd);
    close(fd);
  }
  return result;
}

static int discard(const tr_store *store, const char *hash, const condition *c,
                   bool dry_run, tr_error *error) {
  char normal[TR_HEX_MAX];
  int data, result;
  if (!tr_normal_hash(hash, normal, error))
    return -1;
  data = tr_store_open_listing(store, "data", false, error);
  if (data < 0)
    return error->kind == TR_OK ? 0 : -1;
  result = discard_at(data, normal, c, dry_run, error);
  close(data);
  return result;
}

int tr_store_discard(tr_store *store, const char *hash, double grace,
                     bool dry_run, tr_error *error) {
  condition c;
  error = tr_error_or_ignored(error);
  if (!older_than(store, grace, &c, error))
    return error->kind == TR_NOT_FOUND ? 0 : -1;
  return discard(store, hash, &c, dry_run, error);
}

int tr_store_discard_unchanged(const tr_store *store, const char *hash,
                               int64_t nanoseconds, bool dry_run,
                               tr_error *error) {
  condition c = {nanoseconds, nanoseconds};
  return discard(store, hash, &c, dry_run, error);
}

/*
** Delete a temporary file in the open base unless its guard is locked: the part of its name before a
** dot. Without a guard its batch is gone.
*/
static int discard_temporary_at(int base, const char *name, const condition *c,
                                bool dry_run) {
  char guard[NAME_MAX + 1];
  struct stat st;
  int result = -1, fd, errnum;
  snprintf(guard, sizeof guard, "%.*s", (int)(5 + strcspn(name + 5, ".")), name);
  fd = openat(base, guard, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 && errno != ENOENT)
    return -1;
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0)
    result = errno == EWOULDBLOCK ? 0 : -1;
  else if (fstatat(base, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
    result = errno == ENOENT ? 0 : -1;
  else if (!is_met(c, &st))
    result = 0;
  else if (dry_run || unlinkat(base, name, 0) == 0)
    result = 1;
  errnum = errno;
  if (fd >= 0) {
    tr_unlock_file(fd);
    close(fd);
  }
  errno = errnum;
  return result;
}

int tr_store_discard_temporary(tr_store *store, const char *name, double grace,
                               bool dry_run, tr_error *error) {
  condition c;
  int base, result;
  error = tr_error_or_ignored(error);
  if (!tr_is_temporary(name)) {
    tr_error_set(error, TR_INVALID_REFERENCE, "Not a temporary file: '%s'",
                 name);
    return -1;
  }
  if (!older_than(store, grace, &c, error))
    return error->kind == TR_NOT_FOUND ? 0 : -1;
  base = tr_store_open_listing(store, ".", false, error);
  if (base < 0)
    return error->kind == TR_OK ? 0 : -1;
  result = discard_temporary_at(base, name, &c, dry_run);
  if (result < 0)
    tr_error_errno(error, errno, "Failed to delete", name);
  close(base);
  return result;
}
