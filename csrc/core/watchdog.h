/* Breaks connections off that keep the driver busy for too long. */
#ifndef TR_WATCHDOG_H
#define TR_WATCHDOG_H

#include <stdbool.h>

/* The driver begins work that should be short, or has ended it. While it works now and
** then, a thread looks after it. */
void tr_watchdog_begin(void);
void tr_watchdog_end(void);

/* In a child, which does not have the thread. */
void tr_watchdog_forget(void);

#endif
