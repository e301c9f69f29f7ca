/*
** Hosts in C, for spec/core/host_spec.lua. Prints the check that fails, if any.
**
**   hosts ask [OPTION=VALUE]... plan|resolve REFERENCE
**                            make a host, ask it, and print the answer
**   hosts CASE FOLDER        run one of the cases at the end of this file
*/
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hosts.h"

enum { THREADS = 4, ROUNDS = 25 };

/* ------------------------------------------------------------- answers */

static void print_blob(const char *name, tr_blob *blob) {
  printf("%s: ", name);
  if (blob == NULL)
    printf("none");
  else
    fwrite(tr_blob_data(blob), 1, tr_blob_size(blob), stdout);
  putchar('\n');
}

static void print_plan(const tr_plan *plan) {
  size_t i;
  printf("name: %s\nmanifest_reference: %s\norigin: %s\npackage_reference: %s\n",
         tr_plan_name(plan), tr_plan_manifest_reference(plan),
         tr_plan_origin(plan), tr_plan_package_reference(plan));
  printf("package_type: %s\n", tr_plan_package_type(plan));
  for (i = 0; i < tr_plan_signer_count(plan); i++)
    printf("signer: %s\n", tr_plan_signer(plan, i));
  CHECK(tr_plan_signer(plan, i) == NULL);
  print_blob("manifest", tr_plan_manifest(plan));
  print_blob("package", tr_plan_package(plan));
  print_blob("initial_state", tr_plan_initial_state(plan));
  print_blob("state_without_secrets", tr_plan_state_without_secrets(plan));
  printf("cache: %s, %s\n", tr_plan_used_cache(plan) ? "used" : "not used",
         tr_plan_cache_hit(plan) ? "hit" : "no hit");
  for (i = 0; i < tr_plan_phase_count(plan); i++) {
    CHECK(tr_plan_phase_seconds(plan, i) >= 0);
    printf("phase: %s, %d bytes\n", tr_plan_phase_name(plan, i),
           (int)tr_plan_phase_bytes(plan, i));
  }
  CHECK(tr_plan_phase_name(plan, i) == NULL);
  CHECK(tr_plan_phase_seconds(plan, i) == 0 &&
        tr_plan_phase_bytes(plan, i) == 0);
}

static void print_line(void *context, const char *level, const char *line) {
  printf("%s %s: %s\n", (const char *)context, level, line);
}

/* Set an option, as a string. */
static void set(tr_host_options *o, tr_call_options *call, const char *name,
                const char *value) {
  const struct {
    const char *name, **to;
  } texts[] = {{"config", &o->config},
               {"policy", &o->policy},
               {"home", &o->home},
               {"cache", &o->cache},
               {"lockfile", &o->lockfile},
               {"offline", &o->offline},
               {"ca_file", &o->ca_file},
               {"log", &o->log},
               {"lua_folder", &o->lua_folder},
               {"initial_state", &call->initial_state}};
  size_t i;
  for (i = 0; i < sizeof texts / sizeof *texts; i++)
    if (strcmp(texts[i].name, name) == 0) {
      *texts[i].to = value;
      return;
    }
  if (strcmp(name, "trusted") == 0)
    o->trusted = true;
  else if (strcmp(name, "timeout") == 0)
    o->timeout = atof(value);
  else if (strcmp(name, "call_timeout") == 0)
    call->timeout = atof(value);
  else if (strcmp(name, "log_context") == 0)
    o->log_sink = print_line, o->log_context = (void *)value;
  else
    CHECK(!"an unknown option");
}

static int ask(char **argument) {
  tr_host_options o = TR_HOST_OPTIONS;
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error error;
  tr_plan *plan = NULL;
  tr_blob *blob = NULL;
  tr_host *host;
  char *value;
  for (; (value = strchr(*argument, '=')) != NULL; argument++) {
    *value = '\0';
    set(&o, &call, *argument, value + 1);
  }
  host = tr_host_new(&o, &error);
  if (host != NULL && strcmp(argument[0], "plan") == 0)
    plan = tr_host_plan(host, argument[1], &call, &error);
  else if (host != NULL)
    blob = tr_host_resolve(host, argument[1], &call, &error);
  tr_host_free(host);
  if (plan != NULL)
    print_plan(plan);
  else if (blob != NULL)
    print_blob("bytes", blob);
  else
    printf("%s: %s\n", tr_error_kind_name(error.kind), error.message);
  tr_plan_free(plan);
  tr_blob_release(blob);
  return 0;
}

/* ------------------------------------------------------- between calls */

enum { LARGE = 40 << 20 }; /* malloc returns what is over 32 MiB at once */

/* Between calls a host holds nothing that they brought. $LARGE_URL is a URL. */
static void idle(void) {
  const char *const references[] = {"large", "store://demo/large",
                                    getenv("LARGE_URL")};
  char path[512], home[512], base[512];
  tr_host_options o = TR_HOST_OPTIONS;
  tr_error error;
  tr_cache *cache = tr_cache_open("idle", NULL, &error);
  tr_plan *plan;
  lua_Integer before = live();
  size_t memory = 0;
  int cached, i, round;
  o.home = in_folder(home, "home");
  CHECK(chdir(in_folder(base, "")) == 0);
  for (cached = 0; cached < 2; cached++) {
    tr_host *hosts[3];
    for (i = 0; i < 3; i++) {
      o.cache = cached ? "idle" : NULL;
      hosts[i] = tr_host_new(&o, &error);
      CHECK(hosts[i] != NULL);
    }
    for (round = 0; round < 3; round++) {
      if (round == 1)
        memory = resident();
      for (i = 0; i < 3; i++) {
        tr_blob *blob = tr_host_resolve(hosts[i], references[i], NULL, &error);
        CHECK(blob != NULL && tr_blob_size(blob) == LARGE);
        tr_blob_release(blob);
      }
      plan = tr_host_plan(hosts[2], in_folder(path, "large.toml"), NULL,
                          &error);
      CHECK(plan != NULL && tr_blob_size(tr_plan_package(plan)) == LARGE);
      tr_plan_free(plan);
      CHECK(tr_host_plan(hosts[2], in_folder(path, "broken.toml"), NULL,
                         &error) == NULL);
      CHECK(error.kind == TR_SYNTAX);
      tr_cache_clear(cache);
      CHECK(comes_down_to(before));
      CHECK(resident() < memory + LARGE / 4 || round == 0);
    }
    for (i = 0; i < 3; i++)
      tr_host_free(hosts[i]);
  }
  tr_cache_release(cache);
}

/* ------------------------------------------------------------- callbacks */

static void act(void *context, const char *level, const char *line) {
  scene *s = context;
  CHECK(strcmp(level, "debug") == 0 && strchr(line, '\n') == NULL);
  if (s->acts++ == 0 && s->act != NULL)
    s->act(s);
}

static void call_host(scene *s) {
  char path[512];
  tr_error error;
  scene other;
  CHECK(tr_host_resolve(s->host, in_folder(path, "actor.wasm"), NULL, &error) ==
        NULL);
  CHECK(error.kind == TR_POLICY && strstr(error.message, "callback") != NULL);
  CHECK(tr_host_plan(s->host, in_folder(path, "manifest.toml"), NULL, &error) ==
        NULL);
  CHECK(error.kind == TR_POLICY);
  prepare(&other, act, NULL);
  resolve_actor(&other);
  tr_host_free(other.host);
}

/* A sink that calls its own host gets an error; another host answers it. */
static void callback(void) {
  scene s;
  prepare(&s, act, call_host);
  resolve_actor(&s);
  resolve_actor(&s);
  tr_host_free(s.host);
}

/* The two hosts of 'crossed', and the errors that their sinks got. */
static scene crossed_scenes[2];
static pthread_barrier_t both_inside;
static atomic_int refused;

static void call_other(scene *s) {
  char path[512];
  tr_error error;
  scene *other = &crossed_scenes[s == crossed_scenes];
  tr_blob *blob;
  pthread_barrier_wait(&both_inside);
  blob = tr_host_resolve(other->host, in_folder(path, "actor.wasm"), NULL,
                         &error);
  if (blob == NULL) {
    CHECK(error.kind == TR_POLICY && strstr(error.message, "callback") != NULL);
    refused++;
  }
  tr_blob_release(blob);
}

/* Two hosts, each of whose sinks calls the other: one of them gets an error. */
static void crossed(void) {
  pthread_t threads_[2];
  size_t i;
  CHECK(pthread_barrier_init(&both_inside, NULL, 2) == 0);
  for (i = 0; i < 2; i++)
    prepare(&crossed_scenes[i], act, call_other);
  for (i = 0; i < 2; i++)
    CHECK(pthread_create(&threads_[i], NULL, resolve_actor,
                         &crossed_scenes[i]) == 0);
  for (i = 0; i < 2; i++)
    CHECK(pthread_join(threads_[i], NULL) == 0);
  CHECK(refused == 1);
  for (i = 0; i < 2; i++)
    tr_host_free(crossed_scenes[i].host);
}

/* Begin a call on a thread, and return while it is in its sink. */
static void begin(scene *s, pthread_t *thread) {
  prepare(s, act, block);
  occupy(s, thread);
}

static void end(scene *s, pthread_t thread) {
  free_up(s, thread);
  resolve_actor(s);
  tr_host_free(s->host);
}

/* A call waits for its turn as long as its timeout says, or until an interrupt. */
static void turns(void) {
  tr_call_options call = TR_CALL_OPTIONS;
  tr_error error;
  pthread_t thread;
  scene s;
  begin(&s, &thread);
  call.timeout = 0.01;
  CHECK(tr_host_resolve(s.host, "x", &call, &error) == NULL);
  CHECK(error.kind == TR_TIMEOUT && strstr(error.message, "no turn") != NULL);
  call.timeout = NAN; /* no time at all */
  CHECK(tr_host_resolve(s.host, "x", &call, &error) == NULL);
  CHECK(error.kind == TR_TIMEOUT);
  tr_interrupt(true);
  CHECK(tr_host_plan(s.host, "x", NULL, &error) == NULL);
  CHECK(error.kind == TR_CANCELLED);
  tr_interrupt(false);
  end(&s, thread);
}

/* A forked child gets an error from a host that another thread was using. */
static void forked(void) {
  tr_error error;
  pthread_t thread;
  pid_t child;
  scene busy, free_one;
  begin(&busy, &thread);
  prepare(&free_one, act, NULL);
  child = fork();
  if (child == 0) {
    alarm(60); /* rather than hang */
    CHECK(tr_host_resolve(busy.host, "x", NULL, &error) == NULL);
    CHECK(error.kind == TR_POLICY && strstr(error.message, "fork") != NULL);
    tr_host_free(busy.host);
    resolve_actor(&free_one);
    tr_host_free(free_one.host);
    prepare(&free_one, act, NULL);
    resolve_actor(&free_one);
    _exit(0);
  }
  check_child(child);
  end(&busy, thread);
  resolve_actor(&free_one);
  tr_host_free(free_one.host);
}

/* ---------------------------------------------------------------- memory */

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* Lua's allocations go through realloc. So many succeed; below 0: all. */
static _Thread_local long allocations = -1;

extern void *__libc_realloc(void *block, size_t size);

void *realloc(void *block, size_t size) {
  if (allocations == 0 && size > 0)
    return NULL;
  if (allocations > 0)
    allocations--;
  return __libc_realloc(block, size);
}

/* Wherever memory runs out, a host reports it and goes on when there is some. */
static void memory(void) {
  char path[512], conf[512], manifest[512];
  tr_host_options o = TR_HOST_OPTIONS;
  tr_error error;
  tr_host *host = NULL;
  tr_plan *plan = NULL;
  lua_Integer before = live();
  long n, failures = 0;
  o.policy = in_folder(path, "policy.lua");
  o.config = in_folder(conf, "conf.lua");
  in_folder(manifest, "manifest.toml");
  for (n = 0; host == NULL; n += 1 + n / 16, failures += host == NULL) {
    error.message[0] = '\0';
    allocations = n;
    host = tr_host_new(&o, &error);
    allocations = -1;
    CHECK(host != NULL || (error.kind != TR_OK && error.message[0] != '\0'));
  }
  tr_host_free(host);
  o.policy = NULL;
  host = tr_host_new(&o, &error);
  for (n = 0; plan == NULL; n += 1 + n / 16, failures += plan == NULL) {
    error.message[0] = '\0';
    allocations = n;
    plan = tr_host_plan(host, manifest, NULL, &error);
    allocations = -1;
    CHECK(plan != NULL || (error.kind != TR_OK && error.message[0] != '\0'));
  }
  CHECK(failures > 50);
  tr_plan_free(plan);
  tr_host_free(host);
  CHECK(comes_down_to(before));
}

#else
static void memory(void) {} /* realloc is the sanitizer's */
#endif

/* ---------------------------------------------------------------- caches */

/* A cache is opened with options, and then named: by a host, and here. */
static void caches(void) {
  char path[512], manifest[512];
  tr_cache_options mine = TR_CACHE_OPTIONS, other = TR_CACHE_OPTIONS;
  tr_host_options o = TR_HOST_OPTIONS;
  tr_error error;
  tr_cache *cache, *again;
  tr_host *host;
  tr_blob *blob;
  tr_plan *plan;
  mine.max_bytes = 1 << 20;
  mine.ttl = 60;
  cache = tr_cache_open("mine", &mine, &error);
  CHECK(cache != NULL);
  o.cache = "mine";
  host = tr_host_new(&o, &error);
  CHECK(host != NULL);
  blob = tr_host_resolve(host, in_folder(path, "actor.wasm"), NULL, &error);
  CHECK(blob != NULL && tr_cache_len(cache) == 1);
  plan = tr_host_plan(host, in_folder(manifest, "manifest.toml"), NULL, &error);
  CHECK(plan != NULL && tr_plan_cache_hit(plan));
  CHECK(tr_plan_package(plan) == blob); /* the same memory */
  tr_plan_free(plan);
  tr_blob_release(blob);
  again = tr_cache_open("mine", NULL, &error);
  CHECK(again == cache);
  tr_cache_release(again);
  CHECK(tr_cache_open("mine", &other, NULL) == NULL);
  CHECK(tr_cache_open("mine", &other, &error) == NULL && error.kind == TR_IO);
  again = tr_cache_open(NULL, NULL, NULL);
  CHECK(again != NULL && again != cache);
  tr_cache_release(again);
  again = tr_cache_open("defaults", NULL, NULL);
  CHECK(again != NULL && tr_cache_open("defaults", &other, &error) == again);
  tr_cache_release(again);
  tr_cache_release(again);
  tr_host_free(host);
  tr_cache_release(cache);
}

/* --------------------------------------------------------------- threads */

static atomic_int lines;

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
  CHECK(error.kind == TR_NOT_FOUND && error.errnum == ENOENT);
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

/* Hosts on threads, each with its own state, over one cache. */
static void threads(void) {
  pthread_t threads[THREADS];
  tr_error error;
  tr_host *shared = make(NULL, &error);
  int i;
  CHECK(shared != NULL);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, work, shared) == 0);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  tr_host_free(shared);
  CHECK(atomic_load(&lines) == 300);
}

/* ---------------------------------------------------------- all the cases */

/* Hosts and calls that are refused. */
static void refuse(void) {
  char path[512];
  tr_error error;
  tr_host_options o = TR_HOST_OPTIONS;
  tr_call_options call = TR_CALL_OPTIONS;
  tr_host *host;
  o.config = in_folder(path, "none.lua");
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_NOT_FOUND);
  CHECK(tr_host_new(&o, NULL) == NULL);
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
  o.log = NULL;
  o.timeout = NAN;
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_POLICY);
  o.size = 0;
  CHECK(tr_host_new(&o, &error) == NULL && error.kind == TR_POLICY);
  host = tr_host_new(NULL, &error);
  CHECK(host != NULL);
  call.size = 1 << 20;
  CHECK(tr_host_plan(host, "x", &call, &error) == NULL);
  CHECK(error.kind == TR_POLICY);
  CHECK(tr_host_resolve(host, "x", &call, &error) == NULL);
  CHECK(error.kind == TR_POLICY);
  CHECK(tr_host_resolve(host, NULL, NULL, &error) == NULL);
  CHECK(tr_host_plan(host, NULL, NULL, NULL) == NULL);
  tr_host_free(host);
  tr_host_free(NULL);
  tr_plan_free(NULL);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {{"threads", threads},   {"refuse", refuse}, {"idle", idle},
               {"callback", callback}, {"crossed", crossed}, {"turns", turns},   {"forked", forked},
               {"memory", memory},     {"caches", caches}};
  size_t i;
  if (argc > 3 && strcmp(argv[1], "ask") == 0)
    return ask(argv + 2);
  CHECK(argc == 3);
  folder = argv[2];
  for (i = 0; i < sizeof cases / sizeof *cases; i++)
    if (strcmp(cases[i].name, argv[1]) == 0) {
      cases[i].run();
      return 0;
    }
  CHECK(!"an unknown case");
}
