/*
** Hosts on threads, each with its own state, over one cache: what goes well and
** what does not. Prints what a spec expects, or says what went wrong.
**
**   hosts FOLDER      with manifest.toml, actor.wasm, policy.lua, conf.lua
*/
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <theaterref.h>

enum { THREADS = 4, ROUNDS = 25 };

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what);               \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static const char *folder;
static atomic_int lines;

static const char *in_folder(char *path, const char *name) {
  snprintf(path, 512, "%s/%s", folder, name);
  return path;
}

static void count_line(void *context, const char *level, const char *line) {
  CHECK(context == &lines && strcmp(level, "info") == 0);
  CHECK(strstr(line, "refused as package: closed") != NULL ||
        strstr(line, " failed: ") != NULL);
  atomic_fetch_add(&lines, 1);
}

static tr_host *make(const char *policy, tr_error *error) {
  char config[512], script[512];
  tr_host_options o = TR_HOST_OPTIONS;
  o.config = in_folder(config, "conf.lua");
  o.policy = policy != NULL ? in_folder(script, policy) : NULL;
  o.cache = "hosts";
  o.log = "info";
  o.log_sink = count_line;
  o.log_context = &lines;
  return tr_host_new(&o, error);
}

static void plan(tr_host *host) {
  char path[512];
  tr_error error;
  tr_call_options call = TR_CALL_OPTIONS;
  tr_blob *blob, *again;
  tr_plan *plan;
  call.initial_state = "{\"port\":1}";
  plan = tr_host_plan(host, in_folder(path, "manifest.toml"), &call, &error);
  CHECK(plan != NULL && strcmp(tr_plan_name(plan), "worker") == 0);
  CHECK(tr_plan_used_cache(plan) && tr_blob_size(tr_plan_package(plan)) == 4);
  CHECK(tr_blob_size(tr_plan_initial_state(plan)) == strlen("{\"port\":1}"));
  blob = tr_blob_retain(tr_plan_package(plan));
  tr_plan_free(plan);
  CHECK(memcmp(tr_blob_data(blob), "\0asm", 4) == 0); /* outlives its plan */
  again = tr_host_resolve(host, in_folder(path, "actor.wasm"), NULL, &error);
  CHECK(again == blob); /* by the same name: what the cache has */
  tr_blob_release(again);
  tr_blob_release(blob);
}

static void fail(tr_host *host, tr_host *closed) {
  char path[512];
  tr_error error;
  CHECK(tr_host_plan(closed, in_folder(path, "manifest.toml"), NULL, &error) ==
        NULL);
  CHECK(error.kind == TR_DENIED && strstr(error.message, "closed") != NULL);
  CHECK(tr_host_resolve(host, "http://127.0.0.1:1/", NULL, &error) == NULL);
  CHECK(error.kind == TR_NETWORK && error.status == 0);
  CHECK(tr_host_resolve(host, "store://x", NULL, &error) == NULL);
  CHECK(error.kind == TR_INVALID_REFERENCE);
  CHECK(tr_host_plan(host, in_folder(path, "none.toml"), NULL, &error) == NULL);
  CHECK(error.kind == TR_NOT_FOUND);
}

static void *work(void *shared) {
  tr_error error;
  tr_host *own = make(NULL, &error), *closed = make("policy.lua", &error);
  int i;
  CHECK(own != NULL && closed != NULL);
  for (i = 0; i < ROUNDS; i++) {
    plan(own);
    plan(shared); /* which takes turns */
    fail(i % 2 == 0 ? own : shared, closed);
  }
  tr_host_free(own);
  tr_host_free(closed);
  return NULL;
}

/* Hosts that cannot be made. */
static void refuse(void) {
  char path[512];
  tr_error error;
  tr_host_options o = TR_HOST_OPTIONS;
  o.config = in_folder(path, "none.lua");
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_NOT_FOUND);
  o.config = in_folder(path, "manifest.toml");
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_SYNTAX);
  o.config = NULL;
  o.policy = in_folder(path, "none.lua");
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_NOT_FOUND);
  o.policy = in_folder(path, "actor.wasm");
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_POLICY);
  o.policy = NULL;
  o.log = "loud";
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_POLICY);
  tr_host_free(NULL);
  tr_plan_free(NULL);
}

int main(int argc, char **argv) {
  pthread_t threads[THREADS];
  tr_cache_options options = TR_CACHE_OPTIONS;
  tr_cache *cache;
  tr_error error;
  tr_host *shared;
  int i;
  CHECK(argc == 2);
  folder = argv[1];
  refuse();
  options.max_entries = 1000; /* hosts name the cache, whatever its options */
  cache = tr_cache_open("hosts", &options, &error);
  CHECK(cache != NULL);
  shared = make(NULL, &error);
  CHECK(shared != NULL);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, work, shared) == 0);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  tr_host_free(shared);
  CHECK(tr_cache_len(cache) == 1);
  tr_cache_release(cache);
  printf("%d plans, %d lines\n", 2 * THREADS * ROUNDS, atomic_load(&lines));
  return 0;
}
