/* An entry of the disk cache: one file, read whole or not at all. */
#ifndef TR_DISK_ENTRY_H
#define TR_DISK_ENTRY_H

#include <sys/stat.h>

#include "blob.h"

enum { TR_DISK_NAME = 66 /* two halves of digests, a dash, and a zero */ };

/* The digests that identify an entry. A key is a reference, or a reference, a
** zero byte, and what else tells two entries of that reference apart. */
typedef struct tr_disk_id {
  char key[TR_HEX_MAX], reference[TR_HEX_MAX];
  char name[TR_DISK_NAME]; /* of the file; begins with the prefix */
} tr_disk_id;

enum { TR_DISK_PREFIX = 33 /* common to all entries of a reference */ };

void tr_disk_identify(const char *key, size_t len, tr_disk_id *id);
bool tr_disk_is_entry_name(const char *name);

/* An entry that was read. The texts live as long as both blobs. */
typedef struct tr_disk_entry {
  tr_blob *body;              /* the caller's; NULL if only the rest was read */
  tr_blob *rest;              /* the caller's, or NULL */
  const char *shown, *record; /* the redacted reference; bytes of the caller's */
  size_t record_size;
  uint64_t bytes; /* of the body */
  char sha256[TR_HEX_MAX];
  struct stat st;
} tr_disk_entry;

typedef enum tr_disk_state {
  TR_DISK_SOUND,
  TR_DISK_ABSENT,  /* or not readable now */
  TR_DISK_DAMAGED, /* 'st' of the entry is set, as for the next */
  TR_DISK_FOREIGN  /* others own the file, or may write to it */
} tr_disk_state;

/* How bytes are to be read: those that will run as code are read from files that nobody
** else can write to, into memory that no file backs, and checked each time. */
typedef enum tr_disk_use { TR_DISK_DATA, TR_DISK_CODE } tr_disk_use;

/*
** Read the file 'name' in the open folder 'dir'. With an id, it must be that
** entry, body included, whose digest is checked at the first reads of each file by
** this process. Without one, the body is left out. Any thread.
*/
tr_disk_state tr_disk_entry_read(int dir, const char *name, const tr_disk_id *id,
                                 tr_disk_use use, tr_disk_entry *entry);

/* The text of an entry: its redacted reference and its record. False with the
** error. */
bool tr_disk_entry_text(const char *key, size_t key_size, const char *record,
                        size_t record_size, tr_buffer *text, tr_error *error);

/* True if the file of an entry has this body and this text already; it counts as
** stored and used now. */
bool tr_disk_entry_confirm(int dir, const tr_disk_id *id, const void *data, size_t size,
                           const tr_buffer *text);

/* Add to a text all else that follows the body in the file. False: memory is
** short. */
bool tr_disk_entry_seal(const tr_disk_id *id, const void *data, size_t size,
                        tr_buffer *text);

#endif
