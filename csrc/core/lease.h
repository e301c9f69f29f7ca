/*
** A lock that is released even if its owner, a coroutine that waits for a future, is never
** resumed.
*/
#ifndef TR_LEASE_H
#define TR_LEASE_H

#include "theaterref.h"

typedef struct tr_lease tr_lease;

/* Take over a lock of tr_store_try_lock or tr_store_lock_all. NULL when memory is short, and then
** the lock is unlocked. */
tr_lease *tr_lease_new(int lock);

/* Have the lock unlocked so many seconds after the future has its result, or soon after that, by
** another thread. Once. False when memory or threads are short. */
bool tr_lease_end_after(tr_lease *lease, const tr_future *future, double seconds);

/* Unlock the lock, if it is not yet, and give the lease up. NULL is allowed. A child of a fork
** leaves the lock to its parent. */
void tr_lease_release(tr_lease *lease);

#endif
