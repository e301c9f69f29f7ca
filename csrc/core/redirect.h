/* Following redirects. */
#ifndef TR_REDIRECT_H
#define TR_REDIRECT_H

#include "request.h"

/* True if the response of a request sends it elsewhere. */
bool tr_redirect_is_due(const tr_request *r);

/* Aim a request at where its response sends it. False with the error when it must not,
** or cannot, go there. */
bool tr_redirect_follow(tr_request *r, tr_error *error);

/* True if a redirect led to a place that does not give the rest of a body that it began: its
** URL may have expired. */
bool tr_redirect_may_renew(const tr_request *r);

/* Aim a request at where it began, once, to be sent elsewhere for the rest. False with the
** error. */
bool tr_redirect_renew(tr_request *r, tr_error *error);

#endif
