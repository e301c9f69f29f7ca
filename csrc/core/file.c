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

/* What is read at a time when a file does not tell its size (/proc, pipes). */
enum { CHUNK = 64 * 1024 };
/* How long a pipe may keep silent: as long as a fetch may take by default. */
enum { PIPE_PATIENCE_MS = 30 * 1000 };

static tr_blob *too_large(const char *path, size_t max_bytes,
                          tr_error *error) {
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

tr_blob *tr_file_read_fd(int fd, const char *path, size_t max_bytes,
                         tr_error *error) {
  tr_buffer buffer = {0};
  struct stat st;
  tr_blob *blob;
  if (fstat(fd, &st) != 0) {
    tr_error_errno(error, errno, "Failed to read", path);
    return NULL;
  }
  if (st.st_size > 0 && (uintmax_t)st.st_size > max_bytes)
    return too_large(path, max_bytes, error);
  /* One byte more than the size: the read that fills it proves the end. */
  if (!tr_buffer_reserve(&buffer, st.st_size > 0 ? (size_t)st.st_size + 1
                                                 : CHUNK))
    goto nomem;
  for (;;) {
    ssize_t n;
    if (buffer.len == buffer.cap && !tr_buffer_reserve(&buffer, CHUNK))
      goto nomem;
    n = read(fd, buffer.data + buffer.len, buffer.cap - buffer.len);
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
    if (n == 0)
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
  /* O_NONBLOCK: opening a FIFO nobody writes to must not hang. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  tr_blob *blob;
  if (fd < 0) {
    tr_error_errno(error, errno, "Failed to read", path);
    return NULL;
  }
  blob = tr_file_read_fd(fd, path, max_bytes, error);
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

bool tr_file_make_parents(const char *path, tr_error *error) {
  char *copy = strdup(path), *slash;
  if (copy == NULL) {
    tr_error_nomem(error);
    return false;
  }
  for (slash = strchr(copy + 1, '/'); slash != NULL;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    if (mkdir(copy, 0777) != 0 && errno != EEXIST) {
      tr_error_errno(error, errno, "Failed to create folder", copy);
      free(copy);
      return false;
    }
    *slash = '/';
  }
  free(copy);
  return true;
}

static bool write_all(int fd, const char *data, size_t size) {
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
static bool temporary_name(char name[static 38]) {
  unsigned char bits[16];
  size_t i;
  if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits)
    return false;
  memcpy(name, ".tmp-", 5);
  for (i = 0; i < sizeof bits; i++)
    snprintf(name + 5 + 2 * i, 3, "%02x", bits[i]);
  return true;
}

bool tr_file_write_at(int tmpdir, int dir, const char *name,
                      const char *path, const void *data, size_t size,
                      bool durable, tr_error *error) {
  char temporary[38];
  bool ok;
  int fd, errnum;
  if (!temporary_name(temporary) ||
      (fd = openat(tmpdir, temporary,
                   O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                   0666)) < 0) {
    tr_error_errno(error, errno, "Failed to write", path);
    return false;
  }
  ok = write_all(fd, data, size) && (!durable || fsync(fd) == 0);
  errnum = errno;
  if (close(fd) != 0 && ok) { /* where NFS and quotas report a lost write */
    ok = false;
    errnum = errno;
  }
  if (ok && renameat(tmpdir, temporary, dir, name) != 0) {
    ok = false;
    errnum = errno;
  }
  if (!ok) {
    unlinkat(tmpdir, temporary, 0);
  } else if (durable && fsync(dir) != 0) { /* makes the name itself last */
    ok = false;
    errnum = errno;
  }
  if (!ok)
    tr_error_errno(error, errnum, "Failed to write", path);
  return ok;
}

bool tr_file_write(const char *path, const void *data, size_t size,
                   bool durable, tr_error *error) {
  const char *slash = strrchr(path, '/');
  char *folder = slash == NULL ? strdup(".")
                               : strndup(path, (size_t)(slash - path) + 1);
  bool ok = false;
  int dir;
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
