/* Text without the secrets of URLs. */
#ifndef TR_REDACT_H
#define TR_REDACT_H

#include "blob.h"

/*
** Append 'text' to 'out' with every URL in it redacted: without user and
** password, and with "?…" in place of its query. Every text that leaves the
** library passes here. False when memory is short.
*/
bool tr_redact(const char *text, size_t len, tr_buffer *out);

/* The same as a new string, or NULL when memory is short. */
char *tr_redacted(const char *text);

/* A URL for messages: redacted, and cut in the middle if it is long, so that
** it does not push the reason out. NULL when memory is short. */
char *tr_display_url(const char *url);

#endif
