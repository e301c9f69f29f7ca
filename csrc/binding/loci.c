/* Registries in Lua: their references, and their documents. */
#include "core/error.h"
#include "core/helper_process.h"
#include "core/oci_reference.h"
#include "core/oci_select.h"
#include "lutil.h"

static int push_fault(lua_State *L, const char *fault) {
  lua_pushnil(L);
  lua_pushstring(L, fault);
  return 2;
}

/* parse_oci(text) -> { registry, host, port, repository, tag, manifest, ns, fragment } |
** nil, fault */
static int parse_oci(lua_State *L) {
  const char *text = tr_checkcstring(L, 1);
  tr_oci_reference r;
  const char *fault = tr_oci_reference_parse(&r, text);
  if (fault != NULL)
    return push_fault(L, fault);
  /* No more than some kilobytes leak if memory runs out in here. */
  lua_createtable(L, 0, 12);
  tr_set_text(L, "registry", r.registry);
  tr_set_text(L, "host", r.host);
  lua_pushinteger(L, r.port);
  lua_setfield(L, -2, "port");
  tr_set_text(L, "repository", r.repository);
  tr_set_text(L, "tag", r.tag);
  tr_set_text(L, "manifest", r.manifest);
  tr_set_text(L, "ns", r.ns);
  lua_pushstring(L, r.fragment);
  lua_setfield(L, -2, "fragment");
  tr_oci_reference_free(&r);
  return 1;
}

/*
** oci_select(document [, title [, media_type]]) -> "manifest" or "layer", digest in hex,
** size, media type | nil, error
*/
static int oci_select(lua_State *L) {
  size_t len;
  const char *document = tr_checkbytes(L, 1, &len);
  const char *title = lua_isnoneornil(L, 2) ? NULL : tr_checkcstring(L, 2);
  const char *media_type = lua_isnoneornil(L, 3) ? NULL : tr_checkcstring(L, 3);
  tr_oci_choice choice;
  tr_error error;
  if (!tr_oci_select(document, len, title, media_type, &choice, &error))
    return tr_pusherror(L, &error);
  lua_pushstring(L, choice.kind == TR_OCI_LAYER ? "layer" : "manifest");
  lua_pushstring(L, choice.digest);
  lua_pushinteger(L, (lua_Integer)choice.size);
  lua_pushstring(L, choice.media_type);
  return 4;
}

/* run_helper(program, argument, input, seconds) -> future of what it prints | nil, error */
static int run_helper(lua_State *L) {
  size_t len;
  const char *program = tr_checkcstring(L, 1);
  const char *argument = tr_checkcstring(L, 2);
  const char *input = luaL_checklstring(L, 3, &len);
  double seconds = luaL_checknumber(L, 4);
  tr_error error;
  lfuture *f = tr_newfuture(L);
  f->future = tr_future_create();
  if (f->future == NULL)
    return luaL_error(L, "out of memory");
  if (!tr_helper_run(program, argument, input, len, seconds, f->future, &error))
    return tr_pusherror(L, &error);
  return 1;
}

void tr_open_oci(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"parse_oci", parse_oci}, {"oci_select", oci_select},
      {"run_helper", run_helper}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
