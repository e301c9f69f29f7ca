/*
** libFuzzer on one of the functions in targets.lua, the one that the environment's
** FUZZ_TARGET names. The C of ours is instrumented; of the Lua, a hook tells libFuzzer which lines
** follow on which, as if they were edges of C.
*/
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "theaterref.h"

enum { COUNTERS = 1 << 16 };

/* libFuzzer looks at what is in this section as it does at its own counters. */
__attribute__((used, section("__libfuzzer_extra_counters")))
static uint8_t counters[COUNTERS];

static lua_State *L;

static void on_line(lua_State *running, lua_Debug *at) {
  static uintptr_t last;
  uintptr_t here;
  lua_getinfo(running, "S", at);
  here = ((uintptr_t)at->source >> 4) * 31 + (uintptr_t)at->currentline * 2654435761u;
  counters[(here ^ last) % COUNTERS]++;
  last = here >> 1;
}

static void open_lua(void) {
  const char *target = getenv("FUZZ_TARGET");
  L = luaL_newstate();
  luaL_openlibs(L);
  luaL_requiref(L, "theaterref.core", luaopen_theaterref_core, 0);
  lua_settop(L, 0);
  if (luaL_dofile(L, "spec/fuzz/targets.lua") != LUA_OK ||
      lua_getfield(L, 1, target != NULL ? target : "") != LUA_TFUNCTION) {
    fprintf(stderr, "FUZZ_TARGET names no target: %s\n", lua_tostring(L, -1));
    abort();
  }
  lua_sethook(L, on_line, LUA_MASKLINE, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (L == NULL)
    open_lua();
  lua_pushvalue(L, 2);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* faults are returned, not raised */
    fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
    abort();
  }
  return 0;
}
