/* Making of tr_error values. */
#ifndef TR_ERROR_H
#define TR_ERROR_H

#include "theaterref.h"

/* The kind of a name (tr_error_kind_name); TR_POLICY if there is none. NULL is
** allowed. */
tr_error_kind tr_error_kind_named(const char *name);

/*
** Fills 'error' from a printf format. The text is redacted; what does not fit then ends
** in "...", so that a hostile 10 kB label cannot crowd out what went wrong elsewhere.
** Control characters, and what is no UTF-8, become '_'.
*/
void tr_error_set(tr_error *error, tr_error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* True for UTF-8 without control characters but line breaks and tabs. */
bool tr_is_displayable(const char *text);

/* "what path: why". The path may be a reference, and is displayed as one. */
void tr_error_path(tr_error *error, tr_error_kind kind, const char *what,
                   const char *path, const char *why);

/* The same from errno: TR_IO (TR_NOT_FOUND for ENOENT and ENOTDIR, TR_TIMEOUT for ETIMEDOUT,
** TR_CANCELLED for ECANCELED), and the system's reason. */
void tr_error_errno(tr_error *error, int errnum, const char *what,
                    const char *path);

void tr_error_nomem(tr_error *error);

/* The ending of "second" after a number of them. */
static inline const char *tr_plural(double number) {
  return number == 1 ? "" : "s";
}

/* The caller's error, or if that is NULL one of this thread that nobody reads.
** Public functions begin with it. */
tr_error *tr_error_or_ignored(tr_error *error);

#endif
