/* Shared by the store's files. */
#ifndef TR_STORE_H
#define TR_STORE_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "crypto.h"

struct tr_store {
  char *base;
  int held;               /* the base folder, open; or TR_BY_PATH or TR_NO_BASE */
  struct stat held_labels; /* labels/, or all zero: it was not there */
  tr_store_options options;
  /* data/, fresh open by the first get, or -1. Content that is found through
  ** it is right, even if the folder has moved. */
  atomic_int data;
  double until; /* when all waits for locks end; 0: lock_timeout after each began */
};

enum { TR_BY_PATH = -1, TR_NO_BASE = -2 };

/*
** The same store for a series of calls that are to see one folder, or none: it opens the
** base folder now, and never again by its path, where another one, or for a moment none,
** may lie by then. It lists no labels if labels/ is not what it was. Close it. NULL with the
** error.
*/
tr_store *tr_store_hold(const tr_store *store, tr_error *error);

/* The same store for one call, all of whose waits for locks end at one time. Do not
** close it. */
tr_store tr_store_for_call(const tr_store *store);

/* The same store without syncs, for work under the lock: an fsync there would make
** everybody wait for the disk. Do not close it. */
tr_store tr_store_unsynced(const tr_store *store);

/* Checks a hash and writes it in lower case, as files are named. */
bool tr_normal_hash(const char *hash, char normal[TR_HEX_MAX], tr_error *error);

/* ------------------------------------------------------- folders, locks */

/* Opens the base folder. -1 with the error. */
int tr_store_open_base(const tr_store *store, tr_error *error);

/*
** Open the base folder and lock the store, which keeps movers of labels in all
** processes apart; readers need no lock. tr_store_unlock unlocks. Wait for its turn,
** as long as the store's lock_timeout says. -1 with the error. Never sync under it.
*/
int tr_store_lock(const tr_store *store, tr_error *error);

/* The same if the base folder still is the open one. */
int tr_store_lock_folder(const tr_store *store, int base, tr_error *error);

/* flock an open file for one operation on it; wait as tr_store_lock. False with
** errno. tr_unlock_file unlocks: a child of a fork may still have the file open, so
** closing does not. */
bool tr_store_lock_file(const tr_store *store, int fd, int how);
void tr_unlock_file(int fd);

/* Open the folder 'name' in the open folder 'parent', not through a link unless
** 'follow'. -1 with errno. */
int tr_store_open_subfolder(int parent, const char *name, bool follow);

/* The same, and make it if it is missing. */
int tr_store_make_subfolder(int parent, const char *name);

/*
** Sync the open folder 'parent' unless that is known to have been done since
** 'folder', or a file, was made in it, whoever made it; -1 is for the base folder, and syncs all
** above it. True at once if the store is not durable; false with errno.
*/
bool tr_store_sync_name(const tr_store *store, int parent, int folder);

/* Open data/, and make it and the base folder if they are missing; their names last
** if the store is durable. -1 with the error. */
int tr_store_make_data(const tr_store *store, tr_error *error);

/* Opens <base>/<folder>. -1 with the error. */
int tr_store_open_folder(const tr_store *store, const char *folder,
                         tr_error *error);

/* The same, to list it; through a link if 'follow'. -1 without an error kind: it is
** not there. Anything else that keeps it from being listed is an error. */
int tr_store_open_listing(const tr_store *store, const char *folder, bool follow,
                          tr_error *error);

/* -------------------------------------------------------------- content */

enum {
  /* Seconds. Theater writes content in place: what looks damaged may only be
  ** unfinished yet, and is left to its writer. */
  TR_SETTLED = 10
};

/* As tr_store_get and tr_store_get_labelled; larger content is an error of kind
** TR_TOO_LARGE. */
tr_blob *tr_store_get_bounded(tr_store *store, const char *hash, size_t max_bytes,
                              tr_error *error);
tr_blob *tr_store_get_labelled_bounded(tr_store *store, const char *label,
                                       size_t max_bytes, tr_error *error);

/* The content of a normal hash, past the folder that is fresh open. */
tr_blob *tr_store_get_uncached(const tr_store *store, const char *hash,
                               size_t max_bytes, tr_error *error);

/*
** Freshen content if the store has it: gc counts its age from now, and it is synced
** if the store is durable. With 'check', content that a verification finds corrupt
** counts as missing. Return 1, 0 if it is missing, or -1 with the error. Needs no
** lock.
*/
int tr_store_freshen(const tr_store *store, int data, const char *hash,
                     bool check, tr_error *error);

/* Replace content whose sync failed with a copy, which the next sync writes again; if that
** fails too, whoever freshens it next does. */
void tr_store_rewrite(const tr_store *store, int data, const char *hash);

/* Freshen content that is about to be labelled, in the open data/ or -1. False with
** the error if it is missing. */
bool tr_store_freshen_labelled(const tr_store *store, int data,
                               const char *hash, tr_error *error);

/* Make content young in the eyes of gc that a label no longer points at: its readers
** may be about to read it. No more than a favour: it waits for no lock. */
void tr_store_spare(const tr_store *store, int data, const char *hash);

/*
** Check bytes that were read from the open file data/<hash> against that name, if
** the options want it. If they do not match, move the file to quarantine, unless it
** is so young that its writer may not have finished. 'putting' is for a caller that
** has the right bytes: it always checks, and waits for the file's lock. 'seen' is what
** tr_store_saw said before the bytes were read. False with the error.
*/
bool tr_store_verify(const tr_store *store, int data, int fd,
                     const struct stat *st, const char *hash, tr_blob *blob,
                     bool putting, bool seen, tr_error *error);

/* ---------------------------------------------------------- known files */

typedef enum tr_fact {
  TR_CHECKED = 1, /* its bytes match its name */
  TR_SYNCED = 2,  /* it and its name last */
  TR_LOST = 4     /* the disk may lack some of its bytes, whatever the next sync says */
} tr_fact;

/* True if the process knows that of a file, which has not changed since. A file that is
** lost stays lost, and has no other fact. */
bool tr_store_knows(const struct stat *st, const char *hash, tr_fact fact);
void tr_store_learn(const struct stat *st, const char *hash, tr_fact fact);
/* Call it before the bytes of a file are read. True if the process saw the file with these
** times so long ago that any write from now on gives it others: only then a match may be
** learned. */
bool tr_store_saw(const struct stat *st, const char *hash);
/* The file has a new time, but its content is as before. */
void tr_store_renew(const struct stat *before, const struct stat *after,
                    const char *hash);

/* --------------------------------------------------------------- labels */

enum {
  TR_MAX_LABEL = 4000, /* leaves room for the folders above, within PATH_MAX */
  TR_MAX_PART = 255,   /* what file systems take for one name */
  TR_MAX_DEPTH = 128   /* of label folders */
};

/* Check a label's name. False with the error. */
bool tr_store_check_label(const char *label, tr_error *error);

/* Why a name cannot be that of a new label, to which references must be able to lead;
** otherwise as tr_label_fault. */
const char *tr_new_label_fault(const char *label);

/* The same as a check. */
bool tr_store_check_new_label(const char *label, tr_error *error);

/* Copy the folder that a label's rest begins with to 'room', and step over it. NULL if
** only the file's name is left. */
const char *tr_store_next_folder(const char **rest, char room[TR_MAX_PART + 1]);

typedef enum tr_opening { TR_READING, TR_WRITING, TR_MAKING } tr_opening;

/*
** Open the folder below the open base that a label's file lies in, and point '*name'
** at the file's name, the last part of the label. Readers follow symbolic links to
** folders, as Theater does. -1 with errno.
*/
int tr_store_open_label_folder(int base, const char *label, tr_opening how,
                               const char **name);

/* The hash of a label with a valid name below the open base. Return 1; 0 if it is
** absent, with an empty hash; or -1 with the error, also if it is blank: it is there,
** and may be about to be moved. */
int tr_store_label_at(int base, const char *label, bool patient, char hash[TR_HEX_MAX],
                      tr_error *error);

enum {
  TR_TEMPORARY_LABEL = 64 /* of a guard's name, ".", a number, ".old", and a zero */
};

/*
** As tr_store_label, to a normal hash, under the lock and without a sync. 'base' is
** the open base folder, 'temporary' a file in it that holds the hash. With 'keep', what the
** label was stays in the base folder: 'temporary', of TR_TEMPORARY_LABEL, gets its name
** there, which is the same, or with ".old" after it, or is empty if there was no label.
*/
bool tr_store_place_label(const tr_store *store, int base, const char *label,
                          const char *hash, char *temporary, bool keep,
                          tr_error *error);
/* Undo that under the same lock, with what was kept; it needs no room on the disk. False
** with the error. The history, in which the old hash is by now, leaves out what a label
** points at. */
bool tr_store_put_back(int base, const char *label, const char *kept, tr_error *error);

/* For a batch, under the lock: make the folders of a label, and check that the label
** itself is no folder. False with the error. */
bool tr_store_make_place(int base, const char *label, tr_error *error);
/* Remove a folder with the name of a label if there is nothing in it. */
void tr_store_clear_place(int base, const char *label);
/* Remove the folders above a label that are empty. */
void tr_store_prune(int base, const char *label);

/* The content of a label's file. */
typedef enum tr_holding {
  TR_FAULTY = -1, /* with the error */
  TR_ABSENT,
  TR_HASH,
  TR_BLANK /* as Theater leaves it for a moment while it moves a label */
} tr_holding;

/* Read the label 'label', the file 'name' in an open folder, or in -1 with errno. A
** blank one is read again for 100 ms if 'patient': not under the lock, where others wait. */
tr_holding tr_store_read_label(int folder, const char *name, const char *label,
                               bool patient, char hash[TR_HEX_MAX], tr_error *error);

/* Before the lock is taken, so that nobody waits for it: spare the content of a label
** that is about to move or go. */
void tr_store_spare_label(const tr_store *store, int base, const char *label);

/* Called for each label with its hash, or NULL and why it has none. */
typedef bool (*tr_store_visit_label)(void *context, const char *label,
                                     const char *hash, const char *why);
/* Visit every item in labels/ that is no plain folder. */
bool tr_store_each_label_hash(const tr_store *store, tr_store_visit_label visit,
                              void *context, tr_error *error);

/* -------------------------------------------------------------- history */

enum { TR_MAX_HISTORY = 100 }; /* former hashes of a label that a store may keep */

/* Record the hash that a label is about to leave, if this user may. Under the lock. False
** with the error. */
bool tr_store_remember(const tr_store *store, int base, const char *label,
                       const char *hash, tr_error *error);
/* Sync what was recorded of a label. False with errno. */
bool tr_store_sync_history(const tr_store *store, int base, const char *label);
/* Remove the history of a label. Under the lock. */
void tr_store_forget(int base, const char *label);

/* Visit every former hash of every label; as tr_store_each_former. */
bool tr_store_each_former_of_all(const tr_store *store, tr_store_visit_label visit,
                                 void *context, tr_error *error);
/* Remove the history of labels that are gone. */
bool tr_store_tidy_history(const tr_store *store, tr_error *error);
/* Visit the files of the history. */
bool tr_store_each_history(const tr_store *store, tr_store_visit visit,
                           void *context, tr_error *error);

/* ------------------------------------------------------- gc, listings */

bool tr_is_dots(const char *name); /* "." or ".." */
bool tr_is_temporary(const char *name);

/* When a file was modified, in nanoseconds; at most what they can count, the year 2262. */
int64_t tr_modified(const struct stat *st);

/*
** Return the time by the file system's own clock, in nanoseconds: other machines and
** processes may have other clocks. Wait for it to be another time than 'after', so
** that what is touched from now on gets one. -1 with the error.
*/
int64_t tr_store_clock(const tr_store *store, int64_t after, tr_error *error);

/* Called for each content with the time at which it was last put or labelled. */
typedef bool (*tr_store_visit_time)(void *context, const char *hash,
                                    int64_t nanoseconds);
bool tr_store_each_time(const tr_store *store, tr_store_visit_time visit,
                        void *context, tr_error *error);

/* Visit all content with its file. */
typedef bool (*tr_store_visit_stat)(void *context, const char *name,
                                    const struct stat *st);
bool tr_store_each_stat(const tr_store *store, tr_store_visit_stat visit, void *context,
                        tr_error *error);

/* Visit what lies in data/ and is no content, such as a link, or a file with another
** name. */
bool tr_store_each_unexpected(tr_store *store, tr_store_visit visit, void *context,
                              tr_error *error);

/* Visit the folders in the base folder: its stores, if it is that of a home. */
bool tr_store_each_folder(tr_store *store, tr_store_visit visit, void *context,
                          tr_error *error);

/* Delete content unless it was put or labelled since the time that
** tr_store_each_time gave. As tr_store_discard. */
int tr_store_discard_unchanged(const tr_store *store, const char *hash,
                               int64_t nanoseconds, bool dry_run,
                               tr_error *error);

/* ------------------------------------------- a cache in front of a bucket */

/* Take the lock locks/<name> of the store, which keeps processes and threads apart, if it is
** free; never wait. 'part' is a text of hex digits, or empty: each part is a lock of its own, by
** a byte of the file. tr_store_unlock unlocks. -1 with the error, of kind TR_TIMEOUT if somebody
** else has it. */
int tr_store_try_lock(const tr_store *store, const char *name, const char *part,
                      tr_error *error);

/* Note that content was used just now, if this user may. */
void tr_store_note_use(const tr_store *store, const char *hash);

/* Called for each content with its size, and the times in nanoseconds of its last use and of its
** last write. */
typedef bool (*tr_store_visit_use)(void *context, const char *hash, size_t size, int64_t used,
                                   int64_t written);
bool tr_store_each_use(const tr_store *store, tr_store_visit_use visit, void *context,
                       tr_error *error);

#endif
