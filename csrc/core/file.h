/* Files read whole and written whole. */
#ifndef TR_FILE_H
#define TR_FILE_H

#include <sys/stat.h>

#include "theaterref.h"

/* Read the rest of an open descriptor; 'st' is its stat result.
** 'path' is for the message. */
tr_blob *tr_file_read_fd(int fd, const struct stat *st, const char *path,
                         size_t max_bytes, tr_error *error);

/* Write all bytes to an open file. False with errno. */
bool tr_file_write_all(int fd, const void *data, size_t size);

/*
** Writes 'name' in the open folder 'dir' by way of a temporary in the open
** folder 'tmpdir' (of the same file system), so that the name shows the old
** content or the new. 'path' is for the message.
*/
bool tr_file_write_at(int tmpdir, int dir, const char *name, const char *path,
                      const void *data, size_t size, bool durable,
                      tr_error *error);

/*
** Writes a new file 'name' in the open folder 'dir', by way of one without a
** name where the file system has those, else as tr_file_write_at.
** 1; 0 when somebody else has made it meanwhile, whose stays; -1.
*/
int tr_file_create_at(int tmpdir, int dir, const char *name, const char *path,
                      const void *data, size_t size, bool durable,
                      tr_error *error);

enum { TR_TEMPORARY = 38 /* of ".tmp-" with 32 hex digits, and a zero */ };

/* Writes a temporary in 'tmpdir' for the caller to rename, and its name to
** 'temporary'. False with errno. */
bool tr_file_write_temporary(int tmpdir, char temporary[TR_TEMPORARY],
                             const void *data, size_t size, bool durable);

/* Makes the folders above the last '/' of 'path' that are missing; 'durable'
** syncs the folder that each is made in. */
bool tr_file_make_parents(const char *path, bool durable, tr_error *error);

/* "<a>/<b>", malloc'ed; NULL when memory is short. */
char *tr_path_join(const char *a, const char *b);

#endif
