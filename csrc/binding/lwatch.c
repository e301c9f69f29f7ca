/* Watches in Lua, and the versions of files. */
#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include <time.h>

#include "core/error.h"
#include "core/watch.h"
#include "lutil.h"

enum { MAX_PATHS = 64 };

/* Seconds after a change of a file in which another may leave its times the same. */
static const double UNSETTLED = 1;

static tr_watch **checkwatch(lua_State *L) {
  tr_watch **w = luaL_checkudata(L, 1, TR_WATCH);
  luaL_argcheck(L, *w != NULL, 1, "watch is closed");
  return w;
}

/* watch() -> a watch without paths */
static int watch(lua_State *L) {
  tr_watch **w = lua_newuserdatauv(L, sizeof *w, 0);
  *w = NULL;
  luaL_setmetatable(L, TR_WATCH);
  *w = tr_watch_new();
  return *w != NULL ? 1 : luaL_error(L, "out of memory");
}

/* notify(notifier): signal this notifier from now on */
static int watch_notify(lua_State *L) {
  tr_watch **w = checkwatch(L);
  tr_notifier **n = luaL_checkudata(L, 2, TR_NOTIFIER);
  tr_watch_notify(*w, *n);
  return 0;
}

/* set(paths) -> whether something is newly watched; see tr_watch_set */
static int watch_set(lua_State *L) {
  tr_watch **w = checkwatch(L);
  const char *paths[MAX_PATHS];
  lua_Unsigned i, count;
  luaL_checktype(L, 2, LUA_TTABLE);
  count = lua_rawlen(L, 2);
  if (count > MAX_PATHS)
    count = MAX_PATHS;
  luaL_checkstack(L, (int)count, "too many paths");
  for (i = 0; i < count; i++) {
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    paths[i] = tr_checkcstring(L, -1);
  }
  lua_pushboolean(L, tr_watch_set(*w, paths, (size_t)count));
  return 1;
}

/* take() -> whether anything happened since the last call */
static int watch_take(lua_State *L) {
  lua_pushboolean(L, tr_watch_take(*checkwatch(L)));
  return 1;
}

static int watch_gc(lua_State *L) {
  tr_watch **w = luaL_checkudata(L, 1, TR_WATCH);
  tr_watch_free(*w);
  *w = NULL;
  return 0;
}

static double seconds_of(const struct timespec *t) {
  return (double)t->tv_sec + (double)t->tv_nsec / 1e9;
}

/* file_version(path) -> a text that changes when a regular file does, whether it changed so
** recently that the next change may leave the text the same | nil, error */
static int file_version(lua_State *L) {
  const char *path = tr_checkcstring(L, 1);
  struct stat st;
  struct timespec now;
  tr_error error;
  double age;
  if (stat(path, &st) != 0) {
    tr_error_errno(&error, errno, "Failed to read", path);
    return tr_pusherror(L, &error);
  }
  if (!S_ISREG(st.st_mode)) {
    tr_error_path(&error, TR_INVALID_REFERENCE, "Failed to follow", path,
                  "it is not a regular file");
    return tr_pusherror(L, &error);
  }
  clock_gettime(CLOCK_REALTIME, &now);
  age = seconds_of(&now) - seconds_of(&st.st_ctim);
  lua_pushfstring(L, "%I:%I:%I:%I.%I:%I.%I", (lua_Integer)st.st_dev, (lua_Integer)st.st_ino,
                  (lua_Integer)st.st_size, (lua_Integer)st.st_mtim.tv_sec,
                  (lua_Integer)st.st_mtim.tv_nsec, (lua_Integer)st.st_ctim.tv_sec,
                  (lua_Integer)st.st_ctim.tv_nsec);
  lua_pushboolean(L, fabs(age) < UNSETTLED);
  return 2;
}

void tr_open_watch(lua_State *L) {
  static const luaL_Reg methods[] = {{"__gc", watch_gc},
                                     {"close", watch_gc},
                                     {"notify", watch_notify},
                                     {"set", watch_set},
                                     {"take", watch_take},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"watch", watch}, {"file_version", file_version}, {NULL, NULL}};
  tr_newtype(L, TR_WATCH, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
