/* Redaction: the one place that hides what is secret in references: user and password,
** the query, and the data of data URLs. Each function takes time in proportion to the
** text, however often a scheme or a slash stands in there. */
#include "redact.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"

enum {
  MAX_DISPLAY = 320, /* of a message's 1,024 bytes */
  DISPLAY_TAIL = 64,
  MAX_DATA_HEADER = 80,
  MAX_CUT = 1024, /* of an error's message */
  SECRET_PART = 8, /* characters of a secret that no text may show */
  SHORTEST_SECRET = 6
};

static const char ELLIPSIS[] = "\xE2\x80\xA6";
static const char SPACE[] = " \t\n\v\f\r";

static bool append_text(tr_buffer *out, const char *text) {
  return tr_buffer_append(out, text, strlen(text));
}

static bool is_scheme_character(char c) {
  return isalnum((unsigned char)c) || c == '+' || c == '.' || c == '-';
}

static bool is_one_of(char c, const char *set) {
  return c != '\0' && strchr(set, c) != NULL;
}

static const char *find_any(const char *at, const char *end, const char *set) {
  while (at < end && !is_one_of(*at, set))
    at++;
  return at;
}

static const char *skip_slashes(const char *at, const char *end) {
  while (at < end && *at == '/')
    at++;
  return at;
}

static bool is_named(const char *from, const char *to, const char *scheme) {
  return (size_t)(to - from) == strlen(scheme) &&
         strncasecmp(from, scheme, strlen(scheme)) == 0;
}

/* ---------------------------------------------------------------- references */

/* True if a host is followed by what cannot be a port: then a password with a '/' in it
** ended the authority too early. */
static bool has_odd_port(const char *at, const char *end) {
  if (at < end && *at == '[' && find_any(at, end, "]") < end)
    at = find_any(at, end, "]");
  at = find_any(at, end, ":");
  if (end - at == 1) /* no port at all: a password may begin with a '/' */
    return true;
  for (; end - at > 1; at++)
    if (!isdigit((unsigned char)at[1]))
      return true;
  return false;
}

/* The host of the authority at 'at', behind user and password. 'last' is the last '@'
** before 'end', or NULL. */
static const char *past_login(const char *at, const char *end,
                              const char *last) {
  const char *authority_end, *p;
  if (last == NULL || last < at)
    return at;
  authority_end = find_any(at, end, "/?#");
  for (p = authority_end; p > at && p[-1] != '@';)
    p--;
  return has_odd_port(p, authority_end) ? last + 1 : p;
}

/* True if a text begins with "user:password@". None of 'stop' is in these. */
static bool has_login(const char *at, const char *end, const char *stop) {
  at = find_any(at, end, stop);
  if (at == end || *at != ':')
    return false;
  while (at < end && *at == ':')
    at = find_any(at + 1, end, stop);
  return at < end && *at == '@';
}

/*
** The authority of the URL that begins with a scheme at 'at', or NULL if none does. It
** may lack slashes, as in "http:/host": such a text means a path, but was not meant as
** one if it begins as http does, or if a user and a password follow.
*/
static const char *authority_of(const char *at, const char *end,
                                const char *stop) {
  const char *colon = at, *authority;
  while (colon < end && is_scheme_character(*colon))
    colon++;
  if (colon == at || colon == end || *colon != ':')
    return NULL;
  authority = skip_slashes(colon + 1, end);
  return authority - colon > 2 || is_named(at, colon, "http") ||
                 is_named(at, colon, "https") || has_login(authority, end, stop)
             ? authority
             : NULL;
}

/* The text past 'wanted', which stands at 'at'; NULL if something else does. */
static const char *past_text(const char *at, const char *end,
                             const char *wanted) {
  size_t len = strlen(wanted);
  return (size_t)(end - at) >= len && memcmp(at, wanted, len) == 0 ? at + len
                                                                   : NULL;
}

/* True for a query that was redacted before, and the punctuation behind it. */
static bool is_hidden_query(const char *at, const char *end) {
  at = at < end ? past_text(at + 1, end, ELLIPSIS) : NULL;
  while (at != NULL && at < end && is_one_of(*at, ":;,.)"))
    at++;
  return at == end;
}

/* Append a query and a fragment, or the end of a text. A digest is shown, and a name; a
** fragment that may be a URL with a login or a query is not. */
static bool append_query(const char *at, const char *end, tr_buffer *out) {
  const char *fragment = find_any(at, end, "#");
  if (is_hidden_query(at, end))
    return tr_buffer_append(out, at, (size_t)(end - at));
  if (fragment - at > 1 &&
      !(tr_buffer_append(out, "?", 1) && append_text(out, ELLIPSIS)))
    return false;
  return find_any(fragment, end, "@?") < end
             ? tr_buffer_append(out, "#", 1) && append_text(out, ELLIPSIS)
             : tr_buffer_append(out, fragment, (size_t)(end - fragment));
}

/*
** Append a URL, or what may be one without its scheme, such as "//user@host" or
** "file?query". One that was joined to a document, or names another URL, has that among
** the segments of its path.
*/
static bool append_reference(const char *text, const char *end,
                             tr_buffer *out) {
  const char *at = text, *segment = text, *last = end;
  while (last > text && last[-1] != '@')
    last--;
  last = last > text ? last - 1 : NULL;
  for (;;) {
    const char *begin = skip_slashes(segment, end);
    const char *authority = authority_of(begin, end, ":/?#@");
    if (authority == NULL && begin - segment > 1 &&
        (segment == text || has_login(begin, end, ":/?#@")))
      authority = begin;
    if (authority != NULL) {
      if (!tr_buffer_append(out, at, (size_t)(authority - at)))
        return false;
      at = begin = past_login(authority, end, last);
    }
    segment = find_any(begin, end, "/?#");
    if (segment == end || *segment != '/')
      break;
  }
  return tr_buffer_append(out, at, (size_t)(segment - at)) &&
         append_query(segment, end, out);
}

/* Append a data URL without its data. */
static bool append_data(const char *text, const char *data, const char *end,
                        tr_buffer *out) {
  const char *header = (const char *)memchr(text, ':', (size_t)(data - text)) + 1;
  size_t len = (size_t)(data - header);
  size_t shown = MAX_DATA_HEADER;
  char count[64];
  snprintf(count, sizeof count, " (%zu character%s)", (size_t)(end - data),
           tr_plural((double)(end - data)));
  while (len > shown && shown > 0 && (header[shown] & 0xC0) == 0x80)
    shown--; /* no part of a character */
  return tr_buffer_append(out, text, (size_t)(header - text)) &&
         (len <= shown
              ? tr_buffer_append(out, header, len)
              : tr_buffer_append(out, header, shown) &&
                    append_text(out, ELLIPSIS) && append_text(out, ",")) &&
         append_text(out, ELLIPSIS) && append_text(out, count);
}

/* True if the data of a data URL is what 'append_data' puts in its place. */
static bool is_hidden(const char *data, const char *end) {
  data = past_text(data, end, ELLIPSIS);
  if (data == NULL || data == end)
    return data != NULL;
  data = past_text(data, end, " (");
  while (data != NULL && data < end && isdigit((unsigned char)*data))
    data++;
  return data != NULL && past_text(data, end, " characters)") == end;
}

bool tr_redact_reference(const char *text, size_t len, tr_buffer *out) {
  const char *end = text + len, *data;
  if (!tr_buffer_reserve(out, len + 1)) /* it seldom grows */
    return false;
  if (len < 5 || strncasecmp(text, "data:", 5) != 0)
    return append_reference(text, end, out);
  data = memchr(text, ',', len);
  data = data != NULL ? data + 1 : text + 5; /* one without a comma is a mistake */
  return data == end || is_hidden(data, end)
             ? tr_buffer_append(out, text, len)
             : append_data(text, data, end, out);
}

bool tr_display_reference(const char *text, size_t len, tr_buffer *out) {
  size_t start = out->len, head = start + MAX_DISPLAY - DISPLAY_TAIL, tail;
  if (!tr_redact_reference(text, len, out))
    return false;
  if (out->len - start <= MAX_DISPLAY)
    return true;
  tail = out->len - DISPLAY_TAIL;
  while ((out->data[tail] & 0xC0) == 0x80 && tail < out->len - 1)
    tail++; /* no part of a character */
  head -= sizeof ELLIPSIS - 1;
  while (head > start && (out->data[head] & 0xC0) == 0x80)
    head--;
  memcpy(out->data + head, ELLIPSIS, sizeof ELLIPSIS - 1);
  head += sizeof ELLIPSIS - 1;
  memmove(out->data + head, out->data + tail, out->len - tail);
  out->len = head + (out->len - tail);
  return true;
}

char *tr_displayed(const char *text) {
  tr_buffer out = {0};
  if (tr_display_reference(text, strlen(text), &out) &&
      tr_buffer_append(&out, "", 1))
    return out.data;
  tr_buffer_free(&out);
  return NULL;
}

/* --------------------------------------------------------------------- texts */

/* The quote that ends a URL which begins after 'before'; a space if none does: a
** URL may have quotes in it, also in a password. */
static char closing_quote(char before) {
  return before == '<' ? '>' : is_one_of(before, "\"'`") ? before : ' ';
}

/*
** The first byte past the URL whose scheme ends at 'at': white space or its closing quote
** ends it. A quote where a port cannot be is one in a password, and does not end it. An
** escaped quote, as %q writes it, ends it only if the opening one 'is_escaped', too.
*/
static const char *url_end(const char *at, const char *end, char quote,
                           bool is_escaped) {
  const char *authority = skip_slashes(*at == ':' ? at + 1 : at, end);
  bool has_login = false, in_password = false;
  for (at = authority; at < end && (unsigned char)*at > ' ' && *at != 0x7F; at++) {
    if (*at == '@')
      has_login = true;
    if (*at != quote || (at[-1] == '\\' && !is_escaped) ||
        (in_password && !has_login))
      continue;
    in_password = !has_login &&
                  has_odd_port(authority, find_any(authority, at, "/?#"));
    if (!in_password)
      break;
  }
  return at;
}

/* True if a URL begins at 'from', whose scheme ends at 'p', or which has none. */
static bool begins_url(const char *from, const char *p, const char *end,
                       char before) {
  static const char stop[] = ":/?#@ \t\n\v\f\r\"'`<>";
  if (*p == ':')
    return p + 1 < end && !is_one_of(p[1], SPACE) &&
           (p[1] == '/' || is_named(from, p, "http") ||
            is_named(from, p, "https")) &&
           authority_of(from, end, stop) != NULL;
  if (end - p < 2 || p[1] != '/' ||
      (before != '\0' && !is_one_of(before, " \t\n\"'`<(=,")))
    return false;
  p = skip_slashes(p, end);
  p = find_any(p, end, stop);
  while (p < end && *p == ':')
    p = find_any(p + 1, end, stop);
  return p < end && *p == '@';
}

/* True if "data:", as a word, ends in the ':' at 'colon'. */
static bool ends_data_scheme(const char *text, const char *colon) {
  return colon - text >= 4 && strncasecmp(colon - 4, "data", 4) == 0 &&
         (colon - text == 4 || !isalnum((unsigned char)colon[-5]));
}

bool tr_redact(const char *text, size_t len, tr_buffer *out) {
  const char *end = text + len, *at = text, *p = text, *header_end = text;
  if (!tr_buffer_reserve(out, len + 1))
    return false;
  while ((p = find_any(p, end, ":/")) < end) {
    const char *from = p, *stop = p;
    char before;
    if (*p == ':' && ends_data_scheme(text, p)) {
      if (header_end <= p) /* else it is the same as of the one before */
        header_end = find_any(p + 1, end, ", \t\n\v\f\r");
      if (header_end < end && *header_end == ',')
        stop = find_any(header_end, end, SPACE);
    }
    if (stop > p && stop - header_end > 1) { /* a data URL with data */
      if (!is_hidden(header_end + 1, stop)) {
        if (!tr_buffer_append(out, at, (size_t)(p - 4 - at)) ||
            !append_data(p - 4, header_end + 1, stop, out))
          return false;
        at = stop;
      }
      p = stop;
      continue;
    }
    while (*p == ':' && from > at && is_scheme_character(from[-1]))
      from--;
    before = from > text ? from[-1] : '\0';
    if (!begins_url(from, p, end, before)) {
      p = *p == ':' ? p + 1 : skip_slashes(p, end);
      continue;
    }
    stop = url_end(p, end, closing_quote(before),
                   from - text > 1 && from[-2] == '\\');
    if (!tr_buffer_append(out, at, (size_t)(from - at)) ||
        !append_reference(from, stop, out))
      return false;
    at = p = stop;
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

/* Append a text with 'shown' in place of each 'what'. */
static bool replace(const char *text, size_t len, const char *what,
                    size_t what_len, const tr_buffer *shown, tr_buffer *out) {
  const char *end = text + len, *found;
  while (what_len > 0 && (size_t)(end - text) >= what_len &&
         (found = memmem(text, (size_t)(end - text), what, what_len)) != NULL) {
    if (!tr_buffer_append(out, text, (size_t)(found - text)) ||
        !tr_buffer_append(out, shown->data, shown->len))
      return false;
    text = found + what_len;
  }
  return tr_buffer_append(out, text, (size_t)(end - text));
}

/* The length of a text without the part of a reference, with a query, that it was cut in. */
static size_t without_cut(const char *text, size_t len, const char *reference,
                          size_t reference_len) {
  size_t end = len > 3 && memcmp(text + len - 3, "...", 3) == 0 ? len - 3 : 0;
  size_t from = end > MAX_CUT ? end - MAX_CUT : 0;
  for (; from < end; from++)
    if (end - from <= reference_len &&
        memcmp(text + from, reference, end - from) == 0)
      return memchr(text + from, '?', end - from) != NULL ? from : len;
  return len;
}

bool tr_redact_about(const char *text, size_t len, const char *reference,
                     size_t reference_len, tr_buffer *out) {
  size_t whole = without_cut(text, len, reference, reference_len);
  tr_buffer shown = {0}, before = {0}, marked = {0}, all = {0};
  bool ok = tr_display_reference(reference, reference_len, &shown) &&
            replace(text, whole, reference, reference_len, &shown, &marked) &&
            (whole == len || tr_buffer_append(&marked, shown.data, shown.len)) &&
            /* it may have been redacted before, up to a blank */
            tr_redact(reference, reference_len, &before) &&
            replace(marked.data, marked.len, before.data, before.len, &shown,
                    &all) &&
            tr_redact(all.data, all.len, out);
  tr_buffer_free(&shown);
  tr_buffer_free(&before);
  tr_buffer_free(&marked);
  tr_buffer_free(&all);
  return ok;
}

bool tr_shows_secret(const char *text, size_t len, const char *secret) {
  size_t size = secret != NULL ? strlen(secret) : 0, at;
  size_t part = size < SECRET_PART ? size : SECRET_PART;
  if (size < SHORTEST_SECRET)
    return false;
  for (at = 0; at + part <= size; at++)
    if (memmem(text, len, secret + at, part) != NULL)
      return true;
  return false;
}
