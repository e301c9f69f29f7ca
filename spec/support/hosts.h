/* Shared by the programs that are hosts in C. */
#ifndef HOSTS_H
#define HOSTS_H

#include <errno.h>
#include <lauxlib.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <theaterref.h>
#include <unistd.h>

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what);               \
      _exit(1);                                                                \
    }                                                                          \
  } while (0)

static const char *folder;

static inline const char *in_folder(char *path, const char *name) {
  snprintf(path, 512, "%s/%s", folder, name);
  return path;
}

/* --------------------------------------------------------- what is alive */

/* How many blobs the process holds. */
static inline lua_Integer live(void) {
  static lua_State *L;
  lua_Integer count;
  if (L == NULL) {
    L = luaL_newstate();
    luaL_requiref(L, "theaterref.core", luaopen_theaterref_core, 0);
  }
  lua_getfield(L, 1, "live_blobs");
  lua_call(L, 0, 1);
  count = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return count;
}

/* The library's threads may hold a blob for a moment longer. */
static inline bool comes_down_to(lua_Integer count) {
  int i;
  for (i = 0; i < 5000 && live() != count; i++)
    usleep(1000);
  return live() == count;
}

/* Bytes of memory in use; sanitizers keep what was freed, so 0 for those. */
static inline size_t resident(void) {
  size_t pages = 0;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%*u %zu", &pages) == 1);
  fclose(file);
#endif
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Wait for a child that succeeds. */
static inline void check_child(pid_t child) {
  int status;
  CHECK(child >= 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* -------------------------------------------------------- hosts in a sink */

/* A host whose log sink, the program's own, has 'act' called once. It logs everything. */
typedef struct scene {
  tr_host *host;
  void (*act)(struct scene *scene);
  tr_future *future; /* for 'act' */
  atomic_int acts; /* another host's thread may call the sink */
  sem_t inside, go_on;
} scene;

static inline void prepare(scene *s, tr_log_sink sink,
                           void (*act_once)(scene *s)) {
  tr_host_options o = TR_HOST_OPTIONS;
  tr_error error;
  memset(s, 0, sizeof *s);
  s->act = act_once;
  CHECK(sem_init(&s->inside, 0, 0) == 0 && sem_init(&s->go_on, 0, 0) == 0);
  o.log = "debug";
  o.log_sink = sink;
  o.log_context = s;
  s->host = tr_host_new(&o, &error);
  CHECK(s->host != NULL);
}

static inline void wait_for(sem_t *semaphore) {
  while (sem_wait(semaphore) != 0)
    CHECK(errno == EINTR);
}

static inline void *resolve_actor(void *context) {
  char path[512];
  const scene *s = context;
  tr_blob *blob =
      tr_host_resolve(s->host, in_folder(path, "actor.wasm"), NULL, NULL);
  CHECK(blob != NULL && s->acts > 0);
  tr_blob_release(blob);
  return NULL;
}

/* What 'act' is for a host that is to be busy. */
static inline void block(scene *s) {
  sem_post(&s->inside);
  wait_for(&s->go_on);
}

/* Have a thread call the host, and return while it is in its sink. */
static inline void occupy(scene *s, pthread_t *thread) {
  CHECK(pthread_create(thread, NULL, resolve_actor, s) == 0);
  wait_for(&s->inside);
}

static inline void free_up(scene *s, pthread_t thread) {
  sem_post(&s->go_on);
  CHECK(pthread_join(thread, NULL) == 0);
}

#endif
