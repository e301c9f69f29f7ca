/*
** Turns at a host's Lua state. One thread at a time has it; those who wait get it in
** the order in which they asked, so that no thread that calls again and again keeps
** the others out.
*/
#include <math.h>

#include "core/error.h"
#include "core/thread.h"
#include "host.h"

/* ------------------------------------------------------------- all hosts */

pthread_mutex_t tr_hosts_lock = PTHREAD_MUTEX_INITIALIZER;
static tr_host *hosts;

static void lock_all(void) { pthread_mutex_lock(&tr_hosts_lock); }
static void unlock_all(void) { pthread_mutex_unlock(&tr_hosts_lock); }

/* In a child there is one thread: nobody waits, no worker is there, and no other
** thread's call goes on. */
static void in_child(void) {
  tr_host *host;
  tr_follower *f;
  for (host = hosts; host != NULL; host = host->next) {
    host->first = NULL;
    host->has_worker = false;
    for (f = host->followers; f != NULL; f = f->next)
      f->calling = false;
    if (host->busy && !pthread_equal(host->user, pthread_self()))
      host->lost = true;
  }
  unlock_all();
}

static void at_fork(void) {
  tr_future_prepare_fork(); /* their locks may be taken under ours */
  pthread_atfork(lock_all, unlock_all, in_child);
}

void tr_host_register(tr_host *host) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&tr_hosts_lock);
  host->next = hosts;
  if (hosts != NULL)
    hosts->prev = host;
  hosts = host;
  pthread_mutex_unlock(&tr_hosts_lock);
}

void tr_host_unregister(tr_host *host) {
  pthread_mutex_lock(&tr_hosts_lock);
  *(host->prev != NULL ? &host->prev->next : &hosts) = host->next;
  if (host->next != NULL)
    host->next->prev = host->prev;
  pthread_mutex_unlock(&tr_hosts_lock);
}

/* ----------------------------------------------------------------- turns */

/* The host whose turn a thread waits for, or NULL. */
static const tr_host *awaited_by(pthread_t thread) {
  const tr_host *host;
  const tr_turn *turn;
  for (host = hosts; host != NULL; host = host->next)
    for (turn = host->first; turn != NULL; turn = turn->next)
      if (pthread_equal(turn->thread, thread))
        return host;
  return NULL;
}

/* True if a host's turn comes only after this thread has left one of its own: whoever
** has it waits for a host of this thread's, or for one that waits for such a one. */
static bool waits_for_us(const tr_host *host) {
  while (host != NULL && host->busy) {
    if (pthread_equal(host->user, pthread_self()))
      return true;
    host = awaited_by(host->user);
  }
  return false;
}

bool tr_turn_possible(const tr_host *host, tr_error *error) {
  if (host->lost)
    tr_error_set(error, TR_POLICY,
                 "another thread was using this host when the process forked; "
                 "make a host in the child");
  else if (waits_for_us(host))
    tr_error_set(error, TR_POLICY,
                 "a callback of this host called it, or a host whose callback "
                 "calls it, and would wait for itself; use another host in it");
  else
    return true;
  return false;
}

/* Give the Lua state to a thread. The lock is held. */
static void grant(tr_host *host, tr_turn *turn) {
  host->busy = turn->granted = true;
  host->user = turn->thread;
}

void tr_turn_ask(tr_host *host, tr_turn *turn) {
  tr_turn **last = &host->first;
  turn->thread = pthread_self();
  turn->asked = true;
  turn->granted = false;
  turn->next = NULL;
  if (!host->busy) {
    grant(host, turn);
    return;
  }
  while (*last != NULL)
    last = &(*last)->next;
  *last = turn;
}

void tr_turn_end(tr_host *host, tr_turn *turn) {
  tr_turn **link = &host->first, *next;
  turn->asked = false;
  if (!turn->granted) {
    while (*link != NULL && *link != turn)
      link = &(*link)->next;
    if (*link != NULL)
      *link = turn->next;
    return;
  }
  turn->granted = host->busy = false;
  next = host->first;
  if (next == NULL)
    return;
  host->first = next->next;
  grant(host, next);
  if (next->notifier != NULL)
    tr_notifier_signal(next->notifier);
  else
    pthread_cond_signal(&next->came);
}

/* Wait for a turn, and take the time off the timeout. False with the error. */
static bool enter(tr_host *host, tr_turn *turn, double *timeout,
                  tr_error *error) {
  double deadline = tr_deadline(*timeout);
  bool entered;
  pthread_mutex_lock(&tr_hosts_lock);
  entered = tr_turn_possible(host, error);
  if (entered) {
    tr_condition_init(&turn->came);
    tr_turn_ask(host, turn);
    while (!turn->granted && !tr_interrupted() && tr_now() < deadline) {
      double slice = tr_now() + 0.1; /* after which to look for an interrupt */
      tr_condition_wait(&turn->came, &tr_hosts_lock, fmin(slice, deadline));
    }
    entered = turn->granted;
    if (!entered && tr_interrupted())
      tr_error_set(error, TR_CANCELLED, "interrupted");
    else if (!entered)
      tr_error_set(error, TR_TIMEOUT,
                   "no turn within %g second%s (timeout): the host is serving "
                   "other threads",
                   *timeout, tr_plural(*timeout));
    if (!entered)
      tr_turn_end(host, turn);
    pthread_cond_destroy(&turn->came);
  }
  pthread_mutex_unlock(&tr_hosts_lock);
  if (entered && isfinite(deadline))
    *timeout = fmax(deadline - tr_now(), 0.001);
  return entered;
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

/* Protected, since reading a table may raise: (error, tr_error). */
static int read_error(lua_State *L) {
  tr_error *error = lua_touserdata(L, 2);
  tr_error_kind kind = TR_POLICY;
  int status = 0, errnum = 0;
  if (lua_istable(L, 1)) {
    lua_getfield(L, 1, "kind");
    kind = tr_error_kind_named(lua_tostring(L, -1));
    status = kind == TR_HTTP_STATUS ? get_number(L, "status") : 0;
    errnum = get_number(L, "errno");
  }
  tr_error_set(error, kind, "%s", luaL_tolstring(L, 1, NULL));
  error->status = status;
  error->errnum = errnum;
  return 0;
}

void tr_host_take_error(lua_State *L, int status, tr_error *error) {
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

/* ------------------------------------------------------------------ calls */

/* A function to call, and its job. */
typedef struct work {
  lua_CFunction call;
  void *job;
} work;

/* Protected: (resolver, function that writes manifests, witness, work). */
static int perform(lua_State *L) {
  const work *w = lua_touserdata(L, -1);
  lua_newuserdatauv(L, 0, 0);
  lua_pushvalue(L, TR_WITNESS);
  lua_setmetatable(L, -2);
  lua_pop(L, 1); /* the next collection finds it */
  lua_pushcfunction(L, w->call);
  lua_pushvalue(L, TR_RESOLVER);
  lua_pushvalue(L, TR_ENCODE_MANIFEST);
  lua_pushlightuserdata(L, w->job);
  lua_call(L, 3, 0);
  return 0;
}

bool tr_turn_call(tr_host *host, lua_CFunction call, void *job,
                  tr_error *error) {
  work w = {call, job};
  lua_State *L = host->L;
  int status;
  lua_pushcfunction(L, perform);
  lua_pushvalue(L, TR_RESOLVER);
  lua_pushvalue(L, TR_ENCODE_MANIFEST);
  lua_pushvalue(L, TR_WITNESS);
  lua_pushlightuserdata(L, &w);
  status = lua_pcall(L, 4, 0, 0);
  if (status != LUA_OK)
    tr_host_take_error(L, status, error);
  return status == LUA_OK;
}

/*
** An idle host holds no result. A collection of young objects finds what a call made,
** and costs little. An object that lived through two of them counts as old: if one ran
** before the call had ended, collect old objects, too.
*/
void tr_turn_collect(tr_host *host) {
  if (host->collected)
    lua_gc(host->L, LUA_GCCOLLECT);
  else
    lua_gc(host->L, LUA_GCSTEP, 0);
}

bool tr_host_call(tr_host *host, lua_CFunction call, void *job,
                  double *timeout, tr_error *error) {
  tr_turn turn = {.notifier = NULL};
  bool called;
  if (!enter(host, &turn, timeout, error))
    return false;
  host->collected = false;
  called = tr_turn_call(host, call, job, error);
  tr_turn_collect(host);
  pthread_mutex_lock(&tr_hosts_lock);
  tr_turn_end(host, &turn);
  pthread_mutex_unlock(&tr_hosts_lock);
  return called;
}
