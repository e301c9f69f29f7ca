/* Following redirects. */
#ifndef TR_REDIRECT_H
#define TR_REDIRECT_H

#include "request.h"

/* True if the response of a request sends it elsewhere. */
bool tr_redirect_is_due(const tr_request *r);

/* Aim a request at where its response sends it. False with the error when it must not,
** or cannot, go there. */
bool tr_redirect_follow(tr_request *r, tr_error *error);

#endif
