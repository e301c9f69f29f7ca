/*
** The content store on disk, in Theater's layout:
**
**   <base>/data/<hash>      content under the hex digest of its bytes
**   <base>/labels/<label>   the hash a label points at; '/' makes folders
**
** Every name below the base is opened step by step without following
** symbolic links, so nothing that lies in a store can lead out of it.
** Temporaries lie in the base folder itself, where Theater does not look.
*/
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "file.h"
#include "store.h"

enum {
  MAPPED_FROM = 256 * 1024, /* below, a read is as fast as a mapping */
  TOUCH_AFTER = 60          /* seconds; a younger file is young enough */
};

tr_store *tr_store_open(const char *base_path,
                        const tr_store_options *options) {
  tr_store *store = malloc(sizeof *store);
  if (store == NULL)
    return NULL;
  store->options = *options;
  store->base = strdup(base_path);
  if (store->base == NULL) {
    free(store);
    return NULL;
  }
  return store;
}

void tr_store_close(tr_store *store) {
  if (store == NULL)
    return;
  free(store->base);
  free(store);
}

/* ---------------------------------------------------------------- names */

/* Checks a hash and writes it in lower case, as files are named. */
bool tr_normal_hash(const char *hash, char normal[TR_HEX_MAX],
                        tr_error *error) {
  size_t i;
  if (!tr_hex_valid(hash)) {
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "Invalid hash: '%s' (40 hex digits of SHA-1 or 64 of "
                 "SHA-256 were expected)",
                 hash);
    return false;
  }
  for (i = 0; hash[i] != '\0'; i++)
    normal[i] = (char)(hash[i] >= 'A' && hash[i] <= 'F' ? hash[i] | 32
                                                        : hash[i]);
  normal[i] = '\0';
  return true;
}

/* --------------------------------------------------------------- folders */

/* Opens the base folder, or -1 with errno. */
int tr_store_open_base(const tr_store *store) {
  return open(store->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/*
** Opens the folder 'name' in 'parent', which it closes. With 'make', a
** folder that is missing is made, and lasts if the store is durable.
** -1 with errno on failure.
*/
int tr_store_step(const tr_store *store, int parent, const char *name,
                bool make) {
  int fd, errnum;
  if (parent < 0)
    return -1;
  if (make && mkdirat(parent, name, 0777) == 0 && store->options.durable &&
      fsync(parent) != 0) {
    errnum = errno;
    close(parent);
    errno = errnum;
    return -1;
  }
  fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  errnum = errno;
  close(parent);
  errno = errnum;
  return fd;
}

/* Opens <base>/<folder>. */
static int open_folder(const tr_store *store, const char *folder, bool make,
                       tr_error *error) {
  int fd;
  if (make) { /* tr_file_make_parents makes all above the last '/' */
    char *inside = tr_path_join(store->base, folder);
    bool ok = inside != NULL && tr_file_make_parents(inside, error);
    if (inside == NULL)
      tr_error_nomem(error);
    free(inside);
    if (!ok)
      return -1;
  }
  fd = tr_store_step(store, tr_store_open_base(store), folder, make);
  if (fd < 0)
    tr_error_errno(error, errno, "Failed to open the store", store->base);
  return fd;
}

/* --------------------------------------------------------------- content */

/* Checks the bytes read from a file against its name. */
static bool verify(const tr_store *store, const struct stat *st,
                   const char *hash, tr_blob *blob, tr_error *error) {
  char actual[TR_HEX_MAX];
  if (store->options.verify == TR_VERIFY_NEVER ||
      (store->options.verify == TR_VERIFY_ONCE && tr_was_verified(st, hash)))
    return true;
  tr_digest(tr_algorithm_of(hash), tr_blob_data(blob), tr_blob_size(blob),
            actual);
  if (strcmp(actual, hash) != 0) {
    tr_error_set(error, TR_CORRUPT,
                 "Content %s in %s is corrupt: its %zu bytes have the hash "
                 "%s; put the right bytes again to heal it",
                 hash, store->base, tr_blob_size(blob), actual);
    return false;
  }
  tr_remember_verified(st, hash);
  return true;
}

/* Reads or maps an open content file. */
static tr_blob *load(int fd, const struct stat *st, const char *hash,
                     tr_error *error) {
  if (st->st_size >= MAPPED_FROM) {
    tr_blob *blob = tr_blob_map(fd, (size_t)st->st_size);
    if (blob == NULL)
      tr_error_errno(error, errno, "Failed to map content", hash);
    return blob;
  }
  return tr_file_read_fd(fd, hash, SIZE_MAX, error);
}

/* The verified content of a normal hash in the open folder data/. */
static tr_blob *get_at(const tr_store *store, int data, const char *hash,
                       tr_error *error) {
  struct stat st;
  tr_blob *blob = NULL;
  int fd = openat(data, hash,
                  O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &st) != 0)
    tr_error_errno(error, errno, "Failed to read content", hash);
  else if (!S_ISREG(st.st_mode))
    tr_error_set(error, TR_CORRUPT, "Content %s in %s is not a file", hash,
                 store->base);
  else
    blob = load(fd, &st, hash, error);
  if (fd >= 0)
    close(fd);
  if (blob != NULL && !verify(store, &st, hash, blob, error)) {
    tr_blob_release(blob);
    return NULL;
  }
  return blob;
}

/* Says that content is not there, whichever folder was missing. */
static void content_not_found(const tr_store *store, const char *hash,
                              tr_error *error) {
  if (error->kind == TR_NOT_FOUND)
    tr_error_set(error, TR_NOT_FOUND, "Content not found: %s (in %s)", hash,
                 store->base);
}

tr_blob *tr_store_get(tr_store *store, const char *hash, tr_error *error) {
  char normal[TR_HEX_MAX];
  tr_blob *blob = NULL;
  int data;
  if (!tr_normal_hash(hash, normal, error))
    return NULL;
  data = open_folder(store, "data", false, error);
  if (data >= 0) {
    blob = get_at(store, data, normal, error);
    close(data);
  }
  if (blob == NULL)
    content_not_found(store, normal, error);
  return blob;
}

int tr_store_exists(tr_store *store, const char *hash, tr_error *error) {
  char normal[TR_HEX_MAX];
  struct stat st;
  int data, found = -1;
  if (!tr_normal_hash(hash, normal, error))
    return -1;
  data = open_folder(store, "data", false, error);
  if (data < 0)
    return error->kind == TR_NOT_FOUND ? 0 : -1;
  if (fstatat(data, normal, &st, AT_SYMLINK_NOFOLLOW) == 0)
    found = S_ISREG(st.st_mode);
  else if (errno == ENOENT)
    found = 0;
  else
    tr_error_errno(error, errno, "Failed to look for content", normal);
  close(data);
  return found;
}

void tr_store_touch(const tr_store *store, int data, const char *hash) {
  struct stat before, after;
  if (fstatat(data, hash, &before, AT_SYMLINK_NOFOLLOW) != 0 ||
      difftime(time(NULL), before.st_mtim.tv_sec) < TOUCH_AFTER ||
      utimensat(data, hash, NULL, AT_SYMLINK_NOFOLLOW) != 0)
    return; /* in a store we may only read, nobody collects garbage either */
  if (store->options.verify == TR_VERIFY_ONCE &&
      tr_was_verified(&before, hash) &&
      fstatat(data, hash, &after, AT_SYMLINK_NOFOLLOW) == 0 &&
      after.st_ino == before.st_ino && after.st_size == before.st_size)
    tr_remember_verified(&after, hash);
}

/* Whether sound content is there already, so that a put costs no write. */
static bool already_there(const tr_store *store, int data, const char *hash,
                          size_t size) {
  tr_error ignored;
  struct stat st;
  tr_blob *blob;
  if (fstatat(data, hash, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
      !S_ISREG(st.st_mode) || (uintmax_t)st.st_size != size)
    return false;
  if (!tr_was_verified(&st, hash)) {
    blob = get_at(store, data, hash, &ignored);
    tr_blob_release(blob);
    if (blob == NULL)
      return false;
  }
  tr_store_touch(store, data, hash);
  return true;
}

bool tr_store_put(tr_store *store, const void *bytes, size_t size,
                  char hash[TR_HEX_MAX], tr_error *error) {
  int data, base;
  bool ok;
  tr_digest(store->options.algorithm, bytes, size, hash);
  data = open_folder(store, "data", true, error);
  if (data < 0)
    return false;
  if (already_there(store, data, hash, size)) {
    close(data);
    return true;
  }
  base = tr_store_open_base(store);
  if (base < 0)
    tr_error_errno(error, errno, "Failed to open the store", store->base);
  ok = base >= 0 && tr_file_write_at(base, data, hash, hash, bytes, size,
                                     store->options.durable, error);
  if (base >= 0)
    close(base);
  close(data);
  return ok;
}

/* -------------------------------------------------------------- listings */

/* Opens a folder to list. -1 without an error kind: it is not there. */
int tr_store_open_listing(tr_store *store, const char *folder,
                        tr_error *error) {
  int fd;
  error->kind = TR_OK;
  fd = open_folder(store, folder, false, error);
  if (fd < 0 && error->kind == TR_NOT_FOUND)
    error->kind = TR_OK;
  return fd;
}

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
  while (going && (item = readdir(folder)) != NULL) {
    struct stat st;
    if (right(item->d_name) &&
        fstatat(fd, item->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(st.st_mode))
      going = visit(context, item->d_name, (size_t)st.st_size);
  }
  closedir(folder);
  return true;
}

bool tr_store_each_content(tr_store *store, tr_store_visit visit,
                           void *context, tr_error *error) {
  return each_file(store, "data", tr_hex_valid, visit, context, error);
}

/* ---------------------------------------------------------- housekeeping */

bool tr_store_check(tr_store *store, const char *hash, tr_error *error) {
  tr_store always = *store;
  tr_blob *blob;
  always.options.verify = TR_VERIFY_ALWAYS;
  blob = tr_store_get(&always, hash, error);
  tr_blob_release(blob);
  return blob != NULL;
}

/* Deletes 'name' in an open folder if it is old enough; as discard. */
static int discard_at(int folder, const char *name, double grace,
                      bool dry_run, tr_error *error) {
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
  if (!tr_normal_hash(hash, normal, error))
    return -1;
  data = tr_store_open_listing(store, "data", error);
  if (data < 0)
    return error->kind == TR_OK ? 0 : -1;
  result = discard_at(data, normal, grace, dry_run, error);
  close(data);
  return result;
}

static bool is_leftover(const char *name) {
  return strncmp(name, ".tmp-", 5) == 0 && strchr(name, '/') == NULL;
}

bool tr_store_each_leftover(tr_store *store, tr_store_visit visit,
                            void *context, tr_error *error) {
  return each_file(store, ".", is_leftover, visit, context, error);
}

int tr_store_discard_leftover(tr_store *store, const char *name,
                              double grace, bool dry_run, tr_error *error) {
  int base, result;
  if (!is_leftover(name)) {
    tr_error_set(error, TR_INVALID_REFERENCE, "Not a leftover: '%s'", name);
    return -1;
  }
  base = tr_store_open_listing(store, ".", error);
  if (base < 0)
    return error->kind == TR_OK ? 0 : -1;
  result = discard_at(base, name, grace, dry_run, error);
  close(base);
  return result;
}
