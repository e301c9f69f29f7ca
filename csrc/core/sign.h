/* Signing the attempts of a request to an object store. */
#ifndef TR_SIGN_H
#define TR_SIGN_H

#include "request.h"

/* Begin a request that has a signer: direct it to the known region of its bucket, and hash its
** body before the driver thread takes over. False: memory is short. */
bool tr_sign_begin(tr_request *r);

/* True if this attempt is signed. */
bool tr_sign_is_due(const tr_request *r);

/* Add the signature, and the headers that it needs, to those of the handle. False: memory is
** short. */
bool tr_sign_attempt(tr_request *r, tr_handle *handle);

#endif
