/*
** The folder of a disk cache, and what holds there at every moment, whoever is
** killed:
**
**   <folder>/disk-cache-1/        mode 0700, the user's own; another version of the
**                                 format has a folder of another name
**     <reference>-<key>           an entry, named by halves of two digests
**     new                         the entry that is being written
**     lock                        locked by the one process that writes
**
** 1. An entry is whole or absent. It gets its name by a rename, and its bytes never
**    change after that, so a mapping of them stays right. Reads take no lock. Damage
**    is a miss.
** 2. Only the times of an entry change. mtime: its bytes were fetched or confirmed;
**    0 if it was expired. atime: it was used. A time in the future counts as 0: stale,
**    and the first to be evicted.
** 3. Only the holder of the lock adds files. "new" is the only temporary file; one
**    that a holder finds is left from a process that was killed, and removed.
** 4. A holder makes room before it writes, so all files together, "new" included,
**    stay within max_bytes. Each counts in whole blocks, as on a disk.
** 5. The lock file holds the sum of all files and the folder's mtime. It is believed
**    if its last writer came to an end and the folder has not changed since. So a
**    write looks at its own file only, and a kill costs one count.
*/
#include "disk_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "future.h"

enum {
  BLOCK = 4096,
  GRACE = 3600 /* seconds until a file that is none of ours is removed */
};

tr_disk *tr_disk_open(const char *folder, uint64_t max_bytes) {
  static const char name[] = "/disk-cache-1";
  size_t len = strlen(folder);
  tr_disk *disk = malloc(sizeof *disk + len + sizeof name);
  if (disk == NULL)
    return NULL;
  disk->max_bytes = max_bytes;
  disk->folder = -1;
  memcpy(disk->path, folder, len);
  memcpy(disk->path + len, name, sizeof name);
  return disk;
}

static void close_folder(tr_disk *disk) {
  if (disk->folder >= 0)
    close(disk->folder);
  disk->folder = -1;
}

void tr_disk_close(tr_disk *disk) {
  if (disk != NULL)
    close_folder(disk);
  free(disk);
}

/* ------------------------------------------------------------------- folder */

bool tr_disk_is_current(const tr_disk *disk) {
  struct stat open, there;
  return disk->folder >= 0 && fstat(disk->folder, &open) == 0 &&
         lstat(disk->path, &there) == 0 && open.st_ino == there.st_ino &&
         open.st_dev == there.st_dev;
}

bool tr_disk_is_private(const tr_disk *disk, tr_error *error) {
  struct stat st;
  if (fstat(disk->folder, &st) != 0) {
    tr_error_errno(error, errno, "cannot open the disk cache", disk->path);
    return false;
  }
  if (st.st_uid == geteuid() && (st.st_mode & 077) == 0)
    return true;
  tr_error_set(error, TR_DENIED,
               "cannot use the disk cache %s: it must belong to the user %ld and "
               "have mode 0700, but it belongs to %ld and has mode 0%o; remove "
               "it, or choose another folder",
               disk->path, (long)geteuid(), (long)st.st_uid,
               (unsigned)(st.st_mode & 07777));
  return false;
}

int tr_disk_open_folder(tr_disk *disk, bool make, tr_error *error) {
  if (tr_disk_is_current(disk))
    return disk->folder;
  close_folder(disk);
  if (make && !tr_file_make_parents(disk->path, error))
    return -1;
  if (!make || mkdir(disk->path, 0700) == 0 || errno == EEXIST)
    disk->folder =
        open(disk->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (disk->folder < 0)
    tr_error_errno(error, errno, "cannot open the disk cache", disk->path);
  else if (!tr_disk_is_private(disk, error))
    close_folder(disk);
  return disk->folder;
}

bool tr_disk_walk(int folder, const char *prefix, tr_disk_visitor visit,
                  void *context) {
  /* A descriptor of its own: the position in a folder is shared with a fork. */
  int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  struct dirent *item;
  struct stat st;
  int errnum = errno;
  if (dir == NULL) {
    if (fd >= 0)
      close(fd);
    errno = errnum;
    return false;
  }
  while (errno = 0, (item = readdir(dir)) != NULL)
    if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0 &&
        strcmp(item->d_name, "lock") != 0 &&
        strncmp(item->d_name, prefix, strlen(prefix)) == 0 &&
        fstatat(folder, item->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
      visit(context, folder, item->d_name, &st);
  errnum = errno;
  closedir(dir);
  errno = errnum;
  return errnum == 0;
}

uint64_t tr_disk_blocks(off_t size) {
  return ((uint64_t)size + BLOCK - 1) / BLOCK * BLOCK;
}

bool tr_disk_discard(int dir, const char *name) {
  return unlinkat(dir, name, 0) == 0 || errno == ENOENT ||
         unlinkat(dir, name, AT_REMOVEDIR) == 0;
}

/* -------------------------------------------------------------------- times */

/* A time that is not in the future, or 0. The stamps' clock decides; callers subtract
** from time(), which is a little behind it. */
static int64_t past(const struct timespec *t) {
  struct timespec now;
  int64_t behind = (int64_t)time(NULL);
  clock_gettime(CLOCK_REALTIME, &now);
  if (t->tv_sec <= 0 || t->tv_sec > now.tv_sec)
    return 0;
  return t->tv_sec > behind ? behind : (int64_t)t->tv_sec;
}

int64_t tr_disk_stored(const struct stat *st) { return past(&st->st_mtim); }
int64_t tr_disk_used(const struct stat *st) { return past(&st->st_atim); }

/* The time is this machine's, which a file server's need not be. */
void tr_disk_stamp(int dir, const char *name) {
  struct timespec times[2];
  clock_gettime(CLOCK_REALTIME, &times[0]);
  times[1] = times[0];
  utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
}

/* ------------------------------------------------------------------ holding */

typedef struct item {
  int64_t used; /* nanoseconds since 1970 */
  uint64_t bytes;
  char name[TR_DISK_NAME];
} item;

enum { STATE = 50 };

/* Write the state: "clean" with the sum, or "dirty" while it is wrong. If it
** cannot be written, the changed folder tells. */
static void write_state(const tr_disk_holder *h, const char *word) {
  char line[128] = "";
  struct stat st;
  if (fstat(h->dir, &st) != 0)
    return;
  snprintf(line, sizeof line, "%.5s %016llx %016llx %09ld\n", word,
           (unsigned long long)h->total, (unsigned long long)st.st_mtim.tv_sec,
           (long)st.st_mtim.tv_nsec);
  if (pwrite(h->lock, line, STATE, 0) != STATE &&
      ftruncate(h->lock, 0) != 0) /* half a line is no state either */
    return;
}

/* Read the sum. False: it is not to be believed. */
static bool read_state(tr_disk_holder *h) {
  char line[STATE + 2] = "", same[128];
  unsigned long long total;
  struct stat st;
  if (pread(h->lock, line, STATE + 1, 0) != STATE || fstat(h->dir, &st) != 0 ||
      sscanf(line, "clean %16llx", &total) != 1)
    return false;
  snprintf(same, sizeof same, "clean %016llx %016llx %09ld\n", total,
           (unsigned long long)st.st_mtim.tv_sec, (long)st.st_mtim.tv_nsec);
  h->total = total;
  return strcmp(line, same) == 0;
}

/* Count a file; remove it if it is a temporary file or long none of ours. */
static void count_file(void *context, int dir, const char *name,
                       const struct stat *st) {
  tr_disk_holder *h = context;
  int64_t age = (int64_t)time(NULL) - st->st_ctim.tv_sec;
  bool ours = S_ISREG(st->st_mode) && tr_disk_is_entry_name(name);
  int64_t used = tr_disk_used(st) * 1000000000;
  item i = {used > 0 ? used + st->st_atim.tv_nsec : 0, tr_disk_blocks(st->st_size), ""};
  bool doomed = strcmp(name, "new") == 0 || (!ours && (age < 0 || age > GRACE));
  if (doomed && tr_disk_discard(dir, name))
    return;
  h->total += i.bytes;
  if (!ours)
    return;
  memcpy(i.name, name, sizeof i.name);
  tr_buffer_append(&h->items, &i, sizeof i); /* or it cannot be evicted now */
}

bool tr_disk_count(tr_disk_holder *h, tr_error *error) {
  h->total = 0;
  h->items.len = 0;
  h->counted = tr_disk_walk(h->dir, "", count_file, h);
  h->wrong = !h->counted;
  if (h->wrong)
    tr_error_errno(error, errno, "cannot list the disk cache", h->disk->path);
  return h->counted;
}

/* Open the lock file. -1 with errno. */
static int open_lock(int dir) {
  int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
  int fd = openat(dir, "lock", flags); /* which is faster than with O_CREAT */
  struct stat st;
  if (fd < 0 && errno == ENOENT)
    fd = openat(dir, "lock", flags | O_CREAT, 0600);
  if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))) {
    close(fd);
    errno = EINVAL;
    return -1;
  }
  return fd;
}

/* True if the locked file is still the one that others would lock. */
static bool is_the_lock(int dir, int fd) {
  struct stat mine, there;
  return fstat(fd, &mine) == 0 &&
         fstatat(dir, "lock", &there, AT_SYMLINK_NOFOLLOW) == 0 &&
         mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

/* Take the lock until a deadline. -1 with the error. */
static int take_lock(const tr_disk *disk, double deadline, tr_error *error) {
  struct timespec pause = {0, 100 * 1000};
  for (;;) {
    int fd = open_lock(disk->folder), result;
    if (fd < 0) {
      tr_error_errno(error, errno, "cannot lock the disk cache", disk->path);
      return -1;
    }
    while ((result = flock(fd, LOCK_EX | LOCK_NB)) != 0 &&
           (errno == EINTR || errno == EWOULDBLOCK) && tr_now() < deadline &&
           !tr_interrupted()) {
      nanosleep(&pause, NULL);
      if (pause.tv_nsec < 4 * 1000 * 1000)
        pause.tv_nsec *= 2;
    }
    if (result == 0 && is_the_lock(disk->folder, fd))
      return fd;
    if (result != 0 && errno != EWOULDBLOCK && errno != EINTR)
      tr_error_errno(error, errno, "cannot lock the disk cache", disk->path);
    else if (result != 0)
      tr_error_set(error, TR_TIMEOUT,
                   "cannot lock the disk cache %s: another process has it locked",
                   disk->path);
    close(fd);
    if (result != 0)
      return -1;
  }
}

/* A child that was forked meanwhile has the lock open too: closing is not enough. */
static void unlock(tr_disk_holder *h) {
  tr_buffer_free(&h->items);
  flock(h->lock, LOCK_UN);
  close(h->lock);
}

void tr_disk_let_go(tr_disk_holder *h) {
  if (!h->wrong)
    write_state(h, "clean"); /* it is dirty until now */
  unlock(h);
}

bool tr_disk_hold(tr_disk *disk, double seconds, tr_disk_holder *h,
                  tr_error *error) {
  *h = (tr_disk_holder){.disk = disk};
  h->dir = tr_disk_open_folder(disk, true, error);
  if (h->dir < 0)
    return false;
  h->lock = take_lock(disk, tr_deadline(seconds > 0 ? seconds : 0), error);
  if (h->lock < 0)
    return false;
  if (read_state(h)) {
    write_state(h, "dirty");
    return true;
  }
  if (ftruncate(h->lock, 0) == 0 && tr_disk_count(h, error))
    return true;
  unlock(h); /* and whoever is next counts */
  return false;
}

/* ----------------------------------------------------------------- eviction */

static int by_use(const void *a, const void *b) {
  int64_t x = ((const item *)a)->used, y = ((const item *)b)->used;
  return x < y ? -1 : x > y;
}

/* Evict down to nine tenths, so that not every write has to. */
bool tr_disk_make_room(tr_disk_holder *h, uint64_t need, tr_error *error) {
  uint64_t max = h->disk->max_bytes, room = max - max / 10, target;
  size_t i;
  if (max == 0 || (need <= max && h->total <= max - need))
    return true;
  if (need <= max && !h->counted && !tr_disk_count(h, error))
    return false;
  target = need < room ? room - need : 0;
  if (need <= max && h->total > max - need) {
    item *items = (item *)(void *)h->items.data;
    size_t all = h->items.len / sizeof *items;
    if (all > 0)
      qsort(items, all, sizeof *items, by_use);
    for (i = 0; i < all && h->total > target; i++)
      if (tr_disk_discard(h->dir, items[i].name))
        h->total -= items[i].bytes;
    h->counted = false;
  }
  if (need <= max && h->total <= max - need)
    return true;
  tr_error_set(error, TR_TOO_LARGE,
               "no room in the disk cache %s for %llu bytes (max_bytes is %llu)",
               h->disk->path, (unsigned long long)need, (unsigned long long)max);
  return false;
}
