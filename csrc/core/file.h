/* Files read whole and written whole. */
#ifndef TR_FILE_H
#define TR_FILE_H

#include <sys/stat.h>
#include <sys/types.h>

#include "theaterref.h"

/* Read the rest of an open descriptor of any type; 'st' is its stat result.
** 'path' is for the message, 'patience' the seconds that a pipe or the like may be
** silent, below 0: no limit. */
tr_blob *tr_file_read_fd(int fd, const struct stat *st, const char *path,
                         size_t max_bytes, double patience, tr_error *error);

/* Read a regular file that is as large as it says, at most 'max_bytes'; never wait. NULL
** with the error; anything else, such as a pipe, is not even opened. */
tr_blob *tr_file_read_regular(const char *path, size_t max_bytes, tr_error *error);

/* Read the file that an absolute path without links names; a link in it is an error. */
tr_blob *tr_file_read_settled(const char *path, size_t max_bytes, tr_error *error);

/* A file or a pipe that is read piece by piece. */
typedef struct tr_input tr_input;

/* Open an input; NULL with the error. A pipe needs a writer soon. */
tr_input *tr_input_open(const char *path, tr_error *error);
/* Read at most 'size' bytes: how many there were, 0 at the end, or -1 with the error. */
ssize_t tr_input_read(tr_input *input, void *data, size_t size, tr_error *error);
/* Return the size of a regular file, or -1. */
long long tr_input_size(const tr_input *input);
void tr_input_close(tr_input *input); /* NULL is allowed */

/* True if a path leads to a pipe or a socket. */
bool tr_file_is_pipe(const char *path);

/* Read a pipe; anything else is an error, also if it has taken the pipe's place. */
tr_blob *tr_file_read_pipe(const char *path, size_t max_bytes, tr_error *error);

/* Set the error of bytes over a limit. Return NULL. */
tr_blob *tr_file_too_large(const char *path, size_t max_bytes, tr_error *error);

/* Seconds that a pipe may be silent: as long as a fetch may take by default. */
#define TR_FILE_PATIENCE 30.0

/* Wait until a descriptor is ready, at most 'patience' seconds; below 0: for ever. An
** interrupt ends it. False with errno. */
bool tr_file_wait_ready(int fd, short events, double patience);

/* Write all bytes to an open file. False with errno. */
bool tr_file_write_all(int fd, const void *data, size_t size);

/* The same to what may be a pipe whose reader sleeps: an interrupt ends it. */
bool tr_file_write_patiently(int fd, const void *data, size_t size);

/*
** Write a new file 'name' in the open folder 'dir', by way of one without a name
** where the file system has those, else of a temporary file in the open folder
** 'tmpdir' of the same file system. 'path' is for the message. Return 1; 0 if
** somebody else has made it meanwhile, whose file stays; or -1 with the error.
*/
int tr_file_create_at(int tmpdir, int dir, const char *name, const char *path,
                      const void *data, size_t size, bool durable,
                      tr_error *error);

enum { TR_TEMPORARY = 38 /* of ".tmp-" with 32 hex digits, and a zero */ };

/* Write a name that nobody else takes: 128 random bits. False with errno. */
bool tr_file_temporary_name(char name[TR_TEMPORARY]);

/* Write a file 'name' in the open folder 'dir', where there is none. False with
** errno. */
bool tr_file_write_new(int dir, const char *name, const void *data, size_t size,
                       bool durable);

/* Write a temporary file in 'tmpdir' for the caller to rename, and its name to
** 'temporary'. False with errno. */
bool tr_file_write_temporary(int tmpdir, char temporary[TR_TEMPORARY],
                             const void *data, size_t size, bool durable);

/* Give a temporary file the name 'name' in the open folder 'dir'. Return 1, 0 if
** the name is taken, or -1 with errno; unless 1, the temporary file stays. */
int tr_file_place(int tmpdir, const char *temporary, int dir, const char *name);

/* Make the folders above the last '/' of 'path' that are missing. */
bool tr_file_make_parents(const char *path, tr_error *error);

/* "<a>/<b>", malloc'ed; NULL when memory is short. */
char *tr_path_join(const char *a, const char *b);

#endif
