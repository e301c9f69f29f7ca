/*
** The library of a sandbox. It leaves out all that reaches files, other code or
** the collector. All that runs for longer the more it is given takes that off the
** script's budget, since the hook sees no loop in C.
*/
#include <ctype.h>
#include <string.h>

#include <lualib.h>

#include "lsandbox.h"

enum { BYTES_READ_A_STEP = 4 /* one by one, such as the digits of a number */ };

/* Return the steps to read a string: as a number, Lua takes one of any length. */
static size_t steps_to_read(lua_State *S, int index) {
  return tr_sandbox_steps_of(S, index) * (TR_SANDBOX_BYTES_A_STEP / BYTES_READ_A_STEP);
}

/* Charge for all arguments, and to read the ones from 'first' on but for 'unread'. */
static void charge_arguments(lua_State *S, int first, int unread) {
  int i, count = lua_gettop(S);
  size_t steps = (size_t)count + 1;
  for (i = first; i <= count; i++)
    steps += i != unread ? steps_to_read(S, i) : 0;
  tr_sandbox_charge(S, steps);
}

/* Run the function of Lua's in upvalue 1 in our place. */
static int run_original(lua_State *S) {
  return lua_tocfunction(S, lua_upvalueindex(1))(S);
}

/* A function of Lua's that reads all its arguments. */
static int charged(lua_State *S) {
  charge_arguments(S, 1, 0);
  return run_original(S);
}

/* One that reads no more of argument 1 than it returns, or than the hook can wait for. */
static int charged_after_text(lua_State *S) {
  charge_arguments(S, 2, 0);
  return run_original(S);
}

/* One that reads none. */
static int counted(lua_State *S) {
  tr_sandbox_charge(S, (size_t)lua_gettop(S) + 1);
  return run_original(S);
}

/* select, which reads its first argument alone. */
static int select_from(lua_State *S) {
  tr_sandbox_charge(S, steps_to_read(S, 1));
  return counted(S);
}

/* ------------------------------------------------------------------ strings */

/* string.unpack, whose text may be much longer than what one call reads. */
static int unpack(lua_State *S) {
  charge_arguments(S, 1, 2);
  return run_original(S);
}

/* string.rep, which counts how often it adds nothing to nothing. */
static int rep(lua_State *S) {
  size_t len, separator_len;
  luaL_checklstring(S, 1, &len);
  luaL_checkinteger(S, 2);
  luaL_optlstring(S, 3, "", &separator_len);
  if (len + separator_len > 0)
    return charged_after_text(S);
  lua_pushliteral(S, "");
  return 1;
}

/* Return the least bytes that '%q' makes of a value. */
static size_t quoted_length(lua_State *S, int index) {
  size_t len, escapes = 0, i;
  const char *s;
  if (lua_type(S, index) != LUA_TSTRING)
    return 0;
  s = lua_tolstring(S, index, &len);
  for (i = 0; i < len; i++)
    escapes += iscntrl((unsigned char)s[i]) || s[i] == '"' || s[i] == '\\';
  return len + escapes;
}

/* string.format, which looks at each argument of '%s' as a whole, and takes long to quote. */
static int format(lua_State *S) {
  size_t len, quoted = 0;
  const char *at = luaL_checklstring(S, 1, &len), *end = at + len;
  int arg = 1, top = lua_gettop(S);
  tr_sandbox_charge(S, len / TR_SANDBOX_BYTES_A_STEP + 1);
  while ((at = memchr(at, '%', (size_t)(end - at))) != NULL && arg < top) {
    at++;
    if (*at == '%') {
      at++;
      continue;
    }
    at += strspn(at, "-+ #0123456789.");
    arg++;
    if (*at == 's') { /* '__tostring' may make any string */
      luaL_tolstring(S, arg, NULL);
      lua_replace(S, arg);
      tr_sandbox_charge(S, 1 + tr_sandbox_steps_of(S, arg));
      continue;
    }
    tr_sandbox_charge(S, 1 + steps_to_read(S, arg));
    if (*at == 'q') {
      quoted += quoted_length(S, arg);
      tr_sandbox_check_length(S, quoted);
    }
  }
  return run_original(S);
}

/* --------------------------------------------------------------------- keys */

/* Lua's own passes over all keys that were removed, in one step. */
static int next_key(lua_State *S) {
  luaL_checktype(S, 1, LUA_TTABLE);
  tr_sandbox_charge(S, 1);
  lua_settop(S, 2);
  if (lua_next(S, 1))
    return 2;
  lua_pushnil(S);
  return 1;
}

static int pairs(lua_State *S) {
  luaL_checkany(S, 1);
  if (luaL_getmetafield(S, 1, "__pairs") == LUA_TNIL) {
    lua_pushcfunction(S, next_key);
    lua_pushvalue(S, 1);
    lua_pushnil(S);
  } else {
    lua_pushvalue(S, 1);
    lua_call(S, 1, 3);
  }
  return 3;
}

/* ------------------------------------------------------------------ numbers */

/* A function of 'math' in upvalue 2, whose own upvalue is our first. */
static int math_function(lua_State *S) {
  charge_arguments(S, 1, 0);
  return lua_tocfunction(S, lua_upvalueindex(2))(S);
}

/* min, or max: both compare strings with strings, too, which may be long. */
static int extreme(lua_State *S, bool is_max) {
  int i, best = 1, count = lua_gettop(S);
  luaL_argcheck(S, count >= 1, 1, "value expected");
  for (i = 2; i <= count; i++) {
    tr_sandbox_charge(S, 1 + tr_sandbox_steps_of(S, i) + tr_sandbox_steps_of(S, best));
    if (lua_compare(S, is_max ? best : i, is_max ? i : best, LUA_OPLT))
      best = i;
  }
  lua_pushvalue(S, best);
  return 1;
}

static int math_min(lua_State *S) { return extreme(S, false); }

static int math_max(lua_State *S) { return extreme(S, true); }

/* Put our functions in the place of Lua's in the table on the stack's top. */
static void charge_math(lua_State *S) {
  static const luaL_Reg own[] = {{"min", math_min}, {"max", math_max}, {NULL, NULL}};
  int library = lua_gettop(S);
  for (lua_pushnil(S); lua_next(S, library) != 0; lua_settop(S, library + 1)) {
    if (!lua_iscfunction(S, -1))
      continue;
    if (lua_getupvalue(S, -1, 1) == NULL) /* else it is the random numbers' state */
      lua_pushnil(S);
    lua_insert(S, -2);
    lua_pushcclosure(S, math_function, 2);
    lua_pushvalue(S, library + 1);
    lua_insert(S, -2);
    lua_rawset(S, library);
  }
  luaL_setfuncs(S, own, 0);
}

/* --------------------------------------------------------------- metatables */

/* In a metatable: the script's table that it was made from. */
static const char original_key;

/* '__index' and '__newindex' by way of a value that is no function. Upvalue 1 is the
** value. Lua itself would follow up to 2,000 of them in one instruction; it nests calls of
** ours up to 200 deep only. */
static int index_value(lua_State *S) {
  tr_sandbox_charge(S, 1 + tr_sandbox_steps_of(S, 2));
  lua_settop(S, 2);
  lua_gettable(S, lua_upvalueindex(1));
  return 1;
}

static int set_value(lua_State *S) {
  tr_sandbox_charge(S, 1 + tr_sandbox_steps_of(S, 2));
  lua_settop(S, 3);
  lua_settable(S, lua_upvalueindex(1));
  return 0;
}

/* Replace a metamethod of that name on the stack's top by what is safe, or raise. */
static void check_metamethod(lua_State *S, const char *name) {
  bool is_function = lua_isfunction(S, -1);
  if (strcmp(name, "__call") == 0 && !is_function)
    luaL_error(S, "'__call' must be a function");
  if (strcmp(name, "__index") == 0 && !is_function)
    lua_pushcclosure(S, index_value, 1);
  if (strcmp(name, "__newindex") == 0 && !is_function)
    lua_pushcclosure(S, set_value, 1);
}

/*
** Make a metatable from the script's, at the stack's top, in its place. It is a copy,
** so that a script cannot add what is refused here: finalizers, which run without the
** hook; weak tables, which can take the collector quadratic time; and '__call' that is
** itself called by way of '__call', which has no bound.
*/
static void make_metatable(lua_State *S) {
  static const char *const events[] = {
      "__index",  "__newindex", "__call", "__tostring", "__name", "__metatable", "__pairs",
      "__close",  "__len",      "__eq",   "__lt",       "__le",   "__concat",    "__unm",
      "__bnot",   "__add",      "__sub",  "__mul",      "__div",  "__mod",       "__pow",
      "__idiv",   "__band",     "__bor",  "__bxor",     "__shl",  "__shr",       NULL};
  static const char *const refused[] = {"__gc", "__mode", NULL};
  const char *const *name;
  int original = lua_gettop(S);
  for (name = refused; *name != NULL; name++) {
    lua_pushstring(S, *name);
    if (lua_rawget(S, original) != LUA_TNIL)
      luaL_error(S, "'%s' is not allowed in a script's metatable", *name);
    lua_pop(S, 1);
  }
  lua_newtable(S);
  for (name = events; *name != NULL; name++) {
    lua_pushstring(S, *name);
    lua_pushvalue(S, -1);
    if (lua_rawget(S, original) == LUA_TNIL) {
      lua_pop(S, 2);
      continue;
    }
    check_metamethod(S, *name);
    lua_rawset(S, original + 1);
  }
  lua_insert(S, original);
  lua_rawsetp(S, original, &original_key);
}

static int set_metatable(lua_State *S) {
  int type = lua_type(S, 2);
  luaL_checktype(S, 1, LUA_TTABLE);
  luaL_argexpected(S, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
  if (luaL_getmetafield(S, 1, "__metatable") != LUA_TNIL)
    return luaL_error(S, "cannot change a protected metatable");
  lua_settop(S, 2);
  tr_sandbox_charge(S, 1);
  if (type == LUA_TTABLE)
    make_metatable(S);
  lua_setmetatable(S, 1);
  lua_settop(S, 1);
  return 1;
}

static int get_metatable(lua_State *S) {
  luaL_checkany(S, 1);
  if (luaL_getmetafield(S, 1, "__metatable") != LUA_TNIL)
    return 1;
  if (!lua_getmetatable(S, 1))
    lua_pushnil(S);
  else
    lua_rawgetp(S, -1, &original_key);
  return 1;
}

/* pcall that lets through the error that ends a script. */
static int protected_call(lua_State *S) {
  sandbox *box = tr_sandbox_of(S);
  int status;
  luaL_checkany(S, 1);
  lua_pushboolean(S, 1);
  lua_insert(S, 1);
  status = lua_pcall(S, lua_gettop(S) - 2, LUA_MULTRET, 0);
  if (status == LUA_OK)
    return lua_gettop(S);
  if (status == LUA_ERRMEM)
    tr_sandbox_out_of_memory(box);
  if (box->exhausted)
    return lua_error(S);
  lua_pushboolean(S, 0);
  lua_insert(S, -2);
  return 2;
}

/* ------------------------------------------------------------------ opening */

/* Copies the named fields of the table at -2 into the one at -1, each as the upvalue
** of 'guard' when there is one. */
static void copy_fields(lua_State *S, const char *const names[],
                        lua_CFunction guard) {
  for (; *names != NULL; names++) {
    lua_getfield(S, -2, *names);
    if (guard != NULL)
      lua_pushcclosure(S, guard, 1);
    lua_setfield(S, -2, *names);
  }
}

/* Make strings index the table on the stack's top, by a metatable that a script sees
** as a copy only. */
static void open_string_metatable(lua_State *S) {
  lua_pushliteral(S, "");
  lua_getmetatable(S, -1); /* Lua's own, with the arithmetic of strings */
  lua_pushvalue(S, -3);
  lua_setfield(S, -2, "__index");
  make_metatable(S);
  lua_setmetatable(S, -2);
  lua_pop(S, 1);
}

/* Have Lua make what a luaL_Buffer needs once, so that later its userdata is followed by
** its block; see 'keys_of'. */
static void make_first_buffer(lua_State *S) {
  luaL_Buffer first;
  luaL_buffinitsize(S, &first, LUAL_BUFFERSIZE + 1);
  luaL_pushresultsize(&first, 0);
  lua_pop(S, 1);
}

/* Let Lua's messages find the names of functions: in copies of the libraries, since it
** searches them key by key and a script can add to its own. */
static void name_functions(lua_State *S) {
  static const char *const libraries[] = {"_G", "string", "table", "utf8", "math", NULL};
  const char *const *name;
  lua_pushglobaltable(S);
  lua_newtable(S);
  for (name = libraries; *name != NULL; name++) {
    lua_newtable(S);
    lua_getfield(S, -3, *name);
    for (lua_pushnil(S); lua_next(S, -2) != 0;) {
      lua_pushvalue(S, -2);
      lua_insert(S, -2);
      lua_rawset(S, -5);
    }
    lua_pop(S, 1);
    lua_setfield(S, -2, *name);
  }
  lua_setfield(S, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pop(S, 1);
}

void tr_sandbox_open_library(lua_State *S) {
  static const char *const base[] = {"assert",   "error",  "ipairs", "type", "rawget",
                                     "rawequal", "rawlen", "rawset", NULL};
  static const char *const charged_base[] = {"tonumber", NULL};
  static const char *const counted_base[] = {"tostring", NULL};
  static const char *const a_select[] = {"select", NULL};
  static const luaL_Reg own_base[] = {{"next", next_key},
                                      {"pairs", pairs},
                                      {"setmetatable", set_metatable},
                                      {"getmetatable", get_metatable},
                                      {"pcall", protected_call},
                                      {NULL, NULL}};
  static const char *const charged_strings[] = {"char", "pack", "packsize", NULL};
  static const char *const after_text_strings[] = {"byte",    "len", "lower",
                                                   "reverse", "sub", "upper", NULL};
  static const char *const counted_tables[] = {"pack", NULL};
  static const char *const charged_utf8[] = {"char", NULL};
  static const char *const after_text_utf8[] = {"codepoint", "codes", "len", "offset",
                                                NULL};
  static const char *const plain_utf8[] = {"charpattern", NULL};
  static const char *const a_rep[] = {"rep", NULL}, *const a_format[] = {"format", NULL},
                           *const an_unpack[] = {"unpack", NULL};
  lua_newtable(S); /* the script's globals */
  luaL_requiref(S, "_G", luaopen_base, 0);
  lua_insert(S, -2);
  copy_fields(S, base, NULL);
  copy_fields(S, charged_base, charged);
  copy_fields(S, counted_base, counted);
  copy_fields(S, a_select, select_from);
  luaL_setfuncs(S, own_base, 0);
  lua_pushvalue(S, -1);
  lua_setfield(S, -2, "_G");

  luaL_requiref(S, "string", luaopen_string, 0);
  lua_newtable(S);
  copy_fields(S, charged_strings, charged);
  copy_fields(S, after_text_strings, charged_after_text);
  copy_fields(S, an_unpack, unpack);
  copy_fields(S, a_rep, rep);
  copy_fields(S, a_format, format);
  tr_sandbox_open_patterns(S);
  open_string_metatable(S);
  lua_setfield(S, -3, "string");
  lua_pop(S, 1);

  luaL_requiref(S, "table", luaopen_table, 0);
  lua_newtable(S);
  copy_fields(S, counted_tables, counted);
  tr_sandbox_open_tables(S);
  lua_setfield(S, -3, "table");
  lua_pop(S, 1);

  luaL_requiref(S, "utf8", luaopen_utf8, 0);
  lua_newtable(S);
  copy_fields(S, charged_utf8, charged);
  copy_fields(S, after_text_utf8, charged_after_text);
  copy_fields(S, plain_utf8, NULL);
  lua_setfield(S, -3, "utf8");
  lua_pop(S, 1);

  luaL_requiref(S, "math", luaopen_math, 0);
  charge_math(S);
  lua_setfield(S, -2, "math");
  lua_rawseti(S, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_settop(S, 0);
  name_functions(S);
  make_first_buffer(S);
}
