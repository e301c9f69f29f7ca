/* The disk cache: bytes that outlive the process, in a folder that processes share. */
#ifndef TR_DISK_CACHE_H
#define TR_DISK_CACHE_H

#include "disk_entry.h"

/* A handle of a folder; for one thread at a time. */
typedef struct tr_disk tr_disk;

/* Make a handle; the folder is not touched. 'max_bytes' 0: no bound. NULL when
** memory is short. */
tr_disk *tr_disk_open(const char *folder, uint64_t max_bytes);
void tr_disk_close(tr_disk *disk); /* NULL is allowed */

/* The times of an entry in seconds since 1970; 0 if they lie in the future, or if
** the entry was expired. */
int64_t tr_disk_stored(const struct stat *st);
int64_t tr_disk_used(const struct stat *st);

/* Read an entry, without a lock. False for a miss, whatever the reason. */
bool tr_disk_read(tr_disk *disk, const char *key, size_t len, tr_disk_entry *entry);

/*
** Read an entry whose bytes will run as code: only from a folder and a file that belong to
** the effective user, and that nobody else can write to. The body is in memory of its own,
** and its digest is checked at each read. False with the error; its kind is TR_OK for a
** miss. A file that is refused is removed.
*/
bool tr_disk_read_code(tr_disk *disk, const char *key, size_t len,
                       tr_disk_entry *entry, tr_error *error);

/*
** Write an entry. An entry that has these bytes and this record is only confirmed:
** it counts as stored now. Wait for the lock for so many seconds at most. False
** with the error; TR_TIMEOUT: the lock was not free.
*/
bool tr_disk_write(tr_disk *disk, const char *key, size_t len, const void *data,
                   size_t size, const char *record, size_t record_size,
                   double seconds, tr_error *error);

/* True once in this process and folder: the time to warn of a failure. */
bool tr_disk_first_failure(const tr_disk *disk);

/* Remove the entry of a key, or all of a reference; let all of a reference count as
** stale. Without a lock. True if there was one. */
bool tr_disk_forget(tr_disk *disk, const char *key, size_t len);
bool tr_disk_remove(tr_disk *disk, const char *reference, size_t len);
bool tr_disk_expire(tr_disk *disk, const char *reference, size_t len);

/* Remove every file, and count the entries among them. Wait for the lock for so many
** seconds at most; without it, the file that is being written stays. False with the
** error. */
bool tr_disk_clear(tr_disk *disk, double seconds, size_t *entries, tr_error *error);

/* Call 'visit' with every sound entry, without bodies, until it returns false. False
** with the error; a folder that is missing is empty. */
typedef bool (*tr_disk_visit)(void *context, const tr_disk_entry *entry);
bool tr_disk_each(tr_disk *disk, tr_disk_visit visit, void *context,
                  tr_error *error);

/* Add up the bytes of all files but the lock. False with the error. */
bool tr_disk_size(tr_disk *disk, uint64_t *bytes, tr_error *error);

#endif
