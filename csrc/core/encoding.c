/*
** Base64, DER and PEM. mbedTLS reads all of them, but takes several encodings for one
** content, and different ones in its versions. A signature that has many encodings
** could be changed by anybody, and would still be accepted.
*/
#include "encoding.h"

#include <string.h>

/* ------------------------------------------------------------------- base64 */

static int base64_value(char c) {
  if (c >= 'A' && c <= 'Z')
    return c - 'A';
  if (c >= 'a' && c <= 'z')
    return c - 'a' + 26;
  if (c >= '0' && c <= '9')
    return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decode four characters, of which the last 'padding' are '='. */
static bool decode_four(const char *text, size_t padding, unsigned char *out) {
  unsigned long bits = 0;
  size_t i;
  for (i = 0; i < 4; i++) {
    int value = i < 4 - padding ? base64_value(text[i]) : 0;
    if (value < 0)
      return false;
    bits = bits << 6 | (unsigned long)value;
  }
  if ((padding == 1 && (bits & 0xFF) != 0) || (padding == 2 && (bits & 0xFFFF) != 0))
    return false;
  for (i = 0; i < 3 - padding; i++)
    out[i] = (unsigned char)(bits >> (16 - 8 * i));
  return true;
}

/* Return how many characters of padding a text has. */
static size_t padding_of(const char *text, size_t size) {
  if (size < 4 || text[size - 1] != '=')
    return 0;
  return text[size - 2] == '=' ? 2 : 1;
}

static bool decode(const char *text, size_t size, unsigned char *out) {
  size_t padding = padding_of(text, size), at;
  for (at = 0; at < size; at += 4, out += 3)
    if (!decode_four(text + at, at + 4 == size ? padding : 0, out))
      return false;
  return true;
}

bool tr_base64_decode(const char *text, size_t size, tr_buffer *out,
                      bool *no_memory) {
  *no_memory = false;
  if (size % 4 != 0)
    return false;
  if (size == 0)
    return true;
  if (!tr_buffer_reserve(out, size / 4 * 3)) {
    *no_memory = true;
    return false;
  }
  if (!decode(text, size, (unsigned char *)out->data + out->len))
    return false;
  out->len += size / 4 * 3 - padding_of(text, size);
  return true;
}

bool tr_base64_decode_exactly(const char *text, size_t len, unsigned char *bytes,
                              size_t size) {
  return len == (size + 2) / 3 * 4 &&
         padding_of(text, len) == (3 - size % 3) % 3 && decode(text, len, bytes);
}

tr_line tr_take_line(const char **at, const char *end) {
  const char *stop = *at < end ? memchr(*at, '\n', (size_t)(end - *at)) : NULL;
  tr_line line = {*at, (size_t)((stop != NULL ? stop : end) - *at)};
  *at = stop != NULL ? stop + 1 : end;
  if (stop != NULL && line.len > 0 && line.at[line.len - 1] == '\r')
    line.len--;
  return line;
}

/* ---------------------------------------------------------------------- DER */

bool tr_der_take(tr_der *from, unsigned char type, tr_der *content) {
  const unsigned char *at = from->at;
  size_t left = from->size, len, count;
  if (left < 2 || at[0] != type)
    return false;
  len = at[1];
  at += 2;
  left -= 2;
  if (len >= 0x80) {
    count = len & 0x7F; /* bytes of the length */
    if (count == 0 || count > 3 || count > left || at[0] == 0)
      return false;
    for (len = 0; count > 0; count--, at++, left--)
      len = len << 8 | *at;
    if (len < 0x80)
      return false;
  }
  if (len > left)
    return false;
  *content = (tr_der){at, len};
  *from = (tr_der){at + len, left - len};
  return true;
}

bool tr_der_take_positive(tr_der *from, tr_der *content) {
  if (!tr_der_take(from, TR_DER_INTEGER, content) || content->size == 0 ||
      content->at[0] >= 0x80)
    return false;
  if (content->at[0] != 0)
    return true;
  if (content->size == 1 || content->at[1] < 0x80)
    return false; /* zero, or a zero byte that is not needed */
  content->at++;
  content->size--;
  return true;
}

/* ---------------------------------------------------------------------- PEM */

static const char *find(const char *at, const char *end, const char *text) {
  return at < end ? memmem(at, (size_t)(end - at), text, strlen(text)) : NULL;
}

/* The longest label that is read; a longer one is cut, and equals none. */
enum { MAX_LABEL = 64 };

bool tr_pem_next(const char **at, const char *end, tr_pem *block) {
  static const char begin[] = "-----BEGIN ", finish[] = "-----END ";
  const char *p = find(*at, end, begin), *stop;
  if (p == NULL)
    return false;
  p += strlen(begin);
  *block = (tr_pem){p, (size_t)(end - p), NULL, 0};
  *at = end;
  if (block->label_len > MAX_LABEL)
    block->label_len = MAX_LABEL;
  stop = find(p, p + block->label_len, "-----");
  if (stop == NULL)
    return true;
  block->label_len = (size_t)(stop - p);
  p = stop + 5;
  stop = find(p, end, finish);
  if (stop == NULL)
    return true;
  block->body_len = (size_t)(stop - p);
  stop += strlen(finish);
  if ((size_t)(end - stop) < block->label_len + 5 ||
      memcmp(stop, block->label, block->label_len + 5) != 0)
    return true; /* the END of another block */
  block->body = p;
  *at = stop + block->label_len + 5;
  return true;
}

bool tr_pem_is(const tr_pem *block, const char *label) {
  return block->label_len == strlen(label) &&
         memcmp(block->label, label, block->label_len) == 0;
}

bool tr_pem_ends_in(const tr_pem *block, const char *ending) {
  size_t len = strlen(ending);
  return block->label_len >= len &&
         memcmp(block->label + block->label_len - len, ending, len) == 0;
}
