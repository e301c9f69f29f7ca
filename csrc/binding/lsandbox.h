/* Shared by the sandbox's files. */
#ifndef TR_LSANDBOX_H
#define TR_LSANDBOX_H

#include "core/blob.h"
#include "lutil.h"

/* A Lua state of its own for a script that is not trusted. */
typedef struct sandbox {
  lua_State *S;                 /* NULL once closed */
  lua_State *L;                 /* the host's, while it calls into S */
  size_t memory, memory_max;    /* bytes */
  int64_t steps, steps_max;     /* VM instructions left, and allowed */
  double seconds_max, deadline; /* for one call from the host */
  int depth;      /* calls from the host under way, one within the other */
  bool exhausted; /* no pcall of the script's may stop the error now */
  char name[128]; /* of the script, for messages */
} sandbox;

/* Return the sandbox that a Lua state belongs to: its allocator's context. */
static inline sandbox *tr_sandbox_of(lua_State *S) {
  void *box;
  lua_getallocf(S, &box);
  return box;
}

/* Open, in S, the library that a script may use. Raises in S. */
void tr_sandbox_open_library(lua_State *S);

/*
** Values between Lua states, by way of a buffer: plain data is copied; a
** function becomes a number, for which the other side makes a proxy. Encoding
** never raises; it returns NULL, or the fault.
*/
typedef struct codec {
  int functions; /* index of a table in the encoding Lua state that functions
                    are kept in, or 0: functions cannot be taken along */
} codec;

const char *tr_encode(lua_State *from, int index, const codec *how,
                      tr_buffer *out);

/* Pushes the next value. 'proxy' pushes what stands for function 'id'. */
void tr_decode(lua_State *to, const char **at,
               void (*proxy)(lua_State *to, lua_Integer id, void *context),
               void *context);

#endif
