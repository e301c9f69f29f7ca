/* Digests of bytes that are still arriving, on threads of their own. */
#ifndef TR_HASHER_H
#define TR_HASHER_H

#include "crypto.h"

typedef struct tr_hasher tr_hasher;

/*
** A hasher for one growing buffer. 'done' is called once, on a worker thread
** and with no lock held, when everything up to tr_hasher_finish is hashed. NULL
** when memory is short.
*/
tr_hasher *tr_hasher_new(tr_algorithm algorithm, void (*done)(void *context),
                         void *context);

/* The buffer has 'len' valid bytes at 'data', which stay there until
** tr_hasher_pause. False when no thread can be had: hash on your own. */
bool tr_hasher_feed(tr_hasher *hasher, const void *data, size_t len);

/* Wait until no thread reads the buffer: it may move after this. */
void tr_hasher_pause(tr_hasher *hasher);

/* The buffer is complete: as tr_hasher_feed, and 'done' will be called. */
bool tr_hasher_finish(tr_hasher *hasher, const void *data, size_t len);

/* The digest, after 'done'. */
void tr_hasher_digest(tr_hasher *hasher, char hex[TR_HEX_MAX]);

/* Pauses; 'done' is not called after this. NULL is allowed. */
void tr_hasher_free(tr_hasher *hasher);

#endif
