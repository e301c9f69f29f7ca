/*
** The work of the benchmarks through the C API, without Lua in between. A Lua
** module, linked with the library's objects.
*/
#include <lauxlib.h>
#include <stdlib.h>
#include <theaterref.h>
#include <time.h>

#include "core/metrics.h"

enum { MAX_AT_ONCE = 1024 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static tr_future *start(lua_State *L, const char *url,
                        const tr_fetch_options *options) {
  tr_future *future = tr_future_create();
  tr_error error;
  if (future == NULL || !tr_fetch(future, url, options, &error))
    luaL_error(L, "cannot fetch %s", url);
  return future;
}

static void finish(lua_State *L, tr_future *future) {
  tr_error error;
  tr_blob *blob = NULL;
  if (tr_future_wait(future, 60, &blob, &error) != TR_READY)
    luaL_error(L, "%s", error.message);
  tr_blob_release(blob);
  tr_future_release(future);
}

/* fetch(url, ca_file, n, at_once, sliding [, digest]) -> seconds of n fetches: a
** window that slides, or batches */
static int fetch(lua_State *L) {
  const char *url = luaL_checkstring(L, 1);
  lua_Integer n = luaL_checkinteger(L, 3), i;
  lua_Integer at_once = luaL_checkinteger(L, 4), open = 0;
  int sliding = lua_toboolean(L, 5);
  tr_fetch_options options = TR_FETCH_OPTIONS;
  tr_future *futures[MAX_AT_ONCE];
  double started = now();
  luaL_argcheck(L, at_once > 0 && at_once <= MAX_AT_ONCE, 4, "1 to 1024");
  options.ca_file = luaL_checkstring(L, 2);
  options.digest = luaL_optstring(L, 6, NULL);
  for (i = 0; i < n; i++) {
    if (sliding && open == at_once) {
      finish(L, futures[i % at_once]);
      open--;
    }
    futures[i % at_once] = start(L, url, &options);
    open++;
    if (!sliding && open == at_once)
      while (open > 0)
        finish(L, futures[--open]);
  }
  for (i = n - open; i < n; i++)
    finish(L, futures[i % at_once]);
  lua_pushnumber(L, now() - started);
  return 1;
}

/* count(n, timed) -> seconds of adding to a counter, or a duration to a histogram, n times */
static int count(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1), i;
  int timed = lua_toboolean(L, 2);
  double started = now();
  for (i = 0; i < n; i++) {
    if (timed)
      tr_count_time(TR_TIME_FETCH + TR_PHASE_TOTAL, 0.01);
    else
      tr_count(TR_COUNT_RETRIES, 1);
  }
  lua_pushnumber(L, now() - started);
  return 1;
}

__attribute__((visibility("default"))) int luaopen_ours(lua_State *L) {
  static const luaL_Reg functions[] = {{"fetch", fetch}, {"count", count}, {NULL, NULL}};
  tr_engine_options limits = TR_ENGINE_OPTIONS;
  limits.max_connections = limits.max_host_connections = MAX_AT_ONCE;
  tr_engine_configure(&limits, NULL);
  luaL_newlib(L, functions);
  return 1;
}
