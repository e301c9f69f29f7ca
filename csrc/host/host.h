/* Turns at a host's Lua state: host.c gives them, plan.c uses them. */
#ifndef TR_HOST_H
#define TR_HOST_H

#include <lauxlib.h>

#include "theaterref.h"

/* The values that stay on the stack of a host's Lua state. */
enum { TR_RESOLVER = 1, TR_ENCODE_MANIFEST, TR_WITNESS };

/*
** Call 'work' with the resolver, the function that writes manifests as JSON, and
** 'job', a light userdata; protected, and while no other call uses the Lua state.
** Then collect the garbage. The wait for the turn comes off 'timeout', in seconds.
** False with the error.
*/
bool tr_host_call(tr_host *host, lua_CFunction work, void *job,
                  double *timeout, tr_error *error);

#endif
