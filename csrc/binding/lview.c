/*
** A view: how a script sees a blob of the host's, for the length of one call. The bytes
** stay where they are; what a script reads of them is on its budget.
*/
#include "core/wasm.h"
#include "lsandbox.h"

#define TR_VIEW "theaterref.view"

enum {
  BYTES_A_STEP = 16,       /* copied */
  INSPECTED_A_STEP = 64    /* bytes that are skipped, section by section */
};

/* In S. */
typedef struct view {
  struct view *next;
  tr_blob *blob; /* the host's; NULL once the call is over */
  int depth;     /* of the call */
} view;

void tr_view_push(lua_State *S, tr_blob *blob) {
  sandbox *box = tr_sandbox_of(S);
  view *v = lua_newuserdatauv(S, sizeof *v, 0);
  *v = (view){box->views, NULL, box->depth};
  luaL_setmetatable(S, TR_VIEW);
  v->blob = blob;
  box->views = v;
}

void tr_view_close_all(sandbox *box, int depth) {
  view *v;
  for (v = box->views; v != NULL && v->depth > depth; v = box->views) {
    v->blob = NULL;
    box->views = v->next;
  }
}

static tr_blob *checkview(lua_State *S) {
  view *v = luaL_checkudata(S, 1, TR_VIEW);
  luaL_argcheck(S, v->blob != NULL, 1, "the bytes are gone: the call is over");
  return v->blob;
}

static int view_gc(lua_State *S) {
  view *v = luaL_checkudata(S, 1, TR_VIEW);
  view **link = &tr_sandbox_of(S)->views;
  while (*link != NULL && *link != v)
    link = &(*link)->next;
  if (*link != NULL)
    *link = v->next;
  v->blob = NULL;
  return 0;
}

static int view_len(lua_State *S) {
  lua_pushinteger(S, (lua_Integer)tr_blob_size(checkview(S)));
  return 1;
}

/* Push the bytes of a range as a string. */
static int push_bytes(lua_State *S, tr_blob *blob, size_t start, size_t len) {
  tr_sandbox_check_length(S, len);
  tr_sandbox_charge(S, len / BYTES_A_STEP + 1);
  lua_pushlstring(S, len > 0 ? (const char *)tr_blob_data(blob) + start : "", len);
  return 1;
}

static int view_sub(lua_State *S) {
  tr_blob *blob = checkview(S);
  size_t start, len = tr_checkrange(S, tr_blob_size(blob), -1, &start);
  return push_bytes(S, blob, start, len);
}

static int view_tostring(lua_State *S) {
  tr_blob *blob = checkview(S);
  return push_bytes(S, blob, 0, tr_blob_size(blob));
}

static int view_byte(lua_State *S) {
  tr_blob *blob = checkview(S);
  size_t start, len = tr_checkrange(S, tr_blob_size(blob), 0, &start);
  tr_sandbox_charge(S, len + 1);
  return tr_pushvalues(S, (const unsigned char *)tr_blob_data(blob) + start, len);
}

static int view_wasm_type(lua_State *S) {
  tr_blob *blob = checkview(S);
  tr_sandbox_charge(S, tr_blob_size(blob) / INSPECTED_A_STEP + 1);
  return tr_pushwasmtype(S, blob);
}

void tr_sandbox_open_views(lua_State *S) {
  static const luaL_Reg methods[] = {
      {"__len", view_len},   {"__gc", view_gc},
      {"__close", view_gc},  {"__tostring", view_tostring},
      {"sub", view_sub},     {"byte", view_byte},
      {"wasm_type", view_wasm_type}, {NULL, NULL}};
  tr_newtype(S, TR_VIEW, methods);
  lua_pop(S, 1);
}
