/* Sending the message of an attempt: its method, headers and body. */
#ifndef TR_SEND_H
#define TR_SEND_H

#include "request.h"

/* Add the headers of its own. False: memory is short. */
bool tr_send_headers(tr_request *r, tr_handle *handle);

/* The header line Accept of the fetch, which goes along to other origins, where a server may
** have nothing for those that do not ask for its type; NULL: none is to be added there. */
const char *tr_send_accept(const tr_request *r);

/* Set the method and the body on a handle, which is then good for one attempt. False:
** memory is short. */
bool tr_send_prepare(tr_request *r, tr_handle *handle);

#endif
