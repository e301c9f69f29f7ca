/* Authentication at registries, in Lua. */
#include <stdlib.h>

#include "core/auth.h"
#include "core/challenge.h"
#include "core/error.h"
#include "lutil.h"

/*
** auth{ registry =, insecure =, username =, password =, identity_token =, realm_hosts = } ->
** userdata for request_options | nil, error
** One principal at a registry, "host" or "host:port"; anonymous without credentials.
** 'insecure': it is asked over plain http. 'realm_hosts' lists where its tokens may come
** from, beside itself: "host", "host:port" or "*.example.org".
*/
static int new_auth(lua_State *L) {
  tr_auth_options o = {0};
  tr_error error;
  lauth *a;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_newtable(L);
  o.registry = tr_optstring(L, 1, "registry");
  luaL_argcheck(L, o.registry != NULL, 1, "'registry' is missing");
  o.insecure = tr_optbool(L, 1, "insecure", false);
  o.username = tr_optstring(L, 1, "username");
  o.password = tr_optstring(L, 1, "password");
  o.identity_token = tr_optstring(L, 1, "identity_token");
  o.realm_hosts = tr_opttexts(L, 1, 2, "realm_hosts");
  a = lua_newuserdatauv(L, sizeof *a, 0);
  a->auth = NULL;
  luaL_setmetatable(L, TR_AUTH);
  a->auth = tr_auth_new(&o, &error);
  return a->auth != NULL ? 1 : tr_pusherror(L, &error);
}

static int auth_gc(lua_State *L) {
  lauth *a = luaL_checkudata(L, 1, TR_AUTH);
  tr_auth_release(a->auth);
  a->auth = NULL;
  return 0;
}

/*
** parse_challenge(text) -> { basic =, bearer =, realm =, service =, scope = } | nil
** 'text' is the values of all WWW-Authenticate headers, a line each.
*/
static int parse_challenge(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  tr_challenge *c = lua_newuserdatauv(L, sizeof *c, 0);
  if (!tr_challenge_parse(c, text, len)) {
    lua_pushnil(L);
    return 1;
  }
  lua_createtable(L, 0, 5);
  lua_pushboolean(L, c->basic);
  lua_setfield(L, -2, "basic");
  lua_pushboolean(L, c->bearer);
  lua_setfield(L, -2, "bearer");
  tr_set_text(L, "realm", c->realm);
  tr_set_text(L, "service", c->service);
  tr_set_text(L, "scope", c->scope);
  return 1;
}

/* allows_realm(auth, realm) -> true | false, why */
static int allows_realm(lua_State *L) {
  lauth *a = luaL_checkudata(L, 1, TR_AUTH);
  bool is_host;
  tr_url url;
  const char *fault = tr_auth_check_realm(a->auth, tr_checkcstring(L, 2), &url, &is_host);
  if (fault == NULL)
    tr_url_free(&url);
  lua_pushboolean(L, fault == NULL);
  if (fault == NULL)
    return 1;
  lua_pushstring(L, fault);
  return 2;
}

void tr_open_auth(lua_State *L) {
  static const luaL_Reg methods[] = {{"__gc", auth_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"auth", new_auth},
                                       {"parse_challenge", parse_challenge},
                                       {"allows_realm", allows_realm},
                                       {NULL, NULL}};
  tr_newtype(L, TR_AUTH, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
