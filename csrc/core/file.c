/*
** Files: read whole into a blob; written to a temporary that is synced and
** renamed, so that a name never shows half a content.
*/
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "future.h"

/* Bytes per read when a file does not tell its size (/proc, pipes). */
enum { CHUNK = 64 * 1024 };
/* Bytes per read at most, between which an interrupt is seen. */
enum { MOST = 64 << 20 };
/* Seconds that a pipe may be silent: as long as a fetch may take by default. */
static const double PATIENCE = 30;
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

/* Wait until a descriptor is ready, at most 'patience' seconds; below 0: for ever.
** False with errno. */
static bool wait_ready(int fd, short events, double patience) {
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
    n = patience < 0 && !S_ISREG(st->st_mode) && !wait_ready(fd, POLLIN, patience)
            ? -1
            : read(fd, buffer.data + buffer.len, asked);
    /* A regular file that would wait, such as /proc/kmsg, has no end. */
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && !S_ISREG(st->st_mode) &&
                                     wait_ready(fd, POLLIN, patience))))
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
  if (S_ISREG(st->st_mode) || wait_ready(fd, POLLIN, WRITER_PATIENCE) ||
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
  if (!S_ISFIFO(st->st_mode) || wait_ready(fd, POLLIN, 0))
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
    blob = tr_file_read_fd(fd, &st, path, max_bytes, PATIENCE, error);
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
                                      wait_ready(input->fd, POLLIN, PATIENCE))));
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

bool tr_file_write_all(int fd, const void *bytes, size_t size) {
  const char *data = bytes;
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && (errno == EINTR ||
                  (errno == EAGAIN && wait_ready(fd, POLLOUT, PATIENCE))))
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
    if (!wait_ready(fd, POLLOUT, -1) || !tr_file_write_all(fd, data, piece))
      return false;
    data += piece;
    size -= piece;
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
  return temporary_name(temporary) &&
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

/* ----------------------------------------------------------------- outputs */

struct tr_output {
  int fd;
  int target;                   /* the file that a spooled output is for, or -1 */
  int folder;                   /* of a file to be replaced, or -1 */
  char temporary[TR_TEMPORARY]; /* in that folder; empty: no longer there */
  char *path;                   /* past all symbolic links */
};

/* The text of a symbolic link, malloc'ed, from the folder that the link lies in.
** NULL with errno; EINVAL: it is none. */
static char *read_link(const char *path) {
  char text[4096]; /* PATH_MAX: no link is longer */
  const char *slash = strrchr(path, '/');
  size_t above = slash == NULL ? 0 : (size_t)(slash - path) + 1;
  ssize_t len = readlink(path, text, sizeof text);
  char *target;
  if (len < 0)
    return NULL;
  if (text[0] == '/')
    above = 0;
  target = malloc(above + (size_t)len + 1);
  if (target == NULL)
    return NULL;
  memcpy(target, path, above);
  memcpy(target + above, text, (size_t)len);
  target[above + (size_t)len] = '\0';
  return target;
}

/* True if a path is a link in /proc, such as /proc/self/fd/1: the kernel knows which
** file that is, and its text is only a description. */
static bool is_magic(const char *path) {
  int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  struct stat st;
  struct statfs fs;
  bool magic = fd >= 0 && fstat(fd, &st) == 0 && S_ISLNK(st.st_mode) &&
               fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
  if (fd >= 0)
    close(fd);
  return magic;
}

/* The path that 'path' leads to, malloc'ed; a link in /proc is not followed. NULL with
** errno. */
static char *follow_links(const char *path) {
  char *now = strdup(path);
  int links;
  for (links = 0; now != NULL && !is_magic(now); links++) {
    char *next = links < 40 ? read_link(now) : NULL;
    if (next == NULL && links < 40 && (errno == EINVAL || errno == ENOENT))
      return now;
    if (links >= 40)
      errno = ELOOP;
    free(now);
    now = next;
  }
  return now;
}

/* The folder of a path as it is written, malloc'ed. NULL when memory is short. */
static char *folder_above(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
}

char *tr_output_path(const char *path) {
  char *target = follow_links(path);
  char *folder = target != NULL ? folder_above(target) : NULL;
  char *real = folder != NULL ? realpath(folder, NULL) : NULL, *whole = NULL;
  const char *slash = target != NULL ? strrchr(target, '/') : NULL;
  int errnum;
  if (real != NULL)
    whole = tr_path_join(strcmp(real, "/") == 0 ? "" : real, slash == NULL ? target : slash + 1);
  errnum = errno;
  free(target);
  free(folder);
  free(real);
  errno = errnum;
  return whole;
}

/* Make the temporary file that is to replace the output's path; 'st' is of the file
** that is there, or NULL. False with errno. */
static bool open_temporary(tr_output *o, const struct stat *st) {
  char *folder = folder_above(o->path);
  if (folder != NULL)
    o->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  free(folder);
  if (o->folder < 0 || !temporary_name(o->temporary))
    return false;
  o->fd = openat(o->folder, o->temporary,
                 O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                 st == NULL ? 0666 : 0600);
  if (o->fd < 0) {
    o->temporary[0] = '\0';
    return false;
  }
  if (st == NULL)
    return true;
  /* Root keeps another's file theirs; who may not do so has a file of their own, which
  ** gives their own group nothing. No setuid bit. */
  return fchmod(o->fd, st->st_mode & (fchown(o->fd, st->st_uid, st->st_gid) == 0 ? 0777 : 0707)) == 0;
}

static bool is_mount_point(const char *path) {
  struct statx x;
  return statx(AT_FDCWD, path, 0, STATX_TYPE, &x) == 0 &&
         (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

static const char *folder_of_spools(void) {
  const char *folder = getenv("TMPDIR");
  return folder != NULL && folder[0] != '\0' ? folder : "/tmp";
}

/* Open a regular file to be written into, and a spool: the file keeps its bytes until the
** output is whole. */
static bool open_spool(tr_output *o) {
  o->target = open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
  if (o->target < 0)
    return false;
  o->fd = open(folder_of_spools(), O_RDWR | O_TMPFILE | O_EXCL | O_CLOEXEC, 0600);
  if (o->fd < 0) /* no such folder, or a file system without files that have no name */
    o->fd = memfd_create("theaterref", MFD_CLOEXEC);
  return o->fd >= 0;
}

/* Make room in the file that a spooled output is for before its own bytes go. */
static bool reserve(int fd, off_t size) {
  struct stat st;
  int errnum;
  if (fstat(fd, &st) != 0)
    return false;
  if (size <= st.st_size || fallocate(fd, 0, 0, size) == 0 ||
      (errno != ENOSPC && errno != EDQUOT && errno != EFBIG)) /* not possible here */
    return true;
  errnum = errno;
  if (ftruncate(fd, st.st_size) == 0)
    errno = errnum;
  return false;
}

/* Copy a spooled output into the file that it is for, which is the output from now on. False
** with errno. */
static bool copy_spool(tr_output *o) {
  char piece[16 * 1024];
  struct stat st;
  ssize_t n = -1;
  bool ok = fstat(o->fd, &st) == 0 && reserve(o->target, st.st_size) && lseek(o->fd, 0, SEEK_SET) == 0;
  while (ok && (n = read(o->fd, piece, sizeof piece)) > 0)
    ok = tr_file_write_all(o->target, piece, (size_t)n);
  ok = ok && n == 0 && ftruncate(o->target, st.st_size) == 0;
  close(o->fd);
  o->fd = o->target;
  o->target = -1;
  return ok;
}

/* Replace a regular file that this user may write to; where it cannot be replaced, since it
** is mounted there or the folder is not theirs, write into it. */
static bool open_regular(tr_output *o, const struct stat *st) {
  if (faccessat(AT_FDCWD, o->path, W_OK, AT_EACCESS) != 0)
    return false;
  if (!is_mount_point(o->path)) {
    if (open_temporary(o, st))
      return true;
    if (o->fd >= 0 || (errno != EACCES && errno != EPERM && errno != EROFS))
      return false;
  }
  return open_spool(o);
}

/* Open what a link in /proc leads to. An open file of this process is written on where
** it is. */
static bool open_magic(tr_output *o, const struct stat *st) {
  int own = atoi(strrchr(o->path, '/') + 1);
  struct stat open_file;
  if (fstat(own, &open_file) == 0 && open_file.st_ino == st->st_ino &&
      open_file.st_dev == st->st_dev)
    o->fd = fcntl(own, F_DUPFD_CLOEXEC, 0);
  else if (S_ISREG(st->st_mode))
    return open_spool(o);
  else
    o->fd = open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
  return o->fd >= 0;
}

/* Open what is no regular file. A pipe may get its reader later. */
static bool open_existing(tr_output *o, const struct stat *st) {
  double until = tr_now() + PATIENCE;
  struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
  for (;;) {
    o->fd = open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (o->fd >= 0 || errno != ENXIO || !S_ISFIFO(st->st_mode) || tr_interrupted() || tr_now() >= until)
      return o->fd >= 0;
    nanosleep(&pause, NULL);
  }
}

tr_output *tr_output_open(const char *path, tr_error *error) {
  tr_output *o = calloc(1, sizeof *o);
  struct stat st;
  bool there, ok;
  if (o == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  o->fd = o->target = o->folder = -1;
  /* The kernel looks first: it may refuse to follow a link. */
  there = stat(path, &st) == 0;
  if (there || errno == ENOENT)
    o->path = follow_links(path);
  if (o->path == NULL)
    ok = false;
  else if (!there)
    ok = open_temporary(o, NULL);
  else if (is_magic(o->path))
    ok = open_magic(o, &st);
  else
    ok = S_ISREG(st.st_mode) ? open_regular(o, &st) : open_existing(o, &st);
  if (ok)
    return o;
  tr_error_errno(error, errno, "Failed to write", path);
  tr_output_close(o);
  return NULL;
}

bool tr_output_write(tr_output *o, const void *data, size_t size,
                     tr_error *error) {
  sigset_t pipe_signal, before, pending;
  struct timespec now = {0};
  bool ok;
  int errnum;
  /* A reader who leaves is an error here, not the end of the process. */
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  ok = tr_file_write_all(o->fd, data, size);
  errnum = errno;
  if (!ok && errnum == EPIPE && !sigismember(&pending, SIGPIPE))
    sigtimedwait(&pipe_signal, NULL, &now);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!ok)
    tr_error_errno(error, errnum, "Failed to write", o->target >= 0 ? folder_of_spools() : o->path);
  return ok;
}

bool tr_output_commit(tr_output *o, bool durable, tr_error *error) {
  bool replaces = o->temporary[0] != '\0';
  const char *slash = strrchr(o->path, '/');
  bool ok = (o->target < 0 || copy_spool(o)) &&
            (!durable || fsync(o->fd) == 0 || (!replaces && errno == EINVAL));
  ok = close(o->fd) == 0 && ok; /* where NFS and quotas report a lost write */
  o->fd = -1;
  if (ok && replaces) {
    ok = renameat(o->folder, o->temporary, o->folder,
                  slash == NULL ? o->path : slash + 1) == 0;
    if (ok)
      o->temporary[0] = '\0';
    ok = ok && (!durable || fsync(o->folder) == 0);
  }
  if (!ok)
    tr_error_errno(error, errno, "Failed to write", o->path);
  return ok;
}

void tr_output_close(tr_output *o) {
  if (o == NULL)
    return;
  if (o->fd >= 0)
    close(o->fd);
  if (o->target >= 0)
    close(o->target);
  if (o->temporary[0] != '\0')
    unlinkat(o->folder, o->temporary, 0);
  if (o->folder >= 0)
    close(o->folder);
  free(o->path);
  free(o);
}

bool tr_file_write(const char *path, const void *data, size_t size,
                   bool durable, tr_error *error) {
  tr_output *o;
  bool ok;
  error = tr_error_or_ignored(error);
  o = tr_output_open(path, error);
  ok = o != NULL && tr_output_write(o, data, size, error) &&
       tr_output_commit(o, durable, error);
  tr_output_close(o);
  return ok;
}
