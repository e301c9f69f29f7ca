/* The answers of object stores to requests that they refuse. */
#ifndef TR_RESIGN_H
#define TR_RESIGN_H

#include "request.h"

/* Read the code and the message of a refusal, at the end of an attempt. */
void tr_resign_read(tr_request *r);

/* Answer a refusal by another signature: for the region of the bucket, or the server's clock.
** True with the verdict; false: it stands. */
bool tr_resign_answer(tr_request *r, tr_verdict *verdict, tr_error *error);

#endif
