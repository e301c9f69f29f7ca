#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "future.h"

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
  if (o->folder < 0 || !tr_file_temporary_name(o->temporary))
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
  if (fallocate(fd, 0, 0, size) == 0 || /* also where the file has holes */
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
  double until = tr_now() + TR_FILE_PATIENCE;
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
