/***
Labels, as methods.
@classmod theaterref.store
*/
/* The labels of a store in Lua. */
#include <string.h>

#include "core/error.h"
#include "core/store.h"
#include "lutil.h"

/***
Points a label at content that is there; `replace_at_label` is the same.
@function label
@tparam string name
@tparam string hash
@tparam[opt] table options `expect`: only if the label is at that hash; `false`:
only if there is no such label
@treturn boolean false: the label was not as expected
@return[2] nil
@treturn[2] table an error
*/
static int store_label(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  const char *label, *hash, *expect = NULL;
  tr_error error;
  int moved;
  lua_settop(L, 4);
  if (!lua_isnil(L, 4)) {
    luaL_checktype(L, 4, LUA_TTABLE);
    if (lua_getfield(L, 4, "expect") == LUA_TBOOLEAN && !lua_toboolean(L, -1))
      expect = "";
    else if (!lua_isnil(L, -1))
      expect = tr_checkcstring(L, 5);
  }
  if (!tr_checkname(L, 2, &label, &error) || !tr_checkname(L, 3, &hash, &error))
    return tr_pusherror(L, &error);
  if (lua_type(L, 5) == LUA_TSTRING && expect[0] == '\0') {
    tr_error_set(&error, TR_INVALID_REFERENCE,
                 "the hash that label '%s' is expected to have is empty", label);
    return tr_pusherror(L, &error);
  }
  TR_WAITING(L, moved, tr_store_label(store, label, hash, expect, &error));
  return tr_pushflag(L, moved, &error);
}

/* The hash of the label in argument 2: 1, 0, or -1 with the error. */
static int get_label(lua_State *L, tr_store *store, char hash[TR_HEX_MAX],
                     tr_error *error) {
  const char *label;
  if (!tr_checkname(L, 2, &label, error))
    return -1;
  return tr_store_get_label(store, label, hash, error);
}

/***
The hash that a label points at.
@function get_by_label
@tparam string name
@treturn ?string nil alone: there is no such label
@return[2] nil
@treturn[2] table an error
*/
static int store_get_by_label(lua_State *L) {
  char hash[TR_HEX_MAX];
  tr_error error;
  int found = get_label(L, tr_checkstore(L), hash, &error);
  if (found < 0)
    return tr_pusherror(L, &error);
  if (found == 0)
    lua_pushnil(L);
  else
    lua_pushstring(L, hash);
  return 1;
}

/***
The content that a label points at. A label that moves meanwhile is read again.
@function get_content_by_label
@tparam string name
@tparam[opt] integer max_bytes larger content is an error of kind `too_large`
@treturn ?theaterref.blob nil alone: there is no such label
@return[2] nil
@treturn[2] table an error
*/
static int store_get_content_by_label(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  size_t max_bytes = tr_optmax(L, 3);
  const char *label;
  tr_error error;
  lblob *b = tr_newblob(L);
  if (!tr_checkname(L, 2, &label, &error))
    return tr_pusherror(L, &error);
  TR_WAITING(L, b->blob, tr_store_get_labelled_bounded(store, label, max_bytes, &error));
  if (b->blob != NULL)
    tr_accountblob(L, tr_blob_size(b->blob));
  else if (error.kind != TR_OK)
    return tr_pusherror(L, &error);
  else
    lua_pushnil(L);
  return 1;
}

/***
True if there is such a label.
@function label_exists
@tparam string name
@treturn boolean
@return[2] nil
@treturn[2] table an error
*/
static int store_label_exists(lua_State *L) {
  char hash[TR_HEX_MAX];
  tr_error error;
  return tr_pushflag(L, get_label(L, tr_checkstore(L), hash, &error), &error);
}

/***
Stores bytes and points a label at them; `replace_content_at_label` is the same.
@function store_at_label
@tparam string name
@tparam string|theaterref.blob bytes
@treturn string their hash
@return[2] nil
@treturn[2] table an error
*/
static int store_store_at_label(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  char hash[TR_HEX_MAX];
  const char *label, *bytes;
  tr_error error;
  size_t len;
  bool done;
  bytes = tr_checkbytes(L, 3, &len);
  if (!tr_checkname(L, 2, &label, &error))
    return tr_pusherror(L, &error);
  TR_WAITING(L, done,
             tr_store_put(store, bytes, len, hash, &error) &&
                 tr_store_label(store, label, hash, NULL, &error) >= 0);
  if (!done)
    return tr_pusherror(L, &error);
  lua_pushstring(L, hash);
  return 1;
}

/***
Removes a label; its content stays until `gc`.
@function remove_label
@tparam string name
@treturn boolean whether it was there
@return[2] nil
@treturn[2] table an error
*/
/***
Removes a label if it points at a hash.
@function remove_from_label
@tparam string name
@tparam string hash
@treturn boolean whether it did
@return[2] nil
@treturn[2] table an error
*/
static int store_remove_label(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  const char *label, *only_if = NULL;
  tr_error error;
  int removed;
  luaL_argcheck(L, lua_toboolean(L, lua_upvalueindex(1)) || lua_isnoneornil(L, 3),
                3, "remove_label takes no options; remove_from_label takes a hash");
  if (!tr_checkname(L, 2, &label, &error) ||
      (lua_toboolean(L, lua_upvalueindex(1)) &&
       !tr_checkname(L, 3, &only_if, &error)))
    return tr_pusherror(L, &error);
  TR_WAITING(L, removed, tr_store_remove_label(store, label, only_if, &error));
  return tr_pushflag(L, removed, &error);
}

typedef struct former {
  int count;
  char hashes[TR_MAX_HISTORY][TR_HEX_MAX];
} former;

static bool add_former(void *context, const char *hash, size_t size) {
  former *f = context;
  (void)size;
  strcpy(f->hashes[f->count++], hash);
  return f->count < TR_MAX_HISTORY;
}

/***
The hashes that a label pointed at before, as many as the store's option `label_history` says.
Moves by other programs than theaterref are not among them.
@function history
@tparam string name
@treturn table the newest first, none twice, and without the one it points at now
@return[2] nil
@treturn[2] table an error
*/
static int store_history(lua_State *L) {
  tr_store *store = tr_checkstore(L);
  former f = {0};
  const char *label;
  tr_error error;
  int i;
  if (!tr_checkname(L, 2, &label, &error) ||
      !tr_store_each_former(store, label, add_former, &f, &error))
    return tr_pusherror(L, &error);
  lua_createtable(L, f.count, 0);
  for (i = 0; i < f.count; i++) {
    lua_pushstring(L, f.hashes[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* label_fault(name) -> why it cannot be a label | nil */
static int label_fault(lua_State *L) {
  size_t len;
  const char *name = luaL_checklstring(L, 1, &len);
  lua_pushstring(L, strlen(name) == len ? tr_label_fault(name)
                                        : "it has a zero byte in it");
  return 1;
}

/* odd_label_fault(name) -> why a label that is there, by another program, could not be made
** here, and what to do | nil */
static int odd_label_fault(lua_State *L) {
  const char *fault = tr_new_label_fault(luaL_checkstring(L, 1));
  if (fault == NULL)
    return 0;
  lua_pushfstring(L, "%s; give its content another label, and remove this one", fault);
  return 1;
}

/* Add the methods to a store's, which are on the stack's top, and functions
** to the module below it. */
void tr_open_labels(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"label", store_label},
      {"replace_at_label", store_label},
      {"get_by_label", store_get_by_label},
      {"get_content_by_label", store_get_content_by_label},
      {"label_exists", store_label_exists},
      {"history", store_history},
      {"store_at_label", store_store_at_label},
      {"replace_content_at_label", store_store_at_label},
      {NULL, NULL}};
  const tr_store_options usual = TR_STORE_OPTIONS;
  luaL_setfuncs(L, methods, 0);
  tr_add_pair(L, store_remove_label, "remove_label", "remove_from_label");
  lua_pushinteger(L, usual.label_history);
  lua_setfield(L, -3, "label_history"); /* of stores without the option */
  lua_pushcfunction(L, label_fault);
  lua_setfield(L, -3, "label_fault");
  lua_pushcfunction(L, odd_label_fault);
  lua_setfield(L, -3, "odd_label_fault");
}
