/*
** Hosts in C: a Lua state with a resolver in it. The state is made once, and
** used by one call at a time; caches, connections and TLS sessions are the
** process's, so hosts on many threads share them.
*/
#include "host.h"

#include <lualib.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/future.h"
#include "core/options.h"
#include "core/thread.h"

#ifndef TR_LUA_FOLDER /* the Makefile says where PREFIX has it */
#define TR_LUA_FOLDER "/usr/local/share/lua/5.4"
#endif

struct tr_host {
  pthread_mutex_t lock;
  pthread_cond_t left;
  bool busy;      /* a call uses the Lua state */
  bool lost;      /* in a child: that call's thread was not forked */
  pthread_t user; /* the thread of that call */
  lua_State *L;
  bool collected;      /* a collection ran during the call */
  tr_log_sink sink;
  void *context;
  tr_host *next, *prev; /* all hosts of the process */
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
  require(L, "theaterref.manifest.json");
  lua_getfield(L, -1, "encode");
  lua_remove(L, -2);
  push_witness(L, host);
  return 3;
}

/* ----------------------------------------------------------------- errors */

/* Return the integer field of the table at 1, or 0. */
static int get_number(lua_State *L, const char *name) {
  int number;
  lua_getfield(L, 1, name);
  number = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return number;
}

/* Return the kind of a name: TR_POLICY for none of ours. */
static tr_error_kind kind_named(const char *name) {
  int kind;
  for (kind = TR_OK + 1; name != NULL; kind++) {
    const char *known = tr_error_kind_name((tr_error_kind)kind);
    if (strcmp(known, name) == 0)
      return (tr_error_kind)kind;
    if (strcmp(known, "unknown") == 0)
      break;
  }
  return TR_POLICY;
}

/* Protected, since reading a table may raise: (error, tr_error). */
static int read_error(lua_State *L) {
  tr_error *error = lua_touserdata(L, 2);
  tr_error_kind kind = TR_POLICY;
  int status = 0, errnum = 0;
  if (lua_istable(L, 1)) {
    lua_getfield(L, 1, "kind");
    kind = kind_named(lua_tostring(L, -1));
    status = kind == TR_HTTP_STATUS ? get_number(L, "status") : 0;
    errnum = get_number(L, "errno");
  }
  tr_error_set(error, kind, "%s", luaL_tolstring(L, 1, NULL));
  error->status = status;
  error->errnum = errnum;
  return 0;
}

/* Pop the error of a call that ended with 'status', ours or Lua's. */
static void take_error(lua_State *L, int status, tr_error *error) {
  if (status != LUA_ERRMEM) {
    lua_pushcfunction(L, read_error);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, error);
    status = lua_pcall(L, 2, 0, 0);
    if (status == LUA_OK) {
      lua_pop(L, 1);
      return;
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (status == LUA_ERRMEM)
    tr_error_nomem(error);
  else
    tr_error_set(error, TR_POLICY,
                 "a call failed, and reading its error failed as well: a policy "
                 "raised a value that has no message");
}

/* ------------------------------------------------------------- all hosts */

/* Every host of the process, for fork(). Taken before any host's own lock. */
static pthread_mutex_t hosts_lock = PTHREAD_MUTEX_INITIALIZER;
static tr_host *hosts;

static void lock_all(void) {
  tr_host *host;
  pthread_mutex_lock(&hosts_lock);
  for (host = hosts; host != NULL; host = host->next)
    pthread_mutex_lock(&host->lock);
}

static void unlock_all(void) {
  tr_host *host;
  for (host = hosts; host != NULL; host = host->next)
    pthread_mutex_unlock(&host->lock);
  pthread_mutex_unlock(&hosts_lock);
}

/* In a child there is one thread: nobody waits, and no other thread's call goes
** on. */
static void in_child(void) {
  tr_host *host;
  for (host = hosts; host != NULL; host = host->next) {
    tr_condition_init(&host->left);
    if (host->busy && !pthread_equal(host->user, pthread_self()))
      host->lost = true;
  }
  unlock_all();
}

static void at_fork(void) { pthread_atfork(lock_all, unlock_all, in_child); }

static void add_host(tr_host *host) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&hosts_lock);
  host->next = hosts;
  if (hosts != NULL)
    hosts->prev = host;
  hosts = host;
  pthread_mutex_unlock(&hosts_lock);
}

static void remove_host(tr_host *host) {
  pthread_mutex_lock(&hosts_lock);
  *(host->prev != NULL ? &host->prev->next : &hosts) = host->next;
  if (host->next != NULL)
    host->next->prev = host->prev;
  pthread_mutex_unlock(&hosts_lock);
}

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
  tr_condition_init(&host->left);
  pthread_mutex_init(&host->lock, NULL);
  host->sink = copy.log_sink;
  host->context = copy.log_context;
  add_host(host);
  lua_gc(host->L, LUA_GCGEN, 0, 0); /* for 'collect' */
  lua_pushcfunction(host->L, set_up);
  lua_pushlightuserdata(host->L, host);
  lua_pushlightuserdata(host->L, &copy);
  status = lua_pcall(host->L, 2, 3, 0);
  if (status == LUA_OK) {
    lua_gc(host->L, LUA_GCCOLLECT); /* what is left is old from now on */
    return host;
  }
  take_error(host->L, status, error);
  tr_host_free(host);
  return NULL;
}

void tr_host_free(tr_host *host) {
  if (host == NULL)
    return;
  remove_host(host);
  if (!host->lost) /* else the Lua state is as that call left it */
    lua_close(host->L);
  pthread_cond_destroy(&host->left);
  pthread_mutex_destroy(&host->lock);
  free(host);
}

/* ------------------------------------------------------------------ calls */

/* Set why a turn did not come. The lock is held. */
static void explain(const tr_host *host, double timeout, tr_error *error) {
  if (host->lost)
    tr_error_set(error, TR_POLICY,
                 "another thread was using this host when the process forked; "
                 "make a host in the child");
  else if (pthread_equal(host->user, pthread_self()))
    tr_error_set(error, TR_POLICY,
                 "a callback of this host called it, and would wait for itself; "
                 "use another host in it");
  else if (tr_interrupted())
    tr_error_set(error, TR_CANCELLED, "interrupted");
  else
    tr_error_set(error, TR_TIMEOUT,
                 "no turn within %g seconds: the host is serving other threads",
                 timeout);
}

/* Take the Lua state from other calls, and the time that took off the timeout.
** False with the error. */
static bool enter(tr_host *host, double *timeout, tr_error *error) {
  double deadline = tr_deadline(*timeout);
  bool entered;
  pthread_mutex_lock(&host->lock);
  while (host->busy && !host->lost &&
         !pthread_equal(host->user, pthread_self()) && !tr_interrupted() &&
         tr_now() < deadline) {
    double slice = tr_now() + 0.1; /* after which to look for an interrupt */
    tr_condition_wait(&host->left, &host->lock, fmin(slice, deadline));
  }
  entered = !host->busy;
  if (entered) {
    host->busy = true;
    host->user = pthread_self();
  } else {
    explain(host, *timeout, error);
  }
  pthread_mutex_unlock(&host->lock);
  if (entered && isfinite(deadline))
    *timeout = fmax(deadline - tr_now(), 0.001);
  return entered;
}

/* Leave the Lua state to other calls. */
static void leave(tr_host *host) {
  pthread_mutex_lock(&host->lock);
  host->busy = false;
  pthread_cond_signal(&host->left);
  pthread_mutex_unlock(&host->lock);
}

/*
** Release everything that a call made: an idle host holds no result. A collection of
** young objects finds it and costs little. An object that lived through two of them
** counts as old: if one ran during the call, collect old objects, too.
*/
static void collect(tr_host *host) {
  if (host->collected)
    lua_gc(host->L, LUA_GCCOLLECT);
  else
    lua_gc(host->L, LUA_GCSTEP, 0);
}

/* A function to call, and its job. */
typedef struct call {
  lua_CFunction work;
  void *job;
} call;

/* Protected: (resolver, function that writes manifests, witness, call). */
static int perform(lua_State *L) {
  const call *c = lua_touserdata(L, -1);
  lua_newuserdatauv(L, 0, 0);
  lua_pushvalue(L, TR_WITNESS);
  lua_setmetatable(L, -2);
  lua_pop(L, 1); /* the next collection finds it */
  lua_pushcfunction(L, c->work);
  lua_pushvalue(L, TR_RESOLVER);
  lua_pushvalue(L, TR_ENCODE_MANIFEST);
  lua_pushlightuserdata(L, c->job);
  lua_call(L, 3, 0);
  return 0;
}

bool tr_host_call(tr_host *host, lua_CFunction work, void *job,
                  double *timeout, tr_error *error) {
  call c = {work, job};
  lua_State *L = host->L;
  int status;
  if (!enter(host, timeout, error))
    return false;
  host->collected = false;
  lua_pushcfunction(L, perform);
  lua_pushvalue(L, TR_RESOLVER);
  lua_pushvalue(L, TR_ENCODE_MANIFEST);
  lua_pushvalue(L, TR_WITNESS);
  lua_pushlightuserdata(L, &c);
  status = lua_pcall(L, 4, 0, 0);
  if (status != LUA_OK)
    take_error(L, status, error);
  collect(host);
  leave(host);
  return status == LUA_OK;
}
