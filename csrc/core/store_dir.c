/*
** The folders of a store: opened, made, synced and locked. Every name below the base
** is opened step by step, so that only readers of labels follow symbolic links.
*/
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "future.h"
#include "store.h"

/* Open the base folder. -1 with errno. */
static int open_base(const tr_store *store) {
  bool is_held = store->held >= 0;
  errno = ENOENT;
  if (store->held == TR_NO_BASE)
    return -1;
  return openat(is_held ? store->held : AT_FDCWD, is_held ? "." : store->base,
                O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int tr_store_open_base(const tr_store *store, tr_error *error) {
  int fd = open_base(store);
  if (fd < 0)
    tr_error_errno(error, errno, "Failed to open the store", store->base);
  return fd;
}

int64_t tr_modified(const struct stat *st) {
  enum { NANOSECONDS = 1000000000 };
  int64_t seconds = st->st_mtim.tv_sec, most = INT64_MAX / NANOSECONDS - 1;
  if (seconds > most || seconds < -most)
    return seconds > 0 ? INT64_MAX : INT64_MIN;
  return seconds * NANOSECONDS + st->st_mtim.tv_nsec;
}

/* The time of a new file in the open base folder. -1 with errno. */
static int64_t new_time(int base) {
  char temporary[TR_TEMPORARY];
  struct stat st;
  int64_t now = -1;
  if (!tr_file_write_temporary(base, temporary, "", 0, false))
    return -1;
  if (fstatat(base, temporary, &st, AT_SYMLINK_NOFOLLOW) == 0)
    now = tr_modified(&st);
  unlinkat(base, temporary, 0);
  return now;
}

int64_t tr_store_clock(const tr_store *store, int64_t after, tr_error *error) {
  double until = tr_now() + 2.5; /* the coarsest clocks tick every 2 s */
  struct timespec pause = {.tv_nsec = 1000 * 1000};
  int base = tr_store_open_base(store, error);
  int64_t now;
  if (base < 0)
    return -1;
  while ((now = new_time(base)) == after && tr_now() < until)
    nanosleep(&pause, NULL);
  if (now < 0 && (errno == ENOSPC || errno == EDQUOT))
    now = (int64_t)time(NULL) * 1000000000; /* gc is needed most there */
  if (now < 0)
    tr_error_errno(error, errno, "Failed to write to the store", store->base);
  close(base);
  return now;
}

/* ----------------------------------------------------------------- locks */

/* The lock is polled, since flock itself has no deadline. */
static bool lock_until(int fd, int how, double until) {
  struct timespec pause = {.tv_nsec = 50 * 1000};
  while (flock(fd, how | LOCK_NB) != 0) {
    if (errno == EINTR)
      continue;
    if (errno != EWOULDBLOCK)
      return false;
    if (tr_interrupted() || tr_now() >= until) {
      errno = tr_interrupted() ? ECANCELED : ETIMEDOUT;
      return false;
    }
    nanosleep(&pause, NULL);
    if (pause.tv_nsec < 4 * 1000 * 1000)
      pause.tv_nsec *= 2;
  }
  return true;
}

static double deadline(const tr_store *store) {
  double timeout = store->options.lock_timeout;
  if (store->until != 0)
    return store->until;
  return timeout < 0 ? INFINITY : tr_now() + timeout;
}

tr_store tr_store_for_call(const tr_store *store) {
  tr_store view = {.base = store->base,
                   .held = store->held,
                   .options = store->options,
                   .data = -1,
                   .until = deadline(store)};
  return view;
}

bool tr_store_lock_file(const tr_store *store, int fd, int how) {
  return lock_until(fd, how, deadline(store));
}

void tr_unlock_file(int fd) {
  while (flock(fd, LOCK_UN) != 0 && errno == EINTR)
    continue;
}

/*
** Lock the open base folder. On the way to it everybody passes the lock of data/,
** like a turnstile: the one in there is next, and nobody who comes later can take the
** store's lock first. Without a data/ there is nobody to wait for.
*/
static bool lock_base(int base, double until) {
  int turnstile = tr_store_open_subfolder(base, "data", false);
  bool locked = (turnstile < 0 || lock_until(turnstile, LOCK_EX, until)) &&
                lock_until(base, LOCK_EX, until);
  int errnum = errno;
  if (turnstile >= 0) {
    tr_unlock_file(turnstile);
    close(turnstile);
  }
  errno = errnum;
  return locked;
}

int tr_store_lock(const tr_store *store, tr_error *error) {
  int fd = tr_store_open_base(store, error);
  if (fd < 0 || lock_base(fd, deadline(store)))
    return fd;
  if (errno == ETIMEDOUT)
    tr_error_set(error, TR_TIMEOUT,
                 "Failed to lock the store %s: somebody else kept it locked for the "
                 "whole time limit (lock_timeout)",
                 store->base);
  else
    tr_error_errno(error, errno, "Failed to lock the store", store->base);
  close(fd);
  return -1;
}

int tr_store_lock_folder(const tr_store *store, int base, tr_error *error) {
  struct stat locked, opened;
  int fd = tr_store_lock(store, error);
  if (fd < 0 || (fstat(fd, &locked) == 0 && fstat(base, &opened) == 0 &&
                 locked.st_ino == opened.st_ino && locked.st_dev == opened.st_dev))
    return fd;
  tr_error_set(error, TR_IO, "the store %s was replaced by another folder meanwhile; try again",
               store->base);
  tr_store_unlock(fd);
  return -1;
}

int tr_store_lock_all(tr_store *store, tr_error *error) {
  return tr_store_lock(store, tr_error_or_ignored(error));
}

void tr_store_unlock(int lock) {
  struct flock bytes = {.l_type = F_UNLCK, .l_whence = SEEK_SET}; /* of tr_store_try_lock */
  tr_unlock_file(lock);
  fcntl(lock, F_OFD_SETLK, &bytes);
  close(lock);
}

/* --------------------------------------------------------------- folders */

bool tr_is_dots(const char *name) {
  return name[0] == '.' &&
         (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

int tr_store_open_subfolder(int parent, const char *name, bool follow) {
  return openat(parent, name,
                O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
}

int tr_store_make_subfolder(int parent, const char *name) {
  int fd = tr_store_open_subfolder(parent, name, false);
  if (fd >= 0 || errno != ENOENT)
    return fd;
  if (mkdirat(parent, name, 0777) != 0 && errno != EEXIST)
    return -1;
  return tr_store_open_subfolder(parent, name, false);
}

/* Describe a folder by its birth: its other times change with every item in it. False
** if it cannot be told from a later one with the same number. */
static bool folder_identity(int folder, struct stat *st) {
  struct statx x;
  if (statx(folder, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &x) != 0 ||
      (x.stx_mask & STATX_BTIME) == 0)
    return false;
  memset(st, 0, sizeof *st);
  st->st_dev = (dev_t)x.stx_dev_major << 32 | x.stx_dev_minor;
  st->st_ino = x.stx_ino;
  st->st_mtim.tv_sec = x.stx_btime.tv_sec;
  st->st_mtim.tv_nsec = x.stx_btime.tv_nsec;
  return true;
}

/* Sync each folder above an open one, up to the root of the file system. A folder
** that this user may not read was not made here. */
static bool sync_above(int folder) {
  struct stat inner, outer;
  bool ok = fstat(folder, &inner) == 0;
  int parent = -1;
  while (ok) {
    int next = openat(parent < 0 ? folder : parent, "..",
                      O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent >= 0)
      close(parent);
    parent = next;
    if (parent < 0)
      return errno == EACCES;
    ok = fstat(parent, &outer) == 0;
    if (ok && (inner.st_dev != outer.st_dev || inner.st_ino == outer.st_ino))
      break;
    ok = ok && fsync(parent) == 0;
    inner = outer;
  }
  if (parent >= 0)
    close(parent);
  return ok;
}

bool tr_store_sync_name(const tr_store *store, int parent, int folder) {
  struct stat st;
  bool identified;
  if (!store->options.durable)
    return true;
  identified = folder_identity(folder, &st);
  if (identified && tr_store_knows(&st, "", TR_SYNCED))
    return true;
  if (parent >= 0 ? fsync(parent) != 0 : !sync_above(folder))
    return false;
  if (identified)
    tr_store_learn(&st, "", TR_SYNCED);
  return true;
}

/* Make the base folder and all above it; open it. -1 with the error. */
static int make_base(const tr_store *store, tr_error *error) {
  char *inside = tr_path_join(store->base, ""); /* all above the last '/' */
  bool ok = inside != NULL && tr_file_make_parents(inside, error);
  if (inside == NULL)
    tr_error_nomem(error);
  free(inside);
  return ok ? tr_store_open_base(store, error) : -1;
}

int tr_store_make_data(const tr_store *store, tr_error *error) {
  int base = open_base(store), data;
  if (base < 0)
    base = make_base(store, error);
  if (base < 0)
    return -1;
  data = tr_store_make_subfolder(base, "data");
  if (data < 0 || !tr_store_sync_name(store, -1, base) ||
      !tr_store_sync_name(store, base, data)) {
    tr_error_errno(error, errno, "Failed to open the store", store->base);
    if (data >= 0)
      close(data);
    data = -1;
  }
  close(base);
  return data;
}

int tr_store_open_folder(const tr_store *store, const char *folder,
                         tr_error *error) {
  int base = tr_store_open_base(store, error), fd;
  if (base < 0)
    return -1;
  fd = tr_store_open_subfolder(base, folder, false);
  if (fd < 0)
    tr_error_errno(error, errno, "Failed to open the store", store->base);
  close(base);
  return fd;
}

int tr_store_open_listing(const tr_store *store, const char *folder, bool follow,
                          tr_error *error) {
  int base, fd = -1;
  error->kind = TR_OK;
  base = open_base(store);
  if (base >= 0)
    fd = tr_store_open_subfolder(base, folder, follow);
  if (fd < 0 && errno != ENOENT) {
    int errnum = errno;
    tr_error_set(error, TR_IO, "Failed to list %s/%s: %s", store->base, folder,
                 errnum == ENOTDIR ? "it is not a folder" : strerror(errnum));
    error->errnum = errnum;
  }
  if (base >= 0)
    close(base);
  return fd;
}
