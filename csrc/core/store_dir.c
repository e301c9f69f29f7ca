/*
** The folders of a store: opened, made and locked. Every name below the base
** is opened step by step without following symbolic links, so no link in a
** store is followed out of the store.
*/
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "store.h"

int tr_store_open_base(const tr_store *store, tr_error *error) {
  int fd = open(store->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    tr_error_errno(error, errno, "Failed to open the store", store->base);
  return fd;
}

int tr_store_lock(const tr_store *store, bool shared, tr_error *error) {
  int fd = tr_store_open_base(store, error), result;
  if (fd < 0)
    return -1;
  do
    result = flock(fd, shared ? LOCK_SH : LOCK_EX);
  while (result != 0 && errno == EINTR);
  if (result == 0)
    return fd;
  tr_error_errno(error, errno, "Failed to lock the store", store->base);
  close(fd);
  return -1;
}

int tr_store_open_subfolder(const tr_store *store, int parent, const char *name,
                            bool make) {
  if (make && mkdirat(parent, name, 0777) != 0 && errno != EEXIST)
    return -1;
  /* Synced even if it was there: who made it may have died before this. */
  if (make && store->options.durable && fsync(parent) != 0)
    return -1;
  return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Makes the base folder and all above it. */
static bool make_base(const tr_store *store, tr_error *error) {
  char *inside = tr_path_join(store->base, ""); /* all above the last '/' */
  bool ok = inside != NULL &&
            tr_file_make_parents(inside, store->options.durable, error);
  if (inside == NULL)
    tr_error_nomem(error);
  free(inside);
  return ok;
}

int tr_store_open_folder(const tr_store *store, const char *folder, bool make,
                         tr_error *error) {
  int base, fd;
  if (make && !make_base(store, error))
    return -1;
  base = tr_store_open_base(store, error);
  if (base < 0)
    return -1;
  fd = tr_store_open_subfolder(store, base, folder, make);
  if (fd < 0)
    tr_error_errno(error, errno, "Failed to open the store", store->base);
  close(base);
  return fd;
}

int tr_store_open_listing(const tr_store *store, const char *folder,
                          tr_error *error) {
  int fd;
  error->kind = TR_OK;
  fd = tr_store_open_folder(store, folder, false, error);
  if (fd < 0 && error->kind == TR_NOT_FOUND)
    error->kind = TR_OK;
  return fd;
}
