/* Reading what was signed: JSON, of which nothing may be ambiguous. */
#include "signed_json.h"

#include <string.h>

#include "signed_bytes.h"

bool tr_signed_object(const char *what, const tr_json_value *object,
                      tr_json_names names, tr_json_member *members, size_t count,
                      size_t *all, tr_error *error) {
  const char *fault = "";
  switch (tr_json_read_members(object->token.text, object->token.len, names, members,
                               count, all, &fault)) {
  case TR_JSON_READ:
    return true;
  case TR_JSON_DUPLICATE:
    return TR_DISTRUST(error, "%s has the member '%s' twice", what, fault);
  case TR_JSON_WRONG_TYPE:
    return TR_DISTRUST(error, "the member '%s' of %s has the wrong type", fault, what);
  case TR_JSON_NO_MEMORY:
    return tr_out_of_memory(error);
  case TR_JSON_INVALID:
    break;
  }
  return TR_DISTRUST(error, "%s is not a valid JSON object", what);
}

static bool equals(const char *bytes, size_t len, const char *text) {
  return len == strlen(text) && memcmp(bytes, text, len) == 0;
}

bool tr_signed_text(const tr_json_value *value, const char *text) {
  tr_buffer decoded = {0};
  bool equal;
  if (!tr_json_has(value))
    return false;
  if (!value->token.escaped)
    return equals(value->token.text + 1, value->token.len - 2, text);
  equal = tr_json_value_decode(value, &decoded) &&
          equals(decoded.data, decoded.len, text);
  tr_buffer_free(&decoded);
  return equal;
}
