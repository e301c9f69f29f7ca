/*
** A Lua interpreter that sanitizers can be linked into: runs a script, or
** with -e a chunk, with the rest of the command line as 'arg'.
*/
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

static int traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  int script = 1, i, status;
  if (L == NULL || argc < 2)
    return 2;
  luaL_openlibs(L);
  if (strcmp(argv[1], "-e") == 0)
    script = 2;
  lua_createtable(L, argc, 2);
  for (i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - script);
  }
  lua_setglobal(L, "arg");
  lua_pushcfunction(L, traceback);
  status = script == 2 ? luaL_loadstring(L, argv[2])
                       : luaL_loadfile(L, argv[1]);
  for (i = script + 1; i < argc && status == LUA_OK; i++)
    lua_pushstring(L, argv[i]);
  if (status == LUA_OK)
    status = lua_pcall(L, argc - script - 1, 0, 1);
  if (status != LUA_OK)
    fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
  lua_close(L);
  return status != LUA_OK;
}
