/* Shared by the binding's files. */
#ifndef TR_LUTIL_H
#define TR_LUTIL_H

#include <lauxlib.h>
#include <lua.h>

#include "core/cache.h"
#include "theaterref.h"

/* A blob as Lua holds it; 'entry' when it came out of a cache. */
typedef struct lblob {
  tr_blob *blob;
  tr_entry *entry;
} lblob;

/* A new, empty blob userdata on the stack: make it first, then fill it, so
** that nothing leaks when memory runs out. */
lblob *tr_newblob(lua_State *L);

/* Call when a blob userdata has been filled with bytes that no cache holds:
** lets the collector know how large it really is. May run finalizers. */
void tr_accountblob(lua_State *L, size_t size);

/* A string's or a blob's bytes; raises for anything else. */
const char *tr_checkbytes(lua_State *L, int index, size_t *len);

/* A string without zero bytes, for what becomes a C string. Anything else
** raises, a zero byte as "<what> holds a zero byte". */
const char *tr_checkcstring(lua_State *L, int index);

/* A store as Lua holds it. */
typedef struct lstore {
  tr_store *store; /* NULL once closed */
} lstore;

/* Return the store at index 1; raises when it is closed or none. */
tr_store *tr_checkstore(lua_State *L);

/*
** A name as the C API takes it. A zero byte in it cannot be passed on, and is
** a fault of the name, not of the program: false with the error.
*/
bool tr_checkname(lua_State *L, int index, const char **name, tr_error *error);

/* Push a new future userdata, empty, to be filled at once. */
typedef struct lfuture {
  tr_future *future; /* NULL once cancelled */
} lfuture;

lfuture *tr_newfuture(lua_State *L);

/* Pushes nil and the error as a table with the module's metatable. */
int tr_pusherror(lua_State *L, const tr_error *error);

/* Makes a metatable called 'name' that indexes itself, with 'methods'. */
void tr_newtype(lua_State *L, const char *name, const luaL_Reg *methods);

/* Add one function to the table on the stack's top under two names; its
** boolean upvalue is true under the second. */
void tr_add_pair(lua_State *L, lua_CFunction function, const char *plain,
                 const char *other);

/* Pushes a boolean, or where 'flag' is below 0 nil and the error; returns how
** many values that are. */
int tr_pushflag(lua_State *L, int flag, const tr_error *error);

/* Fields of an options table at 'index', which may be nil or absent. */
double tr_optseconds(lua_State *L, int index, const char *name,
                     double otherwise);
size_t tr_optsize(lua_State *L, int index, const char *name, size_t otherwise);
bool tr_optbool(lua_State *L, int index, const char *name, bool otherwise);
/* A string, or NULL; it lives as long as the options table keeps it. */
const char *tr_optstring(lua_State *L, int index, const char *name);

#define TR_BLOB "theaterref.blob"
#define TR_FUTURE "theaterref.future"
#define TR_NOTIFIER "theaterref.notifier"
#define TR_REQUEST "theaterref.request"
#define TR_CACHE "theaterref.cache"
#define TR_STORE "theaterref.store"
#define TR_BATCH "theaterref.batch"
#define TR_LOCK "theaterref.lock"
#define TR_OUTPUT "theaterref.output"
#define TR_ERROR "theaterref.error"

/* Each adds its type and functions to the module table on the stack's top. */
void tr_open_blob(lua_State *L);
void tr_open_future(lua_State *L);
void tr_open_cache(lua_State *L);
void tr_open_store(lua_State *L);
void tr_open_output(lua_State *L);
void tr_open_json(lua_State *L);
void tr_open_sandbox(lua_State *L);

/* Each adds to the methods of a store, which are on the stack's top. */
void tr_open_labels(lua_State *L);
void tr_open_batch(lua_State *L);

#endif
