/*
** libFuzzer targets, one for each value of TARGET: what comes from outside
** goes in, and nothing may crash, leak or take for ever. What is written in
** Lua is called as a host would call it, in a state that is kept.
*/
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "theaterref.h"

enum { MERGE, LABEL, REFERENCE, TOML, TEMPLATE, PLAN };

/* Each is called with the input; only errors of ours may come back. */
static const char *const scripts[] = {
    [REFERENCE] = "local r = require 'theaterref.reference' "
                  "return function(text) r.parse(text) r.join(text, 'a/../b') "
                  "r.join('https://h/x/y', text) r.join('store://s/a/b', text) "
                  "r.join('/a/b', text) end",
    [TOML] = "local t = require 'theaterref.toml' return function(text) "
             "t.parse(text) t.scan(text, { initial_state = true }) end",
    [TEMPLATE] =
        "local t = require 'theaterref.template' "
        "local state = '{\"a\":{\"b\":[1,2,{\"c\":\"d\"}]},\"e\":null}' "
        "return function(text) t.substitute_variables(text, state) end",
    [PLAN] = "local t = require 'theaterref' local text "
             "local r = assert(t.resolver { policy = { "
             "schemes = { fuzz = function() return text end }, "
             "allow = function(ref) return ref:find '^fuzz:' ~= nil end, "
             "secrets = function() return true end } }) "
             "return function(input) text = input "
             "r:plan('fuzz://manifest.' .. ({ 'toml', 'json', 'lua' })"
             "[1 + #input % 3]) end"};

static lua_State *L;

static void open_lua(void) {
  L = luaL_newstate();
  luaL_openlibs(L);
  luaL_requiref(L, "theaterref.core", luaopen_theaterref_core, 0);
  lua_settop(L, 0);
  if (luaL_dostring(L, scripts[TARGET]) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
}

static void call_lua(const uint8_t *data, size_t size) {
  if (L == NULL)
    open_lua();
  lua_pushvalue(L, 1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* faults are returned, not raised */
    fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
    abort();
  }
}

/* Two states, apart at the first zero byte. What came out is JSON again. */
static void merge(const uint8_t *data, size_t size) {
  const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
  size_t first = zero != NULL ? (size_t)(zero - data) : size;
  tr_blob *a = tr_blob_new(data, first);
  tr_blob *b = zero != NULL ? tr_blob_new(zero + 1, size - first - 1) : NULL;
  tr_error error;
  tr_blob *once = tr_merge_states(a, b, &error);
  if (once != NULL && b != NULL) {
    tr_blob *again = tr_merge_states(once, once, &error);
    if (again == NULL)
      abort();
    tr_blob_release(again);
  }
  tr_blob_release(once);
  tr_blob_release(a);
  tr_blob_release(b);
}

static void label(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1);
  memcpy(text, data, size);
  text[size] = '\0';
  if (tr_label_fault(text) == NULL &&
      (strstr(text, "/../") != NULL || text[0] == '/' || text[0] == '\0' ||
       strstr(text, "//") != NULL || strcmp(text, "..") == 0))
    abort();
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  switch (TARGET) {
  case MERGE:
    merge(data, size);
    break;
  case LABEL:
    label(data, size);
    break;
  default:
    call_lua(data, size);
  }
  return 0;
}
