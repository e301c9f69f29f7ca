/* Moving and removing labels. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "metrics.h"
#include "store.h"

/* An error about a label, from errno. */
static void label_errno(tr_error *error, int errnum, const char *what,
                        const char *label) {
  if (errnum == ENOTDIR || errnum == EISDIR || errnum == ENOTEMPTY)
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "%s '%s': it and another label would need one name to be "
                 "both a label and a folder of labels; rename one of them, or "
                 "replace the symbolic link that leads to that folder",
                 what, label);
  else
    tr_error_errno(error, errnum, what, label);
}

/* Freshen content that is to be labelled, below the open base or -1. */
static bool content_is_there(const tr_store *store, int base, const char *hash,
                             tr_error *error) {
  int data = base < 0 ? -1 : tr_store_open_subfolder(base, "data", false);
  bool there;
  if (base >= 0 && data < 0 && errno != ENOENT) {
    tr_error_errno(error, errno, "Failed to look for content", hash);
    return false;
  }
  there = tr_store_freshen_labelled(store, data, hash, error);
  if (data >= 0)
    close(data);
  return there;
}

/* Spare the content of a label that has moved or gone; an empty hash: there was none. */
static void spare(const tr_store *store, int base, const char *hash) {
  int data = hash[0] == '\0' ? -1 : tr_store_open_subfolder(base, "data", false);
  if (data < 0)
    return;
  tr_store_spare(store, data, hash);
  close(data);
}

void tr_store_spare_label(const tr_store *store, int base, const char *label) {
  char hash[TR_HEX_MAX];
  tr_error ignored;
  if (tr_store_label_at(base, label, false, hash, &ignored) == 1)
    spare(store, base, hash);
}

/* Remove a folder that has nothing but empty folders in it. False: it has. */
static bool remove_empty(int parent, const char *name, int depth) {
  int fd = depth < TR_MAX_DEPTH ? tr_store_open_subfolder(parent, name, false) : -1;
  DIR *folder = fd < 0 ? NULL : fdopendir(fd);
  struct dirent *item;
  bool empty = folder != NULL;
  while (empty && (item = readdir(folder)) != NULL)
    empty = tr_is_dots(item->d_name) || remove_empty(fd, item->d_name, depth + 1);
  if (folder != NULL)
    closedir(folder);
  else if (fd >= 0)
    close(fd);
  return empty && unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

void tr_store_prune(int base, const char *label) {
  char *path = strdup(label), *slash;
  while (path != NULL && (slash = strrchr(path, '/')) != NULL) {
    const char *name;
    int folder;
    *slash = '\0';
    folder = tr_store_open_label_folder(base, path, TR_WRITING, &name);
    if (folder < 0 || unlinkat(folder, name, AT_REMOVEDIR) != 0)
      *path = '\0'; /* not empty: done */
    if (folder >= 0)
      close(folder);
  }
  free(path);
}

void tr_store_clear_place(int base, const char *label) {
  const char *name;
  int folder = tr_store_open_label_folder(base, label, TR_WRITING, &name);
  if (folder >= 0) {
    remove_empty(folder, name, 0);
    close(folder);
  }
}

bool tr_store_make_place(int base, const char *label, tr_error *error) {
  const char *name;
  struct stat st;
  int folder = tr_store_open_label_folder(base, label, TR_MAKING, &name);
  int errnum = folder < 0 ? errno : 0;
  if (folder >= 0) {
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISDIR(st.st_mode))
      errnum = EISDIR;
    else if (faccessat(folder, ".", W_OK | X_OK, AT_EACCESS) != 0)
      errnum = errno;
    close(folder);
  }
  if (errnum != 0)
    label_errno(error, errnum, "Failed to write label", label);
  return errnum == 0;
}

/* Without RENAME_EXCHANGE: as swap, by another name for what lies there, else by a copy of
** its hash. Only a label without a hash, where there are no links, is away for a moment. */
static bool swap_by_links(int base, char *temporary, int folder, const char *name,
                          const char *old) {
  char kept[TR_TEMPORARY_LABEL];
  struct stat st;
  bool is_there = fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
  int errnum;
  if (is_there && S_ISDIR(st.st_mode)) {
    errno = EISDIR;
    return false;
  }
  if (!is_there && errno != ENOENT)
    return false;
  snprintf(kept, sizeof kept, "%s.old", temporary);
  if (is_there && linkat(folder, name, base, kept, 0) != 0 &&
      !(old[0] != '\0' ? tr_file_write_new(base, kept, old, strlen(old), false)
                       : renameat(folder, name, base, kept) == 0))
    return false;
  if (renameat(base, temporary, folder, name) == 0) {
    strcpy(temporary, is_there ? kept : "");
    return true;
  }
  errnum = errno;
  /* The same file under both names stays under both. */
  if (is_there && renameat(base, kept, folder, name) == 0)
    unlinkat(base, kept, 0);
  errno = errnum;
  return false;
}

/*
** Give a temporary file the name of a label in the open folder, and keep what lay there:
** 'temporary' gets the name that this has now in the base folder, or is empty. False with
** errno.
*/
static bool swap(int base, char *temporary, int folder, const char *name,
                 const char *old) {
  struct stat st;
  int placed = 0, tries = 8;
  while (placed == 0 && tries-- > 0) {
    if (renameat2(base, temporary, folder, name, RENAME_EXCHANGE) == 0) {
      if (fstatat(base, temporary, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(st.st_mode))
        return true;
      renameat2(base, temporary, folder, name, RENAME_EXCHANGE);
      errno = EISDIR;
      return false;
    }
    if (errno == EINVAL || errno == ENOSYS) /* NFS */
      return swap_by_links(base, temporary, folder, name, old);
    if (errno != ENOENT)
      return false;
    placed = tr_file_place(base, temporary, folder, name); /* there was none */
  }
  if (placed == 1)
    temporary[0] = '\0';
  return placed == 1;
}

/* Give a temporary file the name of a label, whose hash was 'old'. As tr_store_place_label. */
static bool rename_to_label(int base, char *temporary, int folder, const char *name,
                            const char *old, bool keep) {
  return keep ? swap(base, temporary, folder, name, old)
              : renameat(base, temporary, folder, name) == 0;
}

bool tr_store_place_label(const tr_store *store, int base, const char *label,
                          const char *hash, char *temporary, bool keep,
                          tr_error *error) {
  char old[TR_HEX_MAX];
  const char *name;
  tr_error ignored;
  int folder, errnum, holds;
  bool ok;
  holds = tr_store_label_at(base, label, false, old, &ignored);
  if (holds != 1)
    old[0] = '\0';
  if (holds == 0)
    tr_store_forget(base, label); /* what a label of this name was before it was removed */
  /* First, so that no crash loses it. */
  if (old[0] != '\0' && strcmp(old, hash) != 0 && !tr_store_remember(store, base, label, old, error))
    return false;
  folder = tr_store_open_label_folder(base, label, TR_MAKING, &name);
  ok = folder >= 0 && rename_to_label(base, temporary, folder, name, old, keep);
  if (!ok && folder >= 0 && errno == EISDIR) /* a crash may leave such a folder */
    ok = remove_empty(folder, name, 0)
             ? rename_to_label(base, temporary, folder, name, old, keep)
             : (errno = EISDIR, false);
  errnum = errno;
  if (folder >= 0)
    close(folder);
  if (ok) {
    spare(store, base, old);
    return true;
  }
  tr_store_prune(base, label);
  label_errno(error, errnum, "Failed to write label", label);
  return false;
}

bool tr_store_put_back(int base, const char *label, const char *kept, tr_error *error) {
  const char *name;
  int folder = tr_store_open_label_folder(base, label, TR_WRITING, &name);
  bool ok = folder >= 0 && (kept[0] == '\0' ? unlinkat(folder, name, 0)
                                             : renameat(base, kept, folder, name)) == 0;
  if (!ok)
    tr_error_errno(error, errno, "Failed to put back label", label);
  if (folder >= 0)
    close(folder);
  tr_store_prune(base, label);
  return ok;
}

/*
** Sync the folders of a label that was moved or removed, as far down as they are
** there: what is not was removed together with its last label. False with the error.
*/
static bool sync_label(const tr_store *store, int base, const char *label,
                       tr_error *error) {
  const char *part = "labels", *rest = label;
  char room[TR_MAX_PART + 1];
  int fd = store->options.durable ? fcntl(base, F_DUPFD_CLOEXEC, 0) : -1;
  bool ok = fd >= 0;
  if (!store->options.durable)
    return true;
  while (ok && part != NULL) {
    int inner = tr_store_open_subfolder(fd, part, false);
    if (inner < 0) {
      ok = errno == ENOENT || errno == ENOTDIR;
      break;
    }
    ok = tr_store_sync_name(store, fd, inner);
    close(fd);
    fd = inner;
    part = tr_store_next_folder(&rest, room);
  }
  ok = ok && fsync(fd) == 0 && tr_store_sync_history(store, base, label);
  if (!ok)
    tr_error_errno(error, errno, "Failed to sync label", label);
  if (fd >= 0)
    close(fd);
  return ok;
}

/* Check that a label has the hash its mover expects: 1, 0 or -1. Be 'patient' only
** without the lock. */
static int as_expected(int base, const char *label, const char *expect, bool patient,
                       tr_error *error) {
  char hash[TR_HEX_MAX], normal[TR_HEX_MAX] = "";
  if (expect == NULL)
    return 1;
  if (expect[0] != '\0' && !tr_normal_hash(expect, normal, error))
    return -1;
  if (tr_store_label_at(base, label, patient, hash, error) < 0)
    return -1;
  return strcmp(hash, normal) == 0;
}

/* Move a label to what a temporary file in the open base holds. As tr_store_label. */
static int move_label(const tr_store *store, int base, const char *label,
                      const char *hash, char *temporary,
                      const char *expect, tr_error *error) {
  tr_store unsynced = tr_store_unsynced(store);
  int moved, lock = tr_store_lock_folder(store, base, error);
  if (lock < 0)
    return -1;
  moved = content_is_there(&unsynced, base, hash, error)
              ? as_expected(base, label, expect, false, error)
              : -1;
  if (moved == 1 &&
      !tr_store_place_label(store, base, label, hash, temporary, false, error))
    moved = -1;
  tr_store_unlock(lock);
  return moved;
}

/* Write a temporary file and move a label to it. As tr_store_label. */
static int write_label(const tr_store *store, int base, const char *label,
                       const char *hash, const char *expect, tr_error *error) {
  char temporary[TR_TEMPORARY];
  int moved, tries = 8;
  do {
    if (!tr_file_write_temporary(base, temporary, hash, strlen(hash),
                                 store->options.durable)) {
      tr_error_errno(error, errno, "Failed to write label", label);
      return -1;
    }
    moved = move_label(store, base, label, hash, temporary, expect, error);
    /* A gc without a grace period may have deleted the temporary file. */
  } while (moved < 0 && error->errnum == ENOENT && --tries > 0 &&
           faccessat(base, temporary, F_OK, AT_SYMLINK_NOFOLLOW) != 0);
  if (moved != 1)
    unlinkat(base, temporary, 0);
  return moved;
}

/* As tr_store_label. */
static int set_label(tr_store *store, const char *label, const char *hash,
                     const char *expect, tr_error *error) {
  tr_store call = tr_store_for_call(store);
  char normal[TR_HEX_MAX];
  int base, moved = -1;
  if (!tr_store_check_new_label(label, error) ||
      !tr_normal_hash(hash, normal, error))
    return -1;
  base = tr_store_open_base(store, error);
  if (base < 0 && error->kind != TR_NOT_FOUND)
    return -1;
  /* Before the lock, where it may be synced, and again under it. */
  if (content_is_there(&call, base, normal, error))
    moved = as_expected(base, label, expect, true, error);
  if (moved == 1) {
    tr_store_spare_label(&call, base, label);
    moved = write_label(&call, base, label, normal, expect, error);
  }
  if (moved == 1 && !sync_label(store, base, label, error))
    moved = -1;
  if (base >= 0)
    close(base);
  return moved;
}

int tr_store_label(tr_store *store, const char *label, const char *hash,
                   const char *expect, tr_error *error) {
  int moved;
  error = tr_error_or_ignored(error);
  moved = set_label(store, label, hash, expect, error);
  tr_count_store(TR_STORE_LABEL, moved >= 0, error);
  return moved;
}

/* Remove a label's file under the lock: as tr_store_remove_label. */
static int unlink_label(const tr_store *store, int base, const char *label,
                        tr_error *error) {
  char old[TR_HEX_MAX];
  const char *name;
  tr_error ignored;
  int folder, removed = -1;
  if (tr_store_label_at(base, label, false, old, &ignored) != 1)
    old[0] = '\0';
  folder = tr_store_open_label_folder(base, label, TR_WRITING, &name);
  if (folder >= 0 && unlinkat(folder, name, 0) == 0)
    removed = 1;
  else if (errno == ENOENT || errno == ENOTDIR || errno == EISDIR)
    removed = 0;
  else
    tr_error_errno(error, errno, "Failed to remove label", label);
  if (folder >= 0)
    close(folder);
  if (removed == 1) {
    spare(store, base, old);
    tr_store_forget(base, label);
    tr_store_prune(base, label);
  }
  return removed;
}

/* As tr_store_remove_label. */
static int remove_label(tr_store *store, const char *label, const char *only_if,
                        tr_error *error) {
  int base, lock, removed;
  if (!tr_store_check_label(label, error))
    return -1;
  base = tr_store_open_base(store, error);
  if (base >= 0) {
    tr_store_spare_label(store, base, label);
    close(base);
  }
  lock = tr_store_lock(store, error);
  if (lock < 0)
    return error->kind == TR_NOT_FOUND ? 0 : -1;
  removed = as_expected(lock, label, only_if, false, error);
  if (removed == 1)
    removed = unlink_label(store, lock, label, error);
  tr_unlock_file(lock);
  if (removed == 1 && !sync_label(store, lock, label, error))
    removed = -1;
  close(lock);
  return removed;
}

int tr_store_remove_label(tr_store *store, const char *label,
                          const char *only_if, tr_error *error) {
  int removed;
  error = tr_error_or_ignored(error);
  removed = remove_label(store, label, only_if, error);
  tr_count_store(TR_STORE_UNLABEL, removed >= 0, error);
  return removed;
}
