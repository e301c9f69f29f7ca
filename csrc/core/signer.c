/*
** Principals at object stores. A store answers where a bucket is, so a hostile one could have
** signed requests sent anywhere: only hosts of the endpoint's own domain get them.
*/
#include "signer.h"

#include <ctype.h>
#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static void free_secret(char *text) {
  if (text != NULL)
    mbedtls_platform_zeroize(text, strlen(text));
  free(text);
}

static void signer_free(tr_signer *s) {
  tr_url_free(&s->endpoint);
  free(s->place);
  free(s->region);
  free(s->service);
  free(s->access_key_id);
  free_secret(s->secret_access_key);
  free_secret(s->session_token);
  mbedtls_platform_zeroize(&s->key, sizeof s->key);
  free(s);
}

bool tr_region_valid(const char *region) {
  size_t len = strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-");
  return len > 0 && len < TR_REGION_MAX && region[len] == '\0';
}

/* True if a text may be a part of a header. */
static bool is_one_word(const char *text) {
  for (; text != NULL && *text != '\0'; text++)
    if ((unsigned char)*text <= ' ' || *text == 0x7F)
      return false;
  return true;
}

/* Return why options make no principal, or NULL. */
static const char *find_fault(const tr_signer_options *o) {
  if ((o->access_key_id == NULL) != (o->secret_access_key == NULL))
    return "an access key id and a secret access key go together";
  if (!is_one_word(o->access_key_id) || !is_one_word(o->secret_access_key) ||
      !is_one_word(o->session_token))
    return "they have a space or a control character in them";
  if (o->access_key_id != NULL && strpbrk(o->access_key_id, "/,=") != NULL)
    return "the access key id has a '/', ',' or '=' in it";
  return NULL;
}

static bool copy_text(char **to, const char *from) {
  *to = from != NULL ? strdup(from) : NULL;
  return from == NULL || *to != NULL;
}

static bool copy_texts(tr_signer *s, const tr_signer_options *o) {
  const char *bucket = o->bucket != NULL ? o->bucket : "";
  size_t size = s->endpoint.origin_len + strlen(bucket) + 2;
  s->place = malloc(size);
  if (s->place == NULL)
    return false;
  snprintf(s->place, size, "%.*s/%s", (int)s->endpoint.origin_len, s->endpoint.text,
           bucket);
  return copy_text(&s->region, o->region) &&
         copy_text(&s->service, o->service != NULL ? o->service : "s3") &&
         copy_text(&s->access_key_id, o->access_key_id) &&
         copy_text(&s->secret_access_key, o->secret_access_key) &&
         copy_text(&s->session_token, o->session_token);
}

tr_signer *tr_signer_new(const tr_signer_options *o, tr_error *error) {
  const char *fault = find_fault(o);
  tr_signer *s;
  if (fault != NULL) {
    tr_error_set(error, TR_POLICY, "the S3 credentials are invalid: %s", fault);
    return NULL;
  }
  if (!tr_region_valid(o->region)) {
    tr_error_set(error, TR_POLICY, "\"%s\" is not a region: it has a-z, 0-9 and '-'",
                 o->region);
    return NULL;
  }
  s = calloc(1, sizeof *s);
  if (s == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  atomic_init(&s->refs, 1);
  atomic_flag_clear(&s->key.busy);
  fault = tr_url_parse(&s->endpoint, o->endpoint);
  if (fault == NULL && strncmp(s->endpoint.text, "http", 4) != 0)
    fault = "it is neither http nor https";
  if (fault != NULL)
    tr_error_set(error, TR_POLICY, "the S3 endpoint \"%s\" is invalid: %s", o->endpoint,
                 fault);
  else if (!copy_texts(s, o))
    tr_error_nomem(error);
  else
    return s;
  signer_free(s);
  return NULL;
}

tr_signer *tr_signer_retain(tr_signer *s) {
  atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
  return s;
}

void tr_signer_release(tr_signer *s) {
  if (s != NULL && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
    signer_free(s);
}

/* ---------------------------------------------------------------------- hosts */

/* Return the length of a host without an ending, or 0. */
static size_t without(const char *host, size_t len, const char *ending) {
  size_t tail = strlen(ending);
  return len > tail && memcmp(host + len - tail, ending, tail) == 0 ? len - tail : 0;
}

/* Return the suffix of Amazon's hosts that a host has, or NULL. */
static const char *amazon_suffix(const char *host) {
  static const char *const suffixes[] = {".amazonaws.com", ".amazonaws.com.cn"};
  size_t i;
  for (i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
    if (without(host, strlen(host), suffixes[i]) > 0)
      return suffixes[i];
  return NULL;
}

/* True for the name of a region in a host of Amazon's, which has a '-' and a digit. */
static bool is_region(const char *at, size_t len) {
  bool dash = false, digit = false;
  size_t i;
  for (i = 0; i < len; i++) {
    if (at[i] == '.')
      return false;
    dash |= at[i] == '-';
    digit |= isdigit((unsigned char)at[i]) != 0;
  }
  return dash && digit;
}

/* True for "s3", "s3.<region>", "s3-<region>" and "s3.dualstack.<region>". */
static bool names_s3(const char *at, size_t len) {
  static const char dualstack[] = "dualstack.";
  if (len < 2 || memcmp(at, "s3", 2) != 0)
    return false;
  if (len == 2)
    return true;
  if (at[2] != '.' && at[2] != '-')
    return false;
  at += 3;
  len -= 3;
  if (len > sizeof dualstack && memcmp(at, dualstack, sizeof dualstack - 1) == 0) {
    at += sizeof dualstack - 1;
    len -= sizeof dualstack - 1;
  }
  return is_region(at, len);
}

/* True for a host of Amazon's S3 with a suffix, with or without a bucket's name. */
static bool is_amazon_s3(const char *host, const char *suffix) {
  size_t len = without(host, strlen(host), suffix), i;
  for (i = 0; i < len; i++)
    if ((i == 0 || host[i - 1] == '.') && names_s3(host + i, len - i))
      return true;
  return false;
}

bool tr_signer_covers(const tr_signer *s, const tr_url *url) {
  const tr_url *own = &s->endpoint;
  const char *suffix = amazon_suffix(own->host);
  size_t len = strlen(url->host), front = without(url->host, len, own->host);
  if (url->secure != own->secure || url->port != own->port)
    return false;
  if (strcmp(url->host, own->host) == 0 || (front > 1 && url->host[front - 1] == '.'))
    return true;
  return suffix != NULL && is_amazon_s3(own->host, suffix) &&
         is_amazon_s3(url->host, suffix);
}

char *tr_signer_move(const tr_url *url, const char *from, const char *to) {
  const char *suffix = amazon_suffix(url->host), *host, *old;
  size_t front, len = strlen(from), size;
  char *moved;
  if (suffix == NULL || !is_amazon_s3(url->host, suffix) || !tr_region_valid(to))
    return NULL;
  front = without(url->host, strlen(url->host), suffix);
  if (front <= len || memcmp(url->host + front - len, from, len) != 0)
    return NULL;
  host = strstr(url->text, "://") + 3;
  old = host + front - len;
  size = strlen(url->text) + strlen(to) + 1;
  moved = malloc(size);
  if (moved != NULL)
    snprintf(moved, size, "%.*s%s%s", (int)(old - url->text), url->text, to, old + len);
  return moved;
}
