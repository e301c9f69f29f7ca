/*
** Futures of hosts. Each host has one thread that advances them, made for the first. It
** sleeps until a call is started or unwanted, a load that one of them awaits has its
** result, or a deadline is past. Then it asks for a turn, and advances all of them.
*/
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "binding/lutil.h"
#include "core/error.h"
#include "core/thread.h"
#include "host.h"

enum { MAX_NESTING = 8 }; /* futures that wait for each other */

/* One call under way. The lists of a host change under the lock; the rest is the
** worker's. */
struct tr_job {
  tr_job *next;
  tr_host *host;
  const tr_call_kind *kind;
  tr_call call; /* its strings are the job's */
  tr_promise *promise;
  double timeout;  /* as it was given, or what the configuration leaves */
  double deadline; /* a tr_now() moment */
  int future;      /* the Lua future's place in the registry, or LUA_NOREF */
  atomic_bool unwanted;
  bool has_ended, has_failed;
  tr_error error;
};

/* ------------------------------------------------------------------- jobs */

/* Free a job without its result. */
static void free_job(tr_job *job) {
  if (job->promise != NULL)
    tr_promise_release(job->promise);
  free((char *)job->call.reference);
  free((char *)job->call.options.initial_state);
  tr_plan_free(job->call.plan);
  tr_blob_release(job->call.blob);
  free(job);
}

/* Copy a string that may be NULL. False when memory is short. */
static bool copy_string(const char **to, const char *from) {
  *to = from != NULL ? strdup(from) : NULL;
  return from == NULL || *to != NULL;
}

static tr_job *new_job(tr_host *host, const tr_call_kind *kind,
                       const tr_call *call) {
  tr_job *job = calloc(1, sizeof *job);
  bool copied;
  if (job == NULL)
    return NULL;
  job->host = host;
  job->kind = kind;
  job->call.options = call->options;
  job->call.given = call->given;
  job->timeout = call->options.timeout;
  job->deadline = tr_deadline(job->timeout);
  job->future = LUA_NOREF;
  atomic_init(&job->unwanted, false);
  job->promise = tr_promise_new(NULL, NULL);
  copied = copy_string(&job->call.reference, call->reference);
  copied &= copy_string(&job->call.options.initial_state,
                        call->options.initial_state);
  if (job->promise != NULL && copied)
    return job;
  free_job(job);
  return NULL;
}

static void free_plan(void *plan) { tr_plan_free(plan); }

tr_plan *tr_future_take_plan(tr_future *future) {
  return tr_future_take(future, free_plan);
}

/* Give a job's promise its result, and free the job. No lock is held. */
static void settle(tr_job *job) {
  tr_promise *promise = job->promise;
  if (job->has_failed) {
    tr_promise_fail(promise, &job->error);
  } else {
    size_t bytes = tr_blob_size(job->call.blob);
    tr_promise_follow(promise, NULL);
    tr_promise_set_progress(promise, bytes, bytes);
    if (job->call.plan != NULL)
      tr_promise_attach(promise, job->call.plan, free_plan);
    job->call.plan = NULL;
    tr_promise_complete(promise, job->call.blob);
  }
  pthread_mutex_lock(&tr_hosts_lock);
  tr_promise_set_work(promise, NULL);
  pthread_mutex_unlock(&tr_hosts_lock);
  free_job(job);
}

/* Set the error of a job whose time was over while other threads had the host, or at
** once: it was given none. */
static void set_late(const tr_job *job, const char *what, tr_error *error) {
  if (job->timeout > 0)
    tr_error_set(error, TR_TIMEOUT,
                 "%s within %g second%s (timeout): the host is serving other "
                 "threads",
                 what, job->timeout, tr_plural(job->timeout));
  else
    tr_error_set(error, TR_TIMEOUT, "not started within 0 seconds (timeout)");
}

/* ----------------------------------------------------------- turns of Lua */

/* Call a method without arguments of the Lua future at 4; push one result. */
static void call_method(lua_State *L, const char *name) {
  lua_getfield(L, 4, name);
  lua_pushvalue(L, 4);
  lua_call(L, 1, 1);
}

/* Start a job's call; push its Lua future. */
static void start(lua_State *L, tr_job *job) {
  job->call.options.timeout =
      isfinite(job->deadline) ? fmax(job->deadline - tr_now(), 0) : -1;
  lua_pushcfunction(L, job->kind->start);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, &job->call);
  lua_call(L, 2, 1);
  lua_pushvalue(L, -1);
  job->future = luaL_ref(L, LUA_REGISTRYINDEX);
  call_method(L, "timeout"); /* the configuration may have one, too */
  if (job->timeout < 0)
    job->timeout = lua_tonumber(L, -1);
  job->deadline =
      lua_isnil(L, -1) ? HUGE_VAL : tr_now() + lua_tonumber(L, -1);
  lua_pop(L, 1);
}

/* Have the worker woken when the Lua future at 4 can go on. */
static void watch(lua_State *L, const tr_job *job) {
  tr_notifier **notifier;
  lua_getfield(L, 4, "notify");
  lua_pushvalue(L, 4);
  notifier = lua_newuserdatauv(L, sizeof *notifier, 0);
  *notifier = NULL;
  luaL_setmetatable(L, TR_NOTIFIER);
  *notifier = tr_notifier_retain(job->host->notifier);
  lua_call(L, 2, 0);
}

/* Report the progress of what the Lua future at 4 waits for. */
static void follow(lua_State *L, const tr_job *job) {
  const lfuture *awaited;
  int depth;
  lua_getfield(L, 4, "awaited");
  for (depth = 0; depth < MAX_NESTING && lua_istable(L, -1); depth++)
    lua_getfield(L, -1, "awaited");
  awaited = luaL_testudata(L, -1, TR_FUTURE);
  tr_promise_follow(job->promise, awaited != NULL ? awaited->future : NULL);
}

/* Protected: (resolver, function that writes manifests, job). Start a job, or go on
** with it as far as it can now. */
static int advance(lua_State *L) {
  tr_job *job = lua_touserdata(L, 3);
  bool is_new = job->future == LUA_NOREF;
  if (is_new)
    start(L, job);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->future);
  call_method(L, "done");
  if (!lua_toboolean(L, -1)) {
    if (is_new)
      watch(L, job);
    follow(L, job);
    return 0;
  }
  lua_getfield(L, 4, "wait");
  lua_pushvalue(L, 4);
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2))
    return lua_error(L);
  lua_pushcfunction(L, job->kind->take);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_pushlightuserdata(L, &job->call);
  lua_pushvalue(L, -6); /* the result */
  lua_call(L, 4, 0);
  job->has_ended = true;
  return 0;
}

/* Protected: (resolver, function that writes manifests, job). Cancel the job's Lua future. */
static int cancel(lua_State *L) {
  const tr_job *job = lua_touserdata(L, 3);
  lua_rawgeti(L, LUA_REGISTRYINDEX, job->future);
  call_method(L, "cancel");
  return 0;
}

/* Stop the work of a job. Without memory for that, its loads go on for a while. */
static void stop_job(tr_host *host, tr_job *job) {
  tr_error ignored;
  if (job->future == LUA_NOREF)
    return;
  tr_turn_call(host, cancel, job, &ignored);
  luaL_unref(host->L, LUA_REGISTRYINDEX, job->future);
  job->future = LUA_NOREF;
}

/* Advance a job in the worker's turn. True if it has ended. */
static bool advance_job(tr_host *host, tr_job *job) {
  bool is_old = job->future != LUA_NOREF, ran = false;
  if (atomic_load(&job->unwanted) ||
      tr_promise_status(job->promise) != TR_PENDING)
    tr_error_set(&job->error, TR_CANCELLED,
                 "the future was released"); /* nobody reads it */
  else if (!is_old && tr_now() >= job->deadline)
    set_late(job, "no turn", &job->error);
  else
    ran = tr_turn_call(host, advance, job, &job->error);
  if (!ran)
    job->has_ended = job->has_failed = true;
  if (!job->has_ended)
    return false;
  stop_job(host, job);
  host->collected |= is_old; /* it lived through the end of a turn */
  return true;
}

/* Advance all jobs in the worker's turn. Return those that have ended. */
static tr_job *advance_all(tr_host *host) {
  tr_job **link = &host->jobs, *ended = NULL, **last = &ended;
  host->collected = false;
  while (*link != NULL) {
    tr_job *job = *link;
    if (advance_job(host, job)) {
      pthread_mutex_lock(&tr_hosts_lock);
      *link = job->next;
      pthread_mutex_unlock(&tr_hosts_lock);
      job->next = NULL;
      *last = job;
      last = &job->next;
    } else {
      link = &job->next;
    }
  }
  if (ended != NULL)
    tr_turn_collect(host);
  return ended;
}

static void settle_all(tr_job *jobs) {
  while (jobs != NULL) {
    tr_job *job = jobs;
    jobs = job->next;
    settle(job);
  }
}

/* --------------------------------------------------------------- the worker */

/* Fail the jobs whose deadline is past while other threads have the host. */
static void fail_late(const tr_host *host) {
  tr_job *job;
  double now = tr_now();
  for (job = host->jobs; job != NULL; job = job->next) {
    tr_error error;
    if (now < job->deadline)
      continue;
    set_late(job, "not done", &error);
    tr_promise_fail(job->promise, &error);
    job->deadline = HUGE_VAL; /* the next turn drops it */
  }
}

/* Sleep until there is something to do. */
static void sleep_until_woken(const tr_host *host) {
  struct pollfd wake = {.fd = tr_notifier_fd(host->notifier), .events = POLLIN};
  double first = HUGE_VAL;
  const tr_job *job;
  for (job = host->jobs; job != NULL; job = job->next)
    first = fmin(first, job->deadline);
  first = fmin(first, tr_followers_due(host));
  tr_notifier_set_deadline(host->notifier, first);
  poll(&wake, 1, -1);
  tr_notifier_drain(host->notifier);
}

/* Take over the jobs that were added. The lock is held. */
static void adopt(tr_host *host) {
  tr_job **last = &host->jobs;
  while (*last != NULL)
    last = &(*last)->next;
  *last = host->added;
  host->added = NULL;
}

static void *run(void *context) {
  tr_host *host = context;
  tr_turn turn = {.notifier = host->notifier};
  for (;;) {
    bool stopping, granted;
    pthread_mutex_lock(&tr_hosts_lock);
    stopping = host->stopping;
    adopt(host);
    if (!stopping && !turn.asked)
      tr_turn_ask(host, &turn);
    granted = turn.granted;
    if (stopping && turn.asked)
      tr_turn_end(host, &turn);
    pthread_mutex_unlock(&tr_hosts_lock);
    if (stopping)
      return NULL;
    if (granted) {
      bool has_events;
      settle_all(advance_all(host));
      has_events = tr_followers_advance(host);
      pthread_mutex_lock(&tr_hosts_lock);
      tr_turn_end(host, &turn);
      pthread_mutex_unlock(&tr_hosts_lock);
      if (has_events)
        tr_followers_call(host);
    } else {
      fail_late(host);
    }
    sleep_until_woken(host);
  }
}

/* Make the worker, unless it is there. The lock is held. */
static bool start_worker(tr_host *host, tr_error *error) {
  if (host->notifier == NULL)
    host->notifier = tr_notifier_new();
  if (host->notifier == NULL) {
    tr_error_errno(error, errno, "Failed to make", "a timerfd");
    return false;
  }
  if (!host->has_worker)
    host->has_worker =
        tr_thread_create(&host->worker, "theaterref-host", run, host);
  if (!host->has_worker)
    tr_error_set(error, TR_IO, "Failed to start the thread of a host");
  return host->has_worker;
}

/* True with the error on the worker's own thread, in the callback of a follower. */
static bool is_worker(const tr_host *host, tr_error *error) {
  if (!host->has_worker || !pthread_equal(host->worker, pthread_self()))
    return false;
  tr_error_set(error, TR_POLICY,
               "the callback of a follower waits for a future of its host, which comes "
               "from the same thread; call tr_host_plan or tr_host_resolve in it");
  return true;
}

/* tr_worker: refuse a callback of the host, which would wait for itself. */
static bool drive(tr_promise *promise, double deadline, tr_error *error) {
  bool possible;
  const tr_job *job;
  (void)deadline;
  pthread_mutex_lock(&tr_hosts_lock);
  job = tr_promise_work(promise);
  possible = job == NULL || (!is_worker(job->host, error) &&
                             tr_turn_possible(job->host, error));
  pthread_mutex_unlock(&tr_hosts_lock);
  return possible;
}

/* tr_worker: the last future of a promise is gone. */
static void unwanted(tr_promise *promise) {
  tr_job *job;
  pthread_mutex_lock(&tr_hosts_lock);
  job = tr_promise_work(promise);
  if (job != NULL) {
    atomic_store(&job->unwanted, true);
    tr_notifier_signal(job->host->notifier);
  }
  pthread_mutex_unlock(&tr_hosts_lock);
}

static const tr_worker worker = {drive, unwanted};

/* Hand a job to the worker. False with the error. */
static bool submit(tr_job *job, tr_error *error) {
  tr_host *host = job->host;
  tr_job **last = &host->added;
  bool started;
  pthread_mutex_lock(&tr_hosts_lock);
  started = tr_turn_possible(host, error) && start_worker(host, error);
  if (started) {
    tr_promise_set_work(job->promise, job);
    tr_promise_assign(job->promise, &worker);
    while (*last != NULL)
      last = &(*last)->next;
    *last = job;
    tr_notifier_signal(host->notifier);
  }
  pthread_mutex_unlock(&tr_hosts_lock);
  return started;
}

tr_future *tr_worker_start(tr_host *host, const tr_call_kind *kind,
                           const tr_call *call, tr_error *error) {
  tr_job *job = new_job(host, kind, call);
  tr_future *future =
      job != NULL ? tr_promise_future(job->promise, false) : NULL;
  if (future != NULL && submit(job, error))
    return future;
  if (future == NULL)
    tr_error_nomem(error);
  tr_future_release(future);
  if (job != NULL)
    free_job(job);
  return NULL;
}

bool tr_worker_add_follower(tr_host *host, tr_follower *f, tr_error *error) {
  bool started;
  pthread_mutex_lock(&tr_hosts_lock);
  started = tr_turn_possible(host, error) && start_worker(host, error);
  if (started) {
    f->host = host;
    f->next = host->added_followers;
    host->added_followers = f;
    tr_notifier_signal(host->notifier);
  }
  pthread_mutex_unlock(&tr_hosts_lock);
  return started;
}

void tr_worker_stop(tr_host *host) {
  bool has_worker;
  tr_job *job;
  pthread_mutex_lock(&tr_hosts_lock);
  has_worker = host->has_worker;
  host->stopping = true;
  pthread_mutex_unlock(&tr_hosts_lock);
  if (has_worker) {
    tr_notifier_signal(host->notifier);
    pthread_join(host->worker, NULL);
  }
  pthread_mutex_lock(&tr_hosts_lock);
  adopt(host);
  pthread_mutex_unlock(&tr_hosts_lock);
  for (job = host->jobs; job != NULL; job = job->next) {
    job->has_ended = job->has_failed = true;
    tr_error_set(&job->error, TR_CANCELLED,
                 "the host was freed before this was done");
    stop_job(host, job);
  }
  settle_all(host->jobs);
  tr_followers_end(host);
  tr_notifier_release(host->notifier);
}
