/*
** The library of a sandbox. It leaves out all that reaches files, other code or
** the collector. It guards whatever could run a long C loop without the hook:
** patterns that backtrack without end, table functions on tables that lie about
** their length, finalizers, and a pcall that would swallow the end of the
** budget.
*/
#include <string.h>

#include <lualib.h>

#include "lsandbox.h"

/* The highest cost of one pattern match, in single-character tests: about a
** second. */
static const double MAX_PATTERN_COST = 3e8;

/*
** An upper bound for a match: each quantifier may multiply the work by the
** subject's length, and so may the start of a pattern that is not anchored.
*/
static void check_cost(lua_State *S) {
  size_t subject_len, pattern_len, i;
  const char *pattern;
  double cost;
  luaL_checklstring(S, 1, &subject_len);
  pattern = luaL_checklstring(S, 2, &pattern_len);
  cost = pattern[0] == '^' ? 1 : (double)subject_len + 1;
  for (i = 0; i < pattern_len; i++) {
    if (pattern[i] == '%' && i + 1 < pattern_len) {
      i++;
      if (pattern[i] == 'b' || (pattern[i] >= '1' && pattern[i] <= '9'))
        cost *= (double)subject_len + 1;
    } else if (strchr("*+-", pattern[i]) != NULL && pattern[i] != '\0') {
      cost *= (double)subject_len + 1;
    } else if (pattern[i] == '?') {
      cost *= 2;
    }
  }
  if (cost > MAX_PATTERN_COST)
    luaL_error(S,
               "this pattern could take too long on a text of %d bytes; "
               "use fewer '*', '+' and '-', or anchor it with '^'",
               (int)subject_len);
}

/* A plain search, and the plain stretches of a pattern, cost at the worst the
** product of both lengths, many bytes at a time. */
static void check_lengths(lua_State *S) {
  double product = (double)lua_rawlen(S, 1) * (double)lua_rawlen(S, 2);
  if (product > MAX_PATTERN_COST * 10)
    luaL_error(S, "this search could take too long: both texts are large");
}

/* Calls the function in upvalue 1 with all arguments. */
static int pass_on(lua_State *S) {
  lua_pushvalue(S, lua_upvalueindex(1));
  lua_insert(S, 1);
  lua_call(S, lua_gettop(S) - 1, LUA_MULTRET);
  return lua_gettop(S);
}

static int matching(lua_State *S) {
  check_lengths(S);
  check_cost(S);
  return pass_on(S);
}

/* string.find, whose fourth argument says that there is no pattern. */
static int finding(lua_State *S) {
  check_lengths(S);
  if (!lua_toboolean(S, 4))
    check_cost(S);
  return pass_on(S);
}

/* A function of the table library, for tables without a metatable of a script's:
** '__len' could claim any length. */
static int plain_table(lua_State *S) {
  luaL_checktype(S, 1, LUA_TTABLE);
  if (tr_markof(S, 1) == TR_MARK_NONE)
    luaL_argcheck(S, !lua_getmetatable(S, 1), 1,
                  "a table without a metatable is needed");
  return pass_on(S);
}

/* Finalizers run without the hook. */
static int set_metatable(lua_State *S) {
  luaL_checktype(S, 1, LUA_TTABLE);
  luaL_argcheck(S, lua_isnil(S, 2) || lua_istable(S, 2), 2,
                "nil or table expected");
  lua_settop(S, 2);
  if (lua_istable(S, 2)) {
    lua_pushliteral(S, "__gc");
    lua_rawget(S, 2);
    luaL_argcheck(S, lua_isnil(S, -1), 2, "'__gc' is not allowed here");
    lua_pop(S, 1);
  }
  if (luaL_getmetafield(S, 1, "__metatable") != LUA_TNIL)
    return luaL_error(S, "cannot change a protected metatable");
  lua_setmetatable(S, 1);
  return 1;
}

/* pcall that lets through the error that ends a script. */
static int protected_call(lua_State *S) {
  int status;
  luaL_checkany(S, 1);
  lua_pushboolean(S, 1);
  lua_insert(S, 1);
  status = lua_pcall(S, lua_gettop(S) - 2, LUA_MULTRET, 0);
  if (status != LUA_OK && tr_sandbox_of(S)->exhausted)
    return lua_error(S);
  if (status == LUA_OK)
    return lua_gettop(S);
  lua_pushboolean(S, 0);
  lua_insert(S, -2);
  return 2;
}

/* Copies the named fields of the table at -2 into the one at -1, each as
** the upvalue of 'guard' when there is one. */
static void copy_fields(lua_State *S, const char *const names[],
                        lua_CFunction guard) {
  for (; *names != NULL; names++) {
    lua_getfield(S, -2, *names);
    if (guard != NULL)
      lua_pushcclosure(S, guard, 1);
    lua_setfield(S, -2, *names);
  }
}

void tr_sandbox_open_library(lua_State *S) {
  static const char *const base[] = {
      "assert", "error",    "ipairs",   "next",         "pairs",
      "select", "type",     "rawget",   "rawequal",     "rawlen",
      "rawset", "tonumber", "tostring", "getmetatable", NULL};
  static const char *const strings[] = {
      "byte", "char",    "format", "len",    "lower", "pack", "packsize",
      "rep",  "reverse", "sub",    "unpack", "upper", NULL};
  static const char *const matchers[] = {"match", "gmatch", "gsub", NULL};
  static const char *const finders[] = {"find", NULL};
  static const char *const tables[] = {"pack", "unpack", NULL};
  static const char *const guarded_tables[] = {"concat", "insert", "remove",
                                               "sort", NULL};
  lua_newtable(S); /* the script's globals */
  luaL_requiref(S, "_G", luaopen_base, 0);
  lua_insert(S, -2);
  copy_fields(S, base, NULL);
  lua_pushcfunction(S, set_metatable);
  lua_setfield(S, -2, "setmetatable");
  lua_pushcfunction(S, protected_call);
  lua_setfield(S, -2, "pcall");
  lua_pushvalue(S, -1);
  lua_setfield(S, -2, "_G");

  luaL_requiref(S, "string", luaopen_string, 0);
  lua_newtable(S);
  copy_fields(S, strings, NULL);
  copy_fields(S, matchers, matching);
  copy_fields(S, finders, finding);
  lua_pushliteral(S, ""); /* ("x"):rep(2) must find the guarded ones too */
  lua_getmetatable(S, -1);
  lua_pushvalue(S, -3);
  lua_setfield(S, -2, "__index");
  lua_pop(S, 2);
  lua_setfield(S, -3, "string");
  lua_pop(S, 1);

  luaL_requiref(S, "table", luaopen_table, 0);
  lua_newtable(S);
  copy_fields(S, tables, NULL);
  copy_fields(S, guarded_tables, plain_table);
  lua_setfield(S, -3, "table");
  lua_pop(S, 1);

  luaL_requiref(S, "math", luaopen_math, 0);
  lua_setfield(S, -2, "math");
  luaL_requiref(S, "utf8", luaopen_utf8, 0);
  lua_setfield(S, -2, "utf8");
  lua_rawseti(S, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pushnil(S); /* and the whole libraries out of reach */
  lua_setfield(S, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_settop(S, 0);
}
