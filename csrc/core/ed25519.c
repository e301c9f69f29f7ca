/*
** mbedTLS has neither Ed25519 nor BLAKE2b. libcrypto is nearly always in the process,
** since libcurl brings it along; libsodium is the library of minisign itself. Either has
** to pass a test, since libcrypto can be set up to refuse what FIPS does not allow.
*/
#include "ed25519.h"

#include <pthread.h>
#include <string.h>

#include "error.h"
#include "libcrypto.h"

typedef bool verifier(const unsigned char *key, const unsigned char *signature,
                      const void *data, size_t size, bool *no_memory);
typedef bool hasher(const void *data, size_t size, unsigned char *raw);

static const char *backend; /* NULL: none was found */
static verifier *verify;
static hasher *hash;

/* ---------------------------------------------------------------- libcrypto */

/* OpenSSL's functions; opaque pointers, since its headers are not needed. */
static struct {
  void *(*new_key)(int, void *, const unsigned char *, size_t);
  void (*free_key)(void *);
  void *(*new_context)(void);
  void (*free_context)(void *);
  int (*verify_init)(void *, void **, const void *, void *, void *);
  int (*verify)(void *, const unsigned char *, size_t, const unsigned char *, size_t);
  const void *(*blake2b)(void);
  int (*digest)(const void *, size_t, unsigned char *, unsigned *, const void *, void *);
  void (*clear_errors)(void);
} evp;

enum { EVP_PKEY_ED25519 = 1087 };

static bool libcrypto_verify(const unsigned char *key, const unsigned char *signature,
                             const void *data, size_t size, bool *no_memory) {
  void *pkey = evp.new_key(EVP_PKEY_ED25519, NULL, key, TR_ED25519_KEY_SIZE);
  void *context = evp.new_context();
  int result = -1; /* 0 is a wrong signature, below is another error */
  if (pkey != NULL && context != NULL &&
      evp.verify_init(context, NULL, NULL, NULL, pkey) == 1)
    result = evp.verify(context, signature, TR_ED25519_SIGNATURE_SIZE, data, size);
  if (context != NULL)
    evp.free_context(context);
  if (pkey != NULL)
    evp.free_key(pkey);
  if (result != 1)
    evp.clear_errors(); /* the program may look at its own later */
  *no_memory = result < 0;
  return result == 1;
}

static bool libcrypto_hash(const void *data, size_t size, unsigned char *raw) {
  if (evp.digest(data, size, raw, NULL, evp.blake2b(), NULL) == 1)
    return true;
  evp.clear_errors();
  return false;
}

static bool find_libcrypto(void) {
  const tr_symbol symbols[] = {
      {"EVP_PKEY_new_raw_public_key", &evp.new_key},
      {"EVP_PKEY_free", &evp.free_key},
      {"EVP_MD_CTX_new", &evp.new_context},
      {"EVP_MD_CTX_free", &evp.free_context},
      {"EVP_DigestVerifyInit", &evp.verify_init},
      {"EVP_DigestVerify", &evp.verify},
      {"EVP_blake2b512", &evp.blake2b},
      {"EVP_Digest", &evp.digest},
      {"ERR_clear_error", &evp.clear_errors},
      {NULL, NULL}};
  return tr_libcrypto_find(symbols);
}

/* ---------------------------------------------------------------- libsodium */

static struct {
  int (*init)(void);
  int (*verify)(const unsigned char *, const unsigned char *, unsigned long long,
                const unsigned char *);
  int (*blake2b)(unsigned char *, size_t, const unsigned char *, unsigned long long,
                 const unsigned char *, size_t);
} sodium;

static bool sodium_verify(const unsigned char *key, const unsigned char *signature,
                          const void *data, size_t size, bool *no_memory) {
  *no_memory = false; /* it takes none */
  return sodium.verify(signature, data, size, key) == 0;
}

static bool sodium_hash(const void *data, size_t size, unsigned char *raw) {
  return sodium.blake2b(raw, TR_BLAKE2B_SIZE, data, size, NULL, 0) == 0;
}

static bool find_sodium(void) {
  static const char *const names[] = {"libsodium.so.23", "libsodium.so.26",
                                      "libsodium.so", NULL};
  const tr_symbol symbols[] = {{"sodium_init", &sodium.init},
                               {"crypto_sign_verify_detached", &sodium.verify},
                               {"crypto_generichash", &sodium.blake2b},
                               {NULL, NULL}};
  return tr_library_find(names, symbols) && sodium.init() >= 0;
}

/* ----------------------------------------------------------------- choosing */

/* True if the functions give the results of RFC 8032 (7.1, test 1) and RFC 7693
** (BLAKE2b-512 of nothing begins so), and refuse a wrong signature. */
static bool works(void) {
  static const unsigned char key[] =
      "\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a"
      "\x0e\xe1\x72\xf3\xda\xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a";
  static const unsigned char signature[] =
      "\xe5\x56\x43\x00\xc3\x60\xac\x72\x90\x86\xe2\xcc\x80\x6e\x82\x8a"
      "\x84\x87\x7f\x1e\xb8\xe5\xd9\x74\xd8\x73\xe0\x65\x22\x49\x01\x55"
      "\x5f\xb8\x82\x15\x90\xa3\x3b\xac\xc6\x1e\x39\x70\x1c\xf9\xb4\x6b"
      "\xd2\x5b\xf5\xf0\x59\x5b\xbe\x24\x65\x51\x41\x43\x8e\x7a\x10\x0b";
  unsigned char raw[TR_BLAKE2B_SIZE];
  bool no_memory;
  return verify(key, signature, "", 0, &no_memory) &&
         !verify(key, signature, "x", 1, &no_memory) && !no_memory && hash("", 0, raw) &&
         memcmp(raw, "\x78\x6a\x02\xf7\x42\x01\x59\x03", 8) == 0;
}

static void choose(void) {
  verify = libcrypto_verify;
  hash = libcrypto_hash;
  if (find_libcrypto() && works()) {
    backend = "libcrypto";
    return;
  }
  verify = sodium_verify;
  hash = sodium_hash;
  if (find_sodium() && works())
    backend = "libsodium";
}

bool tr_ed25519_open(tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, choose);
  if (backend != NULL)
    return true;
  tr_error_set(error, TR_IO,
               "cannot verify minisign signatures: this machine has neither libcrypto "
               "nor libsodium (on Debian: install libssl3 or libsodium23)");
  return false;
}

const char *tr_ed25519_backend(void) { return backend; }

/* The y of points of small order (RFC 8032, 5.1.3; the sign is left out): with such a
** key, one signature is good for everything. */
static const unsigned char small_order[][TR_ED25519_KEY_SIZE] = {
    {0},
    {1},
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4,
     0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6,
     0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b,
     0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39,
     0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}};

bool tr_ed25519_is_weak(const unsigned char point[TR_ED25519_KEY_SIZE]) {
  unsigned char y[TR_ED25519_KEY_SIZE];
  size_t i;
  memcpy(y, point, sizeof y);
  y[sizeof y - 1] &= 0x7f;
  for (i = 0; i < sizeof small_order / sizeof *small_order; i++)
    if (memcmp(y, small_order[i], sizeof y) == 0)
      return true;
  /* p - 1, of order 2, and what is no number below p = 2^255 - 19 */
  for (i = 1; i < sizeof y - 1 && y[i] == 0xff; i++)
    ;
  return i == sizeof y - 1 && y[i] == 0x7f && y[0] >= 0xec;
}

bool tr_ed25519_verify(const unsigned char key[TR_ED25519_KEY_SIZE],
                       const unsigned char signature[TR_ED25519_SIGNATURE_SIZE],
                       const void *data, size_t size, bool *no_memory) {
  *no_memory = false;
  return !tr_ed25519_is_weak(signature) && /* as libsodium has it, and so minisign */
         verify(key, signature, data, size, no_memory);
}

bool tr_blake2b(const void *data, size_t size, unsigned char raw[TR_BLAKE2B_SIZE]) {
  return hash(data, size, raw);
}
