/* A strict RFC 8259 reader that hands out tokens and never copies. */
#ifndef TR_JSON_H
#define TR_JSON_H

#include "blob.h"

/* Nesting that is still JSON to us, and to Theater's own reader. */
enum { TR_JSON_MAX_DEPTH = 127 };

typedef enum tr_json_type {
  TR_JSON_ERROR,
  TR_JSON_END, /* the text ended where it may */
  TR_JSON_OPEN_OBJECT,
  TR_JSON_CLOSE_OBJECT,
  TR_JSON_OPEN_ARRAY,
  TR_JSON_CLOSE_ARRAY,
  TR_JSON_KEY,
  TR_JSON_STRING,
  TR_JSON_NUMBER,
  TR_JSON_TRUE,
  TR_JSON_FALSE,
  TR_JSON_NULL
} tr_json_type;

typedef struct tr_json_token {
  tr_json_type type;
  const char *text; /* into the text read; strings and keys with their quotes */
  size_t len;
  bool escaped; /* a string or key that has a backslash in it */
} tr_json_token;

typedef struct tr_json {
  const char *text, *at, *end;
  const char *complaint; /* what was wrong, after TR_JSON_ERROR; static */
  unsigned depth;
  unsigned char expect; /* what may come next; see json.c */
  uint32_t in_object[(TR_JSON_MAX_DEPTH + 32) / 32]; /* a bit per level */
} tr_json;

void tr_json_start(tr_json *json, const char *text, size_t len);

/* The next token. After TR_JSON_ERROR or TR_JSON_END do not call it again. */
tr_json_token tr_json_next(tr_json *json);

/* Appends what a string or key token means. False: no memory. */
bool tr_json_decode(tr_json_token token, tr_buffer *out);

/* Text as a JSON string with the fewest escapes (merge.c); NULL with the error
** when it is no UTF-8. */
tr_blob *tr_json_quote(const char *text, size_t len, tr_error *error);

#endif
