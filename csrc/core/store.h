/* Shared by the store's files. */
#ifndef TR_STORE_H
#define TR_STORE_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "crypto.h"

struct tr_store {
  char *base;
  tr_store_options options;
  /* data/, fresh open by the first get, or -1. Content that is found through
  ** it is right, even if the folder has moved. */
  atomic_int data;
};

/* Checks a hash and writes it in lower case, as files are named. */
bool tr_normal_hash(const char *hash, char normal[TR_HEX_MAX], tr_error *error);

/* Opens the base folder. -1 with the error. */
int tr_store_open_base(const tr_store *store, tr_error *error);

/*
** Opens the base folder and locks the store, which keeps garbage collectors
** and movers of labels in all processes apart; readers need no lock. Closing
** it unlocks. Waits for its turn. -1 with the error.
*/
int tr_store_lock(const tr_store *store, bool shared, tr_error *error);

/*
** Opens the folder 'name' in the open folder 'parent', not through a link.
** With 'make', a folder that is missing is made, and lasts if the store is
** durable. -1 with errno.
*/
int tr_store_open_subfolder(const tr_store *store, int parent, const char *name,
                            bool make);

/* Opens <base>/<folder>. -1 with the error. */
int tr_store_open_folder(const tr_store *store, const char *folder, bool make,
                         tr_error *error);

/* The same, to list it. -1 without an error kind: it is not there. */
int tr_store_open_listing(const tr_store *store, const char *folder,
                          tr_error *error);

/* The content of a normal hash, past the folder that is fresh open. */
tr_blob *tr_store_get_uncached(const tr_store *store, const char *hash,
                               tr_error *error);

/*
** Freshen content if the store has it: gc counts its age from now, and it is
** synced if the store is durable. Unless 'size' is SIZE_MAX, content that a
** verification finds corrupt counts as missing. Return 1, 0 if it is missing,
** or -1 with the error. Hold the lock, at least shared.
*/
int tr_store_freshen(tr_store *store, int data, const char *hash, size_t size,
                     tr_error *error);

/* The same for a put, which takes the lock only if something is there. */
int tr_store_lock_and_freshen(tr_store *store, int data, const char *hash,
                            size_t size, tr_error *error);

/* Freshen content that is about to be labelled, in the open data/. False with
** the error if it is missing. */
bool tr_store_freshen_labelled(tr_store *store, int data, const char *hash,
                               tr_error *error);

/* Check a label's name. False with the error. */
bool tr_store_check_label(const char *label, tr_error *error);

/*
** Checks bytes that were read from data/<hash> against that name, if the
** options want it. If they do not match, move the file to quarantine, unless
** it is so young that its writer may not have finished. A caller that has the
** right bytes sets 'healing', and then the age does not matter. False with the
** error.
*/
bool tr_store_verify(const tr_store *store, int data, const struct stat *st,
                     const char *hash, tr_blob *blob, bool healing,
                     tr_error *error);

/* The file has a new time, but its content is as before. */
void tr_store_renew_verified(const struct stat *before,
                             const struct stat *after, const char *hash);
bool tr_store_was_verified(const struct stat *st, const char *hash);

/* As tr_store_label, to a normal hash, without the lock or a sync. 'base' is
** the open base folder, 'temporary' a file in it that holds the hash. */
bool tr_store_place_label(tr_store *store, int base, const char *label,
                          const char *temporary, tr_error *error);

#endif
