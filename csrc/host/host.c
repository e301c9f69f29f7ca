/*
** Hosts in C: a Lua state with a resolver in it. The state is made once, and
** used by one call at a time; caches, connections and TLS sessions are the
** process's, so hosts on many threads share them.
*/
#include "host.h"

#include <errno.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/options.h"

#ifndef TR_LUA_FOLDER /* the Makefile says where PREFIX has it */
#define TR_LUA_FOLDER "/usr/local/share/lua/5.4"
#endif

/* ----------------------------------------------------------- the Lua state */

/* Puts a folder of Lua files in front of package.path. */
static void add_folder(lua_State *L, const char *folder) {
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;", folder, folder);
  lua_getfield(L, -2, "path");
  lua_concat(L, 2);
  lua_setfield(L, -2, "path");
  lua_pop(L, 1);
}

/* True if package.path leads to our Lua files. */
static bool finds_files(lua_State *L) {
  bool found;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchpath");
  lua_pushliteral(L, "theaterref");
  lua_getfield(L, -3, "path");
  lua_call(L, 2, 1);
  found = !lua_isnil(L, -1);
  lua_pop(L, 2);
  return found;
}

/* Push a module. */
static void require(lua_State *L, const char *name) {
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
}

int luaopen_theaterref(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_theaterref_core);
  lua_setfield(L, -2, "theaterref.core");
  lua_pop(L, 1);
  if (!finds_files(L))
    add_folder(L, TR_LUA_FOLDER);
  if (!finds_files(L))
    return luaL_error(L, "theaterref's Lua files are not in " TR_LUA_FOLDER
                         ": set lua_folder (of tr_host_options) or LUA_PATH");
  require(L, "theaterref");
  return 1;
}

static void set_string(lua_State *L, const char *name, const char *value) {
  if (value == NULL)
    return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

/* sink(level, line, event), of the host in its upvalue */
static int pass_on(lua_State *L) {
  const tr_host *host = lua_touserdata(L, lua_upvalueindex(1));
  host->sink(host->context, luaL_checkstring(L, 1), luaL_checkstring(L, 2));
  return 0;
}

/* Sets the option 'log' of the options on top. A NULL level is that of the
** configuration, if any. */
static void set_log(lua_State *L, tr_host *host, const char *level) {
  lua_newtable(L);
  if (level != NULL)
    lua_pushstring(L, level);
  else
    lua_getfield(L, -2, "log");
  lua_setfield(L, -2, "level");
  if (host->sink != NULL) {
    lua_pushlightuserdata(L, host);
    lua_pushcclosure(L, pass_on, 1);
    lua_setfield(L, -2, "sink");
  }
  lua_setfield(L, -2, "log");
}

/* Pushes what the configuration says, or an empty table. */
static void push_options(lua_State *L, const char *config) {
  if (config == NULL) {
    lua_newtable(L);
    return;
  }
  lua_getfield(L, 3, "config");
  lua_pushstring(L, config[0] != '\0' ? config : NULL);
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2))
    lua_error(L); /* the configuration's */
  lua_pop(L, 1);
}

/* __gc, of the host in its upvalue */
static int note_collection(lua_State *L) {
  tr_host *host = lua_touserdata(L, lua_upvalueindex(1));
  host->collected = true;
  return 0;
}

/* Push a metatable for userdata that note when they are collected. */
static void push_witness(lua_State *L, tr_host *host) {
  lua_createtable(L, 0, 1);
  lua_pushlightuserdata(L, host);
  lua_pushcclosure(L, note_collection, 1);
  lua_setfield(L, -2, "__gc");
}

/* Protected: (host, options), light userdata. Return the values that stay on the
** host's stack. */
static int set_up(lua_State *L) {
  tr_host *host = lua_touserdata(L, 1);
  const tr_host_options *o = lua_touserdata(L, 2);
  luaL_openlibs(L);
  if (o->lua_folder != NULL) {
    lua_pushfstring(L, "%s/theaterref/init.lua", o->lua_folder);
    if (access(lua_tostring(L, -1), R_OK) != 0)
      return luaL_error(L, "lua_folder: %s: %s", lua_tostring(L, -1), strerror(errno));
    lua_pop(L, 1);
    add_folder(L, o->lua_folder);
  }
  luaopen_theaterref(L); /* 3 */
  lua_getfield(L, 3, "resolver");
  push_options(L, o->config); /* 5 */
  if (o->policy != NULL) {
    set_string(L, "policy", o->policy);
    lua_pushboolean(L, o->trusted);
    lua_setfield(L, -2, "trusted");
  }
  set_string(L, "home", o->home);
  set_string(L, "lockfile", o->lockfile);
  set_string(L, "offline", o->offline);
  set_string(L, "ca_file", o->ca_file);
  if (o->timeout != 0) {
    lua_pushnumber(L, o->timeout);
    lua_setfield(L, -2, "timeout");
  }
  if (o->cache != NULL) {
    lua_newtable(L);
    set_string(L, "name", o->cache);
    lua_setfield(L, -2, "cache");
  }
  set_log(L, host, o->log);
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2))
    return lua_error(L); /* the policy's */
  lua_pop(L, 1);
  set_string(L, "call_limit", "timeout"); /* as tr_call_options has it */
  require(L, "theaterref.manifest.json");
  lua_getfield(L, -1, "encode");
  lua_remove(L, -2);
  push_witness(L, host);
  return 3;
}

/* ------------------------------------------------------------------ hosts */

tr_host *tr_host_new(const tr_host_options *options, tr_error *error) {
  tr_host *host;
  tr_host_options copy = TR_HOST_OPTIONS;
  int status;
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&copy, sizeof copy, options, "TR_HOST_OPTIONS", error))
    return NULL;
  host = calloc(1, sizeof *host);
  if (host != NULL)
    host->L = luaL_newstate();
  if (host == NULL || host->L == NULL) {
    tr_error_nomem(error);
    free(host);
    return NULL;
  }
  host->sink = copy.log_sink;
  host->context = copy.log_context;
  tr_host_register(host);
  lua_gc(host->L, LUA_GCGEN, 0, 0); /* for 'collect' */
  lua_pushcfunction(host->L, set_up);
  lua_pushlightuserdata(host->L, host);
  lua_pushlightuserdata(host->L, &copy);
  status = lua_pcall(host->L, 2, 3, 0);
  if (status == LUA_OK) {
    lua_gc(host->L, LUA_GCCOLLECT); /* what is left is old from now on */
    return host;
  }
  tr_host_take_error(host->L, status, error);
  tr_host_free(host);
  return NULL;
}

void tr_host_free(tr_host *host) {
  if (host == NULL)
    return;
  if (!host->lost) { /* else all is as that call left it */
    tr_worker_stop(host);
    lua_close(host->L);
  }
  tr_host_unregister(host);
  free(host);
}
