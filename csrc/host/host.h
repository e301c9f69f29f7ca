/*
** A host, as its files share it. Calls point down: host.c (hosts), call.c (their calls) and
** follow.c (their followers) -> worker.c (their thread) -> follower.c (what it does for
** followers) -> turn.c (turns at a Lua state), plan.c.
*/
#ifndef TR_HOST_H
#define TR_HOST_H

#include <lauxlib.h>
#include <pthread.h>

#include "core/future.h"
#include "theaterref.h"

/* The values that stay on the stack of a host's Lua state. */
enum { TR_RESOLVER = 1, TR_ENCODE_MANIFEST, TR_WITNESS };

/* A thread that waits for the Lua state of a host, or has it. */
typedef struct tr_turn {
  pthread_t thread;
  tr_notifier *notifier; /* that it sleeps on; NULL: on 'came' */
  pthread_cond_t came;
  bool asked, granted;
  struct tr_turn *next;
} tr_turn;

typedef struct tr_job tr_job;

struct tr_host {
  lua_State *L;
  tr_log_sink sink;
  void *context;
  bool collected; /* a collection ran since the turn began */

  /* Guarded by tr_hosts_lock: */
  tr_host *next, *prev; /* all hosts of the process */
  bool busy;            /* a thread has the Lua state */
  bool lost;            /* in a child: that thread was not forked */
  pthread_t user;       /* that thread */
  tr_turn *first;       /* those who wait */

  /* Its worker; see worker.c. */
  pthread_t worker;
  bool has_worker, stopping;
  tr_notifier *notifier; /* that the worker sleeps on; NULL: never started */
  tr_job *added;         /* since the worker looked last */
  tr_job *jobs;          /* the worker's own */
  tr_follower *added_followers; /* since the worker looked last */
  tr_follower *followers;       /* the worker's own */
};

/* --------------------------------------------------------------- turn.c */

/* Guards what turns, futures and fork() need of all hosts. Not held across Lua. */
extern pthread_mutex_t tr_hosts_lock;

/* Put a host on the list of all, or take it off. */
void tr_host_register(tr_host *host);
void tr_host_unregister(tr_host *host);

/* True if the calling thread may wait for the host; false with the error: it would
** wait for itself, or for a thread of the parent. The lock is held. */
bool tr_turn_possible(const tr_host *host, tr_error *error);
/* Ask for a turn; it may be granted at once, or its notifier is signalled when it is.
** The lock is held. */
void tr_turn_ask(tr_host *host, tr_turn *turn);
/* End a turn, or give it up before it came. The lock is held. */
void tr_turn_end(tr_host *host, tr_turn *turn);

/*
** Call 'work' in a turn, with the resolver, the function that writes manifests, and
** 'job', a light userdata. False with the error.
*/
bool tr_turn_call(tr_host *host, lua_CFunction work, void *job,
                  tr_error *error);
/* Collect what a turn left, before it ends. */
void tr_turn_collect(tr_host *host);

/* Take the error of a call of the host's Lua state that ended with 'status'; pop it. */
void tr_host_take_error(lua_State *L, int status, tr_error *error);

/* Wait for a turn, and call 'work' in it. The wait comes off 'timeout', in seconds.
** False with the error. */
bool tr_host_call(tr_host *host, lua_CFunction work, void *job,
                  double *timeout, tr_error *error);

/* --------------------------------------------------------------- plan.c */

/* Protected: take a plan from the table on top, with the function at 2 that writes
** manifests. '*plan' is to be freed even if this raises. */
void tr_plan_take(lua_State *L, tr_plan **plan);

/* -------------------------------------------------------------- worker.c */

/* One call of a host: its arguments and its results. */
typedef struct tr_call {
  const char *reference;
  tr_call_options options;
  double given;  /* the timeout as it was given, for messages */
  tr_plan *plan; /* or NULL */
  tr_blob *blob;
} tr_call;

/* How a call is made by a future; both functions are protected. */
typedef struct tr_call_kind {
  lua_CFunction start; /* (resolver, call) -> the Lua future */
  lua_CFunction take;  /* (resolver, function that writes manifests, call, result
                          of the Lua future): puts its results on the call */
} tr_call_kind;

/* Start a call; return its future, or NULL with the error. */
tr_future *tr_worker_start(tr_host *host, const tr_call_kind *kind,
                           const tr_call *call, tr_error *error);
/* Hand a follower to the worker. False with the error. */
bool tr_worker_add_follower(tr_host *host, tr_follower *follower, tr_error *error);
/* End the worker; fail the futures that are pending. */
void tr_worker_stop(tr_host *host);

/* ------------------------------------------------------------ follower.c */

/* Something to call back with. */
typedef struct tr_follow_event {
  struct tr_follow_event *next;
  tr_blob *blob; /* or NULL: 'error' */
  tr_error error;
} tr_follow_event;

struct tr_follower {
  tr_follower *next;
  tr_host *host; /* NULL once that is freed; guarded by tr_hosts_lock, as the next three */
  bool stopping; /* no more calls */
  bool closed;   /* its owner has freed it: whoever finds it frees its memory */
  bool calling;
  pthread_cond_t idle; /* it is not calling any more */
  char *reference;
  tr_follow_options options;
  tr_follow_call call;
  void *context;
  /* The worker's: */
  int lua;                        /* the Lua follower's place in the registry, or LUA_NOREF */
  double due;                     /* a tr_now() moment */
  tr_follow_event *events, **last; /* in order */
};

/* Free a follower's memory. */
void tr_follower_delete(tr_follower *follower);
/* Have all followers of a host go on, in its turn; free those that are closed. True if
** there is something to call back with. */
bool tr_followers_advance(tr_host *host);
/* Call back, without a turn. */
void tr_followers_call(tr_host *host);
/* Return the moment when the first of them is due. */
double tr_followers_due(const tr_host *host);
/* Let go of the followers of a host that is being freed. */
void tr_followers_end(tr_host *host);

#endif
