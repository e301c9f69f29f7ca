/* Batches of a store in Lua; store.lua makes store:batch(function) of them. */
#include "lutil.h"

typedef struct lbatch {
  tr_batch *batch;        /* NULL once it is over */
  tr_algorithm algorithm; /* the store's */
} lbatch;

static tr_batch *checkbatch(lua_State *L) {
  lbatch *b = luaL_checkudata(L, 1, TR_BATCH);
  luaL_argcheck(L, b->batch != NULL, 1, "the batch is over");
  return b->batch;
}

/* begin_batch() -> batch */
static int begin_batch(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  tr_error error;
  lbatch *b = lua_newuserdatauv(L, sizeof *b, 0);
  b->batch = NULL;
  luaL_setmetatable(L, TR_BATCH);
  b->algorithm = tr_store_algorithm(store);
  b->batch = tr_batch_begin(store, &error);
  return b->batch == NULL ? tr_pusherror(L, &error) : 1;
}

/* put(bytes [, algorithm]) -> hash */
static int batch_put(lua_State *L) {
  static const char *const algorithms[] = {"sha1", "sha256", NULL};
  lbatch *b = lua_touserdata(L, 1);
  tr_batch *batch = checkbatch(L);
  tr_algorithm algorithm =
      lua_isnoneornil(L, 3)
          ? b->algorithm
          : (tr_algorithm)luaL_checkoption(L, 3, NULL, algorithms);
  char hash[TR_HEX_MAX];
  tr_error error;
  size_t len;
  const char *bytes = tr_checkbytes(L, 2, &len);
  bool done;
  TR_WAITING(L, done, tr_batch_put(batch, algorithm, bytes, len, hash, &error));
  if (!done)
    return tr_pusherror(L, &error);
  lua_pushstring(L, hash);
  return 1;
}

/* label(name, hash) -> true */
static int batch_label(lua_State *L) {
  tr_batch *batch = checkbatch(L);
  const char *label, *hash;
  tr_error error;
  if (!tr_checkname(L, 2, &label, &error) ||
      !tr_checkname(L, 3, &hash, &error) ||
      !tr_batch_label(batch, label, hash, &error))
    return tr_pusherror(L, &error);
  lua_pushboolean(L, 1);
  return 1;
}

/* commit() -> true */
static int batch_commit(lua_State *L) {
  tr_batch *batch = checkbatch(L);
  tr_error error;
  bool done;
  TR_WAITING(L, done, tr_batch_commit(batch, &error));
  if (!done)
    return tr_pusherror(L, &error);
  lua_pushboolean(L, 1);
  return 1;
}

static int batch_close(lua_State *L) {
  lbatch *b = luaL_checkudata(L, 1, TR_BATCH);
  tr_batch_free(b->batch);
  b->batch = NULL;
  return 0;
}

void tr_open_batch(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", batch_close},  {"__close", batch_close}, {"put", batch_put},
      {"label", batch_label}, {"commit", batch_commit}, {NULL, NULL}};
  lua_pushcfunction(L, begin_batch);
  lua_setfield(L, -2, "begin_batch");
  tr_newtype(L, TR_BATCH, methods);
  lua_pop(L, 1);
}
