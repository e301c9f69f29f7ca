/***
Immutable bytes outside Lua's memory, which any number of holders share. `#blob`
is their number, `tostring(blob)` a copy as a string, `a == b` true if two blobs
have the same bytes. The collector knows their true size. Any number of Lua states and threads may share a blob's bytes.
@classmod theaterref.blob
*/
#include <limits.h>
#include <string.h>

#include "core/blob.h"
#include "core/file.h"
#include "core/wasm.h"
#include "lutil.h"

/* Bytes of blobs made since the collector was last told of any. A userdata
** of a few bytes that keeps megabytes alive would otherwise never be worth
** a collection to it. */
enum { TELL_COLLECTOR_AT = 4 * 1024 * 1024 };

static const char account_key;

void tr_accountblob(lua_State *L, size_t size) {
  size_t *untold;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &account_key);
  untold = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (untold == NULL)
    return;
  *untold += size;
  if (*untold >= TELL_COLLECTOR_AT) {
    size_t kib = *untold / 1024;
    *untold = 0;
    lua_gc(L, LUA_GCSTEP, kib > INT_MAX ? INT_MAX : (int)kib);
  }
}

lblob *tr_newblob(lua_State *L) {
  lblob *b = lua_newuserdatauv(L, sizeof *b, 0);
  b->blob = NULL;
  b->hit = (tr_hit){0};
  b->owner = NULL;
  luaL_setmetatable(L, TR_BLOB);
  return b;
}

void tr_pushblob(lua_State *L, tr_blob *blob) {
  lblob *b = tr_newblob(L);
  b->blob = tr_blob_retain(blob);
  tr_accountblob(L, tr_blob_size(blob));
}

tr_blob *tr_toblob(lua_State *L, int index) {
  lblob *b = luaL_testudata(L, index, TR_BLOB);
  return b == NULL ? NULL : b->blob;
}

static tr_blob *checkblob(lua_State *L, int index) {
  lblob *b = luaL_checkudata(L, index, TR_BLOB);
  luaL_argcheck(L, b->blob != NULL, index, "blob is closed");
  return b->blob;
}

static int blob_gc(lua_State *L) {
  lblob *b = luaL_checkudata(L, 1, TR_BLOB);
  tr_blob_release(b->blob);
  tr_entry_release(b->hit.entry);
  tr_entry_release(b->hit.content);
  b->blob = NULL;
  b->hit = (tr_hit){0};
  b->owner = NULL;
  return 0;
}

/* A blob from a cache is also of everybody else in this Lua state that got it from
** there. It goes when it is collected. */
static int blob_close(lua_State *L) {
  lblob *b = luaL_checkudata(L, 1, TR_BLOB);
  return b->hit.entry != NULL ? 0 : blob_gc(L);
}

static int blob_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)tr_blob_size(checkblob(L, 1)));
  return 1;
}

static int blob_tostring(lua_State *L) {
  tr_blob *blob = checkblob(L, 1);
  lua_pushlstring(L, tr_blob_data(blob), tr_blob_size(blob));
  return 1;
}

/* Turns a position as in string.sub into an offset from 0 to 'size'. */
static size_t position(lua_Integer i, size_t size) {
  if (i < 0)
    i = 0 - (lua_Unsigned)i > size ? 0 : (lua_Integer)size + i + 1;
  return (lua_Unsigned)i > size + 1 ? size + 1 : (size_t)i;
}

size_t tr_checkrange(lua_State *L, size_t size, lua_Integer j_default,
                     size_t *start) {
  lua_Integer first = luaL_optinteger(L, 2, 1);
  size_t i = position(first, size);
  size_t j =
      position(luaL_optinteger(L, 3, j_default != 0 ? j_default : first), size);
  if (i < 1)
    i = 1;
  if (j > size)
    j = size;
  *start = i - 1;
  return j < i ? 0 : j - i + 1;
}

int tr_pushvalues(lua_State *L, const unsigned char *bytes, size_t len) {
  size_t i;
  luaL_argcheck(L, len < INT_MAX, 3, "too many bytes");
  luaL_checkstack(L, (int)len, "too many bytes");
  for (i = 0; i < len; i++)
    lua_pushinteger(L, bytes[i]);
  return (int)len;
}

/***
The bytes from `i` to `j`, counted as in `string.sub`.
@function sub
@tparam[opt=1] integer i
@tparam[opt=-1] integer j
@treturn string a copy
*/
static int blob_sub(lua_State *L) {
  tr_blob *blob = checkblob(L, 1);
  size_t start, len = tr_checkrange(L, tr_blob_size(blob), -1, &start);
  const char *bytes = tr_blob_data(blob);
  lua_pushlstring(L, len > 0 ? bytes + start : "", len);
  return 1;
}

/***
The values of the bytes from `i` to `j`, counted as in `string.byte`.
@function byte
@tparam[opt=1] integer i
@tparam[opt=i] integer j
@treturn integer as many as there are
*/
static int blob_byte(lua_State *L) {
  tr_blob *blob = checkblob(L, 1);
  size_t start, len = tr_checkrange(L, tr_blob_size(blob), 0, &start);
  return tr_pushvalues(L, (const unsigned char *)tr_blob_data(blob) + start, len);
}

int tr_pushwasmtype(lua_State *L, const tr_blob *blob) {
  char why[TR_WASM_WHY];
  tr_wasm_type type =
      tr_wasm_inspect(tr_blob_data(blob), tr_blob_size(blob), why);
  if (type == TR_WASM_UNKNOWN) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  lua_pushstring(L, type == TR_WASM_MODULE ? "module" : "component");
  return 1;
}

/***
The type of a WebAssembly binary: its preamble and version are checked, and that its
sections fill it to the end.
@function wasm_type
@treturn string `"module"` or `"component"`
@return[2] nil
@treturn[2] string what it is instead
*/
static int blob_wasm_type(lua_State *L) {
  return tr_pushwasmtype(L, checkblob(L, 1));
}

static tr_algorithm checkalgorithm(lua_State *L, int index) {
  static const char *const names[] = {"sha1", "sha256", NULL};
  return luaL_checkoption(L, index, "sha256", names) == 0 ? TR_SHA1 : TR_SHA256;
}

/***
The digest of the bytes.
@function digest
@tparam[opt="sha256"] string algorithm `"sha1"` or `"sha256"`
@treturn string lower-case hex
*/
static int blob_digest(lua_State *L) {
  char hex[TR_HEX_MAX];
  size_t len;
  const char *bytes = tr_checkbytes(L, 1, &len);
  tr_digest(checkalgorithm(L, 2), bytes, len, hex);
  lua_pushstring(L, hex);
  return 1;
}

/***
Write a file and sync it. Its name shows the old content or the new, never a
mixture, and it keeps its mode. Symbolic links are followed; anything but a regular
file, such as a device or a pipe, is opened and written.
@function write
@tparam string path
@treturn boolean true
@return[2] nil
@treturn[2] table an error
*/
static int blob_write(lua_State *L) {
  tr_error error;
  size_t len;
  bool done;
  const char *bytes = tr_checkbytes(L, 1, &len);
  const char *path = tr_checkcstring(L, 2);
  TR_WAITING(L, done, tr_file_write(path, bytes, len, true, &error));
  if (!done)
    return tr_pusherror(L, &error);
  lua_pushboolean(L, 1);
  return 1;
}

static int blob_eq(lua_State *L) {
  tr_blob *a = tr_toblob(L, 1), *b = tr_toblob(L, 2);
  lua_pushboolean(L, a != NULL && b != NULL &&
                         tr_blob_size(a) == tr_blob_size(b) &&
                         (a == b || memcmp(tr_blob_data(a), tr_blob_data(b),
                                           tr_blob_size(a)) == 0));
  return 1;
}

/***
True if two blobs are the same memory, as two hits of one cache are.
@function same
@tparam theaterref.blob other
@treturn boolean
*/
static int blob_same(lua_State *L) {
  lua_pushboolean(L, checkblob(L, 1) == checkblob(L, 2));
  return 1;
}

/***
The address of the bytes, for C. It is valid as long as the blob.
@function pointer
@treturn lightuserdata
@treturn integer how many there are
*/
static int blob_pointer(lua_State *L) {
  tr_blob *blob = checkblob(L, 1);
  lua_pushlightuserdata(L, (void *)tr_blob_data(blob));
  lua_pushinteger(L, (lua_Integer)tr_blob_size(blob));
  return 2;
}

/* blob(bytes) -> blob: copies a string, returns a blob as it is. */
static int new_blob(lua_State *L) {
  size_t len;
  const char *bytes = tr_checkbytes(L, 1, &len);
  lblob *b;
  if (tr_toblob(L, 1) != NULL) {
    lua_settop(L, 1);
    return 1;
  }
  b = tr_newblob(L);
  b->blob = tr_blob_new(bytes, len);
  if (b->blob == NULL)
    return luaL_error(L, "out of memory");
  tr_accountblob(L, len);
  return 1;
}

/* unmapped(blob) -> the blob itself, or a copy of bytes that are a mapped file's */
static int unmapped(lua_State *L) {
  tr_blob *blob = checkblob(L, 1);
  lblob *b = tr_newblob(L);
  b->blob = tr_blob_unmapped(blob);
  if (b->blob == NULL)
    return luaL_error(L, "out of memory");
  if (b->blob == blob)
    lua_settop(L, 1);
  else
    tr_accountblob(L, tr_blob_size(blob));
  return 1;
}

static int is_blob(lua_State *L) {
  lua_pushboolean(L, tr_toblob(L, 1) != NULL);
  return 1;
}

/* live_blobs() -> how many blobs the whole process holds. */
static int live_blobs(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)tr_blob_count());
  return 1;
}

/* record(blob) -> the record of a blob that came from a cache; {} if it has none */
static int blob_record(lua_State *L) {
  const lblob *b = luaL_checkudata(L, 1, TR_BLOB);
  lua_createtable(L, 0, 8);
  if (b->hit.entry != NULL && b->hit.entry->record != NULL)
    tr_set_record(L, b->hit.entry->record);
  return 1;
}

/* read_file(path [, max_bytes = 1 GiB [, regular]]) -> blob | nil, error
** 'regular' true: only a regular file, without a wait. */
static int read_file(lua_State *L) {
  tr_error error;
  const char *path = tr_checkcstring(L, 1);
  lua_Integer max = luaL_optinteger(L, 2, (lua_Integer)TR_FILE_MAX_BYTES);
  size_t max_bytes = max < 0 ? 0 : (size_t)max;
  bool regular = lua_toboolean(L, 3);
  lblob *b = tr_newblob(L);
  if (regular)
    b->blob = tr_file_read_regular(path, max_bytes, &error);
  else
    TR_WAITING(L, b->blob, tr_file_read(path, max_bytes, &error));
  if (b->blob == NULL)
    return tr_pusherror(L, &error);
  tr_accountblob(L, tr_blob_size(b->blob));
  return 1;
}

/* read_settled(path [, max_bytes = 1 GiB]) -> blob | nil, error: of an absolute path, in
** which a link is an error */
static int read_settled(lua_State *L) {
  tr_error error;
  const char *path = tr_checkcstring(L, 1);
  lua_Integer max = luaL_optinteger(L, 2, (lua_Integer)TR_FILE_MAX_BYTES);
  lblob *b = tr_newblob(L);
  TR_WAITING(L, b->blob, tr_file_read_settled(path, max < 0 ? 0 : (size_t)max, &error));
  if (b->blob == NULL)
    return tr_pusherror(L, &error);
  tr_accountblob(L, tr_blob_size(b->blob));
  return 1;
}

/* is_pipe(path) -> boolean: it leads to a pipe or a socket */
static int is_pipe(lua_State *L) {
  lua_pushboolean(L, tr_file_is_pipe(tr_checkcstring(L, 1)));
  return 1;
}

/* read_pipe(path [, max_bytes = 1 GiB]) -> blob | nil, error: of a pipe, and nothing else */
static int read_pipe(lua_State *L) {
  tr_error error;
  const char *path = tr_checkcstring(L, 1);
  lua_Integer max = luaL_optinteger(L, 2, (lua_Integer)TR_FILE_MAX_BYTES);
  lblob *b = tr_newblob(L);
  TR_WAITING(L, b->blob, tr_file_read_pipe(path, max < 0 ? 0 : (size_t)max, &error));
  if (b->blob == NULL)
    return tr_pusherror(L, &error);
  tr_accountblob(L, tr_blob_size(b->blob));
  return 1;
}

void tr_open_blob(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", blob_gc},         {"__close", blob_close},
      {"__len", blob_len},       {"__tostring", blob_tostring},
      {"__eq", blob_eq},         {"sub", blob_sub},
      {"wasm_type", blob_wasm_type},
      {"byte", blob_byte},       {"digest", blob_digest},
      {"write", blob_write},     {"same", blob_same},
      {"pointer", blob_pointer}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"blob", new_blob},
                                       {"is_blob", is_blob},
                                       {"unmapped", unmapped},
                                       {"live_blobs", live_blobs},
                                       {"record", blob_record},
                                       {"read_file", read_file},
                                       {"read_settled", read_settled},
                                       {"is_pipe", is_pipe},
                                       {"read_pipe", read_pipe},
                                       {"write_file", blob_write},
                                       {"digest", blob_digest},
                                       {NULL, NULL}};
  size_t *untold = lua_newuserdatauv(L, sizeof *untold, 0);
  *untold = 0;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &account_key);
  tr_newtype(L, TR_BLOB, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
