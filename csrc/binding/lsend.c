/* Requests with a method and a body, in Lua. */
#include "core/engine.h"
#include "core/error.h"
#include "lutil.h"

/* The method of a message, "GET" by default. Raises for one that is unknown. */
static tr_method read_method(lua_State *L, int index) {
  const char *name = tr_optstring(L, index, "method");
  int method = name != NULL ? tr_method_named(name) : TR_GET;
  if (method < 0)
    luaL_error(L, "'method' must be GET, HEAD, POST, PUT, PATCH or DELETE");
  return (tr_method)method;
}

/* The body of a message, which the caller's table keeps; or NULL. */
static tr_blob *read_body(lua_State *L, int index) {
  lblob *b;
  if (lua_getfield(L, index, "body") == LUA_TNIL) {
    lua_pop(L, 1);
    return NULL;
  }
  b = luaL_checkudata(L, -1, TR_BLOB);
  luaL_argcheck(L, b->blob != NULL, index, "blob is closed");
  lua_pop(L, 1);
  return b->blob;
}

/*
** send(url, options, message [, seconds]) -> future | nil, error
** 'options' is of request_options; 'message' is { method =, body = a blob, headers = { name
** = value }, conditional =, link_local = }. Any response completes the future, with its body: its info() then has
** 'status' and 'headers'. The body may have 4 MiB; it is not unpacked, and not resumed. Only
** GET and HEAD follow redirects. Lost requests are repeated if that is safe; with 'retries'
** 0, or 'conditional', never. 'link_local': it asks a cloud for credentials.
*/
static int send_message(lua_State *L) {
  const char *url = tr_checkcstring(L, 1);
  lrequest *r = luaL_checkudata(L, 2, TR_REQUEST);
  tr_fetch_options options = r->options;
  tr_send_options message = {0};
  tr_request_extra extra = {.send = &message, .auth = r->auth, .auth_scope = r->auth_scope,
                            .signer = r->signer};
  double timeout = luaL_optnumber(L, 4, -1);
  tr_error error;
  lfuture *f;
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 4);
  lua_newtable(L);
  message.method = read_method(L, 3);
  message.body = read_body(L, 3);
  message.headers = tr_optheaders(L, 3, 5);
  message.is_conditional = tr_optbool(L, 3, "conditional", false);
  message.link_local = tr_optbool(L, 3, "link_local", false);
  message.no_redirects = message.link_local;
  luaL_argcheck(L, message.body == NULL || message.method > TR_HEAD, 3,
                "GET and HEAD have no body");
  if (timeout >= 0 && (options.timeout < 0 || timeout < options.timeout))
    options.timeout = timeout;
  f = tr_newfuture(L);
  f->future = tr_future_create();
  if (f->future == NULL)
    return luaL_error(L, "out of memory");
  if (tr_engine_fetch(tr_future_promise(f->future), url, &options, &extra, false, &error))
    return 1;
  tr_future_fail(f->future, &error);
  return tr_pusherror(L, &error);
}

void tr_open_send(lua_State *L) {
  static const luaL_Reg functions[] = {{"send", send_message}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
