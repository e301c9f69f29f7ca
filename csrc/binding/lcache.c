/*
** Caches in Lua. Each handle keeps the blobs it got in a weak table of its
** own (L1): a hit there takes no lock and allocates nothing, and asks the
** shared entry only whether it is still live.
*/
#include <string.h>

#include "lutil.h"

typedef struct lcache {
  tr_cache *cache;
  tr_hit_counter counter;
} lcache;

enum { L1 = 1 }; /* the user value that holds reference -> blob */

static lcache *checkcache(lua_State *L) {
  lcache *c = luaL_checkudata(L, 1, TR_CACHE);
  luaL_argcheck(L, c->cache != NULL, 1, "cache is closed");
  return c;
}

/* The handle, by the metatable in the function's upvalue: looking it up by
** name would cost a third of a hit. */
static lcache *checkcache_fast(lua_State *L) {
  lcache *c = lua_touserdata(L, 1);
  if (c == NULL || !lua_getmetatable(L, 1))
    return checkcache(L); /* raises */
  if (!lua_rawequal(L, -1, lua_upvalueindex(1)) || c->cache == NULL)
    return checkcache(L);
  lua_pop(L, 1);
  return c;
}

/* Pushes a blob for the entry, which it takes over, and keeps it in L1. */
static void push_entry(lua_State *L, tr_entry *entry) {
  lblob *b = lua_touserdata(L, -1); /* made before the entry was taken */
  b->entry = entry;
  b->blob = tr_blob_retain(entry->blob);
  lua_getiuservalue(L, 1, L1);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* Pushes L1's blob for argument 2 and counts the hit, if it is still good. */
static bool push_own(lua_State *L, lcache *c) {
  lblob *b;
  lua_getiuservalue(L, 1, L1);
  lua_pushvalue(L, 2);
  lua_rawget(L, -2);
  b = lua_touserdata(L, -1);
  if (b == NULL || b->entry == NULL || !tr_entry_fresh(b->entry))
    return false;
  tr_count_hit(&c->counter);
  return true;
}

/* get(reference) -> blob | nil */
static int cache_get(lua_State *L) {
  lcache *c = checkcache_fast(L);
  size_t len;
  const char *key;
  tr_entry *entry;
  luaL_checktype(L, 2, LUA_TSTRING);
  lua_settop(L, 2);
  if (push_own(L, c))
    return 1;
  lua_settop(L, 2);
  key = lua_tolstring(L, 2, &len);
  tr_newblob(L);
  entry = tr_cache_find(c->cache, key, len);
  if (entry == NULL) {
    lua_pushnil(L);
    return 1;
  }
  push_entry(L, entry);
  return 1;
}

/* claim(reference) -> "hit", blob | "wait", future | "lead", future */
static int cache_claim(lua_State *L) {
  lcache *c = checkcache_fast(L);
  size_t len;
  const char *key;
  tr_entry *entry = NULL;
  tr_future *future = NULL;
  lfuture *f;
  luaL_checktype(L, 2, LUA_TSTRING);
  lua_settop(L, 2);
  if (push_own(L, c)) {
    lua_pushliteral(L, "hit");
    lua_insert(L, -2);
    return 2;
  }
  lua_settop(L, 2);
  key = lua_tolstring(L, 2, &len);
  f = tr_newfuture(L);
  tr_newblob(L);
  switch (tr_cache_claim_entry(c->cache, key, len, &entry, &future)) {
  case TR_HIT:
    push_entry(L, entry);
    lua_pushliteral(L, "hit");
    lua_insert(L, -2);
    return 2;
  case TR_WAIT:
    f->future = future;
    lua_pushliteral(L, "wait");
    lua_pushvalue(L, 3);
    return 2;
  case TR_LEAD:
    f->future = future;
    f->leads = true;
    lua_pushliteral(L, "lead");
    lua_pushvalue(L, 3);
    return 2;
  default:
    return luaL_error(L, "out of memory");
  }
}

static int cache_remove(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key;
  luaL_checktype(L, 2, LUA_TSTRING);
  key = lua_tolstring(L, 2, &len);
  lua_pushboolean(L, tr_cache_remove(c->cache, key, len));
  return 1;
}

static int cache_clear(lua_State *L) {
  tr_cache_clear(checkcache(L)->cache);
  return 0;
}

static int cache_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)tr_cache_len(checkcache(L)->cache));
  return 1;
}

static int cache_is_empty(lua_State *L) {
  lua_pushboolean(L, tr_cache_len(checkcache(L)->cache) == 0);
  return 1;
}

static int cache_stats(lua_State *L) {
  tr_cache_stats s;
  size_t i;
  tr_cache_get_stats(checkcache(L)->cache, &s);
  {
    const struct {
      const char *name;
      uint64_t value;
    } figures[] = {{"hits", s.hits},           {"misses", s.misses},
                   {"coalesced", s.coalesced}, {"loads", s.loads},
                   {"errors", s.errors},       {"evictions", s.evictions},
                   {"entries", s.entries},     {"bytes", s.bytes}};
    lua_createtable(L, 0, 8);
    for (i = 0; i < sizeof figures / sizeof *figures; i++) {
      lua_pushinteger(L, (lua_Integer)figures[i].value);
      lua_setfield(L, -2, figures[i].name);
    }
  }
  return 1;
}

static int cache_gc(lua_State *L) {
  lcache *c = luaL_checkudata(L, 1, TR_CACHE);
  if (c->cache != NULL) {
    tr_cache_detach(c->cache, &c->counter);
    tr_cache_release(c->cache);
    c->cache = NULL;
  }
  return 0;
}

/* resource_cache(options) -> cache | nil, error */
static int resource_cache(lua_State *L) {
  tr_cache_options options = {0};
  tr_error error;
  const char *name = NULL;
  tr_cache *cache;
  lcache *c;
  lua_settop(L, 1);
  options.max_bytes = tr_optsize(L, 1, "max_bytes", 0);
  options.max_entries = tr_optsize(L, 1, "max_entries", 0);
  options.ttl = tr_optseconds(L, 1, "ttl", -1);
  options.no_coalesce = !tr_optbool(L, 1, "coalesce", true);
  if (!lua_isnil(L, 1))
    name = tr_optstring(L, 1, "name");
  c = lua_newuserdatauv(L, sizeof *c, 1);
  c->cache = NULL;
  luaL_setmetatable(L, TR_CACHE);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_setiuservalue(L, -2, L1);
  cache = tr_cache_open(name, &options, &error);
  if (cache == NULL)
    return tr_fail_with(L, &error);
  c->cache = cache;
  tr_cache_attach(cache, &c->counter);
  return 1;
}

void tr_open_cache(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", cache_gc},           {"__close", cache_gc},
      {"__len", cache_len},         {"len", cache_len},
      {"is_empty", cache_is_empty}, {"remove", cache_remove},
      {"clear", cache_clear},       {"stats", cache_stats},
      {NULL, NULL}};
  static const luaL_Reg hot[] = {
      {"get", cache_get}, {"claim", cache_claim}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"resource_cache", resource_cache},
                                       {NULL, NULL}};
  tr_newtype(L, TR_CACHE, methods);
  lua_pushvalue(L, -1);
  luaL_setfuncs(L, hot, 1);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
