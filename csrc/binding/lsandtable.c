/*
** The functions of 'table' in a sandbox. Lua's own run for as long as a table claims to have
** elements, and a metamethod can claim any number; these take each off the budget.
*/
#include <limits.h>

#include <lualib.h>

#include "lsandbox.h"

/* Check that argument 1 is a table, and return its length. */
static lua_Integer check_length(lua_State *S) {
  luaL_checktype(S, 1, LUA_TTABLE);
  return luaL_len(S, 1);
}

/* Set element 'to' of the table at 'target' to element 'from' of argument 1. */
static void move_element(lua_State *S, int target, lua_Integer from, lua_Integer to) {
  tr_sandbox_charge(S, 1);
  lua_geti(S, 1, from);
  lua_seti(S, target, to);
}

/* Check that 'at' is from 1 up to 'last', neither of which need be sensible. */
static bool is_within(lua_Integer at, lua_Integer last) {
  return (lua_Unsigned)at - 1 < (lua_Unsigned)last;
}

static int table_insert(lua_State *S) {
  lua_Integer end = (lua_Integer)((lua_Unsigned)check_length(S) + 1), at = end, i;
  int count = lua_gettop(S);
  if (count != 2 && count != 3)
    return luaL_error(S, "wrong number of arguments to 'insert'");
  if (count == 3) {
    at = luaL_checkinteger(S, 2);
    luaL_argcheck(S, is_within(at, end), 2, "position out of bounds");
    for (i = end; i > at; i--)
      move_element(S, 1, i - 1, i);
  }
  lua_seti(S, 1, at);
  return 0;
}

static int table_remove(lua_State *S) {
  lua_Integer len = check_length(S), at = luaL_optinteger(S, 2, len);
  luaL_argcheck(S, at == len || (lua_Unsigned)at - 1 <= (lua_Unsigned)len, 2,
                "position out of bounds");
  lua_geti(S, 1, at);
  for (; at < len; at++)
    move_element(S, 1, at + 1, at);
  lua_pushnil(S);
  lua_seti(S, 1, at);
  return 1;
}

/* move(from, first, last, at [, to]) */
static int table_move(lua_State *S) {
  lua_Integer first = luaL_checkinteger(S, 2), last = luaL_checkinteger(S, 3);
  lua_Integer at = luaL_checkinteger(S, 4), i, count;
  int target = lua_isnoneornil(S, 5) ? 1 : 5;
  luaL_checktype(S, 1, LUA_TTABLE);
  luaL_checktype(S, target, LUA_TTABLE);
  if (last >= first) {
    luaL_argcheck(S, first > 0 || last < LUA_MAXINTEGER + first, 3,
                  "too many elements to move");
    count = last - first + 1;
    luaL_argcheck(S, at <= LUA_MAXINTEGER - count + 1, 4, "destination wrap around");
    if (at > last || at <= first || (target == 5 && !lua_compare(S, 1, 5, LUA_OPEQ))) {
      for (i = 0; i < count; i++)
        move_element(S, target, first + i, at + i);
    } else { /* the parts overlap */
      for (i = count - 1; i >= 0; i--)
        move_element(S, target, first + i, at + i);
    }
  }
  lua_pushvalue(S, target);
  return 1;
}

static int table_concat(lua_State *S) {
  size_t separator_len;
  lua_Integer len = check_length(S), i, last;
  const char *separator = luaL_optlstring(S, 2, "", &separator_len);
  luaL_Buffer out;
  i = luaL_optinteger(S, 3, 1);
  last = luaL_optinteger(S, 4, len);
  luaL_buffinit(S, &out);
  while (i <= last) {
    lua_geti(S, 1, i);
    if (!lua_isstring(S, -1))
      return luaL_error(S, "invalid value (%s) at index %I in table for 'concat'",
                        luaL_typename(S, -1), (LUAI_UACINT)i);
    tr_sandbox_charge(S, 1 + tr_sandbox_steps_of(S, -1) + separator_len / TR_SANDBOX_BYTES_A_STEP);
    luaL_addvalue(&out);
    if (i++ == last) /* which may be the largest integer */
      break;
    luaL_addlstring(&out, separator, separator_len);
  }
  luaL_pushresult(&out);
  return 1;
}

static int table_unpack(lua_State *S) {
  lua_Integer i = luaL_optinteger(S, 2, 1);
  lua_Integer last = lua_isnoneornil(S, 3) ? luaL_len(S, 1) : luaL_checkinteger(S, 3);
  lua_Unsigned count = (lua_Unsigned)last - (lua_Unsigned)i;
  if (i > last)
    return 0;
  if (count >= INT_MAX || !lua_checkstack(S, (int)(count + 1)))
    return luaL_error(S, "too many results to unpack");
  for (; i < last; i++) {
    tr_sandbox_charge(S, 1);
    lua_geti(S, 1, i);
  }
  lua_geti(S, 1, last);
  return (int)count + 1;
}

/* The comparison of 'sort'; upvalue 1 is the script's, or nil. */
static int is_less(lua_State *S) {
  tr_sandbox_charge(S, 1 + tr_sandbox_steps_of(S, 1) + tr_sandbox_steps_of(S, 2));
  lua_settop(S, 2);
  if (lua_isnil(S, lua_upvalueindex(1))) {
    lua_pushboolean(S, lua_compare(S, 1, 2, LUA_OPLT));
  } else {
    lua_pushvalue(S, lua_upvalueindex(1));
    lua_insert(S, 1);
    lua_call(S, 2, 1);
  }
  return 1;
}

/* Lua's own 'sort', which is upvalue 1. */
static int table_sort(lua_State *S) {
  luaL_checktype(S, 1, LUA_TTABLE);
  lua_settop(S, 2);
  if (lua_isnil(S, 2) || lua_isfunction(S, 2))
    lua_pushcclosure(S, is_less, 1);
  return lua_tocfunction(S, lua_upvalueindex(1))(S);
}

void tr_sandbox_open_tables(lua_State *S) {
  static const luaL_Reg functions[] = {
      {"insert", table_insert}, {"remove", table_remove}, {"move", table_move},
      {"concat", table_concat}, {"unpack", table_unpack}, {NULL, NULL}};
  luaL_setfuncs(S, functions, 0);
  lua_getfield(S, -2, "sort");
  lua_pushcclosure(S, table_sort, 1);
  lua_setfield(S, -2, "sort");
}
