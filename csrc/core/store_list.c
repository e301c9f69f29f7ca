/*
** Listings of a store. Only what is absent is left out of them without a word: what
** nobody sees, gc would delete.
*/
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "store.h"

/* ---------------------------------------------------------------- files */

/* Visit what is of a type (S_IFREG, S_IFDIR; 0: any) in a folder, with a name of the right
** sort. */
static bool each_stat(const tr_store *store, const char *where, mode_t type,
                      bool (*right)(const char *name), tr_store_visit_stat visit,
                      void *context, tr_error *error) {
  int fd = tr_store_open_listing(store, where, false, error), errnum = 0;
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
    if (!right(item->d_name))
      continue;
    if (fstatat(fd, item->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT)
        continue; /* deleted meanwhile */
      break;
    }
    going = (type != 0 && (st.st_mode & S_IFMT) != type) || visit(context, item->d_name, &st);
  }
  if (going)
    errnum = errno;
  if (errnum != 0) {
    tr_error_errno(error, errnum, "Failed to list", store->base);
    error->kind = TR_IO;
  }
  closedir(folder);
  return errnum == 0;
}

/* The caller's visitor, who wants sizes. */
typedef struct sizes {
  tr_store_visit visit;
  void *context;
} sizes;

static bool visit_size(void *context, const char *name, const struct stat *st) {
  sizes *s = context;
  bool fits = (uintmax_t)st->st_size <= SIZE_MAX;
  return s->visit(s->context, name, fits ? (size_t)st->st_size : SIZE_MAX);
}

static bool each_file(const tr_store *store, const char *where,
                      bool (*right)(const char *name), tr_store_visit visit,
                      void *context, tr_error *error) {
  sizes s = {visit, context};
  return each_stat(store, where, S_IFREG, right, visit_size, &s, error);
}

typedef struct times {
  tr_store_visit_time visit;
  void *context;
} times;

static bool visit_time(void *context, const char *name, const struct stat *st) {
  times *t = context;
  return t->visit(t->context, name, tr_modified(st));
}

/* True for the name of a content file: a hash in lower case. In capitals it would be that
** of another file, whose content nobody finds. */
static bool is_content_name(const char *name) {
  return tr_hex_valid(name) && strpbrk(name, "ABCDEF") == NULL;
}

bool tr_store_each_time(const tr_store *store, tr_store_visit_time visit,
                        void *context, tr_error *error) {
  times t = {visit, context};
  return each_stat(store, "data", S_IFREG, is_content_name, visit_time, &t, error);
}

bool tr_store_each_stat(const tr_store *store, tr_store_visit_stat visit, void *context,
                        tr_error *error) {
  return each_stat(store, "data", S_IFREG, is_content_name, visit, context, error);
}

bool tr_store_each_content(tr_store *store, tr_store_visit visit, void *context,
                           tr_error *error) {
  error = tr_error_or_ignored(error);
  return each_file(store, "data", is_content_name, visit, context, error);
}

static bool is_item(const char *name) { return !tr_is_dots(name); }

static bool visit_no_content(void *context, const char *name, const struct stat *st) {
  return (S_ISREG(st->st_mode) && is_content_name(name)) || visit_size(context, name, st);
}

bool tr_store_each_unexpected(tr_store *store, tr_store_visit visit, void *context,
                              tr_error *error) {
  sizes s = {visit, context};
  return each_stat(store, "data", 0, is_item, visit_no_content, &s, error);
}

bool tr_is_temporary(const char *name) {
  return strncmp(name, ".tmp-", 5) == 0 && strchr(name, '/') == NULL;
}

bool tr_store_each_temporary(tr_store *store, tr_store_visit visit,
                             void *context, tr_error *error) {
  error = tr_error_or_ignored(error);
  return each_file(store, ".", tr_is_temporary, visit, context, error);
}

bool tr_store_each_history(const tr_store *store, tr_store_visit visit,
                           void *context, tr_error *error) {
  return each_file(store, "history", is_content_name, visit, context, error);
}

static bool any_name(const char *name) { return name[0] != '.'; }

bool tr_store_each_quarantined(tr_store *store, tr_store_visit visit,
                               void *context, tr_error *error) {
  error = tr_error_or_ignored(error);
  return each_file(store, "corrupt", any_name, visit, context, error);
}

bool tr_store_each_folder(tr_store *store, tr_store_visit visit, void *context,
                          tr_error *error) {
  sizes s = {visit, context};
  return each_stat(store, ".", S_IFDIR, any_name, visit_size, &s, error);
}

/* ---------------------------------------------------------------- labels */

/* A walk over label folders. */
typedef struct walk {
  const tr_store *store;
  /* Called for each item at 'path' that is no folder to go into: the file 'name' in
  ** the open folder, or something odd, with what it is. */
  bool (*visit)(struct walk *w, int folder, const char *name, const char *odd);
  union {
    tr_store_visit label;
    tr_store_visit_label hash;
  } visitor;
  void *context;
  tr_error *error;
  /* Room for a folder, its '/' and a part that is too long, which is cut short: some
  ** file systems have longer names. */
  char path[TR_MAX_LABEL + 1 + TR_MAX_PART + 2];
} walk;

static bool walk_labels(walk *w, int fd, size_t len, int depth);

static bool walk_failed(walk *w, int errnum) {
  tr_error_errno(w->error, errnum, "Failed to list labels in",
                 w->path[0] != '\0' ? w->path : w->store->base);
  w->error->kind = TR_IO;
  return false;
}

/* Go into a folder of the open one. One that cannot be looked into is an error: what
** nobody sees, gc would take for unlabelled. */
static bool walk_inner(walk *w, int fd, const char *name, size_t end,
                       int depth) {
  int inner = tr_store_open_subfolder(fd, name, false);
  if (inner < 0 && errno == ENOENT)
    return true; /* its last label was just removed */
  if (inner < 0)
    return walk_failed(w, errno);
  w->path[end] = '/';
  return walk_labels(w, inner, end + 1, depth + 1);
}

/* Visit an item of the open folder, whose path ends at 'len'. */
static bool walk_item(walk *w, int fd, const char *name, size_t len, int depth) {
  size_t end = len + strlen(name);
  struct stat st;
  const char *odd;
  if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT || walk_failed(w, errno);
  snprintf(w->path + len, sizeof w->path - len, "%s", name);
  odd = tr_label_fault(w->path);
  if (odd == NULL && S_ISLNK(st.st_mode))
    odd = "it is a symbolic link";
  else if (odd == NULL && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
    odd = "it is neither a file nor a folder";
  else if (odd == NULL && S_ISDIR(st.st_mode) && depth + 1 == TR_MAX_DEPTH)
    odd = "labels in it would have more than 128 parts";
  else if (odd == NULL && S_ISDIR(st.st_mode))
    return walk_inner(w, fd, name, end, depth);
  return w->visit(w, fd, name, odd);
}

/* Visit what lies in an open folder, which it closes. 'len' is that of the
** folder's path with its '/'. False: stopped, with the error or by 'visit'. */
static bool walk_labels(walk *w, int fd, size_t len, int depth) {
  DIR *folder = fdopendir(fd);
  struct dirent *item;
  bool ok = true;
  if (folder == NULL) {
    int errnum = errno;
    close(fd);
    return walk_failed(w, errnum);
  }
  while (ok && (errno = 0, item = readdir(folder)) != NULL)
    ok = tr_is_dots(item->d_name) || walk_item(w, fd, item->d_name, len, depth);
  if (ok && errno != 0)
    ok = walk_failed(w, errno);
  closedir(folder);
  return ok;
}

/* Walk over all labels; true if nothing failed. */
static bool walk_all(walk *w) {
  const struct stat *held = &w->store->held_labels;
  int fd = tr_store_open_listing(w->store, "labels", true, w->error);
  struct stat st = {0};
  if (w->error->kind == TR_OK && held->st_ino != 0 &&
      (fd < 0 || fstat(fd, &st) != 0 || st.st_ino != held->st_ino || st.st_dev != held->st_dev))
    tr_error_set(w->error, TR_IO,
                 "Failed to list %s/labels: it was moved away or mounted meanwhile; try again",
                 w->store->base);
  if (fd >= 0 && w->error->kind == TR_OK)
    walk_labels(w, fd, 0, 0);
  else if (fd >= 0)
    close(fd);
  return w->error->kind == TR_OK;
}

static bool visit_label(walk *w, int folder, const char *name, const char *odd) {
  (void)folder, (void)name, (void)odd;
  return w->visitor.label(w->context, w->path, 0);
}

bool tr_store_each_label(tr_store *store, tr_store_visit visit, void *context,
                         tr_error *error) {
  walk w = {.store = store, .visit = visit_label, .context = context};
  w.visitor.label = visit;
  w.error = tr_error_or_ignored(error);
  return walk_all(&w);
}

static bool visit_hash(walk *w, int folder, const char *name, const char *odd) {
  char hash[TR_HEX_MAX];
  tr_error why;
  if (odd == NULL) {
    tr_holding holds = tr_store_read_label(folder, name, w->path, true, hash, &why);
    if (holds == TR_ABSENT) /* removed meanwhile */
      return true;
    if (holds == TR_HASH)
      return w->visitor.hash(w->context, w->path, hash, NULL);
    if (holds == TR_FAULTY && why.kind != TR_CORRUPT) {
      *w->error = why;
      return false;
    }
    odd = holds == TR_BLANK ? "it is blank" : why.message;
  }
  return w->visitor.hash(w->context, w->path, NULL, odd);
}

bool tr_store_each_label_hash(const tr_store *store, tr_store_visit_label visit,
                              void *context, tr_error *error) {
  walk w = {.store = store, .visit = visit_hash, .context = context};
  struct stat st;
  int base;
  w.visitor.hash = visit;
  w.error = error;
  base = tr_store_open_listing(store, ".", true, error);
  if (base < 0)
    return error->kind == TR_OK;
  if (fstatat(base, "labels", &st, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISLNK(st.st_mode))
    visit(context, "", NULL, "the folder labels/ is a symbolic link");
  close(base);
  return walk_all(&w);
}
