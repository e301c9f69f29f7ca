/* Redaction: the one place that removes user, password and query from URLs. */
#include "redact.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_DISPLAY = 320, /* of a message's 1,024 bytes */
  DISPLAY_TAIL = 64
};

static const char ELLIPSIS[] = "\xE2\x80\xA6";

static bool is_scheme_character(char c) {
  return isalnum((unsigned char)c) || c == '+' || c == '.' || c == '-';
}

/* The quote that ends a URL which begins after 'before'; a space if none does: a
** URL may have quotes in it, also in a password. */
static char closing_quote(char before) {
  return before == '<'                                       ? '>'
         : before != '\0' && strchr("\"'`", before) != NULL ? before
                                                            : ' ';
}

/* The first byte past a URL: white space or its closing quote ends it. */
static const char *url_end(const char *at, const char *end, char quote) {
  while (at < end && (unsigned char)*at > ' ' && *at != 0x7F && *at != quote)
    at++;
  return at;
}

static const char *find_any(const char *at, const char *end, const char *set) {
  for (; at < end; at++) {
    const char *wanted = set;
    while (*wanted != '\0' && *wanted != *at)
      wanted++;
    if (*wanted != '\0')
      break;
  }
  return at;
}

/* True if the text after the last ':' of an authority cannot be a port: then a
** password with a '/' in it ended the authority too early. */
static bool has_odd_port(const char *at, const char *end) {
  const char *colon = NULL, *p;
  for (p = at; p < end; p++) {
    if (*p == ']')
      colon = NULL;
    else if (*p == ':')
      colon = p;
  }
  if (colon == NULL)
    return false;
  for (p = colon + 1; p < end; p++)
    if (!isdigit((unsigned char)*p))
      return true;
  return false;
}

/* Append a URL from its authority on. */
static bool append_url(const char *at, const char *end, tr_buffer *out) {
  const char *authority_end = find_any(at, end, "/?#"), *p, *limit, *query;
  const char *fragment;
  limit = has_odd_port(at, authority_end) ? end : authority_end;
  for (p = limit; p > at; p--)
    if (p[-1] == '@') {
      at = p;
      break;
    }
  query = find_any(at, end, "?#");
  if (!tr_buffer_append(out, at, (size_t)(query - at)))
    return false;
  if (query == end || *query == '#')
    return tr_buffer_append(out, query, (size_t)(end - query));
  fragment = find_any(query, end, "#");
  return (query + 1 == fragment ||
          (tr_buffer_append(out, "?", 1) &&
           tr_buffer_append(out, ELLIPSIS, sizeof ELLIPSIS - 1))) &&
         tr_buffer_append(out, fragment, (size_t)(end - fragment));
}

bool tr_redact(const char *text, size_t len, tr_buffer *out) {
  const char *end = text + len, *at = text;
  if (!tr_buffer_reserve(out, len + 1)) /* it seldom grows */
    return false;
  while (at < end) {
    const char *colon = memchr(at, ':', (size_t)(end - at)), *stop, *scheme;
    if (colon == NULL)
      break;
    if (colon == at || !is_scheme_character(colon[-1]) || end - colon < 3 ||
        colon[1] != '/' || colon[2] != '/') {
      if (!tr_buffer_append(out, at, (size_t)(colon + 1 - at)))
        return false;
      at = colon + 1;
      continue;
    }
    for (scheme = colon; scheme > text && is_scheme_character(scheme[-1]);)
      scheme--;
    stop = url_end(colon + 3, end,
                   closing_quote(scheme > text ? scheme[-1] : '\0'));
    if (!tr_buffer_append(out, at, (size_t)(colon + 3 - at)) ||
        !append_url(colon + 3, stop, out))
      return false;
    at = stop;
  }
  return tr_buffer_append(out, at, (size_t)(end - at));
}

char *tr_redacted(const char *text) {
  tr_buffer out = {0};
  if (tr_redact(text, strlen(text), &out) && tr_buffer_append(&out, "", 1))
    return out.data;
  tr_buffer_free(&out);
  return NULL;
}

/* Redact a text that is one URL, and nothing else, to its end. */
static char *redact_url(const char *url) {
  const char *at = url;
  tr_buffer out = {0};
  while (is_scheme_character(*at))
    at++;
  if (*at == ':') /* else it has no scheme */
    at++;
  else
    at = url;
  while (*at == '/')
    at++;
  if (tr_buffer_reserve(&out, strlen(url) + 1) &&
      tr_buffer_append(&out, url, (size_t)(at - url)) &&
      append_url(at, at + strlen(at), &out) && tr_buffer_append(&out, "", 1))
    return out.data;
  tr_buffer_free(&out);
  return NULL;
}

char *tr_display_url(const char *url) {
  char *shown = redact_url(url);
  size_t len = shown != NULL ? strlen(shown) : 0;
  if (len > MAX_DISPLAY) {
    char *cut = shown + MAX_DISPLAY - DISPLAY_TAIL;
    memcpy(cut - 3, ELLIPSIS, 3);
    memmove(cut, shown + len - DISPLAY_TAIL, DISPLAY_TAIL + 1);
  }
  return shown;
}
