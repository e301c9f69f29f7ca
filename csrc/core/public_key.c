/*
** Keys and checks by mbedTLS. Its contexts keep tables and locks, so none is shared
** between threads: the curve's table is computed once, and an RSA key, whose context is
** cheap to make, is set up for each check.
*/
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "public_key.h"

#include <mbedtls/ecdsa.h>
#include <mbedtls/ecp.h>
#include <mbedtls/pk.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto.h"
#include "ed25519.h"
#include "encoding.h"
#include "error.h"
#include "key_text.h"

enum { MIN_RSA_BITS = 2048, MAX_RSA_BITS = 8192, MAX_SPKI = 1200 };

struct tr_public_key {
  atomic_size_t refs;
  tr_key_type type;
  char fingerprint[TR_HEX_MAX];
  mbedtls_ecp_point point;    /* P-256 */
  size_t signature_size;      /* RSA */
  unsigned char minisign[40]; /* minisign: the id, the key */
  size_t der_size;            /* the canonical SPKI; 0 for minisign */
  unsigned char der[MAX_SPKI];
};

/* -------------------------------------------------------------------- P-256 */

static mbedtls_ecp_group curve;
static bool have_curve;

/*
** mbedTLS 2.28 makes a table for the curve's base point at its first use, without a
** lock, and keeps it in the group. After this first use the group is only read.
*/
static void make_curve(void) {
  mbedtls_ecp_point product;
  mbedtls_mpi one, two;
  mbedtls_ecp_group_init(&curve);
  mbedtls_ecp_point_init(&product);
  mbedtls_mpi_init(&one);
  mbedtls_mpi_init(&two);
  /* Of all calls that multiply, this one needs no generator of random numbers. */
  have_curve = mbedtls_ecp_group_load(&curve, MBEDTLS_ECP_DP_SECP256R1) == 0 &&
               mbedtls_mpi_lset(&one, 1) == 0 && mbedtls_mpi_lset(&two, 2) == 0 &&
               mbedtls_ecp_muladd(&curve, &product, &two, &curve.G, &one,
                                  &curve.G) == 0;
  mbedtls_mpi_free(&two);
  mbedtls_mpi_free(&one);
  mbedtls_ecp_point_free(&product);
}

static bool use_curve(tr_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_curve);
  if (!have_curve)
    tr_error_nomem(error); /* nothing else fails in it */
  return have_curve;
}

/* mbedTLS adds the error of a lower layer, in seven bits, to that of an upper one. */
static bool is_no_memory(int result) {
  return result < 0 &&
         ((-result & 0x7F) == -MBEDTLS_ERR_MPI_ALLOC_FAILED ||
          result == MBEDTLS_ERR_ECP_ALLOC_FAILED || result == MBEDTLS_ERR_PK_ALLOC_FAILED);
}

/* ------------------------------------------------------------------ reading */

static bool fault(tr_error *error, const char *why) {
  tr_error_set(error, TR_SYNTAX, "invalid public key: %s", why);
  return false;
}

/* An object identifier, and the name of what it stands for. */
typedef struct oid {
  const char *bytes;
  size_t size;
  const char *name;
} oid;

#define OID(bytes) bytes, sizeof bytes - 1

#define OID_EC "\x2a\x86\x48\xce\x3d\x02\x01"
#define OID_RSA "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
#define OID_P256 "\x2a\x86\x48\xce\x3d\x03\x01\x07"

static const oid key_types[] = {{OID("\x2b\x65\x70"), "Ed25519"},
                                {OID("\x2b\x65\x71"), "Ed448"},
                                {OID("\x2b\x65\x6e"), "X25519"},
                                {OID("\x2b\x65\x6f"), "X448"},
                                {OID("\x2a\x86\x48\xce\x38\x04\x01"), "DSA"},
                                {OID("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"), "RSA-PSS"},
                                {NULL, 0, "another type"}};
static const oid curves[] = {{OID("\x2b\x81\x04\x00\x21"), "P-224"},
                             {OID("\x2b\x81\x04\x00\x22"), "P-384"},
                             {OID("\x2b\x81\x04\x00\x23"), "P-521"},
                             {OID("\x2b\x81\x04\x00\x0a"), "secp256k1"},
                             {OID("\x2a\x86\x48\xce\x3d\x03\x01\x01"), "P-192"},
                             {NULL, 0, "another one"}};

static bool is_oid(const tr_der *item, const char *bytes, size_t size) {
  return item->size == size && memcmp(item->at, bytes, size) == 0;
}

static const char *name_of(const tr_der *item, const oid *names) {
  while (names->bytes != NULL && !is_oid(item, names->bytes, names->size))
    names++;
  return names->name;
}

/* Read a point in its uncompressed form. */
static bool read_point(tr_public_key *key, const tr_der *bits, tr_error *error) {
  int result;
  if (bits->size != 65 || bits->at[0] != 4)
    return fault(error, "its point is not in the uncompressed form");
  if (!use_curve(error))
    return false;
  result = mbedtls_ecp_point_read_binary(&curve, &key->point, bits->at, bits->size);
  if (result == 0)
    result = mbedtls_ecp_check_pubkey(&curve, &key->point);
  if (is_no_memory(result)) {
    tr_error_nomem(error);
    return false;
  }
  key->type = TR_KEY_ECDSA_P256;
  return result == 0 || fault(error, "its point is not on the curve P-256");
}

/* Read RSAPublicKey, which is all of 'der'. */
static bool read_rsa(tr_public_key *key, tr_der der, tr_error *error) {
  tr_der numbers, n, e;
  size_t bits;
  unsigned char top;
  char why[160];
  if (!tr_der_take(&der, TR_DER_SEQUENCE, &numbers) || der.size != 0 ||
      !tr_der_take_positive(&numbers, &n) || !tr_der_take_positive(&numbers, &e) ||
      numbers.size != 0)
    return fault(error, "its RSA key is not in valid DER");
  bits = n.size * 8;
  for (top = n.at[0]; top < 0x80; top = (unsigned char)(top << 1))
    bits--;
  if (bits < MIN_RSA_BITS || bits > MAX_RSA_BITS) {
    snprintf(why, sizeof why, "it is an RSA key of %zu bits; %d to %d are accepted",
             bits, MIN_RSA_BITS, MAX_RSA_BITS);
    return fault(error, why);
  }
  /* A long exponent would let a key make every check slow. */
  if ((n.at[n.size - 1] & 1) == 0 || (e.at[e.size - 1] & 1) == 0 || e.size > 4 ||
      (e.size == 1 && e.at[0] < 3))
    return fault(error, "its RSA modulus or exponent is not of the usual kind");
  key->type = TR_KEY_RSA;
  key->signature_size = n.size;
  return true;
}

/* Read SubjectPublicKeyInfo, which is all of 'der'. */
static bool read_spki(tr_public_key *key, tr_der der, tr_error *error) {
  tr_der info, algorithm, type, curve_name, bits, null;
  char why[160];
  if (!tr_der_take(&der, TR_DER_SEQUENCE, &info) || der.size != 0 ||
      !tr_der_take(&info, TR_DER_SEQUENCE, &algorithm) ||
      !tr_der_take(&algorithm, TR_DER_OID, &type) ||
      !tr_der_take(&info, TR_DER_BIT_STRING, &bits) || info.size != 0 ||
      bits.size == 0 || bits.at[0] != 0)
    return fault(error, "it is not a public key in valid DER");
  bits.at++; /* how many bits of the last byte are unused */
  bits.size--;
  if (is_oid(&type, OID(OID_RSA)))
    return (tr_der_take(&algorithm, TR_DER_NULL, &null) && null.size == 0 &&
            algorithm.size == 0)
               ? read_rsa(key, bits, error)
               : fault(error, "its RSA key has unknown parameters");
  if (!is_oid(&type, OID(OID_EC))) {
    snprintf(why, sizeof why, "it is a key of %s; EC P-256, RSA and minisign are accepted",
             name_of(&type, key_types));
    return fault(error, why);
  }
  if (!tr_der_take(&algorithm, TR_DER_OID, &curve_name) || algorithm.size != 0)
    return fault(error, "its curve is not given by name");
  if (is_oid(&curve_name, OID(OID_P256)))
    return read_point(key, &bits, error);
  snprintf(why, sizeof why, "its curve is %s; only P-256 is accepted",
           name_of(&curve_name, curves));
  return fault(error, why);
}

/* Keep the canonical SPKI of a key whose DER was found valid. */
static bool keep_canonical(tr_public_key *key, const tr_buffer *der, tr_error *error) {
  unsigned char out[MAX_SPKI];
  mbedtls_pk_context pk;
  int result;
  mbedtls_pk_init(&pk);
  result = mbedtls_pk_parse_public_key(&pk, (const unsigned char *)der->data, der->len);
  if (result == 0)
    result = mbedtls_pk_write_pubkey_der(&pk, out, sizeof out);
  mbedtls_pk_free(&pk);
  if (is_no_memory(result)) {
    tr_error_nomem(error);
    return false;
  }
  if (result <= 0)
    return fault(error, "mbedTLS cannot read it");
  key->der_size = (size_t)result; /* at the end of the buffer */
  memcpy(key->der, out + sizeof out - key->der_size, key->der_size);
  tr_digest(TR_SHA256, key->der, key->der_size, key->fingerprint);
  return true;
}

static bool read_key(tr_public_key *key, tr_key_form form, const tr_buffer *bytes,
                     tr_error *error) {
  const tr_der der = {(const unsigned char *)bytes->data, bytes->len};
  if (form == TR_FORM_MINISIGN) {
    key->type = TR_KEY_MINISIGN;
    memcpy(key->minisign, der.at + 2, sizeof key->minisign);
    if (tr_ed25519_is_weak(key->minisign + 8))
      return fault(error, "it is a weak key, by which anybody can sign");
    tr_digest(TR_SHA256, key->minisign + 8, 32, key->fingerprint);
    return true;
  }
  return (form == TR_FORM_PKCS1 ? read_rsa(key, der, error)
                                : read_spki(key, der, error)) &&
         keep_canonical(key, bytes, error);
}

tr_public_key *tr_public_key_read(const void *text, size_t size, tr_error *error) {
  tr_public_key *key = calloc(1, sizeof *key);
  tr_buffer bytes = {0};
  tr_key_form form;
  bool ok;
  if (key == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  atomic_init(&key->refs, 1);
  mbedtls_ecp_point_init(&key->point);
  ok = tr_key_text_read(text, size, &form, &bytes, error) &&
       read_key(key, form, &bytes, error);
  tr_buffer_free(&bytes);
  if (ok)
    return key;
  tr_public_key_release(key);
  return NULL;
}

tr_public_key *tr_public_key_retain(tr_public_key *key) {
  atomic_fetch_add_explicit(&key->refs, 1, memory_order_relaxed);
  return key;
}

void tr_public_key_release(tr_public_key *key) {
  if (key == NULL ||
      atomic_fetch_sub_explicit(&key->refs, 1, memory_order_acq_rel) != 1)
    return;
  mbedtls_ecp_point_free(&key->point);
  free(key);
}

tr_key_type tr_public_key_type(const tr_public_key *key) { return key->type; }

const char *tr_public_key_type_name(const tr_public_key *key) {
  static const char *const names[] = {"ecdsa-p256", "rsa", "minisign"};
  return names[key->type];
}

const char *tr_public_key_fingerprint(const tr_public_key *key) {
  return key->fingerprint;
}

const unsigned char *tr_public_key_ed25519(const tr_public_key *key,
                                           const unsigned char **id) {
  *id = key->minisign;
  return key->minisign + 8;
}

/* ----------------------------------------------------------------- checking */

static tr_check_result result_of(int result) {
  return result == 0 ? TR_SIGNED : is_no_memory(result) ? TR_UNCHECKED : TR_NOT_SIGNED;
}

static tr_check_result check_ecdsa(const tr_public_key *key, const unsigned char sha256[32],
                              tr_der signature) {
  tr_der numbers, raw_r, raw_s;
  mbedtls_mpi r, s;
  int result;
  if (!tr_der_take(&signature, TR_DER_SEQUENCE, &numbers) || signature.size != 0 ||
      !tr_der_take_positive(&numbers, &raw_r) ||
      !tr_der_take_positive(&numbers, &raw_s) || numbers.size != 0 ||
      raw_r.size > 32 || raw_s.size > 32)
    return TR_NOT_SIGNED;
  mbedtls_mpi_init(&r);
  mbedtls_mpi_init(&s);
  result = mbedtls_mpi_read_binary(&r, raw_r.at, raw_r.size);
  if (result == 0)
    result = mbedtls_mpi_read_binary(&s, raw_s.at, raw_s.size);
  if (result == 0)
    result = mbedtls_ecdsa_verify(&curve, sha256, 32, &key->point, &r, &s);
  mbedtls_mpi_free(&s);
  mbedtls_mpi_free(&r);
  return result_of(result);
}

static tr_check_result check_rsa(const tr_public_key *key, const unsigned char sha256[32],
                            const void *signature, size_t size) {
  mbedtls_pk_context pk;
  int result;
  if (size != key->signature_size)
    return TR_NOT_SIGNED;
  mbedtls_pk_init(&pk);
  result = mbedtls_pk_parse_public_key(&pk, key->der, key->der_size);
  if (result != 0) { /* it was read before, when there was more memory */
    mbedtls_pk_free(&pk);
    return TR_UNCHECKED;
  }
  result = mbedtls_pk_verify(&pk, MBEDTLS_MD_SHA256, sha256, 32, signature, size);
  mbedtls_pk_free(&pk);
  return result_of(result);
}

tr_check_result tr_public_key_check(const tr_public_key *key, const unsigned char sha256[32],
                               const void *signature, size_t size) {
  if (key->type == TR_KEY_MINISIGN)
    return TR_NOT_SIGNED;
  if (key->type == TR_KEY_RSA)
    return check_rsa(key, sha256, signature, size);
  return check_ecdsa(key, sha256, (tr_der){signature, size});
}
