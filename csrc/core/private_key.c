/*
** mbedTLS reads private keys, but version 2.28 does not decrypt those that OpenSSL 3
** encrypts (PBES2 with AES): these pass through libcrypto.
*/
#include "private_key.h"

#include <errno.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/version.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "encoding.h"
#include "error.h"
#include "libcrypto.h"

int tr_mbedtls_random(void *unused, unsigned char *out, size_t size) {
  (void)unused;
  while (size > 0) {
    ssize_t got = getrandom(out, size, 0);
    if (got < 0 && errno != EINTR)
      return MBEDTLS_ERR_PK_BAD_INPUT_DATA;
    if (got > 0) {
      out += got;
      size -= (size_t)got;
    }
  }
  return 0;
}

static int parse(mbedtls_pk_context *pk, const void *key, size_t size,
                 const char *password, size_t len) {
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
  return mbedtls_pk_parse_key(pk, key, size, (const unsigned char *)password, len,
                              tr_mbedtls_random, NULL);
#else
  return mbedtls_pk_parse_key(pk, key, size, (const unsigned char *)password, len);
#endif
}

/* ---------------------------------------------------------------- libcrypto */

typedef int password_function(char *buffer, int size, int writing, void *source);

static struct {
  void *(*new_bio)(const void *, int);
  int (*free_bio)(void *);
  void *(*read_key)(void *, void **, password_function *, void *);
  int (*write_key)(const void *, unsigned char **);
  void (*free_key)(void *);
  void (*clear_errors)(void);
} openssl;
static bool have_openssl;

static void find_openssl(void) {
  const tr_symbol symbols[] = {{"BIO_new_mem_buf", &openssl.new_bio},
                               {"BIO_free", &openssl.free_bio},
                               {"PEM_read_bio_PrivateKey", &openssl.read_key},
                               {"i2d_PrivateKey", &openssl.write_key},
                               {"EVP_PKEY_free", &openssl.free_key},
                               {"ERR_clear_error", &openssl.clear_errors},
                               {NULL, NULL}};
  have_openssl = tr_libcrypto_find(symbols);
}

static int give_password(char *buffer, int size, int writing, void *context) {
  const tr_key_source *source = context;
  (void)writing;
  if (size < 0 || source->password_len > (size_t)size)
    return -1;
  memcpy(buffer, source->password, source->password_len);
  return (int)source->password_len;
}

/* Parse the DER of a key of libcrypto's. */
static int parse_decrypted(mbedtls_pk_context *pk, const void *key) {
  int size = openssl.write_key(key, NULL), result = MBEDTLS_ERR_PK_ALLOC_FAILED;
  unsigned char *der, *end;
  if (size <= 0)
    return MBEDTLS_ERR_PK_UNKNOWN_PK_ALG;
  der = end = malloc((size_t)size);
  if (der == NULL)
    return result;
  if (openssl.write_key(key, &end) == size)
    result = parse(pk, der, (size_t)size, NULL, 0);
  mbedtls_platform_zeroize(der, (size_t)size);
  free(der);
  return result;
}

/* Decrypt a key with libcrypto, and parse it. */
static int decrypt(mbedtls_pk_context *pk, const tr_key_source *source) {
  tr_key_source copy = *source;
  void *bio = openssl.new_bio(source->pem, (int)source->size), *key = NULL;
  int result = MBEDTLS_ERR_PK_PASSWORD_MISMATCH;
  if (bio != NULL)
    key = openssl.read_key(bio, NULL, give_password, &copy);
  if (key != NULL)
    result = parse_decrypted(pk, key);
  openssl.free_key(key); /* NULL is allowed, in both */
  openssl.free_bio(bio);
  openssl.clear_errors(); /* the program may look at its own later */
  return result;
}

/* ------------------------------------------------------------------ reading */

static bool fault_of(tr_error *error, const char *why) {
  tr_error_set(error, TR_SYNTAX, "cannot sign with this key: %s", why);
  return false;
}

/* Return why a block is no private key that can be read, or NULL. */
static const char *label_fault(const tr_pem *block) {
  if (tr_pem_is(block, "ENCRYPTED SIGSTORE PRIVATE KEY") ||
      tr_pem_is(block, "ENCRYPTED COSIGN PRIVATE KEY"))
    return "keys encrypted by cosign are not supported; make one with 'openssl ecparam "
           "-genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -out FILE', which "
           "'cosign import-key-pair' reads too";
  if (tr_pem_is(block, "OPENSSH PRIVATE KEY"))
    return "keys of OpenSSH are not supported; convert a copy with 'ssh-keygen -p -m PKCS8 "
           "-f COPY'";
  if (tr_pem_ends_in(block, "PUBLIC KEY"))
    return "it is a public key; its private key signs";
  if (tr_pem_ends_in(block, "CERTIFICATE"))
    return "it is a certificate; its private key signs";
  return NULL;
}

/* Find the block of the private key in a text, which may hold its parameters too. */
static bool find_block(const tr_key_source *source, tr_key_source *found,
                       bool *encrypted, tr_error *error) {
  const char *at = source->pem, *end = source->pem + source->size, *why;
  tr_pem block, key = {.label = NULL};
  while (tr_pem_next(&at, end, &block)) {
    why = label_fault(&block);
    if (why != NULL)
      return fault_of(error, why);
    if (!tr_pem_ends_in(&block, "PRIVATE KEY"))
      continue;
    if (key.label != NULL)
      return fault_of(error, "the text has more than one private key");
    if (block.body == NULL)
      return fault_of(error, "its PEM block has no END line");
    key = block;
  }
  if (key.label == NULL && memmem(source->pem, source->size, "minisign", 8) != NULL)
    return fault_of(error, "it is a minisign key; sign with 'minisign -S'");
  if (key.label == NULL)
    return fault_of(error, "the text has no PEM block with a private key");
  *found = *source;
  found->pem = key.label - strlen("-----BEGIN ");
  found->size = (size_t)(end - found->pem);
  *encrypted = tr_pem_is(&key, "ENCRYPTED PRIVATE KEY") ||
               memmem(key.body, key.body_len, "Proc-Type: 4,ENCRYPTED", 22) != NULL;
  return true;
}

static bool password_fault(tr_error *error, tr_password_fault *fault,
                           tr_password_fault which) {
  *fault = which;
  tr_error_set(error, TR_DENIED, which == TR_PASSWORD_NEEDED
                                     ? "the private key is encrypted: its password is needed"
                                     : "wrong password for the private key, or the key is "
                                       "damaged");
  return false;
}

/* Parse an encrypted key by mbedTLS, or else by libcrypto. */
static bool read_encrypted(mbedtls_pk_context *pk, const tr_key_source *source,
                           tr_password_fault *fault, tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  int result;
  if (source->password == NULL)
    return password_fault(error, fault, TR_PASSWORD_NEEDED);
  result = parse(pk, source->pem, source->size + 1, source->password,
                 source->password_len);
  if (result != 0 && result != MBEDTLS_ERR_PK_PASSWORD_MISMATCH) {
    pthread_once(&once, find_openssl);
    if (!have_openssl) {
      tr_error_set(error, TR_IO,
                   "cannot decrypt the private key: this machine has no libcrypto (on "
                   "Debian: install libssl3)");
      return false;
    }
    mbedtls_pk_free(pk);
    mbedtls_pk_init(pk);
    result = decrypt(pk, source);
  }
  if (result == MBEDTLS_ERR_PK_PASSWORD_MISMATCH)
    return password_fault(error, fault, TR_PASSWORD_WRONG);
  return result == 0 || fault_of(error, "it is of a type that is not known; signing needs "
                                        "an EC P-256 key");
}

bool tr_private_key_read(mbedtls_pk_context *pk, const tr_key_source *source,
                         tr_password_fault *fault, tr_error *error) {
  tr_key_source found;
  bool encrypted;
  *fault = TR_PASSWORD_FINE;
  if (!find_block(source, &found, &encrypted, error))
    return false;
  if (encrypted)
    return read_encrypted(pk, &found, fault, error);
  return parse(pk, found.pem, found.size + 1, NULL, 0) == 0 ||
         fault_of(error, "it is damaged, or of a type that is not known; signing needs an "
                         "EC P-256 key");
}
