/* Checks of the C API that only a program in C can make. argv: what, a URL. */
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <theaterref.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);               \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static const char *url;

static tr_future *start(const tr_fetch_options *options) {
  tr_future *future = tr_future_create();
  tr_error error;
  CHECK(future != NULL);
  CHECK(tr_fetch(future, url, options, &error));
  return future;
}

/* Fetches until the process ends, which it is told by a failure. */
static void *fetch_for_ever(void *unused) {
  bool fetching = true;
  (void)unused;
  while (fetching) {
    tr_future *future = tr_future_create();
    fetching = tr_fetch(future, url, NULL, NULL);
    if (fetching)
      tr_future_wait(future, -1, NULL, NULL);
    tr_future_release(future);
  }
  return NULL;
}

/* The process ends while threads drive the engine. */
static void end_amid_fetches(void) {
  struct timespec pause = {0, 30 * 1000 * 1000};
  tr_future *first = start(NULL); /* opens libcurl, which may take its time */
  pthread_t thread;
  int i;
  CHECK(tr_future_wait(first, 10, NULL, NULL) == TR_READY);
  tr_future_release(first);
  for (i = 0; i < 4; i++)
    CHECK(pthread_create(&thread, NULL, fetch_for_ever, NULL) == 0 &&
          pthread_detach(thread) == 0);
  nanosleep(&pause, NULL);
  exit(0);
}

/* An exit handler, registered before OpenSSL's could be. */
static void use_openssl(void) {
  void *library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_NOLOAD), *address;
  int (*init)(uint64_t, const void *);
  if (library == NULL)
    return;
  address = dlsym(library, "OPENSSL_init_crypto");
  memcpy(&init, &address, sizeof address);
  if (init(0, NULL) != 1)
    _exit(3); /* it was cleaned up */
}

/* OpenSSL works until the process is gone, for the threads that still use it. */
static void keep_openssl(void) {
  CHECK(atexit(use_openssl) == 0);
  CHECK(tr_curl_version() != NULL);
}

static atomic_bool memory_is_short;

static void *allocate(size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return atomic_load(&memory_is_short) ? NULL : malloc(size);
}

static void *reallocate(void *old, size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return atomic_load(&memory_is_short) ? NULL : realloc(old, size);
}

static void deallocate(void *memory, const char *file, int line) {
  (void)file;
  (void)line;
  free(memory);
}

/* A digest is right though OpenSSL has no memory for it. */
static void hash_without_memory(void) {
  static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca4"
                              "95991b7852b855";
  void *library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL), *address;
  int (*set)(void *(*)(size_t, const char *, int),
             void *(*)(void *, size_t, const char *, int),
             void (*)(void *, const char *, int));
  char hex[TR_HEX_MAX];
  if (library != NULL) {
    address = dlsym(library, "CRYPTO_set_mem_functions");
    memcpy(&set, &address, sizeof address);
    CHECK(set(allocate, reallocate, deallocate) == 1);
  }
  CHECK(tr_curl_version() != NULL);
  atomic_store(&memory_is_short, true);
  tr_digest(TR_SHA256, "", 0, hex);
  atomic_store(&memory_is_short, false);
  CHECK(strcmp(hex, empty) == 0);
}

static atomic_bool opening = true;

/* Open descriptors that a child is to inherit. */
static void *open_for_children(void *lost) {
  while (atomic_load(&opening)) {
    int fds[32], i;
    for (i = 0; i < 32; i++)
      fds[i] = open("/dev/null", O_RDONLY);
    for (i = 0; i < 32; i++) {
      if ((fcntl(fds[i], F_GETFD) & FD_CLOEXEC) != 0)
        atomic_fetch_add((atomic_int *)lost, 1);
      close(fds[i]);
    }
  }
  return NULL;
}

static void start_beside_a_program(void) {
  atomic_int lost = 0;
  pthread_t thread;
  int i;
  CHECK(pthread_create(&thread, NULL, open_for_children, &lost) == 0);
  for (i = 0; i < 100; i++) {
    tr_future *future = start(NULL);
    CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
    tr_future_release(future);
    tr_shutdown();
  }
  atomic_store(&opening, false);
  CHECK(pthread_join(thread, NULL) == 0 && atomic_load(&lost) == 0);
}

/* A fork when there is no descriptor left wakes nobody in the parent. */
static void fork_crowded(void) {
  tr_future *future = tr_future_create();
  struct pollfd look = {.fd = tr_future_fd(future), .events = POLLIN};
  struct rlimit limit;
  pid_t child;
  int status;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = 0;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  child = fork();
  CHECK(child >= 0);
  if (child == 0)
    _exit(tr_future_get_status(future) == TR_ABANDONED ? 0 : 1);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(poll(&look, 0, 0) == 0);
  limit.rlim_cur = limit.rlim_max;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(poll(&look, 1, 0) == 0 && tr_future_get_status(future) == TR_PENDING);
  tr_future_release(future);
}

/* A signal for the process reaches the program's own sigtimedwait. */
static void wait_for_signal(void) {
  struct timespec patience = {5, 0};
  tr_future *future;
  tr_blob *blob = NULL;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  future = start(NULL);
  CHECK(tr_future_wait(future, 10, &blob, NULL) == TR_READY);
  tr_blob_release(blob);
  tr_future_release(future);
  pthread_sigmask(SIG_BLOCK, &set, NULL); /* after the threads are there */
  CHECK(kill(getpid(), SIGUSR1) == 0);
  CHECK(sigtimedwait(&set, NULL, &patience) == SIGUSR1);
}

static void on_alarm(int signal) {
  (void)signal;
  tr_interrupt(true);
}

/* A signal handler ends a wait without a limit. */
static void interrupt(void) {
  struct itimerval soon = {.it_value = {.tv_usec = 100 * 1000}};
  tr_future *future;
  tr_error error;
  signal(SIGALRM, on_alarm);
  CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
  future = start(NULL);
  CHECK(tr_future_wait(future, -1, NULL, &error) == TR_PENDING);
  CHECK(error.kind == TR_CANCELLED);
  tr_interrupt(false);
  CHECK(tr_future_wait(future, 0.01, NULL, &error) == TR_PENDING);
  CHECK(error.kind == TR_TIMEOUT);
  tr_future_release(future);
}

/* Structs that were zeroed, not initialised, are refused. */
static void refuse_zeroed(void) {
  tr_fetch_options fetch = {0};
  tr_cache_options cache = {0};
  tr_store_options store = {0};
  tr_host_options host = {0};
  tr_engine_options engine = {0};
  tr_future *future = tr_future_create();
  tr_error error;
  CHECK(!tr_fetch(future, NULL, NULL, NULL));
  CHECK(!tr_fetch(future, NULL, NULL, &error));
  CHECK(error.kind == TR_INVALID_REFERENCE);
  CHECK(!tr_fetch(future, url, &fetch, &error) && error.kind == TR_POLICY);
  CHECK(strstr(error.message, "TR_FETCH_OPTIONS") != NULL);
  CHECK(tr_future_get_status(future) == TR_PENDING);
  CHECK(tr_cache_open("zeroed", &cache, &error) == NULL);
  CHECK(tr_store_open("/tmp/nowhere", &store, &error) == NULL);
  CHECK(tr_host_new(&host, &error) == NULL);
  CHECK(!tr_engine_configure(&engine, &error));
  tr_future_release(future);
}

/* Options of an older header are shorter; the rest keeps its defaults. */
static void take_shorter(void) {
  tr_fetch_options options = TR_FETCH_OPTIONS;
  tr_future *future;
  options.size = offsetof(tr_fetch_options, require_length);
  options.require_length = true; /* beyond what the caller knows */
  future = start(&options);
  CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
  tr_future_release(future);
}

/* Optional arguments may be NULL. */
static void take_null(void) {
  tr_cache *cache = tr_cache_open("null", NULL, NULL), *again;
  tr_cache_options other = TR_CACHE_OPTIONS;
  tr_store *store = tr_store_open("/nowhere/store", NULL, NULL);
  tr_future *future = start(NULL);
  uint64_t one = 0;
  CHECK(strcmp(tr_version(), TR_VERSION) == 0);
  CHECK(cache != NULL && store != NULL);
  other.max_entries = 5;
  CHECK(tr_cache_open("null", &other, NULL) == NULL);
  again = tr_cache_open("null", NULL, NULL);
  CHECK(again == cache);
  tr_cache_get_stats(cache, &one, 1);
  CHECK(tr_store_get(store, "00", NULL) == NULL);
  CHECK(tr_file_read("/nowhere", 10, NULL) == NULL);
  CHECK(tr_host_new(&(tr_host_options){.size = 1}, NULL) == NULL);
  tr_future_progress(future, NULL, NULL);
  CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
  CHECK(tr_info_status(tr_future_get_info(future)) == 200);
  tr_future_release(future);
  tr_future_release(NULL);
  tr_store_close(store);
  tr_cache_release(again);
  tr_cache_release(cache);
}

/* The leader of a load lets go: one who waits is told, and leads next. */
static void let_go(void) {
  tr_cache *cache = tr_cache_open(NULL, NULL, NULL);
  tr_future *leader, *waiter;
  tr_blob *blob;
  CHECK(tr_cache_claim(cache, "k", 1, NULL, &blob, &leader) == TR_LEAD);
  CHECK(tr_cache_claim(cache, "k", 1, NULL, &blob, &waiter) == TR_WAIT);
  CHECK(tr_future_fd(leader) != tr_future_fd(waiter));
  tr_future_retain(leader);
  tr_future_release(leader);
  CHECK(tr_future_get_status(waiter) == TR_PENDING);
  tr_future_release(leader);
  CHECK(tr_future_wait(waiter, 5, NULL, NULL) == TR_ABANDONED);
  tr_future_release(waiter);
  CHECK(tr_cache_claim(cache, "k", 1, NULL, &blob, &leader) == TR_LEAD);
  tr_future_release(leader);
  tr_cache_release(cache);
}

static tr_claim claim(tr_cache *cache, const char *key, size_t len,
                      const tr_claim_options *options, tr_future **future) {
  tr_blob *blob;
  tr_claim how = tr_cache_claim(cache, key, len, options, &blob, future);
  tr_blob_release(blob);
  return how;
}

/* Keys of one reference are found together. */
static void name_keys(void) {
  static const char whole[] = "r\0d\0s";
  tr_cache *cache = tr_cache_open(NULL, NULL, NULL);
  tr_claim_options options = TR_CLAIM_OPTIONS;
  tr_blob *blob = tr_blob_new("x", 1), *same;
  tr_future *future;
  char key[16] = "untouched";
  size_t len = tr_cache_key(key, 4, "r", "d", "s");
  CHECK(len == 5 && strcmp(key, "untouched") == 0);
  CHECK(tr_cache_key(key, sizeof key, "r", "d", "s") == len);
  CHECK(memcmp(key, whole, len) == 0);
  options.content = "sha256:x";
  options.content_len = strlen(options.content);
  CHECK(claim(cache, key, len, &options, &future) == TR_LEAD);
  CHECK(tr_future_complete(future, blob));
  tr_future_release(future);
  same = tr_cache_get(cache, options.content, options.content_len);
  CHECK(same == blob);
  tr_blob_release(same);
  CHECK(tr_cache_key(key, sizeof key, "r", NULL, "") == 1 && key[0] == 'r');
  CHECK(tr_cache_get(cache, key, 1) == NULL);
  CHECK(tr_cache_remove(cache, "r", 1) && !tr_cache_remove(cache, "r", 1));
  tr_blob_release(blob);
  tr_cache_release(cache);
}

/* A fetch from this server, which is at a loopback address, is a miss for a claim
** that must not have it. */
static void limit_claims(void) {
  tr_cache *cache = tr_cache_open(NULL, NULL, NULL);
  tr_claim_options options = TR_CLAIM_OPTIONS;
  tr_fetch_options request = TR_FETCH_OPTIONS;
  char scope[TR_HEX_MAX] = "?";
  tr_future *future;
  CHECK(tr_request_scope(&request, scope, NULL) && scope[0] == '\0');
  CHECK(tr_request_scope(NULL, scope, NULL) && scope[0] == '\0');
  request.refuse_private = true;
  options.request = &request;
  CHECK(claim(cache, "k", 1, NULL, &future) == TR_LEAD);
  CHECK(tr_fetch(future, url, NULL, NULL));
  CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
  tr_future_release(future);
  CHECK(claim(cache, "k", 1, NULL, &future) == TR_HIT);
  CHECK(claim(cache, "k", 1, &options, &future) == TR_LEAD);
  tr_future_release(future);
  request.size = 0; /* not initialised: rather no answer than a wrong one */
  CHECK(claim(cache, "k", 1, &options, &future) == TR_NOMEM);
  request.size = sizeof request;
  request.netrc = true;
  CHECK(tr_request_scope(&request, scope, NULL) && strlen(scope) == 64);
  tr_cache_release(cache);
}

/* A name is free again once its cache is closed. */
static void close_name(void) {
  tr_cache *cache = tr_cache_open("closed", NULL, NULL), *other;
  CHECK(tr_cache_close("closed") && !tr_cache_close("closed"));
  CHECK(!tr_cache_close("never opened"));
  other = tr_cache_open("closed", NULL, NULL);
  CHECK(other != NULL && other != cache);
  CHECK(tr_cache_len(cache) == 0);
  tr_cache_release(cache);
  tr_cache_release(other);
  CHECK(tr_cache_close("closed"));
}

/* A time that is no number is no time. */
static void wait_nan(void) {
  tr_fetch_options options = TR_FETCH_OPTIONS;
  tr_fetch_options of_host = TR_FETCH_OPTIONS;
  const tr_fetch_host hosts[] = {{"example.org", &of_host}, {NULL, NULL}};
  tr_cache_options cache = TR_CACHE_OPTIONS;
  tr_future *future = tr_future_create();
  double nan = strtod("nan", NULL);
  CHECK(tr_future_wait(future, nan, NULL, NULL) == TR_PENDING);
  options.timeout = nan;
  CHECK(!tr_fetch(future, url, &options, NULL));
  options.timeout = 1;
  options.hosts = hosts;
  of_host.connect_timeout = nan;
  CHECK(!tr_fetch(future, url, &options, NULL));
  cache.ttl = nan;
  CHECK(tr_cache_open(NULL, &cache, NULL) == NULL);
  tr_future_release(future);
}

/* The engine stops, and starts again. */
static void restart(void) {
  tr_future *future = start(NULL);
  CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
  tr_future_release(future);
  tr_shutdown();
  tr_shutdown();
  future = start(NULL);
  CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
  tr_future_release(future);
}

static bool is_readable(int fd) {
  struct pollfd look = {.fd = fd, .events = POLLIN};
  return poll(&look, 1, 0) > 0;
}

/* A result in the child wakes nobody in the parent, and takes none of its wake-ups. */
static void share_no_descriptor(void) {
  tr_future *open = tr_future_create(), *done = tr_future_create();
  tr_blob *blob = tr_blob_new("x", 1);
  int status;
  pid_t child;
  CHECK(!is_readable(tr_future_fd(open)));
  CHECK(tr_future_complete(done, blob) && is_readable(tr_future_fd(done)));
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    bool ok = is_readable(tr_future_fd(open)) && is_readable(tr_future_fd(done));
    tr_future_release(done);
    tr_future_release(open);
    _exit(ok ? 0 : 1);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(!is_readable(tr_future_fd(open)) && is_readable(tr_future_fd(done)));
  tr_future_release(done);
  tr_future_release(open);
  tr_blob_release(blob);
}

static void *shut_down(void *unused) {
  int i;
  (void)unused;
  for (i = 0; i < 20; i++)
    tr_shutdown();
  return NULL;
}

/* Fetches begin and end while the engine is shut down by several threads. */
static void shut_down_amid_fetches(void) {
  pthread_t threads[3];
  int i;
  for (i = 0; i < 3; i++)
    CHECK(pthread_create(&threads[i], NULL, shut_down, NULL) == 0);
  for (i = 0; i < 100; i++) {
    tr_future *future = start(NULL);
    CHECK(tr_future_wait(future, 10, NULL, NULL) != TR_PENDING);
    tr_future_release(future);
  }
  for (i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
}

/* Fetches whose futures got a result from elsewhere hold no connections. */
static void settle_amid_fetches(void) {
  tr_fetch_options options = TR_FETCH_OPTIONS;
  const char *fine = url;
  char *silent = malloc(strlen(url) + 16);
  tr_blob *blob = tr_blob_new("x", 1);
  tr_future *future;
  int i;
  sprintf(silent, "%.*s/never", (int)(strrchr(url, '/') - url), url);
  url = silent;
  for (i = 0; i < 64; i++) {
    future = start(NULL);
    tr_future_wait(future, 0.001, NULL, NULL);
    CHECK(tr_future_complete(future, blob));
    tr_future_release(future);
  }
  url = fine;
  options.timeout = 10;
  future = start(&options);
  CHECK(tr_future_wait(future, 20, NULL, NULL) == TR_READY);
  tr_future_release(future);
  tr_blob_release(blob);
  free(silent);
}

static void *hash_for_ever(void *unused) {
  static const char bytes[4096];
  char hex[TR_HEX_MAX];
  (void)unused;
  for (;;)
    tr_digest(TR_SHA256, bytes, sizeof bytes, hex);
  return NULL;
}

/* The process ends while threads hash with what the exit handlers free. */
static void end_amid_hashing(void) {
  struct timespec pause = {0, 30 * 1000 * 1000};
  tr_future *future = start(NULL);
  pthread_t thread;
  int i;
  CHECK(tr_future_wait(future, 10, NULL, NULL) == TR_READY);
  tr_future_release(future);
  for (i = 0; i < 4; i++)
    CHECK(pthread_create(&thread, NULL, hash_for_ever, NULL) == 0 &&
          pthread_detach(thread) == 0);
  nanosleep(&pause, NULL);
  exit(0);
}

int main(int argc, char **argv) {
  const char *what = argc == 3 ? argv[1] : "";
  url = argc == 3 ? argv[2] : "";
  alarm(strcmp(what, "interrupt") == 0 ? 0 : 60);
  if (strcmp(what, "exit") == 0)
    end_amid_fetches();
  else if (strcmp(what, "hash") == 0)
    end_amid_hashing();
  else if (strcmp(what, "fork") == 0)
    share_no_descriptor();
  else if (strcmp(what, "shutdown") == 0)
    shut_down_amid_fetches();
  else if (strcmp(what, "settled") == 0)
    settle_amid_fetches();
  else if (strcmp(what, "openssl") == 0)
    keep_openssl();
  else if (strcmp(what, "oom") == 0)
    hash_without_memory();
  else if (strcmp(what, "inherit") == 0)
    start_beside_a_program();
  else if (strcmp(what, "crowded") == 0)
    fork_crowded();
  else if (strcmp(what, "signal") == 0)
    wait_for_signal();
  else if (strcmp(what, "interrupt") == 0)
    interrupt();
  else if (strcmp(what, "api") == 0) {
    refuse_zeroed();
    take_shorter();
    take_null();
    let_go();
    name_keys();
    limit_claims();
    close_name();
    wait_nan();
    restart();
  } else
    return 2;
  puts("ok");
  return 0;
}
