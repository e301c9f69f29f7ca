/* Operations on a disk cache; disk_folder.c tells what always holds in its folder. */
#include "disk_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk_folder.h"
#include "error.h"
#include "file.h"
#include "metrics.h"
#include "table.h"

/* ------------------------------------------------------------------ reading */

/* Remove a damaged entry, if it is still that file and nobody holds the lock. Files
** that were changed in place may have other sizes than those in the sum. */
static void remove_damaged(tr_disk *disk, const char *name,
                           const struct stat *damaged) {
  tr_disk_holder h;
  struct stat st;
  tr_error ignored;
  if (!tr_disk_hold(disk, 0, &h, &ignored))
    return;
  if (fstatat(h.dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
      st.st_ino == damaged->st_ino)
    tr_disk_discard(h.dir, name);
  tr_disk_count(&h, &ignored);
  tr_disk_let_go(&h);
}

bool tr_disk_read(tr_disk *disk, const char *key, size_t len,
                  tr_disk_entry *entry) {
  tr_disk_id id;
  tr_error ignored;
  tr_disk_state state = TR_DISK_ABSENT;
  tr_disk_identify(key, len, &id);
  if (disk->folder >= 0)
    state = tr_disk_entry_read(disk->folder, id.name, &id, TR_DISK_DATA, entry);
  if (state == TR_DISK_ABSENT && !tr_disk_is_current(disk) &&
      tr_disk_open_folder(disk, false, &ignored) >= 0)
    state = tr_disk_entry_read(disk->folder, id.name, &id, TR_DISK_DATA, entry);
  if (state == TR_DISK_DAMAGED)
    remove_damaged(disk, id.name, &entry->st);
  return state == TR_DISK_SOUND;
}

/* True if an error means that there is no folder, which is as good as empty. */
static bool is_missing(const tr_error *error) {
  return error->kind == TR_NOT_FOUND;
}

bool tr_disk_read_code(tr_disk *disk, const char *key, size_t len,
                       tr_disk_entry *entry, tr_error *error) {
  tr_disk_id id;
  tr_disk_state state;
  error->kind = TR_OK;
  if (tr_disk_open_folder(disk, false, error) < 0 || !tr_disk_is_private(disk, error)) {
    if (is_missing(error))
      error->kind = TR_OK;
    if (error->kind == TR_DENIED)
      tr_count(TR_COUNT_CORRUPT_DISK, 1);
    return false;
  }
  tr_disk_identify(key, len, &id);
  state = tr_disk_entry_read(disk->folder, id.name, &id, TR_DISK_CODE, entry);
  if (state == TR_DISK_FOREIGN)
    tr_error_set(error, TR_DENIED,
                 "cannot use %s/%s of the disk cache: code must be in files of the "
                 "user %ld with mode 0600, but it belonged to %ld and had mode 0%o",
                 disk->path, id.name, (long)geteuid(), (long)entry->st.st_uid,
                 (unsigned)(entry->st.st_mode & 07777));
  else if (state == TR_DISK_DAMAGED)
    tr_error_set(error, TR_CORRUPT,
                 "cannot use %s/%s of the disk cache: it was damaged", disk->path,
                 id.name);
  if (state == TR_DISK_FOREIGN || state == TR_DISK_DAMAGED)
    remove_damaged(disk, id.name, &entry->st);
  return state == TR_DISK_SOUND;
}

/* ------------------------------------------------------------------ writing */

/* Create "new", which may be left from a process that was killed. -1 with errno. */
static int create(int dir) {
  int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  int fd = openat(dir, "new", flags, 0600);
  if (fd < 0 && errno == EEXIST && tr_disk_discard(dir, "new"))
    fd = openat(dir, "new", flags, 0600);
  return fd;
}

/* Write "new" and give it its name. False with errno. */
static bool write_file(int dir, const char *name, const void *data, size_t size,
                       const tr_buffer *rest) {
  int fd = create(dir), errnum;
  bool ok;
  if (fd < 0)
    return false;
  ok = tr_file_write_all(fd, data, size) &&
       tr_file_write_all(fd, rest->data, rest->len);
  errnum = errno;
  if (close(fd) != 0 && ok) { /* network file systems report a lost write here */
    ok = false;
    errnum = errno;
  }
  if (ok) {
    tr_disk_stamp(dir, "new");
    ok = renameat(dir, "new", dir, name) == 0;
    errnum = errno;
  }
  errno = errnum;
  return ok;
}

/* Replace an entry, as the holder of the lock. */
static bool replace(tr_disk_holder *h, const tr_disk_id *id, const void *data,
                    size_t size, const tr_buffer *rest, tr_error *error) {
  uint64_t need = tr_disk_blocks((off_t)(size + rest->len)), before = 0;
  struct stat st;
  if (!tr_disk_make_room(h, need, error))
    return false;
  if (fstatat(h->dir, id->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
    before = tr_disk_blocks(st.st_size);
  if (!write_file(h->dir, id->name, data, size, rest)) {
    tr_error_errno(error, errno, "cannot write to the disk cache", h->disk->path);
    h->wrong = !tr_disk_discard(h->dir, "new");
    return false;
  }
  h->total = h->total + need - before;
  return true;
}

bool tr_disk_write(tr_disk *disk, const char *key, size_t len, const void *data,
                   size_t size, const char *record, size_t record_size,
                   double seconds, tr_error *error) {
  tr_buffer text = {0};
  tr_disk_id id;
  tr_disk_holder h;
  bool ok;
  tr_disk_identify(key, len, &id);
  ok = tr_disk_entry_text(key, len, record, record_size, &text, error) &&
       tr_disk_open_folder(disk, true, error) >= 0;
  if (ok && !tr_disk_entry_confirm(disk->folder, &id, data, size, &text)) {
    ok = tr_disk_entry_seal(&id, data, size, &text);
    if (!ok)
      tr_error_nomem(error);
    ok = ok && tr_disk_hold(disk, seconds, &h, error);
    if (ok) {
      ok = replace(&h, &id, data, size, &text, error);
      tr_disk_let_go(&h);
    }
  }
  tr_buffer_free(&text);
  return ok;
}

bool tr_disk_first_failure(const tr_disk *disk) {
  static atomic_uint_fast64_t failed[64]; /* hashes of paths; no more warnings
                                             once it is full */
  uint_fast64_t hash = tr_table_hash(disk->path, strlen(disk->path));
  size_t i;
  for (i = 0; i < sizeof failed / sizeof *failed; i++) {
    uint_fast64_t none = 0;
    if (atomic_compare_exchange_strong(&failed[i], &none, hash))
      return true;
    if (none == hash)
      return false;
  }
  return false;
}

/* --------------------------------------------------- removing and expiring */

/* No lock: a removal only makes the sum too large until the next count, which the
** changed folder brings about. */

static void remove_file(void *context, int dir, const char *name,
                        const struct stat *st) {
  (void)st;
  if (tr_disk_discard(dir, name))
    *(bool *)context = true;
}

static void expire_file(void *context, int dir, const char *name,
                        const struct stat *st) {
  const struct timespec times[2] = {{0, UTIME_OMIT}, {0, 0}};
  (void)st;
  if (utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) == 0)
    *(bool *)context = true;
}

static bool each_of_reference(tr_disk *disk, const char *reference, size_t len,
                              tr_disk_visitor visit) {
  tr_disk_id id;
  tr_error ignored;
  bool found = false;
  int dir = tr_disk_open_folder(disk, false, &ignored);
  tr_disk_identify(reference, len, &id);
  id.name[TR_DISK_PREFIX] = '\0';
  if (dir >= 0)
    tr_disk_walk(dir, id.name, visit, &found);
  return found;
}

bool tr_disk_remove(tr_disk *disk, const char *reference, size_t len) {
  return each_of_reference(disk, reference, len, remove_file);
}

bool tr_disk_expire(tr_disk *disk, const char *reference, size_t len) {
  return each_of_reference(disk, reference, len, expire_file);
}

bool tr_disk_forget(tr_disk *disk, const char *key, size_t len) {
  tr_disk_id id;
  tr_error ignored;
  int dir = tr_disk_open_folder(disk, false, &ignored);
  tr_disk_identify(key, len, &id);
  return dir >= 0 && unlinkat(dir, id.name, 0) == 0;
}

/* ----------------------------------------------------------- the whole folder */

typedef struct clearing {
  bool locked; /* else "new" is another process's */
  size_t entries;
} clearing;

static void clear_file(void *context, int dir, const char *name,
                       const struct stat *st) {
  clearing *c = context;
  if ((c->locked || strcmp(name, "new") != 0) && tr_disk_discard(dir, name) &&
      S_ISREG(st->st_mode) && tr_disk_is_entry_name(name))
    c->entries++;
}

bool tr_disk_clear(tr_disk *disk, double seconds, size_t *entries,
                   tr_error *error) {
  tr_disk_holder h;
  clearing c = {0};
  bool ok;
  *entries = 0;
  if (tr_disk_open_folder(disk, false, error) < 0)
    return is_missing(error);
  c.locked = tr_disk_hold(disk, seconds, &h, error);
  if (!c.locked && error->kind != TR_TIMEOUT)
    return false;
  ok = tr_disk_walk(disk->folder, "", clear_file, &c);
  if (!ok)
    tr_error_errno(error, errno, "cannot clear the disk cache", disk->path);
  if (c.locked) {
    ok = tr_disk_count(&h, error) && ok;
    tr_disk_let_go(&h);
  }
  *entries = c.entries;
  return ok;
}

typedef struct listing {
  tr_disk_visit visit;
  void *context;
  bool ended;
} listing;

static void list_file(void *context, int dir, const char *name,
                      const struct stat *st) {
  listing *l = context;
  tr_disk_entry e;
  if (l->ended || !S_ISREG(st->st_mode) || !tr_disk_is_entry_name(name) ||
      tr_disk_entry_read(dir, name, NULL, TR_DISK_DATA, &e) != TR_DISK_SOUND)
    return;
  l->ended = !l->visit(l->context, &e);
  tr_blob_release(e.rest);
}

static void add_size(void *context, int dir, const char *name,
                     const struct stat *st) {
  (void)dir;
  (void)name;
  *(uint64_t *)context += (uint64_t)st->st_size;
}

static bool walk_all(tr_disk *disk, tr_disk_visitor visit, void *context,
                     tr_error *error) {
  int dir = tr_disk_open_folder(disk, false, error);
  if (dir < 0)
    return is_missing(error);
  if (tr_disk_walk(dir, "", visit, context))
    return true;
  tr_error_errno(error, errno, "cannot list the disk cache", disk->path);
  return false;
}

bool tr_disk_each(tr_disk *disk, tr_disk_visit visit, void *context,
                  tr_error *error) {
  listing l = {visit, context, false};
  return walk_all(disk, list_file, &l, error);
}

bool tr_disk_size(tr_disk *disk, uint64_t *bytes, tr_error *error) {
  *bytes = 0;
  return walk_all(disk, add_size, bytes, error);
}
