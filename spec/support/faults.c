/*
** Makes system calls fail on demand, as broken file systems do: a library to
** preload into a Lua interpreter, which is also a Lua module.
*/
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

static struct plan {
  char call[16]; /* which one; empty: none */
  int errnum;    /* what it fails with; 0: a short write */
  int countdown; /* calls until it does; then it goes on failing */
  int fired;
} plan;

/* True if this call is to fail, with errno set. */
static int fails(const char *call) {
  if (strcmp(plan.call, call) != 0 || --plan.countdown > 0)
    return 0;
  plan.fired++;
  errno = plan.errnum;
  return 1;
}

/* The C library's names for large files and late times, where these have others. */
#if __SIZEOF_POINTER__ == 4
static const char *symbol_of(const char *name) {
  static const char *const symbols[][2] = {
      {"open", "open64"},         {"openat", "openat64"}, {"pread", "pread64"},
      {"pwrite", "pwrite64"},     {"mmap", "mmap64"},     {"readdir", "readdir64"},
      {"fstat", "__fstat64_time64"}, {"fstatat", "__fstatat64_time64"},
      {"time", "__time64"},       {"futimens", "__futimens64"}};
  size_t i;
  for (i = 0; i < sizeof symbols / sizeof *symbols; i++)
    if (strcmp(name, symbols[i][0]) == 0)
      return symbols[i][1];
  return name;
}
#else
#define symbol_of(name) (name)
#endif

#define NEXT(name) (__extension__(__typeof__(&name)) dlsym(RTLD_NEXT, symbol_of(#name)))
#define WRAP(result, name, parameters, arguments)                              \
  EXPORTED result name parameters {                                            \
    return fails(#name) ? (result)-1 : NEXT(name) arguments;                   \
  }

WRAP(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
WRAP(ssize_t, pread, (int fd, void *data, size_t size, off_t at),
     (fd, data, size, at))
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at),
     (fd, data, size, at))
WRAP(int, flock, (int fd, int how), (fd, how))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode))
WRAP(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
WRAP(int, renameat, (int a, const char *from, int b, const char *to),
     (a, from, b, to))
WRAP(void *, mmap,
     (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset))

/* True if the file system neither exchanges files nor links them. */
static int is_simple;

EXPORTED int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  if (is_simple && (flags & RENAME_EXCHANGE) != 0) {
    errno = EINVAL;
    return -1;
  }
  return fails("renameat2") ? -1 : NEXT(renameat2)(a, from, b, to, flags);
}

EXPORTED int linkat(int a, const char *from, int b, const char *to, int flags) {
  if (is_simple) {
    errno = EPERM;
    return -1;
  }
  return fails("linkat") ? -1 : NEXT(linkat)(a, from, b, to, flags);
}

static time_t ahead;

/* A file LONG has a name of so many bytes, as some file systems allow. */
enum { LONG = 765 };

/* True if files have times in whole seconds, as on some file systems, of a clock that is so
** many seconds behind, as some servers are. */
static int whole_seconds;
static time_t behind;

static void round_times(struct stat *st) {
  if (whole_seconds) {
    st->st_mtim.tv_nsec = st->st_ctim.tv_nsec = 0;
    st->st_mtim.tv_sec -= behind;
    st->st_ctim.tv_sec -= behind;
  }
}

EXPORTED int fstatat(int fd, const char *path, struct stat *st, int flags) {
  int result;
  if (strlen(path) == LONG)
    path = "LONG";
  result = fails("fstatat") ? -1 : NEXT(fstatat)(fd, path, st, flags);
  if (result == 0)
    round_times(st);
  return result;
}

EXPORTED int fstat(int fd, struct stat *st) {
  int result = NEXT(fstat)(fd, st);
  if (result == 0)
    round_times(st);
  return result;
}

EXPORTED struct dirent *readdir(DIR *folder) {
  static union {
    struct dirent item;
    char room[sizeof(struct dirent) + LONG];
  } named;
  struct dirent *item = NEXT(readdir)(folder);
  if (item == NULL || strcmp(item->d_name, "LONG") != 0)
    return item;
  named.item = *item;
  memset(named.room + offsetof(struct dirent, d_name), 'n', LONG);
  named.room[offsetof(struct dirent, d_name) + LONG] = '\0';
  return &named.item;
}

/* Seconds that the clock of this process is ahead, from the environment. */
static time_t clock_offset(void) {
  const char *offset = getenv("FAULTS_CLOCK");
  return offset == NULL ? 0 : (time_t)atoll(offset);
}

EXPORTED time_t time(time_t *result) {
  time_t now = NEXT(time)(NULL) + clock_offset() + ahead;
  if (result != NULL)
    *result = now;
  return now;
}

WRAP(int, futimens, (int fd, const struct timespec times[2]), (fd, times))

static useconds_t slowness;

EXPORTED int fsync(int fd) {
  usleep(slowness);
  return fails("fsync") || fails("sync") ? -1 : NEXT(fsync)(fd);
}

EXPORTED int syncfs(int fd) {
  usleep(slowness);
  return fails("syncfs") || fails("sync") ? -1 : NEXT(syncfs)(fd);
}

/* True if writes to files alone are to fail, and this is one. */
static int is_failing_file(int fd) {
  struct stat st;
  return strcmp(plan.call, "write file") == 0 && NEXT(fstat)(fd, &st) == 0 &&
         S_ISREG(st.st_mode) && fails("write file");
}

EXPORTED ssize_t write(int fd, const void *data, size_t size) {
  if (fails("write") || is_failing_file(fd)) {
    if (plan.errnum != 0)
      return -1;
    size = size > 3 ? 3 : size;
  }
  return NEXT(write)(fd, data, size);
}

EXPORTED int open(const char *path, int flags, ...) {
  va_list rest;
  mode_t mode;
  va_start(rest, flags);
  mode = va_arg(rest, mode_t);
  va_end(rest);
  return fails("open") ? -1 : NEXT(open)(path, flags, mode);
}

EXPORTED int openat(int fd, const char *path, int flags, ...) {
  va_list rest;
  mode_t mode;
  va_start(rest, flags);
  mode = va_arg(rest, mode_t);
  va_end(rest);
  if (fails((flags & O_TMPFILE) == O_TMPFILE ? "tmpfile" : "openat") ||
      ((flags & O_EXCL) != 0 && (fails("new file") || fails("sync"))))
    return -1;
  return NEXT(openat)(fd, path, flags, mode);
}

/* fail(call, errno name | "SHORT", nth): from the nth call on. "write file": each write to a
** regular file; "new file": each openat that
** makes one; "sync": every sync, and those too */
static int faults_fail(lua_State *L) {
  static const struct {
    const char *name;
    int errnum;
  } errors[] = {{"SHORT", 0},
                {"EIO", EIO},
                {"EINVAL", EINVAL},
                {"ENOSPC", ENOSPC},
                {"EDQUOT", EDQUOT},
                {"EMFILE", EMFILE},
                {"EROFS", EROFS},
                {"EOPNOTSUPP", EOPNOTSUPP},
                {"ENOENT", ENOENT},
                {"ENOLCK", ENOLCK},
                {"EACCES", EACCES},
                {NULL, 0}};
  const char *call = luaL_checkstring(L, 1), *name = luaL_checkstring(L, 2);
  int nth = (int)luaL_checkinteger(L, 3), i = 0;
  while (errors[i].name != NULL && strcmp(errors[i].name, name) != 0)
    i++;
  luaL_argcheck(L, errors[i].name != NULL, 2, "no such error");
  luaL_argcheck(L, strlen(call) < sizeof plan.call, 1, "no such call");
  plan.errnum = errors[i].errnum;
  plan.countdown = nth;
  plan.fired = 0;
  strcpy(plan.call, call);
  return 0;
}

/* slow(milliseconds): what each sync takes from now on, and more */
static int faults_slow(lua_State *L) {
  slowness = (useconds_t)(luaL_checknumber(L, 1) * 1000);
  return 0;
}

/* set_clock(seconds): how far ahead time() is from now on */
static int faults_set_clock(lua_State *L) {
  ahead = (time_t)luaL_checkinteger(L, 1);
  return 0;
}

/* whole_seconds(behind): files have times in whole seconds from now on, of a clock that is
** so many seconds behind */
static int faults_whole_seconds(lua_State *L) {
  whole_seconds = 1;
  behind = (time_t)luaL_checkinteger(L, 1);
  return 0;
}

/* simple(boolean): from now on files cannot be exchanged nor linked, or can again */
static int faults_simple(lua_State *L) {
  is_simple = lua_toboolean(L, 1);
  return 0;
}

static void ignore(int number) { (void)number; }

/* interrupt(microseconds): a signal that often, which makes calls fail by EINTR; 0:
** none */
static int faults_interrupt(lua_State *L) {
  suseconds_t every = (suseconds_t)luaL_checkinteger(L, 1);
  struct itimerval timer = {{0, every}, {0, every}};
  struct sigaction action;
  memset(&action, 0, sizeof action); /* without SA_RESTART */
  action.sa_handler = ignore;
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  return 0;
}

/* stop() -> how many calls failed */
static int faults_stop(lua_State *L) {
  plan.call[0] = '\0';
  lua_pushinteger(L, plan.fired);
  return 1;
}

EXPORTED int luaopen_faults(lua_State *L) {
  static const luaL_Reg functions[] = {{"fail", faults_fail},
                                       {"slow", faults_slow},
                                       {"set_clock", faults_set_clock},
                                       {"whole_seconds", faults_whole_seconds},
                                       {"simple", faults_simple},
                                       {"interrupt", faults_interrupt},
                                       {"stop", faults_stop},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
