/* Locks of stores. Lua closes them, or the garbage collector; or another thread does, once what
** their owner awaits is over. */
#include "core/error.h"
#include "core/lease.h"
#include "core/store.h"
#include "lutil.h"

/* Push a lock that is empty as yet, so that nothing is lost when memory is short. */
static tr_lease **push_lock(lua_State *L) {
  tr_lease **lease = lua_newuserdatauv(L, sizeof *lease, 0);
  *lease = NULL;
  luaL_setmetatable(L, TR_LOCK);
  return lease;
}

/* Return the lock at the stack's top, filled; or nil and the error. */
static int return_lock(lua_State *L, tr_lease **lease, int lock, const tr_error *error) {
  if (lock < 0)
    return tr_pusherror(L, error);
  *lease = tr_lease_new(lock);
  return *lease != NULL ? 1 : luaL_error(L, "out of memory");
}

/* lock([timeout]) -> lock, to be closed; keeps gc and movers of labels waiting */
static int store_lock(lua_State *L) {
  tr_store store = tr_store_for_call(tr_checkstore(L));
  tr_lease **lease;
  tr_error error;
  int lock;
  if (!lua_isnoneornil(L, 2))
    store.until = tr_deadline(luaL_checknumber(L, 2));
  lease = push_lock(L);
  TR_WAITING(L, lock, tr_store_lock_all(&store, &error));
  return return_lock(L, lease, lock, &error);
}

/* try_lock(name[, part]) -> lock, to be closed | nil, error: without waiting; see tr_store_try_lock */
static int store_try_lock(lua_State *L) {
  const tr_store *store = tr_checkstore(L);
  const char *name = tr_checkcstring(L, 2);
  const char *part = luaL_optstring(L, 3, "");
  tr_lease **lease = push_lock(L);
  tr_error error;
  int lock = tr_store_try_lock(store, name, part, &error);
  return return_lock(L, lease, lock, &error);
}

/* end_after(future, seconds): unlocks it so long after the future has its result, if nobody has closed it by then */
static int lock_end_after(lua_State *L) {
  tr_lease **lease = luaL_checkudata(L, 1, TR_LOCK);
  const lfuture *f = luaL_checkudata(L, 2, TR_FUTURE);
  double seconds = luaL_checknumber(L, 3);
  if (*lease != NULL && f->future != NULL && !tr_lease_end_after(*lease, f->future, seconds))
    return luaL_error(L, "out of memory");
  return 0;
}

static int lock_close(lua_State *L) {
  tr_lease **lease = luaL_checkudata(L, 1, TR_LOCK);
  tr_lease *closed = *lease;
  *lease = NULL;
  tr_lease_release(closed);
  return 0;
}

/* Add the methods to a store's, which are on the stack's top. */
void tr_open_lock(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"lock", store_lock}, {"try_lock", store_try_lock}, {NULL, NULL}};
  static const luaL_Reg lock_methods[] = {{"end_after", lock_end_after},
                                          {"__gc", lock_close},
                                          {"__close", lock_close},
                                          {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
  tr_newtype(L, TR_LOCK, lock_methods);
  lua_pop(L, 1);
}
