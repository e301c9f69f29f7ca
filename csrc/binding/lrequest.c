/* Requests in Lua: options of fetches, read from a table once. */
#include <string.h>

#include "core/error.h"
#include "lutil.h"

/*
** Turn the table 'headers' (name -> value) of the options into "Name: value"
** lines. Leaves on the stack what keeps them alive.
*/
static const char *const *optheaders(lua_State *L, int index) {
  const char **lines;
  lua_Unsigned count = 0;
  int headers, keep;
  if (lua_getfield(L, index, "headers") == LUA_TNIL)
    return NULL;
  if (lua_type(L, -1) != LUA_TTABLE)
    luaL_error(L, "'headers' must be a table of names and values");
  headers = lua_gettop(L);
  lua_newtable(L);
  keep = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, headers) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING ||
        strpbrk(lua_tostring(L, -2), "\r\n:") != NULL ||
        strpbrk(lua_tostring(L, -1), "\r\n") != NULL)
      luaL_error(L, "'headers' must hold names and values without line "
                    "breaks");
    /* curl sends a header without value only when it ends in ';' */
    lua_pushfstring(L, *lua_tostring(L, -1) == '\0' ? "%s;%s" : "%s: %s",
                    lua_tostring(L, -2), lua_tostring(L, -1));
    lua_rawseti(L, keep, (lua_Integer)++count);
  }
  lines = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *lines, 0);
  lines[count] = NULL;
  while (count > 0) {
    lua_rawgeti(L, keep, (lua_Integer)count);
    lines[--count] = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  return lines;
}

/* Read the hosts that redirects may lead to: a list, or "any"; as optheaders. */
static const char *const *opthosts(lua_State *L, int index) {
  static const char name[] = "redirect_hosts";
  const char **list;
  lua_Unsigned i, count;
  if (lua_getfield(L, index, name) == LUA_TNIL ||
      (lua_type(L, -1) == LUA_TSTRING &&
       strcmp(lua_tostring(L, -1), "any") == 0))
    return NULL;
  if (lua_type(L, -1) != LUA_TTABLE)
    luaL_error(L, "'%s' must be a list of strings, or \"any\"", name);
  count = lua_rawlen(L, -1);
  list = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *list, 0);
  for (i = 0; i < count; i++) {
    if (lua_rawgeti(L, -2, (lua_Integer)i + 1) != LUA_TSTRING)
      luaL_error(L, "'%s' must be a list of strings", name);
    list[i] = lua_tostring(L, -1); /* the options keep it */
    lua_pop(L, 1);
  }
  list[count] = NULL;
  return list;
}

/* Keep the items of 'redirect_hosts', which the caller may change later: they are
** strings, which live as long as the table at 'keep' has them. */
static void keep_items(lua_State *L, int keep) {
  lua_Unsigned i, count;
  lua_newtable(L);
  if (lua_getfield(L, 1, "redirect_hosts") == LUA_TTABLE) {
    count = lua_rawlen(L, -1);
    for (i = 1; i <= count; i++) {
      lua_rawgeti(L, -1, (lua_Integer)i);
      lua_rawseti(L, -3, (lua_Integer)i);
    }
  }
  lua_pop(L, 1);
  lua_setfield(L, keep, "redirect_hosts");
}

/*
** request_options(table) -> options for 'fetch': names, values and units as in the
** topic "options". The table is not read again.
*/
static int request_options(lua_State *L) {
  lrequest *r;
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_error error;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  o.timeout = tr_optseconds(L, 1, "timeout", o.timeout);
  o.connect_timeout = tr_optseconds(L, 1, "connect_timeout", o.connect_timeout);
  o.stall_timeout = tr_optseconds(L, 1, "stall_timeout", o.stall_timeout);
  o.max_bytes = tr_optsize(L, 1, "max_bytes", o.max_bytes);
  o.max_redirects = tr_optcount(L, 1, "max_redirects", o.max_redirects);
  o.retries = tr_optcount(L, 1, "retries", o.retries);
  o.netrc = tr_optbool(L, 1, "netrc", false);
  o.refuse_private = tr_optbool(L, 1, "refuse_private", false);
  o.require_length = tr_optbool(L, 1, "require_length", false);
  o.ca_file = tr_optstring(L, 1, "ca_file");
  o.client_cert = tr_optstring(L, 1, "client_cert");
  o.client_key = tr_optstring(L, 1, "client_key");
  o.unix_socket = tr_optstring(L, 1, "unix_socket");
  o.user_agent = tr_optstring(L, 1, "user_agent");
  o.proxy = tr_optstring(L, 1, "proxy");
  o.headers = optheaders(L, 1);
  o.cache_scope = tr_optstring(L, 1, "cache_scope");
  o.redirect_hosts = opthosts(L, 1);
  /* Whatever is on the stack by now is what the pointers lead to. */
  lua_createtable(L, lua_gettop(L) + 8, 0);
  {
    static const char *const texts[] = {"ca_file",     "client_cert",
                                        "client_key",  "unix_socket",
                                        "user_agent",  "proxy",
                                        "cache_scope"};
    int i, top = lua_gettop(L);
    for (i = 2; i < top; i++) {
      lua_pushvalue(L, i);
      lua_rawseti(L, top, i - 1);
    }
    for (i = 0; i < (int)(sizeof texts / sizeof *texts); i++) {
      lua_getfield(L, 1, texts[i]);
      lua_setfield(L, top, texts[i]);
    }
    keep_items(L, top);
  }
  r = lua_newuserdatauv(L, sizeof *r, 1);
  r->options = o;
  r->limits = tr_limits_of(&o);
  if (!tr_request_scope(&o, r->scope, &error))
    return luaL_error(L, "%s", error.message);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, TR_REQUEST);
  return 1;
}

/* request_scope(options) -> the scope of their cache keys; "": none */
static int request_scope(lua_State *L) {
  const lrequest *r = luaL_checkudata(L, 1, TR_REQUEST);
  lua_pushstring(L, r->scope);
  return 1;
}

/* request_allows(options, record) -> false: 'refuse_private' or 'redirect_hosts'
** forbids bytes with such a record */
static int request_allows(lua_State *L) {
  const lrequest *r = luaL_checkudata(L, 1, TR_REQUEST);
  tr_record *record = tr_optrecord(L, 2);
  lua_pushboolean(L, record == NULL || tr_limits_allow(&r->limits, record));
  tr_record_release(record);
  return 1;
}

void tr_open_request(lua_State *L) {
  static const luaL_Reg functions[] = {{"request_options", request_options},
                                       {"request_scope", request_scope},
                                       {"request_allows", request_allows},
                                       {NULL, NULL}};
  luaL_newmetatable(L, TR_REQUEST);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
