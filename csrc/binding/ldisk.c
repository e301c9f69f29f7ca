/* Disk caches in Lua, and the records of their entries. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/disk_cache.h"
#include "core/error.h"
#include "lutil.h"

/* Seconds to wait for the lock, unless told otherwise. */
static const double PATIENCE = 1;

typedef struct ldisk {
  tr_disk *disk;
} ldisk;

static tr_disk *checkdisk(lua_State *L) {
  ldisk *d = luaL_checkudata(L, 1, TR_DISK);
  luaL_argcheck(L, d->disk != NULL, 1, "disk cache is closed");
  return d->disk;
}

static double optpatience(lua_State *L, int index) {
  double seconds = luaL_optnumber(L, index, PATIENCE);
  return isfinite(seconds) ? seconds : PATIENCE;
}

/* ------------------------------------------------------------------ records */

/*
** A record as bytes: for each field, in the order of their names, the name, a
** letter and a value, each text ended by a zero byte.
**
**   s text    i integer    n the bits of a float in hex    t, f booleans
**   l the number of texts that follow
*/

static bool is_plain(const char *text, size_t len) {
  return memchr(text, '\0', len) == NULL && memchr(text, '\r', len) == NULL &&
         memchr(text, '\n', len) == NULL;
}

/* Push a string that may be in a record, with its zero byte. False: it may not. */
static bool push_text(lua_State *L, int index, const char *letter) {
  size_t len;
  const char *text = lua_tolstring(L, index, &len);
  if (!is_plain(text, len))
    return false;
  lua_pushstring(L, letter);
  lua_pushvalue(L, index);
  lua_pushlstring(L, "", 1);
  lua_concat(L, 3);
  return true;
}

static bool push_number(lua_State *L, int index) {
  char text[32];
  double value;
  uint64_t bits;
  if (lua_isinteger(L, index)) {
    snprintf(text, sizeof text, "i%lld", (long long)lua_tointeger(L, index));
  } else {
    value = lua_tonumber(L, index);
    memcpy(&bits, &value, sizeof bits);
    snprintf(text, sizeof text, "n%016llx", (unsigned long long)bits);
    if (!isfinite(value))
      return false;
  }
  lua_pushlstring(L, text, strlen(text) + 1);
  return true;
}

static bool push_list(lua_State *L, int index) {
  lua_Unsigned i, count = lua_rawlen(L, index);
  char text[32];
  luaL_Buffer b;
  lua_Unsigned fields = 0;
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1))
    fields++;
  if (fields != count)
    return false;
  snprintf(text, sizeof text, "l%llu", (unsigned long long)count);
  luaL_buffinit(L, &b);
  luaL_addlstring(&b, text, strlen(text) + 1);
  for (i = 1; i <= count; i++) {
    if (lua_rawgeti(L, index, (lua_Integer)i) != LUA_TSTRING ||
        !push_text(L, lua_gettop(L), ""))
      return false; /* the caller drops the stack */
    lua_remove(L, -2);
    luaL_addvalue(&b);
  }
  luaL_pushresult(&b);
  return true;
}

/* Push a value as bytes. False: a record may not have it; the stack has more. */
static bool push_value(lua_State *L, int index) {
  switch (lua_type(L, index)) {
  case LUA_TSTRING:
    return push_text(L, index, "s");
  case LUA_TNUMBER:
    return push_number(L, index);
  case LUA_TBOOLEAN:
    lua_pushlstring(L, lua_toboolean(L, index) ? "t" : "f", 2);
    return true;
  case LUA_TTABLE:
    return push_list(L, index);
  default:
    return false;
  }
}

/* The fields that a read adds. */
static bool is_reserved(const char *name) {
  return strcmp(name, "stored") == 0 || strcmp(name, "bytes") == 0 ||
         strcmp(name, "sha256") == 0;
}

/* Push the bytes of the record at 'index'. False with the error. */
static bool push_record(lua_State *L, int index, tr_error *error) {
  lua_Integer count = 0;
  int pieces;
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "concat");
  lua_getfield(L, -2, "sort");
  lua_newtable(L);
  pieces = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, index) != 0;) {
    int value = lua_gettop(L);
    const char *name =
        lua_type(L, value - 1) == LUA_TSTRING ? lua_tostring(L, value - 1) : "?";
    if (!is_reserved(name)) {
      if (*name == '\0' || lua_type(L, value - 1) != LUA_TSTRING ||
          !push_text(L, value - 1, "") || !push_value(L, value)) {
        tr_error_set(error, TR_SYNTAX,
                     "'%.100s' cannot be kept in the disk cache: a record has "
                     "finite numbers, booleans, and strings and lists of them "
                     "without line breaks or zero bytes",
                     name);
        return false;
      }
      lua_concat(L, 2);
      lua_rawseti(L, pieces, ++count);
    }
    lua_settop(L, value - 1);
  }
  lua_pushvalue(L, pieces - 1); /* each begins with its name */
  lua_pushvalue(L, pieces);
  lua_call(L, 1, 0);
  lua_pushvalue(L, pieces - 2);
  lua_pushvalue(L, pieces);
  lua_call(L, 1, 1);
  return true;
}

/* The next text of a record; NULL at the end, or if it is odd. */
static const char *next_text(const char **at, const char *end) {
  const char *text = *at, *zero;
  if (text == end)
    return NULL;
  zero = memchr(text, '\0', (size_t)(end - text));
  if (zero == NULL || !is_plain(text, (size_t)(zero - text)))
    return NULL;
  *at = zero + 1;
  return text;
}

static bool pull_integer(lua_State *L, const char *digits) {
  char same[32];
  long long value = strtoll(digits, NULL, 10);
  snprintf(same, sizeof same, "%lld", value);
  lua_pushinteger(L, (lua_Integer)value);
  return strcmp(same, digits) == 0;
}

static bool pull_float(lua_State *L, const char *digits) {
  char same[32];
  double value;
  uint64_t bits = strtoull(digits, NULL, 16);
  snprintf(same, sizeof same, "%016llx", (unsigned long long)bits);
  memcpy(&value, &bits, sizeof value);
  lua_pushnumber(L, value);
  return strcmp(same, digits) == 0 && isfinite(value);
}

static bool pull_list(lua_State *L, const char *digits, const char **at,
                      const char *end) {
  lua_Integer i, count;
  if (!pull_integer(L, digits))
    return false;
  count = lua_tointeger(L, -1);
  if (count < 0)
    return false;
  lua_newtable(L);
  lua_replace(L, -2);
  for (i = 1; i <= count; i++) {
    const char *item = next_text(at, end);
    if (item == NULL)
      return false;
    lua_pushstring(L, item);
    lua_rawseti(L, -2, i);
  }
  return true;
}

static bool pull_value(lua_State *L, const char *text, const char **at,
                       const char *end) {
  switch (text[0]) {
  case 's':
    lua_pushstring(L, text + 1);
    return true;
  case 'i':
    return pull_integer(L, text + 1);
  case 'n':
    return pull_float(L, text + 1);
  case 't':
  case 'f':
    lua_pushboolean(L, text[0] == 't');
    return text[1] == '\0';
  case 'l':
    return pull_list(L, text + 1, at, end);
  default:
    return false;
  }
}

/* Set the fields of the table on the stack's top. False: a value is odd; the stack
** has more. */
static bool pull_record(lua_State *L, const char *at, size_t size) {
  const char *end = at + size;
  while (at < end) {
    const char *name = next_text(&at, end);
    const char *value = name == NULL ? NULL : next_text(&at, end);
    if (value == NULL || *name == '\0' || is_reserved(name))
      return false;
    lua_pushstring(L, name);
    if (!pull_value(L, value, &at, end))
      return false;
    lua_rawset(L, -3);
  }
  return true;
}

/* ------------------------------------------------------------------ methods */

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

/* read(key [, is_code]) -> blob, record | nil [, error]; see tr_disk_read_code */
static int disk_read(lua_State *L) {
  tr_disk *disk = checkdisk(L);
  size_t len;
  const char *key = luaL_checklstring(L, 2, &len);
  bool is_code = lua_toboolean(L, 3);
  lblob *body = tr_newblob(L), *rest = tr_newblob(L); /* own what is read */
  int top = lua_gettop(L);
  tr_disk_entry e;
  tr_error error = {.kind = TR_OK};
  bool found = is_code ? tr_disk_read_code(disk, key, len, &e, &error)
                       : tr_disk_read(disk, key, len, &e);
  if (error.kind != TR_OK)
    return tr_pusherror(L, &error);
  if (found) {
    body->blob = e.body;
    rest->blob = e.rest;
    tr_accountblob(L, tr_blob_size(e.body));
    lua_createtable(L, 0, 12);
    found = pull_record(L, e.record, e.record_size);
  }
  if (!found) {
    lua_pushnil(L);
    return 1;
  }
  set_integer(L, "stored", (lua_Integer)tr_disk_stored(&e.st));
  set_integer(L, "bytes", (lua_Integer)e.bytes);
  lua_pushstring(L, e.sha256);
  lua_setfield(L, -2, "sha256");
  lua_remove(L, top);
  return 2;
}

/* write(key, bytes, record [, seconds]) -> true | nil, error [, first]: the last is
** true for the first failure of this folder that a person should hear of. */
static int disk_write(lua_State *L) {
  tr_disk *disk = checkdisk(L);
  size_t len, size, record_size;
  const char *key = luaL_checklstring(L, 2, &len);
  const char *bytes = tr_checkbytes(L, 3, &size), *record;
  double seconds = optpatience(L, 5);
  tr_error error;
  luaL_checktype(L, 4, LUA_TTABLE);
  lua_settop(L, 4);
  if (!push_record(L, 4, &error))
    return tr_pusherror(L, &error);
  record = lua_tolstring(L, -1, &record_size);
  if (tr_disk_write(disk, key, len, bytes, size, record, record_size, seconds,
                    &error)) {
    lua_pushboolean(L, 1);
    return 1;
  }
  tr_pusherror(L, &error);
  lua_pushboolean(L, error.kind != TR_TIMEOUT && error.kind != TR_TOO_LARGE &&
                         tr_disk_first_failure(disk));
  return 3;
}

typedef bool (*forgetter)(tr_disk *disk, const char *key, size_t len);

static int forget(lua_State *L, forgetter run) {
  tr_disk *disk = checkdisk(L);
  size_t len;
  const char *key = luaL_checklstring(L, 2, &len);
  lua_pushboolean(L, run(disk, key, len));
  return 1;
}

/***
Remove all entries of a reference.
@function remove
@tparam string reference
@treturn boolean true if there was one
*/
static int disk_remove(lua_State *L) { return forget(L, tr_disk_remove); }

/***
Make all entries of a reference stale: from now on, `stored` of each is 0.
@function expire
@tparam string reference
@treturn boolean true if there was one
*/
static int disk_expire(lua_State *L) { return forget(L, tr_disk_expire); }

/* forget(key) -> boolean: removes one entry. */
static int disk_forget(lua_State *L) { return forget(L, tr_disk_forget); }

/***
Remove everything in the folder. If another process keeps the lock, the entry that
it writes stays.
@function clear
@tparam[opt=1] number seconds time limit for the lock
@treturn integer how many entries there were
@return[2] nil
@treturn[2] table an error
*/
static int disk_clear(lua_State *L) {
  tr_disk *disk = checkdisk(L);
  size_t entries;
  tr_error error;
  if (!tr_disk_clear(disk, optpatience(L, 2), &entries, &error))
    return tr_pusherror(L, &error);
  lua_pushinteger(L, (lua_Integer)entries);
  return 1;
}

/* A line of the listing. Lua may not be called while the folder is open. */
typedef struct line {
  int64_t stored, used;
  uint64_t bytes;
  char sha256[TR_HEX_MAX];
} line;

typedef struct gathered {
  tr_buffer lines; /* each followed by the redacted reference and a zero byte */
  bool no_memory;
} gathered;

static bool gather(void *context, const tr_disk_entry *e) {
  gathered *g = context;
  line one = {tr_disk_stored(&e->st), tr_disk_used(&e->st), e->bytes, ""};
  memcpy(one.sha256, e->sha256, sizeof one.sha256);
  g->no_memory = !tr_buffer_append(&g->lines, &one, sizeof one) ||
                 !tr_buffer_append(&g->lines, e->shown, strlen(e->shown) + 1);
  return !g->no_memory;
}

/***
Everything it has.
@function list
@treturn table an array, in no order, of `{ reference = redacted, bytes =,
stored =, used =, sha256 = }`
@return[2] nil
@treturn[2] table an error
*/
static int disk_list(lua_State *L) {
  tr_disk *disk = checkdisk(L);
  gathered g = {0};
  tr_error error;
  lblob *lines = tr_newblob(L); /* owns them while Lua may raise */
  const char *at, *end;
  lua_Integer count = 0;
  bool ok = tr_disk_each(disk, gather, &g, &error);
  lines->blob = tr_buffer_to_blob(&g.lines);
  if (lines->blob == NULL || g.no_memory)
    return luaL_error(L, "out of memory");
  if (!ok)
    return tr_pusherror(L, &error);
  at = tr_blob_data(lines->blob);
  end = at + tr_blob_size(lines->blob);
  lua_newtable(L);
  while (at < end) {
    line one;
    memcpy(&one, at, sizeof one);
    at += sizeof one;
    lua_createtable(L, 0, 5);
    lua_pushstring(L, at);
    lua_setfield(L, -2, "reference");
    set_integer(L, "bytes", (lua_Integer)one.bytes);
    set_integer(L, "stored", (lua_Integer)one.stored);
    set_integer(L, "used", (lua_Integer)one.used);
    lua_pushstring(L, one.sha256);
    lua_setfield(L, -2, "sha256");
    lua_rawseti(L, -2, ++count);
    at += strlen(at) + 1;
  }
  return 1;
}

/***
The bytes of all files in the folder, those of entries and others.
@function size
@treturn integer
@return[2] nil
@treturn[2] table an error
*/
static int disk_size(lua_State *L) {
  uint64_t bytes;
  tr_error error;
  if (!tr_disk_size(checkdisk(L), &bytes, &error))
    return tr_pusherror(L, &error);
  lua_pushinteger(L, (lua_Integer)bytes);
  return 1;
}

static int disk_gc(lua_State *L) {
  ldisk *d = luaL_checkudata(L, 1, TR_DISK);
  tr_disk_close(d->disk);
  d->disk = NULL;
  return 0;
}

/* disk_cache(folder, max_bytes) -> disk cache */
static int disk_cache(lua_State *L) {
  const char *folder = tr_checkcstring(L, 1);
  lua_Integer max_bytes = luaL_checkinteger(L, 2);
  ldisk *d;
  luaL_argcheck(L, max_bytes >= 0, 2, "below 0");
  d = lua_newuserdatauv(L, sizeof *d, 0);
  d->disk = NULL;
  luaL_setmetatable(L, TR_DISK);
  d->disk = tr_disk_open(folder, (uint64_t)max_bytes);
  return d->disk != NULL ? 1 : luaL_error(L, "out of memory");
}

void tr_open_disk(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", disk_gc},       {"read", disk_read},
      {"write", disk_write},   {"remove", disk_remove},
      {"expire", disk_expire}, {"forget", disk_forget},
      {"clear", disk_clear},   {"list", disk_list},
      {"size", disk_size},     {NULL, NULL}};
  tr_newtype(L, TR_DISK, methods);
  lua_setfield(L, -2, "disk_methods"); /* disk_cache.lua adds to them */
  lua_pushcfunction(L, disk_cache);
  lua_setfield(L, -2, "disk_cache");
}
