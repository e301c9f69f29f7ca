/*
** Scripts that are not trusted run in a Lua state of their own: its allocator
** refuses memory past a bound, a hook counts instructions and looks at the
** clock, and nothing but copies of plain data passes between it and the host.
*/
#include "lsandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define TR_SANDBOX "theaterref.sandbox"
#define TR_JOB "theaterref.sandbox.job"

enum { HOOK_EVERY = 200 /* instructions */ };

/* In S's registry: the functions that the host holds proxies of. */
static const char functions_key;

static void *allocate(void *context, void *block, size_t old, size_t size) {
  sandbox *box = context;
  void *result;
  if (block == NULL)
    old = 0; /* Lua gives a type there */
  if (size == 0) {
    free(block);
    box->memory -= old;
    return NULL;
  }
  if (size > old && size - old > box->memory_max - box->memory)
    return NULL;
  result = realloc(block, size);
  if (result != NULL)
    box->memory += size - old;
  return result;
}

static void on_count(lua_State *S, lua_Debug *record) {
  sandbox *box = tr_sandbox_of(S);
  (void)record;
  box->steps -= HOOK_EVERY;
  if (box->steps <= 0) {
    box->exhausted = true;
    luaL_error(S, "the script ran more than %I instructions",
               (LUAI_UACINT)box->steps_max);
  }
  if (tr_now() > box->deadline) {
    box->exhausted = true;
    luaL_error(S, "the script ran for more than %f seconds", box->seconds_max);
  }
}

/* ---------------------------------------------------- host functions */

/* One call from a script to a function of the host's. */
typedef struct host_call {
  tr_buffer in, out;
  lua_Integer id;
  const char *at;
  int count;
} host_call;

static void no_functions(lua_State *to, lua_Integer id, void *context) {
  (void)id, (void)context;
  lua_pushnil(to);
}

/* In the host, protected: argument 1 is the table of exposed functions. */
static int run_host_call(lua_State *L) {
  host_call *e = lua_touserdata(L, 2);
  codec plain = {0};
  int i, top;
  lua_rawgeti(L, 1, e->id);
  top = lua_gettop(L);
  for (i = 0; i < e->count; i++)
    tr_decode(L, &e->at, no_functions, NULL);
  lua_call(L, e->count, LUA_MULTRET);
  e->count = lua_gettop(L) - top + 1;
  for (i = 0; i < e->count; i++) {
    const char *fault = tr_encode(L, top + i, &plain, &e->out);
    if (fault != NULL)
      return luaL_error(L, "a result cannot be passed to a script: %s", fault);
  }
  return 0;
}

/* In S: decodes what came back. Protected, so that the buffers are freed. */
static int take_results(lua_State *S) {
  host_call *e = lua_touserdata(S, 1);
  int i;
  for (i = 0; i < e->count; i++)
    tr_decode(S, &e->at, no_functions, NULL);
  return e->count;
}

/* In S: an exposed function. Upvalue 1 is its number. */
static int call_exposed(lua_State *S) {
  sandbox *box = tr_sandbox_of(S);
  lua_State *L = box->L;
  host_call e = {.id = lua_tointeger(S, lua_upvalueindex(1))};
  codec plain = {0};
  const char *fault = NULL;
  char message[256];
  int i, top = lua_gettop(S), status = LUA_OK;
  for (i = 1; i <= top && fault == NULL; i++)
    fault = tr_encode(S, i, &plain, &e.in);
  e.count = top;
  e.at = e.in.data;
  if (fault == NULL && !lua_checkstack(L, 4))
    fault = "the host's stack is full";
  if (fault == NULL) {
    lua_pushcfunction(L, run_host_call);
    lua_rawgetp(L, LUA_REGISTRYINDEX, box);
    lua_pushlightuserdata(L, &e);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
      const char *text = lua_tostring(L, -1);
      snprintf(message, sizeof message, "%s",
               text != NULL ? text : "the host's function failed");
      lua_pop(L, 1);
      fault = message;
    }
  }
  tr_buffer_free(&e.in);
  if (fault == NULL) {
    e.at = e.out.data;
    lua_settop(S, 0);
    lua_pushcfunction(S, take_results);
    lua_pushlightuserdata(S, &e);
    status = lua_pcall(S, 1, LUA_MULTRET, 0);
  }
  tr_buffer_free(&e.out);
  if (fault != NULL)
    return luaL_error(S, "%s", fault);
  return status == LUA_OK ? lua_gettop(S) : lua_error(S);
}

static void push_exposed(lua_State *S, lua_Integer id, void *context) {
  (void)context;
  lua_pushinteger(S, id);
  lua_pushcclosure(S, call_exposed, 1);
}

/* --------------------------------------------------- calls from the host */

/* One call from the host into S: a userdata, so that its buffers are freed
** whatever the host raises. */
typedef struct job {
  tr_buffer in, out;
  const char *at;
  int count;            /* arguments, then results */
  lua_Integer function; /* its number, or 0: run 'source' */
  const char *source;
  size_t source_len;
  bool functions;    /* results may hold functions */
  const char *fault; /* what in the results could not be passed on */
} job;

static int job_gc(lua_State *L) {
  job *j = luaL_checkudata(L, 1, TR_JOB);
  tr_buffer_free(&j->in);
  tr_buffer_free(&j->out);
  return 0;
}

static job *new_job(lua_State *L) {
  job *j = lua_newuserdatauv(L, sizeof *j, 0);
  memset(j, 0, sizeof *j);
  luaL_setmetatable(L, TR_JOB);
  return j;
}

/* Pushes the chunk to run, having set its globals. */
static void load_chunk(lua_State *S, job *j, const char *name) {
  if (luaL_loadbufferx(S, j->source, j->source_len, name, "t") != LUA_OK)
    lua_error(S);
  if (j->count == 0)
    return;
  tr_decode(S, &j->at, push_exposed, NULL);
  lua_pushglobaltable(S);
  for (lua_pushnil(S); lua_next(S, -3) != 0;) {
    lua_pushvalue(S, -2);
    lua_insert(S, -2);
    lua_rawset(S, -4);
  }
  lua_pop(S, 2);
  j->count = 0;
}

/* In S, protected: calls what the job says and encodes the results. */
static int run_job(lua_State *S) {
  job *j = lua_touserdata(S, 1);
  codec how = {0};
  int i;
  lua_settop(S, 0);
  lua_rawgetp(S, LUA_REGISTRYINDEX, &functions_key);
  how.functions = j->functions ? 1 : 0;
  if (j->function != 0)
    lua_rawgeti(S, 1, j->function);
  else
    load_chunk(S, j, tr_sandbox_of(S)->name);
  for (i = 0; i < j->count; i++)
    tr_decode(S, &j->at, push_exposed, NULL);
  lua_call(S, j->count, LUA_MULTRET);
  j->count = lua_gettop(S) - 1;
  for (i = 0; i < j->count && j->fault == NULL; i++)
    j->fault = tr_encode(S, 2 + i, &how, &j->out);
  return 0;
}

/* The error that the script raised, as an error value. */
static void describe(lua_State *S, int status, const sandbox *box,
                     tr_error *error) {
  const char *text =
      lua_type(S, -1) == LUA_TSTRING ? lua_tostring(S, -1) : NULL;
  const char *name = box->name + (box->name[0] == '@' || box->name[0] == '=');
  if (status == LUA_ERRMEM)
    tr_error_set(error, TR_POLICY,
                 "%s: the script needed more than %zu bytes of memory", name,
                 box->memory_max);
  else if (text == NULL)
    tr_error_set(error, TR_POLICY,
                 "%s: the script raised a %s instead of a message", name,
                 lua_typename(S, lua_type(S, -1)));
  else
    tr_error_set(error, TR_POLICY, "%s", text);
}

static sandbox *checkbox(lua_State *L, int index) {
  sandbox *box = luaL_checkudata(L, index, TR_SANDBOX);
  luaL_argcheck(L, box->S != NULL, index, "sandbox is closed");
  return box;
}

/* Runs a job in S. False with the error when the script failed. */
static bool perform(lua_State *L, sandbox *box, job *j, tr_error *error) {
  lua_State *S = box->S, *caller = box->L;
  int status, top = lua_gettop(S);
  if (box->depth++ == 0) { /* a call within a call shares its bounds */
    box->steps = box->steps_max;
    box->deadline = tr_deadline(box->seconds_max);
    box->exhausted = false;
  }
  box->L = L;
  j->at = j->in.data;
  lua_pushcfunction(S, run_job); /* a light C function: allocates nothing */
  lua_pushlightuserdata(S, j);
  status = lua_pcall(S, 1, 0, 0);
  box->L = caller;
  box->depth--;
  if (status != LUA_OK)
    describe(S, status, box, error);
  else if (j->fault != NULL)
    tr_error_set(error, TR_POLICY,
                 "%s: the script returned %s, which cannot be passed on",
                 box->name + 1, j->fault);
  lua_settop(S, top);
  j->at = j->out.data;
  return status == LUA_OK && j->fault == NULL;
}

/* In the host: a proxy of a script's function; raises the error object. Its
** upvalues are the box and the function's number. */
static int call_function(lua_State *L) {
  sandbox *box = luaL_checkudata(L, lua_upvalueindex(1), TR_SANDBOX);
  codec plain = {0};
  tr_error error;
  int i, top = lua_gettop(L);
  job *j;
  if (box->S == NULL)
    return luaL_error(L, "the script's sandbox is closed");
  j = new_job(L);
  j->function = lua_tointeger(L, lua_upvalueindex(2));
  for (i = 1; i <= top; i++) {
    const char *fault = tr_encode(L, i, &plain, &j->in);
    if (fault != NULL)
      return luaL_error(L, "%s cannot be passed to a script", fault);
  }
  j->count = top;
  if (!perform(L, box, j, &error)) {
    tr_pusherror(L, &error);
    return lua_error(L);
  }
  for (i = 0; i < j->count; i++)
    tr_decode(L, &j->at, no_functions, NULL);
  return j->count;
}

/* Pushes a proxy for S's function 'id'; the box is argument 1. */
static void push_proxy(lua_State *L, lua_Integer id, void *context) {
  (void)context;
  lua_pushvalue(L, 1);
  lua_pushinteger(L, id);
  lua_pushcclosure(L, call_function, 2);
}

/*
** run(source, chunkname [, globals [, functions]]) -> results | nil, error
** 'functions' true: functions in the results come as callable proxies.
*/
static int sandbox_run(lua_State *L) {
  sandbox *box = checkbox(L, 1);
  codec plain = {0};
  const char *fault;
  tr_error error;
  int i;
  job *j;
  lua_settop(L, 5);
  j = new_job(L);
  j->source = tr_checkbytes(L, 2, &j->source_len);
  snprintf(box->name, sizeof box->name, "%s", luaL_checkstring(L, 3));
  j->functions = lua_toboolean(L, 5);
  if (!lua_isnil(L, 4)) {
    luaL_checktype(L, 4, LUA_TTABLE);
    fault = tr_encode(L, 4, &plain, &j->in);
    if (fault != NULL)
      return luaL_error(L, "%s cannot be passed to a script", fault);
    j->count = 1;
  }
  if (!perform(L, box, j, &error))
    return tr_pusherror(L, &error);
  for (i = 0; i < j->count; i++)
    tr_decode(L, &j->at, push_proxy, NULL);
  return j->count;
}

/* expose(tree): makes the host functions in a table of tables callable by
** scripts, as globals of the same names. */
static int expose(lua_State *L) {
  sandbox *box = checkbox(L, 1);
  codec how = {0};
  const char *fault;
  tr_error error;
  job *j;
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  j = new_job(L);
  lua_rawgetp(L, LUA_REGISTRYINDEX, box);
  how.functions = lua_gettop(L);
  fault = tr_encode(L, 2, &how, &j->in);
  if (fault != NULL)
    return luaL_error(L, "cannot expose %s", fault);
  j->source = "";
  j->count = 1;
  if (!perform(L, box, j, &error))
    return luaL_error(L, "%s", error.message);
  return 0;
}

/* ---------------------------------------------------------- life and death */

static int sandbox_close(lua_State *L) {
  sandbox *box = luaL_checkudata(L, 1, TR_SANDBOX);
  luaL_argcheck(L, box->depth == 0, 1, "sandbox is running");
  if (box->S != NULL) {
    lua_State *S = box->S;
    box->S = NULL;
    lua_close(S);
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, box);
  }
  return 0;
}

/* In S, protected. */
static int set_up(lua_State *S) {
  tr_sandbox_open_library(S);
  lua_newtable(S);
  lua_rawsetp(S, LUA_REGISTRYINDEX, &functions_key);
  return 0;
}

/* sandbox{ memory = bytes, instructions = n, seconds = s } -> sandbox */
static int new_sandbox(lua_State *L) {
  sandbox *box;
  size_t memory = tr_optsize(L, 1, "memory", 32 << 20);
  size_t steps = tr_optsize(L, 1, "instructions", 10 * 1000 * 1000);
  double seconds = tr_optseconds(L, 1, "seconds", 2);
  box = lua_newuserdatauv(L, sizeof *box, 0);
  memset(box, 0, sizeof *box);
  box->memory_max = memory;
  box->steps = box->steps_max = (int64_t)steps;
  box->seconds_max = seconds;
  box->deadline = tr_deadline(seconds);
  luaL_setmetatable(L, TR_SANDBOX);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, box); /* functions exposed to this box */
  box->S = lua_newstate(allocate, box);
  if (box->S == NULL)
    return luaL_error(L, "not enough memory for a sandbox");
  lua_pushcfunction(box->S, set_up);
  if (lua_pcall(box->S, 0, 0, 0) != LUA_OK)
    return luaL_error(L, "not enough memory for a sandbox");
  lua_sethook(box->S, on_count, LUA_MASKCOUNT, HOOK_EVERY);
  return 1;
}

void tr_open_sandbox(lua_State *L) {
  static const luaL_Reg methods[] = {{"__gc", sandbox_close},
                                     {"__close", sandbox_close},
                                     {"run", sandbox_run},
                                     {"expose", expose},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {{"sandbox", new_sandbox}, {NULL, NULL}};
  static const luaL_Reg job_methods[] = {{"__gc", job_gc}, {NULL, NULL}};
  tr_newtype(L, TR_JOB, job_methods);
  tr_newtype(L, TR_SANDBOX, methods);
  lua_pop(L, 2);
  luaL_setfuncs(L, functions, 0);
}
