/* The work of the engine's driver. One thread at a time may be in here. */
#ifndef TR_DRIVER_H
#define TR_DRIVER_H

#include "request.h"

/* The engine's part in it. */
typedef struct tr_driver_hooks {
  /* Call tr_driver_take for every request that was posted. */
  void (*take_posts)(void);
  /* A request is finished. */
  void (*retire)(tr_request *r);
} tr_driver_hooks;

/* Drive a multi handle; 'wake_fd' is an eventfd that ends a sleep. */
void tr_driver_open(CURLM *multi, int wake_fd, const tr_driver_hooks *hooks);
/* Abandon every request, and free what libcurl holds. */
void tr_driver_close(void);
/* Forget them, in a child. */
void tr_driver_forget(void);

/* A request is new, or what it waited for is there, or nobody wants it. */
void tr_driver_take(tr_request *r);

/* Move every request on by what can be done without waiting. Returns the moment
** at which there is something to do for sure. */
double tr_driver_advance(size_t max_connections, size_t max_per_origin);

/* Sleep until there is data, a post, or the moment. */
void tr_driver_wait(double moment);

#endif
