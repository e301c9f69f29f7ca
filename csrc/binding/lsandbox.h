/* Shared by the sandbox's files. */
#ifndef TR_LSANDBOX_H
#define TR_LSANDBOX_H

#include "core/blob.h"
#include "lutil.h"

/* Bytes that cost a step to compare or to copy. */
enum { TR_SANDBOX_BYTES_A_STEP = 16 };

/* Bytes of a string that a script makes, or that it gives to a function of the host's or
** gets from one. Only arguments and globals from the host may be larger. */
enum { TR_SANDBOX_MAX_STRING = 4 << 20 };

/* When the scripts that a Lua state calls have to end, besides their own limits. */
typedef struct script_deadline {
  double at;          /* as tr_now(); never: infinity */
  const char *option; /* that set it, for messages */
} script_deadline;

/* A Lua state of its own for a script that is not trusted. */
typedef struct sandbox {
  lua_State *S;                 /* NULL once closed */
  lua_State *L;                 /* the host's, while it calls into S */
  size_t memory, memory_max;    /* bytes */
  size_t memory_told;           /* to the host's collector */
  int64_t steps, steps_max;     /* left, and allowed: VM instructions and what counts as much */
  size_t unchecked;             /* steps since the last look at the clock */
  double seconds_max;           /* for one call from the host */
  double deadline, latest;      /* of this one, and when its last instruction has to end */
  const char *deadline_option;  /* the host's option that set it; NULL: 'seconds_max' did */
  const script_deadline *host_deadline;
  size_t last_size, key_size;   /* of the last block, and of a table's key; bytes */
  int last_kind;                /* of object in it, such as LUA_TSTRING; 0: none */
  int hook_every;  /* instructions */
  bool has_long;   /* strings have been made that take long to compare */
  int depth;       /* calls from the host under way, one within the other */
  struct view *views; /* of blobs that these calls pass, the innermost first */
  bool from_host;  /* the strings being made are copies of the host's */
  bool exhausted;  /* no pcall of the script's may stop the error now */
  char why[96];    /* how the error of an exhausted script reads */
  char name[128];  /* of the script, for messages */
} sandbox;

/* Return the sandbox that a Lua state belongs to: its allocator's context. */
static inline sandbox *tr_sandbox_of(lua_State *S) {
  void *box;
  lua_getallocf(S, &box);
  return box;
}

/* The allocator of S. */
void *tr_sandbox_allocate(void *box, void *block, size_t old, size_t size);

/* Begin with a full budget. */
void tr_sandbox_refill(sandbox *box);

/* Take steps off the budget. False: it is used up, or the time is. */
bool tr_sandbox_spend(sandbox *box, size_t steps);

/* The same, and raises in S if it is. */
void tr_sandbox_charge(lua_State *S, size_t steps);

/* Return the steps for the bytes of a string; 0 for any other value. */
static inline size_t tr_sandbox_steps_of(lua_State *S, int index) {
  return lua_type(S, index) == LUA_TSTRING
             ? lua_rawlen(S, index) / TR_SANDBOX_BYTES_A_STEP
             : 0;
}

/* Look at the clock at the next step. */
void tr_sandbox_check_clock(sandbox *box);

/* End the script, by an error in S, if the string that it is about to make is too long. */
void tr_sandbox_check_length(lua_State *S, size_t len);

/* End the script: it needs more memory than it may have. */
void tr_sandbox_out_of_memory(sandbox *box);

/* Return the script_deadline of a host's Lua state. */
script_deadline *tr_sandbox_host_deadline(lua_State *L);

/* Add 'sandbox_within' to the table on the host's stack's top. */
void tr_sandbox_open_deadline(lua_State *L);

/* Open, in S, the library that a script may use. Raises in S. */
void tr_sandbox_open_library(lua_State *S);

/* Add the functions that take patterns to the table on the stack's top. */
void tr_sandbox_open_patterns(lua_State *S);

/* Add the functions of 'table' to the table on the stack's top; Lua's own are below. */
void tr_sandbox_open_tables(lua_State *S);

/* Push, in S, a view of a blob that stays good for the length of the call under way. */
void tr_view_push(lua_State *S, tr_blob *blob);

/* End the views of all calls within 'depth' others. */
void tr_view_close_all(sandbox *box, int depth);

/* Make the type of views in S. Raises in S. */
void tr_sandbox_open_views(lua_State *S);

/*
** Values between Lua states, by way of a buffer: plain data is copied; a
** function becomes a number, for which the other side makes a proxy. Encoding
** never raises; it returns NULL, or the fault: what cannot be passed on (such as "a
** function"), or tr_no_memory.
*/
typedef struct codec {
  int functions;  /* index of a table in the encoding Lua state that functions
                     are kept in, or 0: functions cannot be taken along */
  sandbox *box;   /* on whose budget it is; NULL: nobody's */
  bool is_lent;   /* they are what a function lent to a script gets or returns */
  bool has_views; /* a blob is passed as a view */
  size_t size;    /* of what has been encoded, in the memory of the other side */
  size_t numbers; /* keys so far that are numbers outside of a sequence */
} codec;

extern const char tr_no_memory[];

const char *tr_encode(lua_State *from, int index, codec *how, tr_buffer *out);

/* Push what stands for function 'id' of the other side. */
typedef void tr_proxy(lua_State *to, lua_Integer id);

/* Push the next value, on the budget of a sandbox. False when that is used up: part of the
** value is on the stack. */
bool tr_decode(lua_State *to, const char **at, tr_proxy *proxy, sandbox *box);

#endif
