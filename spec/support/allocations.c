/*
** Runs the core with memory that runs out: each piece of work again and again, and each
** time the next of its allocations fails. Prints how many failed. Linked to the static
** library with --wrap, so that only its own allocations count.
**
**   allocations FOLDER STUB
**
** STUB is "host:port" of spec/support/stub.lua.
*/
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <theaterref.h>
#include <unistd.h>

#include "core/engine.h"
#include "core/error.h"

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "line %d: not so: %s (%s)\n", __LINE__, #what, doing);   \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static const char *doing = "nothing";
static char base[512], file[512];
static const char *stub;

/* Allocations until one fails; 0: none does. */
static atomic_int countdown;
static atomic_int fired;

static int fails(void) {
  if (atomic_load(&countdown) == 0 || atomic_fetch_sub(&countdown, 1) != 1)
    return 0;
  atomic_fetch_add(&fired, 1);
  return 1;
}

#define WRAP(name, parameters, arguments)                                      \
  void *__real_##name parameters;                                              \
  void *__wrap_##name parameters;                                              \
  void *__wrap_##name parameters {                                             \
    return fails() ? NULL : __real_##name arguments;                           \
  }
WRAP(malloc, (size_t size), (size))
WRAP(calloc, (size_t count, size_t size), (count, size))
WRAP(realloc, (void *old, size_t size), (old, size))
WRAP(strdup, (const char *text), (text))
WRAP(strndup, (const char *text, size_t size), (text, size))

/* The store's content and label, put before memory runs out. */
static tr_store *store;
static char hash[TR_HEX_MAX], large[TR_HEX_MAX];
static int round_number;

/* A call that failed says why. */
static void check_failed(const tr_error *error) {
  CHECK(error->kind != TR_OK && error->message[0] != '\0');
}

static void open_store(void) {
  tr_error error = {0};
  tr_store *s = tr_store_open(base, NULL, &error);
  if (s == NULL)
    check_failed(&error);
  tr_store_close(s);
}

static void put(void) {
  char text[32], name[TR_HEX_MAX];
  tr_error error = {0};
  int len = snprintf(text, sizeof text, "content %d", ++round_number);
  if (!tr_store_put(store, text, (size_t)len, name, &error))
    check_failed(&error);
  else
    CHECK(tr_store_exists(store, name, NULL) == 1);
  if (!tr_store_put(store, "content", 7, name, &error))
    check_failed(&error);
}

static void get_one(const char *name) {
  tr_error error = {0};
  tr_blob *blob = tr_store_get(store, name, &error);
  if (blob == NULL)
    check_failed(&error);
  tr_blob_release(blob);
}

static void get(void) {
  get_one(hash);
  get_one(large);
  CHECK(tr_store_check(store, hash, NULL) || atomic_load(&fired) > 0);
}

static void label(void) {
  char name[TR_HEX_MAX];
  tr_error error = {0};
  tr_blob *blob;
  if (tr_store_label(store, "a/b/c", large, hash, &error) < 0)
    check_failed(&error);
  CHECK(tr_store_get_label(store, "a/b/c", name, NULL) == 1);
  blob = tr_store_get_labelled(store, "a/b/c", &error);
  if (blob == NULL)
    check_failed(&error);
  tr_blob_release(blob);
  if (tr_store_remove_label(store, "d/e", NULL, &error) < 0)
    check_failed(&error);
  if (tr_store_label(store, "d/e", hash, NULL, &error) < 0)
    check_failed(&error);
  if (tr_store_label(store, "a/b/c", hash, NULL, &error) < 0)
    check_failed(&error);
}

static void batch(void) {
  char text[32], name[TR_HEX_MAX];
  tr_error error = {0};
  tr_batch *b = tr_batch_begin(store, &error);
  int len = snprintf(text, sizeof text, "batched %d", ++round_number);
  if (b == NULL) {
    check_failed(&error);
    return;
  }
  if (!tr_batch_put(b, TR_SHA1, text, (size_t)len, name, &error) ||
      !tr_batch_label(b, "batch/label", name, &error) ||
      !tr_batch_commit(b, &error))
    check_failed(&error);
  tr_batch_free(b);
}

static bool visit(void *context, const char *name, size_t size) {
  (void)context, (void)name, (void)size;
  return true;
}

static void list(void) {
  tr_error error = {0};
  if (!tr_store_each_label(store, visit, NULL, &error) ||
      !tr_store_each_content(store, visit, NULL, &error) ||
      !tr_store_each_quarantined(store, visit, NULL, &error) ||
      !tr_store_each_temporary(store, visit, NULL, &error))
    check_failed(&error);
  if (tr_store_discard(store, hash, 1000, false, &error) < 0)
    check_failed(&error);
}

static void files(void) {
  tr_error error = {0};
  tr_blob *blob;
  if (!tr_file_write(file, "text", 4, false, &error))
    check_failed(&error);
  blob = tr_file_read(file, TR_FILE_MAX_BYTES, &error);
  if (blob == NULL)
    check_failed(&error);
  tr_blob_release(blob);
  blob = tr_blob_new("text", 4);
  CHECK(blob != NULL || atomic_load(&fired) > 0);
  tr_blob_release(blob);
}

static void merge(void) {
  static const char *const texts[] = {"{\"a\":{\"b\":[1,2]},\"c\":3}",
                                      "{\"a\":{\"d\":1e400},\"e\":\"\\u0041\"}"};
  tr_error error = {0};
  tr_blob *one = tr_blob_new(texts[0], strlen(texts[0]));
  tr_blob *two = tr_blob_new(texts[1], strlen(texts[1]));
  tr_blob *merged =
      one == NULL || two == NULL ? NULL : tr_merge_states(one, two, &error);
  if (one != NULL && two != NULL && merged == NULL)
    check_failed(&error);
  tr_blob_release(one);
  tr_blob_release(two);
  tr_blob_release(merged);
}

/* One claim, which leads, and is answered. */
static void claim(tr_cache *cache, const char *key) {
  tr_claim_options options = TR_CLAIM_OPTIONS;
  tr_blob *blob = NULL, *loaded;
  tr_future *future = NULL;
  tr_claim claimed =
      tr_cache_claim(cache, key, strlen(key), &options, &blob, &future);
  if (claimed == TR_LEAD) {
    loaded = tr_blob_new("loaded", 6);
    if (loaded != NULL)
      tr_future_complete(future, loaded);
    tr_blob_release(loaded);
  }
  tr_blob_release(blob);
  tr_future_release(future);
}

static void cache(void) {
  tr_cache_options options = TR_CACHE_OPTIONS;
  tr_error error = {0};
  tr_cache *c;
  int i;
  options.max_entries = 3;
  c = tr_cache_open(NULL, &options, &error);
  if (c == NULL) {
    check_failed(&error);
    return;
  }
  for (i = 0; i < 5; i++) {
    char key[8];
    snprintf(key, sizeof key, "key %d", i);
    claim(c, key);
    tr_blob_release(tr_cache_get(c, key, strlen(key)));
    tr_cache_keep(c, key, strlen(key), i == 0);
  }
  tr_cache_refresh(c, "key 4", 5);
  claim(c, "key 4");
  tr_cache_remove(c, "key 3", 5);
  tr_cache_clear(c);
  tr_cache_release(c);
}

static void fetch(void) {
  tr_fetch_options options = TR_FETCH_OPTIONS;
  tr_error error = {0};
  tr_future *future = tr_future_create();
  if (future == NULL)
    return;
  options.retries = 0;
  options.timeout = 10;
  if (!tr_fetch(future, "http://127.0.0.1:1/x", &options, &error))
    check_failed(&error);
  else
    CHECK(tr_future_wait(future, 20, NULL, &error) == TR_FAILED);
  tr_future_release(future);
}

/* Send a message for a principal, to a path with a realm at another; a future, or NULL. */
static tr_future *send_as(const char *path, const char *realm, const char *identity_token) {
  static const char *const headers[] = {"Content-Type: text/plain", "X-A: b", NULL};
  tr_auth_options principal = {.registry = stub, .insecure = true, .username = "alice",
                         .password = "s3cret", .identity_token = identity_token};
  tr_send_options message = {.method = TR_PUT, .headers = headers};
  tr_request_extra extra = {.send = &message, .auth_scope = "repository:memory:pull"};
  tr_fetch_options options = TR_FETCH_OPTIONS;
  tr_future *future = tr_future_create();
  tr_error error = {0};
  char url[512];
  snprintf(url, sizeof url,
           "http://%s%s?Bearer%%20realm=%%22http://AT1%s%%22,service=s,scope=%%22a%%20b%%22",
           stub, path, realm);
  options.timeout = 10;
  extra.auth = tr_auth_new(&principal, &error);
  message.body = tr_blob_new("text", 4);
  if (extra.auth == NULL)
    check_failed(&error);
  if (future != NULL && extra.auth != NULL && message.body != NULL &&
      !tr_engine_fetch(tr_future_promise(future), url, &options, &extra, true, &error)) {
    check_failed(&error);
    tr_future_fail(future, &error);
  } else if (future != NULL && (extra.auth == NULL || message.body == NULL)) {
    tr_error_set(&error, TR_IO, "out of memory");
    tr_future_fail(future, &error);
  }
  tr_auth_release(extra.auth);
  tr_blob_release(message.body);
  return future;
}

/* A response, or an error while memory is short. */
static void check_sent(tr_future *future) {
  tr_error error = {0};
  tr_blob *blob = NULL;
  if (future == NULL)
    return;
  if (tr_future_wait(future, 20, &blob, &error) != TR_READY)
    check_failed(&error);
  CHECK(blob != NULL || atomic_load(&fired) > 0);
  tr_blob_release(blob);
  tr_future_release(future);
}

static void authenticate(void) { check_sent(send_as("/challenge", "/token", NULL)); }

static void exchange(void) { check_sent(send_as("/challenge", "/access-token", "identity/1+2")); }

/* Shut the engine down while requests wait for a token, and use it again. */
static void shut_down(void) {
  tr_future *futures[8];
  int i;
  doing = "shut_down";
  for (i = 0; i < 8; i++) {
    futures[i] = send_as("/challenge", "/never", i % 2 == 0 ? "identity/1+2" : NULL);
    CHECK(futures[i] != NULL);
  }
  CHECK(tr_future_wait(futures[0], 0.7, NULL, NULL) == TR_PENDING);
  tr_shutdown();
  for (i = 0; i < 8; i++) {
    CHECK(tr_future_get_status(futures[i]) == TR_ABANDONED);
    tr_future_release(futures[i]);
  }
  authenticate();
  send_as("/challenge", "/never", NULL); /* the end of the process finds it waiting */
}

/* Run a piece of work until none of its allocations is left to fail. Each round is a
** child of its own, in which everything is opened for the first time. */
static int run_out(const char *name, void (*work)(void)) {
  int nth, status;
  doing = name;
  for (nth = 1; nth < 10000; nth++) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(60);
      round_number = nth * 10;
      atomic_store(&countdown, nth);
      work();
      atomic_store(&countdown, 0);
      work(); /* there is memory again */
      _exit(atomic_load(&fired) > 0 ? 0 : 9);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 9)
      return nth - 1;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      fprintf(stderr, "%s: allocation %d: status %d\n", name, nth, status);
      exit(1);
    }
  }
  return nth;
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*work)(void);
  } works[] = {{"open", open_store}, {"put", put},     {"get", get},
               {"label", label},     {"batch", batch}, {"list", list},
               {"files", files},     {"merge", merge}, {"cache", cache},
               {"fetch", fetch}, {"authenticate", authenticate},
               {"exchange", exchange}};
  char *bytes = calloc(1, 300000);
  int failed = 0;
  size_t i;
  CHECK(argc == 3 && bytes != NULL);
  stub = argv[2];
  snprintf(base, sizeof base, "%s/store", argv[1]);
  snprintf(file, sizeof file, "%s/file", argv[1]);
  store = tr_store_open(base, NULL, NULL);
  CHECK(store != NULL && tr_store_put(store, "content", 7, hash, NULL) &&
        tr_store_put(store, bytes, 300000, large, NULL) &&
        tr_store_label(store, "a/b/c", hash, NULL, NULL) == 1);
  for (i = 0; i < sizeof works / sizeof *works; i++)
    failed += run_out(works[i].name, works[i].work);
  shut_down();
  free(bytes);
  tr_store_close(store);
  printf("%d allocations failed\n", failed);
  return 0;
}
