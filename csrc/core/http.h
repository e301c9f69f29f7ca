/* What URLs, statuses and libcurl's codes mean, for those who read errors. */
#ifndef TR_HTTP_H
#define TR_HTTP_H

#include "libcurl.h"

/* The kind of error that a failed transfer is. */
tr_error_kind tr_error_kind_of_curl(CURLcode code);

/* True if a numeric address is not one of the public internet: private,
** loopback, link-local, shared, multicast or reserved (RFC 6890). Text that is
** no address counts as private. */
bool tr_address_is_private(const char *address);

/* True if a numeric address is link-local; no fetch ever asks one. */
bool tr_address_is_link_local(const char *address);

/* The seconds since 1970 of an HTTP date; 0: it is none. libcurl's parser is slow, so
** dates are kept as texts until one matters. */
enum { TR_DATE_MAX = 64 };
double tr_date(const char *text);

/* The phrase RFC 9110 gives a status; HTTP/2 sends none. Static storage. */
const char *tr_reason_phrase(long status);

#endif
