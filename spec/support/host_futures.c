/*
** Futures of hosts in C, for spec/core/host_futures_spec.lua. Prints the check that
** fails, if any.
**
**   host_futures CASE FOLDER SERVER   run one of the cases at the end of this file
**
** The server drips what lies below /dripping/: a fetch from there takes longer than
** PATIENCE.
*/
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "hosts.h"

enum { PLANS = 20, THREADS = 3, ROUNDS = 10, LARGE = 40000 };

static const double PATIENCE = 60;
static const char *server;

/* Write the reference of a file on the server, or in the folder. */
static const char *on_server(char *reference, const char *path) {
  snprintf(reference, 512, "%s/%s", server, path);
  return reference;
}

static tr_host *host_with(const char *config, const char *policy) {
  char path[512], script[512];
  tr_host_options o = TR_HOST_OPTIONS;
  tr_error error;
  tr_host *host;
  o.log = "off";
  o.config = config != NULL ? in_folder(path, config) : NULL;
  o.policy = policy != NULL ? in_folder(script, policy) : NULL;
  host = tr_host_new(&o, &error);
  CHECK(host != NULL);
  return host;
}

static tr_future *start_plan(tr_host *host, const char *reference) {
  tr_error error;
  tr_future *future = tr_host_start_plan(host, reference, NULL, &error);
  CHECK(future != NULL);
  return future;
}

static tr_future *start_resolve(tr_host *host, const char *reference) {
  tr_error error;
  tr_future *future = tr_host_start_resolve(host, reference, NULL, &error);
  CHECK(future != NULL);
  return future;
}

/* Wait for a plan, release its future, and return it. */
static tr_plan *finish_plan(tr_future *future) {
  tr_error error = {.kind = TR_OK};
  tr_plan *plan;
  tr_blob *blob = NULL;
  tr_future_status status = tr_future_wait(future, PATIENCE, &blob, &error);
  if (status != TR_READY)
    fprintf(stderr, "%s: %s\n", tr_error_kind_name(error.kind), error.message);
  CHECK(status == TR_READY);
  plan = tr_future_take_plan(future);
  CHECK(plan != NULL && tr_plan_package(plan) == blob);
  CHECK(tr_future_take_plan(future) == NULL); /* once */
  tr_blob_release(blob);
  tr_future_release(future);
  return plan;
}

/* Wait for bytes, release their future, and return their size. */
static size_t finish_resolve(tr_future *future) {
  tr_blob *blob = NULL;
  size_t size;
  CHECK(tr_future_wait(future, PATIENCE, &blob, NULL) == TR_READY);
  CHECK(tr_future_take_plan(future) == NULL);
  size = tr_blob_size(blob);
  tr_blob_release(blob);
  tr_future_release(future);
  return size;
}

/* Wait for a failure, and release its future. */
static void finish_failure(tr_future *future, tr_error *error) {
  CHECK(tr_future_wait(future, PATIENCE, NULL, error) == TR_FAILED);
  CHECK(tr_future_take_plan(future) == NULL);
  tr_future_release(future);
}

/* Wait until a future's fetch is under way. */
static void wait_for_bytes(tr_future *future) {
  size_t received = 0;
  int i;
  for (i = 0; i < 10000 && received == 0; i++) {
    usleep(1000);
    tr_future_progress(future, &received, NULL);
  }
  CHECK(received > 0 && tr_future_get_status(future) == TR_PENDING);
}

/* ---------------------------------------------------------------- results */

static bool same_text(const char *a, const char *b) {
  return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_bytes(tr_blob *a, tr_blob *b) {
  return a == b || (a != NULL && b != NULL && tr_blob_size(a) == tr_blob_size(b) &&
                    memcmp(tr_blob_data(a), tr_blob_data(b),
                           tr_blob_size(a)) == 0);
}

static void check_same_plan(const tr_plan *a, const tr_plan *b) {
  size_t i;
  CHECK(same_text(tr_plan_name(a), tr_plan_name(b)));
  CHECK(same_text(tr_plan_manifest_reference(a), tr_plan_manifest_reference(b)));
  CHECK(same_text(tr_plan_origin(a), tr_plan_origin(b)));
  CHECK(same_text(tr_plan_package_reference(a), tr_plan_package_reference(b)));
  CHECK(same_bytes(tr_plan_manifest(a), tr_plan_manifest(b)));
  CHECK(same_bytes(tr_plan_package(a), tr_plan_package(b)));
  CHECK(same_bytes(tr_plan_initial_state(a), tr_plan_initial_state(b)));
  CHECK(same_bytes(tr_plan_state_without_secrets(a),
                   tr_plan_state_without_secrets(b)));
  CHECK(tr_plan_used_cache(a) == tr_plan_used_cache(b));
  CHECK(tr_plan_cache_hit(a) == tr_plan_cache_hit(b));
  CHECK(tr_plan_phase_count(a) == tr_plan_phase_count(b));
  for (i = 0; i < tr_plan_phase_count(a); i++) {
    CHECK(same_text(tr_plan_phase_name(a, i), tr_plan_phase_name(b, i)));
    CHECK(tr_plan_phase_bytes(a, i) == tr_plan_phase_bytes(b, i));
  }
}

static void check_same_failure(tr_host *host, const char *reference,
                               tr_error_kind kind) {
  tr_error now, later;
  CHECK(tr_host_plan(host, reference, NULL, &now) == NULL && now.kind == kind);
  finish_failure(start_plan(host, reference), &later);
  CHECK(now.kind == later.kind && now.status == later.status);
  CHECK(now.errnum == later.errnum && strcmp(now.message, later.message) == 0);
  CHECK(tr_host_resolve(host, "store://x", NULL, &now) == NULL);
  finish_failure(start_resolve(host, "store://x"), &later);
  CHECK(now.kind == later.kind && strcmp(now.message, later.message) == 0);
}

/* A future's plan, bytes and errors are those of a call that blocks. */
static void same(void) {
  char path[512], url[512];
  const char *const manifests[] = {in_folder(path, "secrets.toml"),
                                   on_server(url, "manifest.toml")};
  tr_host *host = host_with("conf.lua", "secrets.lua");
  tr_host *closed = host_with(NULL, "closed.lua");
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error error;
  size_t i;
  call.initial_state = "{\"port\":81}";
  for (i = 0; i < 2 * (sizeof manifests / sizeof *manifests); i++) {
    const tr_call_options *options = i % 2 == 0 ? &call : NULL;
    tr_plan *now = tr_host_plan(host, manifests[i / 2], options, &error), *later;
    CHECK(now != NULL);
    later = finish_plan(
        tr_host_start_plan(host, manifests[i / 2], options, &error));
    check_same_plan(now, later);
    tr_plan_free(now);
    tr_plan_free(later);
  }
  CHECK(finish_resolve(start_resolve(host, on_server(url, "large"))) == LARGE);
  check_same_failure(host, in_folder(path, "none.toml"), TR_NOT_FOUND);
  check_same_failure(host, in_folder(path, "broken.toml"), TR_SYNTAX);
  check_same_failure(host, on_server(url, "none.toml"), TR_HTTP_STATUS);
  check_same_failure(host, "http://127.0.0.1:1/", TR_NETWORK);
  check_same_failure(host, "store://x", TR_INVALID_REFERENCE);
  check_same_failure(closed, in_folder(path, "manifest.toml"), TR_DENIED);
  tr_host_free(closed);
  tr_host_free(host);
}

/* A policy that raises fails its plan, wherever it does, and no other. */
static void raising(void) {
  static const char *const policies[] = {"raises.lua", "raises_later.lua",
                                         "unreadable.lua", NULL};
  char url[512], path[512];
  tr_error now, later;
  size_t i;
  for (i = 0; policies[i] != NULL; i++) {
    tr_host *host = host_with(NULL, policies[i]);
    tr_future *sound = start_resolve(host, on_server(url, "large"));
    tr_future *bad = start_plan(host, on_server(url, "manifest.toml"));
    finish_failure(bad, &later);
    CHECK(later.kind == TR_POLICY);
    CHECK(tr_host_plan(host, url, NULL, &now) == NULL);
    CHECK(now.kind == TR_POLICY && strcmp(now.message, later.message) == 0);
    CHECK(finish_resolve(sound) == LARGE);
    CHECK(finish_resolve(start_resolve(host, in_folder(path, "actor.wasm"))) ==
          4);
    tr_host_free(host);
  }
}

/* Wrong options fail the call, and no other work goes into its future. */
static void refused(void) {
  tr_host *host = host_with(NULL, NULL);
  tr_call_options call = TR_CALL_OPTIONS;
  tr_fetch_options fetch = TR_FETCH_OPTIONS;
  tr_error error;
  tr_future *future;
  char url[512];
  call.size = 1 << 20;
  CHECK(tr_host_start_plan(host, "x", &call, &error) == NULL);
  CHECK(error.kind == TR_POLICY);
  CHECK(tr_host_start_resolve(host, "x", &call, NULL) == NULL);
  finish_failure(start_plan(host, NULL), &error);
  CHECK(error.kind == TR_POLICY);
  future = start_resolve(host, on_server(url, "dripping/large"));
  CHECK(!tr_fetch(future, url, &fetch, &error)); /* it has a worker */
  tr_future_abandon(future);
  CHECK(tr_future_get_status(future) == TR_PENDING);
  tr_error other = {.kind = TR_IO};
  CHECK(tr_future_fail(future, &other)); /* its owner knows better */
  finish_failure(future, &error);
  CHECK(error.kind == TR_IO);
  tr_host_free(host);
}

/* ------------------------------------------------------------ many at once */

static void *call_in_turns(void *host) {
  char path[512], url[512];
  tr_error error;
  int i;
  for (i = 0; i < ROUNDS; i++) {
    tr_plan *plan =
        tr_host_plan(host, in_folder(path, "manifest.toml"), NULL, &error);
    tr_blob *blob = tr_host_resolve(host, on_server(url, "large"), NULL, &error);
    CHECK(plan != NULL && tr_blob_size(blob) == LARGE);
    tr_plan_free(plan);
    tr_blob_release(blob);
    tr_plan_free(finish_plan(start_plan(host, on_server(url, "manifest.toml"))));
  }
  return NULL;
}

/* Many plans of one host, and calls of other threads that block. */
static void many(void) {
  char url[512], path[512];
  pthread_t threads[THREADS];
  tr_future *plans[5 * PLANS], *blobs[PLANS];
  tr_host *host = host_with(NULL, NULL);
  lua_Integer before = live();
  int i;
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, call_in_turns, host) == 0);
  for (i = 0; i < 5 * PLANS; i++)
    plans[i] = start_plan(host, i % 5 == 0 ? in_folder(path, "manifest.toml")
                                           : on_server(url, "manifest.toml"));
  for (i = 0; i < PLANS; i++)
    blobs[i] = start_resolve(host, on_server(url, "large"));
  for (i = 0; i < PLANS; i++)
    CHECK(finish_resolve(blobs[i]) == LARGE);
  for (i = 5 * PLANS - 1; i >= 0; i--) {
    tr_plan *plan = finish_plan(plans[i]);
    CHECK(tr_blob_size(tr_plan_package(plan)) == 4);
    tr_plan_free(plan);
  }
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(comes_down_to(before));
  tr_host_free(host);
}

/* An event loop in one thread plans twenty spawns at once. */
static void event_loop(void) {
  char url[512];
  tr_host *host = host_with(NULL, NULL);
  tr_future *futures[PLANS];
  struct pollfd watched[PLANS];
  int i, left = PLANS;
  for (i = 0; i < PLANS; i++) {
    futures[i] = start_plan(host, on_server(url, "manifest.toml"));
    watched[i].fd = tr_future_fd(futures[i]);
    watched[i].events = POLLIN;
    CHECK(watched[i].fd >= 0);
  }
  while (left > 0) {
    CHECK(poll(watched, PLANS, (int)PATIENCE * 1000) > 0);
    for (i = 0; i < PLANS; i++)
      if (watched[i].fd >= 0 && watched[i].revents != 0) {
        CHECK(tr_future_get_status(futures[i]) == TR_READY);
        tr_plan_free(finish_plan(futures[i]));
        watched[i].fd = -1;
        left--;
      }
  }
  tr_host_free(host);
}

/* The progress is that of the load it waits for, then of its result. */
static void progress(void) {
  char url[512];
  size_t received, total;
  tr_host *host = host_with(NULL, NULL);
  tr_future *slow = start_plan(host, on_server(url, "late_package.toml")), *quick;
  wait_for_bytes(slow);
  do {
    usleep(1000);
    tr_future_progress(slow, &received, &total);
  } while (total != LARGE); /* until then it is the manifest's */
  CHECK(received < LARGE && tr_future_get_info(slow) == NULL);
  tr_future_release(slow);
  quick = start_resolve(host, on_server(url, "large"));
  CHECK(tr_future_wait(quick, PATIENCE, NULL, NULL) == TR_READY);
  tr_future_progress(quick, &received, &total);
  CHECK(received == LARGE && total == LARGE && tr_future_attempts(quick) == 1);
  tr_future_release(quick);
  tr_host_free(host);
}

/* ------------------------------------------------------------ blocked hosts */

static void act(void *context, const char *level, const char *line) {
  scene *s = context;
  (void)level;
  if (strstr(line, "actor.wasm") != NULL && s->acts++ == 0)
    s->act(s);
}

static void call_host(scene *s) {
  tr_error error;
  sigset_t blocked;
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &blocked) == 0);
  CHECK(sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGINT));
  CHECK(tr_host_start_plan(s->host, "x", NULL, &error) == NULL);
  CHECK(error.kind == TR_POLICY && strstr(error.message, "callback") != NULL);
  CHECK(tr_host_plan(s->host, "x", NULL, &error) == NULL);
  CHECK(error.kind == TR_POLICY);
  CHECK(tr_future_wait(s->future, -1, NULL, &error) == TR_PENDING);
  CHECK(error.kind == TR_POLICY && strstr(error.message, "callback") != NULL);
  tr_future_release(s->future);
  sem_post(&s->inside);
}

/* A callback that runs on the worker may not wait for its own host. */
static void callback(void) {
  char url[512], path[512];
  tr_future *actor;
  scene s;
  prepare(&s, act, call_host);
  s.future = start_resolve(s.host, on_server(url, "dripping/large"));
  actor = start_resolve(s.host, in_folder(path, "actor.wasm"));
  wait_for(&s.inside);
  CHECK(finish_resolve(actor) == 4);
  tr_host_free(s.host);
}

/* ------------------------------------------------------ cancel and deadline */

/* The one connection to the server is free again. */
static void check_stopped(void) {
  char url[512];
  tr_host *host = host_with(NULL, NULL);
  CHECK(finish_resolve(start_resolve(host, on_server(url, "large"))) == LARGE);
  tr_host_free(host);
}

static void one_connection(void) {
  tr_engine_options o = TR_ENGINE_OPTIONS;
  o.max_host_connections = 1;
  CHECK(tr_engine_configure(&o, NULL));
}

/* Releasing a future stops its work, before, during and after. */
static void cancelled(void) {
  char url[512], path[512];
  lua_Integer before = live();
  pthread_t thread;
  tr_future *future;
  scene s;
  one_connection();
  prepare(&s, act, block);
  occupy(&s, &thread);
  tr_future_release(start_plan(s.host, on_server(url, "late_package.toml")));
  free_up(&s, thread); /* before its turn */
  check_stopped();
  future = start_plan(s.host, on_server(url, "late_package.toml"));
  wait_for_bytes(future);
  CHECK(tr_future_retain(future) == future);
  tr_future_release(future);
  CHECK(tr_future_get_status(future) == TR_PENDING);
  tr_future_release(future); /* during the fetch */
  check_stopped();
  future = start_plan(s.host, in_folder(path, "manifest.toml"));
  CHECK(tr_future_wait(future, PATIENCE, NULL, NULL) == TR_READY);
  tr_future_release(future); /* after, and nobody took the plan */
  future = start_resolve(s.host, on_server(url, "large"));
  tr_future_detach(future);
  tr_future_release(future); /* it goes on for nobody */
  CHECK(comes_down_to(before));
  tr_host_free(s.host);
}

/* Check that a plan with so many seconds ends for lack of time. */
static void check_late(tr_host *host, const char *reference, double timeout) {
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error error;
  tr_future *future;
  call.timeout = timeout;
  future = tr_host_start_plan(host, reference, &call, &error);
  CHECK(future != NULL);
  finish_failure(future, &error);
  CHECK(error.kind == TR_TIMEOUT && strstr(error.message, "within ") != NULL);
  CHECK(strstr(error.message, timeout < 0 ? "timeout)" : "(timeout)") != NULL);
}

/* A future that waits for the load of another has its own deadline. */
static void check_late_waiter(void) {
  char url[512];
  tr_host_options o = TR_HOST_OPTIONS;
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error error;
  tr_host *host;
  tr_future *first;
  o.cache = "late";
  o.log = "off";
  host = tr_host_new(&o, &error);
  first = start_resolve(host, on_server(url, "dripping/large"));
  wait_for_bytes(first);
  call.timeout = 0.1;
  finish_failure(tr_host_start_resolve(host, url, &call, &error), &error);
  CHECK(error.kind == TR_TIMEOUT);
  CHECK(tr_future_get_status(first) == TR_PENDING);
  tr_future_release(first);
  tr_host_free(host);
}

/* A deadline counts from the start, in every step and while others have the host. */
static void deadlines(void) {
  static const char *const slow[] = {"dripping/large", "late_package.toml",
                                     "late_state.toml", "late_secret.toml",
                                     NULL};
  char url[512], path[512];
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error later;
  pthread_t thread;
  tr_future *future;
  tr_host *host = host_with("conf.lua", "secrets.lua"), *hasty;
  scene s;
  int i;
  one_connection();
  call.timeout = 0.3;
  for (i = 0; slow[i] != NULL; i++) {
    check_late(host, on_server(url, slow[i]), call.timeout);
    check_stopped();
  }
  check_late(host, in_folder(path, "manifest.toml"), 0);
  check_late(host, path, NAN);
  tr_host_free(host);
  hasty = host_with("hasty.lua", NULL); /* the configuration's */
  finish_failure(start_plan(hasty, on_server(url, "late_package.toml")), &later);
  CHECK(later.kind == TR_TIMEOUT);
  tr_host_free(hasty);
  check_late_waiter();
  prepare(&s, act, block);
  call.timeout = 0.5;
  future = tr_host_start_plan(s.host, on_server(url, "late_package.toml"), &call,
                              &later);
  wait_for_bytes(future);
  occupy(&s, &thread);
  check_late(s.host, in_folder(path, "manifest.toml"), 0.01); /* never started */
  finish_failure(future, &later);
  CHECK(later.kind == TR_TIMEOUT && strstr(later.message, "other threads"));
  free_up(&s, thread);
  tr_host_free(s.host);
  check_stopped();
}

/* An interrupt ends waits; the work goes on. */
static void interrupted(void) {
  char url[512];
  tr_error error;
  tr_host *host = host_with(NULL, NULL);
  tr_future *future = start_plan(host, on_server(url, "manifest.toml"));
  struct pollfd watched = {.fd = tr_future_fd(future), .events = POLLIN};
  tr_future *slow = start_plan(host, on_server(url, "late_package.toml"));
  tr_interrupt(true);
  CHECK(tr_future_wait(slow, -1, NULL, &error) == TR_PENDING);
  CHECK(error.kind == TR_CANCELLED);
  CHECK(poll(&watched, 1, (int)PATIENCE * 1000) == 1);
  tr_interrupt(false);
  tr_plan_free(finish_plan(future));
  tr_future_release(slow);
  tr_host_free(host);
}

/* ------------------------------------------------- hosts and processes end */

static void *wait_for_failure(void *future) {
  tr_error error;
  CHECK(tr_future_wait(future, -1, NULL, &error) == TR_FAILED);
  CHECK(error.kind == TR_CANCELLED && strstr(error.message, "freed") != NULL);
  return NULL;
}

/* The futures of a host that is freed fail. */
static void free_host(void) {
  char url[512];
  lua_Integer before = live();
  tr_host *host = host_with(NULL, NULL);
  tr_future *futures[PLANS];
  pthread_t thread;
  int i;
  for (i = 0; i < PLANS; i++)
    futures[i] = start_plan(host, on_server(url, "late_package.toml"));
  wait_for_bytes(futures[0]);
  CHECK(pthread_create(&thread, NULL, wait_for_failure, futures[0]) == 0);
  tr_future_release(futures[PLANS - 1]);
  futures[PLANS - 1] = start_plan(host, "never started");
  tr_host_free(host);
  CHECK(pthread_join(thread, NULL) == 0);
  for (i = 0; i < PLANS; i++) {
    CHECK(tr_future_get_status(futures[i]) == TR_FAILED);
    tr_future_release(futures[i]);
  }
  CHECK(comes_down_to(before));
}

/* Fetches are under way, or have just ended, when their host is freed. */
static void freed(void) {
  int round;
  for (round = 0; round < ROUNDS; round++)
    free_host();
}

/* Make plans by the host's worker. */
static void use_worker(tr_host *host) {
  char url[512];
  tr_plan_free(finish_plan(start_plan(host, on_server(url, "manifest.toml"))));
  tr_future_release(start_plan(host, on_server(url, "late_package.toml")));
}

/* In a child: the futures are abandoned, and the host goes on. */
static void check_in_child(tr_host *host, tr_future *future) {
  struct pollfd watched = {.fd = tr_future_fd(future), .events = POLLIN};
  tr_error error;
  alarm(60); /* rather than hang */
  CHECK(poll(&watched, 1, 0) == 1);
  CHECK(tr_future_wait(future, -1, NULL, &error) == TR_ABANDONED);
  CHECK(error.kind == TR_CANCELLED && tr_future_take_plan(future) == NULL);
#if !defined(__SANITIZE_THREAD__) /* which dies of a thread with the id of a parent's */
  use_worker(host);
#endif
  tr_future_release(future);
  tr_host_free(host);
}

/* A child of fork() has a worker of its own. */
static void forked(void) {
  char url[512], path[512];
  tr_error error;
  tr_host *host = host_with(NULL, NULL);
  tr_future *future = start_plan(host, on_server(url, "late_package.toml"));
  tr_blob *blob;
  size_t total = 0;
  pid_t child;
  scene s;
  while (total != LARGE) { /* of the package */
    usleep(1000);
    tr_future_progress(future, NULL, &total);
  }
  CHECK(finish_resolve(start_resolve(host, in_folder(path, "actor.wasm"))) == 4);
  blob = tr_host_resolve(host, path, NULL, &error); /* no turn of the worker's goes on */
  tr_blob_release(blob);
  child = fork();
  if (child == 0) {
    check_in_child(host, future);
    _exit(0);
  }
  check_child(child);
  CHECK(tr_future_get_status(future) == TR_PENDING);
  tr_future_release(future);
  use_worker(host);
  tr_host_free(host);
  prepare(&s, act, block);
  future = start_resolve(s.host, in_folder(path, "actor.wasm"));
  wait_for(&s.inside);
  child = fork(); /* during the worker's turn */
  if (child == 0) {
    alarm(60);
    CHECK(tr_future_get_status(future) == TR_ABANDONED);
    CHECK(tr_host_start_plan(s.host, "x", NULL, &error) == NULL);
    CHECK(error.kind == TR_POLICY && strstr(error.message, "fork") != NULL);
    tr_future_release(future);
    tr_host_free(s.host);
    _exit(0);
  }
  check_child(child);
  sem_post(&s.go_on);
  CHECK(finish_resolve(future) == 4);
  tr_host_free(s.host);
}

/* ----------------------------------------------------------------- memory */

/* A host whose futures have ended holds nothing that they brought. */
static void idle(void) {
  enum { MANY_BYTES = 16 << 20 };
  char url[512], path[512];
  lua_Integer before = live();
  tr_host *host = host_with(NULL, NULL);
  size_t memory = 0;
  int i, round;
  for (round = 0; round < 6; round++) {
    tr_future *futures[PLANS];
    if (round == 2)
      memory = resident();
    for (i = 0; i < PLANS; i++)
      futures[i] = start_plan(host, on_server(url, "manifest.toml"));
    CHECK(finish_resolve(start_resolve(host, in_folder(path, "zeros"))) ==
          MANY_BYTES);
    CHECK(finish_resolve(start_resolve(host, on_server(url, "zeros"))) ==
          MANY_BYTES);
    for (i = 0; i < PLANS; i++)
      tr_plan_free(finish_plan(futures[i]));
    CHECK(comes_down_to(before));
    CHECK(round < 2 || resident() < memory + MANY_BYTES / 2);
  }
  tr_host_free(host);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* Lua's allocations go through realloc. So many succeed; below 0: all. */
static atomic_long allocations = -1;

extern void *__libc_realloc(void *block, size_t size);

void *realloc(void *block, size_t size) {
  if (size > 0 && atomic_load(&allocations) == 0)
    return NULL;
  if (size > 0 && atomic_load(&allocations) > 0)
    atomic_fetch_sub(&allocations, 1);
  return __libc_realloc(block, size);
}

/* Wherever memory runs out, the future fails, and the host goes on. */
static void memory(void) {
  char path[512];
  lua_Integer before = live();
  tr_host *host = host_with(NULL, NULL);
  tr_plan *plan = NULL;
  long n;
  in_folder(path, "manifest.toml");
  for (n = 0; plan == NULL; n += 1 + n / 16) {
    tr_error error;
    tr_future *future;
    atomic_store(&allocations, n);
    future = start_plan(host, path);
    if (tr_future_wait(future, PATIENCE, NULL, &error) == TR_READY)
      plan = tr_future_take_plan(future);
    else
      CHECK(error.kind != TR_OK && error.message[0] != '\0');
    atomic_store(&allocations, -1);
    tr_future_release(future);
  }
  CHECK(n > 100);
  tr_plan_free(plan);
  CHECK(comes_down_to(before));
  tr_host_free(host);
}

#else
static void memory(void) {} /* realloc is the sanitizer's */
#endif

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {{"same", same},           {"raising", raising},
               {"refused", refused},     {"many", many},
               {"event_loop", event_loop}, {"progress", progress},
               {"callback", callback},   {"cancelled", cancelled},
               {"deadlines", deadlines}, {"interrupted", interrupted},
               {"freed", freed},         {"forked", forked},
               {"idle", idle},           {"memory", memory}};
  size_t i;
  CHECK(argc == 4);
  folder = argv[2];
  server = argv[3];
  for (i = 0; i < sizeof cases / sizeof *cases; i++)
    if (strcmp(cases[i].name, argv[1]) == 0) {
      cases[i].run();
      return 0;
    }
  CHECK(!"an unknown case");
}
