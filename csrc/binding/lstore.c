/***
Methods that are written in C.
@classmod theaterref.store
*/
/* Content stores in Lua. verify and gc, made of these, are in store.lua. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/blob.h"
#include "core/error.h"
#include "core/future.h"
#include "core/store.h"
#include "lutil.h"

/***
Stores bytes; once they are there, that is all.
@function put
@tparam string|theaterref.blob bytes
@treturn string their hash
@return[2] nil
@treturn[2] table an error
*/
static int store_put(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  char hash[TR_HEX_MAX];
  tr_error error;
  size_t len;
  const char *bytes = tr_checkbytes(L, 2, &len);
  bool done;
  TR_WAITING(L, done, tr_store_put(store, bytes, len, hash, &error));
  if (!done)
    return tr_pusherror(L, &error);
  lua_pushstring(L, hash);
  return 1;
}

/***
The content of a hash.
@function get
@tparam string hash 40 hex digits (SHA-1) or 64 (SHA-256)
@tparam[opt] integer max_bytes larger content is an error of kind `too_large`
@treturn theaterref.blob
@return[2] nil
@treturn[2] table an error; of kind `corrupt` when the bytes are not those of
the hash
*/
static int store_get(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  size_t max_bytes = tr_optmax(L, 3);
  const char *hash;
  tr_error error;
  lblob *b;
  if (!tr_checkname(L, 2, &hash, &error))
    return tr_pusherror(L, &error);
  b = tr_newblob(L);
  TR_WAITING(L, b->blob, tr_store_get_bounded(store, hash, max_bytes, &error));
  if (b->blob == NULL)
    return tr_pusherror(L, &error);
  tr_accountblob(L, tr_blob_size(b->blob));
  return 1;
}

/***
True if there is content of a hash.
@function exists
@tparam string hash
@treturn boolean
@return[2] nil
@treturn[2] table an error
*/
static int store_exists(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  const char *hash;
  tr_error error;
  if (!tr_checkname(L, 2, &hash, &error))
    return tr_pusherror(L, &error);
  return tr_pushflag(L, tr_store_exists(store, hash, &error), &error);
}

/* ------------------------------------------------------------- listings */

/* The items of a listing. Lua may not be called while a folder is open. */
typedef struct gathered {
  tr_buffer items; /* names and values in turn, each with its final zero */
  bool no_memory;
} gathered;

static bool gather(gathered *g, const char *name, const char *value) {
  g->no_memory = !tr_buffer_append(&g->items, name, strlen(name) + 1) ||
                 !tr_buffer_append(&g->items, value, strlen(value) + 1);
  return !g->no_memory;
}

static bool gather_size(void *context, const char *name, size_t size) {
  char text[24];
  snprintf(text, sizeof text, "%zu", size);
  return gather(context, name, text);
}

static bool gather_time(void *context, const char *hash, int64_t nanoseconds) {
  char text[24];
  snprintf(text, sizeof text, "%lld", (long long)nanoseconds);
  return gather(context, hash, text);
}

/* A hash, or behind a blank why there is none. */
static bool gather_label(void *context, const char *label, const char *hash,
                         const char *why) {
  char text[sizeof(tr_error) + 1];
  snprintf(text, sizeof text, "%s%s", hash != NULL ? "" : " ",
           hash != NULL ? hash : why);
  return gather(context, label, text);
}

static bool gather_former(void *context, const char *label, const char *hash,
                          const char *why) {
  (void)label, (void)why;
  return gather(context, hash, "");
}

/* The kinds of tables that a listing becomes. */
typedef enum shape { NAMES, NUMBERS, TEXTS, LABELS } shape;

/* Push the items of a listing: an array of names in no order; a table name -> number
** or name -> text; or tables label -> hash and label -> why there is none. */
static void push_items(lua_State *L, tr_blob *blob, shape shape) {
  const char *item = tr_blob_data(blob), *end = item + tr_blob_size(blob);
  lua_Integer count = 0;
  lua_newtable(L);
  if (shape == LABELS)
    lua_newtable(L);
  while (item < end) {
    const char *name = item, *value = name + strlen(name) + 1;
    item = value + strlen(value) + 1;
    if (shape == NAMES) {
      lua_pushstring(L, name);
      lua_rawseti(L, -2, ++count);
    } else if (shape == NUMBERS) {
      lua_stringtonumber(L, value);
      lua_setfield(L, -2, name);
    } else if (shape == TEXTS) {
      lua_pushstring(L, value);
      lua_setfield(L, -2, name);
    } else {
      bool faulty = value[0] == ' ';
      lua_pushstring(L, value + faulty);
      lua_setfield(L, faulty ? -2 : -3, name);
    }
  }
}

/* Push what was gathered, of which nothing else is freed where Lua raises. Return how
** many values that are. */
static int push_gathered(lua_State *L, lblob *owner, gathered *g, bool ok,
                         shape shape, const tr_error *error) {
  owner->blob = tr_buffer_to_blob(&g->items);
  if (owner->blob == NULL || g->no_memory)
    return luaL_error(L, "out of memory");
  if (!ok)
    return tr_pusherror(L, error);
  push_items(L, owner->blob, shape);
  return shape == LABELS ? 2 : 1;
}

typedef bool (*lister)(tr_store *, tr_store_visit, void *, tr_error *);

/* Pushes what a listing gives, as an array of names or a table of their sizes. */
static int push_listing(lua_State *L, lister each, shape shape) {
  tr_store *store = tr_checkstore(L);
  gathered g = {0};
  tr_error error;
  lblob *owner = tr_newblob(L);
  bool ok = each(store, gather_size, &g, &error);
  return push_gathered(L, owner, &g, ok, shape, &error);
}

/* Pushes what a listing gives as a sorted array. */
static int list(lua_State *L, lister each) {
  int count = push_listing(L, each, NAMES);
  if (count > 1)
    return count;
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
  return 1;
}

/* content_sizes() -> { hash = bytes } */
static int store_content_sizes(lua_State *L) {
  return push_listing(L, tr_store_each_content, NUMBERS);
}

/* content_times() -> { hash = nanoseconds since 1970 when it was put or labelled } */
static int store_content_times(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  gathered g = {0};
  tr_error error;
  lblob *owner = tr_newblob(L);
  bool ok = tr_store_each_time(store, gather_time, &g, &error);
  return push_gathered(L, owner, &g, ok, NUMBERS, &error);
}

static bool gather_use(void *context, const char *hash, size_t size, int64_t used,
                       int64_t written) {
  char text[80];
  snprintf(text, sizeof text, "%zu %lld %lld", size, (long long)used, (long long)written);
  return gather(context, hash, text);
}

/* content_uses() -> { hash = "bytes, nanoseconds when it was used, and when it was written" } */
static int store_content_uses(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  gathered g = {0};
  tr_error error;
  lblob *owner = tr_newblob(L);
  bool ok = tr_store_each_use(store, gather_use, &g, &error);
  return push_gathered(L, owner, &g, ok, TEXTS, &error);
}

/* label_hashes() -> { label = hash }, { label = why it has none } */
static int store_label_hashes(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  gathered g = {0};
  tr_error error;
  lblob *owner = tr_newblob(L);
  bool ok = tr_store_each_label_hash(store, gather_label, &g, &error);
  return push_gathered(L, owner, &g, ok, LABELS, &error);
}

/* former_hashes() -> { hash… } that labels pointed at before */
static int store_former_hashes(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  gathered g = {0};
  tr_error error;
  lblob *owner = tr_newblob(L);
  bool ok = tr_store_each_former_of_all(store, gather_former, &g, &error);
  return push_gathered(L, owner, &g, ok, NAMES, &error);
}

/* tidy_history(): removes that of labels which are gone */
static int store_tidy_history(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  tr_error error;
  bool done;
  TR_WAITING(L, done, tr_store_tidy_history(store, &error));
  return tr_pushflag(L, done ? 1 : -1, &error);
}

/* clock([after]) -> nanoseconds since 1970 by the clock of the file system, which has
** moved on from 'after' */
static int store_clock(lua_State *L) {
  tr_error error;
  int64_t now =
      tr_store_clock(tr_checkstore(L), luaL_optinteger(L, 2, -2), &error);
  if (now < 0)
    return tr_pusherror(L, &error);
  lua_pushinteger(L, now);
  return 1;
}

/***
All labels.
@function list_labels
@treturn table names, sorted
@return[2] nil
@treturn[2] table an error
*/
static int store_list_labels(lua_State *L) {
  return list(L, tr_store_each_label);
}

/***
The hashes of all content.
@function list_all_content
@treturn table hashes, sorted
@return[2] nil
@treturn[2] table an error
*/
static int store_list_all_content(lua_State *L) {
  return list(L, tr_store_each_content);
}

static int store_list_quarantined(lua_State *L) {
  return list(L, tr_store_each_quarantined);
}

static int store_list_unexpected(lua_State *L) {
  return list(L, tr_store_each_unexpected);
}

static int store_list_folders(lua_State *L) {
  return list(L, tr_store_each_folder);
}

static int store_list_temporary_files(lua_State *L) {
  return list(L, tr_store_each_temporary);
}

static bool add_size(void *context, const char *name, size_t size) {
  (void)name;
  *(uint64_t *)context += size;
  return true;
}

/***
How many bytes all content has.
@function calculate_total_size
@treturn integer
@return[2] nil
@treturn[2] table an error
*/
static int store_calculate_total_size(lua_State *L) {
  uint64_t bytes = 0;
  tr_error error;
  if (!tr_store_each_content(tr_checkstore(L), add_size, &bytes, &error))
    return tr_pusherror(L, &error);
  lua_pushinteger(L, (lua_Integer)bytes);
  return 1;
}

/* ---------------------------------------------------------- housekeeping */

/* check(hash) -> true | nil, error */
static int store_check(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  const char *hash = tr_checkcstring(L, 2);
  tr_error error;
  bool sound;
  TR_WAITING(L, sound, tr_store_check(store, hash, &error));
  if (!sound)
    return tr_pusherror(L, &error);
  lua_pushboolean(L, 1);
  return 1;
}

/* discard(hash, grace, dry_run) -> boolean, and the same for a temporary
** file */
static int store_discard(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  const char *name = tr_checkcstring(L, 2);
  double grace = luaL_checknumber(L, 3);
  bool dry_run = lua_toboolean(L, 4);
  tr_error error;
  int done =
      lua_toboolean(L, lua_upvalueindex(1))
          ? tr_store_discard_temporary(store, name, grace, dry_run, &error)
          : tr_store_discard(store, name, grace, dry_run, &error);
  return tr_pushflag(L, done, &error);
}

/* discard_unchanged(hash, nanoseconds, dry_run) -> boolean: unless its time of
** content_times has changed */
static int store_discard_unchanged(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  const char *hash = tr_checkcstring(L, 2);
  int64_t nanoseconds = luaL_checkinteger(L, 3);
  bool dry_run = lua_toboolean(L, 4);
  tr_error error;
  return tr_pushflag(
      L,
      tr_store_discard_unchanged(store, hash, nanoseconds, dry_run, &error),
      &error);
}

/* hold() -> the same store for a series of calls that are to see one folder; whether it
** is there */
static int store_hold(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  tr_error error;
  lstore *s = lua_newuserdatauv(L, sizeof *s, 0);
  s->store = NULL;
  luaL_setmetatable(L, TR_STORE);
  s->store = tr_store_hold(store, &error);
  if (s->store == NULL)
    return tr_pusherror(L, &error);
  lua_pushboolean(L, s->store->held >= 0);
  return 2;
}

/* folder() -> the path of the store's folder */
static int store_folder(lua_State *L) {
  lua_pushstring(L, tr_checkstore(L)->base);
  return 1;
}

/* note_use(hash): that content was used just now */
static int store_note_use(lua_State *L) {
  tr_store_note_use(tr_checkstore(L), tr_checkcstring(L, 2));
  return 0;
}

static int store_gc(lua_State *L) {
  lstore *s = luaL_checkudata(L, 1, TR_STORE);
  tr_store_close(s->store);
  s->store = NULL;
  return 0;
}

/* One of the strings in 'names' from an options field; its place. */
static int choice(lua_State *L, const char *field, const char *const names[]) {
  const char *given = tr_optstring(L, 2, field);
  int i;
  for (i = 0; given != NULL && names[i] != NULL; i++)
    if (strcmp(given, names[i]) == 0)
      return i;
  if (given != NULL)
    luaL_error(L, "'%s' cannot be '%s'", field, given);
  return 0;
}

/* content_store(base_path, options) -> store */
static int content_store(lua_State *L) {
  static const char *const algorithms[] = {"sha1", "sha256", NULL};
  static const char *const verify[] = {"once", "always", "never", NULL};
  static const char *const durability[] = {"full", "none", NULL};
  const char *base = tr_checkcstring(L, 1);
  tr_store_options options = TR_STORE_OPTIONS;
  tr_error error;
  lstore *s;
  lua_settop(L, 2);
  options.algorithm = (tr_algorithm)choice(L, "algorithm", algorithms);
  options.verify = (tr_verify)choice(L, "verify", verify);
  options.durable = choice(L, "durability", durability) == 0;
  options.unmapped = !tr_optbool(L, 2, "map", true);
  options.lock_timeout =
      tr_optseconds(L, 2, "lock_timeout", options.lock_timeout);
  options.label_history =
      (unsigned)tr_optcount(L, 2, "label_history", (int)options.label_history);
  s = lua_newuserdatauv(L, sizeof *s, 0);
  s->store = NULL;
  luaL_setmetatable(L, TR_STORE);
  s->store = tr_store_open(base, &options, &error);
  return s->store != NULL ? 1 : tr_pusherror(L, &error);
}

void tr_open_store(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"__gc", store_gc},
      {"__close", store_gc},
      {"put", store_put},
      {"get", store_get},
      {"exists", store_exists},
      {"list_labels", store_list_labels},
      {"list_all_content", store_list_all_content},
      {"content_sizes", store_content_sizes},
      {"content_times", store_content_times},
      {"label_hashes", store_label_hashes},
      {"former_hashes", store_former_hashes},
      {"tidy_history", store_tidy_history},
      {"clock", store_clock},
      {"discard_unchanged", store_discard_unchanged},
      {"list_temporary_files", store_list_temporary_files},
      {"list_folders", store_list_folders},
      {"list_quarantined", store_list_quarantined},
      {"list_unexpected", store_list_unexpected},
      {"hold", store_hold},
      {"note_use", store_note_use},
      {"content_uses", store_content_uses},
      {"folder", store_folder},
      {"calculate_total_size", store_calculate_total_size},
      {"check", store_check},
      {NULL, NULL}};
  static const luaL_Reg functions[] = {{"content_store", content_store},
                                       {NULL, NULL}};
  tr_newtype(L, TR_STORE, methods);
  tr_add_pair(L, store_discard, "discard", "discard_temporary_file");
  lua_setfield(L, -2, "store_methods"); /* llabels.c, lbatch.c, llock.c and store.lua
                                           add to them */
  luaL_setfuncs(L, functions, 0);
}
