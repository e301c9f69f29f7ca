/* Turns at a host's Lua state: host.c gives them, plan.c uses them. */
#ifndef TR_HOST_H
#define TR_HOST_H

#include <lauxlib.h>

#include "theaterref.h"

/* The stack of a host's Lua state, below what a call pushes. */
enum { TR_RESOLVER = 1, TR_ENCODE_MANIFEST, TR_WITNESS };

/*
** Call 'work' with the resolver, the function that writes manifests as JSON, and
** 'job', a light userdata; protected, and while no other call uses the Lua state.
** What it leaves behind is collected. 'timeout', in seconds, loses what waiting
** for the turn took. False with the error.
*/
bool tr_host_call(tr_host *host, lua_CFunction work, void *job,
                  double *timeout, tr_error *error);

#endif
