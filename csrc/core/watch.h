/* Watches: a notifier is signalled when a path may lead to something else. */
#ifndef TR_WATCH_H
#define TR_WATCH_H

#include "future.h"

/* For one thread at a time. */
typedef struct tr_watch tr_watch;

/* Make a watch of nothing, which signals nobody. NULL when memory is short. */
tr_watch *tr_watch_new(void);
/* Have a notifier signalled, instead of the one before. */
void tr_watch_notify(tr_watch *watch, tr_notifier *notifier);
void tr_watch_free(tr_watch *watch); /* NULL is allowed */

/*
** Watch these paths and no others: each name on the way, in its folder, also behind
** symbolic links and where there is nothing yet. Names that the system cannot watch are left out.
** Return true if something is watched that was not before: look at the paths again.
*/
bool tr_watch_set(tr_watch *watch, const char *const *paths, size_t count);

/* Return whether something happened to a watched name since the last call. */
bool tr_watch_take(tr_watch *watch);

#endif
