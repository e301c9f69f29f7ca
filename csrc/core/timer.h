/* Futures that are ready at a moment, or given up then; and calls that are made then. */
#ifndef TR_TIMER_H
#define TR_TIMER_H

#include <stdbool.h>

#include "theaterref.h"

/* Return a future that has an empty blob in so many seconds, at most an hour; for waits between
** two tries that must not block. NULL when memory or threads are short. */
tr_future *tr_timer(double seconds);

/* Have a load given up in so many seconds unless it has its result: whoever waits for it learns
** that, and may lead another. False when memory or threads are short. */
bool tr_timer_limit(tr_future *future, double seconds);

/* Call a function in so many seconds, at most an hour, on the timers' thread, with no lock held;
** it must not block. A child of a fork makes no call. False when memory or threads are short. */
bool tr_timer_call(double seconds, void (*call)(void *context), void *context);

#endif
