/* Arguments, options and errors, the same way in every binding. */
#include "lutil.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

const char *tr_checkbytes(lua_State *L, int index, size_t *len) {
  lblob *blob = luaL_testudata(L, index, TR_BLOB);
  if (blob != NULL && blob->blob != NULL) {
    *len = tr_blob_size(blob->blob);
    return tr_blob_data(blob->blob);
  }
  if (lua_type(L, index) != LUA_TSTRING)
    luaL_typeerror(L, index, "string or blob");
  return lua_tolstring(L, index, len);
}

const char *tr_checkcstring(lua_State *L, int index) {
  size_t len;
  const char *s;
  luaL_checktype(L, index, LUA_TSTRING);
  s = lua_tolstring(L, index, &len);
  luaL_argcheck(L, strlen(s) == len, index, "holds a zero byte");
  return s;
}

bool tr_checkname(lua_State *L, int index, const char **name, tr_error *error) {
  size_t len;
  luaL_checktype(L, index, LUA_TSTRING);
  *name = lua_tolstring(L, index, &len);
  if (strlen(*name) == len)
    return true;
  tr_error_set(error, TR_INVALID_REFERENCE,
               "Invalid name '%s': it has a zero byte in it", *name);
  return false;
}

/* The coroutine that waits, and the hooks when its wait began: Ctrl-C sets one of the
** main thread's, which no coroutine runs. */
static _Thread_local lua_State *waiting, *main_thread;
static _Thread_local int hooks, main_hooks;

void tr_note_hooks(lua_State *L) {
  waiting = L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main_thread = lua_tothread(L, -1);
  lua_pop(L, 1);
  hooks = lua_gethookmask(L);
  main_hooks = lua_gethookmask(main_thread);
}

bool tr_has_new_hook(void) {
  return lua_gethookmask(waiting) != hooks ||
         lua_gethookmask(main_thread) != main_hooks;
}

void tr_take_hook(void) {
  if (waiting != main_thread && lua_gethookmask(waiting) == 0 &&
      lua_gethookmask(main_thread) != main_hooks)
    lua_sethook(waiting, lua_gethook(main_thread), lua_gethookmask(main_thread),
                lua_gethookcount(main_thread));
}

static bool is_hooked(void *unused) {
  (void)unused;
  return tr_has_new_hook();
}

void tr_begin_wait(lua_State *L) {
  tr_note_hooks(L);
  tr_interrupt_if(is_hooked, NULL);
}

void tr_end_wait(void) {
  tr_interrupt_if(NULL, NULL);
  tr_take_hook();
}

size_t tr_optmax(lua_State *L, int index) {
  lua_Integer max = luaL_optinteger(L, index, -1);
  return max < 0 || (lua_Unsigned)max > SIZE_MAX ? SIZE_MAX : (size_t)max;
}

tr_store *tr_checkstore(lua_State *L) {
  lstore *s = luaL_checkudata(L, 1, TR_STORE);
  luaL_argcheck(L, s->store != NULL, 1, "store is closed");
  return s->store;
}

int tr_pusherror(lua_State *L, const tr_error *error) {
  lua_pushnil(L);
  lua_createtable(L, 0, 6);
  lua_pushstring(L, tr_error_kind_name(error->kind));
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, error->message);
  lua_setfield(L, -2, "message");
  if (error->status != 0) {
    lua_pushinteger(L, error->status);
    lua_setfield(L, -2, "status");
  }
  if (error->errnum != 0) {
    lua_pushinteger(L, error->errnum);
    lua_setfield(L, -2, "errno");
  }
  luaL_setmetatable(L, TR_ERROR);
  return 2;
}

int tr_pushflag(lua_State *L, int flag, const tr_error *error) {
  if (flag < 0)
    return tr_pusherror(L, error);
  lua_pushboolean(L, flag);
  return 1;
}

void tr_newtype(lua_State *L, const char *name, const luaL_Reg *methods) {
  luaL_newmetatable(L, name);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "theaterref");
  lua_setfield(L, -2, "__metatable"); /* nobody outside reaches __gc */
  luaL_setfuncs(L, methods, 0);
}

void tr_add_pair(lua_State *L, lua_CFunction function, const char *plain,
                 const char *other) {
  lua_pushboolean(L, 0);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, -2, plain);
  lua_pushboolean(L, 1);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, -2, other);
}

/* Pushes a field of an options table; its type, or LUA_TNIL. */
static int option(lua_State *L, int index, const char *name) {
  if (lua_isnoneornil(L, index)) {
    lua_pushnil(L);
    return LUA_TNIL;
  }
  luaL_checktype(L, index, LUA_TTABLE);
  return lua_getfield(L, index, name);
}

double tr_optseconds(lua_State *L, int index, const char *name,
                     double otherwise) {
  double value = otherwise;
  if (option(L, index, name) != LUA_TNIL) {
    value = lua_tonumber(L, -1);
    if (lua_type(L, -1) != LUA_TNUMBER || isnan(value))
      luaL_error(L, "'%s' must be a number of seconds", name);
  }
  lua_pop(L, 1);
  return value;
}

size_t tr_optsize(lua_State *L, int index, const char *name, size_t otherwise) {
  size_t value = otherwise;
  if (option(L, index, name) != LUA_TNIL) {
    int exact;
    lua_Integer given = lua_tointegerx(L, -1, &exact);
    if (lua_type(L, -1) != LUA_TNUMBER || !exact || given < 0)
      luaL_error(L, "'%s' must be a whole number, 0 or more", name);
    value = (lua_Unsigned)given < SIZE_MAX ? (size_t)given : SIZE_MAX;
  }
  lua_pop(L, 1);
  return value;
}

bool tr_optbool(lua_State *L, int index, const char *name, bool otherwise) {
  bool value = otherwise;
  if (option(L, index, name) != LUA_TNIL) {
    if (lua_type(L, -1) != LUA_TBOOLEAN)
      luaL_error(L, "'%s' must be true or false", name);
    value = lua_toboolean(L, -1);
  }
  lua_pop(L, 1);
  return value;
}

const char *tr_optstring(lua_State *L, int index, const char *name) {
  const char *s = NULL;
  size_t len;
  if (option(L, index, name) != LUA_TNIL) {
    if (lua_type(L, -1) != LUA_TSTRING)
      luaL_error(L, "'%s' must be a string", name);
    s = lua_tolstring(L, -1, &len);
    if (strlen(s) != len)
      luaL_error(L, "'%s' holds a zero byte", name);
  }
  lua_pop(L, 1);
  return s;
}

int tr_optcount(lua_State *L, int index, const char *name, int otherwise) {
  size_t value = tr_optsize(L, index, name, (size_t)otherwise);
  if (value > INT_MAX)
    luaL_error(L, "'%s' is too large", name);
  return (int)value;
}

void tr_set_text(lua_State *L, const char *name, const char *text) {
  if (text == NULL || text[0] == '\0')
    return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}
