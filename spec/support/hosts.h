/* Shared by the programs that are hosts in C. */
#ifndef HOSTS_H
#define HOSTS_H

#include <lauxlib.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/wait.h>
#include <theaterref.h>
#include <unistd.h>

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what);               \
      _exit(1);                                                                \
    }                                                                          \
  } while (0)

static const char *folder;

static inline const char *in_folder(char *path, const char *name) {
  snprintf(path, 512, "%s/%s", folder, name);
  return path;
}

/* --------------------------------------------------------- what is alive */

/* How many blobs the process holds. */
static inline lua_Integer live(void) {
  static lua_State *L;
  lua_Integer count;
  if (L == NULL) {
    L = luaL_newstate();
    luaL_requiref(L, "theaterref.core", luaopen_theaterref_core, 0);
  }
  lua_getfield(L, 1, "live_blobs");
  lua_call(L, 0, 1);
  count = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return count;
}

/* The library's threads may hold a blob for a moment longer. */
static inline bool comes_down_to(lua_Integer count) {
  int i;
  for (i = 0; i < 5000 && live() != count; i++)
    usleep(1000);
  return live() == count;
}

/* Bytes of memory in use; sanitizers keep what was freed, so 0 for those. */
static inline size_t resident(void) {
  size_t pages = 0;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%*u %zu", &pages) == 1);
  fclose(file);
#endif
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Wait for a child that succeeds. */
static inline void check_child(pid_t child) {
  int status;
  CHECK(child >= 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
