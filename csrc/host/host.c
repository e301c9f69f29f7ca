/*
** Hosts in C: a Lua state with a resolver in it. The state is made once, and
** used by one thread at a time; caches, connections and TLS sessions are the
** process's, so hosts on many threads share them.
*/
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/future.h"
#include "core/options.h"
#include "core/thread.h"
#include "theaterref.h"

#ifndef TR_LUA_FOLDER /* the Makefile says where PREFIX has it */
#define TR_LUA_FOLDER "/usr/local/share/lua/5.4"
#endif

/* Everything a spawn needs; see the getters. */
struct tr_plan {
  char *name, *package_reference;
  tr_blob *package, *initial_state;
  bool used_cache, cache_hit;
};

struct tr_host {
  pthread_mutex_t lock;
  pthread_cond_t left;
  bool busy;            /* a thread uses the Lua state */
  lua_State *L;         /* its stack holds the resolver, at 1 */
  tr_log_sink sink;
  void *context;
};

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

int luaopen_theaterref(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_theaterref_core);
  lua_setfield(L, -2, "theaterref.core");
  lua_pop(L, 1);
  if (!finds_files(L))
    add_folder(L, TR_LUA_FOLDER);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "theaterref");
  lua_call(L, 1, 1);
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

/* Protected: (host, options), light userdata. Makes the resolver. */
static int set_up(lua_State *L) {
  tr_host *host = lua_touserdata(L, 1);
  const tr_host_options *o = lua_touserdata(L, 2);
  luaL_openlibs(L);
  if (o->lua_folder != NULL)
    add_folder(L, o->lua_folder);
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
  return 1;
}

/* The error on the stack's top, ours or Lua's, which it pops. */
static void take_error(lua_State *L, tr_error *error) {
  int kind = TR_POLICY;
  const char *text;
  if (lua_istable(L, -1) && lua_getfield(L, -1, "kind") == LUA_TSTRING) {
    for (kind = TR_CANCELLED; kind > TR_OK; kind--)
      if (strcmp(tr_error_kind_name((tr_error_kind)kind),
                 lua_tostring(L, -1)) == 0)
        break;
    lua_pop(L, 1);
    lua_getfield(L, -1, "status");
    error->status = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
  } else if (lua_istable(L, -1)) {
    lua_pop(L, 1);
  }
  text = luaL_tolstring(L, -1, NULL);
  {
    int status = kind == TR_HTTP_STATUS ? error->status : 0;
    tr_error_set(error, kind == TR_OK ? TR_POLICY : (tr_error_kind)kind, "%s",
                 text);
    error->status = status;
  }
  lua_pop(L, 2);
}

tr_host *tr_host_new(const tr_host_options *options, tr_error *error) {
  tr_host *host = calloc(1, sizeof *host);
  tr_host_options copy = TR_HOST_OPTIONS;
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&copy, sizeof copy, options, "TR_HOST_OPTIONS", error)) {
    free(host);
    return NULL;
  }
  if (host != NULL)
    host->L = luaL_newstate();
  if (host == NULL || host->L == NULL) {
    tr_error_nomem(error);
    free(host);
    return NULL;
  }
  tr_condition_init(&host->left);
  pthread_mutex_init(&host->lock, NULL);
  host->sink = copy.log_sink;
  host->context = copy.log_context;
  lua_pushcfunction(host->L, set_up);
  lua_pushlightuserdata(host->L, host);
  lua_pushlightuserdata(host->L, &copy);
  if (lua_pcall(host->L, 2, 1, 0) == LUA_OK)
    return host;
  error->status = 0;
  take_error(host->L, error);
  tr_host_free(host);
  return NULL;
}

void tr_host_free(tr_host *host) {
  if (host == NULL)
    return;
  lua_close(host->L);
  pthread_cond_destroy(&host->left);
  pthread_mutex_destroy(&host->lock);
  free(host);
}

/* ------------------------------------------------------- plans and bytes */

/* One call of a host: its arguments and its results. */
typedef struct job {
  const char *reference;
  tr_call_options options;
  tr_plan *plan;
  tr_blob *blob;
} job;

/* Set a time limit in the options on top; below 0 there is none. */
static void set_timeout(lua_State *L, const char *name, double seconds) {
  if (seconds < 0)
    return;
  lua_pushnumber(L, seconds);
  lua_setfield(L, -2, name);
}

/* Take the Lua state from other threads, and what that took off the job's time.
** False with the error. */
static bool enter(tr_host *host, job *j, tr_error *error) {
  double deadline = tr_deadline(j->options.timeout);
  bool entered;
  pthread_mutex_lock(&host->lock);
  while (host->busy && !tr_interrupted() && tr_now() < deadline) {
    double slice = tr_now() + 0.1; /* after which to look for an interrupt */
    tr_condition_wait(&host->left, &host->lock, fmin(slice, deadline));
  }
  entered = !host->busy;
  host->busy = true;
  pthread_mutex_unlock(&host->lock);
  if (!entered && tr_interrupted())
    tr_error_set(error, TR_CANCELLED, "interrupted");
  else if (!entered)
    tr_error_set(error, TR_TIMEOUT,
                 "no turn within %g seconds: the host is serving other threads",
                 j->options.timeout);
  if (!entered)
    return false;
  if (isfinite(deadline))
    j->options.timeout = fmax(deadline - tr_now(), 0.001);
  return true;
}

/* Leave the Lua state to other threads. */
static void leave(tr_host *host) {
  pthread_mutex_lock(&host->lock);
  host->busy = false;
  pthread_cond_signal(&host->left);
  pthread_mutex_unlock(&host->lock);
}

/* Run a job's function while no other thread uses the Lua state. */
static bool perform(tr_host *host, lua_CFunction work, job *j,
                    tr_error *error) {
  lua_State *L = host->L;
  int status;
  if (!enter(host, j, error))
    return false;
  lua_pushcfunction(L, work);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, j);
  status = lua_pcall(L, 2, 0, 0);
  error->status = 0;
  if (status != LUA_OK)
    take_error(L, error);
  leave(host);
  return status == LUA_OK;
}

/* A copy of the string field of the table on top; NULL if there is none. */
static char *copy_field(lua_State *L, const char *name) {
  char *copy = NULL;
  if (lua_getfield(L, -1, name) == LUA_TSTRING) {
    copy = strdup(lua_tostring(L, -1));
    if (copy == NULL)
      luaL_error(L, "out of memory");
  }
  lua_pop(L, 1);
  return copy;
}

static tr_blob *take_blob(lua_State *L, const char *name) {
  tr_blob *blob = NULL;
  size_t len;
  const char *text;
  lua_getfield(L, -1, name);
  if (tr_toblob(L, -1) != NULL) {
    blob = tr_blob_retain(tr_toblob(L, -1));
  } else if (lua_type(L, -1) == LUA_TSTRING) {
    text = lua_tolstring(L, -1, &len);
    blob = tr_blob_new(text, len);
    if (blob == NULL)
      luaL_error(L, "out of memory");
  }
  lua_pop(L, 1);
  return blob;
}

static bool get_flag(lua_State *L, const char *name) {
  bool flag;
  lua_getfield(L, -1, name);
  flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

/* Protected: (resolver, job). Each field belongs to the plan as soon as it is
** set. */
static int make_plan(lua_State *L) {
  const job *j = lua_touserdata(L, 2);
  lua_getfield(L, 1, "plan");
  lua_pushvalue(L, 1);
  lua_pushstring(L, j->reference);
  lua_newtable(L);
  set_string(L, "initial_state", j->options.initial_state);
  set_timeout(L, "plan_timeout", j->options.timeout);
  lua_call(L, 3, 2);
  if (lua_isnil(L, -2))
    return lua_error(L);
  lua_pop(L, 1);
  j->plan->name = copy_field(L, "name");
  j->plan->package_reference = copy_field(L, "package_reference");
  j->plan->package = take_blob(L, "package");
  j->plan->initial_state = take_blob(L, "initial_state");
  j->plan->used_cache = get_flag(L, "used_cache");
  j->plan->cache_hit = get_flag(L, "cache_hit");
  return 0;
}

tr_plan *tr_host_plan(tr_host *host, const char *manifest,
                      const tr_call_options *options, tr_error *error) {
  job j = {.reference = manifest, .options = TR_CALL_OPTIONS};
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&j.options, sizeof j.options, options,
                       "TR_CALL_OPTIONS", error))
    return NULL;
  j.plan = calloc(1, sizeof *j.plan);
  if (j.plan == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  if (perform(host, make_plan, &j, error))
    return j.plan;
  tr_plan_free(j.plan);
  return NULL;
}

/* Protected: (resolver, job). */
static int resolve(lua_State *L) {
  job *j = lua_touserdata(L, 2);
  lua_getfield(L, 1, "cache");
  lua_getfield(L, 1, lua_isnil(L, -1) ? "resolve" : "resolve_cached");
  lua_pushvalue(L, 1);
  lua_pushstring(L, j->reference);
  if (!lua_isnil(L, -4))
    lua_pushnil(L); /* the resolver's own cache */
  lua_newtable(L);
  set_timeout(L, "resolve_timeout", j->options.timeout);
  lua_call(L, lua_isnil(L, 3) ? 3 : 4, 2);
  if (lua_isnil(L, -2))
    return lua_error(L);
  j->blob = tr_blob_retain(tr_toblob(L, -2));
  return 0;
}

tr_blob *tr_host_resolve(tr_host *host, const char *reference,
                         const tr_call_options *options, tr_error *error) {
  job j = {.reference = reference, .options = TR_CALL_OPTIONS};
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&j.options, sizeof j.options, options,
                       "TR_CALL_OPTIONS", error))
    return NULL;
  return perform(host, resolve, &j, error) ? j.blob : NULL;
}

void tr_plan_free(tr_plan *plan) {
  if (plan == NULL)
    return;
  free(plan->name);
  free(plan->package_reference);
  tr_blob_release(plan->package);
  tr_blob_release(plan->initial_state);
  free(plan);
}

const char *tr_plan_name(const tr_plan *plan) { return plan->name; }

const char *tr_plan_package_reference(const tr_plan *plan) {
  return plan->package_reference;
}

tr_blob *tr_plan_package(const tr_plan *plan) { return plan->package; }

tr_blob *tr_plan_initial_state(const tr_plan *plan) {
  return plan->initial_state;
}

bool tr_plan_used_cache(const tr_plan *plan) { return plan->used_cache; }

bool tr_plan_cache_hit(const tr_plan *plan) { return plan->cache_hit; }
