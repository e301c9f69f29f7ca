/* Futures that become ready, or are given up, at a set time; and calls that are made then. */
#ifndef TR_TIMER_H
#define TR_TIMER_H

#include <stdbool.h>

#include "theaterref.h"

/* Return a future that gets an empty blob after so many seconds, at most an hour; for pauses
** between attempts that must not block. NULL when memory or threads are short. */
tr_future *tr_timer(double seconds);

/* Give up a load after so many seconds unless it has its result: its waiters then see that it was
** abandoned, and may start another. False when memory or threads are short. */
bool tr_timer_limit(tr_future *future, double seconds);

/* Call a function in so many seconds, at most an hour, on the timers' thread, with no lock held;
** it must not block. A child of a fork drops the context instead. False when memory or threads are
** short. */
bool tr_timer_call(double seconds, void (*call)(void *context), void (*drop)(void *context),
                   void *context);

#endif
