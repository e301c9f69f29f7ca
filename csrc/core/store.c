/*
** The content store on disk, in Theater's layout:
**
**   <base>/data/<hash>      content under the hex digest of its bytes
**   <base>/labels/<label>   the hash a label points at; '/' makes folders
**
** Temporary files are in the base folder itself, where Theater does not look,
** and corrupt content is in quarantine in corrupt/. store_dir.c opens all folders.
**
** Locks, all of flock, in the order in which several are taken:
**
**   data/, then <base>  movers of labels, one at a time; see store_dir.c
**   data/<hash>         shared to freshen content, exclusive to delete or to move it,
**                       so that what was just put or labelled is not deleted
*/
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blob.h"
#include "error.h"
#include "file.h"
#include "metrics.h"
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
  if (o.label_history > TR_MAX_HISTORY) {
    tr_error_set(error, TR_POLICY, "label_history is %u, more than %d", o.label_history, TR_MAX_HISTORY);
    return NULL;
  }
  if (isnan(o.lock_timeout)) {
    tr_error_set(error, TR_POLICY, "lock_timeout is not a number");
    return NULL;
  }
  store = malloc(sizeof *store);
  if (store != NULL) {
    store->options = o;
    atomic_init(&store->data, -1);
    store->until = 0;
    store->held = TR_BY_PATH;
    memset(&store->held_labels, 0, sizeof store->held_labels);
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
  if (store->held >= 0)
    close(store->held);
  free(store->base);
  free(store);
}

tr_store *tr_store_hold(const tr_store *store, tr_error *error) {
  tr_store *held = tr_store_open(store->base, &store->options, error);
  if (held == NULL)
    return NULL;
  held->held = tr_store_open_base(store, error);
  if (held->held < 0 && error->kind == TR_NOT_FOUND)
    held->held = TR_NO_BASE;
  if (held->held >= 0 && fstatat(held->held, "labels", &held->held_labels, 0) != 0)
    memset(&held->held_labels, 0, sizeof held->held_labels);
  if (held->held != TR_BY_PATH)
    return held;
  tr_store_close(held);
  return NULL;
}

tr_store tr_store_unsynced(const tr_store *store) {
  tr_store view = {.base = store->base,
                   .held = store->held,
                   .options = store->options,
                   .data = -1,
                   .until = store->until};
  view.options.durable = false;
  return view;
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

/*
** True if nobody but this user and root can write to a file, and its writer is done.
** Everybody else's is read: bytes that were verified must not change, nor go where a
** mapping would crash.
*/
static bool is_mappable(const struct stat *st) {
  return (st->st_uid == geteuid() || st->st_uid == 0) &&
         (st->st_mode & (S_IWGRP | S_IWOTH)) == 0 &&
         difftime(time(NULL), st->st_mtim.tv_sec) >= TR_SETTLED;
}

/* Read or map an open content file. */
static tr_blob *load(const tr_store *store, int fd, const struct stat *st,
                     const char *hash, tr_error *error) {
  if (st->st_size >= MAPPED_FROM && (uintmax_t)st->st_size <= SIZE_MAX &&
      !store->options.unmapped && is_mappable(st)) {
    tr_blob *blob = tr_blob_map(fd, (size_t)st->st_size);
    if (blob != NULL) /* else the file system cannot, or there are too many */
      return blob;
  }
  if (lseek(fd, 0, SEEK_SET) == 0)
    return tr_file_read_fd(fd, st, hash, SIZE_MAX, -1, error);
  tr_error_errno(error, errno, "Failed to read content", hash);
  return NULL;
}

/* Open a content file and stat it. -1 with the error. */
static int open_content(const tr_store *store, int data, const char *hash,
                        struct stat *st, tr_error *error) {
  int fd = openat(data, hash, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  int errnum = errno; /* what cannot be opened may be a link, a socket or a device */
  if (fd < 0 ? fstatat(data, hash, st, AT_SYMLINK_NOFOLLOW) != 0 || S_ISREG(st->st_mode)
             : fstat(fd, st) != 0)
    tr_error_errno(error, fd < 0 ? errnum : errno, "Failed to read content", hash);
  else if (fd >= 0 && S_ISREG(st->st_mode))
    return fd;
  else
    tr_error_set(error, TR_CORRUPT,
                 "Content %s in %s is not a file; put it again, which replaces "
                 "anything but a folder",
                 hash, store->base);
  if (fd >= 0)
    close(fd);
  return -1;
}

/* Load an open content file and verify it, for 'putting' as tr_store_verify. */
static tr_blob *load_verified(const tr_store *store, int data, int fd,
                              const struct stat *st, const char *hash,
                              bool putting, tr_error *error) {
  bool seen = tr_store_saw(st, hash);
  tr_blob *blob = load(store, fd, st, hash, error);
  if (blob == NULL ||
      tr_store_verify(store, data, fd, st, hash, blob, putting, seen, error))
    return blob;
  tr_blob_release(blob);
  return NULL;
}

static tr_blob *get_at(const tr_store *store, int data, const char *hash,
                       size_t max_bytes, tr_error *error) {
  struct stat st;
  tr_blob *blob;
  int fd = open_content(store, data, hash, &st, error);
  if (fd < 0)
    return NULL;
  if ((uintmax_t)st.st_size > max_bytes)
    blob = tr_file_too_large(hash, max_bytes, error);
  else
    blob = load_verified(store, data, fd, &st, hash, false, error);
  close(fd);
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
  data = tr_store_open_folder(store, "data", error);
  if (data < 0 || atomic_compare_exchange_strong(&store->data, &none, data))
    return data;
  close(data); /* another thread was faster */
  return none;
}

tr_blob *tr_store_get_uncached(const tr_store *store, const char *hash,
                               size_t max_bytes, tr_error *error) {
  int data = tr_store_open_folder(store, "data", error);
  tr_blob *blob = NULL;
  if (data >= 0) {
    blob = get_at(store, data, hash, max_bytes, error);
    close(data);
  }
  if (blob == NULL)
    content_not_found(store, hash, error);
  return blob;
}

tr_blob *tr_store_get(tr_store *store, const char *hash, tr_error *error) {
  return tr_store_get_bounded(store, hash, SIZE_MAX, error);
}

/* As tr_store_get_bounded, for a normal hash. */
static tr_blob *get(tr_store *store, const char *hash, size_t max_bytes, tr_error *error) {
  tr_blob *blob = NULL;
  int data = cached_folder(store, error);
  if (data >= 0)
    blob = get_at(store, data, hash, max_bytes, error);
  /* Was the folder replaced? */
  if (blob == NULL && (error->kind == TR_NOT_FOUND || error->errnum == ESTALE))
    return tr_store_get_uncached(store, hash, max_bytes, error);
  return blob;
}

tr_blob *tr_store_get_bounded(tr_store *store, const char *hash, size_t max_bytes,
                              tr_error *error) {
  char normal[TR_HEX_MAX];
  tr_blob *blob;
  error = tr_error_or_ignored(error);
  if (!tr_normal_hash(hash, normal, error))
    return NULL;
  blob = get(store, normal, max_bytes, error);
  tr_count_store(TR_STORE_GET, blob != NULL, error);
  return blob;
}

int tr_store_exists(tr_store *store, const char *hash, tr_error *error) {
  char normal[TR_HEX_MAX];
  struct stat st;
  int data, found = -1;
  error = tr_error_or_ignored(error);
  if (!tr_normal_hash(hash, normal, error))
    return -1;
  data = tr_store_open_folder(store, "data", error);
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

/* Replace an open content file with a copy, which is as young as can be. False with the
** error. */
static bool replace_with_copy(const tr_store *store, int data, int fd,
                              const struct stat *st, const char *hash,
                              bool durable, tr_error *error) {
  char temporary[TR_TEMPORARY];
  tr_blob *blob = load_verified(store, data, fd, st, hash, true, error);
  int base = blob == NULL ? -1 : tr_store_open_base(store, error);
  bool ok = false;
  if (base >= 0) {
    bool written = tr_blob_size(blob) == (size_t)st->st_size &&
                   tr_file_write_temporary(base, temporary, tr_blob_data(blob),
                                           tr_blob_size(blob), durable);
    /* The group is kept where this user may give files to it. Only the permissions
    ** are taken over: a setuid bit would make it a program that runs as this user. */
    ok = written &&
         (fchownat(base, temporary, (uid_t)-1, st->st_gid,
                   AT_SYMLINK_NOFOLLOW) == 0 ||
          errno == EPERM) &&
         fchmodat(base, temporary, st->st_mode & 0777, 0) == 0 &&
         renameat(base, temporary, data, hash) == 0;
    if (!ok)
      tr_error_errno(error, errno,
                     "Failed to protect from garbage collection the content",
                     hash);
    if (written && !ok)
      unlinkat(base, temporary, 0);
    close(base);
  }
  tr_blob_release(blob);
  return ok;
}

/*
** Make an open and locked content file young in the eyes of gc: by a copy if this user
** may not touch it, or if the disk may lack some of its bytes. The copy is synced whatever
** the options say, since somebody may have been told that the file lasts. Return 1, 0 if it
** is no longer data/<hash>, or -1 with the error.
*/
static int touch(const tr_store *store, int data, int fd, const char *hash,
                 tr_error *error) {
  struct stat before, named, after;
  if (fstat(fd, &before) != 0 ||
      fstatat(data, hash, &named, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT)
      return 0;
    tr_error_errno(error, errno, "Failed to look for content", hash);
    return -1;
  }
  if (named.st_ino != before.st_ino || named.st_dev != before.st_dev)
    return 0;
  if (tr_store_knows(&before, hash, TR_LOST) || futimens(fd, NULL) != 0)
    return replace_with_copy(store, data, fd, &before, hash, true, error) ? 1 : -1;
  if (fstat(fd, &after) == 0)
    tr_store_renew(&before, &after, hash);
  return 1;
}

/* The same, and keep everybody from deleting an open content file meanwhile. */
static int touch_locked(const tr_store *store, int data, int fd,
                        const char *hash, tr_error *error) {
  int touched;
  if (!tr_store_lock_file(store, fd, LOCK_SH)) {
    tr_error_errno(error, errno, "Failed to lock content", hash);
    return -1;
  }
  touched = touch(store, data, fd, hash, error);
  tr_unlock_file(fd);
  return touched;
}

/*
** Replace an open content file whose sync failed with a copy from memory. The kernel
** reports bytes that it could not write once; then it takes them for written, and the
** next sync of that file would succeed. The copy's bytes are still to be written: its
** own first sync, by whoever comes next, is true again.
*/
static void rewrite(const tr_store *store, int data, int fd,
                    const struct stat *st, const char *hash) {
  tr_error ignored;
  tr_store_learn(st, hash, TR_LOST); /* stays so if there is no room for the copy */
  replace_with_copy(store, data, fd, st, hash, false, &ignored);
}

void tr_store_rewrite(const tr_store *store, int data, const char *hash) {
  struct stat st;
  tr_error ignored;
  int fd = open_content(store, data, hash, &st, &ignored);
  if (fd < 0)
    return;
  if (!tr_store_knows(&st, hash, TR_SYNCED))
    rewrite(store, data, fd, &st, hash);
  close(fd);
}

/* Sync data/<hash> and its name unless that is known to have been done. */
static bool sync_content(const tr_store *store, int data, const char *hash,
                         tr_error *error) {
  struct stat st;
  int fd;
  bool ok = true;
  if (!store->options.durable)
    return true;
  fd = open_content(store, data, hash, &st, error);
  if (fd < 0)
    return false;
  if (!tr_store_knows(&st, hash, TR_SYNCED)) {
    ok = fsync(fd) == 0 && fsync(data) == 0;
    if (ok) {
      tr_store_learn(&st, hash, TR_SYNCED);
    } else {
      tr_error_errno(error, errno, "Failed to sync content", hash);
      rewrite(store, data, fd, &st, hash);
    }
  }
  close(fd);
  return ok;
}

/* As tr_store_freshen, but 0 as well if the file was replaced meanwhile. */
static int freshen_once(const tr_store *store, int data, const char *hash,
                        bool check, tr_error *error) {
  struct stat st;
  int fresh = 1, fd = open_content(store, data, hash, &st, error);
  if (fd < 0)
    return error->kind == TR_NOT_FOUND || (check && error->kind == TR_CORRUPT) ? 0 : -1;
  if (check && !tr_store_knows(&st, hash, TR_CHECKED)) {
    tr_blob *blob = load_verified(store, data, fd, &st, hash, true, error);
    if (blob == NULL)
      fresh = error->kind == TR_CORRUPT ? 0 : -1; /* corrupt: quarantined */
    tr_blob_release(blob);
  }
  if (fresh == 1) {
    fresh = touch_locked(store, data, fd, hash, error);
    if (fresh < 0 && check && error->kind == TR_CORRUPT)
      fresh = 0;
  }
  close(fd);
  if (fresh == 1 && !sync_content(store, data, hash, error))
    fresh = error->kind == TR_NOT_FOUND ? 0 : -1;
  return fresh;
}

int tr_store_freshen(const tr_store *store, int data, const char *hash,
                     bool check, tr_error *error) {
  int fresh = 0, tries = 8;
  error->kind = TR_OK;
  while (fresh == 0 && tries-- > 0 && error->kind != TR_CORRUPT) {
    if (faccessat(data, hash, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
      fresh = freshen_once(store, data, hash, check, error);
    } else if (errno == ENOENT) {
      break;
    } else {
      tr_error_errno(error, errno, "Failed to look for content", hash);
      fresh = -1;
    }
  }
  return fresh;
}

bool tr_store_freshen_labelled(const tr_store *store, int data,
                               const char *hash, tr_error *error) {
  int fresh = data < 0 ? 0 : tr_store_freshen(store, data, hash, false, error);
  if (fresh == 0)
    tr_error_set(error, TR_NOT_FOUND,
                 "Content does not exist: %s (put it before you label it)",
                 hash);
  return fresh == 1;
}

void tr_store_spare(const tr_store *store, int data, const char *hash) {
  struct stat st;
  tr_error ignored;
  int fd = open_content(store, data, hash, &st, &ignored);
  if (fd < 0)
    return;
  if (flock(fd, LOCK_SH | LOCK_NB) == 0) {
    touch(store, data, fd, hash, &ignored);
    tr_unlock_file(fd);
  }
  close(fd);
}

/* Write content that is not there. 1, 0 when it is there now, or -1. */
static int create(const tr_store *store, int data, const char *hash,
                  const void *bytes, size_t size, tr_error *error) {
  int base = tr_store_open_base(store, error), created;
  struct stat st;
  if (base < 0)
    return -1;
  created = tr_file_create_at(base, data, hash, store->base, bytes, size,
                              store->options.durable, error);
  close(base);
  if (created == 1 && store->options.durable &&
      fstatat(data, hash, &st, AT_SYMLINK_NOFOLLOW) == 0)
    tr_store_learn(&st, hash, TR_SYNCED);
  return created;
}

/* Replace corrupt content that is not in quarantine: its writer may not be done with it,
** and keeps a file without a name. 1, or -1 with the error. */
static int replace(const tr_store *store, int data, const char *hash,
                   const void *bytes, size_t size, tr_error *error) {
  char temporary[TR_TEMPORARY];
  bool durable = store->options.durable;
  int base = tr_store_open_base(store, error), replaced = -1;
  if (base < 0)
    return -1;
  if (!tr_file_write_temporary(base, temporary, bytes, size, durable)) {
    tr_error_errno(error, errno, "Failed to write to the store", store->base);
  } else if (renameat(base, temporary, data, hash) != 0) {
    tr_error_errno(error, errno, "Failed to replace corrupt content", hash);
    unlinkat(base, temporary, 0);
  } else if (durable && fsync(data) != 0) {
    tr_error_errno(error, errno, "Failed to sync content", hash);
  } else {
    replaced = 1;
  }
  close(base);
  return replaced;
}

/* Put bytes whose hash goes to 'hash'. 1, or another number with the error. */
static int put(tr_store *store, const void *bytes, size_t size, char hash[TR_HEX_MAX],
               tr_error *error) {
  tr_store call = tr_store_for_call(store);
  int data, done = 0, tries = 8;
  bool corrupt;
  tr_digest(store->options.algorithm, bytes, size, hash);
  data = tr_store_make_data(store, error);
  if (data < 0)
    return -1;
  /* It may come and go under our hands, but not for ever. */
  while (done == 0 && tries-- > 0) {
    done = tr_store_freshen(&call, data, hash, true, error);
    corrupt = done == 0 && error->kind == TR_CORRUPT;
    if (done == 0)
      done = create(&call, data, hash, bytes, size, error);
    if (done == 0 && corrupt)
      done = replace(&call, data, hash, bytes, size, error);
  }
  close(data);
  if (done == 0)
    tr_error_set(error, TR_IO,
                 "Failed to write content %s: it keeps changing meanwhile",
                 hash);
  return done;
}

bool tr_store_put(tr_store *store, const void *bytes, size_t size,
                  char hash[TR_HEX_MAX], tr_error *error) {
  bool ok;
  error = tr_error_or_ignored(error);
  ok = put(store, bytes, size, hash, error) == 1;
  tr_count_store(TR_STORE_PUT, ok, error);
  return ok;
}
