/*
** The hashes that labels pointed at before. history/<SHA-256 of the label> has a line
** with the label, and then one for each hash, the newest last. A label that moves
** appends one line; gc removes the files of labels that are gone. Theater moves labels
** without a history: the hash that such a label held then is recorded by the next move
** here.
*/
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
  LONG = 16 << 10, /* bytes: so long a file is written anew, without its repetitions */
  TAIL = 64 << 10  /* bytes from the end that are read */
};

static const char FOLDER[] = "history";

/* The former hashes of a label: the newest first, none twice, and without the one that
** it points at. */
typedef struct former {
  char label[TR_MAX_LABEL + 1]; /* empty: a crash left no first line */
  bool is_there;                /* the label, or a fault in its place, or nobody knows */
  unsigned count;
  char hashes[TR_MAX_HISTORY][TR_HEX_MAX];
} former;

static void file_of(const char *label, char name[TR_HEX_MAX]) {
  tr_digest(TR_SHA256, label, strlen(label), name);
}

static ssize_t read_at(int fd, void *to, size_t size, off_t from) {
  ssize_t n;
  do
    n = pread(fd, to, size, from);
  while (n < 0 && errno == EINTR);
  return n;
}

static int open_regular(int folder, const char *name, int how, struct stat *st) {
  int fd = openat(folder, name, how | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd < 0 || (fstat(fd, st) == 0 && S_ISREG(st->st_mode)))
    return fd;
  close(fd);
  errno = EINVAL;
  return -1;
}

/* Open history/, and make it with the rights of labels/ if it is missing: who may move
** labels may record that. -1 with errno. */
static int make_folder(int base) {
  int folder = tr_store_open_subfolder(base, FOLDER, false);
  struct stat labels;
  if (folder >= 0 || errno != ENOENT)
    return folder;
  folder = tr_store_make_subfolder(base, FOLDER);
  if (folder >= 0 && fstatat(base, "labels", &labels, 0) == 0 && S_ISDIR(labels.st_mode)) {
    if (fchown(folder, (uid_t)-1, labels.st_gid) != 0)
      labels.st_mode &= ~(mode_t)070; /* for a group that this user is not in */
    if (fchmod(folder, labels.st_mode & 07777) != 0)
      errno = 0; /* its mode is that of any new folder */
  }
  return folder;
}

/* True if a file begins with its label. */
static bool has_label(int fd, const char *label) {
  char line[TR_MAX_LABEL + 1];
  size_t len = strlen(label);
  return read_at(fd, line, len + 1, 0) == (ssize_t)len + 1 && line[len] == '\n' &&
         memcmp(line, label, len) == 0;
}

/* Append a line to a file. A torn one would be left out by readers. False with errno. */
static bool append(int fd, off_t size, const char *hash) {
  char text[TR_HEX_MAX + 2], last = '\n';
  int len, errnum;
  if (read_at(fd, &last, 1, size - 1) != 1)
    return false;
  len = snprintf(text, sizeof text, "%s%s\n", last != '\n' ? "\n" : "", hash);
  if (tr_file_write_all(fd, text, (size_t)len))
    return true;
  errnum = errno;
  if (ftruncate(fd, size) != 0)
    errnum = errno;
  errno = errnum;
  return false;
}

bool tr_store_sync_history(const tr_store *store, int base, const char *label) {
  char name[TR_HEX_MAX];
  struct stat st;
  int folder, fd = -1;
  bool ok;
  if (store->options.label_history == 0)
    return true;
  file_of(label, name);
  folder = tr_store_open_subfolder(base, FOLDER, false);
  if (folder >= 0)
    fd = open_regular(folder, name, O_RDONLY, &st);
  /* It never moved, or this user may not record that. */
  ok = fd < 0 ? errno == ENOENT || errno == EACCES || errno == EPERM
              : tr_store_sync_name(store, base, folder) &&
                    tr_store_sync_name(store, folder, fd) && fsync(fd) == 0;
  if (fd >= 0)
    close(fd);
  if (folder >= 0)
    close(folder);
  return ok;
}

void tr_store_forget(int base, const char *label) {
  char name[TR_HEX_MAX];
  int folder = tr_store_open_subfolder(base, FOLDER, false);
  file_of(label, name);
  if (folder >= 0) {
    unlinkat(folder, name, 0);
    close(folder);
  }
}

/* Take the newest hash off a text of lines. The first line has none. */
static bool next_hash(char *text, char hash[TR_HEX_MAX]) {
  tr_error ignored;
  char *line;
  while ((line = strrchr(text, '\n')) != NULL) {
    *line = '\0';
    if (tr_normal_hash(line + 1, hash, &ignored))
      return true;
  }
  return false;
}

static void add_hash(former *f, const char *hash, const char *now) {
  unsigned i = 0;
  while (i < f->count && strcmp(f->hashes[i], hash) != 0)
    i++;
  if (i == f->count && strcmp(hash, now) != 0)
    strcpy(f->hashes[f->count++], hash);
}

/* An error from errno that nobody takes for a store without a history. */
static int unreadable(tr_error *error, const char *what) {
  tr_error_errno(error, errno, "Failed to read the history", what);
  error->kind = TR_IO;
  return -1;
}

/* Read the first line and the end of an open file, as texts. False with errno. */
static bool read_texts(int fd, off_t size, char label[TR_MAX_LABEL + 1],
                       char text[TAIL + 1]) {
  ssize_t n = read_at(fd, label, TR_MAX_LABEL, 0);
  if (n < 0)
    return false;
  label[n] = '\0';
  label[strcspn(label, "\n")] = '\0';
  n = read_at(fd, text, TAIL, size > TAIL ? size - TAIL : 0);
  if (n < 0)
    return false;
  text[n] = '\0';
  while (--n >= 0) /* zeros, which a crash leaves, end no text */
    text[n] = text[n] == '\0' ? ' ' : text[n];
  if (strrchr(text, '\n') != NULL)
    *strrchr(text, '\n') = '\0'; /* with what a crash left behind it */
  return true;
}

/* Read a file of the open folder history/. 1, 0 if it is absent, or -1 with the error. */
static int read_former(const tr_store *store, int base, int folder, const char *name,
                       former *f, tr_error *error) {
  char *text, hash[TR_HEX_MAX], now[TR_HEX_MAX] = "";
  struct stat st;
  tr_error ignored;
  bool ok;
  int fd = open_regular(folder, name, O_RDONLY, &st);
  if (fd < 0)
    return errno == ENOENT ? 0 : unreadable(error, name);
  text = malloc(TAIL + 1);
  ok = text != NULL && read_texts(fd, st.st_size, f->label, text);
  if (text == NULL)
    tr_error_nomem(error);
  else if (!ok)
    unreadable(error, name);
  close(fd);
  f->count = 0;
  if (ok) {
    file_of(f->label, hash);
    f->is_there = strcmp(hash, name) != 0 || /* a crash tore its line, but not the others */
                  (tr_label_fault(f->label) == NULL &&
                   tr_store_label_at(base, f->label, false, now, &ignored) != 0);
  }
  while (ok && f->count < store->options.label_history && next_hash(text, hash))
    add_hash(f, hash, now);
  free(text);
  return ok ? 1 : -1;
}

/* Write a file anew with what it has, each hash once, and a new one. False with errno. */
static bool rewrite(const tr_store *store, int base, int folder, const char *name,
                    const char *label, const char *hash) {
  char text[TR_MAX_LABEL + 2 + (TR_MAX_HISTORY + 1) * TR_HEX_MAX], temporary[TR_TEMPORARY];
  tr_store all = {.base = store->base, .options = store->options};
  size_t len = (size_t)sprintf(text, "%s\n", label);
  tr_error ignored;
  former f = {.count = 0};
  unsigned i;
  int errnum;
  all.options.label_history = TR_MAX_HISTORY; /* others may keep more than this store */
  if (read_former(&all, base, folder, name, &f, &ignored) < 0) {
    errno = ignored.errnum;
    return false;
  }
  for (i = f.count; i-- > 0;)
    len += (size_t)sprintf(text + len, "%s\n", f.hashes[i]);
  len += (size_t)sprintf(text + len, "%s\n", hash);
  if (!tr_file_write_temporary(base, temporary, text, len, false))
    return false;
  if (renameat(base, temporary, folder, name) == 0)
    return true;
  errnum = errno;
  unlinkat(base, temporary, 0);
  errno = errnum;
  return false;
}

/* Make a file with the rights of its folder: who may move labels may record that. False
** with errno. */
static bool create(int folder, const char *name, const char *label, const char *hash) {
  char text[TR_MAX_LABEL + TR_HEX_MAX + 2];
  int len = snprintf(text, sizeof text, "%s\n%s\n", label, hash);
  struct stat st;
  if (!tr_file_write_new(folder, name, text, (size_t)len, false))
    return false;
  if (fstat(folder, &st) != 0 || fchmodat(folder, name, st.st_mode & 0666, 0) != 0)
    errno = 0; /* its mode is that of any new file */
  return true;
}

/* Record a hash in the open folder history/. False with errno. */
static bool record(const tr_store *store, int base, int folder, const char *label,
                   const char *hash) {
  char name[TR_HEX_MAX];
  struct stat st;
  int fd;
  bool sound, ok;
  file_of(label, name);
  fd = open_regular(folder, name, O_RDWR | O_APPEND, &st);
  if (fd < 0 && errno == ENOENT)
    return create(folder, name, label, hash);
  if (fd < 0 && errno != EACCES && errno != EPERM)
    return false;
  sound = fd >= 0 && has_label(fd, label);
  ok = (!sound || st.st_size >= LONG) && rewrite(store, base, folder, name, label, hash);
  if (!ok && sound)
    ok = append(fd, st.st_size, hash);
  if (fd >= 0) {
    int errnum = errno;
    close(fd);
    errno = errnum;
  }
  return ok;
}

bool tr_store_remember(const tr_store *store, int base, const char *label,
                       const char *hash, tr_error *error) {
  int folder = store->options.label_history > 0 ? make_folder(base) : -1, errnum;
  bool ok;
  if (store->options.label_history == 0)
    return true;
  ok = folder >= 0 && record(store, base, folder, label, hash);
  errnum = errno;
  if (folder >= 0)
    close(folder);
  /* A user who may not write there may move labels all the same. */
  if (ok || errnum == EACCES || errnum == EPERM)
    return true;
  tr_error_errno(error, errnum, "Failed to write the history of label", label);
  return false;
}

/* A walk over the whole history. */
typedef struct walk {
  const tr_store *store;
  int base, folder;
  bool (*visit)(struct walk *w, const char *name, const former *f);
  tr_store_visit_label each; /* of the caller's */
  void *context;
  tr_error *error;
} walk;

/* Open the folders of a walk. 1, 0 if there is no history, or -1 with the error. */
static int open_walk(walk *w) {
  w->folder = -1;
  w->base = tr_store_open_base(w->store, w->error);
  if (w->base < 0 && w->error->kind == TR_NOT_FOUND)
    return 0;
  if (w->base < 0)
    return -1;
  w->folder = tr_store_open_subfolder(w->base, FOLDER, false);
  if (w->folder >= 0 || errno == ENOENT)
    return w->folder >= 0;
  return unreadable(w->error, w->store->base);
}

static void close_walk(walk *w) {
  if (w->folder >= 0)
    close(w->folder);
  if (w->base >= 0)
    close(w->base);
}

static bool visit_file(void *context, const char *name, size_t size) {
  walk *w = context;
  former f;
  int found = read_former(w->store, w->base, w->folder, name, &f, w->error);
  (void)size;
  return found >= 0 && (found == 0 || w->visit(w, name, &f));
}

static bool walk_history(walk *w) {
  int found = open_walk(w);
  bool ok = found == 0;
  if (found == 1) {
    w->error->kind = TR_OK;
    ok = tr_store_each_history(w->store, visit_file, w, w->error) &&
         w->error->kind == TR_OK;
  }
  close_walk(w);
  return ok;
}

bool tr_store_each_former(tr_store *store, const char *label, tr_store_visit visit,
                          void *context, tr_error *error) {
  walk w = {.store = store, .error = tr_error_or_ignored(error)};
  char name[TR_HEX_MAX];
  former f;
  unsigned i;
  int found;
  if (!tr_store_check_label(label, w.error))
    return false;
  file_of(label, name);
  found = open_walk(&w);
  if (found == 1)
    found = read_former(store, w.base, w.folder, name, &f, w.error);
  for (i = 0; found == 1 && i < f.count && visit(context, f.hashes[i], 0);)
    i++;
  close_walk(&w);
  return found >= 0;
}

static bool visit_hashes(walk *w, const char *name, const former *f) {
  unsigned i = 0;
  (void)name;
  if (!f->is_there)
    return true;
  while (i < f->count && w->each(w->context, f->label, f->hashes[i], NULL))
    i++;
  return i == f->count;
}

bool tr_store_each_former_of_all(const tr_store *store, tr_store_visit_label visit,
                                 void *context, tr_error *error) {
  walk w = {.store = store, .visit = visit_hashes, .each = visit, .context = context,
            .error = error};
  return walk_history(&w);
}

/* ------------------------------------------------------------------------ gc */

static bool tidy(walk *w, const char *name, const former *f) {
  former now;
  int lock;
  if (f->is_there)
    return true;
  lock = tr_store_lock_folder(w->store, w->base, w->error);
  if (lock >= 0 && read_former(w->store, w->base, w->folder, name, &now, w->error) == 1 &&
      !now.is_there)
    unlinkat(w->folder, name, 0);
  if (lock >= 0)
    tr_store_unlock(lock);
  return lock >= 0;
}

bool tr_store_tidy_history(const tr_store *store, tr_error *error) {
  walk w = {.store = store, .visit = tidy, .error = error};
  return walk_history(&w);
}
