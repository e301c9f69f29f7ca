/* Futures that are ready at a moment. */
#ifndef TR_TIMER_H
#define TR_TIMER_H

#include "theaterref.h"

/* Return a future that has an empty blob in so many seconds, at most an hour; for waits between
** two tries that must not block. NULL when memory or threads are short. */
tr_future *tr_timer(double seconds);

#endif
