/*
** The requests that wait: for their turn, by origin, and for a moment, in a heap.
** Everything here costs O(log n) at most, however many wait. The driver's.
*/
#ifndef TR_QUEUE_H
#define TR_QUEUE_H

#include "request.h"
#include "table.h"

/* A scheme, host and port, while requests go there. */
typedef struct tr_origin {
  tr_node node;
  size_t requests; /* to this origin, in any state */
  size_t running;
  tr_request *first, *last;      /* its queue */
  struct tr_origin *prev, *next; /* in the ring of origins with a queue */
  bool queued;
  /* The first request to an https origin tells whether it talks HTTP/2: others
  ** wait for its connection, so as to share it, but not for long. */
  bool connected;
  double hold_until; /* 0: no request runs yet */
  char name[];
} tr_origin;

/* Count a request to its URL's origin. False: memory is short. */
bool tr_queue_join(tr_request *r);
/* Count it no more, and take it from the queue. */
void tr_queue_leave(tr_request *r);

/* Append a request to its origin's queue, or put it in front. */
void tr_queue_push(tr_request *r, bool in_front);
void tr_queue_remove(tr_request *r);

/*
** Take the next request that may run: origins take turns, and none has more than
** 'per_origin' running; if it is full, only one of which none runs yet. NULL: none may run now; '*wake_at' is lowered to the
** moment when one may.
*/
tr_request *tr_queue_pop(size_t per_origin, bool is_full, double *wake_at);

/* Note that a request runs, is connected, or runs no more. */
void tr_queue_start(tr_request *r);
void tr_queue_connected(tr_request *r);
void tr_queue_stop(tr_request *r);

/* The heap: the moment at which a request is to be looked at. */
bool tr_heap_set(tr_request *r, double moment); /* false: memory is short */
void tr_heap_remove(tr_request *r);
tr_request *tr_heap_first(void); /* NULL: it is empty */

/* In a child: forget everything. */
void tr_queue_forget(void);

#endif
