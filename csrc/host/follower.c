/*
** Followers of hosts, on the worker's thread. In its turn of the host, the thread advances the
** Lua followers, which record events. Outside its turn, it calls back with these events.
*/
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "binding/lutil.h"
#include "core/error.h"
#include "host.h"

static void free_events(tr_follower *f) {
  while (f->events != NULL) {
    tr_follow_event *e = f->events;
    f->events = e->next;
    tr_blob_release(e->blob);
    free(e);
  }
  f->last = &f->events;
}

void tr_follower_delete(tr_follower *f) {
  free_events(f);
  pthread_cond_destroy(&f->idle);
  free(f->reference);
  free(f);
}

/* ----------------------------------------------------------- turns of Lua */

/* Add an event without content. NULL: memory is short. */
static tr_follow_event *add_event(tr_follower *f) {
  tr_follow_event *e = calloc(1, sizeof *e);
  if (e == NULL)
    return NULL;
  *f->last = e;
  f->last = &e->next;
  return e;
}

/* (blob, reference), of the follower in its upvalue */
static int note_content(lua_State *L) {
  tr_follow_event *e = add_event(lua_touserdata(L, lua_upvalueindex(1)));
  if (e == NULL)
    return luaL_error(L, "out of memory");
  e->blob = tr_blob_retain(tr_toblob(L, 1));
  return 0;
}

/* (error, reference), of the follower in its upvalue */
static int note_error(lua_State *L) {
  tr_follow_event *e = add_event(lua_touserdata(L, lua_upvalueindex(1)));
  if (e == NULL)
    return luaL_error(L, "out of memory");
  lua_settop(L, 1);
  tr_host_take_error(L, LUA_ERRRUN, &e->error);
  return 0;
}

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

/* Make the Lua follower, with the resolver at 1; it signals the worker. Push it. */
static void start(lua_State *L, tr_follower *f) {
  tr_notifier **notifier;
  lua_getfield(L, 1, "follow");
  lua_pushvalue(L, 1);
  lua_pushstring(L, f->reference);
  lua_pushlightuserdata(L, f);
  lua_pushcclosure(L, note_content, 1);
  lua_newtable(L);
  if (f->options.interval > 0)
    set_number(L, "interval", f->options.interval);
  set_number(L, "jitter", f->options.jitter);
  set_number(L, "resolve_timeout", f->options.timeout);
  lua_pushlightuserdata(L, f);
  lua_pushcclosure(L, note_error, 1);
  lua_setfield(L, -2, "on_error");
  lua_call(L, 4, 1);
  lua_getfield(L, -1, "notify");
  lua_pushvalue(L, -2);
  notifier = lua_newuserdatauv(L, sizeof *notifier, 0);
  *notifier = NULL;
  luaL_setmetatable(L, TR_NOTIFIER);
  *notifier = tr_notifier_retain(f->host->notifier);
  lua_call(L, 2, 0);
  lua_pushvalue(L, -1);
  f->lua = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Protected: (resolver, function that writes manifests, follower). Advance the follower. */
static int advance(lua_State *L) {
  tr_follower *f = lua_touserdata(L, 3);
  if (f->lua == LUA_NOREF)
    start(L, f);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->lua);
  lua_getfield(L, -1, "step");
  lua_pushvalue(L, -2);
  lua_call(L, 1, 0);
  lua_getfield(L, -1, "timeout");
  lua_pushvalue(L, -2);
  lua_call(L, 1, 1);
  f->due = lua_isnil(L, -1) ? HUGE_VAL : tr_now() + lua_tonumber(L, -1);
  return 0;
}

/* Protected: the same. Close it; its futures and watches end now. */
static int close_follower(lua_State *L) {
  const tr_follower *f = lua_touserdata(L, 3);
  lua_rawgeti(L, LUA_REGISTRYINDEX, f->lua);
  lua_getfield(L, -1, "close");
  lua_pushvalue(L, -2);
  lua_call(L, 1, 0);
  return 0;
}

/* Record that a turn itself failed, such as for lack of memory, and try again later. */
static void note_failure(tr_follower *f, const tr_error *error) {
  tr_follow_event *e = add_event(f);
  if (e != NULL)
    e->error = *error;
  f->due = tr_now() + fmax(f->options.interval, 1);
}

/* Remove a closed follower from the list at 'link', and free it. */
static void drop(tr_host *host, tr_follower **link) {
  tr_follower *f = *link;
  tr_error ignored;
  if (f->lua != LUA_NOREF)
    tr_turn_call(host, close_follower, f, &ignored);
  luaL_unref(host->L, LUA_REGISTRYINDEX, f->lua);
  host->collected = true; /* it lived through the end of a turn */
  pthread_mutex_lock(&tr_hosts_lock);
  *link = f->next;
  pthread_mutex_unlock(&tr_hosts_lock);
  tr_follower_delete(f);
}

/* True if its owner has freed it. */
static bool is_closed(const tr_follower *f) {
  bool closed;
  pthread_mutex_lock(&tr_hosts_lock);
  closed = f->closed;
  pthread_mutex_unlock(&tr_hosts_lock);
  return closed;
}

/* Take over the followers that were added. */
static void adopt(tr_host *host) {
  pthread_mutex_lock(&tr_hosts_lock);
  while (host->added_followers != NULL) {
    tr_follower *f = host->added_followers;
    host->added_followers = f->next;
    f->next = host->followers;
    host->followers = f;
  }
  pthread_mutex_unlock(&tr_hosts_lock);
}

bool tr_followers_advance(tr_host *host) {
  tr_follower **link = &host->followers;
  bool has_events = false, changed = false;
  tr_error error;
  adopt(host);
  while (*link != NULL) {
    tr_follower *f = *link;
    if (is_closed(f)) {
      drop(host, link);
      changed = true;
      continue;
    }
    if (!tr_turn_call(host, advance, f, &error))
      note_failure(f, &error);
    has_events |= f->events != NULL;
    link = &f->next;
  }
  if (has_events || changed)
    tr_turn_collect(host);
  return has_events;
}

double tr_followers_due(const tr_host *host) {
  const tr_follower *f;
  double first = HUGE_VAL;
  for (f = host->followers; f != NULL; f = f->next)
    first = fmin(first, f->due);
  return first;
}

/* ------------------------------------------------------------------ callbacks */

/* Begin a callback, or end it. False: there must be no more callbacks. */
static bool set_calling(tr_follower *f, bool calling) {
  bool stopping;
  pthread_mutex_lock(&tr_hosts_lock);
  stopping = f->stopping;
  f->calling = calling && !stopping;
  if (!f->calling)
    pthread_cond_broadcast(&f->idle);
  pthread_mutex_unlock(&tr_hosts_lock);
  return !stopping;
}

void tr_followers_call(tr_host *host) {
  tr_follower *f;
  for (f = host->followers; f != NULL; f = f->next) {
    while (f->events != NULL && set_calling(f, true)) {
      tr_follow_event *e = f->events;
      f->call(f->context, f->reference, e->blob, e->blob == NULL ? &e->error : NULL);
      set_calling(f, false);
      f->events = e->next;
      if (f->events == NULL)
        f->last = &f->events;
      tr_blob_release(e->blob);
      free(e);
    }
    free_events(f); /* of one that was closed */
  }
}

/* ------------------------------------------------------------------------ end */

/* Free closed followers. The others belong to their owners, and no longer have a host. */
static void let_go(tr_follower *f) {
  tr_follower *next;
  for (; f != NULL; f = next) {
    bool closed;
    next = f->next;
    free_events(f);
    pthread_mutex_lock(&tr_hosts_lock);
    closed = f->closed;
    f->host = NULL;
    pthread_mutex_unlock(&tr_hosts_lock);
    if (closed)
      tr_follower_delete(f);
  }
}

void tr_followers_end(tr_host *host) {
  let_go(host->followers);
  let_go(host->added_followers);
}
