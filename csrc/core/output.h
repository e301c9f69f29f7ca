/* Files that take their place when they are whole. */
#ifndef TR_OUTPUT_H
#define TR_OUTPUT_H

#include "theaterref.h"

/*
** A file that is being written. It follows symbolic links. A regular file, or none,
** is replaced when the output is committed, and keeps its permissions; a file that the user
** may not write to is refused. One that cannot be replaced, since it is a mount point, or in a
** folder that the user may not write to, is written into when the output is committed; until
** then the bytes are in TMPDIR, or in memory. Anything else, such as a device, a pipe or an
** open file by way of /dev/stdout, is opened and written.
*/
typedef struct tr_output tr_output;

/* The path of the file that an output to 'path' writes, past all symbolic links, malloc'ed; NULL
** with errno. The file may not be there yet; its folder has to be. */
char *tr_output_path(const char *path);

/* Open an output; NULL with the error. */
tr_output *tr_output_open(const char *path, tr_error *error);
/* Write all of the bytes. False with the error. */
bool tr_output_write(tr_output *output, const void *data, size_t size,
                     tr_error *error);
/* Give a replaced file its name; 'durable' syncs the file and its folder. False
** with the error. Close it all the same. */
bool tr_output_commit(tr_output *output, bool durable, tr_error *error);
/* Close an output. Unless it was committed, a regular file stays as it was. NULL is
** allowed. */
void tr_output_close(tr_output *output);

#endif
