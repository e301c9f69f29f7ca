/*
** The JSON reader. It takes exactly RFC 8259 texts in valid UTF-8, of at
** most 127 levels and without unpaired surrogates, and is one loop: one bit
** for each level is set if that level is an object.
*/
#include "json.h"

#include <string.h>

enum { VALUE, VALUE_OR_CLOSE, KEY, KEY_OR_CLOSE, COMMA_OR_CLOSE, NOTHING };

void tr_json_start(tr_json *json, const char *text, size_t len) {
  memset(json, 0, sizeof *json);
  json->text = json->at = text;
  json->end = text + len;
  json->expect = VALUE;
}

static tr_json_token fail(tr_json *json, const char *complaint) {
  json->complaint = complaint;
  return (tr_json_token){.type = TR_JSON_ERROR, .text = json->at};
}

static tr_json_token token(tr_json_type type, const char *from,
                           const char *to) {
  return (tr_json_token){
      .type = type, .text = from, .len = (size_t)(to - from)};
}

static void skip_space(tr_json *json) {
  while (json->at < json->end && (*json->at == ' ' || *json->at == '\n' ||
                                  *json->at == '\r' || *json->at == '\t'))
    json->at++;
}

static bool is_object(const tr_json *json) {
  unsigned level = json->depth - 1;
  return json->in_object[level / 32] >> (level % 32) & 1;
}

/* Set the tokens that may follow a value at the current level. */
static void value_done(tr_json *json) {
  json->expect = json->depth == 0 ? NOTHING : COMMA_OR_CLOSE;
}

static tr_json_token open_level(tr_json *json, bool object) {
  unsigned level = json->depth;
  if (level == TR_JSON_MAX_DEPTH)
    return fail(json, "more than 127 levels of nesting");
  json->depth++;
  json->in_object[level / 32] &= ~(UINT32_C(1) << (level % 32));
  json->in_object[level / 32] |= (uint32_t)object << (level % 32);
  json->expect = object ? KEY_OR_CLOSE : VALUE_OR_CLOSE;
  json->at++;
  return token(object ? TR_JSON_OPEN_OBJECT : TR_JSON_OPEN_ARRAY, json->at - 1,
               json->at);
}

static tr_json_token close_level(tr_json *json) {
  bool object = is_object(json);
  json->depth--;
  json->at++;
  value_done(json);
  return token(object ? TR_JSON_CLOSE_OBJECT : TR_JSON_CLOSE_ARRAY,
               json->at - 1, json->at);
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c |= 32;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four hex digits at 'p', or -1. */
static int hex4(const char *p, const char *end) {
  int i, value = 0;
  if (end - p < 4)
    return -1;
  for (i = 0; i < 4; i++) {
    int digit = hex_digit(p[i]);
    if (digit < 0)
      return -1;
    value = value << 4 | digit;
  }
  return value;
}

static bool is_high(int unit) { return unit >= 0xD800 && unit <= 0xDBFF; }
static bool is_low(int unit) { return unit >= 0xDC00 && unit <= 0xDFFF; }

/* The length of the escape at 'p' (a backslash), surrogate pairs as one. */
static size_t escape_length(const char *p, const char *end) {
  int unit;
  if (end - p < 2)
    return 0;
  if (p[1] != 'u')
    return strchr("\"\\/bfnrt", p[1]) != NULL && p[1] != '\0' ? 2 : 0;
  unit = hex4(p + 2, end);
  if (unit < 0 || is_low(unit))
    return 0;
  if (!is_high(unit))
    return 6;
  if (end - p < 12 || p[6] != '\\' || p[7] != 'u' || !is_low(hex4(p + 8, end)))
    return 0;
  return 12;
}

/* The length of the UTF-8 sequence at 'p' that starts past ASCII, or 0. */
static size_t utf8_length(const char *p, const char *end) {
  unsigned char c = (unsigned char)p[0], low = 0x80, high = 0xBF;
  size_t i, n;
  if (c >= 0xC2 && c <= 0xDF)
    n = 2;
  else if (c >= 0xE0 && c <= 0xEF)
    n = 3;
  else if (c >= 0xF0 && c <= 0xF4)
    n = 4;
  else
    return 0;
  if ((size_t)(end - p) < n)
    return 0;
  if (c == 0xE0)
    low = 0xA0; /* no overlong forms */
  else if (c == 0xED)
    high = 0x9F; /* no surrogates */
  else if (c == 0xF0)
    low = 0x90;
  else if (c == 0xF4)
    high = 0x8F; /* nothing past U+10FFFF */
  for (i = 1; i < n; i++, low = 0x80, high = 0xBF) {
    unsigned char next = (unsigned char)p[i];
    if (next < low || next > high)
      return 0;
  }
  return n;
}

static tr_json_token read_string(tr_json *json, tr_json_type type) {
  const char *p = json->at + 1, *end = json->end;
  bool escaped = false;
  tr_json_token result;
  for (;;) {
    size_t n = 1;
    if (p == end) {
      json->at = p;
      return fail(json, "a string without its closing quote");
    }
    if (*p == '"')
      break;
    if (*p == '\\') {
      escaped = true;
      n = escape_length(p, end);
    } else if ((unsigned char)*p >= 0x80) {
      n = utf8_length(p, end);
    } else if ((unsigned char)*p < 0x20) {
      n = 0;
    }
    if (n == 0) {
      json->at = p;
      return fail(json, *p == '\\' ? "an invalid escape"
                        : (unsigned char)*p < 0x20
                            ? "a control character in a string"
                            : "invalid UTF-8");
    }
    p += n;
  }
  result = token(type, json->at, p + 1);
  result.escaped = escaped;
  json->at = p + 1;
  return result;
}

static const char *skip_digits(const char *p, const char *end) {
  while (p < end && *p >= '0' && *p <= '9')
    p++;
  return p;
}

static tr_json_token read_number(tr_json *json) {
  const char *p = json->at, *end = json->end, *digits;
  tr_json_token result;
  if (*p == '-')
    p++;
  digits = p;
  p = skip_digits(p, end);
  if (p == digits || (*digits == '0' && p - digits > 1))
    return fail(json, "an invalid number");
  if (p < end && *p == '.') {
    digits = ++p;
    p = skip_digits(p, end);
    if (p == digits)
      return fail(json, "a number without digits after its point");
  }
  if (p < end && (*p | 32) == 'e') {
    p++;
    if (p < end && (*p == '+' || *p == '-'))
      p++;
    digits = p;
    p = skip_digits(p, end);
    if (p == digits)
      return fail(json, "a number without digits in its exponent");
  }
  result = token(TR_JSON_NUMBER, json->at, p);
  json->at = p;
  return result;
}

static tr_json_token read_word(tr_json *json, const char *word,
                               tr_json_type type) {
  size_t len = strlen(word);
  if ((size_t)(json->end - json->at) < len || memcmp(json->at, word, len) != 0)
    return fail(json, "not a JSON value");
  json->at += len;
  return token(type, json->at - len, json->at);
}

static tr_json_token read_value(tr_json *json) {
  tr_json_token result;
  switch (*json->at) {
  case '{':
    return open_level(json, true);
  case '[':
    return open_level(json, false);
  case '"':
    result = read_string(json, TR_JSON_STRING);
    break;
  case 't':
    result = read_word(json, "true", TR_JSON_TRUE);
    break;
  case 'f':
    result = read_word(json, "false", TR_JSON_FALSE);
    break;
  case 'n':
    result = read_word(json, "null", TR_JSON_NULL);
    break;
  default:
    if (*json->at != '-' && (*json->at < '0' || *json->at > '9'))
      return fail(json, "not a JSON value");
    result = read_number(json);
  }
  value_done(json);
  return result;
}

static tr_json_token read_key(tr_json *json) {
  tr_json_token key;
  if (*json->at != '"')
    return fail(json, "a key in double quotes was expected");
  key = read_string(json, TR_JSON_KEY);
  if (key.type == TR_JSON_ERROR)
    return key;
  skip_space(json);
  if (json->at == json->end || *json->at != ':')
    return fail(json, "':' was expected after a key");
  json->at++;
  json->expect = VALUE;
  return key;
}

tr_json_token tr_json_next(tr_json *json) {
  skip_space(json);
  if (json->expect == COMMA_OR_CLOSE && json->at < json->end &&
      *json->at == ',') {
    json->expect = is_object(json) ? KEY : VALUE;
    json->at++;
    skip_space(json);
  }
  if (json->at == json->end)
    return json->expect == NOTHING ? token(TR_JSON_END, json->at, json->at)
                                   : fail(json, "the text ends too early");
  switch (json->expect) {
  case VALUE_OR_CLOSE:
    return *json->at == ']' ? close_level(json) : read_value(json);
  case VALUE:
    return read_value(json);
  case KEY_OR_CLOSE:
    return *json->at == '}' ? close_level(json) : read_key(json);
  case KEY:
    return read_key(json);
  case COMMA_OR_CLOSE:
    if (*json->at == (is_object(json) ? '}' : ']'))
      return close_level(json);
    return fail(json, is_object(json) ? "',' or '}' was expected"
                                      : "',' or ']' was expected");
  default:
    return fail(json, "text after the value");
  }
}

static size_t encode_utf8(int code, char out[4]) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  if (code < 0x800) {
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = (char)(0xE0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 63));
    out[2] = (char)(0x80 | (code & 63));
    return 3;
  }
  out[0] = (char)(0xF0 | code >> 18);
  out[1] = (char)(0x80 | (code >> 12 & 63));
  out[2] = (char)(0x80 | (code >> 6 & 63));
  out[3] = (char)(0x80 | (code & 63));
  return 4;
}

/* Decodes the valid escape at '*p' and moves past it. */
static size_t decode_escape(const char **p, const char *end, char out[4]) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  const char *at = *p;
  int code;
  if (at[1] != 'u') {
    out[0] = values[strchr(names, at[1]) - names];
    *p = at + 2;
    return 1;
  }
  code = hex4(at + 2, end);
  *p = at + 6;
  if (is_high(code)) {
    code = 0x10000 + ((code - 0xD800) << 10) + (hex4(at + 8, end) - 0xDC00);
    *p = at + 12;
  }
  return encode_utf8(code, out);
}

bool tr_json_decode(tr_json_token string, tr_buffer *out) {
  const char *p = string.text + 1, *end = string.text + string.len - 1;
  while (p < end) {
    const char *plain = p;
    char decoded[4];
    p = memchr(p, '\\', (size_t)(end - p));
    if (p == NULL)
      p = end;
    if (!tr_buffer_append(out, plain, (size_t)(p - plain)))
      return false;
    if (p < end &&
        !tr_buffer_append(out, decoded, decode_escape(&p, end, decoded)))
      return false;
  }
  return true;
}
