/* Watches: they signal a notifier when a path may lead to something else. */
#ifndef TR_WATCH_H
#define TR_WATCH_H

#include "future.h"

/* For one thread at a time. */
typedef struct tr_watch tr_watch;

/* Make a watch without paths and without a notifier. NULL when memory is short. */
tr_watch *tr_watch_new(void);
/* Signal this notifier from now on, in place of the last one. */
void tr_watch_notify(tr_watch *watch, tr_notifier *notifier);
void tr_watch_free(tr_watch *watch); /* NULL is allowed */

/*
** Watch these paths and no others: each name that they pass through, in its folder, also behind
** symbolic links and where nothing exists yet. Names that the system cannot watch are left out.
** Return true if something is newly watched: look at the paths again.
*/
bool tr_watch_set(tr_watch *watch, const char *const *paths, size_t count);

/* Return whether anything happened to a watched name since the last call. */
bool tr_watch_take(tr_watch *watch);

#endif
