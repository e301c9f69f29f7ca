/* Immutable reference-counted bytes, and the buffer they are gathered in. */
#ifndef TR_BLOB_H
#define TR_BLOB_H

#include "theaterref.h"

/* Take over 'data', which came from malloc (or is NULL, for size 0). On failure
** 'data' is freed. */
tr_blob *tr_blob_adopt(void *data, size_t size);

/* Maps 'size' > 0 bytes of a file, read-only and shared. NULL, errno set. */
tr_blob *tr_blob_map(int fd, size_t size);

/* Return the blob itself, retained, or a copy if its bytes are a mapped file's, which
** somebody might write to. NULL when memory is short. */
tr_blob *tr_blob_unmapped(tr_blob *blob);

/* Return its SHA-256 in hex if it is known, or NULL; tr_blob_sha256 computes it. The
** text lives as long as the blob. */
const char *tr_blob_known_sha256(const tr_blob *blob);
/* Keep the SHA-256 of the bytes with the blob, if there is memory. Any thread. */
void tr_blob_keep_sha256(tr_blob *blob, const char *hex);

/* How many blobs live in this process; specs use it to find leaks. */
size_t tr_blob_count(void);

/* Bytes that grow. All zero is an empty buffer. */
typedef struct tr_buffer {
  char *data;
  size_t len;
  size_t cap;
} tr_buffer;

/* Makes room for 'more' bytes after 'len'. False: no memory, or overflow. */
bool tr_buffer_reserve(tr_buffer *buffer, size_t more);
bool tr_buffer_append(tr_buffer *buffer, const void *data, size_t size);
void tr_buffer_free(tr_buffer *buffer);

/* Turns the buffer into a blob and empties it, on failure too. */
tr_blob *tr_buffer_to_blob(tr_buffer *buffer);

#endif
