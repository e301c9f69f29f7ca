/*
** The budget of a script: a hook counts instructions and looks at the clock, functions in
** C charge for what they do, and the allocator refuses memory past a bound.
*/
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/metrics.h"
#include "lsandbox.h"

const char tr_no_memory[] = "not enough memory";
static const char too_long[] = "the script made a string of more than 4 MiB";

/*
** Between two looks at the clock a script can do no more than HOOK_EVERY times the
** slowest that one instruction does. The bounds on strings and tables are there for
** this: an instruction may compare two strings, or move all keys of a table, whose
** numbers a script can choose so that each meets all others on the way.
*/
enum {
  HOOK_EVERY = 16,             /* instructions */
  HOOK_EVERY_LONG = 4,         /* once there has been a LONG_STRING */
  LONG_STRING = 1 << 20,       /* bytes; Lua calls 'strcoll' for each zero byte */
  CLOCK_EVERY = 64,            /* steps */
  MAX_STRING = TR_SANDBOX_MAX_STRING + 64, /* with Lua's header */
  MAX_KEYS = 1 << 15,          /* of a table, besides its sequence */
  QUICK_KEYS = 1 << 13,        /* that are placed in no time, though all meet */
  LARGE = 32 << 10,            /* bytes: so large a block brings the hook forward */
  ALLOCATED_A_STEP = 64,       /* bytes */
  COLLECTED_A_STEP = 128
};

static void on_count(lua_State *S, lua_Debug *record);

/* Call on_count after so many instructions. May be called from anywhere. */
static void hook_after(sandbox *box, int instructions) {
  if (box->S == NULL || box->hook_every == instructions)
    return;
  box->hook_every = instructions;
  lua_sethook(box->S, on_count, LUA_MASKCOUNT, instructions);
}

/* Return after how many it is to be called, if nothing brings it forward. */
static int hook_interval(const sandbox *box) {
  return box->has_long ? HOOK_EVERY_LONG : HOOK_EVERY;
}

/* From now on each instruction raises, and each charge. */
static void exhaust(sandbox *box, tr_script_limit limit, const char *format, ...) {
  va_list arguments;
  if (box->exhausted)
    return;
  box->exhausted = true;
  tr_count(TR_COUNT_LIMITS + limit, 1);
  va_start(arguments, format);
  vsnprintf(box->why, sizeof box->why, format, arguments);
  va_end(arguments);
  hook_after(box, 1);
}

static void exhaust_time(sandbox *box) {
  if (box->deadline_option != NULL)
    exhaust(box, TR_LIMIT_TIME, "the script ran past the deadline (%s)", box->deadline_option);
  else
    exhaust(box, TR_LIMIT_TIME, "the script ran for more than %g second%s", box->seconds_max,
            tr_plural(box->seconds_max));
}

void tr_sandbox_refill(sandbox *box) {
  const script_deadline *host = box->host_deadline;
  box->steps = box->steps_max;
  box->deadline = tr_deadline(box->seconds_max);
  box->deadline_option = NULL;
  if (host->at < box->deadline) {
    box->deadline = host->at;
    box->deadline_option = host->option;
  }
  box->latest = tr_deadline(box->seconds_max * 1.2); /* even if the host's comes earlier */
  box->exhausted = false;
  tr_sandbox_check_clock(box);
  hook_after(box, hook_interval(box));
}

void tr_sandbox_check_length(lua_State *S, size_t len) {
  sandbox *box = tr_sandbox_of(S);
  if (len <= TR_SANDBOX_MAX_STRING)
    return;
  exhaust(box, TR_LIMIT_STRING, too_long);
  luaL_error(S, "%s", box->why);
}

void tr_sandbox_out_of_memory(sandbox *box) {
  exhaust(box, TR_LIMIT_MEMORY, "the script needed more than %zu bytes of memory", box->memory_max);
}

static void take_steps(sandbox *box, size_t steps) {
  if (steps > INT_MAX)
    steps = INT_MAX;
  box->unchecked += steps;
  box->steps = (int64_t)steps < box->steps ? box->steps - (int64_t)steps : 0;
}

bool tr_sandbox_spend(sandbox *box, size_t steps) {
  take_steps(box, steps);
  if (box->steps <= 0)
    exhaust(box, TR_LIMIT_INSTRUCTIONS, "the script ran more than %lld instructions",
            (long long)box->steps_max);
  if (box->unchecked >= CLOCK_EVERY) {
    box->unchecked = 0;
    if (tr_now() > box->deadline)
      exhaust_time(box);
  }
  return !box->exhausted;
}

void tr_sandbox_check_clock(sandbox *box) { box->unchecked = CLOCK_EVERY; }

void tr_sandbox_charge(lua_State *S, size_t steps) {
  sandbox *box = tr_sandbox_of(S);
  if (!tr_sandbox_spend(box, steps))
    luaL_error(S, "%s", box->why);
}

static void on_count(lua_State *S, lua_Debug *record) {
  sandbox *box = tr_sandbox_of(S);
  if (box->exhausted) { /* the message is made; many handlers may still have to go */
    lua_pushnil(S);
    lua_error(S);
  }
  hook_after(box, hook_interval(box));
  tr_sandbox_check_clock(box);
  if (tr_sandbox_spend(box, (size_t)hook_interval(box)))
    return;
  lua_getinfo(S, "Sl", record);
  luaL_error(S, "%s:%d: %s", record->short_src, record->currentline, box->why);
}

/* ---------------------------------------------------------------- deadline */

/* In the host's registry: its script_deadline. */
static const char deadline_key;

script_deadline *tr_sandbox_host_deadline(lua_State *L) {
  script_deadline *deadline;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &deadline_key);
  deadline = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return deadline;
}

/*
** sandbox_within(at, option, inner, function, ...) -> as pcall
** Call a function. Every call of a script that begins meanwhile ends at the moment 'at' of
** now(), beside the sandbox's own limit; nil: no such moment. With 'inner', also at the one in
** force until now; that comes back into force whatever the function does, since it cannot
** yield: it would leave its deadline to the other coroutines of the Lua state. 'option' is what
** set the deadline, for messages: resolve_timeout (nil), plan_timeout, derive_timeout, or timeout
** (of a call of a host in C). Calls that a script is in the middle of keep their deadline.
*/
static int sandbox_within(lua_State *L) {
  static const char *const options[] = {"resolve_timeout", "plan_timeout", "timeout",
                                        "derive_timeout", NULL};
  script_deadline *deadline = tr_sandbox_host_deadline(L);
  script_deadline before = *deadline, own;
  int status;
  own.at = luaL_optnumber(L, 1, tr_deadline(-1));
  own.option = options[luaL_checkoption(L, 2, options[0], options)];
  luaL_checkany(L, 4);
  if (!lua_toboolean(L, 3) || own.at < before.at)
    *deadline = own;
  status = lua_pcall(L, lua_gettop(L) - 4, LUA_MULTRET, 0);
  *deadline = before;
  lua_pushboolean(L, status == LUA_OK);
  lua_replace(L, 3);
  return lua_gettop(L) - 2;
}

void tr_sandbox_open_deadline(lua_State *L) {
  if (tr_sandbox_host_deadline(L) == NULL) { /* sandboxes point to it: there is one alone */
    script_deadline *deadline = lua_newuserdatauv(L, sizeof *deadline, 0);
    deadline->at = tr_deadline(-1);
    deadline->option = NULL;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &deadline_key);
  }
  lua_pushcfunction(L, sandbox_within);
  lua_setfield(L, -2, "sandbox_within");
}

/* ------------------------------------------------------------------ memory */

/* Return how many keys fit into a new block if it can be the hash part of a table: a power
** of two times the size of a key. (So are sequences made with 98,304 elements at once, or
** twice that.) The block that comes right after a userdata is a luaL_Buffer's. */
static size_t keys_of(const sandbox *box, size_t size) {
  size_t keys = box->key_size == 0 ? 0 : size / box->key_size;
  bool is_hash = keys > 0 && size % box->key_size == 0 && (keys & (keys - 1)) == 0;
  return is_hash && box->last_kind != LUA_TUSERDATA ? keys : 0;
}

/* Check a new block or object of a script's against the bounds for one. Lua places all keys
** of a table in one instruction, which has to end soon after the deadline even if all meet.
** True with the script ended. */
static bool is_refused(sandbox *box, int kind, size_t size) {
  static const double seconds_a_meeting = 3e-9;
  size_t keys = kind == 0 ? keys_of(box, size) : 0;
  double seconds = (double)keys * (double)keys / 2 * seconds_a_meeting;
  if (kind == LUA_TSTRING && size > MAX_STRING)
    exhaust(box, TR_LIMIT_STRING, too_long);
  else if (keys > MAX_KEYS)
    exhaust(box, TR_LIMIT_TABLE, "the script made a table of more than %d keys", MAX_KEYS);
  else if (keys > QUICK_KEYS && tr_now() + seconds > box->latest)
    exhaust(box, TR_LIMIT_TABLE, "the script had too little time left for a table of %zu keys", keys);
  else
    return false;
  return true;
}

/* Check that a script may have 'size' bytes for a new block or object of some kind (0:
** none), of which it holds 'old'. */
static bool may_allocate(sandbox *box, bool is_new, int kind, size_t old, size_t size) {
  if (!is_new || box->from_host || !is_refused(box, kind, size)) {
    if (size > box->memory_max)
      tr_sandbox_out_of_memory(box);
    else if (size - old <= box->memory_max - box->memory)
      return true;
    else /* Lua collects garbage and tries again */
      take_steps(box, box->memory / COLLECTED_A_STEP);
  }
  hook_after(box, 1);
  return false;
}

void *tr_sandbox_allocate(void *context, void *block, size_t old, size_t size) {
  sandbox *box = context;
  int kind = 0;
  void *result;
  if (block == NULL) { /* 'old' is the kind of object, if it is one */
    kind = (int)old;
    old = 0;
  }
  if (size == 0) {
    free(block);
    box->memory -= old;
    return NULL;
  }
  if (size > old && !may_allocate(box, block == NULL, kind, old, size)) {
    box->last_kind = 0;
    return NULL;
  }
  result = realloc(block, size);
  if (result == NULL) {
    exhaust(box, TR_LIMIT_MEMORY, "%s", tr_no_memory); /* the process has none */
    return NULL;
  }
  box->memory += size - old;
  if (block == NULL) {
    box->last_size = size;
    box->last_kind = kind;
    box->has_long = box->has_long || (kind == LUA_TSTRING && size >= LONG_STRING);
  }
  if (size > old) {
    take_steps(box, (size - old) / ALLOCATED_A_STEP);
    if (size >= LARGE) /* also sets the hook by 'has_long' */
      hook_after(box, 1);
  }
  return result;
}
