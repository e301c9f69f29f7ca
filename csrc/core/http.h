/* What URLs, statuses and libcurl's codes mean, for those who read errors. */
#ifndef TR_HTTP_H
#define TR_HTTP_H

#include "libcurl.h"

/* A copy of the URL without "user:password@", for messages; or NULL. */
char *tr_url_without_credentials(const char *url);

/* True if two URLs have the same scheme, host and port. */
bool tr_url_same_origin(const char *a, const char *b);

/* The kind of error that a failed transfer is. */
tr_error_kind tr_error_kind_of_curl(CURLcode code);

/* True if a numeric address is not one of the public internet: private,
** loopback, link-local, shared, multicast or reserved (RFC 6890). Text that is
** no address counts as private. */
bool tr_address_is_private(const char *address);

/* The phrase RFC 9110 gives a status; HTTP/2 sends none. Static storage. */
const char *tr_reason_phrase(long status);

#endif
