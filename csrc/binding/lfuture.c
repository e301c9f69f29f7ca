/* Futures and fetching in Lua. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#include "core/engine.h"
#include "core/error.h"
#include "core/timer.h"
#include "lutil.h"

/* Seconds between two looks for an interrupt of Lua's own. */
static const double WAIT_SLICE = 0.1;

lfuture *tr_newfuture(lua_State *L) {
  lfuture *f = lua_newuserdatauv(L, sizeof *f, 0);
  f->future = NULL;
  luaL_setmetatable(L, TR_FUTURE);
  return f;
}

static lfuture *checkfuture(lua_State *L) {
  return luaL_checkudata(L, 1, TR_FUTURE);
}

/* Release the handle: a leader lets another lead, and the last one stops the
** work. */
static int future_cancel(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_future *future = f->future;
  f->future = NULL;
  tr_future_release(future);
  return 0;
}

/* The state closes, or has forgotten the future. */
static int future_collect(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_future *future = f->future;
  f->future = NULL;
  if (future != NULL)
    tr_future_collect(future);
  return 0;
}

static int cancelled(lua_State *L) {
  tr_error error;
  tr_error_set(&error, TR_CANCELLED, "the future was cancelled");
  return tr_pusherror(L, &error);
}

static int future_done(lua_State *L) {
  lfuture *f = checkfuture(L);
  lua_pushboolean(L, f->future == NULL ||
                         tr_future_get_status(f->future) != TR_PENDING);
  return 1;
}

/*
** Wait in slices. lua.c answers an interrupt (Ctrl-C) by setting a hook, which
** Lua calls at the next instruction: return to it, as soon as there is one.
*/
static tr_future_status wait_in_slices(lua_State *L, tr_future *future,
                                       double seconds, tr_blob **blob,
                                       tr_error *error) {
  double deadline = tr_deadline(seconds);
  tr_future_status status;
  tr_note_hooks(L);
  do {
    double left = deadline - tr_now();
    double slice = left < WAIT_SLICE ? left : WAIT_SLICE;
    status = tr_future_wait(future, slice > 0 ? slice : 0, blob, error);
    if (status == TR_PENDING && tr_has_new_hook()) {
      tr_take_hook();
      tr_error_set(error, TR_CANCELLED, "interrupted");
      return status;
    }
  } while (status == TR_PENDING && error->kind == TR_TIMEOUT &&
           tr_now() < deadline);
  if (status == TR_PENDING && error->kind == TR_TIMEOUT)
    tr_error_set(error, TR_TIMEOUT, "no result within %g second%s", seconds,
                 tr_plural(seconds));
  return status;
}

/*
** wait([seconds]) -> blob | nil, error [, "pending" | "abandoned"]
** Pending: the time is over, or the process was interrupted, and there is no
** result yet. Abandoned: the loader gave up; ask again.
*/
static int future_wait(lua_State *L) {
  lfuture *f = checkfuture(L);
  double seconds = luaL_optnumber(L, 2, -1);
  tr_error error;
  tr_future_status status;
  lblob *b;
  luaL_argcheck(L, !isnan(seconds), 2, "not a number of seconds");
  if (f->future == NULL)
    return cancelled(L);
  b = tr_newblob(L);
  status = wait_in_slices(L, f->future, seconds, &b->blob, &error);
  if (status == TR_READY) {
    tr_accountblob(L, tr_blob_size(b->blob));
    return 1;
  }
  tr_pusherror(L, &error);
  lua_pushstring(L, status == TR_PENDING     ? "pending"
                    : status == TR_ABANDONED ? "abandoned"
                                             : NULL);
  return 3;
}

/* complete(blob [, record]) -> boolean: gives the future its result. */
static int future_complete(lua_State *L) {
  lfuture *f = checkfuture(L);
  lblob *b = luaL_checkudata(L, 2, TR_BLOB);
  tr_record *record;
  luaL_argcheck(L, b->blob != NULL, 2, "blob is closed");
  record = tr_optrecord(L, 3);
  if (f->future != NULL)
    tr_promise_set_record(tr_future_promise(f->future), record);
  else
    tr_record_release(record);
  lua_pushboolean(L,
                  f->future != NULL && tr_future_complete(f->future, b->blob));
  return 1;
}

/* know(blob, record): what a fetch may find unchanged. */
static int future_know(lua_State *L) {
  lfuture *f = checkfuture(L);
  lblob *b = luaL_checkudata(L, 2, TR_BLOB);
  tr_record *record;
  luaL_argcheck(L, b->blob != NULL, 2, "blob is closed");
  luaL_checktype(L, 3, LUA_TTABLE);
  record = tr_optrecord(L, 3);
  if (f->future != NULL)
    tr_promise_set_known(tr_future_promise(f->future), b->blob, record);
  tr_record_release(record);
  return 0;
}

/*
** freshness() -> the record of the result: { etag, last_modified, url, unsigned_url,
** hosts, private, no_store, unsettled, content, extra }; an empty table if there is none
*/
static int future_freshness(lua_State *L) {
  lfuture *f = checkfuture(L);
  const tr_record *record = NULL;
  lua_createtable(L, 0, 8);
  if (f->future != NULL && tr_future_get_status(f->future) == TR_READY)
    record = tr_future_record(f->future);
  if (record != NULL)
    tr_set_record(L, record);
  return 1;
}

/*
** known() -> the record of an earlier load that this one is to replace [, its blob]
** | nil: nothing is known, or there is a result
*/
static int future_known(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_record **record = tr_newrecord(L);
  lblob *b = tr_newblob(L);
  lua_createtable(L, 0, 8);
  if (f->future != NULL)
    b->blob = tr_promise_known(tr_future_promise(f->future), record);
  if (*record == NULL) {
    lua_pushnil(L);
    return 1;
  }
  tr_set_record(L, *record);
  if (b->blob == NULL)
    return 1;
  lua_insert(L, -2);
  return 2;
}

/* Add the response's headers, if they were kept, to the table on the stack's top. */
static void set_fields(lua_State *L, const tr_buffer *fields) {
  const char *at = fields->data, *end = at != NULL ? at + fields->len : NULL;
  if (at == NULL)
    return;
  lua_newtable(L);
  while (at < end) {
    const char *value = at + strlen(at) + 1;
    lua_pushstring(L, value);
    lua_setfield(L, -2, at);
    at = value + strlen(value) + 1;
  }
  lua_setfield(L, -2, "headers");
}

static void set_seconds(lua_State *L, const char *name, double seconds) {
  if (seconds < 0)
    return;
  lua_pushnumber(L, seconds);
  lua_setfield(L, -2, name);
}

/* info() -> facts about the fetch | nil: no result yet, or nothing was fetched */
static int future_info(lua_State *L) {
  lfuture *f = checkfuture(L);
  const tr_info *info =
      f->future != NULL ? tr_future_get_info(f->future) : NULL;
  if (info == NULL) {
    lua_pushnil(L);
    return 1;
  }
  future_freshness(L); /* its table takes the rest */
  tr_set_text(L, "url", tr_info_url(info));
  lua_pushnil(L); /* the cache's business, as is 'content' */
  lua_setfield(L, -2, "unsigned_url");
  lua_pushnil(L);
  lua_setfield(L, -2, "content");
  tr_set_text(L, "content_type", tr_info_content_type(info));
  tr_set_text(L, "digest", tr_info_digest(info));
  tr_set_text(L, "code", info->code);
  lua_pushinteger(L, tr_info_status(info));
  lua_setfield(L, -2, "status");
  lua_pushinteger(L, tr_info_attempts(info));
  lua_setfield(L, -2, "attempts");
  lua_pushinteger(L, (lua_Integer)tr_info_received(info));
  lua_setfield(L, -2, "received");
  set_fields(L, &info->fields);
  lua_pushboolean(L, tr_info_unchanged(info));
  lua_setfield(L, -2, "unchanged");
  lua_createtable(L, 0, 4);
  set_seconds(L, "started", tr_info_seconds(info, TR_MOMENT_STARTED));
  set_seconds(L, "connected", tr_info_seconds(info, TR_MOMENT_CONNECTED));
  set_seconds(L, "first_byte", tr_info_seconds(info, TR_MOMENT_FIRST_BYTE));
  set_seconds(L, "done", tr_info_seconds(info, TR_MOMENT_DONE));
  lua_setfield(L, -2, "seconds");
  return 1;
}

/* notify(notifier): makes the notifier readable with the result */
static int future_notify(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_notifier **n = luaL_checkudata(L, 2, TR_NOTIFIER);
  if (f->future != NULL)
    if (!tr_future_notify(f->future, *n))
      return luaL_error(L, "out of memory");
  return 0;
}

/* forget(notifier): does not signal it any more */
static int future_forget(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_notifier **n = luaL_checkudata(L, 2, TR_NOTIFIER);
  if (f->future != NULL)
    tr_future_forget(f->future, *n);
  return 0;
}

/* timer(seconds) -> a future of an empty blob, which is there in so many seconds */
static int timer(lua_State *L) {
  double seconds = luaL_checknumber(L, 1);
  lfuture *f = tr_newfuture(L);
  f->future = tr_timer(seconds);
  return f->future != NULL ? 1 : luaL_error(L, "out of memory");
}

/* limit(seconds): whoever waits for what this future leads waits no longer than that */
static int future_limit(lua_State *L) {
  lfuture *f = checkfuture(L);
  double seconds = luaL_checknumber(L, 2);
  if (f->future != NULL && !tr_timer_limit(f->future, seconds))
    return luaL_error(L, "out of memory");
  return 0;
}

/* notifier() -> a descriptor for futures to make readable */
static int new_notifier(lua_State *L) {
  tr_notifier **n = lua_newuserdatauv(L, sizeof *n, 0);
  *n = NULL;
  luaL_setmetatable(L, TR_NOTIFIER);
  *n = tr_notifier_new();
  if (*n == NULL)
    return luaL_error(L, "no descriptor for this future: %s", strerror(errno));
  return 1;
}

static int notifier_fd(lua_State *L) {
  tr_notifier **n = luaL_checkudata(L, 1, TR_NOTIFIER);
  lua_pushinteger(L, tr_notifier_fd(*n));
  return 1;
}

static int notifier_drain(lua_State *L) {
  tr_notifier_drain(*(tr_notifier **)luaL_checkudata(L, 1, TR_NOTIFIER));
  return 0;
}

static int notifier_signal(lua_State *L) {
  tr_notifier_signal(*(tr_notifier **)luaL_checkudata(L, 1, TR_NOTIFIER));
  return 0;
}

/* wait(seconds) -> boolean: whether it was signalled. Below 0: without a limit. False before
** that: the process was interrupted. Nobody drives the engine meanwhile but its own thread. */
static int notifier_wait(lua_State *L) {
  tr_notifier **n = luaL_checkudata(L, 1, TR_NOTIFIER);
  double deadline = tr_deadline(luaL_checknumber(L, 2)), left;
  struct pollfd look = {.fd = tr_notifier_fd(*n), .events = POLLIN};
  int count;
  tr_note_hooks(L);
  do {
    left = fmin(fmax(deadline - tr_now(), 0), WAIT_SLICE);
    count = poll(&look, 1, (int)ceil(left * 1000));
    if (count < 0 && errno != EINTR)
      return luaL_error(L, "cannot wait: %s", strerror(errno));
    if (tr_has_new_hook()) {
      tr_take_hook();
      break;
    }
  } while (count <= 0 && !tr_interrupted() && tr_now() < deadline);
  lua_pushboolean(L, count > 0);
  return 1;
}

/* set_deadline(moment): as of core.now(); nil: none */
static int notifier_set_deadline(lua_State *L) {
  tr_notifier **n = luaL_checkudata(L, 1, TR_NOTIFIER);
  tr_notifier_set_deadline(*n, luaL_optnumber(L, 2, HUGE_VAL));
  return 0;
}

static int notifier_gc(lua_State *L) {
  tr_notifier **n = luaL_checkudata(L, 1, TR_NOTIFIER);
  tr_notifier_release(*n);
  *n = NULL;
  return 0;
}

/* detach(): lets the work go on though nobody waits. */
static int future_detach(lua_State *L) {
  lfuture *f = checkfuture(L);
  if (f->future != NULL)
    tr_future_detach(f->future);
  return 0;
}

/* fail(kind, message [, status]) -> boolean: gives it an error. */
static int future_fail(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_error error;
  tr_error_set(&error, tr_error_kind_named(luaL_checkstring(L, 2)), "%s",
               luaL_checkstring(L, 3));
  error.status = (int)luaL_optinteger(L, 4, 0);
  lua_pushboolean(L, f->future != NULL && tr_future_fail(f->future, &error));
  return 1;
}

static int future_progress(lua_State *L) {
  lfuture *f = checkfuture(L);
  size_t received = 0, total = 0;
  if (f->future != NULL)
    tr_future_progress(f->future, &received, &total);
  lua_pushinteger(L, (lua_Integer)received);
  if (total > 0)
    lua_pushinteger(L, (lua_Integer)total);
  else
    lua_pushnil(L);
  return 2;
}

/* attempts() -> how often it was tried */
static int future_attempts(lua_State *L) {
  lfuture *f = checkfuture(L);
  lua_pushinteger(L, f->future != NULL ? tr_future_attempts(f->future) : 1);
  return 1;
}

/*
** fetch(url, options [, future [, digest [, will_wait [, timeout]]]]) -> future |
** nil, error. 'options' is of request_options; the others are of this fetch.
*/
static int fetch(lua_State *L) {
  const char *url = tr_checkcstring(L, 1);
  lrequest *r = luaL_checkudata(L, 2, TR_REQUEST);
  tr_fetch_options options = r->options;
  tr_request_extra extra = {
      .auth = r->auth, .auth_scope = r->auth_scope, .signer = r->signer};
  bool will_wait = lua_toboolean(L, 5);
  double timeout = luaL_optnumber(L, 6, -1);
  tr_error error;
  lfuture *f;
  options.digest = luaL_optstring(L, 4, NULL);
  if (timeout >= 0 && (options.timeout < 0 || timeout < options.timeout))
    options.timeout = timeout;
  if (lua_isnoneornil(L, 3)) {
    f = tr_newfuture(L);
    f->future = tr_future_create();
  } else {
    f = luaL_checkudata(L, 3, TR_FUTURE);
    lua_pushvalue(L, 3);
  }
  if (f->future == NULL)
    return luaL_error(L, "out of memory, or a cancelled future");
  if (!tr_engine_fetch(tr_future_promise(f->future), url, &options, &extra,
                       will_wait, &error)) {
    tr_future_fail(f->future, &error);
    return tr_pusherror(L, &error);
  }
  return 1;
}

/* future() -> a pending future, for whoever made it to complete */
static int new_future(lua_State *L) {
  lfuture *f = tr_newfuture(L);
  f->future = tr_future_create();
  return f->future != NULL ? 1 : luaL_error(L, "out of memory");
}

/* configure_engine(options): limits of the process */
static int configure_engine(lua_State *L) {
  tr_engine_options options = TR_ENGINE_OPTIONS;
  tr_error error;
  options.max_connections = tr_optcount(L, 1, "max_connections", 0);
  options.max_host_connections = tr_optcount(L, 1, "max_host_connections", 0);
  if (!tr_engine_configure(&options, &error))
    return tr_pusherror(L, &error);
  return 0;
}

/* interrupt(on): ends every wait of the process, or no longer does */
static int interrupt(lua_State *L) {
  tr_interrupt(lua_toboolean(L, 1));
  return 0;
}

/* interrupted() -> boolean: whether waits end at once */
static int is_interrupted(lua_State *L) {
  lua_pushboolean(L, tr_interrupted());
  return 1;
}

/* The state that a signal stops; a program has one command. */
static lua_State *volatile stopped;
static volatile sig_atomic_t stopped_by = SIGINT;

static void stop(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  lua_pushliteral(L, "interrupted");
  lua_error(L);
}

/* Waits end through the flag, and Lua code by a hook, as in lua.c. */
static void on_signal(int number) {
  stopped_by = number;
  tr_interrupt(true);
  lua_sethook(stopped, stop, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/* interrupt_on_signal([terminate]): SIGINT, or SIGTERM too, ends every wait, and raises in
** the main coroutine. It takes the place of the interpreter's handler, and is for commands
** only. */
static int interrupt_on_signal(lua_State *L) {
  struct sigaction action = {0};
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  stopped = lua_tothread(L, -1);
  /* Reads of a pipe are not resumed; the next signal ends the process. */
  action.sa_handler = on_signal;
  action.sa_flags = (int)SA_RESETHAND;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  if (lua_toboolean(L, 1))
    sigaction(SIGTERM, &action, NULL);
  return 0;
}

/* interrupt_signal() -> the number of the signal that ended the waits */
static int interrupt_signal(lua_State *L) {
  lua_pushinteger(L, stopped_by);
  return 1;
}

void tr_open_future(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", future_collect},        {"__close", future_cancel},
      {"done", future_done},           {"wait", future_wait},
      {"cancel", future_cancel},       {"complete", future_complete},
      {"fail", future_fail},           {"notify", future_notify},
      {"forget", future_forget},
      {"progress", future_progress},   {"attempts", future_attempts},
      {"know", future_know},           {"freshness", future_freshness},
      {"detach", future_detach},       {"info", future_info},
      {"known", future_known},         {"limit", future_limit},
      {NULL, NULL}};
  static const luaL_Reg notifier_methods[] = {{"__gc", notifier_gc},
                                              {"fd", notifier_fd},
                                              {"drain", notifier_drain},
                                              {"signal", notifier_signal},
                                              {"wait", notifier_wait},
                                              {"set_deadline", notifier_set_deadline},
                                              {NULL, NULL}};
  static const luaL_Reg functions[] = {{"fetch", fetch},
                                       {"future", new_future},
                                       {"notifier", new_notifier},
                                       {"timer", timer},
                                       {"configure_engine", configure_engine},
                                       {"interrupt", interrupt},
                                       {"interrupted", is_interrupted},
                                       {"interrupt_on_signal", interrupt_on_signal},
                                       {"interrupt_signal", interrupt_signal},
                                       {NULL, NULL}};
  tr_newtype(L, TR_NOTIFIER, notifier_methods);
  lua_pop(L, 1);
  tr_newtype(L, TR_FUTURE, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
