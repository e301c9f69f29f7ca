/* Copies values from one Lua state to another, within bounds. */
#include <string.h>

#include "lsandbox.h"

enum {
  MAX_LEVELS = 64,                   /* of tables in tables */
  MAX_BYTES = 32 * 1024 * 1024       /* of one value, however it shares */
};

/* TABLE and up: its mark is added. WRITTEN: a number, as its text. */
enum {
  NIL, FALSE, TRUE, INTEGER, FLOAT, WRITTEN, STRING, END, FUNCTION, NOTHING, TABLE
};

static bool put(tr_buffer *out, char tag, const void *data, size_t size) {
  return out->len + size < MAX_BYTES && tr_buffer_append(out, &tag, 1) &&
         tr_buffer_append(out, data, size);
}

static const char *const too_large = "more than 32 MiB of values";

static const char *encode_string(lua_State *from, int index, char tag,
                                 tr_buffer *out) {
  size_t len;
  const char *s = lua_tolstring(from, index, &len);
  return put(out, tag, &len, sizeof len) && len < MAX_BYTES &&
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
                          tr_buffer *out, int level);

/* The value of an item whose key is below it, the two on top; its text if it is
** a number that has one in the table at 'texts'. */
static const char *encode_item(lua_State *from, int texts, const codec *how,
                               tr_buffer *out, int level) {
  int value = lua_gettop(from);
  const char *fault;
  if (lua_istable(from, texts) && lua_type(from, value) == LUA_TNUMBER) {
    lua_pushvalue(from, value - 1);
    if (lua_rawget(from, texts) == LUA_TSTRING) {
      lua_stringtonumber(from, lua_tostring(from, -1));
      if (lua_rawequal(from, -1, value)) {
        fault = encode_string(from, value + 1, WRITTEN, out);
        lua_settop(from, value);
        return fault;
      }
    }
    lua_settop(from, value);
  }
  return encode(from, value, how, out, level);
}

static const char *encode_table(lua_State *from, int index, const codec *how,
                                tr_buffer *out, int level) {
  const char *fault = NULL;
  int texts;
  if (level == MAX_LEVELS || !lua_checkstack(from, 6))
    return "tables nested more than 64 deep, or in a circle";
  if (!put(out, (char)(TABLE + tr_markof(from, index)), NULL, 0))
    return too_large;
  tr_pushwritten(from, index);
  texts = lua_gettop(from);
  lua_pushnil(from);
  while (fault == NULL && lua_next(from, index) != 0) {
    fault = encode(from, texts + 1, how, out, level + 1);
    if (fault == NULL)
      fault = encode_item(from, texts, how, out, level + 1);
    lua_pop(from, 1);
  }
  lua_settop(from, texts - 1);
  if (fault != NULL)
    return fault;
  return put(out, END, NULL, 0) ? NULL : too_large;
}

static const char *encode(lua_State *from, int index, const codec *how,
                          tr_buffer *out, int level) {
  lua_Integer integer;
  lua_Number number;
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
    return encode_string(from, index, STRING, out);
  case LUA_TFUNCTION:
    return encode_function(from, index, how, out);
  case LUA_TLIGHTUSERDATA: /* NULL alone: JSON's null */
    if (lua_touserdata(from, index) != NULL)
      return "a userdata";
    return put(out, NOTHING, NULL, 0) ? NULL : too_large;
  case LUA_TTABLE:
    return encode_table(from, index, how, out, level);
  default:
    return lua_typename(from, lua_type(from, index));
  }
}

const char *tr_encode(lua_State *from, int index, const codec *how,
                      tr_buffer *out) {
  return encode(from, lua_absindex(from, index), how, out, 0);
}

static void take(const char **at, void *to, size_t size) {
  memcpy(to, *at, size);
  *at += size;
}

/* Pushes a number for the table and the key on top, and keeps its text beside it. */
static void take_written(lua_State *to, const char **at) {
  size_t len;
  take(at, &len, sizeof len);
  tr_setwritten(to, *at, len);
  lua_pushlstring(to, *at, len);
  lua_stringtonumber(to, lua_tostring(to, -1));
  lua_remove(to, -2);
  *at += len;
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
  case WRITTEN:
    take_written(to, at);
    break;
  default:
    lua_newtable(to);
    if (tag != TABLE)
      tr_setmark(to, (tr_mark)(tag - TABLE));
    while (**at != END) {
      tr_decode(to, at, proxy, context);
      tr_decode(to, at, proxy, context);
      lua_rawset(to, -3);
    }
    (*at)++;
  }
}
