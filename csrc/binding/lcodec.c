/* Copies values from one Lua state to another, within bounds. */
#include <string.h>

#include "lsandbox.h"

enum {
  MAX_LEVELS = 64,                   /* of tables in tables */
  MAX_BYTES = 32 * 1024 * 1024       /* of one value, however it shares */
};

enum { NIL, FALSE, TRUE, INTEGER, FLOAT, STRING, TABLE, END, FUNCTION, NOTHING };

static bool put(tr_buffer *out, char tag, const void *data, size_t size) {
  return out->len + size < MAX_BYTES && tr_buffer_append(out, &tag, 1) &&
         tr_buffer_append(out, data, size);
}

static const char *const too_large = "more than 32 MiB of values";

static const char *encode_string(lua_State *from, int index, tr_buffer *out) {
  size_t len;
  const char *s = lua_tolstring(from, index, &len);
  return put(out, STRING, &len, sizeof len) && len < MAX_BYTES &&
                 tr_buffer_append(out, s, len)
             ? NULL
             : too_large;
}

static const char *encode_function(lua_State *from, int index,
                                   const codec *how, tr_buffer *out) {
  lua_Integer id;
  if (how->functions == 0)
    return "a function";
  id = (lua_Integer)lua_rawlen(from, how->functions) + 1;
  lua_pushvalue(from, index);
  lua_rawseti(from, how->functions, id);
  return put(out, FUNCTION, &id, sizeof id) ? NULL : too_large;
}

static const char *encode(lua_State *from, int index, const codec *how,
                          tr_buffer *out, int level) {
  lua_Integer integer;
  lua_Number number;
  const char *fault = NULL;
  switch (lua_type(from, index)) {
  case LUA_TNIL:
    return put(out, NIL, NULL, 0) ? NULL : too_large;
  case LUA_TBOOLEAN:
    return put(out, lua_toboolean(from, index) ? TRUE : FALSE, NULL, 0)
               ? NULL
               : too_large;
  case LUA_TNUMBER:
    integer = lua_tointegerx(from, index, NULL);
    number = lua_tonumberx(from, index, NULL);
    return (lua_isinteger(from, index)
                ? put(out, INTEGER, &integer, sizeof integer)
                : put(out, FLOAT, &number, sizeof number))
               ? NULL
               : too_large;
  case LUA_TSTRING:
    return encode_string(from, index, out);
  case LUA_TFUNCTION:
    return encode_function(from, index, how, out);
  case LUA_TLIGHTUSERDATA: /* NULL alone: JSON's null */
    if (lua_touserdata(from, index) != NULL)
      return "a userdata";
    return put(out, NOTHING, NULL, 0) ? NULL : too_large;
  case LUA_TTABLE:
    break;
  default:
    return lua_typename(from, lua_type(from, index));
  }
  if (level == MAX_LEVELS || !lua_checkstack(from, 4))
    return "tables nested more than 64 deep, or in a circle";
  if (!put(out, TABLE, NULL, 0))
    return too_large;
  for (lua_pushnil(from); lua_next(from, index) != 0; lua_pop(from, 1)) {
    int top = lua_gettop(from);
    fault = encode(from, top - 1, how, out, level + 1);
    if (fault == NULL)
      fault = encode(from, top, how, out, level + 1);
    if (fault != NULL) {
      lua_pop(from, 2);
      return fault;
    }
  }
  return put(out, END, NULL, 0) ? NULL : too_large;
}

const char *tr_encode(lua_State *from, int index, const codec *how,
                      tr_buffer *out) {
  return encode(from, lua_absindex(from, index), how, out, 0);
}

static void take(const char **at, void *to, size_t size) {
  memcpy(to, *at, size);
  *at += size;
}

void tr_decode(lua_State *to, const char **at,
               void (*proxy)(lua_State *to, lua_Integer id, void *context),
               void *context) {
  char tag = *(*at)++;
  lua_Integer integer;
  lua_Number number;
  size_t len;
  luaL_checkstack(to, 4, "values");
  switch (tag) {
  case NIL:
    lua_pushnil(to);
    break;
  case FALSE:
  case TRUE:
    lua_pushboolean(to, tag == TRUE);
    break;
  case INTEGER:
    take(at, &integer, sizeof integer);
    lua_pushinteger(to, integer);
    break;
  case FLOAT:
    take(at, &number, sizeof number);
    lua_pushnumber(to, number);
    break;
  case STRING:
    take(at, &len, sizeof len);
    lua_pushlstring(to, *at, len);
    *at += len;
    break;
  case NOTHING:
    lua_pushlightuserdata(to, NULL);
    break;
  case FUNCTION:
    take(at, &integer, sizeof integer);
    proxy(to, integer, context);
    break;
  default: /* TABLE */
    lua_newtable(to);
    while (**at != END) {
      tr_decode(to, at, proxy, context);
      tr_decode(to, at, proxy, context);
      lua_rawset(to, -3);
    }
    (*at)++;
  }
}
