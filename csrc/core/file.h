/* Files read whole and written whole. */
#ifndef TR_FILE_H
#define TR_FILE_H

#include "theaterref.h"

/* Reads what an open descriptor still gives. 'path' is for the message. */
tr_blob *tr_file_read_fd(int fd, const char *path, size_t max_bytes,
                         tr_error *error);

/*
** Writes 'name' in the open folder 'dir' by way of a temporary in the open
** folder 'tmpdir' (of the same file system), so that the name shows the old
** content or the new. 'path' is for the message.
*/
bool tr_file_write_at(int tmpdir, int dir, const char *name,
                      const char *path, const void *data, size_t size,
                      bool durable, tr_error *error);

/* Makes the folders above the last '/' of 'path' that are missing. */
bool tr_file_make_parents(const char *path, tr_error *error);

/* "<a>/<b>", malloc'ed; NULL when memory is short. */
char *tr_path_join(const char *a, const char *b);

#endif
