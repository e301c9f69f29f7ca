/*
** The lossless merge of two initial states: members are moved as the raw
** text they came in, so no number or string can change on the way.
*/
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "json.h"

typedef struct member {
  size_t key, key_len;         /* the decoded key, in the arena */
  const char *value;           /* raw */
  size_t value_len;
  size_t order;                /* later members win over earlier ones */
  const char *arena;           /* set once the arena has stopped growing */
} member;

typedef struct members {
  member *list;
  size_t len, cap;
  tr_buffer arena; /* all decoded keys, end to end */
} members;

typedef enum outcome { NOT_AN_OBJECT, AN_OBJECT, NO_MEMORY } outcome;

static void members_free(members *all) {
  free(all->list);
  tr_buffer_free(&all->arena);
}

/* A new last member, or NULL when memory is short. */
static member *members_add(members *all) {
  if (all->len == all->cap) {
    size_t cap = all->cap == 0 ? 32 : all->cap * 2;
    member *list = cap > SIZE_MAX / sizeof *list
                       ? NULL
                       : realloc(all->list, cap * sizeof *list);
    if (list == NULL)
      return NULL;
    all->list = list;
    all->cap = cap;
  }
  all->list[all->len].order = all->len;
  return &all->list[all->len++];
}

/* Adds the object's members; checks the whole text even when it is none. */
static outcome split(const char *text, size_t len, members *all) {
  tr_json json;
  tr_json_token token;
  bool object;
  member *current = NULL;
  tr_json_start(&json, text, len);
  token = tr_json_next(&json);
  object = token.type == TR_JSON_OPEN_OBJECT;
  for (; token.type != TR_JSON_END; token = tr_json_next(&json)) {
    if (token.type == TR_JSON_ERROR)
      return NOT_AN_OBJECT;
    if (!object || json.depth != 1)
      continue;
    if (token.type == TR_JSON_KEY) {
      current = members_add(all);
      if (current == NULL)
        return NO_MEMORY;
      current->key = all->arena.len;
      current->value = json.at; /* up to the value it may be white space */
      if (!tr_json_decode(token, &all->arena))
        return NO_MEMORY;
      current->key_len = all->arena.len - current->key;
    } else if (current != NULL) {
      current->value_len =
          (size_t)(token.text + token.len - current->value);
    }
  }
  return object ? AN_OBJECT : NOT_AN_OBJECT;
}

/* By key, bytewise; then by order. */
static int compare(const void *left, const void *right) {
  const member *a = left, *b = right;
  size_t shorter = a->key_len < b->key_len ? a->key_len : b->key_len;
  int order = shorter == 0
                  ? 0
                  : memcmp(a->arena + a->key, b->arena + b->key, shorter);
  if (order != 0)
    return order;
  if (a->key_len != b->key_len)
    return a->key_len < b->key_len ? -1 : 1;
  return a->order < b->order ? -1 : 1;
}

/* A string with the fewest escapes JSON allows. */
static bool write_string(tr_buffer *out, const char *s, size_t len) {
  static const char hex[] = "0123456789abcdef";
  static const char named[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
  const char *end = s + len, *plain = s;
  if (!tr_buffer_append(out, "\"", 1))
    return false;
  for (; s < end; s++) {
    char escape[6] = {'\\', 'u', '0', '0', 0, 0};
    const char *name;
    size_t escape_len = 2;
    if ((unsigned char)*s >= 0x20 && *s != '"' && *s != '\\')
      continue;
    name = *s == '\0' ? NULL : strchr(named, *s);
    if (name != NULL) {
      escape[1] = names[name - named];
    } else {
      escape[4] = hex[*s >> 4];
      escape[5] = hex[*s & 15];
      escape_len = 6;
    }
    if (!tr_buffer_append(out, plain, (size_t)(s - plain)) ||
        !tr_buffer_append(out, escape, escape_len))
      return false;
    plain = s + 1;
  }
  return tr_buffer_append(out, plain, (size_t)(s - plain)) &&
         tr_buffer_append(out, "\"", 1);
}

tr_blob *tr_json_quote(const char *text, size_t len, tr_error *error) {
  tr_buffer out = {0};
  tr_json json;
  tr_blob *quoted = NULL;
  if (!write_string(&out, text, len)) {
    tr_error_nomem(error);
  } else {
    tr_json_start(&json, out.data, out.len);
    if (tr_json_next(&json).type != TR_JSON_STRING)
      tr_error_set(error, TR_SYNTAX, "not text: it is no valid UTF-8");
    else if ((quoted = tr_buffer_to_blob(&out)) == NULL)
      tr_error_nomem(error);
  }
  tr_buffer_free(&out);
  return quoted;
}

/* A raw value without its insignificant white space. Room is reserved. */
static void write_compact(tr_buffer *out, const char *s, size_t len) {
  const char *end = s + len;
  char *to = out->data + out->len;
  bool quoted = false;
  for (; s < end; s++) {
    if (quoted && *s == '\\')
      *to++ = *s++;
    else if (*s == '"')
      quoted = !quoted;
    else if (!quoted &&
             (*s == ' ' || *s == '\n' || *s == '\r' || *s == '\t'))
      continue;
    *to++ = *s;
  }
  out->len = (size_t)(to - out->data);
}

static bool write_members(members *all, tr_buffer *out) {
  size_t i;
  bool first = true;
  for (i = 0; i < all->len; i++)
    all->list[i].arena = all->arena.data;
  if (all->len > 1)
    qsort(all->list, all->len, sizeof *all->list, compare);
  if (!tr_buffer_append(out, "{", 1))
    return false;
  for (i = 0; i < all->len; i++) {
    const member *m = &all->list[i], *next = m + 1;
    if (i + 1 < all->len && next->key_len == m->key_len &&
        (m->key_len == 0 ||
         memcmp(m->arena + m->key, m->arena + next->key, m->key_len) == 0))
      continue; /* overridden */
    if ((!first && !tr_buffer_append(out, ",", 1)) ||
        !write_string(out, m->key_len == 0 ? "" : m->arena + m->key,
                      m->key_len) ||
        !tr_buffer_append(out, ":", 1) ||
        !tr_buffer_reserve(out, m->value_len))
      return false;
    write_compact(out, m->value, m->value_len);
    first = false;
  }
  return tr_buffer_append(out, "}", 1);
}

tr_blob *tr_merge_states(tr_blob *config_state, tr_blob *override_state,
                         tr_error *error) {
  error = tr_error_or_ignored(error);
  members all = {0};
  tr_buffer out = {0};
  tr_blob *result = NULL;
  outcome found;
  error->kind = TR_OK;
  if (config_state == NULL || override_state == NULL) {
    result = config_state != NULL ? config_state : override_state;
    return result != NULL ? tr_blob_retain(result) : NULL;
  }
  found = split(tr_blob_data(config_state), tr_blob_size(config_state), &all);
  if (found == AN_OBJECT)
    found = split(tr_blob_data(override_state), tr_blob_size(override_state),
                  &all);
  if (found == NOT_AN_OBJECT)
    result = tr_blob_retain(override_state);
  else if (found == AN_OBJECT &&
           tr_buffer_reserve(&out, tr_blob_size(config_state) +
                                       tr_blob_size(override_state)) &&
           write_members(&all, &out))
    result = tr_buffer_to_blob(&out);
  if (result == NULL)
    tr_error_nomem(error);
  tr_buffer_free(&out);
  members_free(&all);
  return result;
}
