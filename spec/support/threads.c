/*
** Runs Lua chunks on threads of the operating system, each in a Lua state of
** its own, all set off at the same moment. For specs and benchmarks.
*/
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct runner {
  pthread_t thread;
  const char *chunk;
  size_t chunk_len;
  const char *paths[2]; /* package.path and package.cpath */
  int number;
  pthread_barrier_t *start;
  char *result; /* malloc'ed */
  size_t result_len;
  int ok;
} runner;

static void set_path(lua_State *L, const char *field, const char *value) {
  lua_getglobal(L, "package");
  lua_pushstring(L, value);
  lua_setfield(L, -2, field);
  lua_pop(L, 1);
}

/* The chunk's value, which it gets by pcall, as text. */
static void keep_result(lua_State *L, runner *r) {
  const char *text = luaL_tolstring(L, -1, &r->result_len);
  r->result = malloc(r->result_len + 1);
  if (r->result != NULL)
    memcpy(r->result, text, r->result_len + 1);
}

/*
** The chunk is called with its number and returns a function, which is called
** once every thread has come as far.
*/
static void *run(void *argument) {
  runner *r = argument;
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  set_path(L, "path", r->paths[0]);
  set_path(L, "cpath", r->paths[1]);
  r->ok = luaL_loadbuffer(L, r->chunk, r->chunk_len, "=thread") == LUA_OK;
  if (r->ok) {
    lua_pushinteger(L, r->number);
    r->ok = lua_pcall(L, 1, 1, 0) == LUA_OK;
  }
  pthread_barrier_wait(r->start);
  if (r->ok)
    r->ok = lua_pcall(L, 0, 1, 0) == LUA_OK;
  keep_result(L, r);
  lua_close(L);
  return NULL;
}

/* run(n, chunk) -> results, seconds; raises the first failure */
static int threads_run(lua_State *L) {
  int n = (int)luaL_checkinteger(L, 1), i, failed = -1;
  size_t len;
  const char *chunk = luaL_checklstring(L, 2, &len);
  runner *runners = lua_newuserdatauv(L, (size_t)n * sizeof *runners, 0);
  struct timespec before, after;
  pthread_barrier_t start;
  const char *paths[2];
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_getfield(L, -2, "cpath");
  paths[0] = lua_tostring(L, -2);
  paths[1] = lua_tostring(L, -1);
  pthread_barrier_init(&start, NULL, (unsigned)n + 1);
  for (i = 0; i < n; i++) {
    runners[i] = (runner){.chunk = chunk, .chunk_len = len, .number = i + 1,
                          .paths = {paths[0], paths[1]}, .start = &start};
    if (pthread_create(&runners[i].thread, NULL, run, &runners[i]) != 0)
      abort(); /* a spec cannot go on without its threads */
  }
  pthread_barrier_wait(&start);
  clock_gettime(CLOCK_MONOTONIC, &before);
  lua_newtable(L);
  for (i = 0; i < n; i++)
    pthread_join(runners[i].thread, NULL);
  clock_gettime(CLOCK_MONOTONIC, &after);
  pthread_barrier_destroy(&start);
  for (i = 0; i < n; i++) {
    if (!runners[i].ok && failed < 0)
      failed = (int)lua_rawlen(L, -1) + 1;
    lua_pushlstring(L, runners[i].result, runners[i].result_len);
    lua_rawseti(L, -2, i + 1);
    free(runners[i].result);
  }
  if (failed > 0) {
    lua_rawgeti(L, -1, failed);
    return lua_error(L);
  }
  lua_pushnumber(L, (double)(after.tv_sec - before.tv_sec) +
                        (double)(after.tv_nsec - before.tv_nsec) / 1e9);
  return 2;
}

static pid_t forked; /* the last child of fork() below */

/* fork([seconds]) -> true in the child, which is killed when that time is over */
static int threads_fork(lua_State *L) {
  unsigned seconds = (unsigned)luaL_optinteger(L, 1, 0);
  pid_t pid = fork();
  if (pid < 0)
    return luaL_error(L, "fork failed");
  if (pid == 0)
    alarm(seconds);
  forked = pid;
  lua_pushboolean(L, pid == 0);
  return 1;
}

/* leave(): ends a child at once. A leak checker's exit handler may hang in the
** child of a process that had threads: it wants locks they held. */
static int threads_leave(lua_State *L) {
  (void)L;
  fflush(stdout);
  _exit(0);
}

/* wait(): for the last child to end, and to have ended well */
static int threads_wait(lua_State *L) {
  int status;
  if (waitpid(forked, &status, 0) != forked || status != 0)
    return luaL_error(L, "the child failed with status %d", status);
  return 0;
}

__attribute__((visibility("default"))) int luaopen_threads(lua_State *L) {
  static const luaL_Reg functions[] = {{"run", threads_run},
                                       {"fork", threads_fork},
                                       {"leave", threads_leave},
                                       {"wait", threads_wait},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
