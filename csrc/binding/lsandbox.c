/*
** Scripts that are not trusted run in a Lua state of their own, on a budget, and
** nothing but copies of plain data passes between it and the host.
*/
#include "lsandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define TR_SANDBOX "theaterref.sandbox"
#define TR_JOB "theaterref.sandbox.job"

enum {
  HOST_HOOK_EVERY = 1000,  /* instructions of a function of the host's that a script calls */
  HOST_CALL_STEPS = 10,    /* for each such call */
  BYTES_A_STEP = 16,       /* passed to the host and back, or compiled */
  MAX_SOURCE = 1 << 20,    /* bytes of a script */
  MAX_JUMPS = 1 << 14,     /* in it: for each, the compiler may move all others, in one go */
  SOURCE_PIECE = 256,      /* between two looks at the clock */
  COLLECT_AT = 4 << 20     /* bytes of a sandbox whose script failed */
};

/* In S's registry: the functions that the host holds proxies of. */
static const char functions_key;

/* ---------------------------------------------------- host functions */

/* One call from a script to a function of the host's. */
typedef struct host_call {
  tr_buffer in, out;
  lua_Integer id;
  const char *at;
  int count;
} host_call;

/* The sandbox that a function of the host's runs for. */
static _Thread_local sandbox *caller;

static void no_functions(lua_State *to, lua_Integer id) {
  (void)id;
  lua_pushnil(to);
}

/* Push, in S, the next value of the host's. */
static void decode_from_host(lua_State *S, const char **at, tr_proxy *proxy) {
  sandbox *box = tr_sandbox_of(S);
  box->from_host = true; /* reset after each lua_pcall, since this may raise */
  if (!tr_decode(S, at, proxy, box))
    luaL_error(S, "%s", box->why);
  box->from_host = false;
}

/* In the host, protected: argument 1 is the table of exposed functions. */
static int run_host_call(lua_State *L) {
  host_call *e = lua_touserdata(L, 2);
  codec how = {.box = caller, .is_lent = true};
  int i, top;
  lua_rawgeti(L, 1, e->id);
  top = lua_gettop(L);
  for (i = 0; i < e->count; i++) {
    if (!tr_decode(L, &e->at, no_functions, caller))
      return luaL_error(L, "%s", caller->why);
  }
  lua_call(L, e->count, LUA_MULTRET);
  e->count = lua_gettop(L) - top + 1;
  for (i = 0; i < e->count; i++) {
    const char *fault = tr_encode(L, top + i, &how, &e->out);
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
    decode_from_host(S, &e->at, no_functions);
  return e->count;
}

/* In the host, while a script waits for it. */
static void on_host_count(lua_State *L, lua_Debug *record) {
  (void)record;
  if (!tr_sandbox_spend(caller, HOST_HOOK_EVERY))
    luaL_error(L, "%s", caller->why);
}

/* As the hook that lua.c sets on Ctrl-C. */
static void raise_interrupt(lua_State *L, lua_Debug *record) {
  (void)record;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

/* Call a function in L as lua_pcall does, on the budget of a script. A hook of the host's
** own, such as a debugger's, stays. Ctrl-C raises again once L runs on: a script may have
** caught the error. */
static int call_for(sandbox *box, lua_State *L, int arguments) {
  sandbox *outer = caller;
  bool is_hooked = lua_gethook(L) != NULL;
  int status;
  caller = box;
  if (!is_hooked)
    lua_sethook(L, on_host_count, LUA_MASKCOUNT, HOST_HOOK_EVERY);
  status = lua_pcall(L, arguments, 0, 0);
  if (status != LUA_OK && lua_gethook(L) == NULL) /* only Ctrl-C takes the hook away */
    lua_sethook(L, raise_interrupt,
                LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
  else if (!is_hooked && lua_gethook(L) == on_host_count)
    lua_sethook(L, NULL, 0, 0);
  caller = outer;
  return status;
}

/* Encode the arguments of an exposed function, all of S's stack, and call it. False
** with the error. */
static bool call_host(lua_State *S, host_call *e, tr_error *error) {
  sandbox *box = tr_sandbox_of(S);
  lua_State *L = box->L;
  codec how = {.box = box, .is_lent = true};
  const char *fault = NULL;
  int i;
  e->count = lua_gettop(S);
  for (i = 1; i <= e->count && fault == NULL; i++)
    fault = tr_encode(S, i, &how, &e->in);
  if (fault != NULL) {
    tr_error_set(error, TR_POLICY, "%s%s", fault,
                 fault == tr_no_memory || box->exhausted
                     ? ""
                     : " cannot be passed to the host");
    return false;
  }
  if (!tr_sandbox_spend(box, e->in.len / BYTES_A_STEP) || !lua_checkstack(L, 4)) {
    tr_error_set(error, TR_POLICY, "the host's stack is full");
    return false;
  }
  e->at = e->in.data;
  lua_pushcfunction(L, run_host_call);
  lua_rawgetp(L, LUA_REGISTRYINDEX, box);
  lua_pushlightuserdata(L, e);
  if (call_for(box, L, 2) != LUA_OK) {
    const char *text = lua_tostring(L, -1);
    tr_error_set(error, TR_POLICY, "%s",
                 text != NULL ? text : "the host's function failed");
    lua_pop(L, 1);
    return false;
  }
  return true;
}

/* In S: an exposed function. Upvalue 1 is its number. */
static int call_exposed(lua_State *S) {
  sandbox *box = tr_sandbox_of(S);
  host_call e = {.id = lua_tointeger(S, lua_upvalueindex(1))};
  tr_error error;
  int status = LUA_OK;
  size_t passed;
  bool ok = call_host(S, &e, &error);
  passed = e.in.len + e.out.len;
  tr_buffer_free(&e.in);
  if (ok) {
    e.at = e.out.data;
    lua_settop(S, 0);
    lua_pushcfunction(S, take_results);
    lua_pushlightuserdata(S, &e);
    status = lua_pcall(S, 1, LUA_MULTRET, 0);
    box->from_host = false;
    if (status == LUA_ERRMEM)
      tr_sandbox_out_of_memory(box);
  }
  tr_buffer_free(&e.out);
  tr_sandbox_check_clock(box);
  tr_sandbox_charge(S, HOST_CALL_STEPS + passed / BYTES_A_STEP);
  if (!ok)
    return luaL_error(S, "%s", error.message);
  return status == LUA_OK ? lua_gettop(S) : lua_error(S);
}

static void push_exposed(lua_State *S, lua_Integer id) {
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

/* Return the next piece of a script's source: the compiler has loops, too. */
static const char *read_source(lua_State *S, void *context, size_t *size) {
  job *j = context;
  const char *piece = j->source;
  *size = j->source_len < SOURCE_PIECE ? j->source_len : SOURCE_PIECE;
  j->source += *size;
  j->source_len -= *size;
  tr_sandbox_check_clock(tr_sandbox_of(S));
  tr_sandbox_charge(S, SOURCE_PIECE / BYTES_A_STEP);
  return piece;
}

/* Return how often a word is in a script, also as part of others. */
static size_t count_of(const char *word, const char *source, size_t len) {
  size_t count = 0, i, word_len = strlen(word);
  for (i = 0; i + word_len <= len; i++)
    if (source[i] == word[0] && memcmp(source + i, word, word_len) == 0)
      count++;
  return count;
}

/* Return what is wrong with a script before it is compiled, or NULL. */
static const char *source_fault(const job *j) {
  if (j->source_len > MAX_SOURCE)
    return "the script is longer than 1 MiB";
  if (count_of("goto", j->source, j->source_len) +
          count_of("break", j->source, j->source_len) > MAX_JUMPS)
    return "the script has more than 16384 times 'goto' or 'break'";
  return NULL;
}

/* Pushes the chunk to run, having set its globals. */
static void load_chunk(lua_State *S, job *j, const char *name) {
  if (lua_load(S, read_source, j, name, "t") != LUA_OK)
    lua_error(S);
  if (j->count == 0)
    return;
  decode_from_host(S, &j->at, push_exposed);
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
  codec how = {.box = tr_sandbox_of(S)};
  int i;
  lua_settop(S, 0);
  lua_rawgetp(S, LUA_REGISTRYINDEX, &functions_key);
  how.functions = j->functions ? 1 : 0;
  if (j->function != 0)
    lua_rawgeti(S, 1, j->function);
  else
    load_chunk(S, j, how.box->name);
  for (i = 0; i < j->count; i++)
    decode_from_host(S, &j->at, push_exposed);
  lua_call(S, j->count, LUA_MULTRET);
  j->count = lua_gettop(S) - 1;
  for (i = 0; i < j->count && j->fault == NULL; i++)
    j->fault = tr_encode(S, 2 + i, &how, &j->out);
  return 0;
}

/* Return the name of a sandbox's script for messages. */
static const char *name_of(const sandbox *box) {
  return box->name + (box->name[0] == '@' || box->name[0] == '=');
}

/* Fill in the error of a job that failed: S raised it, or could not hand back a value. */
static void describe(lua_State *S, int status, const job *j, sandbox *box,
                     tr_error *error) {
  const char *text = NULL;
  if (status != LUA_OK && lua_type(S, -1) == LUA_TSTRING)
    text = lua_tostring(S, -1);
  /* a luaL_Buffer says it so, and it is no LUA_ERRMEM */
  if (status == LUA_ERRMEM || (text != NULL && strcmp(text, tr_no_memory) == 0))
    tr_sandbox_out_of_memory(box);
  if (box->exhausted && text != NULL && text[0] != '\0' &&
      strstr(text + 1, box->why) != NULL)
    tr_error_set(error, TR_POLICY, "%s", text); /* with the line */
  else if (box->exhausted)
    tr_error_set(error, TR_POLICY, "%s: %s", name_of(box), box->why);
  else if (status == LUA_OK && j->fault == tr_no_memory)
    tr_error_nomem(error);
  else if (status == LUA_OK)
    tr_error_set(error, TR_POLICY, "%s: the script returned %s, which cannot be passed on",
                 name_of(box), j->fault);
  else if (text == NULL)
    tr_error_set(error, TR_POLICY,
                 "%s: the script raised a %s instead of a message", name_of(box),
                 lua_typename(S, lua_type(S, -1)));
  else
    tr_error_set(error, TR_POLICY, "%s", text);
}

static sandbox *checkbox(lua_State *L, int index) {
  sandbox *box = luaL_checkudata(L, index, TR_SANDBOX);
  luaL_argcheck(L, box->S != NULL, index, "sandbox is closed");
  return box;
}

/* Give back what a failed script left behind, and let the host's collector know how
** large the sandbox is. */
static void settle_memory(lua_State *L, sandbox *box, bool failed) {
  if (failed && box->memory > COLLECT_AT)
    lua_gc(box->S, LUA_GCCOLLECT, 0);
  if (box->memory > box->memory_told)
    tr_accountblob(L, box->memory - box->memory_told);
  box->memory_told = box->memory;
}

/* Runs a job in S. False with the error when the script failed. */
static bool perform(lua_State *L, sandbox *box, job *j, tr_error *error) {
  lua_State *S = box->S, *outer = box->L;
  int status, top = lua_gettop(S);
  bool failed;
  if (box->depth++ == 0) /* a call within a call shares its bounds */
    tr_sandbox_refill(box);
  box->L = L;
  j->at = j->in.data;
  lua_pushcfunction(S, run_job); /* a light C function: allocates nothing */
  lua_pushlightuserdata(S, j);
  status = lua_pcall(S, 1, 0, 0);
  if (status == LUA_OK) { /* not all that takes time has looked at the clock */
    tr_sandbox_check_clock(box);
    tr_sandbox_spend(box, 0);
  }
  box->from_host = false;
  box->L = outer;
  tr_view_close_all(box, --box->depth);
  failed = status != LUA_OK || j->fault != NULL || box->exhausted;
  if (failed)
    describe(S, status, j, box, error);
  lua_settop(S, top);
  j->at = j->out.data;
  if (box->depth == 0)
    settle_memory(L, box, failed);
  return !failed;
}

/* Push the results of a job. False with the error when the script's budget does not
** last for them. */
static bool take_job_results(lua_State *L, sandbox *box, job *j, tr_proxy *proxy,
                             tr_error *error) {
  int i, top = lua_gettop(L);
  for (i = 0; i < j->count; i++) {
    if (tr_decode(L, &j->at, proxy, box))
      continue;
    lua_settop(L, top);
    tr_error_set(error, TR_POLICY, "%s: %s", name_of(box), box->why);
    return false;
  }
  return true;
}

/* Encode a value of the host's for a script; raises what is wrong with it. */
static void encode_for_script(lua_State *L, int index, codec *how, job *j) {
  const char *fault = tr_encode(L, index, how, &j->in);
  if (fault == tr_no_memory)
    luaL_error(L, "%s", fault);
  if (fault != NULL)
    luaL_error(L, "%s cannot be passed to a script", fault);
}

/* In the host: a proxy of a script's function; raises the error object. Its
** upvalues are the box and the function's number. */
static int call_function(lua_State *L) {
  sandbox *box = luaL_checkudata(L, lua_upvalueindex(1), TR_SANDBOX);
  codec plain = {.has_views = true};
  tr_error error;
  int i, top = lua_gettop(L);
  job *j;
  if (box->S == NULL)
    return luaL_error(L, "the script's sandbox is closed");
  j = new_job(L);
  j->function = lua_tointeger(L, lua_upvalueindex(2));
  for (i = 1; i <= top; i++)
    encode_for_script(L, i, &plain, j);
  j->count = top;
  if (!perform(L, box, j, &error) ||
      !take_job_results(L, box, j, no_functions, &error)) {
    tr_pusherror(L, &error);
    return lua_error(L);
  }
  return j->count;
}

/* Pushes a proxy for S's function 'id'; the box is argument 1. */
static void push_proxy(lua_State *L, lua_Integer id) {
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
  const char *name = luaL_checkstring(L, 3), *fault;
  tr_error error;
  job *j;
  lua_settop(L, 5);
  j = new_job(L);
  j->source = tr_checkbytes(L, 2, &j->source_len);
  fault = source_fault(j);
  if (fault != NULL) {
    tr_error_set(&error, TR_POLICY, "%s: %s", name + (*name == '@' || *name == '='), fault);
    return tr_pusherror(L, &error);
  }
  snprintf(box->name, sizeof box->name, "%s", name);
  j->functions = lua_toboolean(L, 5);
  if (!lua_isnil(L, 4)) {
    luaL_checktype(L, 4, LUA_TTABLE);
    encode_for_script(L, 4, &plain, j);
    j->count = 1;
  }
  if (!perform(L, box, j, &error) ||
      !take_job_results(L, box, j, push_proxy, &error))
    return tr_pusherror(L, &error);
  return j->count;
}

/* expose(tree): makes the host functions in a table of tables callable by
** scripts, as globals of the same names. */
static int expose(lua_State *L) {
  sandbox *box = checkbox(L, 1);
  codec how = {0};
  tr_error error;
  job *j;
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  j = new_job(L);
  lua_rawgetp(L, LUA_REGISTRYINDEX, box);
  how.functions = lua_gettop(L);
  encode_for_script(L, 2, &how, j);
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
  sandbox *box = tr_sandbox_of(S);
  tr_sandbox_open_library(S);
  tr_sandbox_open_views(S);
  lua_newtable(S);
  lua_rawsetp(S, LUA_REGISTRYINDEX, &functions_key);
  lua_createtable(S, 0, 64);
  box->key_size = box->last_size / 64; /* the block of its keys came last */
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
  box->steps_max = (int64_t)steps;
  box->seconds_max = seconds;
  box->host_deadline = tr_sandbox_host_deadline(L);
  tr_sandbox_refill(box);
  luaL_setmetatable(L, TR_SANDBOX);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, box); /* functions exposed to this box */
  box->S = lua_newstate(tr_sandbox_allocate, box);
  if (box->S == NULL)
    return luaL_error(L, "not enough memory for a sandbox");
  lua_pushcfunction(box->S, set_up);
  if (lua_pcall(box->S, 0, 0, 0) != LUA_OK)
    return luaL_error(L, "not enough memory for a sandbox");
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
  tr_sandbox_open_deadline(L);
}
