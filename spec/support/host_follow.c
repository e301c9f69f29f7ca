/*
** Followers of hosts in C, for spec/core/host_follow_spec.lua. Prints the check that fails,
** if any.
**
**   host_follow CASE FOLDER   run one of the cases at the end of this file
*/
#include <stdlib.h>

#include "hosts.h"

enum { FOLLOWERS = 50 };

/* The last call back of a follower. */
typedef struct seen {
  pthread_mutex_t lock;
  int contents, failures;
  char text[64];
  tr_error_kind kind;
  tr_host *host;
  tr_follower *follower;     /* to be freed in the call, or NULL */
  sem_t inside, go_on;
  atomic_bool blocks;
} seen;

static void init(seen *s) {
  memset(s, 0, sizeof *s);
  pthread_mutex_init(&s->lock, NULL);
  CHECK(sem_init(&s->inside, 0, 0) == 0 && sem_init(&s->go_on, 0, 0) == 0);
}

static void call(void *context, const char *reference, tr_blob *blob, const tr_error *error) {
  seen *s = context;
  CHECK(reference != NULL && (blob == NULL) == (error != NULL));
  pthread_mutex_lock(&s->lock);
  if (blob != NULL) {
    s->contents++;
    snprintf(s->text, sizeof s->text, "%.*s", (int)tr_blob_size(blob),
             (const char *)tr_blob_data(blob));
  } else {
    s->failures++;
    s->kind = error->kind;
  }
  pthread_mutex_unlock(&s->lock);
  if (atomic_load(&s->blocks)) {
    sem_post(&s->inside);
    wait_for(&s->go_on);
  }
}

static tr_host *new_host(void) {
  tr_host_options o = TR_HOST_OPTIONS;
  tr_host *host;
  o.log = "off";
  host = tr_host_new(&o, NULL);
  CHECK(host != NULL);
  return host;
}

static void write_file(const char *name, const char *text) {
  char path[512];
  tr_error error;
  CHECK(tr_file_write(in_folder(path, name), text, strlen(text), false, &error));
}

static tr_follower *follow(tr_host *host, const char *name, tr_follow_call with, void *context) {
  char path[512];
  tr_follow_options o = TR_FOLLOW_OPTIONS;
  tr_error error;
  tr_follower *f;
  o.interval = 3600;
  f = tr_host_follow(host, in_folder(path, name), &o, with, context, &error);
  CHECK(f != NULL);
  return f;
}

/* Wait until there were so many contents and failures. */
static void await(seen *s, int expected, int failures) {
  int i;
  bool done = false;
  for (i = 0; i < 30000 && !done; i++) {
    pthread_mutex_lock(&s->lock);
    done = s->contents >= expected && s->failures >= failures;
    pthread_mutex_unlock(&s->lock);
    usleep(1000);
  }
  pthread_mutex_lock(&s->lock);
  CHECK(done && s->contents == expected && s->failures == failures);
  pthread_mutex_unlock(&s->lock);
}

static int contents(seen *s) {
  int count;
  pthread_mutex_lock(&s->lock);
  count = s->contents;
  pthread_mutex_unlock(&s->lock);
  return count;
}

/* True if the last content was this. */
static bool has(seen *s, const char *text) {
  bool same;
  pthread_mutex_lock(&s->lock);
  same = strcmp(s->text, text) == 0;
  pthread_mutex_unlock(&s->lock);
  return same;
}

static void changes(void) {
  tr_host *host = new_host();
  seen s;
  tr_follower *f;
  char path[512];
  init(&s);
  write_file("file", "one");
  f = follow(host, "file", call, &s);
  await(&s, 1, 0);
  CHECK(has(&s, "one"));
  write_file("file", "two");
  await(&s, 2, 0);
  CHECK(has(&s, "two"));
  CHECK(unlink(in_folder(path, "file")) == 0);
  await(&s, 2, 1);
  pthread_mutex_lock(&s.lock);
  CHECK(s.kind == TR_NOT_FOUND);
  pthread_mutex_unlock(&s.lock);
  write_file("file", "three");
  await(&s, 3, 1);
  tr_follower_free(f);
  write_file("file", "four");
  usleep(100000);
  CHECK(contents(&s) == 3);
  tr_host_free(host);
}

/* Plan with the host in the callback, and free the follower there. */
static void use_host(void *context, const char *reference, tr_blob *blob,
                     const tr_error *error) {
  seen *s = context;
  tr_error refused;
  tr_blob *bytes = tr_host_resolve(s->host, reference, NULL, NULL);
  tr_future *future = tr_host_start_resolve(s->host, reference, NULL, NULL);
  CHECK(error == NULL && bytes != NULL && future != NULL);
  CHECK(tr_blob_size(bytes) == tr_blob_size(blob));
  CHECK(tr_future_wait(future, 60, NULL, &refused) == TR_PENDING);
  CHECK(refused.kind == TR_POLICY);
  tr_future_release(future);
  tr_blob_release(bytes);
  pthread_mutex_lock(&s->lock); /* by now the follower is there */
  tr_follower_free(s->follower);
  s->contents++;
  pthread_mutex_unlock(&s->lock);
}

static void inside(void) {
  seen s;
  init(&s);
  s.host = new_host();
  write_file("file", "one");
  pthread_mutex_lock(&s.lock);
  s.follower = follow(s.host, "file", use_host, &s);
  pthread_mutex_unlock(&s.lock);
  await(&s, 1, 0);
  write_file("file", "two");
  usleep(100000);
  CHECK(contents(&s) == 1);
  tr_host_free(s.host);
}

static void *free_follower(void *follower) {
  tr_follower_free(follower);
  return NULL;
}

/* Freeing waits for a call that is under way, and is allowed once the host is gone. */
static void freed(void) {
  tr_host *host = new_host();
  lua_Integer before = live();
  seen s, t;
  tr_follower *f, *g;
  pthread_t thread;
  init(&s);
  init(&t);
  write_file("file", "one");
  f = follow(host, "file", call, &s);
  g = follow(host, "file", call, &t);
  await(&s, 1, 0);
  await(&t, 1, 0);
  atomic_store(&s.blocks, true);
  write_file("file", "two");
  wait_for(&s.inside);
  CHECK(pthread_create(&thread, NULL, free_follower, f) == 0);
  usleep(50000);
  write_file("file", "three");
  CHECK(pthread_tryjoin_np(thread, NULL) == EBUSY);
  sem_post(&s.go_on);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(contents(&s) == 2);
  tr_host_free(host);
  tr_follower_free(g);
  tr_follower_free(NULL);
  CHECK(tr_cache_open("theaterref.follow", NULL, NULL) != NULL);
  tr_cache_clear(tr_cache_open("theaterref.follow", NULL, NULL));
  CHECK(comes_down_to(before));
}

static void *host_thread(void *context) {
  tr_host *host = new_host();
  tr_follower *followers[FOLLOWERS];
  seen *s = context;
  char name[32];
  int i;
  for (i = 0; i < FOLLOWERS; i++) {
    snprintf(name, sizeof name, "file%d", i % 2);
    followers[i] = follow(host, name, call, s);
  }
  await(s, FOLLOWERS, 0);
  sem_post(&s->inside);
  await(s, 2 * FOLLOWERS, 0);
  for (i = 0; i < FOLLOWERS; i++)
    tr_follower_free(followers[i]);
  tr_host_free(host);
  return NULL;
}

static void many(void) {
  enum { HOSTS = 4 };
  pthread_t threads[HOSTS];
  seen s[HOSTS];
  int i;
  write_file("file0", "one");
  write_file("file1", "two");
  for (i = 0; i < HOSTS; i++) {
    init(&s[i]);
    CHECK(pthread_create(&threads[i], NULL, host_thread, &s[i]) == 0);
  }
  for (i = 0; i < HOSTS; i++)
    wait_for(&s[i].inside);
  write_file("file0", "three");
  write_file("file1", "four");
  for (i = 0; i < HOSTS; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
}

static void refused(void) {
  tr_host *host = new_host();
  tr_follow_options o = TR_FOLLOW_OPTIONS;
  tr_error error;
  seen s;
  init(&s);
  o.interval = -1;
  CHECK(tr_host_follow(host, "x", &o, call, &s, &error) == NULL && error.kind == TR_POLICY);
  o.interval = 1;
  o.jitter = 1.5;
  CHECK(tr_host_follow(host, "x", &o, call, &s, &error) == NULL && error.kind == TR_POLICY);
  o.size = 0;
  CHECK(tr_host_follow(host, "x", &o, call, &s, &error) == NULL && error.kind == TR_POLICY);
  tr_host_free(host);
}

/* A child's host follows anew with its next follower; the parent's goes on. */
static void forked(void) {
  tr_host *host = new_host();
  seen s, t;
  tr_follower *f, *g;
  pid_t child;
  init(&s);
  init(&t);
  write_file("file", "one");
  f = follow(host, "file", call, &s);
  await(&s, 1, 0);
  child = fork();
  if (child == 0) {
    alarm(60);
    g = follow(host, "file", call, &t);
    await(&t, 1, 0);
    write_file("file", "two");
    await(&s, 2, 0);
    await(&t, 2, 0);
    tr_follower_free(f);
    tr_follower_free(g);
    tr_host_free(host);
    _exit(0);
  }
  check_child(child);
  await(&s, 2, 0);
  tr_follower_free(f);
  tr_host_free(host);
}

static tr_blob *count_up(void *context, tr_blob *blob, tr_error *error) {
  (void)error;
  atomic_fetch_add((atomic_int *)context, 1);
  return tr_blob_retain(blob);
}

static tr_blob *fails(void *context, tr_blob *blob, tr_error *error) {
  (void)blob;
  *error = *(tr_error *)context;
  return NULL;
}

static tr_blob *says_nothing(void *context, tr_blob *blob, tr_error *error) {
  (void)context;
  (void)blob;
  (void)error;
  return NULL;
}

typedef struct deriving {
  tr_cache *cache;
  atomic_int made;
} deriving;

static void *derive(void *context) {
  deriving *d = context;
  tr_blob *package = tr_blob_new("package", 7), *made;
  made = tr_derive(d->cache, package, "count", 60, count_up, &d->made, NULL);
  CHECK(made != NULL && tr_blob_size(made) == 7);
  tr_blob_release(made);
  tr_blob_release(package);
  return NULL;
}

/* Return the value of a metric. */
static unsigned long metric(const char *name) {
  tr_blob *text = tr_metrics(NULL);
  const char *at = strstr(tr_blob_data(text), name);
  unsigned long value = at != NULL ? strtoul(at + strlen(name), NULL, 10) : 0;
  CHECK(at != NULL);
  tr_blob_release(text);
  return value;
}

/* Code on disk that others could have written is computed again, and counted. */
static void tampered(void) {
  static const char corrupt[] = "theaterref_corruptions_total{place=\"disk_cache\"} ";
  tr_cache_options o = TR_CACHE_OPTIONS;
  deriving d = {.made = 0};
  char path[512], command[600];
  unsigned long before;
  o.disk = in_folder(path, "tampered");
  d.cache = tr_cache_open(NULL, &o, NULL);
  derive(&d);
  before = metric(corrupt);
  snprintf(command, sizeof command, "chmod 666 %s/disk-cache-1/*-*", o.disk);
  CHECK(system(command) == 0);
  tr_cache_clear(d.cache);
  derive(&d);
  CHECK(d.made == 2 && metric(corrupt) == before + 1);
  CHECK(metric("theaterref_derivations_total{from=\"computed\"} ") == 2);
  tr_cache_release(d.cache);
}

/* Two functions, each of which derives what the other makes. */
typedef struct crossing {
  tr_cache *cache;
  const char *own, *other;
  atomic_int *running; /* NULL: there is one */
  tr_error error;
} crossing;

static tr_blob *cross(void *context, tr_blob *blob, tr_error *error) {
  crossing *c = context;
  atomic_int made = 0;
  if (c->running != NULL) {
    atomic_fetch_add(c->running, 1);
    while (*c->running < 2)
      usleep(100);
  }
  return tr_derive(c->cache, blob, c->other, 60, count_up, &made, error);
}

static void *derive_crossing(void *context) {
  crossing *c = context;
  tr_blob *package = tr_blob_new("package", 7);
  CHECK(tr_derive(c->cache, package, c->own, 60, cross, c, &c->error) == NULL);
  tr_blob_release(package);
  return NULL;
}

static void crossed(void) {
  atomic_int running = 0;
  tr_cache *cache = tr_cache_open(NULL, NULL, NULL);
  crossing pair[] = {{.cache = cache, .own = "a", .other = "b", .running = &running},
                     {.cache = cache, .own = "b", .other = "a", .running = &running}},
           own = {.cache = cache, .own = "self", .other = "self"};
  pthread_t threads[2];
  int i;
  for (i = 0; i < 2; i++)
    CHECK(pthread_create(&threads[i], NULL, derive_crossing, &pair[i]) == 0);
  for (i = 0; i < 2; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  for (i = 0; i < 2; i++)
    CHECK(pair[i].error.kind == TR_POLICY && strstr(pair[i].error.message, "each other"));
  derive_crossing(&own);
  CHECK(own.error.kind == TR_POLICY && strstr(own.error.message, "itself"));
  tr_cache_release(cache);
}

static void derived(void) {
  enum { THREADS = 64 };
  pthread_t threads[THREADS];
  tr_cache_options o = TR_CACHE_OPTIONS;
  tr_blob *package = tr_blob_new("package", 7), *made;
  tr_error error, given = {.kind = TR_IO, .message = "no compiler"};
  deriving d = {.made = 0};
  int i;
  o.disk = folder;
  d.cache = tr_cache_open(NULL, &o, NULL);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, derive, &d) == 0);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(d.made == 1);
  tr_cache_clear(d.cache); /* as another process would begin */
  derive(&d);
  CHECK(d.made == 1);
  CHECK(tr_derive(d.cache, package, "fails", -1, fails, &given, &error) == NULL);
  CHECK(error.kind == TR_IO && strcmp(error.message, "no compiler") == 0);
  CHECK(tr_derive(d.cache, package, "fails", -1, says_nothing, NULL, &error) == NULL);
  CHECK(error.kind == TR_POLICY);
  made = tr_derive(d.cache, package, "fails", -1, count_up, &d.made, &error);
  CHECK(made != NULL && d.made == 2);
  CHECK(tr_derive(d.cache, package, "", -1, count_up, &d.made, &error) == NULL);
  CHECK(error.kind == TR_INVALID_REFERENCE);
  tr_blob_release(made);
  tr_blob_release(package);
  tr_cache_release(d.cache);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {{"changes", changes}, {"inside", inside}, {"freed", freed},   {"many", many},
               {"refused", refused}, {"forked", forked}, {"derived", derived},
               {"tampered", tampered}, {"crossed", crossed}};
  size_t i;
  CHECK(argc == 3);
  folder = argv[2];
  for (i = 0; i < sizeof cases / sizeof *cases; i++)
    if (strcmp(argv[1], cases[i].name) == 0) {
      cases[i].run();
      return 0;
    }
  return 2;
}
