/* Failures of a fetch, for its error. */
#ifndef TR_FAILURE_H
#define TR_FAILURE_H

#include "request.h"

/* Set the error "Failed to fetch from <url>: <reason>". */
void tr_failure_set(const tr_request *r, tr_error_kind kind, tr_error *error,
                    const char *reason);

/* Set the error of an attempt that ended with this code, and without its body. */
void tr_failure_explain(const tr_request *r, CURLcode code, tr_error *error);

/* Set the error of a status that is none of success. */
void tr_failure_refuse_status(const tr_request *r, int status, tr_error *error);

/* Set the error of a fetch whose time is up, while so many requests run. */
void tr_failure_time_out(const tr_request *r, size_t running, tr_error *error);

/* True if the connection, not the server behind it, failed. */
bool tr_failure_is_connection(const tr_request *r, CURLcode code);

/* The status of a proxy that refused a CONNECT, or 0. */
int tr_failure_connect_status(const tr_request *r);

#endif
