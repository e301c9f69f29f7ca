/*
** AWS Signature Version 4: an HMAC over a canonical form of the request, by a key that is
** derived from the secret, the day, the region and the service. Paths are encoded once, as S3
** wants it; their segments keep their dots and double slashes.
*/
#include "sigv4.h"

#include <ctype.h>
#include <mbedtls/md.h>
#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto.h"

enum {
  DIGEST = 32,
  ENOUGH = 1024 /* bytes for the texts of most requests */
};

const char TR_EMPTY_SHA256[] =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

static const char algorithm[] = "AWS4-HMAC-SHA256";

/* A name and a value, of a header or of a query. */
typedef struct pair {
  size_t name_at, value_at; /* in 'texts', each with a final zero byte */
  const char *name, *value; /* once 'texts' is complete */
} pair;

/* Pairs, and their texts. */
typedef struct pairs {
  tr_buffer texts;
  pair *list;
  size_t count;
} pairs;

void tr_sigv4_date(time_t seconds, char date[TR_SIGV4_DATE]) {
  struct tm utc;
  if (gmtime_r(&seconds, &utc) == NULL ||
      strftime(date, TR_SIGV4_DATE, "%Y%m%dT%H%M%SZ", &utc) == 0)
    memcpy(date, "19700101T000000Z", TR_SIGV4_DATE);
}

static bool add_text(tr_buffer *to, const char *text) {
  return tr_buffer_append(to, text, strlen(text));
}

/* -------------------------------------------------------------- canonical form */

static int hex_digit(char c) {
  return isdigit((unsigned char)c)    ? c - '0'
         : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10
                                      : -1;
}

/* Append a part of a URL with every byte encoded that must be, and no other. */
static bool add_encoded(tr_buffer *to, const char *at, const char *end, bool is_path) {
  static const char digits[] = "0123456789ABCDEF";
  while (at < end) {
    unsigned char c = (unsigned char)*at++;
    char code[3] = {'%', 0, 0};
    if (c == '%' && end - at >= 2 && hex_digit(at[0]) >= 0 && hex_digit(at[1]) >= 0) {
      c = (unsigned char)(hex_digit(at[0]) << 4 | hex_digit(at[1]));
      at += 2;
    }
    code[1] = digits[c >> 4];
    code[2] = digits[c & 15];
    if ((c < 0x80 && isalnum(c)) || c == '-' || c == '.' || c == '_' || c == '~' ||
        (c == '/' && is_path)) {
      if (!tr_buffer_append(to, &(char){(char)c}, 1))
        return false;
    } else if (!tr_buffer_append(to, code, sizeof code)) {
      return false;
    }
  }
  return true;
}

static void free_pairs(pairs *p) {
  if (p->texts.data != NULL) /* a session token may be among the headers */
    mbedtls_platform_zeroize(p->texts.data, p->texts.cap);
  tr_buffer_free(&p->texts);
  free(p->list);
}

/* The order of parameters. */
static int compare_parameters(const void *a, const void *b) {
  const pair *x = a, *y = b;
  int order = strcmp(x->name, y->name);
  return order != 0 ? order : strcmp(x->value, y->value);
}

/* The order of headers: those of one name stay as they came. */
static int compare_headers(const void *a, const void *b) {
  const pair *x = a, *y = b;
  int order = strcmp(x->name, y->name);
  return order != 0 ? order : x->name < y->name ? -1 : 1;
}

/* Sort pairs whose texts are complete. */
static void sort_pairs(pairs *p, int (*compare)(const void *, const void *)) {
  size_t i;
  for (i = 0; i < p->count; i++) {
    p->list[i].name = p->texts.data + p->list[i].name_at;
    p->list[i].value = p->texts.data + p->list[i].value_at;
  }
  if (p->count > 1)
    qsort(p->list, p->count, sizeof *p->list, compare);
}

static bool make_room(pairs *p, size_t count) {
  p->list = calloc(count > 0 ? count : 1, sizeof *p->list);
  return p->list != NULL;
}

/* Read the parameters of a query. */
static bool read_query(pairs *p, const char *query) {
  const char *at;
  size_t count = 1;
  for (at = query; *at != '\0'; at++)
    count += *at == '&';
  if (!make_room(p, count))
    return false;
  for (at = query; *at != '\0';) {
    const char *end = at + strcspn(at, "&"), *equals = memchr(at, '=', (size_t)(end - at));
    pair *one = &p->list[p->count];
    const char *name_end = equals != NULL ? equals : end;
    if (end > at) {
      one->name_at = p->texts.len;
      if (!add_encoded(&p->texts, at, name_end, false) ||
          !tr_buffer_append(&p->texts, "", 1))
        return false;
      one->value_at = p->texts.len;
      if (!add_encoded(&p->texts, equals != NULL ? equals + 1 : end, end, false) ||
          !tr_buffer_append(&p->texts, "", 1))
        return false;
      p->count++;
    }
    at = *end == '&' ? end + 1 : end;
  }
  return true;
}

/* Append the canonical query. */
static bool add_query(tr_buffer *to, const char *query) {
  pairs p = {0};
  bool ok = read_query(&p, query);
  size_t i;
  if (ok)
    sort_pairs(&p, compare_parameters);
  for (i = 0; ok && i < p.count; i++)
    ok = (i == 0 || add_text(to, "&")) && add_text(to, p.list[i].name) &&
         add_text(to, "=") && add_text(to, p.list[i].value);
  free_pairs(&p);
  return ok;
}

/* Append a value without the white space around it, and with one space for several. */
static bool add_value(tr_buffer *to, const char *at) {
  const char *end = at + strlen(at);
  while (at < end && isspace((unsigned char)*at))
    at++;
  while (end > at && isspace((unsigned char)end[-1]))
    end--;
  for (; at < end; at++) {
    bool space = isspace((unsigned char)*at) != 0;
    if (space && isspace((unsigned char)at[1]))
      continue;
    if (!tr_buffer_append(to, space ? " " : at, 1))
      return false;
  }
  return true;
}

/* Read header lines; libcurl takes "Name;" for an empty value. */
static bool read_headers(pairs *p, const char *const *lines) {
  size_t count = 0, i, k;
  while (lines[count] != NULL)
    count++;
  if (!make_room(p, count))
    return false;
  for (i = 0; i < count; i++) {
    const char *line = lines[i];
    size_t len = strcspn(line, ":;");
    pair *one = &p->list[p->count++];
    one->name_at = p->texts.len;
    if (!tr_buffer_append(&p->texts, line, len) || !tr_buffer_append(&p->texts, "", 1))
      return false;
    for (k = 0; k < len; k++) {
      char *c = &p->texts.data[one->name_at + k];
      *c = (char)tolower((unsigned char)*c);
    }
    one->value_at = p->texts.len;
    if (!add_value(&p->texts, line[len] != '\0' ? line + len + 1 : line + len) ||
        !tr_buffer_append(&p->texts, "", 1))
      return false;
  }
  sort_pairs(p, compare_headers);
  return true;
}

/* True if a header has the name of the one before. */
static bool is_repeated(const pairs *p, size_t i) {
  return i > 0 && strcmp(p->list[i].name, p->list[i - 1].name) == 0;
}

/* Append the canonical headers, a line for each name. */
static bool add_headers(tr_buffer *to, const pairs *p) {
  size_t i;
  bool ok = true;
  for (i = 0; ok && i < p->count; i++) {
    if (is_repeated(p, i))
      ok = add_text(to, ",");
    else
      ok = (i == 0 || add_text(to, "\n")) && add_text(to, p->list[i].name) &&
           add_text(to, ":");
    ok = ok && add_text(to, p->list[i].value);
  }
  return ok && add_text(to, "\n");
}

/* Append the names of the signed headers. */
static bool add_names(tr_buffer *to, const pairs *p) {
  size_t i;
  bool ok = true;
  for (i = 0; ok && i < p->count; i++)
    if (!is_repeated(p, i))
      ok = (i == 0 || add_text(to, ";")) && add_text(to, p->list[i].name);
  return ok;
}

/* Append the canonical request. */
static bool add_canonical(tr_buffer *to, const tr_signing *what, const pairs *headers) {
  const char *start = strstr(what->url, "://"), *path, *query;
  path = start != NULL ? start + 3 : what->url;
  path += strcspn(path, "/?");
  query = path + strcspn(path, "?");
  return add_text(to, what->method) && add_text(to, "\n") &&
         (path == query ? add_text(to, "/") : add_encoded(to, path, query, true)) &&
         add_text(to, "\n") && add_query(to, *query == '?' ? query + 1 : query) &&
         add_text(to, "\n") && add_headers(to, headers) && add_text(to, "\n") &&
         add_names(to, headers) && add_text(to, "\n") && add_text(to, what->payload);
}

/* ------------------------------------------------------------------- signature */

static bool hmac(const void *key, size_t key_size, const char *text, size_t size,
                 unsigned char raw[DIGEST]) {
  return mbedtls_md_hmac(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), key, key_size,
                         (const unsigned char *)text, size, raw) == 0;
}

/* Derive the key of a day, a region and a service. False: memory is short. */
static bool derive_key(const tr_signer *s, const char *day, const char *region,
                       unsigned char key[DIGEST]) {
  size_t len = strlen(s->secret_access_key) + 4;
  char *secret = malloc(len + 1);
  bool ok;
  if (secret == NULL)
    return false;
  snprintf(secret, len + 1, "AWS4%s", s->secret_access_key);
  ok = hmac(secret, len, day, strlen(day), key) &&
       hmac(key, DIGEST, region, strlen(region), key) &&
       hmac(key, DIGEST, s->service, strlen(s->service), key) &&
       hmac(key, DIGEST, "aws4_request", 12, key);
  mbedtls_platform_zeroize(secret, len);
  free(secret);
  return ok;
}

/* Get the key of a day and a region, which is derived once for both. */
static bool find_key(tr_signer *s, const char *day, const char *region,
                     unsigned char key[DIGEST]) {
  tr_signer_key *last = &s->key;
  bool ok, is_mine = !atomic_flag_test_and_set_explicit(&last->busy, memory_order_acquire);
  if (is_mine && strcmp(last->day, day) == 0 && strcmp(last->region, region) == 0) {
    memcpy(key, last->bytes, DIGEST);
    ok = true;
  } else {
    ok = derive_key(s, day, region, key);
    if (ok && is_mine) {
      snprintf(last->day, sizeof last->day, "%s", day);
      snprintf(last->region, sizeof last->region, "%s", region);
      memcpy(last->bytes, key, DIGEST);
    }
  }
  if (is_mine)
    atomic_flag_clear_explicit(&last->busy, memory_order_release);
  return ok;
}

/* Append "<day>/<region>/<service>/aws4_request". */
static bool add_scope(tr_buffer *to, const tr_signer *s, const char *day,
                      const char *region) {
  return add_text(to, day) && add_text(to, "/") && add_text(to, region) &&
         add_text(to, "/") && add_text(to, s->service) && add_text(to, "/aws4_request");
}

/* Write the signature of a canonical request in hex. False: memory is short. */
static bool sign_text(tr_signer *s, const tr_signing *what, const char *day,
                      const tr_buffer *canonical, char hex[TR_HEX_MAX]) {
  unsigned char key[DIGEST], raw[DIGEST];
  tr_buffer text = {0};
  bool ok;
  tr_digest(TR_SHA256, canonical->data, canonical->len, hex);
  ok = add_text(&text, algorithm) && add_text(&text, "\n") && add_text(&text, what->date) &&
       add_text(&text, "\n") && add_scope(&text, s, day, what->region) &&
       add_text(&text, "\n") && add_text(&text, hex) &&
       find_key(s, day, what->region, key) &&
       hmac(key, DIGEST, text.data, text.len, raw);
  tr_buffer_free(&text);
  mbedtls_platform_zeroize(key, sizeof key);
  if (ok)
    tr_hex_encode(raw, DIGEST, hex);
  return ok;
}

bool tr_sigv4_sign(tr_signer *s, const tr_signing *what, tr_buffer *authorization,
                   tr_buffer *canonical) {
  char day[9], signature[TR_HEX_MAX];
  pairs headers = {0};
  tr_buffer own = {0};
  bool ok;
  snprintf(day, sizeof day, "%.8s", what->date);
  ok = tr_buffer_reserve(&own, ENOUGH) && tr_buffer_reserve(&headers.texts, ENOUGH) &&
       tr_buffer_reserve(authorization, ENOUGH) && read_headers(&headers, what->headers) &&
       add_canonical(&own, what, &headers) &&
       sign_text(s, what, day, &own, signature) && add_text(authorization, algorithm) &&
       add_text(authorization, " Credential=") &&
       add_text(authorization, s->access_key_id) && add_text(authorization, "/") &&
       add_scope(authorization, s, day, what->region) &&
       add_text(authorization, ", SignedHeaders=") && add_names(authorization, &headers) &&
       add_text(authorization, ", Signature=") && add_text(authorization, signature) &&
       (canonical == NULL || tr_buffer_append(canonical, own.data, own.len));
  free_pairs(&headers);
  if (own.data != NULL)
    mbedtls_platform_zeroize(own.data, own.cap);
  tr_buffer_free(&own);
  return ok;
}
