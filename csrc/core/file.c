/*
** Files: read whole into a blob; written to a temporary that is synced and
** renamed, so that a name never shows half a content.
*/
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"

/* Bytes per read when a file does not tell its size (/proc, pipes). */
enum { CHUNK = 64 * 1024 };
/* How long a pipe may keep silent: as long as a fetch may take by default. */
enum { PIPE_PATIENCE_MS = 30 * 1000 };

static tr_blob *too_large(const char *path, size_t max_bytes, tr_error *error) {
  tr_error_set(error, TR_TOO_LARGE,
               "%s is larger than the limit of %zu bytes; raise max_bytes to "
               "allow it",
               path, max_bytes);
  return NULL;
}

/* Waits for a pipe's writer, but not for ever. */
static bool readable(int fd) {
  struct pollfd want = {.fd = fd, .events = POLLIN};
  if (poll(&want, 1, PIPE_PATIENCE_MS) > 0)
    return true;
  errno = ETIMEDOUT;
  return false;
}

tr_blob *tr_file_read_fd(int fd, const struct stat *st, const char *path,
                         size_t max_bytes, tr_error *error) {
  tr_buffer buffer = {0};
  tr_blob *blob;
  if (st->st_size > 0 && (uintmax_t)st->st_size > max_bytes)
    return too_large(path, max_bytes, error);
  /* One byte more than the size: the read that fills it proves the end. */
  if (!tr_buffer_reserve(&buffer,
                         st->st_size > 0 ? (size_t)st->st_size + 1 : CHUNK))
    goto nomem;
  for (;;) {
    ssize_t n;
    size_t asked;
    if (buffer.len == buffer.cap && !tr_buffer_reserve(&buffer, CHUNK))
      goto nomem;
    asked = buffer.cap - buffer.len;
    n = read(fd, buffer.data + buffer.len, asked);
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && readable(fd))))
      continue;
    if (n < 0) {
      tr_error_errno(error, errno, "Failed to read", path);
      tr_buffer_free(&buffer);
      return NULL;
    }
    buffer.len += (size_t)n;
    if (buffer.len > max_bytes) {
      tr_buffer_free(&buffer);
      return too_large(path, max_bytes, error);
    }
    if (n == 0 || ((size_t)n < asked && S_ISREG(st->st_mode) &&
                   (uintmax_t)st->st_size == buffer.len))
      break;
  }
  blob = tr_buffer_to_blob(&buffer);
  if (blob == NULL)
    tr_error_nomem(error);
  return blob;
nomem:
  tr_buffer_free(&buffer);
  tr_error_nomem(error);
  return NULL;
}

tr_blob *tr_file_read(const char *path, size_t max_bytes, tr_error *error) {
  error = tr_error_or_ignored(error);
  /* O_NONBLOCK: opening a FIFO nobody writes to must not hang. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  struct stat st;
  tr_blob *blob = NULL;
  if (fd < 0 || fstat(fd, &st) != 0)
    tr_error_errno(error, errno, "Failed to read", path);
  else
    blob = tr_file_read_fd(fd, &st, path, max_bytes, error);
  if (fd >= 0)
    close(fd);
  return blob;
}

char *tr_path_join(const char *a, const char *b) {
  size_t la = strlen(a), lb = strlen(b);
  char *path = malloc(la + lb + 2);
  if (path == NULL)
    return NULL;
  memcpy(path, a, la);
  path[la] = '/';
  memcpy(path + la + 1, b, lb + 1);
  return path;
}

/* Syncs the folder that 'path' lies in. */
static bool sync_parent(const char *path) {
  const char *slash = strrchr(path, '/');
  char *parent = strndup(path, slash == path ? 1 : (size_t)(slash - path));
  int fd =
      parent == NULL ? -1 : open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool ok = fd >= 0 && fsync(fd) == 0;
  if (fd >= 0)
    close(fd);
  free(parent);
  return ok;
}

bool tr_file_make_parents(const char *path, bool durable, tr_error *error) {
  char *copy = strdup(path), *slash;
  bool ok = copy != NULL;
  if (!ok)
    tr_error_nomem(error);
  for (slash = ok ? strchr(copy + 1, '/') : NULL; ok && slash != NULL;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    ok = mkdir(copy, 0777) == 0
             ? !durable || strchr(copy, '/') == NULL || sync_parent(copy)
             : errno == EEXIST;
    if (!ok)
      tr_error_errno(error, errno, "Failed to create folder", copy);
    *slash = '/';
  }
  free(copy);
  return ok;
}

bool tr_file_write_all(int fd, const void *bytes, size_t size) {
  const char *data = bytes;
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return false;
    data += n;
    size -= (size_t)n;
  }
  return true;
}

/* A name that nobody else takes: 128 random bits. */
static bool temporary_name(char name[TR_TEMPORARY]) {
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

bool tr_file_write_temporary(int tmpdir, char temporary[TR_TEMPORARY],
                             const void *data, size_t size, bool durable) {
  int fd, errnum;
  if (!temporary_name(temporary))
    return false;
  fd = openat(tmpdir, temporary,
              O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0 || fill(fd, data, size, durable))
    return fd >= 0;
  errnum = errno;
  unlinkat(tmpdir, temporary, 0);
  errno = errnum;
  return false;
}

bool tr_file_write_at(int tmpdir, int dir, const char *name, const char *path,
                      const void *data, size_t size, bool durable,
                      tr_error *error) {
  char temporary[TR_TEMPORARY];
  bool ok = tr_file_write_temporary(tmpdir, temporary, data, size, durable);
  int errnum = errno;
  if (ok && renameat(tmpdir, temporary, dir, name) != 0) {
    ok = false;
    errnum = errno;
    unlinkat(tmpdir, temporary, 0);
  }
  if (ok && durable && fsync(dir) != 0) { /* makes the name itself last */
    ok = false;
    errnum = errno;
  }
  if (!ok)
    tr_error_errno(error, errnum, "Failed to write", path);
  return ok;
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
  if (unnamable) /* a file system, or a kernel, without such files */
    return tr_file_write_at(tmpdir, dir, name, path, data, size, durable, error)
               ? 1
               : -1;
  if (named == 1 && durable && fsync(dir) != 0)
    named = -1;
  if (named < 0)
    tr_error_errno(error, errno, "Failed to write", path);
  return named;
}

bool tr_file_write(const char *path, const void *data, size_t size,
                   bool durable, tr_error *error) {
  const char *slash = strrchr(path, '/');
  char *folder =
      slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
  bool ok = false;
  int dir;
  error = tr_error_or_ignored(error);
  if (folder == NULL) {
    tr_error_nomem(error);
    return false;
  }
  dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0)
    tr_error_errno(error, errno, "Failed to write", path);
  else
    ok = tr_file_write_at(dir, dir, slash == NULL ? path : slash + 1, path,
                          data, size, durable, error);
  if (dir >= 0)
    close(dir);
  free(folder);
  return ok;
}
