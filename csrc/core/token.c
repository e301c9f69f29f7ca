/* Tokens: the cache, what asks for one, and the answer. */
#include "token.h"

#include <ctype.h>
#include <math.h>
#include <mbedtls/platform_util.h>
#include <stdlib.h>
#include <string.h>

#include "future.h"
#include "json.h"

enum {
  MAX_SLOTS = 1024,       /* that nothing uses */
  MAX_TOKEN = 16 * 1024,  /* bytes */
  DEFAULT_SECONDS = 60,   /* of a token's life, if the answer does not tell */
  LONGEST_SECONDS = 86400
};
/* A token is replaced so long before it expires, as a part of its life and in seconds. */
static const double MARGIN = 0.1, LONGEST_MARGIN = 5;

static tr_table slots;
static tr_token_slot *oldest, *newest;

/* ----------------------------------------------------------------------- tokens */

tr_token *tr_token_retain(tr_token *t) {
  t->refs++;
  return t;
}

void tr_token_release(tr_token *t) {
  if (t == NULL || --t->refs > 0)
    return;
  mbedtls_platform_zeroize(t->line, strlen(t->line));
  free(t);
}

/* ------------------------------------------------------------------------ slots */

static tr_token_slot *slot_of(tr_node *node) {
  return node == NULL ? NULL
                      : (tr_token_slot *)((char *)node - offsetof(tr_token_slot, node));
}

static void unlink_slot(tr_token_slot *s) {
  *(s->prev != NULL ? &s->prev->next : &oldest) = s->next;
  *(s->next != NULL ? &s->next->prev : &newest) = s->prev;
}

static void append_slot(tr_token_slot *s) {
  s->prev = newest;
  s->next = NULL;
  *(newest != NULL ? &newest->next : &oldest) = s;
  newest = s;
}

static void free_slot(tr_token_slot *s) {
  unlink_slot(s);
  tr_table_remove(&slots, &s->node);
  tr_token_release(s->token);
  free(s->challenge);
  free(s);
}

/* Make room for one more, if there is any that nothing uses. */
static void make_room(void) {
  tr_token_slot *s = oldest;
  if (slots.count < MAX_SLOTS)
    return;
  while (s != NULL && (s->fetch != NULL || s->waiting != NULL || s->asker != NULL))
    s = s->next;
  if (s != NULL)
    free_slot(s);
}

tr_token_slot *tr_token_slot_get(const tr_auth *auth, const char *caller,
                                 const char *scope, bool make) {
  const char *parts[] = {auth->principal, caller, scope};
  size_t origin = auth->registry.origin_len, len = origin, at = origin, i;
  tr_token_slot *s, *known;
  uint64_t hash;
  for (i = 0; i < sizeof parts / sizeof *parts; i++)
    len += 1 + strlen(parts[i]);
  s = calloc(1, sizeof *s + len);
  if (s == NULL || (slots.slots == NULL && !tr_table_init(&slots))) {
    free(s);
    return NULL;
  }
  memcpy(s->key, auth->registry.text, origin);
  for (i = 0; i < sizeof parts / sizeof *parts; i++) {
    s->key[at++] = '\n';
    memcpy(s->key + at, parts[i], strlen(parts[i]));
    at += strlen(parts[i]);
  }
  hash = tr_table_hash(s->key, len);
  known = slot_of(tr_table_find(&slots, hash, s->key, len));
  if (known != NULL || !make) {
    free(s);
    if (known != NULL) {
      unlink_slot(known);
      append_slot(known);
    }
    return known;
  }
  make_room();
  s->node = (tr_node){.hash = hash, .key = s->key, .len = len};
  tr_table_add(&slots, &s->node);
  append_slot(s);
  return s;
}

tr_token *tr_token_slot_current(tr_token_slot *s, double now) {
  if (s->token != NULL && s->token->expires_at <= now)
    tr_token_slot_set(s, NULL);
  return s->token;
}

bool tr_token_slot_keep(tr_token_slot *s, const tr_challenge *challenge) {
  if (challenge == NULL) {
    free(s->challenge);
    s->challenge = NULL;
    return true;
  }
  if (s->challenge == NULL && (s->challenge = malloc(sizeof *challenge)) == NULL)
    return false;
  *s->challenge = *challenge;
  return true;
}

void tr_token_slot_set(tr_token_slot *s, tr_token *token) {
  if (token != NULL)
    tr_token_retain(token);
  tr_token_release(s->token);
  s->token = token;
}

void tr_token_forget_all(void) {
  while (oldest != NULL)
    free_slot(oldest);
}

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static struct {
  tr_table slots;
  tr_token_slot *oldest;
} inherited;

void tr_token_forget_inherited(void) {
  inherited.slots = slots;
  inherited.oldest = oldest;
  slots = (tr_table){0};
  oldest = newest = NULL;
}

/* ------------------------------------------------------------------ the request */

/* True if one of the scopes in 'list' is this one. */
static bool has_scope(const tr_buffer *list, const char *scope, size_t len) {
  const char *at = list->data, *end = at != NULL ? at + list->len : NULL;
  while (at < end) {
    const char *blank = memchr(at, ' ', (size_t)(end - at));
    size_t word = (size_t)((blank != NULL ? blank : end) - at);
    if (word == len && memcmp(at, scope, len) == 0)
      return true;
    at += word + 1;
  }
  return false;
}

static bool add_scopes(tr_buffer *out, const char *text) {
  int count = 0;
  while (*text != '\0') {
    size_t len = strcspn(text, " ");
    if (len > 0 && count < TR_SCOPES_MAX && !has_scope(out, text, len)) {
      if ((out->len > 0 && !tr_buffer_append(out, " ", 1)) ||
          !tr_buffer_append(out, text, len))
        return false;
      count++;
    }
    text += len;
    text += *text == ' ';
  }
  return true;
}

bool tr_token_scopes(tr_buffer *out, const char *asked, const char *challenged) {
  return add_scopes(out, asked[0] != '\0' ? asked : challenged) &&
         tr_buffer_append(out, "", 1);
}

/* Append a text as a part of a query or a form. */
static bool add_encoded(tr_buffer *out, const char *text, size_t len) {
  static const char digits[] = "0123456789ABCDEF";
  size_t i;
  if (!tr_buffer_reserve(out, 3 * len))
    return false;
  for (i = 0; i < len; i++) {
    unsigned char c = (unsigned char)text[i];
    if (isalnum(c) || (c != '\0' && strchr("-._~", c) != NULL)) {
      out->data[out->len++] = (char)c;
    } else {
      out->data[out->len++] = '%';
      out->data[out->len++] = digits[c >> 4];
      out->data[out->len++] = digits[c & 15];
    }
  }
  return true;
}

static bool add_field(tr_buffer *out, const char *name, const char *value, size_t len) {
  return (out->len == 0 || tr_buffer_append(out, "&", 1)) &&
         tr_buffer_append(out, name, strlen(name)) && tr_buffer_append(out, "=", 1) &&
         add_encoded(out, value, len);
}

bool tr_token_query(tr_buffer *out, const char *service, const char *scopes) {
  tr_buffer query = {0};
  bool ok = service[0] == '\0' || add_field(&query, "service", service, strlen(service));
  while (ok && *scopes != '\0') {
    size_t len = strcspn(scopes, " ");
    ok = add_field(&query, "scope", scopes, len);
    scopes += len;
    scopes += *scopes == ' ';
  }
  ok = ok && (query.len == 0 || tr_buffer_append(out, query.data, query.len));
  tr_buffer_free(&query);
  return ok;
}

bool tr_token_form(tr_buffer *out, const tr_auth *auth, const char *service,
                   const char *scopes) {
  const char *token = auth->identity_token;
  /* It does not move: no copy of the identity token stays behind. */
  return tr_buffer_reserve(out, 3 * (strlen(token) + strlen(service) + strlen(scopes)) +
                                    128) &&
         add_field(out, "grant_type", "refresh_token", 13) &&
         add_field(out, "client_id", "theaterref", 10) &&
         add_field(out, "service", service, strlen(service)) &&
         (scopes[0] == '\0' || add_field(out, "scope", scopes, strlen(scopes))) &&
         add_field(out, "refresh_token", token, strlen(token));
}

/* ------------------------------------------------------------------- the answer */

/* The fields of an answer, at its top level. */
typedef struct answer {
  tr_json_token token, access_token, expires_in;
} answer;

/* The field of a key, or NULL for one that means nothing here. */
static tr_json_token *field_of(answer *a, tr_json_token key) {
  static const struct {
    const char *name;
    size_t offset;
  } fields[] = {{"\"token\"", offsetof(answer, token)},
                {"\"access_token\"", offsetof(answer, access_token)},
                {"\"expires_in\"", offsetof(answer, expires_in)}};
  size_t i;
  for (i = 0; i < sizeof fields / sizeof *fields; i++)
    if (strlen(fields[i].name) == key.len &&
        memcmp(key.text, fields[i].name, key.len) == 0)
      return (tr_json_token *)((char *)a + fields[i].offset);
  return NULL;
}

/* False: it is not one JSON object. */
static bool read_answer(answer *a, const char *text, size_t len) {
  tr_json json;
  tr_json_token token;
  tr_json_token *field = NULL;
  tr_json_start(&json, text, len);
  token = tr_json_next(&json);
  if (token.type != TR_JSON_OPEN_OBJECT)
    return false;
  for (;;) {
    token = tr_json_next(&json);
    if (token.type == TR_JSON_ERROR || token.type == TR_JSON_END)
      return token.type == TR_JSON_END;
    if (token.type == TR_JSON_KEY) {
      field = json.depth == 1 ? field_of(a, token) : NULL;
    } else {
      if (field != NULL)
        *field = token;
      field = NULL;
    }
  }
}

static double life_of(tr_json_token expires_in) {
  char text[32];
  double seconds;
  if (expires_in.type != TR_JSON_NUMBER || expires_in.len >= sizeof text)
    return DEFAULT_SECONDS;
  memcpy(text, expires_in.text, expires_in.len);
  text[expires_in.len] = '\0';
  seconds = strtod(text, NULL);
  return seconds > 0 ? fmin(seconds, LONGEST_SECONDS) : DEFAULT_SECONDS;
}

/* True if a token can be sent: visible ASCII, without blanks. */
static bool is_sendable(const char *text, size_t len) {
  size_t i;
  for (i = 0; i < len; i++)
    if ((unsigned char)text[i] <= ' ' || (unsigned char)text[i] >= 0x7F)
      return false;
  return len > 0 && len <= MAX_TOKEN;
}

static tr_token *make_token(const char *text, size_t len, double expires_at) {
  static const char field[] = "Authorization: Bearer ";
  tr_token *t = malloc(sizeof *t + sizeof field + len);
  if (t == NULL)
    return NULL;
  t->refs = 1;
  t->expires_at = expires_at;
  memcpy(t->line, field, sizeof field - 1);
  memcpy(t->line + sizeof field - 1, text, len);
  t->line[sizeof field - 1 + len] = '\0';
  return t;
}

tr_token *tr_token_read(const char *text, size_t len, double sent_at, const char **fault) {
  answer a = {0};
  tr_token *token = NULL;
  tr_buffer decoded = {0};
  double life;
  *fault = "its answer is no JSON object";
  if (!read_answer(&a, text, len))
    return NULL;
  if (a.token.type != TR_JSON_STRING || a.token.len <= 2)
    a.token = a.access_token;
  *fault = "its answer has no token that can be sent";
  if (a.token.type != TR_JSON_STRING || a.token.len > 6 * MAX_TOKEN)
    return NULL;
  life = life_of(a.expires_in);
  life -= fmin(life * MARGIN, LONGEST_MARGIN);
  if (!tr_buffer_reserve(&decoded, a.token.len) || !tr_json_decode(a.token, &decoded))
    *fault = "memory is short";
  else if (is_sendable(decoded.data, decoded.len) &&
           (token = make_token(decoded.data, decoded.len, sent_at + life)) == NULL)
    *fault = "memory is short";
  if (decoded.data != NULL)
    mbedtls_platform_zeroize(decoded.data, decoded.cap);
  tr_buffer_free(&decoded);
  return token;
}
