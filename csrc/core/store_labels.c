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
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "store.h"

enum {
  MAX_LABEL = 4000, /* leaves room for the folders above, within PATH_MAX */
  MAX_PART = 255,   /* what file systems take for one name */
  MAX_DEPTH = 128   /* of label folders */
};

const char *tr_label_fault(const char *label) {
  const char *part = label, *p;
  int depth = 0;
  if (*label == '\0')
    return "it is empty";
  if (*label == '/')
    return "it starts with '/'";
  if (strlen(label) > MAX_LABEL)
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
    if (len > MAX_PART)
      return "a part is longer than 255 bytes";
    if (++depth > MAX_DEPTH)
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

/*
** Opens the folder below the open base that a label's file lies in and points
*'*name' at the file's
** name, the last part of the label. -1 with errno on failure.
*/
static int open_label_folder(const tr_store *store, int base, const char *label,
                             bool make, const char **name) {
  int fd = tr_store_open_subfolder(store, base, "labels", make);
  const char *slash;
  while (fd >= 0 && (slash = strchr(label, '/')) != NULL) {
    char part[MAX_PART + 1];
    size_t len = (size_t)(slash - label);
    int inner, errnum;
    memcpy(part, label, len);
    part[len] = '\0';
    inner = tr_store_open_subfolder(store, fd, part, make);
    errnum = errno;
    close(fd);
    errno = errnum;
    fd = inner;
    label = slash + 1;
  }
  *name = label;
  return fd;
}

/* An error about a label, from errno. */
static void label_errno(tr_error *error, int errnum, const char *what,
                        const char *label) {
  if (errnum == ENOTDIR || errnum == EISDIR || errnum == ENOTEMPTY)
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "%s '%s': it and another label would need one name to be "
                 "both a label and a folder of labels; rename one of them",
                 what, label);
  else
    tr_error_errno(error, errnum, what, label);
}

/* The hash in an open label file: 1, 0 when it is blank, or -1. */
static int parse_label(int fd, const char *label, char hash[TR_HEX_MAX],
                       tr_error *error) {
  char text[256];
  size_t len = 0, start = 0;
  ssize_t n;
  while (len < sizeof text &&
         (n = read(fd, text + len, sizeof text - len)) != 0) {
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EISDIR)
      return 0; /* a folder of labels is no label */
    if (n < 0) {
      tr_error_errno(error, errno, "Failed to read label", label);
      return -1;
    }
    len += (size_t)n;
  }
  while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL)
    len--; /* Theater trims as well */
  while (start < len && strchr(" \t\r\n", text[start]) != NULL)
    start++;
  len -= start;
  if (len == 0)
    return 0;
  if (len < TR_HEX_MAX) {
    char found[TR_HEX_MAX];
    memcpy(found, text + start, len);
    found[len] = '\0';
    if (strlen(found) == len && tr_hex_valid(found))
      return tr_normal_hash(found, hash, error) ? 1 : -1;
  }
  tr_error_set(error, TR_CORRUPT,
               "Label '%s' does not hold a hash; label the content again",
               label);
  return -1;
}

/* The hash of a sound label below the open base: as tr_store_get_label. */
static int read_label(const tr_store *store, int base, const char *label,
                      char hash[TR_HEX_MAX], tr_error *error) {
  const char *name;
  int folder, fd = -1, found = -1;
  folder = open_label_folder(store, base, label, false, &name);
  if (folder >= 0)
    fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd >= 0)
    found = parse_label(fd, label, hash, error);
  else if (errno == ENOENT || errno == ENOTDIR)
    found = 0;
  else
    tr_error_errno(error, errno, "Failed to read label", label);
  if (fd >= 0)
    close(fd);
  if (folder >= 0)
    close(folder);
  return found;
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
  found = read_label(store, base, label, hash, error);
  close(base);
  return found;
}

/* ----------------------------------------------------------------- moving */

bool tr_store_place_label(tr_store *store, int base, const char *label,
                          const char *temporary, tr_error *error) {
  const char *name;
  int folder = open_label_folder(store, base, label, true, &name);
  bool ok = folder >= 0 && renameat(base, temporary, folder, name) == 0 &&
            (!store->options.durable || fsync(folder) == 0);
  if (!ok)
    label_errno(error, errno, "Failed to write label", label);
  if (folder >= 0)
    close(folder);
  return ok;
}

bool tr_store_freshen_labelled(tr_store *store, int data, const char *hash,
                               tr_error *error) {
  int fresh =
      data < 0 ? 0 : tr_store_freshen(store, data, hash, SIZE_MAX, error);
  if (fresh == 0)
    tr_error_set(error, TR_NOT_FOUND,
                 "Content does not exist: %s (put it before you label it)",
                 hash);
  return fresh == 1;
}

/* The same, below the open base. */
static bool content_is_there(tr_store *store, int base, const char *hash,
                             tr_error *error) {
  int data = tr_store_open_subfolder(store, base, "data", false);
  bool there = tr_store_freshen_labelled(store, data, hash, error);
  if (data >= 0)
    close(data);
  return there;
}

/* Check that a label has the hash its mover expects: 1, 0 or -1. */
static int as_expected(tr_store *store, int base, const char *label,
                       const char *expect, tr_error *error) {
  char hash[TR_HEX_MAX], normal[TR_HEX_MAX] = "";
  int found;
  if (expect == NULL)
    return 1;
  if (expect[0] != '\0' && !tr_normal_hash(expect, normal, error))
    return -1;
  found = read_label(store, base, label, hash, error);
  if (found < 0)
    return -1;
  return strcmp(found ? hash : "", normal) == 0;
}

/* Writes a label's file, synced as the store is, and puts it in place. */
static bool write_label(tr_store *store, int base, const char *label,
                        const char *hash, tr_error *error) {
  char temporary[TR_TEMPORARY];
  if (!tr_file_write_temporary(base, temporary, hash, strlen(hash),
                               store->options.durable)) {
    tr_error_errno(error, errno, "Failed to write label", label);
    return false;
  }
  if (tr_store_place_label(store, base, label, temporary, error))
    return true;
  unlinkat(base, temporary, 0);
  return false;
}

int tr_store_label(tr_store *store, const char *label, const char *hash,
                   const char *expect, tr_error *error) {
  char normal[TR_HEX_MAX];
  int base, moved;
  error = tr_error_or_ignored(error);
  if (!tr_store_check_label(label, error) ||
      !tr_normal_hash(hash, normal, error))
    return -1;
  base = tr_store_lock(store, false, error);
  if (base < 0) {
    if (error->kind == TR_NOT_FOUND)
      content_is_there(store, -1, normal, error); /* says that it is not */
    return -1;
  }
  moved = content_is_there(store, base, normal, error)
              ? as_expected(store, base, label, expect, error)
              : -1;
  if (moved == 1 && !write_label(store, base, label, normal, error))
    moved = -1;
  close(base);
  return moved;
}

/* Removes the folders above a removed label that are empty now. */
static void prune(const tr_store *store, int base, const char *label) {
  char *path = strdup(label), *slash;
  while (path != NULL && (slash = strrchr(path, '/')) != NULL) {
    const char *name;
    int folder;
    *slash = '\0';
    folder = open_label_folder(store, base, path, false, &name);
    if (folder < 0 || unlinkat(folder, name, AT_REMOVEDIR) != 0)
      *path = '\0'; /* not empty: done */
    if (folder >= 0)
      close(folder);
  }
  free(path);
}

/* Removes a label's file: as tr_store_remove_label. */
static int unlink_label(tr_store *store, int base, const char *label,
                        tr_error *error) {
  const char *name;
  int folder = open_label_folder(store, base, label, false, &name);
  int removed = -1;
  if (folder >= 0 && unlinkat(folder, name, 0) == 0 &&
      (!store->options.durable || fsync(folder) == 0))
    removed = 1;
  else if (errno == ENOENT || errno == ENOTDIR || errno == EISDIR)
    removed = 0;
  else
    tr_error_errno(error, errno, "Failed to remove label", label);
  if (folder >= 0)
    close(folder);
  if (removed == 1)
    prune(store, base, label);
  return removed;
}

int tr_store_remove_label(tr_store *store, const char *label,
                          const char *only_if, tr_error *error) {
  int base, removed;
  error = tr_error_or_ignored(error);
  if (!tr_store_check_label(label, error))
    return -1;
  base = tr_store_lock(store, false, error);
  if (base < 0)
    return error->kind == TR_NOT_FOUND ? 0 : -1;
  removed = as_expected(store, base, label, only_if, error);
  if (removed == 1)
    removed = unlink_label(store, base, label, error);
  close(base);
  return removed;
}

/* A walk over label folders. */
typedef struct walk {
  tr_store *store;
  tr_store_visit visit;
  void *context;
  tr_error *error;
  char path[MAX_LABEL + MAX_PART + 2];
} walk;

static bool is_dots(const char *name) {
  return name[0] == '.' &&
         (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static bool walk_labels(walk *w, int fd, size_t len, int depth);

/* Visits what lies in a folder of the open one. One that cannot be looked into
** is an error: what nobody sees, gc would take for unlabelled. */
static bool walk_inner(walk *w, int fd, const char *name, size_t len,
                       int depth) {
  size_t name_len = strlen(name);
  int inner = -1;
  errno = ELOOP;
  if (depth < MAX_DEPTH)
    inner = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (inner < 0 && errno == ENOENT)
    return true; /* its last label was just removed */
  if (inner < 0) {
    tr_error_errno(w->error, errno, "Failed to list labels in", w->path);
    return false;
  }
  w->path[len + name_len] = '/';
  return walk_labels(w, inner, len + name_len + 1, depth + 1);
}

/* Visits what lies in an open folder, which it closes. 'len' is that of the
** folder's path with its '/'. False: stopped, with the error or by 'visit'. */
static bool walk_labels(walk *w, int fd, size_t len, int depth) {
  DIR *folder = fdopendir(fd);
  struct dirent *item;
  bool ok = folder != NULL;
  if (folder == NULL) {
    tr_error_errno(w->error, errno, "Failed to list labels in", w->store->base);
    close(fd);
    return false;
  }
  while (ok && (errno = 0, item = readdir(folder)) != NULL) {
    size_t name_len = strlen(item->d_name);
    struct stat st;
    if (is_dots(item->d_name) || len + name_len > MAX_LABEL ||
        fstatat(fd, item->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    memcpy(w->path + len, item->d_name, name_len + 1);
    if (S_ISREG(st.st_mode)) {
      ok = w->visit(w->context, w->path, 0);
    } else if (S_ISDIR(st.st_mode)) {
      ok = walk_inner(w, fd, item->d_name, len, depth);
    }
  }
  if (ok && errno != 0) {
    tr_error_errno(w->error, errno, "Failed to list labels in", w->store->base);
    ok = false;
  }
  closedir(folder);
  return ok;
}

bool tr_store_each_label(tr_store *store, tr_store_visit visit, void *context,
                         tr_error *error) {
  error = tr_error_or_ignored(error);
  walk w = {.store = store, .visit = visit, .context = context, .error = error};
  int fd = tr_store_open_listing(store, "labels", error);
  if (fd < 0)
    return error->kind == TR_OK;
  return walk_labels(&w, fd, 0, 0) || error->kind == TR_OK;
}
