/* Requests in Lua: options of fetches, read from a table once. */
#include <string.h>

#include "core/error.h"
#include "core/scope.h"
#include "core/url.h"
#include "lutil.h"

/* Keep the value on top of the stack, popped, for as long as the table at 'keep'. */
static void keep_value(lua_State *L, int keep) {
  lua_rawseti(L, keep, (lua_Integer)lua_rawlen(L, keep) + 1);
}

/* A text of the options, which the caller may change later; or NULL. */
static const char *opttext(lua_State *L, int index, int keep, const char *name) {
  const char *text = tr_optstring(L, index, name);
  if (text != NULL) {
    lua_getfield(L, index, name);
    text = lua_tostring(L, -1);
    keep_value(L, keep);
  }
  return text;
}

/* Memory that lives as long as the table at 'keep'. */
static void *allocate(lua_State *L, int keep, size_t count, size_t size) {
  void *memory = lua_newuserdatauv(L, count * size, 0);
  memset(memory, 0, count * size);
  keep_value(L, keep);
  return memory;
}

/* True if the value at 'index' is a text without zero bytes and without the characters in
** 'banned'. */
static bool is_text(lua_State *L, int index, const char *banned) {
  size_t len;
  const char *text = lua_type(L, index) == LUA_TSTRING
                         ? lua_tolstring(L, index, &len)
                         : NULL;
  return text != NULL && strcspn(text, banned) == len;
}

const char *const *tr_optheaders(lua_State *L, int index, int keep) {
  const char **lines;
  lua_Unsigned count = 0;
  int top = lua_gettop(L), headers = top + 1, texts = top + 2;
  if (lua_getfield(L, index, "headers") == LUA_TNIL) {
    lua_settop(L, top);
    return NULL;
  }
  if (lua_type(L, headers) != LUA_TTABLE)
    luaL_error(L, "'headers' must be a table of names and values");
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, headers) != 0; lua_pop(L, 1)) {
    if (!is_text(L, -2, "\r\n:") || !is_text(L, -1, "\r\n"))
      luaL_error(L, "'headers' must hold names and values without line "
                    "breaks and zero bytes");
    /* curl sends a header without value only when it ends in ';' */
    lua_pushfstring(L, *lua_tostring(L, -1) == '\0' ? "%s;%s" : "%s: %s",
                    lua_tostring(L, -2), lua_tostring(L, -1));
    lua_rawseti(L, texts, (lua_Integer)++count);
  }
  lines = allocate(L, keep, (size_t)count + 1, sizeof *lines);
  for (; count > 0; count--) {
    lua_rawgeti(L, texts, (lua_Integer)count);
    lines[count - 1] = lua_tostring(L, -1);
    keep_value(L, keep);
  }
  lua_settop(L, top);
  return lines;
}

const char *const *tr_opttexts(lua_State *L, int index, int keep, const char *name) {
  const char **list;
  lua_Unsigned i, count;
  if (lua_getfield(L, index, name) == LUA_TNIL) {
    lua_pop(L, 1);
    return NULL;
  }
  if (lua_type(L, -1) != LUA_TTABLE)
    luaL_error(L, "'%s' must be a list of strings", name);
  count = lua_rawlen(L, -1);
  list = allocate(L, keep, (size_t)count + 1, sizeof *list);
  for (i = 0; i < count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    if (!is_text(L, -1, ""))
      luaL_error(L, "'%s' must be a list of strings without zero bytes", name);
    list[i] = lua_tostring(L, -1);
    keep_value(L, keep);
  }
  lua_pop(L, 1);
  return list;
}

/* Read the hosts that redirects may lead to: a list, or "any". */
static const char *const *opthostlist(lua_State *L, int index, int keep) {
  int type = lua_getfield(L, index, "redirect_hosts");
  bool any = type == LUA_TSTRING && strcmp(lua_tostring(L, -1), "any") == 0;
  lua_pop(L, 1);
  if (any)
    return NULL;
  if (type != LUA_TNIL && type != LUA_TTABLE)
    luaL_error(L, "'redirect_hosts' must be a list of strings, or \"any\"");
  return tr_opttexts(L, index, keep, "redirect_hosts");
}

static tr_fetch_options read_options(lua_State *L, int index, int keep);

/* Read the table 'hosts' (host or "host:port" -> options). */
static const tr_fetch_host *opthosts(lua_State *L, int index, int keep) {
  tr_fetch_host *hosts;
  tr_fetch_options *options;
  size_t count = 0, i = 0;
  int top = lua_gettop(L), table = top + 1;
  if (lua_getfield(L, index, "hosts") == LUA_TNIL) {
    lua_settop(L, top);
    return NULL;
  }
  if (lua_type(L, table) != LUA_TTABLE)
    luaL_error(L, "'hosts' must be a table of hosts and their options");
  for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
    if (!is_text(L, -2, "") || lua_type(L, -1) != LUA_TTABLE)
      luaL_error(L, "'hosts' must be a table of hosts without zero bytes and "
                    "their options");
    count++;
  }
  hosts = allocate(L, keep, count + 1, sizeof *hosts);
  options = allocate(L, keep, count + 1, sizeof *options);
  for (lua_pushnil(L); i < count && lua_next(L, table) != 0; lua_pop(L, 1)) {
    luaL_checkstack(L, 16, NULL);
    options[i] = read_options(L, lua_gettop(L), keep);
    hosts[i].options = &options[i];
    hosts[i++].host = lua_tostring(L, -2);
    lua_pushvalue(L, -2);
    keep_value(L, keep);
  }
  lua_settop(L, top);
  return hosts;
}

/* Read options from the table at 'index'. The table at 'keep' keeps what they lead to. */
static tr_fetch_options read_options(lua_State *L, int index, int keep) {
  tr_fetch_options o = TR_FETCH_OPTIONS;
  o.timeout = tr_optseconds(L, index, "timeout", o.timeout);
  o.connect_timeout =
      tr_optseconds(L, index, "connect_timeout", o.connect_timeout);
  o.stall_timeout = tr_optseconds(L, index, "stall_timeout", o.stall_timeout);
  o.max_bytes = tr_optsize(L, index, "max_bytes", o.max_bytes);
  o.max_redirects = tr_optcount(L, index, "max_redirects", o.max_redirects);
  o.retries = tr_optcount(L, index, "retries", o.retries);
  o.netrc = tr_optbool(L, index, "netrc", false);
  o.refuse_private = tr_optbool(L, index, "refuse_private", false);
  o.require_length = tr_optbool(L, index, "require_length", false);
  o.ca_file = opttext(L, index, keep, "ca_file");
  o.client_cert = opttext(L, index, keep, "client_cert");
  o.client_key = opttext(L, index, keep, "client_key");
  o.unix_socket = opttext(L, index, keep, "unix_socket");
  o.user_agent = opttext(L, index, keep, "user_agent");
  o.proxy = opttext(L, index, keep, "proxy");
  o.headers = tr_optheaders(L, index, keep);
  o.cache_scope = opttext(L, index, keep, "cache_scope");
  o.redirect_hosts = opthostlist(L, index, keep);
  return o;
}

/* Read who asks a registry, and for what: 'auth' and 'scope'. */
static void read_auth(lua_State *L, lrequest *r) {
  lauth *a;
  r->auth = NULL;
  r->auth_scope = opttext(L, 1, 2, "scope");
  if (r->auth_scope != NULL && r->auth_scope[strcspn(r->auth_scope, "\"\\\r\n")] != '\0')
    luaL_error(L, "'scope' has a quote or a line break in it");
  if (lua_getfield(L, 1, "auth") != LUA_TNIL) {
    a = luaL_checkudata(L, -1, TR_AUTH);
    r->auth = a->auth;
    keep_value(L, 2);
  } else {
    lua_pop(L, 1);
  }
}

/* Read who signs requests to an object store: 'signer'. */
static void read_signer(lua_State *L, lrequest *r) {
  r->signer = NULL;
  if (lua_getfield(L, 1, "signer") != LUA_TNIL) {
    r->signer = ((lsigner *)luaL_checkudata(L, -1, TR_SIGNER))->signer;
    keep_value(L, 2);
  } else {
    lua_pop(L, 1);
  }
}

/*
** request_options(table) -> options for 'fetch' and 'send': names, values and units as in
** the topic "options"; but 'hosts' has all options of hosts that a redirect leads to;
** 'auth' is of 'auth', and 'scope' what is asked of its registry, such as
** "repository:name:pull"; 'signer' is of 'signer'. The table is not read again.
*/
static int request_options(lua_State *L) {
  lrequest *r;
  tr_fetch_options o;
  tr_error error;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_newtable(L);
  o = read_options(L, 1, 2);
  o.hosts = opthosts(L, 1, 2);
  r = lua_newuserdatauv(L, sizeof *r, 1);
  r->options = o;
  r->limits = tr_limits_of(&o);
  read_auth(L, r);
  read_signer(L, r);
  if (!tr_request_scope_as(&o, r->auth, r->scope, &error))
    return luaL_error(L, "%s", error.message);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, TR_REQUEST);
  return 1;
}

/* match_host(hosts, host, port) -> the name in the table 'hosts' that fits best, or nil */
static int match_host(lua_State *L) {
  const char *host = luaL_checkstring(L, 2);
  int port = (int)luaL_checkinteger(L, 3), best = 0;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 3);
  lua_pushnil(L); /* the best, at 4 */
  for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
    int match = lua_type(L, -2) == LUA_TSTRING
                    ? tr_host_match(lua_tostring(L, -2), host, port)
                    : 0;
    if (match > best) {
      best = match;
      lua_copy(L, -2, 4);
    }
  }
  lua_settop(L, 4);
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
                                       {"match_host", match_host},
                                       {"request_allows", request_allows},
                                       {NULL, NULL}};
  luaL_newmetatable(L, TR_REQUEST);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
