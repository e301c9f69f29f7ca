/* Copies values from one Lua state to another, within bounds. */
#include <string.h>

#include "lsandbox.h"

enum {
  MAX_LEVELS = 64,              /* of tables in tables */
  MAX_BYTES = 32 * 1024 * 1024, /* of values passed on at once, however they share */
  /* of keys that are numbers, outside of sequences. A script can choose them so that
  ** each meets all others in the copy, and again whenever the copy is read. */
  MAX_NUMBERS = 4096
};

/* The least memory that values take in the state that they are copied to. */
enum { VALUE_SIZE = 16, STRING_SIZE = 24, TABLE_SIZE = 56, PROXY_SIZE = 64 };

/* TABLE and up: its mark is added; the counts of a table_size, the values of its sequence
** and the other keys with their values follow. WRITTEN: a number, as its text. */
enum { NIL, FALSE, TRUE, INTEGER, FLOAT, WRITTEN, STRING, FUNCTION, NOTHING, VIEW,
       TABLE };

/* How many items a table has. */
typedef struct table_size {
  lua_Integer sequence, others;
} table_size;

static const char *append(tr_buffer *out, const void *data, size_t size) {
  return tr_buffer_append(out, data, size) ? NULL : tr_no_memory;
}

/* Begin a value that takes 'size' bytes on the other side. */
static const char *put_tag(codec *how, tr_buffer *out, char tag, size_t size) {
  how->size += VALUE_SIZE;
  if (size > MAX_BYTES || how->size + size > MAX_BYTES)
    return "more than 32 MiB of values";
  how->size += size;
  if (how->box != NULL && !tr_sandbox_spend(how->box, 1))
    return how->box->why;
  return append(out, &tag, 1);
}

static const char *put(codec *how, tr_buffer *out, char tag, const void *data,
                       size_t size) {
  const char *fault = put_tag(how, out, tag, 0);
  return fault != NULL ? fault : append(out, data, size);
}

static const char *encode_string(lua_State *from, int index, char tag, codec *how,
                                 tr_buffer *out) {
  size_t len;
  const char *s = lua_tolstring(from, index, &len);
  const char *fault;
  if (how->is_lent && len > TR_SANDBOX_MAX_STRING)
    return "a string of more than 4 MiB";
  fault = put_tag(how, out, tag, STRING_SIZE + len);
  if (fault == NULL)
    fault = append(out, &len, sizeof len);
  return fault != NULL ? fault : append(out, s, len);
}

static const char *encode_function(lua_State *from, int index, codec *how,
                                   tr_buffer *out) {
  lua_Integer id;
  const char *fault;
  if (how->functions == 0)
    return "a function";
  fault = put_tag(how, out, FUNCTION, PROXY_SIZE);
  if (fault != NULL)
    return fault;
  id = (lua_Integer)lua_rawlen(from, how->functions) + 1;
  lua_pushvalue(from, index);
  lua_rawseti(from, how->functions, id);
  return append(out, &id, sizeof id);
}

static const char *encode(lua_State *from, int index, codec *how,
                          tr_buffer *out, int level);

/* The value of an item whose key is below it, the two on top; its text if it is
** a number that has one in the table at 'texts'. */
static const char *encode_item(lua_State *from, int texts, codec *how,
                               tr_buffer *out, int level) {
  int value = lua_gettop(from);
  const char *fault;
  if (lua_istable(from, texts) && lua_type(from, value) == LUA_TNUMBER) {
    lua_pushvalue(from, value - 1);
    if (lua_rawget(from, texts) == LUA_TSTRING) {
      lua_stringtonumber(from, lua_tostring(from, -1));
      if (lua_rawequal(from, -1, value)) {
        fault = encode_string(from, value + 1, WRITTEN, how, out);
        lua_settop(from, value);
        return fault;
      }
    }
    lua_settop(from, value);
  }
  return encode(from, value, how, out, level);
}

/* Encode the values of a table from 1 on up to the first that is nil. */
static const char *encode_sequence(lua_State *from, int index, int texts, codec *how,
                                   tr_buffer *out, int level, lua_Integer *count) {
  const char *fault = NULL;
  for (*count = 0; fault == NULL; ++*count) {
    lua_pushinteger(from, *count + 1);
    if (lua_rawgeti(from, index, *count + 1) == LUA_TNIL)
      break;
    fault = encode_item(from, texts, how, out, level);
    lua_settop(from, texts);
  }
  lua_settop(from, texts);
  return fault;
}

/* Encode the items of a table that are not in its sequence. */
static const char *encode_others(lua_State *from, int index, int texts, codec *how,
                                 tr_buffer *out, int level, table_size *size) {
  const char *fault = NULL;
  int key = texts + 1;
  lua_pushnil(from);
  while (fault == NULL && lua_next(from, index) != 0) {
    if (!lua_isinteger(from, key) || (lua_Unsigned)lua_tointeger(from, key) - 1 >=
                                         (lua_Unsigned)size->sequence) {
      if (lua_type(from, key) == LUA_TNUMBER && ++how->numbers > MAX_NUMBERS)
        return "more than 4096 numbers as keys outside of sequences";
      fault = encode(from, key, how, out, level);
      if (fault == NULL)
        fault = encode_item(from, texts, how, out, level);
      size->others++;
    }
    lua_pop(from, 1);
  }
  return fault;
}

static const char *encode_table(lua_State *from, int index, codec *how,
                                tr_buffer *out, int level) {
  table_size size = {0};
  const char *fault;
  size_t at;
  int texts;
  if (level == MAX_LEVELS || !lua_checkstack(from, 6))
    return "tables nested more than 64 deep, or in a circle";
  fault = put_tag(how, out, (char)(TABLE + tr_markof(from, index)), TABLE_SIZE);
  at = out->len;
  if (fault == NULL)
    fault = append(out, &size, sizeof size);
  if (fault != NULL)
    return fault;
  tr_pushwritten(from, index);
  texts = lua_gettop(from);
  fault = encode_sequence(from, index, texts, how, out, level + 1, &size.sequence);
  if (fault == NULL)
    fault = encode_others(from, index, texts, how, out, level + 1, &size);
  lua_settop(from, texts - 1);
  memcpy(out->data + at, &size, sizeof size);
  return fault;
}

static const char *encode(lua_State *from, int index, codec *how,
                          tr_buffer *out, int level) {
  lua_Integer integer;
  lua_Number number;
  tr_blob *blob;
  switch (lua_type(from, index)) {
  case LUA_TNIL:
    return put(how, out, NIL, NULL, 0);
  case LUA_TBOOLEAN:
    return put(how, out, lua_toboolean(from, index) ? TRUE : FALSE, NULL, 0);
  case LUA_TNUMBER:
    integer = lua_tointegerx(from, index, NULL);
    number = lua_tonumberx(from, index, NULL);
    return lua_isinteger(from, index)
               ? put(how, out, INTEGER, &integer, sizeof integer)
               : put(how, out, FLOAT, &number, sizeof number);
  case LUA_TSTRING:
    return encode_string(from, index, STRING, how, out);
  case LUA_TFUNCTION:
    return encode_function(from, index, how, out);
  case LUA_TLIGHTUSERDATA: /* NULL alone: JSON's null */
    if (lua_touserdata(from, index) != NULL)
      return "a userdata";
    return put(how, out, NOTHING, NULL, 0);
  case LUA_TTABLE:
    return encode_table(from, index, how, out, level);
  case LUA_TUSERDATA:
    blob = how->has_views ? tr_toblob(from, index) : NULL;
    return blob != NULL ? put(how, out, VIEW, &blob, sizeof blob) : "a userdata";
  default:
    return lua_typename(from, lua_type(from, index));
  }
}

const char *tr_encode(lua_State *from, int index, codec *how, tr_buffer *out) {
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

/* Push a table of its full size at once: growing it would place its keys again. */
static bool take_table(lua_State *to, const char **at, tr_proxy *proxy, sandbox *box,
                       tr_mark mark) {
  table_size size;
  lua_Integer i;
  take(at, &size, sizeof size);
  lua_createtable(to, (int)size.sequence, (int)size.others);
  if (mark != TR_MARK_NONE)
    tr_setmark(to, mark);
  for (i = 1; i <= size.sequence; i++) {
    lua_pushinteger(to, i);
    if (!tr_decode(to, at, proxy, box))
      return false;
    lua_rawset(to, -3);
  }
  for (i = 0; i < size.others; i++) {
    if (!tr_decode(to, at, proxy, box) || !tr_decode(to, at, proxy, box))
      return false;
    lua_rawset(to, -3);
  }
  return true;
}

bool tr_decode(lua_State *to, const char **at, tr_proxy *proxy, sandbox *box) {
  char tag = *(*at)++;
  lua_Integer integer;
  lua_Number number;
  tr_blob *blob;
  size_t len;
  if (!tr_sandbox_spend(box, 1))
    return false;
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
  case VIEW:
    take(at, &blob, sizeof blob);
    tr_view_push(to, blob);
    break;
  case FUNCTION:
    take(at, &integer, sizeof integer);
    proxy(to, integer);
    break;
  case WRITTEN:
    take_written(to, at);
    break;
  default:
    return take_table(to, at, proxy, box, (tr_mark)(tag - TABLE));
  }
  return true;
}
