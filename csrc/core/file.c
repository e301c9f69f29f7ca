/* Files that are read: whole, into a blob, or piece by piece. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "future.h"

/* Bytes per read when a file does not tell its size (/proc, pipes). */
enum { CHUNK = 64 * 1024 };
/* Bytes per read at most, between which an interrupt is seen. */
enum { MOST = 64 << 20 };
/* The same until a pipe has a writer, which should be at hand. */
static const double WRITER_PATIENCE = 2;

tr_blob *tr_file_too_large(const char *path, size_t max_bytes, tr_error *error) {
  char why[96];
  snprintf(why, sizeof why,
           "larger than the limit of %zu byte%s; raise max_bytes to allow it",
           max_bytes, tr_plural((double)max_bytes));
  tr_error_path(error, TR_TOO_LARGE, "Failed to read", path, why);
  return NULL;
}

bool tr_file_wait_ready(int fd, short events, double patience) {
  double until = tr_now() + patience;
  struct pollfd want = {.fd = fd, .events = events};
  while (!tr_interrupted()) {
    int ready = poll(&want, 1, 100); /* to see an interrupt */
    if (ready > 0 || (ready < 0 && errno != EINTR))
      return ready > 0;
    if (patience >= 0 && tr_now() >= until) {
      errno = ETIMEDOUT;
      return false;
    }
  }
  errno = ECANCELED;
  return false;
}

tr_blob *tr_file_read_fd(int fd, const struct stat *st, const char *path,
                         size_t max_bytes, double patience, tr_error *error) {
  tr_buffer buffer = {0};
  tr_blob *blob;
  if (st->st_size > 0 && (uintmax_t)st->st_size > max_bytes)
    return tr_file_too_large(path, max_bytes, error);
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
    if (asked > MOST)
      asked = MOST;
    /* Without a limit, the descriptor may be one that blocks; an interrupt must end the
    ** wait all the same. */
    n = patience < 0 && !S_ISREG(st->st_mode) && !tr_file_wait_ready(fd, POLLIN, patience)
            ? -1
            : read(fd, buffer.data + buffer.len, asked);
    /* A regular file that would wait, such as /proc/kmsg, has no end. */
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && !S_ISREG(st->st_mode) &&
                                     tr_file_wait_ready(fd, POLLIN, patience))))
      continue;
    if (n < 0 || (n == MOST && tr_interrupted())) {
      tr_error_errno(error, n < 0 ? errno : ECANCELED, "Failed to read", path);
      tr_buffer_free(&buffer);
      return NULL;
    }
    buffer.len += (size_t)n;
    if (buffer.len > max_bytes) {
      tr_buffer_free(&buffer);
      return tr_file_too_large(path, max_bytes, error);
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

/* Check that an open file is one to read whole: of a device there is no end. Wait
** for a pipe's first byte or writer, without whom it would look empty. */
static bool is_readable(int fd, const struct stat *st, const char *path,
                        tr_error *error) {
  if (S_ISDIR(st->st_mode)) {
    tr_error_errno(error, EISDIR, "Failed to read", path);
    return false;
  }
  if (!S_ISREG(st->st_mode) && !S_ISFIFO(st->st_mode)) {
    tr_error_path(error, TR_IO, "Failed to read", path,
                  "it is neither a file nor a pipe");
    return false;
  }
  if (S_ISREG(st->st_mode) || tr_file_wait_ready(fd, POLLIN, WRITER_PATIENCE) ||
      errno == ETIMEDOUT) /* a writer may be there who has not written yet */
    return true;
  tr_error_errno(error, errno, "Failed to read", path);
  return false;
}

/* Check that a path leads to a regular file, without opening it: that alone can start a
** device, or wake who waits at a pipe's other end. */
static bool is_regular(const char *path, tr_error *error) {
  struct stat st;
  if (stat(path, &st) != 0)
    tr_error_errno(error, errno, "Failed to read", path);
  else if (S_ISDIR(st.st_mode))
    tr_error_errno(error, EISDIR, "Failed to read", path);
  else if (!S_ISREG(st.st_mode))
    tr_error_set(error, TR_IO, "Failed to read %s: it is not a regular file", path);
  else
    return true;
  return false;
}

tr_blob *tr_file_read_regular(const char *path, size_t max_bytes, tr_error *error) {
  int fd;
  struct stat st;
  tr_blob *blob = NULL;
  if (!is_regular(path, error))
    return NULL;
  fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &st) != 0)
    tr_error_errno(error, errno, "Failed to read", path);
  else if (!S_ISREG(st.st_mode)) /* by now */
    tr_error_set(error, TR_IO, "Failed to read %s: it is not a regular file", path);
  else if (st.st_size == 0) /* those in /proc say so, and some do not end */
    blob = tr_blob_new("", 0);
  else
    blob = tr_file_read_fd(fd, &st, path, max_bytes, 0, error);
  if (fd >= 0)
    close(fd);
  return blob;
}

/* O_NONBLOCK: opening a pipe nobody writes to must not hang. */
enum { FOR_READING = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK };

/* True for an empty pipe without a writer, with the error; a writer may also have come and
** left, who wrote nothing. */
static bool is_abandoned(int fd, const struct stat *st, const char *path,
                         tr_error *error) {
  if (!S_ISFIFO(st->st_mode) || tr_file_wait_ready(fd, POLLIN, 0))
    return false;
  tr_error_path(error, TR_TIMEOUT, "Failed to read", path,
                "nobody writes to this pipe");
  return true;
}

/* Read what was opened for reading, and close it; -1 with errno. */
static tr_blob *read_opened(int fd, const char *path, size_t max_bytes,
                            tr_error *error) {
  struct stat st;
  tr_blob *blob = NULL;
  if (fd < 0 || fstat(fd, &st) != 0)
    tr_error_errno(error, errno, "Failed to read", path);
  else if (is_readable(fd, &st, path, error))
    blob = tr_file_read_fd(fd, &st, path, max_bytes, TR_FILE_PATIENCE, error);
  if (blob != NULL && tr_blob_size(blob) == 0 &&
      is_abandoned(fd, &st, path, error)) {
    tr_blob_release(blob);
    blob = NULL;
  }
  if (fd >= 0)
    close(fd);
  return blob;
}

tr_blob *tr_file_read(const char *path, size_t max_bytes, tr_error *error) {
  return read_opened(open(path, FOR_READING), path, max_bytes,
                     tr_error_or_ignored(error));
}

struct tr_input {
  int fd;
  bool has_begun; /* a byte has been read */
  struct stat st;
  char path[];
};

tr_input *tr_input_open(const char *path, tr_error *error) {
  size_t len = strlen(path);
  tr_input *input = calloc(1, sizeof *input + len + 1);
  if (input == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  memcpy(input->path, path, len + 1);
  input->fd = open(path, FOR_READING);
  if (input->fd < 0 || fstat(input->fd, &input->st) != 0)
    tr_error_errno(error, errno, "Failed to read", path);
  else if (is_readable(input->fd, &input->st, path, error))
    return input;
  tr_input_close(input);
  return NULL;
}

ssize_t tr_input_read(tr_input *input, void *data, size_t size, tr_error *error) {
  ssize_t n;
  do
    n = read(input->fd, data, size < MOST ? size : MOST);
  while (n < 0 && (errno == EINTR || (errno == EAGAIN && !S_ISREG(input->st.st_mode) &&
                                      tr_file_wait_ready(input->fd, POLLIN, TR_FILE_PATIENCE))));
  if (n < 0)
    tr_error_errno(error, errno, "Failed to read", input->path);
  else if (n == 0 && !input->has_begun &&
           is_abandoned(input->fd, &input->st, input->path, error))
    return -1;
  input->has_begun = true;
  return n;
}

long long tr_input_size(const tr_input *input) {
  return S_ISREG(input->st.st_mode) ? (long long)input->st.st_size : -1;
}

void tr_input_close(tr_input *input) {
  if (input != NULL && input->fd >= 0)
    close(input->fd);
  free(input);
}

bool tr_file_is_pipe(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

tr_blob *tr_file_read_pipe(const char *path, size_t max_bytes, tr_error *error) {
  struct stat st;
  int fd = open(path, FOR_READING);
  if (fd < 0 || fstat(fd, &st) != 0 || S_ISFIFO(st.st_mode))
    return read_opened(fd, path, max_bytes, error);
  close(fd);
  tr_error_path(error, TR_IO, "Failed to read", path, "it is no longer a pipe");
  return NULL;
}

/* Open an absolute path folder by folder, for kernels and containers without openat2. */
static int walk_to(const char *path) {
  int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  while (fd >= 0 && *path != '\0') {
    char part[NAME_MAX + 1];
    size_t len = strcspn(path, "/");
    const char *rest = path + len + strspn(path + len, "/");
    int inner, errnum;
    if (len > NAME_MAX) {
      close(fd);
      errno = ENAMETOOLONG;
      return -1;
    }
    memcpy(part, path, len);
    part[len] = '\0';
    path = rest;
    if (len == 0)
      continue;
    inner = openat(fd, part, *rest != '\0' ? O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW
                                           : FOR_READING | O_NOFOLLOW);
    errnum = errno;
    close(fd);
    errno = errnum;
    fd = inner;
  }
  return fd;
}

tr_blob *tr_file_read_settled(const char *path, size_t max_bytes, tr_error *error) {
  struct open_how how = {.flags = FOR_READING, .resolve = RESOLVE_NO_SYMLINKS};
  int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
  if (fd < 0 && errno != ELOOP && errno != ENOENT)
    fd = walk_to(path);
  return read_opened(fd, path, max_bytes, error);
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
  bool ok = copy != NULL;
  if (!ok)
    tr_error_nomem(error);
  for (slash = ok ? strchr(copy + 1, '/') : NULL; ok && slash != NULL;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    ok = mkdir(copy, 0777) == 0 || errno == EEXIST;
    if (!ok)
      tr_error_errno(error, errno, "Failed to create folder", copy);
    *slash = '/';
  }
  free(copy);
  return ok;
}
