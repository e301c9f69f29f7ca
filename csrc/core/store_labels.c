/*
** The store's labels: names for content, each a small file that holds a
** hash. The '/' in a label makes folders, as Theater does it.
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

#include "error.h"
#include "file.h"
#include "store.h"

const char *tr_label_fault(const char *label) {
  const char *part = label, *p;
  int depth = 0;
  if (*label == '\0')
    return "it is empty";
  if (*label == '/')
    return "it starts with '/'";
  if (strlen(label) > TR_MAX_LABEL)
    return "it is longer than 4000 bytes";
  for (p = label;; p++) {
    size_t len = (size_t)(p - part);
    if (*p != '\0' && ((unsigned char)*p < 0x20 || *p == 0x7F))
      return "it has a control character in it";
    if (*p != '\0' && *p != '/')
      continue;
    if (len == 0)
      return "a part between '/' is empty";
    if (part[0] == '.' && (len == 1 || (len == 2 && part[1] == '.')))
      return "a part is '.' or '..'";
    if (len > TR_MAX_PART)
      return "a part is longer than 255 bytes";
    if (++depth > TR_MAX_DEPTH)
      return "it has more than 128 parts";
    if (*p == '\0')
      return NULL;
    part = p + 1;
  }
}

bool tr_store_check_label(const char *label, tr_error *error) {
  const char *fault = tr_label_fault(label);
  if (fault != NULL)
    tr_error_set(error, TR_INVALID_REFERENCE, "Invalid label '%s': %s", label,
                 fault);
  return fault == NULL;
}

bool tr_store_check_new_label(const char *label, tr_error *error) {
  if (strncmp(label, "hash/", 5) == 0) {
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "Invalid label '%s': it starts with 'hash/', so that every "
                 "reference to it would name content by its hash",
                 label);
    return false;
  }
  return tr_store_check_label(label, error);
}

/* Copy the folder that a label's rest begins with to 'room', and step over it. NULL if
** only the file's name is left. */
static const char *next_folder(const char **rest, char room[TR_MAX_PART + 1]) {
  const char *slash = strchr(*rest, '/');
  if (slash == NULL)
    return NULL;
  memcpy(room, *rest, (size_t)(slash - *rest));
  room[slash - *rest] = '\0';
  *rest = slash + 1;
  return room;
}

/*
** Open the folder below the open base that a label's file lies in, and point '*name'
** at the file's name, the last part of the label. Readers follow symbolic links to
** folders, as Theater does. -1 with errno.
*/
enum how { READING, WRITING, MAKING };

static int open_label_folder(int base, const char *label, enum how how,
                             const char **name) {
  const char *part = "labels";
  char room[TR_MAX_PART + 1];
  int fd = fcntl(base, F_DUPFD_CLOEXEC, 0);
  *name = label;
  while (fd >= 0 && part != NULL) {
    int inner = how == MAKING
                    ? tr_store_make_subfolder(fd, part)
                    : tr_store_open_subfolder(fd, part, how == READING);
    int errnum = errno;
    close(fd);
    errno = errnum;
    fd = inner;
    part = next_folder(name, room);
  }
  return fd;
}

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

static tr_holding not_a_hash(const char *label, tr_error *error) {
  tr_error_set(error, TR_CORRUPT,
               "Label '%s' does not hold a hash; label the content again",
               label);
  return TR_FAULTY;
}

/* Read an open label file. */
static tr_holding parse_label(int fd, const char *label, char hash[TR_HEX_MAX],
                           tr_error *error) {
  char text[256];
  size_t len = 0, start = 0;
  struct stat st;
  ssize_t n;
  if (fstat(fd, &st) != 0) {
    tr_error_errno(error, errno, "Failed to read label", label);
    return TR_FAULTY;
  }
  if (S_ISDIR(st.st_mode))
    return TR_ABSENT; /* a folder of labels is no label */
  if (!S_ISREG(st.st_mode))
    return not_a_hash(label, error);
  while (len < sizeof text &&
         (n = read(fd, text + len, sizeof text - len)) != 0) {
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0) {
      tr_error_errno(error, errno, "Failed to read label", label);
      return TR_FAULTY;
    }
    len += (size_t)n;
  }
  while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL &&
         text[len - 1] != '\0')
    len--; /* Theater trims as well */
  while (start < len && strchr(" \t\r\n", text[start]) != NULL &&
         text[start] != '\0')
    start++;
  len -= start;
  if (len == 0)
    return TR_BLANK;
  if (len < TR_HEX_MAX) {
    char found[TR_HEX_MAX];
    memcpy(found, text + start, len);
    found[len] = '\0';
    if (strlen(found) == len && tr_hex_valid(found))
      return tr_normal_hash(found, hash, error) ? TR_HASH : TR_FAULTY;
  }
  return not_a_hash(label, error);
}

static tr_holding read_once(int folder, const char *name, const char *label,
                            char hash[TR_HEX_MAX], tr_error *error) {
  tr_holding holds;
  int fd = -1;
  if (folder >= 0)
    fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 && (errno == ENOENT || (errno == ENOTDIR && folder < 0)))
    return TR_ABSENT;
  if (fd < 0) {
    tr_error_errno(error, errno, "Failed to read label", label);
    return TR_FAULTY;
  }
  holds = parse_label(fd, label, hash, error);
  close(fd);
  return holds;
}

tr_holding tr_store_read_label(int folder, const char *name, const char *label,
                               char hash[TR_HEX_MAX], tr_error *error) {
  struct timespec pause = {.tv_nsec = 1000 * 1000};
  tr_holding holds;
  int tries = 100;
  while ((holds = read_once(folder, name, label, hash, error)) == TR_BLANK &&
         tries-- > 0)
    nanosleep(&pause, NULL);
  return holds;
}

int tr_store_label_at(int base, const char *label, char hash[TR_HEX_MAX],
                      tr_error *error) {
  const char *name;
  int folder = open_label_folder(base, label, READING, &name);
  tr_holding holds;
  hash[0] = '\0';
  holds = tr_store_read_label(folder, name, label, hash, error);
  if (folder >= 0)
    close(folder);
  if (holds != TR_BLANK)
    return (int)holds;
  tr_error_set(error, TR_CORRUPT,
               "Label '%s' is blank: its writer is not done, or crashed; label "
               "the content again",
               label);
  return -1;
}

int tr_store_get_label(tr_store *store, const char *label,
                       char hash[TR_HEX_MAX], tr_error *error) {
  int base, found;
  error = tr_error_or_ignored(error);
  if (!tr_store_check_label(label, error))
    return -1;
  base = tr_store_open_base(store, error);
  if (base < 0)
    return error->kind == TR_NOT_FOUND ? 0 : -1;
  found = tr_store_label_at(base, label, hash, error);
  close(base);
  return found;
}

tr_blob *tr_store_get_labelled(tr_store *store, const char *label,
                               tr_error *error) {
  char hash[TR_HEX_MAX], last[TR_HEX_MAX] = "";
  int found, tries = 100;
  error = tr_error_or_ignored(error);
  while ((found = tr_store_get_label(store, label, hash, error)) == 1) {
    tr_blob *blob = tr_store_get(store, hash, error);
    /* Missing: the label has been moved, and what it pointed at was deleted. */
    if (blob != NULL || error->kind != TR_NOT_FOUND ||
        strcmp(hash, last) == 0 || tries-- == 0)
      return blob;
    strcpy(last, hash);
  }
  if (found == 0)
    error->kind = TR_OK;
  return NULL;
}

/* ----------------------------------------------------------------- moving */

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
  if (tr_store_label_at(base, label, hash, &ignored) == 1)
    spare(store, base, hash);
}

bool tr_is_dots(const char *name) {
  return name[0] == '.' &&
         (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
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
    folder = open_label_folder(base, path, WRITING, &name);
    if (folder < 0 || unlinkat(folder, name, AT_REMOVEDIR) != 0)
      *path = '\0'; /* not empty: done */
    if (folder >= 0)
      close(folder);
  }
  free(path);
}

void tr_store_clear_place(int base, const char *label) {
  const char *name;
  int folder = open_label_folder(base, label, WRITING, &name);
  if (folder >= 0) {
    remove_empty(folder, name, 0);
    close(folder);
  }
}

bool tr_store_make_place(int base, const char *label, tr_error *error) {
  const char *name;
  struct stat st;
  int folder = open_label_folder(base, label, MAKING, &name);
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

bool tr_store_place_label(const tr_store *store, int base, const char *label,
                          const char *hash, const char *temporary, tr_error *error) {
  char old[TR_HEX_MAX];
  const char *name;
  tr_error ignored;
  int folder, errnum;
  bool ok;
  if (tr_store_label_at(base, label, old, &ignored) != 1)
    old[0] = '\0';
  /* First, so that no crash loses it. */
  if (old[0] != '\0' && strcmp(old, hash) != 0 && !tr_store_remember(store, base, label, old, error))
    return false;
  folder = open_label_folder(base, label, MAKING, &name);
  ok = folder >= 0 && renameat(base, temporary, folder, name) == 0;
  if (!ok && folder >= 0 && errno == EISDIR) /* a crash may leave such a folder */
    ok = remove_empty(folder, name, 0)
             ? renameat(base, temporary, folder, name) == 0
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
    part = next_folder(&rest, room);
  }
  ok = ok && fsync(fd) == 0 && tr_store_sync_history(store, base, label);
  if (!ok)
    tr_error_errno(error, errno, "Failed to sync label", label);
  if (fd >= 0)
    close(fd);
  return ok;
}

/* Check that a label has the hash its mover expects: 1, 0 or -1. */
static int as_expected(int base, const char *label, const char *expect,
                       tr_error *error) {
  char hash[TR_HEX_MAX], normal[TR_HEX_MAX] = "";
  if (expect == NULL)
    return 1;
  if (expect[0] != '\0' && !tr_normal_hash(expect, normal, error))
    return -1;
  if (tr_store_label_at(base, label, hash, error) < 0)
    return -1;
  return strcmp(hash, normal) == 0;
}

/* Move a label to what a temporary file in the open base holds. As tr_store_label. */
static int move_label(const tr_store *store, int base, const char *label,
                      const char *hash, const char *temporary,
                      const char *expect, tr_error *error) {
  tr_store unsynced = tr_store_unsynced(store);
  int moved, lock = tr_store_lock(store, error);
  if (lock < 0)
    return -1;
  moved = content_is_there(&unsynced, base, hash, error)
              ? as_expected(base, label, expect, error)
              : -1;
  if (moved == 1 &&
      !tr_store_place_label(store, base, label, hash, temporary, error))
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

int tr_store_label(tr_store *store, const char *label, const char *hash,
                   const char *expect, tr_error *error) {
  tr_store call = tr_store_for_call(store);
  char normal[TR_HEX_MAX];
  int base, moved = -1;
  error = tr_error_or_ignored(error);
  if (!tr_store_check_new_label(label, error) ||
      !tr_normal_hash(hash, normal, error))
    return -1;
  base = tr_store_open_base(store, error);
  if (base < 0 && error->kind != TR_NOT_FOUND)
    return -1;
  /* Before the lock, where it may be synced, and again under it. */
  if (content_is_there(&call, base, normal, error))
    moved = as_expected(base, label, expect, error);
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

/* Remove a label's file under the lock: as tr_store_remove_label. */
static int unlink_label(const tr_store *store, int base, const char *label,
                        tr_error *error) {
  char old[TR_HEX_MAX];
  const char *name;
  tr_error ignored;
  int folder, removed = -1;
  if (tr_store_label_at(base, label, old, &ignored) != 1)
    old[0] = '\0';
  folder = open_label_folder(base, label, WRITING, &name);
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

int tr_store_remove_label(tr_store *store, const char *label,
                          const char *only_if, tr_error *error) {
  int base, lock, removed;
  error = tr_error_or_ignored(error);
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
  removed = as_expected(lock, label, only_if, error);
  if (removed == 1)
    removed = unlink_label(store, lock, label, error);
  tr_unlock_file(lock);
  if (removed == 1 && !sync_label(store, lock, label, error))
    removed = -1;
  close(lock);
  return removed;
}
