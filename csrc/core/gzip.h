/* Bodies in the content coding "gzip" (RFC 1952). */
#ifndef TR_GZIP_H
#define TR_GZIP_H

#include "blob.h"

typedef struct tr_gzip tr_gzip;

typedef enum tr_gzip_status {
  TR_GZIP_OK,
  TR_GZIP_MORE,      /* there is more in the piece */
  TR_GZIP_TOO_LARGE, /* more than 'max_bytes' in all */
  TR_GZIP_CORRUPT,
  TR_GZIP_NOMEM
} tr_gzip_status;

/* True if zlib can be had; it is opened at the first use. */
bool tr_gzip_available(void);

/* NULL when memory is short. */
tr_gzip *tr_gzip_new(void);
void tr_gzip_free(tr_gzip *gzip); /* NULL is allowed */

/*
** Unpack a piece and append it to 'out', which may get 'max_bytes' in all. After
** 'enough' bytes it returns TR_GZIP_MORE and keeps the rest of the piece: call it
** again with size 0 before the next one.
*/
tr_gzip_status tr_gzip_append(tr_gzip *gzip, const void *data, size_t size,
                              size_t enough, size_t max_bytes, tr_buffer *out);
bool tr_gzip_has_more(const tr_gzip *gzip);

/* True if the coding has come to its end, checksum and all. libcurl does not
** check this: half a file without a length would be a success. */
bool tr_gzip_ended(const tr_gzip *gzip);

#endif
