/* Short texts that all Lua states of a process share, such as credentials: wiped when they go. */
#ifndef TR_SHARED_TEXT_H
#define TR_SHARED_TEXT_H

#include "blob.h"

/* Copy the text of a name to an empty buffer. False: there is none that is still good, or
** memory is short. The buffer may hold a secret: free it by tr_shared_free. */
bool tr_shared_get(const char *name, size_t len, tr_buffer *text);

/* Keep a text for some seconds; without memory, it is not kept. NULL: forget it. */
void tr_shared_set(const char *name, size_t len, const char *text, size_t size,
                   double seconds);

/* Wipe and free a buffer. */
void tr_shared_free(tr_buffer *text);

#endif
