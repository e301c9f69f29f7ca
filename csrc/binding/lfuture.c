/* Futures and fetching in Lua. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "core/engine.h"
#include "core/error.h"
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
  int hooks = lua_gethookmask(L);
  tr_future_status status;
  do {
    double left = deadline - tr_now();
    double slice = left < WAIT_SLICE ? left : WAIT_SLICE;
    status = tr_future_wait(future, slice > 0 ? slice : 0, blob, error);
    if (status == TR_PENDING && lua_gethookmask(L) != hooks) {
      tr_error_set(error, TR_CANCELLED, "interrupted");
      return status;
    }
  } while (status == TR_PENDING && error->kind == TR_TIMEOUT &&
           tr_now() < deadline);
  if (status == TR_PENDING && error->kind == TR_TIMEOUT)
    tr_error_set(error, TR_TIMEOUT, "no result within %g seconds", seconds);
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

/* A text of the record at 'index', unless it would end a header line, or is longer
** than a server's can be. */
static const char *record_text(lua_State *L, int index, const char *name) {
  const char *value = tr_optstring(L, index, name);
  return value != NULL && strlen(value) < TR_VALIDATOR_MAX &&
                 value[strcspn(value, "\r\n")] == '\0'
             ? value
             : "";
}

const char *tr_checkcontent(lua_State *L, size_t *len) {
  const char *content = NULL;
  *len = 0;
  if (lua_isnil(L, -1))
    return NULL;
  if (lua_type(L, -1) == LUA_TSTRING)
    content = lua_tolstring(L, -1, len);
  if (content == NULL || *len == 0 || *len > TR_CONTENT_MAX)
    luaL_error(L, "'content' must be a key of 1 to %d bytes", TR_CONTENT_MAX);
  return content;
}

/* Read the field 'hosts' of the record at 'index', a list, into a buffer. */
static tr_bytes record_hosts(lua_State *L, int index, char *hosts) {
  tr_bytes bytes = {hosts, 0};
  int top = lua_gettop(L);
  lua_Integer i;
  if (lua_getfield(L, index, "hosts") == LUA_TTABLE)
    for (i = 1; lua_rawgeti(L, top + 1, i) == LUA_TSTRING; i++) {
      tr_hosts_add(hosts, &bytes.len, lua_tostring(L, -1));
      lua_pop(L, 1);
    }
  lua_settop(L, top);
  return bytes;
}

/* Read the field 'extra' of the record at 'index', strings by name, into a buffer. */
static tr_bytes record_extra(lua_State *L, int index, char *extra) {
  tr_bytes bytes = {extra, 0};
  int top = lua_gettop(L);
  if (lua_getfield(L, index, "extra") == LUA_TTABLE)
    for (lua_pushnil(L); lua_next(L, top + 1) != 0; lua_pop(L, 1)) {
      size_t name, value;
      if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "'extra' must hold strings by name");
      name = strlen(lua_tostring(L, -2)) + 1;
      value = strlen(lua_tostring(L, -1)) + 1;
      if (name > TR_EXTRA_MAX || value > TR_EXTRA_MAX ||
          bytes.len + name + value > TR_EXTRA_MAX)
        luaL_error(L, "'extra' holds more than %d bytes", TR_EXTRA_MAX);
      memcpy(extra + bytes.len, lua_tostring(L, -2), name);
      memcpy(extra + bytes.len + name, lua_tostring(L, -1), value);
      bytes.len += name + value;
    }
  lua_settop(L, top);
  return bytes;
}

/* Make a record of the table at 'index', or NULL if there is none. */
static tr_record *optrecord(lua_State *L, int index) {
  char hosts[TR_HOSTS_MAX], extra[TR_EXTRA_MAX];
  tr_record draft = {.age = 0}, *record;
  if (lua_isnoneornil(L, index))
    return NULL;
  draft.age = tr_optseconds(L, index, "age", 0);
  draft.etag = record_text(L, index, "etag");
  draft.last_modified = record_text(L, index, "last_modified");
  draft.url = record_text(L, index, "url");
  draft.unsigned_url = record_text(L, index, "unsigned_url");
  draft.from_private = tr_optbool(L, index, "private", false);
  draft.hosts = record_hosts(L, index, hosts);
  draft.extra = record_extra(L, index, extra);
  lua_getfield(L, index, "content");
  draft.content.at = tr_checkcontent(L, &draft.content.len);
  lua_pop(L, 1); /* the table has it */
  record = tr_record_new(&draft);
  if (record == NULL)
    luaL_error(L, "out of memory");
  return record;
}

/* complete(blob [, record]) -> boolean: gives the future its result. */
static int future_complete(lua_State *L) {
  lfuture *f = checkfuture(L);
  lblob *b = luaL_checkudata(L, 2, TR_BLOB);
  tr_record *record;
  luaL_argcheck(L, b->blob != NULL, 2, "blob is closed");
  record = optrecord(L, 3);
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
  record = optrecord(L, 3);
  if (f->future != NULL)
    tr_promise_set_known(tr_future_promise(f->future), b->blob, record);
  tr_record_release(record);
  return 0;
}

static void set_text(lua_State *L, const char *name, const char *text) {
  if (text == NULL || text[0] == '\0')
    return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

/* Add the fields of a record to the table on the stack's top. */
static void set_record(lua_State *L, const tr_record *record) {
  const char *at, *end;
  lua_Integer count = 0;
  set_text(L, "etag", record->etag);
  set_text(L, "last_modified", record->last_modified);
  set_text(L, "url", record->url);
  set_text(L, "unsigned_url", record->unsigned_url);
  lua_pushboolean(L, record->from_private);
  lua_setfield(L, -2, "private");
  lua_pushboolean(L, record->no_store);
  lua_setfield(L, -2, "no_store");
  lua_newtable(L);
  at = record->hosts.at;
  for (end = at + record->hosts.len; at < end; at += strlen(at) + 1) {
    lua_pushstring(L, at);
    lua_rawseti(L, -2, ++count);
  }
  lua_setfield(L, -2, "hosts");
  if (record->content.len > 0) {
    lua_pushlstring(L, record->content.at, record->content.len);
    lua_setfield(L, -2, "content");
  }
  if (record->extra.len == 0)
    return;
  lua_newtable(L);
  at = record->extra.at;
  for (end = at + record->extra.len; at < end; at += strlen(at) + 1) {
    lua_pushstring(L, at);
    at += strlen(at) + 1;
    lua_pushstring(L, at);
    lua_rawset(L, -3);
  }
  lua_setfield(L, -2, "extra");
}

/*
** freshness() -> the record of the result: { etag, last_modified, url, unsigned_url,
** hosts, private, no_store, content, extra }; an empty table if there is none
*/
static int future_freshness(lua_State *L) {
  lfuture *f = checkfuture(L);
  const tr_record *record = NULL;
  lua_createtable(L, 0, 8);
  if (f->future != NULL && tr_future_get_status(f->future) == TR_READY)
    record = tr_future_record(f->future);
  if (record != NULL)
    set_record(L, record);
  return 1;
}

/* record(blob) -> the record of a blob that came from a cache; {} if it has none */
static int blob_record(lua_State *L) {
  const lblob *b = luaL_checkudata(L, 1, TR_BLOB);
  lua_createtable(L, 0, 8);
  if (b->hit.entry != NULL && b->hit.entry->record != NULL)
    set_record(L, b->hit.entry->record);
  return 1;
}

/* A record in a userdata, which owns it while Lua may raise. */
static int record_gc(lua_State *L) {
  tr_record **record = luaL_checkudata(L, 1, TR_RECORD);
  tr_record_release(*record);
  *record = NULL;
  return 0;
}

/*
** known() -> the record of an earlier load that this one is to replace [, its blob]
** | nil: nothing is known, or there is a result
*/
static int future_known(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_record **record = lua_newuserdatauv(L, sizeof *record, 0);
  lblob *b;
  *record = NULL;
  luaL_setmetatable(L, TR_RECORD);
  b = tr_newblob(L);
  lua_createtable(L, 0, 8);
  if (f->future != NULL)
    b->blob = tr_promise_known(tr_future_promise(f->future), record);
  if (*record == NULL) {
    lua_pushnil(L);
    return 1;
  }
  set_record(L, *record);
  if (b->blob == NULL)
    return 1;
  lua_insert(L, -2);
  return 2;
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
  set_text(L, "url", tr_info_url(info));
  lua_pushnil(L);
  lua_setfield(L, -2, "unsigned_url");
  set_text(L, "content_type", tr_info_content_type(info));
  set_text(L, "digest", tr_info_digest(info));
  lua_pushinteger(L, tr_info_status(info));
  lua_setfield(L, -2, "status");
  lua_pushinteger(L, tr_info_attempts(info));
  lua_setfield(L, -2, "attempts");
  lua_pushinteger(L, (lua_Integer)tr_info_received(info));
  lua_setfield(L, -2, "received");
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
    tr_future_notify(f->future, *n);
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
  const char *kind = luaL_checkstring(L, 2);
  tr_error error;
  int i = TR_INVALID_REFERENCE;
  while (i < TR_CANCELLED &&
         strcmp(tr_error_kind_name((tr_error_kind)i), kind) != 0)
    i++;
  tr_error_set(&error, (tr_error_kind)i, "%s", luaL_checkstring(L, 3));
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
** Turn the table 'headers' (name -> value) of the options into "Name: value"
** lines. Leaves on the stack what keeps them alive.
*/
static const char *const *optheaders(lua_State *L, int index) {
  const char **lines;
  lua_Unsigned count = 0;
  int headers, keep;
  if (lua_getfield(L, index, "headers") == LUA_TNIL)
    return NULL;
  if (lua_type(L, -1) != LUA_TTABLE)
    luaL_error(L, "'headers' must be a table of names and values");
  headers = lua_gettop(L);
  lua_newtable(L);
  keep = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, headers) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING ||
        strpbrk(lua_tostring(L, -2), "\r\n:") != NULL ||
        strpbrk(lua_tostring(L, -1), "\r\n") != NULL)
      luaL_error(L, "'headers' must hold names and values without line "
                    "breaks");
    /* curl sends a header without value only when it ends in ';' */
    lua_pushfstring(L, *lua_tostring(L, -1) == '\0' ? "%s;%s" : "%s: %s",
                    lua_tostring(L, -2), lua_tostring(L, -1));
    lua_rawseti(L, keep, (lua_Integer)++count);
  }
  lines = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *lines, 0);
  lines[count] = NULL;
  while (count > 0) {
    lua_rawgeti(L, keep, (lua_Integer)count);
    lines[--count] = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  return lines;
}

/* Read the hosts that redirects may lead to: a list, or "any"; as optheaders. */
static const char *const *opthosts(lua_State *L, int index) {
  static const char name[] = "redirect_hosts";
  const char **list;
  lua_Unsigned i, count;
  if (lua_getfield(L, index, name) == LUA_TNIL ||
      (lua_type(L, -1) == LUA_TSTRING &&
       strcmp(lua_tostring(L, -1), "any") == 0))
    return NULL;
  if (lua_type(L, -1) != LUA_TTABLE)
    luaL_error(L, "'%s' must be a list of strings, or \"any\"", name);
  count = lua_rawlen(L, -1);
  list = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *list, 0);
  for (i = 0; i < count; i++) {
    if (lua_rawgeti(L, -2, (lua_Integer)i + 1) != LUA_TSTRING)
      luaL_error(L, "'%s' must be a list of strings", name);
    list[i] = lua_tostring(L, -1); /* the options keep it */
    lua_pop(L, 1);
  }
  list[count] = NULL;
  return list;
}

/* Keep the items of 'redirect_hosts', which the caller may change later: they are
** strings, which live as long as the table at 'keep' has them. */
static void keep_items(lua_State *L, int keep) {
  lua_Unsigned i, count;
  lua_newtable(L);
  if (lua_getfield(L, 1, "redirect_hosts") == LUA_TTABLE) {
    count = lua_rawlen(L, -1);
    for (i = 1; i <= count; i++) {
      lua_rawgeti(L, -1, (lua_Integer)i);
      lua_rawseti(L, -3, (lua_Integer)i);
    }
  }
  lua_pop(L, 1);
  lua_setfield(L, keep, "redirect_hosts");
}

/* A whole number that fits an int. */
static int optcount(lua_State *L, int index, const char *name, int otherwise) {
  size_t value = tr_optsize(L, index, name, (size_t)otherwise);
  if (value > INT_MAX)
    luaL_error(L, "'%s' is too large", name);
  return (int)value;
}

/*
** request_options(table) -> options for 'fetch': names, values and units as in the
** topic "options". The table is not read again.
*/
static int request_options(lua_State *L) {
  lrequest *r;
  tr_fetch_options o = TR_FETCH_OPTIONS;
  tr_error error;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  o.timeout = tr_optseconds(L, 1, "timeout", o.timeout);
  o.connect_timeout = tr_optseconds(L, 1, "connect_timeout", o.connect_timeout);
  o.stall_timeout = tr_optseconds(L, 1, "stall_timeout", o.stall_timeout);
  o.max_bytes = tr_optsize(L, 1, "max_bytes", o.max_bytes);
  o.max_redirects = optcount(L, 1, "max_redirects", o.max_redirects);
  o.retries = optcount(L, 1, "retries", o.retries);
  o.netrc = tr_optbool(L, 1, "netrc", false);
  o.refuse_private = tr_optbool(L, 1, "refuse_private", false);
  o.require_length = tr_optbool(L, 1, "require_length", false);
  o.ca_file = tr_optstring(L, 1, "ca_file");
  o.client_cert = tr_optstring(L, 1, "client_cert");
  o.client_key = tr_optstring(L, 1, "client_key");
  o.unix_socket = tr_optstring(L, 1, "unix_socket");
  o.user_agent = tr_optstring(L, 1, "user_agent");
  o.proxy = tr_optstring(L, 1, "proxy");
  o.headers = optheaders(L, 1);
  o.cache_scope = tr_optstring(L, 1, "cache_scope");
  o.redirect_hosts = opthosts(L, 1);
  /* Whatever is on the stack by now is what the pointers lead to. */
  lua_createtable(L, lua_gettop(L) + 8, 0);
  {
    static const char *const texts[] = {"ca_file",     "client_cert",
                                        "client_key",  "unix_socket",
                                        "user_agent",  "proxy",
                                        "cache_scope"};
    int i, top = lua_gettop(L);
    for (i = 2; i < top; i++) {
      lua_pushvalue(L, i);
      lua_rawseti(L, top, i - 1);
    }
    for (i = 0; i < (int)(sizeof texts / sizeof *texts); i++) {
      lua_getfield(L, 1, texts[i]);
      lua_setfield(L, top, texts[i]);
    }
    keep_items(L, top);
  }
  r = lua_newuserdatauv(L, sizeof *r, 1);
  r->options = o;
  r->limits = tr_limits_of(&o);
  if (!tr_request_scope(&o, r->scope, &error))
    return luaL_error(L, "%s", error.message);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, TR_REQUEST);
  return 1;
}

/* request_scope(options) -> the scope of their cache keys; "": none */
static int request_scope(lua_State *L) {
  const lrequest *r = luaL_checkudata(L, 1, TR_REQUEST);
  lua_pushstring(L, r->scope);
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
  if (!tr_engine_fetch(tr_future_promise(f->future), url, &options, will_wait,
                       &error)) {
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
  options.max_connections = optcount(L, 1, "max_connections", 0);
  options.max_host_connections = optcount(L, 1, "max_host_connections", 0);
  if (!tr_engine_configure(&options, &error))
    return tr_pusherror(L, &error);
  return 0;
}

/* interrupt(on): ends every wait of the process, or no longer does */
static int interrupt(lua_State *L) {
  tr_interrupt(lua_toboolean(L, 1));
  return 0;
}

void tr_open_future(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", future_cancel},         {"__close", future_cancel},
      {"done", future_done},           {"wait", future_wait},
      {"cancel", future_cancel},       {"complete", future_complete},
      {"fail", future_fail},           {"notify", future_notify},
      {"progress", future_progress},   {"attempts", future_attempts},
      {"know", future_know},           {"freshness", future_freshness},
      {"detach", future_detach},       {"info", future_info},
      {"known", future_known},         {NULL, NULL}};
  static const luaL_Reg notifier_methods[] = {{"__gc", notifier_gc},
                                              {"fd", notifier_fd},
                                              {"drain", notifier_drain},
                                              {"signal", notifier_signal},
                                              {NULL, NULL}};
  static const luaL_Reg functions[] = {{"fetch", fetch},
                                       {"request_options", request_options},
                                       {"request_scope", request_scope},
                                       {"record", blob_record},
                                       {"future", new_future},
                                       {"notifier", new_notifier},
                                       {"configure_engine", configure_engine},
                                       {"interrupt", interrupt},
                                       {NULL, NULL}};
  static const luaL_Reg record_methods[] = {{"__gc", record_gc}, {NULL, NULL}};
  luaL_newmetatable(L, TR_REQUEST);
  lua_pop(L, 1);
  tr_newtype(L, TR_RECORD, record_methods);
  lua_pop(L, 1);
  tr_newtype(L, TR_NOTIFIER, notifier_methods);
  lua_pop(L, 1);
  tr_newtype(L, TR_FUTURE, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
