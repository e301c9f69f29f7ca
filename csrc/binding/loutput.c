/* Files that are written piece by piece, and standard input, in Lua. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "core/file.h"
#include "core/output.h"
#include "lutil.h"

typedef struct loutput {
  tr_output *output; /* NULL once it is over */
} loutput;

/* open_output(path) -> output | nil, error. A file shows up when it is committed. */
static int open_output(lua_State *L) {
  const char *path = tr_checkcstring(L, 1);
  tr_error error;
  loutput *o = lua_newuserdatauv(L, sizeof *o, 0);
  o->output = NULL;
  luaL_setmetatable(L, TR_OUTPUT);
  TR_WAITING(L, o->output, tr_output_open(path, &error));
  return o->output != NULL ? 1 : tr_pusherror(L, &error);
}

/* output_path(path) -> the path of the file that an output to it writes, without links | nil,
** error; the file may not be there yet */
static int output_path(lua_State *L) {
  const char *path = tr_checkcstring(L, 1);
  tr_error error;
  char *found = tr_output_path(path);
  if (found == NULL) {
    tr_error_errno(&error, errno, "Failed to write", path);
    return tr_pusherror(L, &error);
  }
  lua_pushstring(L, found); /* a path leaks if memory runs out in here */
  free(found);
  return 1;
}

static tr_output *checkoutput(lua_State *L) {
  loutput *o = luaL_checkudata(L, 1, TR_OUTPUT);
  luaL_argcheck(L, o->output != NULL, 1, "the output is over");
  return o->output;
}

/* write(bytes…) -> the output | nil, error */
static int output_write(lua_State *L) {
  tr_output *output = checkoutput(L);
  int i, count = lua_gettop(L);
  bool done;
  tr_error error;
  for (i = 2; i <= count; i++) {
    size_t len;
    const char *bytes = tr_checkbytes(L, i, &len);
    TR_WAITING(L, done, tr_output_write(output, bytes, len, &error));
    if (!done)
      return tr_pusherror(L, &error);
  }
  lua_settop(L, 1);
  return 1;
}

/* commit() -> true | nil, error */
static int output_commit(lua_State *L) {
  tr_output *output = checkoutput(L);
  tr_error error;
  if (!tr_output_commit(output, true, &error))
    return tr_pusherror(L, &error);
  lua_pushboolean(L, 1);
  return 1;
}

static int output_close(lua_State *L) {
  loutput *o = luaL_checkudata(L, 1, TR_OUTPUT);
  tr_output_close(o->output);
  o->output = NULL;
  return 0;
}

/* read_stdin([max_bytes = 1 GiB]) -> blob | nil, error; waits as long as it takes */
static int read_stdin(lua_State *L) {
  lua_Integer max = luaL_optinteger(L, 1, (lua_Integer)TR_FILE_MAX_BYTES);
  lblob *b = tr_newblob(L);
  struct stat st;
  tr_error error;
  if (fstat(0, &st) != 0)
    st = (struct stat){0}; /* the read will tell why */
  TR_WAITING(L, b->blob,
             tr_file_read_fd(0, &st, "standard input",
                             max < 0 ? 0 : (size_t)max, -1, &error));
  if (b->blob == NULL)
    return tr_pusherror(L, &error);
  tr_accountblob(L, tr_blob_size(b->blob));
  return 1;
}

/* write_stdout(bytes) -> true | nil, why; an interrupt ends it */
static int write_stdout(lua_State *L) {
  size_t len;
  const char *bytes = tr_checkbytes(L, 1, &len);
  bool done;
  TR_WAITING(L, done, tr_file_write_patiently(1, bytes, len));
  if (done) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, strerror(errno));
  return 2;
}

void tr_open_output(lua_State *L) {
  static const luaL_Reg methods[] = {{"__gc", output_close},
                                     {"__close", output_close},
                                     {"write", output_write},
                                     {"commit", output_commit},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {{"open_output", open_output},
                                       {"output_path", output_path},
                                       {"read_stdin", read_stdin},
                                       {"write_stdout", write_stdout},
                                       {NULL, NULL}};
  tr_newtype(L, TR_OUTPUT, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
