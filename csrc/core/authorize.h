/* Authentication of requests at registries. The driver's. */
#ifndef TR_AUTHORIZE_H
#define TR_AUTHORIZE_H

#include "request.h"

/* Before an attempt: choose the credentials that it sends. TR_VERDICT_AGAIN: it may be
** sent; TR_VERDICT_TOKEN: it waits for a token, and is woken; TR_VERDICT_DONE: with the
** error. */
tr_verdict tr_authorize_attempt(tr_request *r, tr_error *error);

/* Answer a 401 with credentials that the request has not sent: verdicts as above. False:
** there are none. */
bool tr_authorize_answer(tr_request *r, tr_verdict *verdict, tr_error *error);

/* Note that the registry took what was sent. */
void tr_authorize_accepted(tr_request *r);

/* A request has waited long enough for the first answer to another. */
void tr_authorize_release(tr_request *r);

/* End the waiting of a request that is over (r->wait). False with the error if there is no
** token. */
bool tr_authorize_resume(tr_request *r, tr_error *error);

/* The request is finished: it waits for no token. If it fetched one, those that wait for
** that get it, or the error; NULL for both: nobody wants it. */
void tr_authorize_finish(tr_request *r, const tr_blob *blob, const tr_error *error);

#endif
