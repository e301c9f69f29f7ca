/*
** The baselines of the benchmarks: the same work by the shortest C over the same
** libraries. A Lua module.
*/
#include <curl/curl.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <mbedtls/sha1.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static size_t keep(char *data, size_t size, size_t n, void *context) {
  struct {
    char *data;
    size_t len, cap;
  } *body = context;
  n *= size;
  if (body->len + n > body->cap) {
    body->cap = (body->len + n) * 2;
    body->data = realloc(body->data, body->cap);
    if (body->data == NULL)
      abort();
  }
  memcpy(body->data + body->len, data, n);
  body->len += n;
  return n;
}

/* fetch(url, ca_file, n) -> seconds of n fetches over one easy handle */
static int fetch(lua_State *L) {
  struct {
    char *data;
    size_t len, cap;
  } body = {0};
  lua_Integer i, n = luaL_checkinteger(L, 3);
  CURL *easy = curl_easy_init();
  CURLcode code = CURLE_OK;
  double started;
  curl_easy_setopt(easy, CURLOPT_URL, luaL_checkstring(L, 1));
  curl_easy_setopt(easy, CURLOPT_CAINFO, luaL_checkstring(L, 2));
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &body);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 128L * 1024);
  curl_easy_perform(easy); /* the connection is not what is measured */
  started = now();
  for (i = 0; i < n && code == CURLE_OK; i++) {
    body.len = 0;
    code = curl_easy_perform(easy);
  }
  lua_pushnumber(L, now() - started);
  curl_easy_cleanup(easy);
  free(body.data);
  return code == CURLE_OK ? 1 : luaL_error(L, "%s", curl_easy_strerror(code));
}

/* A body to send. */
struct upload {
  const char *data;
  size_t len, at;
};

static size_t give(char *to, size_t size, size_t count, void *context) {
  struct upload *u = context;
  size_t n = size * count;
  if (n > u->len - u->at)
    n = u->len - u->at;
  memcpy(to, u->data + u->at, n);
  u->at += n;
  return n;
}

/* signed(url, n, sha256 [, body]) -> seconds of n requests with signatures for S3, by libcurl: GET,
** or PUT with a body, whose digest is given */
static int signed_requests(lua_State *L) {
  struct {
    char *data;
    size_t len, cap;
  } answer = {0};
  struct upload upload = {0};
  struct curl_slist *headers = NULL;
  char digest[128];
  lua_Integer i, n = luaL_checkinteger(L, 2);
  CURL *easy = curl_easy_init();
  CURLcode code = CURLE_OK;
  double started = 0;
  snprintf(digest, sizeof digest, "x-amz-content-sha256: %s", luaL_checkstring(L, 3));
  headers = curl_slist_append(headers, digest);
  headers = curl_slist_append(headers, "Expect:");
  curl_easy_setopt(easy, CURLOPT_URL, luaL_checkstring(L, 1));
  curl_easy_setopt(easy, CURLOPT_AWS_SIGV4, "aws:amz:us-east-1:s3");
  curl_easy_setopt(easy, CURLOPT_USERPWD, "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG");
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &answer);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 128L * 1024);
  if (!lua_isnoneornil(L, 4)) {
    upload.data = luaL_checklstring(L, 4, &upload.len);
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)upload.len);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, give);
    curl_easy_setopt(easy, CURLOPT_READDATA, &upload);
  }
  for (i = -1; i < n && code == CURLE_OK; i++) { /* the first opens the connection */
    if (i == 0)
      started = now();
    answer.len = upload.at = 0;
    code = curl_easy_perform(easy);
  }
  lua_pushnumber(L, now() - started);
  curl_easy_cleanup(easy);
  curl_slist_free_all(headers);
  free(answer.data);
  return code == CURLE_OK ? 1 : luaL_error(L, "%s", curl_easy_strerror(code));
}

enum { MAX_AT_ONCE = 1024 };

/* multi(url, ca_file, n, at_once, sliding) -> seconds of n fetches over a multi
** handle: a window that slides, or batches */
static int multi(lua_State *L) {
  struct body {
    char *data;
    size_t len, cap;
  } *bodies = calloc(MAX_AT_ONCE, sizeof *bodies);
  lua_Integer n = luaL_checkinteger(L, 3), started_ones = 0, done = 0, i;
  lua_Integer at_once = luaL_checkinteger(L, 4), open = 0;
  int sliding = lua_toboolean(L, 5), running, left;
  CURLM *multi = curl_multi_init();
  CURL *easy[MAX_AT_ONCE], *idle[MAX_AT_ONCE];
  lua_Integer idle_count = at_once;
  CURLMsg *message;
  double started;
  luaL_argcheck(L, at_once > 0 && at_once <= MAX_AT_ONCE, 4, "1 to 1024");
  for (i = 0; i < at_once; i++) {
    easy[i] = idle[i] = curl_easy_init();
    curl_easy_setopt(easy[i], CURLOPT_URL, luaL_checkstring(L, 1));
    curl_easy_setopt(easy[i], CURLOPT_CAINFO, luaL_checkstring(L, 2));
    curl_easy_setopt(easy[i], CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(easy[i], CURLOPT_WRITEDATA, &bodies[i]);
    curl_easy_setopt(easy[i], CURLOPT_PRIVATE, &bodies[i]);
    curl_easy_setopt(easy[i], CURLOPT_PIPEWAIT, 1L);
    curl_easy_setopt(easy[i], CURLOPT_BUFFERSIZE, 128L * 1024);
  }
  started = now();
  while (done < n) {
    if (sliding || open == 0)
      while (idle_count > 0 && started_ones < n) {
        curl_multi_add_handle(multi, idle[--idle_count]);
        started_ones++;
        open++;
      }
    curl_multi_perform(multi, &running);
    while ((message = curl_multi_info_read(multi, &left)) != NULL) {
      struct body *body = NULL;
      CURL *finished = message->easy_handle;
      if (message->data.result != CURLE_OK)
        return luaL_error(L, "%s", curl_easy_strerror(message->data.result));
      curl_easy_getinfo(finished, CURLINFO_PRIVATE, (char **)&body);
      body->len = 0;
      curl_multi_remove_handle(multi, finished);
      idle[idle_count++] = finished;
      open--;
      done++;
    }
    if (open > 0 && running > 0)
      curl_multi_poll(multi, NULL, 0, 1000, NULL);
  }
  lua_pushnumber(L, now() - started);
  for (i = 0; i < at_once; i++) {
    curl_easy_cleanup(easy[i]);
    free(bodies[i].data);
  }
  curl_multi_cleanup(multi);
  free(bodies);
  return 1;
}

static int nothing(lua_State *L) {
  (void)L;
  return 0;
}

/* object() -> a userdata whose method 'nothing' does nothing */
static int object(lua_State *L) {
  lua_newuserdatauv(L, 8, 0);
  if (luaL_newmetatable(L, "bare.object")) {
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, nothing);
    lua_setfield(L, -2, "nothing");
  }
  lua_setmetatable(L, -2);
  return 1;
}

/* A hash table of one bucket's depth behind a read-write lock. */
static struct {
  pthread_rwlock_t lock;
  const char *keys[64];
  atomic_long uses[64];
} table = {.lock = PTHREAD_RWLOCK_INITIALIZER};

static const char *const KEY =
    "https://packages.example.org/actors/worker/1.2.3/component-abc.wasm";

static unsigned hash(const char *s) {
  unsigned h = 5381;
  while (*s != '\0')
    h = h * 33 ^ (unsigned char)*s++;
  return h % 64;
}

static void *look_up(void *count) {
  long i, n = *(long *)count;
  for (i = 0; i < n; i++) {
    unsigned slot = hash(KEY);
    pthread_rwlock_rdlock(&table.lock);
    if (table.keys[slot] != NULL && strcmp(table.keys[slot], KEY) == 0)
      atomic_fetch_add(&table.uses[slot], 1);
    pthread_rwlock_unlock(&table.lock);
  }
  return NULL;
}

/* rwlock(threads, n) -> seconds in which each thread did n look-ups */
static int rwlock(lua_State *L) {
  pthread_t threads[8];
  int i, count = (int)luaL_checkinteger(L, 1);
  long n = (long)luaL_checkinteger(L, 2);
  double started;
  luaL_argcheck(L, count > 0 && count <= 8, 1, "1 to 8");
  table.keys[hash(KEY)] = KEY;
  started = now();
  for (i = 0; i < count; i++)
    if (pthread_create(&threads[i], NULL, look_up, &n) != 0)
      abort();
  for (i = 0; i < count; i++)
    pthread_join(threads[i], NULL);
  lua_pushnumber(L, now() - started);
  return 1;
}

/* ------------------------------------------------------------------- store */

static void check(lua_State *L, int ok, const char *what) {
  if (!ok)
    luaL_error(L, "%s failed", what);
}

/* put(folder, bytes, count, sync) -> seconds: hash, write, rename */
static int put(lua_State *L) {
  const char *folder = luaL_checkstring(L, 1), *bytes;
  size_t size, i;
  lua_Integer n, count = luaL_checkinteger(L, 3);
  int sync = lua_toboolean(L, 4), dir = open(folder, O_RDONLY | O_DIRECTORY);
  char *copy, name[41];
  double started;
  bytes = luaL_checklstring(L, 2, &size);
  check(L, dir >= 0, "open");
  copy = malloc(size);
  memcpy(copy, bytes, size);
  started = now();
  for (n = 0; n < count; n++) {
    unsigned char digest[20];
    int fd;
    memcpy(copy, &n, sizeof n);
    mbedtls_sha1_ret((unsigned char *)copy, size, digest);
    for (i = 0; i < 20; i++)
      snprintf(name + 2 * i, 3, "%02x", digest[i]);
    fd = openat(dir, "temporary", O_WRONLY | O_CREAT | O_EXCL, 0666);
    check(L, fd >= 0 && write(fd, copy, size) == (ssize_t)size, "write");
    check(L, !sync || fsync(fd) == 0, "fsync");
    close(fd);
    check(L, renameat(dir, "temporary", dir, name) == 0, "rename");
    check(L, !sync || fsync(dir) == 0, "fsync");
  }
  lua_pushnumber(L, now() - started);
  close(dir);
  free(copy);
  return 1;
}

/* get(path, count, map) -> seconds: open, read or map, close */
static int get(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_Integer n, count = luaL_checkinteger(L, 2);
  int map = lua_toboolean(L, 3);
  double started = now();
  for (n = 0; n < count; n++) {
    int fd = open(path, O_RDONLY);
    struct stat st;
    void *bytes;
    check(L, fd >= 0 && fstat(fd, &st) == 0, "open");
    if (map) {
      bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
      check(L, bytes != MAP_FAILED, "mmap");
      munmap(bytes, (size_t)st.st_size);
    } else {
      bytes = malloc((size_t)st.st_size);
      check(L, read(fd, bytes, (size_t)st.st_size) == st.st_size, "read");
      free(bytes);
    }
    close(fd);
  }
  lua_pushnumber(L, now() - started);
  return 1;
}

/* crowd(folder, count): empty files with names that look like hashes */
static int crowd(lua_State *L) {
  int dir = open(luaL_checkstring(L, 1), O_RDONLY | O_DIRECTORY);
  lua_Integer n, count = luaL_checkinteger(L, 2);
  char name[41];
  check(L, dir >= 0, "open");
  for (n = 0; n < count; n++) {
    unsigned mixed = (unsigned)n * 2654435761u;
    snprintf(name, sizeof name, "%08x%032llx", mixed, (long long)n);
    close(openat(dir, name, O_WRONLY | O_CREAT, 0666));
  }
  close(dir);
  return 0;
}

__attribute__((visibility("default"))) int luaopen_bare(lua_State *L) {
  static const luaL_Reg functions[] = {{"fetch", fetch},
                                       {"multi", multi},
                                       {"signed", signed_requests},
                                       {"object", object},
                                       {"rwlock", rwlock},
                                       {"put", put},
                                       {"get", get},
                                       {"crowd", crowd},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
