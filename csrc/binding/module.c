/* The module "theaterref.core": every type and function, in one table. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lutil.h"

/* now() -> seconds of a clock that only runs forward */
static int now(lua_State *L) {
  lua_pushnumber(L, tr_now());
  return 1;
}

/* working_folder() -> absolute path of the process's own */
static int working_folder(lua_State *L) {
  char path[4096];
  if (getcwd(path, sizeof path) == NULL)
    return luaL_error(L, "no working folder: %s", strerror(errno));
  lua_pushstring(L, path);
  return 1;
}

/* file_stamp(path) -> what changes when the file does | nil */
static int file_stamp(lua_State *L) {
  struct stat st;
  if (stat(tr_checkcstring(L, 1), &st) != 0)
    return 0;
  lua_pushfstring(L, "%I:%I:%I:%I.%I", (lua_Integer)st.st_dev,
                  (lua_Integer)st.st_ino, (lua_Integer)st.st_size,
                  (lua_Integer)st.st_mtim.tv_sec,
                  (lua_Integer)st.st_mtim.tv_nsec);
  return 1;
}

/* curl() -> the libcurl in use, and its file of authorities; nil, nil */
static int curl(lua_State *L) {
  lua_pushstring(L, tr_curl_version());
  lua_pushstring(L, tr_curl_ca_file());
  return 2;
}

/* is_terminal(descriptor) -> boolean */
static int is_terminal(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

int luaopen_theaterref_core(lua_State *L) {
  static const luaL_Reg functions[] = {{"now", now},
                                       {"working_folder", working_folder},
                                       {"is_terminal", is_terminal},
                                       {"file_stamp", file_stamp},
                                       {"curl", curl},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_pushliteral(L, TR_VERSION);
  lua_setfield(L, -2, "version");
  luaL_newmetatable(L, TR_ERROR);
  lua_setfield(L, -2, "error_metatable"); /* error.lua gives it methods */
  tr_open_blob(L);
  tr_open_future(L);
  tr_open_cache(L);
  tr_open_store(L);
  lua_getfield(L, -1, "store_methods");
  tr_open_labels(L);
  tr_open_batch(L);
  lua_pop(L, 1);
  tr_open_json(L);
  tr_open_sandbox(L);
  return 1;
}
