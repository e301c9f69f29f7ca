/*
** Members are found by reading tokens again at each level, so that nothing is copied. The
** cost is the text's size for each level that is read, of which there are few.
*/
#include "json_members.h"

#include <string.h>

/* Read one value, whose first token was read. False: invalid JSON. */
static bool read_value(tr_json *json, tr_json_token first, tr_json_value *value) {
  unsigned outside = json->depth;
  value->token = first;
  if (first.type == TR_JSON_ERROR || first.type == TR_JSON_END)
    return false;
  if (first.type != TR_JSON_OPEN_OBJECT && first.type != TR_JSON_OPEN_ARRAY)
    return true;
  while (json->depth >= outside) {
    tr_json_token token = tr_json_next(json);
    if (token.type == TR_JSON_ERROR || token.type == TR_JSON_END)
      return false;
  }
  value->token.len = (size_t)(json->at - first.text);
  return true;
}

static bool names_equal(const char *key, size_t len, const char *name,
                        tr_json_names names) {
  size_t i;
  for (i = 0; i < len; i++, name++) {
    char c = key[i];
    if (names == TR_NAMES_PROTOBUF && c == '_' && i + 1 < len && key[i + 1] >= 'a' &&
        key[i + 1] <= 'z')
      c = (char)(key[++i] - 'a' + 'A');
    if (*name == '\0' || c != *name)
      return false;
  }
  return *name == '\0';
}

/* Find the member of a key; one that was not asked for is NULL. False: no memory. */
static bool find_member(tr_json_token key, tr_json_names names, tr_json_member *members,
                        size_t count, tr_json_member **found) {
  tr_buffer decoded = {0};
  const char *text = key.text + 1;
  size_t len = key.len - 2, i;
  *found = NULL;
  if (key.escaped) {
    if (!tr_json_decode(key, &decoded)) {
      tr_buffer_free(&decoded);
      return false;
    }
    text = decoded.data;
    len = decoded.len;
  }
  for (i = 0; i < count && *found == NULL; i++)
    if (names_equal(text, len, members[i].name, names))
      *found = members + i;
  tr_buffer_free(&decoded);
  return true;
}

tr_json_result tr_json_read_members(const char *text, size_t size, tr_json_names names,
                                    tr_json_member *members, size_t count, size_t *all,
                                    const char **fault) {
  tr_json json;
  tr_json_member *member;
  tr_json_token token;
  size_t i, number = 0;
  for (i = 0; i < count; i++)
    members[i].value.token.type = TR_JSON_ERROR;
  tr_json_start(&json, text, size);
  if (tr_json_next(&json).type != TR_JSON_OPEN_OBJECT)
    return TR_JSON_INVALID;
  for (token = tr_json_next(&json); token.type == TR_JSON_KEY;
       token = tr_json_next(&json), number++) {
    tr_json_value value;
    if (!find_member(token, names, members, count, &member))
      return TR_JSON_NO_MEMORY;
    if (!read_value(&json, tr_json_next(&json), &value))
      return TR_JSON_INVALID;
    if (member == NULL)
      continue;
    *fault = member->name;
    if (tr_json_has(&member->value))
      return TR_JSON_DUPLICATE;
    if (member->type != TR_JSON_ERROR && value.token.type != member->type)
      return TR_JSON_WRONG_TYPE;
    member->value = value;
  }
  if (all != NULL)
    *all = number;
  return token.type == TR_JSON_CLOSE_OBJECT && tr_json_next(&json).type == TR_JSON_END
             ? TR_JSON_READ
             : TR_JSON_INVALID;
}

bool tr_json_read_items(const tr_json_value *array, tr_json_value *items, size_t max,
                        size_t *count) {
  tr_json json;
  tr_json_token token;
  *count = 0;
  tr_json_start(&json, array->token.text, array->token.len);
  tr_json_next(&json);
  for (token = tr_json_next(&json); token.type != TR_JSON_CLOSE_ARRAY;
       token = tr_json_next(&json)) {
    tr_json_value value;
    if (!read_value(&json, token, &value))
      return false;
    if (*count < max)
      items[*count] = value;
    ++*count;
  }
  return true;
}

bool tr_json_has(const tr_json_value *value) {
  return value->token.type != TR_JSON_ERROR;
}

bool tr_json_value_decode(const tr_json_value *string, tr_buffer *out) {
  return tr_json_decode(string->token, out);
}
