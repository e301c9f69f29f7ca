/* Derivations in Lua: their keys, and who computes what now. */
#include <string.h>

#include "core/derive.h"
#include "core/error.h"
#include "lutil.h"

#define TR_DERIVATION "theaterref.derivation"

/* A function at work, until it is closed. */
typedef struct lderivation {
  tr_derivation derivation;
  bool is_on;
} lderivation;

/* Return a key, which is one of derived_key. */
static const char *checkkey(lua_State *L, int index) {
  size_t len;
  const char *key = luaL_checklstring(L, index, &len);
  luaL_argcheck(L, len < TR_DERIVED_KEY_MAX && strlen(key) == len, index, "no key of derived bytes");
  return key;
}

/* derived_key(blob, recipe) -> the key of derived bytes | nil, error */
static int derived_key(lua_State *L) {
  lblob *b = luaL_checkudata(L, 1, TR_BLOB);
  char key[TR_DERIVED_KEY_MAX];
  tr_error error;
  size_t len;
  luaL_argcheck(L, b->blob != NULL, 1, "blob is closed");
  len = tr_derived_key(key, b->blob, tr_checkcstring(L, 2), &error);
  if (len == 0)
    return tr_pusherror(L, &error);
  lua_pushlstring(L, key, len);
  return 1;
}

/* Return the promise of a future. */
static const tr_promise *checkpromise(lua_State *L, int index) {
  lfuture *f = luaL_checkudata(L, index, TR_FUTURE);
  luaL_argcheck(L, f->future != NULL, index, "the future was cancelled");
  return tr_future_promise(f->future);
}

/* derivation(cache, key, lead) -> what stands for its function until it is closed | nil, error: it
** would wait for itself */
static int derivation(lua_State *L) {
  const tr_cache *cache = tr_checkcache(L, 1);
  const char *key = checkkey(L, 2);
  const tr_promise *result = checkpromise(L, 3);
  lderivation *d = lua_newuserdatauv(L, sizeof *d, 0);
  tr_error error;
  d->is_on = false;
  luaL_setmetatable(L, TR_DERIVATION);
  d->is_on = tr_derivation_begin(&d->derivation, cache, key, result, &error);
  return d->is_on ? 1 : tr_pusherror(L, &error);
}

static int derivation_close(lua_State *L) {
  lderivation *d = luaL_checkudata(L, 1, TR_DERIVATION);
  if (d->is_on)
    tr_derivation_end(&d->derivation);
  d->is_on = false;
  return 0;
}

/* derivation_wait(future) -> nil | error: the function that runs now, if any, is going to wait for a
** future in another way than by its 'wait', or would wait for ever */
static int derivation_wait(lua_State *L) {
  tr_error error;
  if (tr_derivation_wait(checkpromise(L, 1), &error))
    return 0;
  tr_pusherror(L, &error);
  return 1;
}

/* derivation_waited(): it waits no more */
static int derivation_waited(lua_State *L) {
  (void)L;
  tr_derivation_waited();
  return 0;
}

void tr_open_derive(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__close", derivation_close}, {"__gc", derivation_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"derived_key", derived_key},
                                       {"derivation", derivation},
                                       {"derivation_wait", derivation_wait},
                                       {"derivation_waited", derivation_waited},
                                       {NULL, NULL}};
  tr_newtype(L, TR_DERIVATION, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
