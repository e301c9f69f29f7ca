/* The fetch engine's interface for other files, beside the public one. */
#ifndef TR_ENGINE_H
#define TR_ENGINE_H

#include "request.h"

/*
** As tr_fetch; 'extra' may be NULL. With 'will_wait' the caller waits for a future of the promise at
** once, and so becomes the driver: that saves waking the engine's thread. One
** that does not wait after all is only slower.
*/
bool tr_engine_fetch(tr_promise *promise, const char *url,
                     const tr_fetch_options *options, const tr_request_extra *extra,
                     bool will_wait, tr_error *error);

#endif
