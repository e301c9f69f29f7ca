/* What the store's files share. */
#ifndef TR_STORE_H
#define TR_STORE_H

#include <sys/stat.h>

#include "digest.h"

struct tr_store {
  char *base;
  tr_store_options options;
};

/* Checks a hash and writes it in lower case, as files are named. */
bool tr_normal_hash(const char *hash, char normal[TR_HEX_MAX],
                    tr_error *error);

/* Opens the base folder, or -1 with errno. */
int tr_store_open_base(const tr_store *store);

/*
** Opens the folder 'name' in 'parent', which it closes. With 'make', a
** folder that is missing is made, and lasts if the store is durable.
** -1 with errno on failure.
*/
int tr_store_step(const tr_store *store, int parent, const char *name,
                  bool make);

/* Opens <base>/<folder> to list it. -1 without an error kind: not there. */
int tr_store_open_listing(tr_store *store, const char *folder,
                          tr_error *error);

/*
** Makes content young in the eyes of gc, so that what is being put or
** labelled now is not deleted as old.
*/
void tr_store_touch(const tr_store *store, int data, const char *hash);

/* Whether this file was found to match this hash, and a note that it was. */
bool tr_was_verified(const struct stat *st, const char *hash);
void tr_remember_verified(const struct stat *st, const char *hash);

#endif
