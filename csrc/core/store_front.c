/*
** A store whose folder caches a bucket has locks, which keep processes from doing the same work
** twice, and records when content was used. It records a use as the time of access, because gc
** relies on the time of writing.
*/
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "store.h"

/* Open locks/ in the open base folder, and make both if they are missing. -1 with the error. */
static int open_locks(const tr_store *store, tr_error *error) {
  int data = tr_store_make_data(store, error), base, locks = -1;
  if (data < 0)
    return -1;
  close(data);
  base = tr_store_open_base(store, error);
  if (base < 0)
    return -1;
  locks = tr_store_make_subfolder(base, "locks");
  if (locks < 0)
    tr_error_errno(error, errno, "Failed to open the folder locks/ of", store->base);
  close(base);
  return locks;
}

/* The position of a part's byte: the number that its first hex digits are. */
static off_t position_of(const char *part) {
  char digits[16] = "";
  strncat(digits, part, sizeof digits - 1);
  return (off_t)strtoull(digits, NULL, 16);
}

int tr_store_try_lock(const tr_store *store, const char *name, const char *part,
                      tr_error *error) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
  int locks = open_locks(store, error), fd;
  if (locks < 0)
    return -1;
  fd = openat(locks, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd < 0)
    tr_error_errno(error, errno, "Failed to open the lock", name);
  close(locks);
  lock.l_start = position_of(part);
  if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) == 0)
    return fd;
  if (errno == EAGAIN || errno == EACCES)
    tr_error_set(error, TR_TIMEOUT, "somebody else has the lock %s", name);
  else
    tr_error_errno(error, errno, "Failed to take the lock", name);
  close(fd);
  return -1;
}

/* The later of a file's times of access and of writing, in nanoseconds. */
static int64_t used(const struct stat *st) {
  struct stat accessed = *st;
  accessed.st_mtim = st->st_atim;
  return tr_modified(&accessed) > tr_modified(st) ? tr_modified(&accessed) : tr_modified(st);
}

void tr_store_note_use(const tr_store *store, const char *hash) {
  const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
  char normal[TR_HEX_MAX];
  struct stat before, after;
  tr_error ignored;
  int data = tr_normal_hash(hash, normal, &ignored) ? tr_store_open_folder(store, "data", &ignored) : -1, fd;
  if (data < 0)
    return;
  fd = openat(data, normal, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd >= 0 && fstat(fd, &before) == 0 && futimens(fd, times) == 0 && fstat(fd, &after) == 0)
    tr_store_renew(&before, &after, normal);
  if (fd >= 0)
    close(fd);
  close(data);
}

/* The caller's visitor, who wants uses. */
typedef struct uses {
  tr_store_visit_use visit;
  void *context;
} uses;

static bool visit_use(void *context, const char *hash, const struct stat *st) {
  uses *u = context;
  return u->visit(u->context, hash, (size_t)st->st_size, used(st), tr_modified(st));
}

bool tr_store_each_use(const tr_store *store, tr_store_visit_use visit, void *context,
                       tr_error *error) {
  uses u = {visit, context};
  return tr_store_each_stat(store, visit_use, &u, error);
}
