/* The scope of cached bytes, for requests with more than the options of a fetch. */
#ifndef TR_SCOPE_H
#define TR_SCOPE_H

#include "auth.h"

/* As tr_request_scope, for a principal at a registry; NULL: none. */
bool tr_request_scope_as(const tr_fetch_options *options, const tr_auth *auth,
                         char scope[TR_HEX_MAX], tr_error *error);

/*
** Write a keyed digest of everything that identifies a caller to those that hand out tokens,
** beside the credentials: callers with the same one may share a token; "" if there is nothing.
** Headers of all requests do not count, since no realm gets them; those of hosts do. A name
** for the scope of cached bytes is no identity. False with the error.
*/
bool tr_request_caller(const tr_fetch_options *options, char caller[TR_HEX_MAX],
                       tr_error *error);

#endif
