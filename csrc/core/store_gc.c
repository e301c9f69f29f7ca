/* Garbage collection of a store: listings, checks and deletions. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "store.h"

/* -------------------------------------------------------------- listings */

/* Visits the regular files of a folder whose names are of the right sort. */
static bool each_file(tr_store *store, const char *where,
                      bool (*right)(const char *name), tr_store_visit visit,
                      void *context, tr_error *error) {
  int fd = tr_store_open_listing(store, where, error);
  DIR *folder;
  struct dirent *item;
  bool going = true;
  if (fd < 0)
    return error->kind == TR_OK;
  folder = fdopendir(fd);
  if (folder == NULL) {
    tr_error_errno(error, errno, "Failed to list", store->base);
    close(fd);
    return false;
  }
  while (going && (errno = 0, item = readdir(folder)) != NULL) {
    struct stat st;
    if (right(item->d_name) &&
        fstatat(fd, item->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(st.st_mode))
      going = visit(context, item->d_name, (size_t)st.st_size);
  }
  if (going && errno != 0) {
    tr_error_errno(error, errno, "Failed to list", store->base);
    going = false;
  } else {
    going = true; /* 'visit' had enough */
  }
  closedir(folder);
  return going;
}

bool tr_store_each_content(tr_store *store, tr_store_visit visit, void *context,
                           tr_error *error) {
  error = tr_error_or_ignored(error);
  return each_file(store, "data", tr_hex_valid, visit, context, error);
}

/* ---------------------------------------------------------- housekeeping */

bool tr_store_check(tr_store *store, const char *hash, tr_error *error) {
  tr_store always = {
      .base = store->base, .options = store->options, .data = -1};
  char normal[TR_HEX_MAX];
  tr_blob *blob;
  error = tr_error_or_ignored(error);
  always.options.verify = TR_VERIFY_ALWAYS;
  if (!tr_normal_hash(hash, normal, error))
    return false;
  blob = tr_store_get_uncached(&always, normal, error);
  tr_blob_release(blob);
  return blob != NULL;
}

/* Deletes 'name' in an open folder if it is old enough; as discard. */
static int discard_at(int folder, const char *name, double grace, bool dry_run,
                      tr_error *error) {
  struct stat st;
  if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT)
      return 0;
  } else if (!S_ISREG(st.st_mode) ||
             difftime(time(NULL), st.st_mtim.tv_sec) < grace) {
    return 0;
  } else if (dry_run || unlinkat(folder, name, 0) == 0) {
    return 1;
  }
  tr_error_errno(error, errno, "Failed to delete", name);
  return -1;
}

int tr_store_discard(tr_store *store, const char *hash, double grace,
                     bool dry_run, tr_error *error) {
  char normal[TR_HEX_MAX];
  int data, result;
  error = tr_error_or_ignored(error);
  if (!tr_normal_hash(hash, normal, error))
    return -1;
  data = tr_store_open_listing(store, "data", error);
  if (data < 0)
    return error->kind == TR_OK ? 0 : -1;
  result = discard_at(data, normal, grace, dry_run, error);
  close(data);
  return result;
}

/* ----------------------------------------------------- temporary files */

static bool is_temporary(const char *name) {
  return strncmp(name, ".tmp-", 5) == 0 && strchr(name, '/') == NULL;
}

bool tr_store_each_temporary(tr_store *store, tr_store_visit visit,
                             void *context, tr_error *error) {
  error = tr_error_or_ignored(error);
  return each_file(store, ".", is_temporary, visit, context, error);
}

int tr_store_discard_temporary(tr_store *store, const char *name, double grace,
                               bool dry_run, tr_error *error) {
  int base, result;
  error = tr_error_or_ignored(error);
  if (!is_temporary(name)) {
    tr_error_set(error, TR_INVALID_REFERENCE, "Not a temporary file: '%s'",
                 name);
    return -1;
  }
  base = tr_store_open_listing(store, ".", error);
  if (base < 0)
    return error->kind == TR_OK ? 0 : -1;
  result = discard_at(base, name, grace, dry_run, error);
  close(base);
  return result;
}

/* --------------------------------------------------------------- locking */

int tr_store_lock_all(tr_store *store, tr_error *error) {
  error = tr_error_or_ignored(error);
  return tr_store_lock(store, false, error);
}

void tr_store_unlock(int lock) { close(lock); }

/* ------------------------------------------------------------ quarantine */

static bool any_name(const char *name) { return name[0] != '.'; }

bool tr_store_each_quarantined(tr_store *store, tr_store_visit visit,
                               void *context, tr_error *error) {
  error = tr_error_or_ignored(error);
  return each_file(store, "corrupt", any_name, visit, context, error);
}
