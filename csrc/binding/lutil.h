/* Shared by the binding's files. */
#ifndef TR_LUTIL_H
#define TR_LUTIL_H

#include <lauxlib.h>
#include <lua.h>

#include "core/auth.h"
#include "core/cache.h"
#include "core/signer.h"
#include "theaterref.h"

/* A blob as Lua holds it, with its entries if it came out of a cache: then all of
** this Lua state that have it share the userdata. */
typedef struct lblob {
  tr_blob *blob;
  tr_hit hit; /* both NULL: from no cache */
  const void *owner; /* the handle that got it from there, to compare with */
} lblob;

/* A new, empty blob userdata on the stack: make it first, then fill it, so
** that nothing leaks when memory runs out. */
lblob *tr_newblob(lua_State *L);

/* Call when a blob userdata has been filled with bytes that no cache holds:
** lets the collector know how large it really is. May run finalizers. */
void tr_accountblob(lua_State *L, size_t size);

/* A string's or a blob's bytes; raises for anything else. */
const char *tr_checkbytes(lua_State *L, int index, size_t *len);

/* Return how many bytes the range in arguments 2 and 3 has, as string.sub counts, of
** 'size'; 'j_default' 0: the first argument. Set where it starts. */
size_t tr_checkrange(lua_State *L, size_t size, lua_Integer j_default, size_t *start);

/* Push the values of bytes; returns how many. */
int tr_pushvalues(lua_State *L, const unsigned char *bytes, size_t len);

/* Push the type of a WebAssembly binary, or nil and what it is instead; returns how many
** values that are. */
int tr_pushwasmtype(lua_State *L, const tr_blob *blob);

/* A string without zero bytes, for what becomes a C string. Anything else
** raises, a zero byte as "<what> holds a zero byte". */
const char *tr_checkcstring(lua_State *L, int index);

/* A store as Lua holds it. */
typedef struct lstore {
  tr_store *store; /* NULL once closed */
} lstore;

/*
** Call before and after a call of the core that may wait, and raises nothing between:
** lua.c answers an interrupt (Ctrl-C) by setting a hook, which ends the wait.
*/
void tr_begin_wait(lua_State *L);
void tr_end_wait(void);
/* The same in parts, for a wait in slices: call the first before; the second tells whether
** there is a hook since; the third has it run in the coroutine that waited, if one did. */
void tr_note_hooks(lua_State *L);
bool tr_has_new_hook(void);
void tr_take_hook(void);
/* The same as tr_begin_wait and tr_end_wait for one expression. */
#define TR_WAITING(L, result, call)                                            \
  (tr_begin_wait(L), (result) = (call), tr_end_wait())

/* Return the largest size that an argument allows; without one, any. */
size_t tr_optmax(lua_State *L, int index);

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

/* The content's key at the stack's top, or NULL for nil; raises for anything else. */
const char *tr_checkcontent(lua_State *L, size_t *len);
/* Return the record of a table at 'index', or NULL if there is no table. */
tr_record *tr_optrecord(lua_State *L, int index);
/* Add the fields of a record to the table on the stack's top. */
void tr_set_record(lua_State *L, const tr_record *record);
/* Push a new userdata for a record, empty, which owns it while Lua may raise. */
tr_record **tr_newrecord(lua_State *L);

/* The options of a fetch as Lua holds them (request_options). */
typedef struct lrequest {
  tr_fetch_options options;
  tr_limits limits;
  tr_auth *auth;          /* of a userdata that it keeps; or NULL */
  const char *auth_scope; /* what is asked of the registry, or NULL */
  tr_signer *signer;      /* of a userdata that it keeps; or NULL */
  char scope[TR_HEX_MAX]; /* tr_request_scope_as */
} lrequest;

/* A principal at a registry as Lua holds it. */
typedef struct lauth {
  tr_auth *auth;
} lauth;

/* A principal at an object store as Lua holds it. */
typedef struct lsigner {
  tr_signer *signer;
} lsigner;

/* Return the texts of a list, or of the table's field 'name', NULL-terminated; NULL for
** nil. They live as long as the table at 'keep'. Raises for anything else. */
const char *const *tr_opttexts(lua_State *L, int index, int keep, const char *name);
/* Return the "Name: value" lines of the table 'headers' in the one at 'index'; as above. */
const char *const *tr_optheaders(lua_State *L, int index, int keep);

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
int tr_optcount(lua_State *L, int index, const char *name, int otherwise);
/* A string, or NULL; it lives as long as the options table keeps it. */
const char *tr_optstring(lua_State *L, int index, const char *name);

/* Set a field of the table on the stack's top, unless the text is NULL or empty. */
void tr_set_text(lua_State *L, const char *name, const char *text);

/*
** Tables that come from documents carry along (ljson.c): a mark, which tells an
** empty array from an empty object and a date from a table; and the texts of
** numbers that Lua writes in another way.
*/
typedef enum tr_mark {
  TR_MARK_NONE,
  TR_MARK_ARRAY,
  TR_MARK_DATETIME, /* { type =, text = } */
  TR_MARK_COUNT
} tr_mark;

/* The mark of the table at 'index'. Never raises. */
tr_mark tr_markof(lua_State *L, int index);
/* Mark the table on top. */
void tr_setmark(lua_State *L, tr_mark mark);

/* Push the texts of a table's numbers by key, or nil and return false. Never
** raises. A text counts while it means the number that the table has. */
bool tr_pushwritten(lua_State *L, int index);
/* Keep the text of a number; its table and its key are on top, and stay. */
void tr_setwritten(lua_State *L, const char *text, size_t len);

#define TR_BLOB "theaterref.blob"
#define TR_FUTURE "theaterref.future"
#define TR_NOTIFIER "theaterref.notifier"
#define TR_WATCH "theaterref.watch"
#define TR_REQUEST "theaterref.request"
#define TR_AUTH "theaterref.auth"
#define TR_SIGNER "theaterref.signer"
#define TR_RECORD "theaterref.record"
#define TR_CACHE "theaterref.cache"
#define TR_STORE "theaterref.store"
#define TR_BATCH "theaterref.batch"
#define TR_LOCK "theaterref.lock"
#define TR_DISK "theaterref.disk_cache"
#define TR_INPUT "theaterref.input"
#define TR_OUTPUT "theaterref.output"
#define TR_ERROR "theaterref.error"

/* Return the cache of an argument. */
tr_cache *tr_checkcache(lua_State *L, int index);

/* Each adds its type and functions to the module table on the stack's top. */
void tr_open_blob(lua_State *L);
void tr_open_future(lua_State *L);
void tr_open_auth(lua_State *L);
void tr_open_signer(lua_State *L);
void tr_open_send(lua_State *L);
void tr_open_watch(lua_State *L);
void tr_open_request(lua_State *L);
void tr_open_cache(lua_State *L);
void tr_open_store(lua_State *L);
void tr_open_disk(lua_State *L);
void tr_open_input(lua_State *L);
void tr_open_output(lua_State *L);
void tr_open_json(lua_State *L);
void tr_open_oci(lua_State *L);
void tr_open_sandbox(lua_State *L);
void tr_open_signature(lua_State *L);
void tr_open_metrics(lua_State *L);
void tr_open_derive(lua_State *L);

/* Each adds to the methods of a store, which are on the stack's top. */
void tr_open_labels(lua_State *L);
void tr_open_batch(lua_State *L);

#endif
