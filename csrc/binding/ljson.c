/* JSON in Lua: a strict decoder that loses nothing, and the merge; and the marks of
** arrays and dates, and the texts of numbers, that tables carry along. */
#include <string.h>

#include "core/error.h"
#include "core/json.h"
#include "lutil.h"

#define TR_NUMBER "theaterref.number"

/* Their addresses are the keys of the marks' metatables in the registry. */
static const char mark_keys[TR_MARK_COUNT];

/* In the registry: by table, which is a weak key, its numbers as they were
** written, by key. */
static const char written_key;

typedef struct reader {
  lua_State *L;
  tr_json json;
  lblob *scratch_owner; /* owns the decoded string while Lua may raise */
  bool exact; /* numbers that Lua cannot write back the same become text */
  bool written; /* how those were written is kept beside them */
} reader;

tr_mark tr_markof(lua_State *L, int index) {
  int mark = TR_MARK_NONE;
  if (!lua_getmetatable(L, index))
    return TR_MARK_NONE;
  for (mark = TR_MARK_COUNT - 1; mark > TR_MARK_NONE; mark--) {
    bool same;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &mark_keys[mark]);
    same = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
    if (same)
      break;
  }
  lua_pop(L, 1);
  return (tr_mark)mark;
}

/* Push the metatable of a mark, made if there is none; false then. */
static bool push_metatable(lua_State *L, tr_mark mark) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &mark_keys[mark]) == LUA_TTABLE)
    return true;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &mark_keys[mark]);
  return false;
}

void tr_setmark(lua_State *L, tr_mark mark) {
  if (!push_metatable(L, mark)) { /* in a sandbox: no script may change it */
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
  }
  lua_setmetatable(L, -2);
}

bool tr_pushwritten(lua_State *L, int index) {
  index = lua_absindex(L, index);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &written_key) == LUA_TTABLE) {
    lua_pushvalue(L, index);
    lua_rawget(L, -2);
    lua_remove(L, -2);
  }
  return lua_istable(L, -1);
}

/* Push the table at 'written_key', made if there is none. */
static void push_all_written(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &written_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &written_key);
}

void tr_setwritten(lua_State *L, const char *text, size_t len) {
  luaL_checkstack(L, 6, "JSON");
  if (!tr_pushwritten(L, -2)) {
    lua_pop(L, 1);
    push_all_written(L);
    lua_pushvalue(L, -3);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_insert(L, -4);
    lua_rawset(L, -3);
    lua_pop(L, 1);
  }
  lua_pushvalue(L, -2);
  lua_pushlstring(L, text, len);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

static int bad(reader *r, tr_error *error) {
  const char *at = r->json.text, *p;
  size_t line = 1, column;
  for (p = at; p < r->json.at; p++)
    if (*p == '\n') {
      line++;
      at = p + 1;
    }
  column = (size_t)(r->json.at - at) + 1;
  tr_error_set(error, TR_SYNTAX, "invalid JSON at line %zu, column %zu: %s",
               line, column, r->json.complaint);
  return -1;
}

/* Pushes what a string or key token means. */
static void push_string(reader *r, tr_json_token token) {
  tr_buffer decoded = {0};
  bool ok;
  if (!token.escaped) {
    lua_pushlstring(r->L, token.text + 1, token.len - 2);
    return;
  }
  ok = tr_json_decode(token, &decoded);
  tr_blob_release(r->scratch_owner->blob);
  r->scratch_owner->blob = tr_buffer_to_blob(&decoded);
  if (!ok || r->scratch_owner->blob == NULL)
    luaL_error(r->L, "out of memory");
  lua_pushlstring(r->L, tr_blob_data(r->scratch_owner->blob),
                  tr_blob_size(r->scratch_owner->blob));
}

/* True if Lua writes the number on top as the token has it. */
static bool prints_same(lua_State *L, tr_json_token token) {
  size_t len;
  const char *printed;
  bool same;
  lua_pushvalue(L, -1);
  printed = lua_tolstring(L, -1, &len);
  same = len == token.len && memcmp(printed, token.text, len) == 0;
  lua_pop(L, 1);
  return same;
}

/*
** Pushes a number: an integer where it is one that fits, else a float. In
** exact mode whatever would not print the same is a table { text = … } of the
** type theaterref.number instead.
*/
static void push_number(reader *r, tr_json_token token) {
  lua_State *L = r->L;
  lua_pushlstring(L, token.text, token.len);
  if (lua_stringtonumber(L, lua_tostring(L, -1)) == 0)
    luaL_error(L, "unreadable number"); /* JSON's are all readable to Lua */
  if (!r->exact || prints_same(L, token)) {
    lua_remove(L, -2);
    return;
  }
  lua_pop(L, 1);
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_setfield(L, -2, "text");
  luaL_setmetatable(L, TR_NUMBER);
}

/* Sets the item whose key and value are on top, and pops both. */
static void set_item(reader *r, tr_json_token token) {
  lua_State *L = r->L;
  if (r->written && token.type == TR_JSON_NUMBER && !prints_same(L, token)) {
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    tr_setwritten(L, token.text, token.len);
    lua_pop(L, 2);
  }
  lua_rawset(L, -3);
}

static int push_value(reader *r, tr_json_token token, tr_error *error);

/* Pushes an array. Recursion is bounded: the reader refuses level 128. */
static int push_array(reader *r, tr_error *error) {
  lua_Integer count = 0;
  lua_newtable(r->L);
  tr_setmark(r->L, TR_MARK_ARRAY);
  for (;;) {
    tr_json_token token = tr_json_next(&r->json);
    if (token.type == TR_JSON_CLOSE_ARRAY)
      return 0;
    lua_pushinteger(r->L, ++count);
    if (push_value(r, token, error) != 0)
      return -1;
    set_item(r, token);
  }
}

static int push_object(reader *r, tr_error *error) {
  lua_newtable(r->L);
  for (;;) {
    tr_json_token token = tr_json_next(&r->json);
    if (token.type == TR_JSON_CLOSE_OBJECT)
      return 0;
    if (token.type == TR_JSON_ERROR)
      return bad(r, error);
    push_string(r, token);
    token = tr_json_next(&r->json);
    if (push_value(r, token, error) != 0)
      return -1;
    set_item(r, token);
  }
}

static int push_value(reader *r, tr_json_token token, tr_error *error) {
  luaL_checkstack(r->L, 8, "JSON");
  switch (token.type) {
  case TR_JSON_OPEN_OBJECT:
    return push_object(r, error);
  case TR_JSON_OPEN_ARRAY:
    return push_array(r, error);
  case TR_JSON_STRING:
    push_string(r, token);
    return 0;
  case TR_JSON_NUMBER:
    push_number(r, token);
    return 0;
  case TR_JSON_TRUE:
  case TR_JSON_FALSE:
    lua_pushboolean(r->L, token.type == TR_JSON_TRUE);
    return 0;
  case TR_JSON_NULL:
    lua_pushlightuserdata(r->L, NULL); /* as lua-cjson has it */
    return 0;
  default:
    return bad(r, error);
  }
}

/*
** json_decode(text [, exact [, written]]) -> value | nil, error
** null is json_null; arrays carry the metatable json_array. 'written': keep the
** texts of numbers that Lua writes in another way, for json_written.
*/
static int json_decode(lua_State *L) {
  size_t len;
  const char *text = tr_checkbytes(L, 1, &len);
  reader r = {
      .L = L, .exact = lua_toboolean(L, 2), .written = lua_toboolean(L, 3)};
  tr_error error;
  r.scratch_owner = tr_newblob(L);
  tr_json_start(&r.json, text, len);
  if (push_value(&r, tr_json_next(&r.json), &error) != 0)
    return tr_pusherror(L, &error);
  if (tr_json_next(&r.json).type != TR_JSON_END) {
    bad(&r, &error);
    return tr_pusherror(L, &error);
  }
  return 1;
}

/* A state as a blob that the userdata pushed for it owns; nil is none. */
static tr_blob *checkstate(lua_State *L, int index) {
  size_t len;
  const char *bytes;
  lblob *b;
  if (lua_isnoneornil(L, index))
    return NULL;
  bytes = tr_checkbytes(L, index, &len);
  if (tr_toblob(L, index) != NULL)
    return tr_toblob(L, index);
  b = tr_newblob(L);
  b->blob = tr_blob_new(bytes, len);
  if (b->blob == NULL)
    luaL_error(L, "out of memory");
  return b->blob;
}

/* merge_initial_states(config, override) -> string | nil [, error] */
static int merge_initial_states(lua_State *L) {
  tr_error error;
  tr_blob *config, *override;
  lblob *merged;
  lua_settop(L, 2);
  config = checkstate(L, 1);
  override = checkstate(L, 2);
  merged = tr_newblob(L);
  merged->blob = tr_merge_states(config, override, &error);
  if (merged->blob == NULL && error.kind != TR_OK)
    return tr_pusherror(L, &error);
  if (merged->blob == NULL)
    lua_pushnil(L);
  else
    lua_pushlstring(L, tr_blob_data(merged->blob), tr_blob_size(merged->blob));
  return 1;
}

/* Pushes a value's raw text, from its first token to its last. */
static void push_raw(lua_State *L, const char *from, tr_json_token last) {
  lua_pushlstring(L, from, (size_t)(last.text + last.len - from));
}

/*
** json_split(text) -> "object", { key, value, … } | "array", { value, … } |
** "other" | nil, error. Values are raw JSON text, so nothing is lost; the
** second result of an object holds decoded keys and values by turns.
*/
static int json_split(lua_State *L) {
  size_t len;
  const char *text = tr_checkbytes(L, 1, &len), *value = NULL;
  reader r = {.L = L};
  tr_error error;
  tr_json_token token;
  tr_json_type type;
  lua_Integer count = 0;
  r.scratch_owner = tr_newblob(L);
  lua_newtable(L);
  tr_json_start(&r.json, text, len);
  token = tr_json_next(&r.json);
  type = token.type;
  while (token.type != TR_JSON_END && token.type != TR_JSON_ERROR) {
    token = tr_json_next(&r.json);
    if (r.json.depth == 0 || token.type == TR_JSON_END ||
        token.type == TR_JSON_ERROR)
      continue;
    if (r.json.depth == 1 && token.type == TR_JSON_KEY) {
      push_string(&r, token);
      lua_rawseti(L, -2, ++count);
      continue;
    }
    if (value == NULL)
      value = token.text;
    if (r.json.depth == 1) {
      push_raw(L, value, token);
      lua_rawseti(L, -2, ++count);
      value = NULL;
    }
  }
  if (token.type == TR_JSON_ERROR) {
    bad(&r, &error);
    return tr_pusherror(L, &error);
  }
  lua_pushstring(L, type == TR_JSON_OPEN_OBJECT  ? "object"
                    : type == TR_JSON_OPEN_ARRAY ? "array"
                                                 : "other");
  lua_insert(L, -2);
  return 2;
}

/* True if a key token means "$ref". */
static bool is_ref_key(reader *r, tr_json_token token) {
  bool same;
  push_string(r, token);
  same = strcmp(lua_tostring(r->L, -1), "$ref") == 0 && lua_rawlen(r->L, -1) == 4;
  lua_pop(r->L, 1);
  return same;
}

/*
** json_references(text) -> { first, last, reference, … } | nil, error
** Each object that is nothing but {"$ref": "reference"}, by the positions of its braces.
*/
static int json_references(lua_State *L) {
  size_t len;
  const char *text = tr_checkbytes(L, 1, &len), *open = NULL;
  reader r = {.L = L};
  tr_json_token token, string = {.type = TR_JSON_END};
  tr_json_type before = TR_JSON_END; /* of the token before, within such an object */
  tr_error error;
  lua_Integer count = 0;
  r.scratch_owner = tr_newblob(L);
  lua_newtable(L);
  tr_json_start(&r.json, text, len);
  for (;;) {
    token = tr_json_next(&r.json);
    if (token.type == TR_JSON_END)
      return 1;
    if (token.type == TR_JSON_ERROR) {
      bad(&r, &error);
      return tr_pusherror(L, &error);
    }
    if (token.type == TR_JSON_OPEN_OBJECT) {
      open = token.text;
      before = token.type;
    } else if (before == TR_JSON_OPEN_OBJECT && token.type == TR_JSON_KEY &&
               is_ref_key(&r, token)) {
      before = token.type;
    } else if (before == TR_JSON_KEY && token.type == TR_JSON_STRING) {
      string = token;
      before = token.type;
    } else {
      if (before == TR_JSON_STRING && token.type == TR_JSON_CLOSE_OBJECT) {
        lua_pushinteger(L, (lua_Integer)(open - text) + 1);
        lua_rawseti(L, -2, ++count);
        lua_pushinteger(L, (lua_Integer)(token.text - text) + 1);
        lua_rawseti(L, -2, ++count);
        push_string(&r, string);
        lua_rawseti(L, -2, ++count);
      }
      before = TR_JSON_END;
    }
  }
}

/* json_quote(bytes) -> JSON string | nil, error when it is no UTF-8 */
static int json_quote(lua_State *L) {
  size_t len;
  const char *text = tr_checkbytes(L, 1, &len);
  tr_error error;
  lblob *quoted = tr_newblob(L);
  quoted->blob = tr_json_quote(text, len, &error);
  if (quoted->blob == NULL)
    return tr_pusherror(L, &error);
  lua_pushlstring(L, tr_blob_data(quoted->blob), tr_blob_size(quoted->blob));
  return 1;
}

/* json_written(table) -> the texts of its numbers by key, or nil */
static int json_written(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  tr_pushwritten(L, 1);
  return 1;
}

static int text_tostring(lua_State *L) {
  lua_getfield(L, 1, "text");
  return 1;
}

void tr_open_json(lua_State *L) {
  static const luaL_Reg with_text[] = {{"__tostring", text_tostring},
                                       {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"json_decode", json_decode},
      {"json_quote", json_quote},
      {"json_references", json_references},
      {"json_split", json_split},
      {"json_written", json_written},
      {"merge_initial_states", merge_initial_states},
      {NULL, NULL}};
  push_metatable(L, TR_MARK_ARRAY);
  lua_setfield(L, -2, "json_array");
  push_metatable(L, TR_MARK_DATETIME);
  luaL_setfuncs(L, with_text, 0);
  lua_setfield(L, -2, "toml_datetime");
  luaL_newmetatable(L, TR_NUMBER);
  luaL_setfuncs(L, with_text, 0);
  lua_setfield(L, -2, "json_number");
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "json_null");
  luaL_setfuncs(L, functions, 0);
}
