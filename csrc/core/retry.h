/* Another attempt after a failure that may pass. */
#ifndef TR_RETRY_H
#define TR_RETRY_H

#include "request.h"

/* Prepare another attempt after one that ended with this code, if there is to be one. */
bool tr_retry_prepare(tr_request *r, CURLcode code);

#endif
