/***
Methods that are written in C.
@classmod theaterref.cache
*/
/*
** Caches in Lua. Each handle keeps the blobs it got in a weak table of its
** own (L1): a hit there takes no lock and allocates nothing, and asks the
** shared entry only whether it is still live.
*/
#include <string.h>

#include "lutil.h"

typedef struct lcache {
  tr_cache *cache;
  tr_cache_handle handle;
} lcache;

enum { L1 = 1 }; /* the user value that holds reference -> blob */

static lcache *checkcache(lua_State *L) {
  lcache *c = luaL_checkudata(L, 1, TR_CACHE);
  luaL_argcheck(L, c->cache != NULL, 1, "cache is closed");
  return c;
}

tr_cache *tr_checkcache(lua_State *L, int index) {
  lcache *c = luaL_checkudata(L, index, TR_CACHE);
  luaL_argcheck(L, c->cache != NULL, index, "cache is closed");
  return c->cache;
}

/*
** The upvalues of 'get', 'peek' and 'claim'. The first is the L1 of the handle that they were
** used on last. Its blobs know their handle: comparing an address is all the type check
** that it costs to use that handle again. A handle that is closed or collected empties
** its L1.
*/
enum {
  LAST_L1 = lua_upvalueindex(1),
  HIT = lua_upvalueindex(2),         /* of 'claim': "hit" */
  LAST_REQUEST = lua_upvalueindex(3) /* of 'claim': checked already */
};

/* The handle at index 1, which is the last one from now on. */
static lcache *use_handle(lua_State *L) {
  lcache *c = checkcache(L);
  lua_getiuservalue(L, 1, L1);
  lua_replace(L, LAST_L1);
  return c;
}

/* Pushes a blob for the hit, which it takes over, and keeps it in L1, unless it is
** not for every claim of the key, or the cache has to note who gets it. */
static void push_hit(lua_State *L, const tr_hit *hit) {
  lblob *b = lua_touserdata(L, -1); /* made before the hit was taken */
  b->hit = *hit;
  b->blob = tr_blob_retain(tr_hit_blob(hit));
  b->owner = lua_touserdata(L, 1);
  if (hit->entry->limited || hit->provisional)
    return;
  lua_getiuservalue(L, 1, L1);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* Pushes what the L1 at 'index' has for argument 2 and counts the hit, if the L1 is
** of the handle, and the hit still good and within the limits. Else false, with
** something on the stack. 'c' may be any address. */
static inline __attribute__((always_inline)) bool
push_own(lua_State *L, lcache *c, int index, const tr_limits *limits) {
  const lblob *b;
  lua_pushvalue(L, 2);
  lua_rawget(L, index);
  b = lua_touserdata(L, -1);
  if (b == NULL || c == NULL || b->owner != c ||
      !tr_entry_fresh(b->hit.entry) ||
      (b->hit.content != NULL && !tr_entry_fresh(b->hit.content)) ||
      (limits != NULL && !tr_entry_allowed(b->hit.entry, limits)))
    return false;
  tr_count_hit(&c->handle);
  return true;
}

static const tr_limits no_limits;

/* 'get' on another handle than the last one, or of what L1 does not have. */
static __attribute__((noinline)) int get_slowly(lua_State *L) {
  lcache *c = use_handle(L);
  size_t len;
  const char *key;
  tr_hit hit;
  luaL_checktype(L, 2, LUA_TSTRING);
  if (push_own(L, c, LAST_L1, NULL))
    return 1;
  lua_settop(L, 2);
  key = lua_tolstring(L, 2, &len);
  tr_newblob(L);
  if (!tr_cache_find(c->cache, &c->handle, key, len, &no_limits, false, &hit)) {
    lua_pushnil(L);
    return 1;
  }
  push_hit(L, &hit);
  return 1;
}

/***
The blob, when it is there and fresh.
@function get
@tparam string key
@treturn ?theaterref.blob
*/
static int cache_get(lua_State *L) {
  /* Arguments are checked only where this fails: each call into Lua is a tenth of a
  ** hit, and what L1 finds was a good argument. */
  return push_own(L, lua_touserdata(L, 1), LAST_L1, NULL) ? 1
                                                          : get_slowly(L);
}

/*
** Read what of a claim's options, argument 3, decides about a hit: the request, which
** may be all that is given, 'revalidate' and 'max_age'. Returns the request's limits.
*/
static const tr_limits *check_request(lua_State *L, tr_claim_options *options) {
  const lrequest *r = NULL;
  if (lua_isnil(L, 3))
    return &no_limits;
  if (lua_type(L, 3) == LUA_TUSERDATA) {
    r = luaL_checkudata(L, 3, TR_REQUEST);
    lua_pushvalue(L, 3);
    lua_replace(L, LAST_REQUEST);
    return &r->limits;
  }
  options->revalidate = tr_optbool(L, 3, "revalidate", false);
  options->max_age = tr_optseconds(L, 3, "max_age", -1);
  if (lua_getfield(L, 3, "request") != LUA_TNIL)
    r = luaL_checkudata(L, -1, TR_REQUEST);
  lua_pop(L, 1);
  return r != NULL ? &r->limits : &no_limits;
}

/* Read the others. Their strings live as long as argument 3. */
static void check_claim_options(lua_State *L, tr_claim_options *options) {
  if (lua_type(L, 3) != LUA_TTABLE)
    return;
  options->ttl = tr_optseconds(L, 3, "ttl", TR_CACHE_TTL);
  options->respect_no_store = tr_optbool(L, 3, "respect_no_store", false);
  options->provisional = tr_optbool(L, 3, "provisional", false);
  options->keep_failure = tr_optseconds(L, 3, "keep_failure", -1);
  lua_getfield(L, 3, "content");
  options->content = tr_checkcontent(L, &options->content_len);
  lua_pop(L, 1);
}

/* 'claim' with other arguments than the last ones, or of what L1 does not have. */
static __attribute__((noinline)) int claim_slowly(lua_State *L) {
  lcache *c = use_handle(L);
  tr_claim_options options = TR_CLAIM_OPTIONS;
  const tr_limits *limits = check_request(L, &options);
  size_t len;
  const char *key;
  tr_hit hit = {0};
  tr_future *future = NULL;
  tr_claim how;
  lfuture *f;
  luaL_checktype(L, 2, LUA_TSTRING);
  lua_pushvalue(L, HIT);
  if (!options.revalidate && options.max_age < 0 && push_own(L, c, LAST_L1, limits))
    return 2;
  lua_settop(L, 3);
  check_claim_options(L, &options);
  key = lua_tolstring(L, 2, &len);
  f = tr_newfuture(L); /* 4 */
  tr_newblob(L);       /* 5 */
  how = tr_cache_claim_entry(c->cache, &c->handle, key, len, &options, limits,
                             &hit, &future);
  f->future = future;
  if (hit.entry != NULL)
    push_hit(L, &hit);
  switch (how) {
  case TR_HIT:
    lua_pushvalue(L, HIT);
    lua_insert(L, -2);
    if (options.max_age < 0)
      return 2;
    lua_pushnumber(L, tr_now() - hit.stored);
    return 3;
  case TR_STALE:
    lua_pushliteral(L, "stale");
    lua_insert(L, -2);
    lua_pushvalue(L, 4);
    return 3;
  case TR_WAIT:
  case TR_LEAD:
    lua_pushstring(L, how == TR_WAIT ? "wait" : "lead");
    lua_pushvalue(L, 4);
    if (hit.stored <= 0)
      return 2;
    lua_pushnumber(L, tr_now() - hit.stored);
    return 3;
  default:
    return luaL_error(L, "out of memory");
  }
}

/*
** peek(key [, request [, provisional]]) -> blob | nil
** As 'get', but only what the limits of the request allow.
*/
static int cache_peek(lua_State *L) {
  lcache *c = use_handle(L);
  const lrequest *r =
      lua_isnoneornil(L, 3) ? NULL : luaL_checkudata(L, 3, TR_REQUEST);
  const tr_limits *limits = r != NULL ? &r->limits : &no_limits;
  size_t len;
  const char *key;
  bool provisional = lua_toboolean(L, 4);
  tr_hit hit;
  luaL_checktype(L, 2, LUA_TSTRING);
  lua_settop(L, 3);
  if (push_own(L, c, LAST_L1, limits))
    return 1;
  lua_settop(L, 3);
  key = lua_tolstring(L, 2, &len);
  tr_newblob(L);
  if (!tr_cache_find(c->cache, &c->handle, key, len, limits, provisional, &hit)) {
    lua_pushnil(L);
    return 1;
  }
  push_hit(L, &hit);
  return 1;
}

/*
** claim(key [, options]) -> "hit", blob [, age] | "wait", future [, age] | "lead", future
** | "stale", blob, future
** The options are 'ttl', 'revalidate', 'request', 'content', 'provisional', 'max_age' and
** 'keep_failure' (tr_claim_options), or the request alone. The age of a hit is there with
** a 'max_age'; that of a future if it is a failure that was kept.
*/
static int cache_claim(lua_State *L) {
  const lrequest *r = NULL;
  lua_settop(L, 3);
  if (lua_rawequal(L, 3, LAST_REQUEST))
    r = lua_touserdata(L, 3);
  if (r != NULL || lua_isnil(L, 3)) {
    lua_pushvalue(L, HIT);
    if (push_own(L, lua_touserdata(L, 1), LAST_L1,
                 r != NULL ? &r->limits : NULL))
      return 2;
    lua_settop(L, 3);
  }
  return claim_slowly(L);
}

/* The reference, argument 2: a string, not a number that could be one. */
static const char *checkkey(lua_State *L, size_t *len) {
  luaL_checktype(L, 2, LUA_TSTRING);
  return lua_tolstring(L, 2, len);
}

/***
Forgets a reference. A load under way still completes for its waiters.
@function remove
@tparam string reference
@treturn boolean whether it was there; a remembered failure is not
*/
static int cache_remove(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key = checkkey(L, &len);
  lua_pushboolean(L, tr_cache_remove(c->cache, key, len));
  return 1;
}

/* accept(key): for a claim with 'provisional' */
static int cache_accept(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key = checkkey(L, &len);
  tr_cache_accept(c->cache, key, len);
  return 0;
}

/* swap(key, old, blob): puts other memory with the same bytes in the place of 'old' */
static int cache_swap(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key = checkkey(L, &len);
  const lblob *old = luaL_checkudata(L, 3, TR_BLOB), *b = luaL_checkudata(L, 4, TR_BLOB);
  luaL_argcheck(L, b->blob != NULL, 4, "blob is closed");
  tr_cache_swap(c->cache, key, len, old->blob, b->blob);
  return 0;
}

/* drop(key [, others]): forgets the entry with exactly this key, or the reference's other entries */
static int cache_drop(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key = checkkey(L, &len);
  tr_cache_drop(c->cache, key, len, lua_toboolean(L, 3));
  return 0;
}

/* reject(key, blob) -> whether it was removed */
static int cache_reject(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key = checkkey(L, &len);
  const lblob *b = luaL_checkudata(L, 3, TR_BLOB);
  lua_pushboolean(L, tr_cache_reject(c->cache, key, len, b->blob));
  return 1;
}

/***
Makes a reference stale: the next resolve asks its source, and gets the same
blob when that has not changed.
@function refresh
@tparam string reference
@treturn boolean whether it was there
*/
static int cache_refresh(lua_State *L) {
  lcache *c = checkcache(L);
  size_t len;
  const char *key = checkkey(L, &len);
  lua_pushboolean(L, tr_cache_refresh(c->cache, key, len));
  return 1;
}

/***
Keeps a reference, and what replaces it, from being evicted.
@function keep
@tparam string reference
@tparam[opt=true] boolean kept false: it may be evicted again
@treturn boolean whether it was there
*/
static int cache_keep(lua_State *L) {
  lcache *c = checkcache(L);
  bool kept = lua_isnone(L, 3) || lua_toboolean(L, 3);
  size_t len;
  const char *key = checkkey(L, &len);
  lua_pushboolean(L, tr_cache_keep(c->cache, key, len, kept));
  return 1;
}

/***
The disk cache of this cache.
@function disk
@treturn ?string the folder
@treturn ?integer its bound in bytes
*/
static int cache_disk(lua_State *L) {
  const tr_cache_options *options = tr_cache_get_options(checkcache(L)->cache);
  lua_pushstring(L, options->disk); /* or nil */
  lua_pushinteger(L, (lua_Integer)options->disk_max_bytes);
  return 2;
}

/***
How long an entry is fresh.
@function ttl
@treturn ?number seconds; nil: for ever
*/
static int cache_ttl(lua_State *L) {
  double ttl = tr_cache_get_options(checkcache(L)->cache)->ttl;
  if (ttl < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, ttl);
  return 1;
}

/* changes() -> how often entries were removed, refreshed or cleared */
static int cache_changes(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)tr_cache_changes(checkcache(L)->cache));
  return 1;
}

/* stale_if_error() -> seconds */
static int cache_stale_if_error(lua_State *L) {
  lua_pushnumber(L, tr_cache_get_options(checkcache(L)->cache)->stale_if_error);
  return 1;
}

/***
Forgets everything.
@function clear
*/
static int cache_clear(lua_State *L) {
  tr_cache_clear(checkcache(L)->cache);
  return 0;
}

/***
How many blobs it holds; `#cache` is the same.
@function len
@treturn integer
*/
static int cache_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)tr_cache_len(checkcache(L)->cache));
  return 1;
}

/***
True if it holds no blob.
@function is_empty
@treturn boolean
*/
static int cache_is_empty(lua_State *L) {
  lua_pushboolean(L, tr_cache_len(checkcache(L)->cache) == 0);
  return 1;
}

typedef struct counter {
  const char *name;
  uint64_t value;
} counter;

static void push_counters(lua_State *L, const counter *counters, size_t count) {
  size_t i;
  lua_createtable(L, 0, (int)count + 1);
  for (i = 0; i < count; i++) {
    lua_pushinteger(L, (lua_Integer)counters[i].value);
    lua_setfield(L, -2, counters[i].name);
  }
}

/* Push { name = { hits, misses, coalesced } }, one for each consumer. */
static void push_by_consumer(lua_State *L, tr_cache *cache) {
  const tr_consumer *consumer = NULL;
  tr_consumer c;
  lua_newtable(L);
  while ((consumer = tr_cache_next_consumer(cache, consumer, &c)) != NULL) {
    const counter counters[] = {
        {"hits", c.hits}, {"misses", c.misses}, {"coalesced", c.coalesced}};
    push_counters(L, counters, sizeof counters / sizeof *counters);
    lua_setfield(L, -2, consumer->name);
  }
}

/***
Counters since the cache was made: `hits`, `misses`, `coalesced` (waited for
another's load), `stale` (served past its ttl), `loads`, `errors`, `evictions`,
`entries`, `bytes`, and `by_consumer`: the hits, misses and coalesced of each
`consumer`.
@function stats
@treturn table
*/
static int cache_stats(lua_State *L) {
  tr_cache *cache = checkcache(L)->cache;
  uint64_t s[TR_STAT_COUNT];
  tr_cache_get_stats(cache, s, TR_STAT_COUNT);
  {
    const counter counters[] = {{"hits", s[TR_STAT_HITS]},
                                {"misses", s[TR_STAT_MISSES]},
                                {"coalesced", s[TR_STAT_COALESCED]},
                                {"stale", s[TR_STAT_STALE]},
                                {"loads", s[TR_STAT_LOADS]},
                                {"errors", s[TR_STAT_ERRORS]},
                                {"evictions", s[TR_STAT_EVICTIONS]},
                                {"entries", s[TR_STAT_ENTRIES]},
                                {"bytes", s[TR_STAT_BYTES]}};
    push_counters(L, counters, sizeof counters / sizeof *counters);
  }
  push_by_consumer(L, cache);
  lua_setfield(L, -2, "by_consumer");
  return 1;
}

static int cache_gc(lua_State *L) {
  lcache *c = luaL_checkudata(L, 1, TR_CACHE);
  if (lua_getiuservalue(L, 1, L1) == LUA_TTABLE)
    for (lua_pushnil(L); lua_next(L, -2) != 0;) {
      lua_pop(L, 1);
      lua_pushvalue(L, -1); /* clearing a field is allowed on the way */
      lua_pushnil(L);
      lua_rawset(L, -4);
    }
  if (c->cache != NULL) {
    tr_cache_detach(c->cache, &c->handle);
    tr_cache_release(c->cache);
    c->cache = NULL;
  }
  return 0;
}

/***
Close the cache of this name. Its handles go on with it; `resource_cache` with the
name makes a new one.
@function close
@treturn boolean false: it has no name, or is closed already
*/
static int cache_close(lua_State *L) {
  lua_pushboolean(L, tr_cache_close_name(checkcache(L)->cache));
  return 1;
}

/* cache_key(reference [, digest [, scope]]) -> the key of its entry */
static int cache_key(lua_State *L) {
  const char *reference = tr_checkcstring(L, 1);
  const char *digest = lua_isnoneornil(L, 2) ? "" : tr_checkcstring(L, 2);
  const char *scope = lua_isnoneornil(L, 3) ? "" : tr_checkcstring(L, 3);
  size_t size = tr_cache_key(NULL, 0, reference, digest, scope);
  luaL_Buffer b;
  tr_cache_key(luaL_buffinitsize(L, &b, size), size, reference, digest, scope);
  luaL_pushresultsize(&b, size);
  return 1;
}

/* True if a table of options has any but the names of the cache and the consumer. */
static bool has_cache_options(lua_State *L, int index) {
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    if (strcmp(name, "name") != 0 && strcmp(name, "consumer") != 0) {
      lua_pop(L, 2);
      return true;
    }
  }
  return false;
}

/* resource_cache(options) -> cache | nil, error */
static int resource_cache(lua_State *L) {
  tr_cache_options options = TR_CACHE_OPTIONS;
  tr_error error;
  const char *name = NULL, *consumer = NULL;
  bool joins = true; /* the cache of that name, whatever its options */
  tr_cache *cache;
  lcache *c;
  lua_settop(L, 1);
  options.max_bytes = tr_optsize(L, 1, "max_bytes", options.max_bytes);
  options.max_entries = tr_optsize(L, 1, "max_entries", options.max_entries);
  options.ttl = tr_optseconds(L, 1, "ttl", options.ttl);
  options.negative_ttl = tr_optseconds(L, 1, "negative_ttl", 0);
  options.stale_while_revalidate =
      tr_optseconds(L, 1, "stale_while_revalidate", 0);
  options.stale_if_error = tr_optseconds(L, 1, "stale_if_error", 0);
  options.no_coalesce = !tr_optbool(L, 1, "coalesce", true);
  options.disk_max_bytes = tr_optsize(L, 1, "disk_max_bytes", 0);
  if (!lua_isnil(L, 1)) {
    name = tr_optstring(L, 1, "name");
    consumer = tr_optstring(L, 1, "consumer");
    options.disk = tr_optstring(L, 1, "disk");
    joins = !has_cache_options(L, 1);
  }
  c = lua_newuserdatauv(L, sizeof *c, 1);
  c->cache = NULL;
  luaL_setmetatable(L, TR_CACHE);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_setiuservalue(L, -2, L1);
  cache = tr_cache_open(name, joins ? NULL : &options, &error);
  if (cache == NULL)
    return tr_pusherror(L, &error);
  c->cache = cache;
  if (!tr_cache_attach(cache, &c->handle, consumer))
    return luaL_error(L, "out of memory"); /* attached, without a name */
  return 1;
}

void tr_open_cache(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__len", cache_len},         {"len", cache_len},
      {"is_empty", cache_is_empty}, {"remove", cache_remove},
      {"accept", cache_accept},     {"reject", cache_reject},
      {"swap", cache_swap},         {"drop", cache_drop},
      {"clear", cache_clear},       {"stats", cache_stats},
      {"refresh", cache_refresh},   {"keep", cache_keep},
      {"stale_if_error", cache_stale_if_error}, {"changes", cache_changes},
      {"disk", cache_disk},         {"ttl", cache_ttl},
      {"close", cache_close},       {"__gc", cache_gc},
      {"__close", cache_gc},        {NULL, NULL}};
  static const luaL_Reg functions[] = {{"resource_cache", resource_cache},
                                       {"cache_key", cache_key},
                                       {NULL, NULL}};
  tr_newtype(L, TR_CACHE, methods);
  lua_newtable(L);
  lua_pushcclosure(L, cache_get, 1);
  lua_setfield(L, -2, "get");
  lua_newtable(L);
  lua_pushcclosure(L, cache_peek, 1);
  lua_setfield(L, -2, "peek");
  lua_newtable(L);
  lua_pushliteral(L, "hit");
  lua_pushboolean(L, false); /* no request yet */
  lua_pushcclosure(L, cache_claim, 3);
  lua_setfield(L, -2, "claim");
  lua_setfield(L, -2, "cache_methods"); /* cache.lua adds to them */
  luaL_setfuncs(L, functions, 0);
}
