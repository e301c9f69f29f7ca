/* The error value: kinds, and messages that always fit. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "redact.h"

const char *tr_error_kind_name(tr_error_kind kind) {
  static const char *const names[] = {"ok",          "invalid_reference",
                                      "not_found",   "denied",
                                      "http_status", "network",
                                      "tls",         "timeout",
                                      "too_large",   "digest_mismatch",
                                      "corrupt",     "io",
                                      "syntax",      "policy",
                                      "cancelled",   "untrusted",
                                      "rejected",    "unknown_outcome"};
  return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

tr_error_kind tr_error_kind_named(const char *name) {
  int kind = TR_OK + 1;
  while (name != NULL && strcmp(tr_error_kind_name((tr_error_kind)kind), name) != 0)
    if (strcmp(tr_error_kind_name((tr_error_kind)++kind), "unknown") == 0)
      name = NULL;
  return name != NULL ? (tr_error_kind)kind : TR_POLICY;
}

tr_error *tr_error_or_ignored(tr_error *error) {
  static _Thread_local tr_error ignored;
  return error != NULL ? error : &ignored;
}

/* True if a character of two or three bytes changes the direction of the text after it,
** which then reads as another: U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069. */
static bool is_bidi_control(const unsigned char *at) {
  if (at[0] == 0xD8)
    return at[1] == 0x9C;
  if (at[0] != 0xE2)
    return false;
  return (at[1] == 0x80 && (at[2] == 0x8E || at[2] == 0x8F ||
                            (at[2] >= 0xAA && at[2] <= 0xAE))) ||
         (at[1] == 0x81 && at[2] >= 0xA6 && at[2] <= 0xA9);
}

/* The bytes of the character at 'at' if it may be shown (UTF-8, and no control but line
** breaks and tabs), or 0. */
static size_t shown_length(const unsigned char *at) {
  size_t len = at[0] < 0x80 ? 1 : at[0] < 0xE0 ? 2 : at[0] < 0xF0 ? 3 : 4, i;
  if (len == 1)
    return (at[0] >= ' ' && at[0] != 0x7F) || at[0] == '\n' || at[0] == '\t';
  if (at[0] < 0xC2 || at[0] > 0xF4)
    return 0;
  for (i = 1; i < len; i++)
    if ((at[i] & 0xC0) != 0x80)
      return 0;
  if ((at[0] == 0xC2 && at[1] < 0xA0) || /* C1 controls */
      (at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xED && at[1] >= 0xA0) ||
      (at[0] == 0xF0 && at[1] < 0x90) || (at[0] == 0xF4 && at[1] >= 0x90) ||
      is_bidi_control(at))
    return 0;
  return len;
}

bool tr_is_displayable(const char *text) {
  size_t len = 1;
  while (*text != '\0' && len > 0) {
    len = shown_length((const unsigned char *)text);
    text += len;
  }
  return len > 0;
}

/* Servers have a say in messages, which may go to a terminal. */
static void make_harmless(char *text) {
  while (*text != '\0') {
    size_t len = shown_length((const unsigned char *)text);
    if (len == 0)
      *text = '_';
    text += len > 0 ? len : 1;
  }
}

void tr_error_set(tr_error *error, tr_error_kind kind, const char *format,
                  ...) {
  char *text = NULL, *shown = NULL;
  va_list args;
  error->kind = kind;
  error->status = 0;
  error->errnum = 0;
  va_start(args, format);
  if (vasprintf(&text, format, args) < 0)
    text = NULL; /* some systems leave it undefined */
  va_end(args);
  if (text != NULL) /* before the cut: a part of a login is not seen to be one */
    shown = tr_redacted(text);
  if (snprintf(error->message, sizeof error->message, "%s",
               shown != NULL ? shown : "out of memory") >=
      (int)sizeof error->message)
    memcpy(error->message + sizeof error->message - 4, "...", 4);
  free(shown);
  free(text);
  make_harmless(error->message);
}

/* strerror_r comes in two shapes; this takes whichever the C library has. */
static const char *reason(int errnum, char *room, size_t size) {
#ifdef __GLIBC__
  return strerror_r(errnum, room, size);
#else
  return strerror_r(errnum, room, size) == 0 ? room : "unknown error";
#endif
}

void tr_error_path(tr_error *error, tr_error_kind kind, const char *what,
                   const char *path, const char *why) {
  char *shown = tr_displayed(path);
  tr_error_set(error, kind, "%s %s: %s", what, shown != NULL ? shown : "?", why);
  free(shown);
}

void tr_error_errno(tr_error *error, int errnum, const char *what,
                    const char *path) {
  char room[128];
  tr_error_kind kind = errnum == ENOENT || errnum == ENOTDIR ? TR_NOT_FOUND
                       : errnum == ETIMEDOUT                 ? TR_TIMEOUT
                       : errnum == ECANCELED                 ? TR_CANCELLED
                                                             : TR_IO;
  tr_error_path(error, kind, what, path, reason(errnum, room, sizeof room));
  error->errnum = errnum;
}

void tr_error_nomem(tr_error *error) {
  tr_error_set(error, TR_IO, "out of memory");
  error->errnum = ENOMEM;
}
