/* Futures and fetching in Lua. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "core/error.h"
#include "lutil.h"

lfuture *tr_newfuture(lua_State *L) {
  lfuture *f = lua_newuserdatauv(L, sizeof *f, 0);
  f->future = NULL;
  f->leads = false;
  luaL_setmetatable(L, TR_FUTURE);
  return f;
}

static lfuture *checkfuture(lua_State *L) {
  return luaL_checkudata(L, 1, TR_FUTURE);
}

/* Gives the handle up: a leader lets somebody else lead, and the last one
** with an interest stops the work. */
static int future_cancel(lua_State *L) {
  lfuture *f = checkfuture(L);
  tr_future *future = f->future;
  f->future = NULL;
  if (future == NULL)
    return 0;
  if (f->leads) /* what tr_fetch has taken over goes on while it is wanted */
    tr_future_abandon(future);
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
** wait([seconds]) -> blob | nil, error [, "pending" | "abandoned"]
** Pending: the time is over, and there is no result yet. Abandoned: whoever
** was loading gave up; ask again.
*/
static int future_wait(lua_State *L) {
  lfuture *f = checkfuture(L);
  double seconds = luaL_optnumber(L, 2, -1);
  tr_error error;
  tr_future_status status;
  lblob *b;
  if (f->future == NULL)
    return cancelled(L);
  b = tr_newblob(L);
  status = tr_future_wait(f->future, seconds, &b->blob, &error);
  if (status == TR_READY) {
    tr_accountblob(L, tr_blob_size(b->blob));
    return 1;
  }
  if (status == TR_PENDING)
    tr_error_set(&error, TR_TIMEOUT, "no result within %g seconds", seconds);
  tr_pusherror(L, &error);
  lua_pushstring(L, status == TR_PENDING     ? "pending"
                    : status == TR_ABANDONED ? "abandoned"
                                             : NULL);
  return 3;
}

/* Reads { age =, etag =, last_modified = }; what is too long is left out. */
static tr_freshness optfreshness(lua_State *L, int index) {
  tr_freshness freshness = {.age = 0};
  const char *etag, *modified;
  freshness.age = tr_optseconds(L, index, "age", 0);
  if (lua_isnoneornil(L, index))
    return freshness;
  etag = tr_optstring(L, index, "etag");
  modified = tr_optstring(L, index, "last_modified");
  if (etag != NULL && strlen(etag) < TR_VALIDATOR_MAX)
    strcpy(freshness.etag, etag);
  if (modified != NULL && strlen(modified) < TR_VALIDATOR_MAX)
    strcpy(freshness.last_modified, modified);
  return freshness;
}

/* complete(blob [, freshness]) -> boolean: gives the future its result. */
static int future_complete(lua_State *L) {
  lfuture *f = checkfuture(L);
  lblob *b = luaL_checkudata(L, 2, TR_BLOB);
  tr_freshness freshness = optfreshness(L, 3);
  luaL_argcheck(L, b->blob != NULL, 2, "blob is closed");
  if (f->future != NULL)
    tr_future_set_freshness(f->future, &freshness);
  lua_pushboolean(L,
                  f->future != NULL && tr_future_complete(f->future, b->blob));
  return 1;
}

/* know(blob, freshness): what a fetch may find unchanged. */
static int future_know(lua_State *L) {
  lfuture *f = checkfuture(L);
  lblob *b = luaL_checkudata(L, 2, TR_BLOB);
  tr_freshness freshness = optfreshness(L, 3);
  luaL_argcheck(L, b->blob != NULL, 2, "blob is closed");
  if (f->future != NULL)
    tr_future_set_known(f->future, b->blob, &freshness);
  return 0;
}

/* freshness() -> etag | nil, last_modified | nil: what came with the result */
static int future_freshness(lua_State *L) {
  lfuture *f = checkfuture(L);
  const tr_freshness *freshness = NULL;
  if (f->future != NULL && tr_future_get_status(f->future) == TR_READY)
    freshness = tr_future_freshness(f->future);
  lua_pushstring(L, freshness != NULL && freshness->etag[0] != '\0'
                        ? freshness->etag
                        : NULL);
  lua_pushstring(L, freshness != NULL && freshness->last_modified[0] != '\0'
                        ? freshness->last_modified
                        : NULL);
  return 2;
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

/* pollfd() -> descriptor that turns readable with the result */
static int future_pollfd(lua_State *L) {
  lfuture *f = checkfuture(L);
  int fd = f->future == NULL ? -1 : tr_future_fd(f->future);
  if (fd < 0)
    return luaL_error(L, "no descriptor for this future: %s",
                      f->future == NULL ? "it was cancelled" : strerror(errno));
  lua_pushinteger(L, fd);
  return 1;
}

static int future_events(lua_State *L) {
  lua_pushliteral(L, "r");
  return 1;
}

static int future_timeout(lua_State *L) {
  lua_pushnil(L); /* the fetch keeps its own deadline */
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
** Turns the table 'headers' (name -> value) of the options into "Name:
** value" lines. Leaves on the stack what keeps them alive.
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

/* A whole number that fits an int. */
static int optcount(lua_State *L, int index, const char *name, int otherwise) {
  size_t value = tr_optsize(L, index, name, (size_t)otherwise);
  if (value > INT_MAX)
    luaL_error(L, "'%s' is too large", name);
  return (int)value;
}

/* fetch(url [, options [, future]]) -> future | nil, error */
static int fetch(lua_State *L) {
  const char *url = tr_checkcstring(L, 1);
  tr_fetch_options options;
  tr_error error;
  lfuture *f;
  tr_fetch_defaults(&options);
  options.timeout = tr_optseconds(L, 2, "timeout", options.timeout);
  options.connect_timeout =
      tr_optseconds(L, 2, "connect_timeout", options.connect_timeout);
  options.stall_timeout =
      tr_optseconds(L, 2, "stall_timeout", options.stall_timeout);
  options.max_bytes = tr_optsize(L, 2, "max_bytes", options.max_bytes);
  options.max_redirects =
      optcount(L, 2, "max_redirects", options.max_redirects);
  options.retries = optcount(L, 2, "retries", options.retries);
  options.max_host_connections = optcount(L, 2, "max_host_connections", 0);
  options.max_connections = optcount(L, 2, "max_connections", 0);
  options.netrc = tr_optbool(L, 2, "netrc", false);
  options.refuse_private = tr_optbool(L, 2, "refuse_private", false);
  options.will_wait = tr_optbool(L, 2, "will_wait", false);
  if (lua_istable(L, 2)) {
    options.ca_file = tr_optstring(L, 2, "ca_file");
    options.client_cert = tr_optstring(L, 2, "client_cert");
    options.client_key = tr_optstring(L, 2, "client_key");
    options.unix_socket = tr_optstring(L, 2, "unix_socket");
    options.digest = tr_optstring(L, 2, "digest");
    options.user_agent = tr_optstring(L, 2, "user_agent");
    options.headers = optheaders(L, 2);
  }
  if (lua_isnoneornil(L, 3)) {
    f = tr_newfuture(L);
    f->future = tr_future_create();
  } else {
    f = luaL_checkudata(L, 3, TR_FUTURE);
    lua_pushvalue(L, 3);
  }
  if (f->future == NULL)
    return luaL_error(L, "out of memory, or a cancelled future");
  if (!tr_fetch(f->future, url, &options, &error)) {
    tr_future_fail(f->future, &error);
    return tr_pusherror(L, &error);
  }
  return 1;
}

/* future() -> a pending future, for whoever made it to complete */
static int new_future(lua_State *L) {
  lfuture *f = tr_newfuture(L);
  f->future = tr_future_create();
  f->leads = true;
  return f->future != NULL ? 1 : luaL_error(L, "out of memory");
}

void tr_open_future(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", future_cancel},       {"__close", future_cancel},
      {"done", future_done},         {"wait", future_wait},
      {"cancel", future_cancel},     {"complete", future_complete},
      {"fail", future_fail},         {"pollfd", future_pollfd},
      {"events", future_events},     {"timeout", future_timeout},
      {"progress", future_progress}, {"attempts", future_attempts},
      {"know", future_know},         {"freshness", future_freshness},
      {"detach", future_detach},     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"fetch", fetch}, {"future", new_future}, {NULL, NULL}};
  tr_newtype(L, TR_FUTURE, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
