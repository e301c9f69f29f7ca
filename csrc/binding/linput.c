/* Files that are read piece by piece, in Lua. */
#include "core/error.h"
#include "core/file.h"
#include "lutil.h"

typedef struct linput {
  tr_input *input; /* NULL once it is closed */
} linput;

/* open_input(path) -> input | nil, error */
static int open_input(lua_State *L) {
  const char *path = tr_checkcstring(L, 1);
  tr_error error;
  linput *i = lua_newuserdatauv(L, sizeof *i, 0);
  i->input = NULL;
  luaL_setmetatable(L, TR_INPUT);
  TR_WAITING(L, i->input, tr_input_open(path, &error));
  return i->input != NULL ? 1 : tr_pusherror(L, &error);
}

static tr_input *checkinput(lua_State *L) {
  linput *i = luaL_checkudata(L, 1, TR_INPUT);
  luaL_argcheck(L, i->input != NULL, 1, "the input is closed");
  return i->input;
}

/* read(count) -> string of at most as many bytes | nil at the end | nil, error */
static int input_read(lua_State *L) {
  tr_input *input = checkinput(L);
  lua_Integer count = luaL_checkinteger(L, 2);
  luaL_Buffer buffer;
  tr_error error;
  ssize_t n;
  char *room;
  luaL_argcheck(L, count > 0, 2, "must be positive");
  room = luaL_buffinitsize(L, &buffer, (size_t)count);
  TR_WAITING(L, n, tr_input_read(input, room, (size_t)count, &error));
  if (n < 0)
    return tr_pusherror(L, &error);
  if (n == 0)
    lua_pushnil(L);
  else
    luaL_pushresultsize(&buffer, (size_t)n);
  return 1;
}

/* size() -> integer | nil: it is a pipe */
static int input_size(lua_State *L) {
  long long size = tr_input_size(checkinput(L));
  if (size < 0)
    lua_pushnil(L);
  else
    lua_pushinteger(L, size);
  return 1;
}

static int input_close(lua_State *L) {
  linput *i = luaL_checkudata(L, 1, TR_INPUT);
  tr_input_close(i->input);
  i->input = NULL;
  return 0;
}

void tr_open_input(lua_State *L) {
  static const luaL_Reg methods[] = {{"__gc", input_close},
                                     {"__close", input_close},
                                     {"read", input_read},
                                     {"size", input_size},
                                     {NULL, NULL}};
  tr_newtype(L, TR_INPUT, methods);
  lua_pop(L, 1);
  lua_pushcfunction(L, open_input);
  lua_setfield(L, -2, "open_input");
}
