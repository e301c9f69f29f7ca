/* The origins that failed a moment ago. */
#ifndef TR_OUTAGE_H
#define TR_OUTAGE_H

#include "url.h"

/* True if an error is the network's or the server's fault, and passes. */
bool tr_is_outage(const tr_error *error);

/* Record whether a fetch from an origin failed like that. */
void tr_outage_note(const tr_url *url, bool failed);

/* True if the last fetch from a URL's origin failed within the last 30 s; false
** for a text that is not a URL. Any thread. */
bool tr_outage_is_on(const char *url);

/* Registers the fork handler. A lock under which tr_outage_is_on is called must
** register its own after it: handlers take their locks last in, first out. */
void tr_outage_prepare_fork(void);

#endif
