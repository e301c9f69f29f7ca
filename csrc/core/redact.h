/* Text without the secrets of references. */
#ifndef TR_REDACT_H
#define TR_REDACT_H

#include "blob.h"

/*
** Append 'text' to 'out' with every URL in it redacted: without user and password, with
** "?…" in place of its query, and with "…" in place of the data of a data URL. Every text
** that leaves the library passes here. False when memory is short.
*/
bool tr_redact(const char *text, size_t len, tr_buffer *out);

/* The same as a new string, or NULL when memory is short. */
char *tr_redacted(const char *text);

/* The same for a text that may name 'reference': that is displayed as below, also where
** it cannot be told from other words, as a path with a query cannot, and where the text
** was cut within it ("..."). */
bool tr_redact_about(const char *text, size_t len, const char *reference,
                     size_t reference_len, tr_buffer *out);

/*
** Append a text that is one reference, redacted to its end. It may lack its scheme, or
** some slashes behind that, and have blanks in it. Paths stay as they are, but for what
** follows a '?'. False when memory is short.
*/
bool tr_redact_reference(const char *text, size_t len, tr_buffer *out);

/* The same for messages: cut in the middle if it is long, so that it does not push the
** reason out. It is cut last: of a part nobody could tell what it was of. */
bool tr_display_reference(const char *text, size_t len, tr_buffer *out);

/* The same as a new string, or NULL when memory is short. */
char *tr_displayed(const char *text);

/* True if a text contains a secret, or a part of some characters. Secrets that are as short as
** words are not looked for. NULL is allowed. Takes time in proportion to the product of the
** lengths, so cut the text before. */
bool tr_shows_secret(const char *text, size_t len, const char *secret);

#endif
