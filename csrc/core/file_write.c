/*
** Files that are written: to a temporary that is synced and renamed, so that a name never
** shows half a content.
*/
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "error.h"

bool tr_file_write_all(int fd, const void *bytes, size_t size) {
  const char *data = bytes;
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && (errno == EINTR ||
                  (errno == EAGAIN && tr_file_wait_ready(fd, POLLOUT, TR_FILE_PATIENCE))))
      continue;
    if (n < 0)
      return false;
    data += n;
    size -= (size_t)n;
  }
  return true;
}

bool tr_file_write_patiently(int fd, const void *bytes, size_t size) {
  const char *data = bytes;
  struct stat st;
  if (fstat(fd, &st) != 0)
    return false;
  if (S_ISREG(st.st_mode))
    return tr_file_write_all(fd, bytes, size);
  while (size > 0) {
    /* A pipe that is ready takes so much without a wait. */
    size_t piece = size < PIPE_BUF ? size : PIPE_BUF;
    if (!tr_file_wait_ready(fd, POLLOUT, -1) || !tr_file_write_all(fd, data, piece))
      return false;
    data += piece;
    size -= piece;
  }
  return true;
}

bool tr_file_temporary_name(char name[TR_TEMPORARY]) {
  unsigned char bits[16];
  size_t i;
  if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits)
    return false;
  memcpy(name, ".tmp-", 5);
  for (i = 0; i < sizeof bits; i++)
    snprintf(name + 5 + 2 * i, 3, "%02x", bits[i]);
  return true;
}

/* Fills an open file and closes it. False with errno. */
static bool fill(int fd, const void *data, size_t size, bool durable) {
  bool ok = tr_file_write_all(fd, data, size) && (!durable || fsync(fd) == 0);
  int errnum = errno;
  if (close(fd) != 0 && ok) /* where NFS and quotas report a lost write */
    return false;
  errno = errnum;
  return ok;
}

bool tr_file_write_new(int dir, const char *name, const void *data, size_t size,
                       bool durable) {
  int errnum, fd = openat(dir, name,
                          O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                          0666);
  if (fd < 0 || fill(fd, data, size, durable))
    return fd >= 0;
  errnum = errno;
  unlinkat(dir, name, 0);
  errno = errnum;
  return false;
}

bool tr_file_write_temporary(int tmpdir, char temporary[TR_TEMPORARY],
                             const void *data, size_t size, bool durable) {
  return tr_file_temporary_name(temporary) &&
         tr_file_write_new(tmpdir, temporary, data, size, durable);
}

int tr_file_place(int tmpdir, const char *temporary, int dir,
                  const char *name) {
  int placed = renameat2(tmpdir, temporary, dir, name, RENAME_NOREPLACE);
  if (placed != 0 && (errno == EINVAL || errno == ENOSYS)) { /* NFS, ntfs-3g */
    placed = linkat(tmpdir, temporary, dir, name, 0);
    if (placed == 0)
      unlinkat(tmpdir, temporary, 0);
  }
  if (placed == 0)
    return 1;
  return errno == EEXIST ? 0 : -1;
}

/* Gives an open file without a name one: 1, 0 if the name is taken, or -1
** with errno. */
static int give_name(int fd, int dir, const char *name) {
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (linkat(AT_FDCWD, link, dir, name, AT_SYMLINK_FOLLOW) == 0)
    return 1;
  return errno == EEXIST ? 0 : -1;
}

/* Fills an open file without a name, names and closes it: 1, 0 if the name is
** taken, or -1 with errno; '*unnamable' if it could only not be named. */
static int fill_and_name(int fd, int dir, const char *name, const void *data,
                         size_t size, bool durable, bool *unnamable) {
  bool ok = tr_file_write_all(fd, data, size) && (!durable || fsync(fd) == 0);
  int named = ok ? give_name(fd, dir, name) : -1, errnum = errno;
  *unnamable = ok && named < 0; /* no /proc, or no links here */
  if (close(fd) != 0 && named == 1)
    return -1;
  errno = errnum;
  return named;
}

int tr_file_create_at(int tmpdir, int dir, const char *name, const char *path,
                      const void *data, size_t size, bool durable,
                      tr_error *error) {
  bool unnamable = true;
  int named = -1;
  int fd = openat(dir, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  if (fd >= 0)
    named = fill_and_name(fd, dir, name, data, size, durable, &unnamable);
  if (unnamable) { /* a file system, or a kernel, without such files */
    char temporary[TR_TEMPORARY];
    if (tr_file_write_temporary(tmpdir, temporary, data, size, durable)) {
      int errnum;
      named = tr_file_place(tmpdir, temporary, dir, name);
      errnum = errno;
      if (named != 1)
        unlinkat(tmpdir, temporary, 0);
      errno = errnum;
    }
  }
  if (named == 1 && durable && fsync(dir) != 0)
    named = -1;
  if (named < 0)
    tr_error_errno(error, errno, "Failed to write", path);
  return named;
}
