/* The followers of a host, for their owners. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/options.h"
#include "core/thread.h"
#include "host.h"

/* Check options. False with the error. */
static bool check(const tr_follow_options *o, tr_error *error) {
  if (isfinite(o->interval) && o->interval >= 0 && o->jitter >= 0 && o->jitter <= 1 &&
      !isnan(o->timeout))
    return true;
  tr_error_set(error, TR_POLICY,
               "the options of tr_host_follow are wrong: 'interval' must be 0 or more, "
               "'jitter' from 0 to 1, and 'timeout' a number");
  return false;
}

tr_follower *tr_host_follow(tr_host *host, const char *reference,
                            const tr_follow_options *options, tr_follow_call call,
                            void *context, tr_error *error) {
  tr_follow_options copy = TR_FOLLOW_OPTIONS;
  tr_follower *f;
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&copy, sizeof copy, options, "TR_FOLLOW_OPTIONS", error) ||
      !check(&copy, error))
    return NULL;
  f = calloc(1, sizeof *f);
  if (f == NULL || (f->reference = strdup(reference)) == NULL) {
    tr_error_nomem(error);
    free(f);
    return NULL;
  }
  f->options = copy;
  f->call = call;
  f->context = context;
  f->lua = LUA_NOREF;
  f->last = &f->events;
  tr_condition_init(&f->idle);
  if (tr_worker_add_follower(host, f, error))
    return f;
  tr_follower_delete(f);
  return NULL;
}

void tr_follower_free(tr_follower *f) {
  bool is_last;
  if (f == NULL)
    return;
  pthread_mutex_lock(&tr_hosts_lock);
  f->stopping = true;
  while (f->calling && !pthread_equal(f->host->worker, pthread_self()))
    pthread_cond_wait(&f->idle, &tr_hosts_lock);
  f->closed = true;
  is_last = f->host == NULL; /* else the worker frees it */
  if (!is_last)
    tr_notifier_signal(f->host->notifier);
  pthread_mutex_unlock(&tr_hosts_lock);
  if (is_last)
    tr_follower_delete(f);
}
