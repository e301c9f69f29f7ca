/* The calls of a host: plans and bytes, now or by a future. */
#include "core/error.h"
#include "core/options.h"
#include "host.h"

/* Set a time limit in the options on top, of a method of the resolver at 1; below 0 there
** is none. Messages show it as it was given. */
static void set_timeout(lua_State *L, const char *name, const tr_call *c) {
  if (c->options.timeout < 0)
    return;
  lua_pushnumber(L, c->options.timeout);
  lua_setfield(L, -2, name);
  lua_pushnumber(L, c->given);
  lua_setfield(L, 1, "call_seconds");
}

/* Call a function of the resolver at 1 with so many arguments, which are on top with
** it. Push its result; raise its error. */
static void call_resolver(lua_State *L, int arguments) {
  lua_call(L, arguments, 2);
  if (lua_isnil(L, -2))
    lua_error(L);
  lua_pop(L, 1);
}

/* ------------------------------------------------------------------ plans */

/* Call a method of the resolver at 1 that plans. Push its result. */
static void push_plan(lua_State *L, const char *method, const tr_call *c) {
  lua_getfield(L, 1, method);
  lua_pushvalue(L, 1);
  lua_pushstring(L, c->reference);
  lua_newtable(L);
  if (c->options.initial_state != NULL) {
    lua_pushstring(L, c->options.initial_state);
    lua_setfield(L, -2, "initial_state");
  }
  set_timeout(L, "plan_timeout", c);
  call_resolver(L, 3);
}

/* Take the plan on top, with the function at 2 that writes manifests. */
static void take_plan(lua_State *L, tr_call *c) {
  tr_plan_take(L, &c->plan);
  c->blob = tr_blob_retain(tr_plan_package(c->plan));
}

/* Protected: (resolver, function that writes manifests, call). */
static int plan(lua_State *L) {
  tr_call *c = lua_touserdata(L, 3);
  push_plan(L, "plan", c);
  take_plan(L, c);
  return 0;
}

static int plan_start(lua_State *L) {
  push_plan(L, "start_plan", lua_touserdata(L, 2));
  return 1;
}

static int plan_take(lua_State *L) {
  take_plan(L, lua_touserdata(L, 3));
  return 0;
}

/* ------------------------------------------------------------------ bytes */

/* Protected: (resolver, function, call). */
static int resolve(lua_State *L) {
  tr_call *c = lua_touserdata(L, 3);
  bool cached = lua_getfield(L, 1, "cache") != LUA_TNIL;
  lua_getfield(L, 1, cached ? "resolve_cached" : "resolve");
  lua_pushvalue(L, 1);
  lua_pushstring(L, c->reference);
  if (cached)
    lua_pushnil(L); /* the resolver's own cache */
  lua_newtable(L);
  set_timeout(L, "resolve_timeout", c);
  call_resolver(L, cached ? 4 : 3);
  c->blob = tr_blob_retain(tr_toblob(L, -1));
  return 0;
}

static int resolve_start(lua_State *L) {
  const tr_call *c = lua_touserdata(L, 2);
  lua_getfield(L, 1, "start");
  lua_pushvalue(L, 1);
  lua_pushstring(L, c->reference);
  lua_newtable(L);
  lua_pushboolean(L, lua_getfield(L, 1, "cache") != LUA_TNIL);
  lua_setfield(L, -3, "cached");
  lua_pop(L, 1);
  set_timeout(L, "resolve_timeout", c);
  call_resolver(L, 3);
  return 1;
}

static int resolve_take(lua_State *L) {
  tr_call *c = lua_touserdata(L, 3);
  c->blob = tr_blob_retain(tr_toblob(L, -1));
  return 0;
}

/* ------------------------------------------------------------------ calls */

/* Prepare a call. False with the error. */
static bool prepare(tr_call *c, const char *reference,
                    const tr_call_options *options, tr_error *error) {
  *c = (tr_call){.reference = reference, .options = TR_CALL_OPTIONS};
  if (!tr_options_copy(&c->options, sizeof c->options, options,
                       "TR_CALL_OPTIONS", error))
    return false;
  c->given = c->options.timeout;
  return true;
}

tr_plan *tr_host_plan(tr_host *host, const char *manifest,
                      const tr_call_options *options, tr_error *error) {
  tr_call c;
  error = tr_error_or_ignored(error);
  if (!prepare(&c, manifest, options, error))
    return NULL;
  if (!tr_host_call(host, plan, &c, &c.options.timeout, error)) {
    tr_plan_free(c.plan);
    c.plan = NULL;
  }
  tr_blob_release(c.blob);
  return c.plan;
}

tr_blob *tr_host_resolve(tr_host *host, const char *reference,
                         const tr_call_options *options, tr_error *error) {
  tr_call c;
  error = tr_error_or_ignored(error);
  if (!prepare(&c, reference, options, error))
    return NULL;
  return tr_host_call(host, resolve, &c, &c.options.timeout, error) ? c.blob
                                                                    : NULL;
}

tr_future *tr_host_start_plan(tr_host *host, const char *manifest,
                              const tr_call_options *options,
                              tr_error *error) {
  static const tr_call_kind kind = {plan_start, plan_take};
  tr_call c;
  error = tr_error_or_ignored(error);
  return prepare(&c, manifest, options, error)
             ? tr_worker_start(host, &kind, &c, error)
             : NULL;
}

tr_future *tr_host_start_resolve(tr_host *host, const char *reference,
                                 const tr_call_options *options,
                                 tr_error *error) {
  static const tr_call_kind kind = {resolve_start, resolve_take};
  tr_call c;
  error = tr_error_or_ignored(error);
  return prepare(&c, reference, options, error)
             ? tr_worker_start(host, &kind, &c, error)
             : NULL;
}
