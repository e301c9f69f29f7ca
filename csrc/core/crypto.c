/*
** SHA-1 and SHA-256 behind one interface: by mbedTLS, whose message digest layer
** reads the same in its 2.x and 3.x versions, or by libcrypto, if libcurl has
** brought it into the process and it is faster.
*/
#include "crypto.h"

#include <dlfcn.h>
#include <mbedtls/md.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "blob.h"
#include "error.h"

/* A library for digests. A state of no bytes is made by 'create', and needs no more
** memory then: it never fails, since a wrong digest would be worse than stopping. */
typedef struct backend {
  const char *name;
  void *(*create)(tr_algorithm algorithm); /* NULL: memory is short */
  void (*update)(void *state, const void *data, size_t size);
  void (*finish)(void *state, unsigned char *raw);
  void (*destroy)(void *state);
} backend;

struct tr_hash {
  const backend *library;
  tr_algorithm algorithm;
  void *state;
};

size_t tr_hex_length(tr_algorithm algorithm) {
  return algorithm == TR_SHA1 ? 40 : 64;
}

tr_algorithm tr_algorithm_of(const char *hex) {
  return strlen(hex) == tr_hex_length(TR_SHA1) ? TR_SHA1 : TR_SHA256;
}

bool tr_hex_valid(const char *hex) {
  size_t len = strspn(hex, "0123456789abcdefABCDEF");
  return hex[len] == '\0' && (len == 40 || len == 64);
}

static unsigned hex_value(char c) {
  return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 32) - 'a') + 10;
}

void tr_hex_encode(const unsigned char *raw, size_t len, char *hex) {
  static const char digits[] = "0123456789abcdef";
  size_t i;
  for (i = 0; i < len; i++) {
    hex[2 * i] = digits[raw[i] >> 4];
    hex[2 * i + 1] = digits[raw[i] & 15];
  }
  hex[2 * len] = '\0';
}

void tr_hex_decode(const char *hex, unsigned char raw[32]) {
  size_t i;
  for (i = 0; i < 32; i++)
    raw[i] = (unsigned char)(hex_value(hex[2 * i]) << 4 | hex_value(hex[2 * i + 1]));
}

static void must(bool ok) {
  if (!ok)
    abort();
}

/* ------------------------------------------------------------------ mbedTLS */

static void *mbedtls_create(tr_algorithm algorithm) {
  mbedtls_md_context_t *state = malloc(sizeof *state);
  const mbedtls_md_info_t *info = mbedtls_md_info_from_type(
      algorithm == TR_SHA1 ? MBEDTLS_MD_SHA1 : MBEDTLS_MD_SHA256);
  must(info != NULL); /* a build of mbedTLS without these two */
  if (state == NULL)
    return NULL;
  mbedtls_md_init(state);
  if (mbedtls_md_setup(state, info, 0) == 0 && mbedtls_md_starts(state) == 0)
    return state;
  mbedtls_md_free(state);
  free(state);
  return NULL;
}

static void mbedtls_update(void *state, const void *data, size_t size) {
  must(mbedtls_md_update(state, data, size) == 0);
}

static void mbedtls_finish(void *state, unsigned char *raw) {
  must(mbedtls_md_finish(state, raw) == 0);
}

static void mbedtls_destroy(void *state) {
  mbedtls_md_free(state);
  free(state);
}

static const backend mbedtls_backend = {"mbedTLS", mbedtls_create, mbedtls_update,
                                        mbedtls_finish, mbedtls_destroy};

/* ---------------------------------------------------------------- libcrypto */

/* Its functions; opaque pointers, since its headers are not needed. */
static struct {
  void *(*new_context)(void);
  void (*free_context)(void *);
  const void *(*sha1)(void);
  const void *(*sha256)(void);
  int (*init)(void *, const void *, void *);
  int (*update)(void *, const void *, size_t);
  int (*final)(void *, unsigned char *, unsigned *);
} evp;

/* Contexts in use: the exit of the process waits for them. */
static atomic_int contexts;

static void *libcrypto_create(tr_algorithm algorithm) {
  void *context = evp.new_context();
  if (context != NULL &&
      evp.init(context, algorithm == TR_SHA1 ? evp.sha1() : evp.sha256(),
               NULL) != 1) {
    evp.free_context(context);
    return NULL;
  }
  if (context != NULL)
    atomic_fetch_add(&contexts, 1);
  return context;
}

static void libcrypto_update(void *state, const void *data, size_t size) {
  must(evp.update(state, data, size) == 1);
}

static void libcrypto_finish(void *state, unsigned char *raw) {
  must(evp.final(state, raw, NULL) == 1);
}

static void libcrypto_destroy(void *state) {
  evp.free_context(state);
  atomic_fetch_sub(&contexts, 1);
}

static const backend libcrypto_backend = {"libcrypto", libcrypto_create,
                                          libcrypto_update, libcrypto_finish,
                                          libcrypto_destroy};

/* Find a function; false if the library lacks it. */
static bool find(void *library, const char *name, void *function) {
  void *address = dlsym(library, name);
  memcpy(function, &address, sizeof address);
  return address != NULL;
}

static bool find_libcrypto(void) {
  static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.1.1"};
  void *library = NULL;
  size_t i;
  for (i = 0; library == NULL && i < sizeof names / sizeof *names; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
  return library != NULL &&
         find(library, "EVP_MD_CTX_new", &evp.new_context) &&
         find(library, "EVP_MD_CTX_free", &evp.free_context) &&
         find(library, "EVP_sha1", &evp.sha1) &&
         find(library, "EVP_sha256", &evp.sha256) &&
         find(library, "EVP_DigestInit_ex", &evp.init) &&
         find(library, "EVP_DigestUpdate", &evp.update) &&
         find(library, "EVP_DigestFinal_ex", &evp.final);
}

/* ------------------------------------------------------------------ choosing */

static _Atomic(const backend *) chosen = &mbedtls_backend;
static atomic_int choosing; /* threads that take a context just now */

/* Seconds that a library takes for some bytes; below 0: it failed. */
static double measure(const backend *library) {
  static unsigned char bytes[32 * 1024];
  unsigned char raw[MBEDTLS_MD_MAX_SIZE];
  struct timespec before, after;
  void *state = library->create(TR_SHA256);
  if (state == NULL)
    return -1;
  clock_gettime(CLOCK_MONOTONIC, &before);
  library->update(state, bytes, sizeof bytes);
  library->finish(state, raw);
  clock_gettime(CLOCK_MONOTONIC, &after);
  library->destroy(state);
  return (double)(after.tv_sec - before.tv_sec) +
         (double)(after.tv_nsec - before.tv_nsec) / 1e9;
}

/* True if libcrypto hashes at all: a FIPS provider that is missing refuses. */
static bool works(void) {
  void *sha1 = libcrypto_create(TR_SHA1), *sha256 = libcrypto_create(TR_SHA256);
  bool ok = sha1 != NULL && sha256 != NULL;
  if (sha1 != NULL)
    libcrypto_destroy(sha1);
  if (sha256 != NULL)
    libcrypto_destroy(sha256);
  return ok;
}

/*
** Runs before libcrypto's own exit handler, which frees what hashing needs while
** other threads may hash: they go on with mbedTLS.
*/
static void leave_libcrypto(void) {
  const struct timespec pause = {.tv_nsec = 1000000};
  int i;
  atomic_store(&chosen, &mbedtls_backend);
  for (i = 0; i < 1000 && (atomic_load(&contexts) > 0 || atomic_load(&choosing) > 0);
       i++)
    nanosleep(&pause, NULL);
}

/* The threads that had contexts are not in the child. */
static void in_child(void) {
  atomic_store(&contexts, 0);
  atomic_store(&choosing, 0);
}

static void choose(void) {
  double ours, theirs;
  if (!find_libcrypto() || !works())
    return;
  measure(&libcrypto_backend); /* its first use fetches the algorithm */
  theirs = measure(&libcrypto_backend);
  ours = measure(&mbedtls_backend);
  pthread_atfork(NULL, NULL, in_child);
  if (theirs >= 0 && theirs < ours && atexit(leave_libcrypto) == 0)
    atomic_store_explicit(&chosen, &libcrypto_backend, memory_order_release);
}

void tr_crypto_use_libcrypto(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, choose);
}

const char *tr_crypto_backend(void) {
  return atomic_load_explicit(&chosen, memory_order_acquire)->name;
}

/* ------------------------------------------------------------------- hashing */

tr_hash *tr_hash_new(tr_algorithm algorithm) {
  tr_hash *hash = malloc(sizeof *hash);
  if (hash == NULL)
    return NULL;
  atomic_fetch_add(&choosing, 1); /* so that no exit comes in between */
  hash->library = atomic_load(&chosen);
  hash->algorithm = algorithm;
  hash->state = hash->library->create(algorithm);
  atomic_fetch_sub(&choosing, 1);
  if (hash->state == NULL) {
    free(hash);
    return NULL;
  }
  return hash;
}

void tr_hash_update(tr_hash *hash, const void *data, size_t size) {
  hash->library->update(hash->state, data, size);
}

void tr_hash_finish(tr_hash *hash, char hex[TR_HEX_MAX]) {
  unsigned char raw[MBEDTLS_MD_MAX_SIZE];
  hash->library->finish(hash->state, raw);
  tr_hex_encode(raw, tr_hex_length(hash->algorithm) / 2, hex);
}

void tr_hash_free(tr_hash *hash) {
  if (hash == NULL)
    return;
  hash->library->destroy(hash->state);
  free(hash);
}

void tr_digest(tr_algorithm algorithm, const void *data, size_t size,
               char hex[TR_HEX_MAX]) {
  unsigned char raw[MBEDTLS_MD_MAX_SIZE];
  tr_hash *hash = atomic_load_explicit(&chosen, memory_order_relaxed) ==
                          &mbedtls_backend
                      ? NULL
                      : tr_hash_new(algorithm);
  if (hash != NULL) {
    tr_hash_update(hash, data, size);
    tr_hash_finish(hash, hex);
    tr_hash_free(hash);
    return;
  }
  /* This needs no memory, and so cannot fail. */
  must(mbedtls_md(mbedtls_md_info_from_type(algorithm == TR_SHA1
                                                ? MBEDTLS_MD_SHA1
                                                : MBEDTLS_MD_SHA256),
                  data, size, raw) == 0);
  tr_hex_encode(raw, tr_hex_length(algorithm) / 2, hex);
}

void tr_blob_sha256(tr_blob *blob, char hex[TR_HEX_MAX]) {
  const char *known = tr_blob_known_sha256(blob);
  if (known != NULL) {
    memcpy(hex, known, TR_HEX_MAX);
    return;
  }
  tr_digest(TR_SHA256, tr_blob_data(blob), tr_blob_size(blob), hex);
  tr_blob_keep_sha256(blob, hex);
}

/* --------------------------------------------------------------------- HMAC */

static unsigned char process_key[32];
static bool have_process_key;

static void make_process_key(void) {
  have_process_key = getrandom(process_key, sizeof process_key, 0) ==
                     (ssize_t)sizeof process_key;
}

bool tr_process_hmac(const void *data, size_t size, char hex[TR_HEX_MAX],
                     tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  unsigned char raw[MBEDTLS_MD_MAX_SIZE];
  pthread_once(&once, make_process_key);
  if (!have_process_key) {
    tr_error_set(error, TR_IO, "the system has no random bytes");
    return false;
  }
  if (mbedtls_md_hmac(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), process_key,
                      sizeof process_key, data, size, raw) != 0) {
    tr_error_nomem(error); /* nothing else fails in it */
    return false;
  }
  tr_hex_encode(raw, sizeof process_key, hex);
  return true;
}

bool tr_md5(const void *data, size_t size, unsigned char raw[16]) {
  const mbedtls_md_info_t *info = mbedtls_md_info_from_type(MBEDTLS_MD_MD5);
  return info != NULL && mbedtls_md(info, data, size, raw) == 0;
}

/* -------------------------------------------------------------------- random */

double tr_random(void) {
  static atomic_uint_fast64_t counter;
  uint64_t bits;
  if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) != (ssize_t)sizeof bits) {
    struct timespec now; /* before the kernel has entropy */
    clock_gettime(CLOCK_REALTIME, &now);
    bits = (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15u +
           atomic_fetch_add(&counter, 0x2545F4914F6CDD1Du);
  }
  return (double)(bits >> 11) / 9007199254740992.0;
}
