/*
** The content store on disk, in Theater's layout:
**
**   <base>/data/<hash>      content under the hex digest of its bytes
**   <base>/labels/<label>   the hash a label points at; '/' makes folders
**
** Temporary files are in the base folder itself, where Theater does not look,
** and corrupt content is in quarantine in corrupt/. The base folder is also the
** lock. store_dir.c opens all folders.
*/
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "file.h"
#include "options.h"
#include "store.h"

/* Below, a read is as fast as a mapping. */
enum { MAPPED_FROM = 256 * 1024 };

tr_store *tr_store_open(const char *base_path,
                        const tr_store_options *options, tr_error *error) {
  tr_store_options o = TR_STORE_OPTIONS;
  tr_store *store;
  error = tr_error_or_ignored(error);
  if (!tr_options_copy(&o, sizeof o, options, "TR_STORE_OPTIONS", error))
    return NULL;
  store = malloc(sizeof *store);
  if (store != NULL) {
    store->options = o;
    atomic_init(&store->data, -1);
    store->base = strdup(base_path);
  }
  if (store != NULL && store->base != NULL)
    return store;
  free(store);
  tr_error_nomem(error);
  return NULL;
}

void tr_store_close(tr_store *store) {
  if (store == NULL)
    return;
  if (atomic_load(&store->data) >= 0)
    close(atomic_load(&store->data));
  free(store->base);
  free(store);
}

tr_algorithm tr_store_algorithm(const tr_store *store) {
  return store->options.algorithm;
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
    normal[i] =
        (char)(hash[i] >= 'A' && hash[i] <= 'F' ? hash[i] | 32 : hash[i]);
  normal[i] = '\0';
  return true;
}

/* ------------------------------------------------------------------ getting */

/* Reads or maps an open content file. */
static tr_blob *load(const tr_store *store, int fd, const struct stat *st,
                     const char *hash, tr_error *error) {
  if (st->st_size >= MAPPED_FROM && !store->options.unmapped) {
    tr_blob *blob = tr_blob_map(fd, (size_t)st->st_size);
    if (blob == NULL)
      tr_error_errno(error, errno, "Failed to map content", hash);
    return blob;
  }
  return tr_file_read_fd(fd, st, hash, SIZE_MAX, error);
}

static tr_blob *get_at(const tr_store *store, int data, const char *hash,
                       bool healing, tr_error *error) {
  struct stat st;
  tr_blob *blob = NULL;
  int fd = openat(data, hash, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &st) != 0)
    tr_error_errno(error, errno, "Failed to read content", hash);
  else if (!S_ISREG(st.st_mode))
    tr_error_set(error, TR_CORRUPT, "Content %s in %s is not a file", hash,
                 store->base);
  else
    blob = load(store, fd, &st, hash, error);
  if (fd >= 0)
    close(fd);
  if (blob != NULL &&
      !tr_store_verify(store, data, &st, hash, blob, healing, error)) {
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

/* data/, which stays open. -1 with the error. */
static int cached_folder(tr_store *store, tr_error *error) {
  int data = atomic_load(&store->data), none = -1;
  if (data >= 0)
    return data;
  data = tr_store_open_folder(store, "data", false, error);
  if (data < 0 || atomic_compare_exchange_strong(&store->data, &none, data))
    return data;
  close(data); /* another thread was faster */
  return none;
}

tr_blob *tr_store_get_uncached(const tr_store *store, const char *hash,
                               tr_error *error) {
  int data = tr_store_open_folder(store, "data", false, error);
  tr_blob *blob = NULL;
  if (data >= 0) {
    blob = get_at(store, data, hash, false, error);
    close(data);
  }
  if (blob == NULL)
    content_not_found(store, hash, error);
  return blob;
}

tr_blob *tr_store_get(tr_store *store, const char *hash, tr_error *error) {
  char normal[TR_HEX_MAX];
  tr_blob *blob = NULL;
  int data;
  error = tr_error_or_ignored(error);
  if (!tr_normal_hash(hash, normal, error))
    return NULL;
  data = cached_folder(store, error);
  if (data >= 0)
    blob = get_at(store, data, normal, false, error);
  if (blob == NULL && error->kind == TR_NOT_FOUND)
    return tr_store_get_uncached(store, normal, error); /* was it replaced? */
  return blob;
}

int tr_store_exists(tr_store *store, const char *hash, tr_error *error) {
  char normal[TR_HEX_MAX];
  struct stat st;
  int data, found = -1;
  error = tr_error_or_ignored(error);
  if (!tr_normal_hash(hash, normal, error))
    return -1;
  data = tr_store_open_folder(store, "data", false, error);
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

/* ------------------------------------------------------------------ putting */

/* Makes content young in the eyes of gc. */
static void touch(const tr_store *store, int data, const char *hash,
                  const struct stat *before) {
  struct stat after;
  if (utimensat(data, hash, NULL, AT_SYMLINK_NOFOLLOW) != 0)
    return; /* where we may only read, nobody collects garbage either */
  if (store->options.verify == TR_VERIFY_ONCE &&
      fstatat(data, hash, &after, AT_SYMLINK_NOFOLLOW) == 0)
    tr_store_renew_verified(before, &after, hash);
}

/* Makes content last that somebody may have put without a sync. */
static bool sync_content(int data, const char *hash, tr_error *error) {
  int fd = openat(data, hash, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  bool ok = fd >= 0 && fsync(fd) == 0 && fsync(data) == 0;
  if (!ok)
    tr_error_errno(error, errno, "Failed to sync content", hash);
  if (fd >= 0)
    close(fd);
  return ok;
}

int tr_store_freshen(tr_store *store, int data, const char *hash, size_t size,
                     tr_error *error) {
  struct stat st;
  if (fstatat(data, hash, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
      !S_ISREG(st.st_mode))
    return 0;
  if (size != SIZE_MAX && !tr_store_was_verified(&st, hash)) {
    tr_blob *blob = get_at(store, data, hash, true, error); /* or quarantined */
    tr_blob_release(blob);
    if (blob == NULL)
      return 0;
  }
  if (store->options.durable && !sync_content(data, hash, error))
    return -1;
  touch(store, data, hash, &st);
  return 1;
}

/* Writes content that is not there. 1, 0 when it is there now, or -1. */
static int create(tr_store *store, int data, const char *hash,
                  const void *bytes, size_t size, tr_error *error) {
  int base = tr_store_open_base(store, error), created;
  if (base < 0)
    return -1;
  created = tr_file_create_at(base, data, hash, hash, bytes, size,
                              store->options.durable, error);
  close(base);
  return created;
}

int tr_store_lock_and_freshen(tr_store *store, int data, const char *hash,
                            size_t size, tr_error *error) {
  int lock, fresh;
  if (faccessat(data, hash, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    return 0;
  lock = tr_store_lock(store, true, error);
  if (lock < 0)
    return -1;
  fresh = tr_store_freshen(store, data, hash, size, error);
  close(lock);
  return fresh;
}

bool tr_store_put(tr_store *store, const void *bytes, size_t size,
                  char hash[TR_HEX_MAX], tr_error *error) {
  int data, done = 0, tries = 8;
  error = tr_error_or_ignored(error);
  tr_digest(store->options.algorithm, bytes, size, hash);
  data = tr_store_open_folder(store, "data", true, error);
  if (data < 0)
    return false;
  /* It may come and go under our hands, but not for ever. */
  while (done == 0 && tries-- > 0) {
    done = tr_store_lock_and_freshen(store, data, hash, size, error);
    if (done == 0)
      done = create(store, data, hash, bytes, size, error);
  }
  close(data);
  if (done == 0)
    tr_error_set(error, TR_IO,
                 "Failed to write content %s: it keeps changing meanwhile",
                 hash);
  return done == 1;
}
