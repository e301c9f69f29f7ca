/* Futures that are ready at a moment, or given up then. */
#ifndef TR_TIMER_H
#define TR_TIMER_H

#include "theaterref.h"

/* Return a future that has an empty blob in so many seconds, at most an hour; for waits between
** two tries that must not block. NULL when memory or threads are short. */
tr_future *tr_timer(double seconds);
/* Have a load given up in so many seconds unless it has its result: whoever waits for it learns
** that, and may lead another. False when memory or threads are short. */
bool tr_timer_limit(tr_future *future, double seconds);

#endif
