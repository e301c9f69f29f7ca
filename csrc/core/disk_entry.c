/*
** The file of an entry: the body, the text (the redacted reference, a zero byte,
** the record), and a footer of fixed size with the digests of both. The body comes
** first so that it can be mapped whatever the size of a page; all else is text, so
** that the file reads the same on every machine.
*/
#include "disk_entry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crypto.h"
#include "error.h"
#include "metrics.h"
#include "redact.h"
#include "store.h"

enum {
  MAPPED_FROM = 256 * 1024, /* below, a read is as fast as a mapping */
  REST = 4096,              /* bytes at the end of a file that mostly suffice */
  MAX_TEXT = 64 * 1024,
  SHA256 = 64,
  USED_AGAIN = 60 /* seconds until a use is noted again */
};

static const char MAGIC[8] = "TRdisk1\n";

typedef struct footer {
  char magic[sizeof MAGIC];
  char key[SHA256], reference[SHA256], body[SHA256];
  char body_size[16], text_size[16]; /* hex */
  char check[SHA256];                /* of the text and the footer up to here */
} footer;

/* -------------------------------------------------------------------- names */

void tr_disk_identify(const char *key, size_t len, tr_disk_id *id) {
  size_t reference = strnlen(key, len);
  tr_digest(TR_SHA256, key, reference, id->reference);
  if (reference == len)
    memcpy(id->key, id->reference, sizeof id->key);
  else
    tr_digest(TR_SHA256, key, len, id->key);
  memcpy(id->name, id->reference, TR_DISK_PREFIX - 1);
  id->name[TR_DISK_PREFIX - 1] = '-';
  memcpy(id->name + TR_DISK_PREFIX, id->key, TR_DISK_PREFIX - 1);
  id->name[TR_DISK_NAME - 1] = '\0';
}

bool tr_disk_is_entry_name(const char *name) {
  static const char digits[] = "0123456789abcdef";
  return strspn(name, digits) == TR_DISK_PREFIX - 1 &&
         name[TR_DISK_PREFIX - 1] == '-' &&
         strspn(name + TR_DISK_PREFIX, digits) == TR_DISK_PREFIX - 1 &&
         name[TR_DISK_NAME - 1] == '\0';
}

/* ------------------------------------------------------------------ reading */

static bool read_number(const char digits[16], uint64_t *value) {
  int i;
  *value = 0;
  for (i = 0; i < 16; i++) {
    const char *all = "0123456789abcdef";
    const char *at = memchr(all, digits[i], 16);
    if (at == NULL)
      return false;
    *value = *value << 4 | (uint64_t)(at - all);
  }
  return true;
}

/* Read the last 'count' bytes of a file of 'size'. NULL: errno is ENOMEM, or the
** file cannot be read. */
static char *read_end(int fd, off_t size, size_t count) {
  char *data = malloc(count);
  size_t done = 0;
  while (data != NULL && done < count) {
    ssize_t n =
        pread(fd, data + done, count - done, size - (off_t)count + (off_t)done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0) {
      errno = n == 0 ? EIO : errno;
      free(data);
      return NULL;
    }
    done += (size_t)n;
  }
  return data;
}

/* The end of a file as far as it has been read. */
typedef struct ending {
  char *data; /* malloc'ed; NULL once a blob owns it */
  size_t size;
  const footer *footer;
  const char *text; /* before the footer */
  uint64_t body_size, text_size;
} ending;

/* Find the parts of a file. False: it is no entry. 'short_by' is how much more of
** the text must be read. */
static bool find_parts(ending *e, const struct stat *st, size_t *short_by) {
  size_t before = e->size - sizeof *e->footer;
  e->footer = (const footer *)(e->data + before); /* chars: any address will do */
  *short_by = 0;
  if (memcmp(e->footer->magic, MAGIC, sizeof MAGIC) != 0 ||
      !read_number(e->footer->body_size, &e->body_size) ||
      !read_number(e->footer->text_size, &e->text_size) ||
      e->text_size > MAX_TEXT || e->body_size > (uint64_t)st->st_size ||
      e->body_size + e->text_size + sizeof *e->footer != (uint64_t)st->st_size)
    return false;
  if (e->text_size > before)
    *short_by = (size_t)e->text_size - before;
  else
    e->text = e->data + before - e->text_size;
  return true;
}

/* Read the end of a file, of 'count' bytes or as many as it takes. */
static tr_disk_state read_ending(int fd, const struct stat *st, size_t count,
                                 ending *e) {
  size_t short_by = 0;
  do {
    free(e->data);
    e->size = count + short_by;
    e->data = read_end(fd, st->st_size, e->size);
    if (e->data == NULL)
      return errno == ENOMEM ? TR_DISK_ABSENT : TR_DISK_DAMAGED;
    if (!find_parts(e, st, &short_by))
      return TR_DISK_DAMAGED;
  } while (short_by > 0);
  return TR_DISK_SOUND;
}

static bool has_digest(const void *data, size_t size, const char hex[SHA256]) {
  char actual[TR_HEX_MAX];
  tr_digest(TR_SHA256, data, size, actual);
  return memcmp(actual, hex, SHA256) == 0;
}

static bool is_text_sound(const ending *e) {
  return has_digest(e->text, (size_t)e->text_size + offsetof(footer, check),
                    e->footer->check) &&
         memchr(e->text, '\0', (size_t)e->text_size) != NULL;
}

/* Make the body a blob: the file's end if that is all, or a mapping, or a copy. */
static tr_blob *take_body(int fd, const struct stat *st, ending *e) {
  tr_blob *body = NULL;
  if (e->size == (size_t)st->st_size) {
    char *data = e->data;
    e->data = NULL;
    return tr_blob_adopt(data, (size_t)e->body_size);
  }
  if (e->body_size > 0)
    body = tr_blob_map(fd, (size_t)e->body_size);
  if (body == NULL) { /* no mappings here, or too many */
    char *data = read_end(fd, (off_t)e->body_size, (size_t)e->body_size);
    if (data != NULL)
      body = tr_blob_adopt(data, (size_t)e->body_size);
  }
  return body;
}

/* True if the digests in a footer are those of an id. */
static bool has_id(const footer *f, const tr_disk_id *id) {
  return memcmp(f->key, id->key, SHA256) == 0 &&
         memcmp(f->reference, id->reference, SHA256) == 0;
}

static tr_disk_state read_open(int fd, const tr_disk_id *id, tr_disk_use use,
                               tr_disk_entry *to, ending *e) {
  size_t size = (size_t)to->st.st_size;
  bool whole = size < REST || (id != NULL && (size < MAPPED_FROM || use == TR_DISK_CODE));
  size_t count = whole ? size : REST;
  bool seen = id != NULL && tr_store_saw(&to->st, id->key);
  tr_disk_state state = read_ending(fd, &to->st, count, e);
  if (state != TR_DISK_SOUND)
    return state;
  if (id == NULL)
    return is_text_sound(e) ? TR_DISK_SOUND : TR_DISK_DAMAGED;
  if (!has_id(e->footer, id))
    return TR_DISK_DAMAGED;
  to->body = take_body(fd, &to->st, e);
  if (to->body == NULL)
    return TR_DISK_ABSENT; /* memory is short */
  if (use == TR_DISK_DATA && tr_store_knows(&to->st, id->key, TR_CHECKED))
    return TR_DISK_SOUND;
  if (!is_text_sound(e) ||
      !has_digest(tr_blob_data(to->body), (size_t)e->body_size, e->footer->body))
    return TR_DISK_DAMAGED;
  if (seen)
    tr_store_learn(&to->st, id->key, TR_CHECKED);
  return TR_DISK_SOUND;
}

/* Note that a file is used. That changes its times, but not what was checked. */
static void note_use(int fd, const struct stat *before, const tr_disk_id *id) {
  const struct timespec now[2] = {{time(NULL), 0}, {0, UTIME_OMIT}};
  struct stat st;
  if (llabs((long long)now->tv_sec - before->st_atim.tv_sec) > USED_AGAIN &&
      futimens(fd, now) == 0 && fstat(fd, &st) == 0)
    tr_store_renew(before, &st, id->key);
}

/* Set the texts of an entry, which is sound. */
static void take_text(const ending *e, tr_disk_entry *to) {
  to->shown = e->text;
  to->record = memchr(e->text, '\0', (size_t)e->text_size);
  to->record++;
  to->record_size = (size_t)e->text_size - (size_t)(to->record - e->text);
  to->bytes = e->body_size;
  memcpy(to->sha256, e->footer->body, SHA256);
  to->sha256[SHA256] = '\0';
}

/* Open a file that may be an entry: a descriptor, or -1 with errno; EINVAL: it is
** none. */
static int open_entry(int dir, const char *name, struct stat *st) {
  int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  int fd = openat(dir, name, flags | O_NOATIME); /* a listing is no use */
  if (fd < 0 && errno == EPERM)                  /* it is another user's file */
    fd = openat(dir, name, flags);
  if (fd < 0)
    return -1;
  if (fstat(fd, st) == 0 && S_ISREG(st->st_mode) &&
      st->st_size >= (off_t)sizeof(footer) && (uint64_t)st->st_size < SIZE_MAX / 2)
    return fd;
  close(fd);
  errno = EINVAL;
  return -1;
}

/* True if only the effective user may write to a file. */
static bool is_own(const struct stat *st) {
  return st->st_uid == geteuid() && (st->st_mode & 022) == 0;
}

tr_disk_state tr_disk_entry_read(int dir, const char *name, const tr_disk_id *id,
                                 tr_disk_use use, tr_disk_entry *to) {
  ending e = {0};
  tr_disk_state state;
  int fd;
  memset(to, 0, sizeof *to);
  fd = open_entry(dir, name, &to->st);
  if (fd < 0)
    return errno == EINVAL ? TR_DISK_DAMAGED : TR_DISK_ABSENT;
  state = use == TR_DISK_CODE && !is_own(&to->st) ? TR_DISK_FOREIGN
                                                  : read_open(fd, id, use, to, &e);
  if (state == TR_DISK_SOUND && id != NULL)
    note_use(fd, &to->st, id);
  close(fd);
  if (state == TR_DISK_SOUND) {
    take_text(&e, to);
    if (e.data == NULL)
      return state;
    to->rest = tr_blob_adopt(e.data, e.size);
    if (to->rest != NULL)
      return state;
    state = TR_DISK_ABSENT;
  } else {
    free(e.data);
  }
  if ((state == TR_DISK_DAMAGED || state == TR_DISK_FOREIGN) && id != NULL)
    tr_count(TR_COUNT_CORRUPT_DISK, 1);
  tr_blob_release(to->body);
  to->body = NULL;
  return state;
}

/* Compare the beginning of a file with some bytes. It is read, not mapped: somebody may truncate it. */
static bool begins_with(int fd, const char *data, size_t size) {
  char piece[16384];
  size_t done = 0;
  while (done < size) {
    size_t wanted = size - done < sizeof piece ? size - done : sizeof piece;
    ssize_t n = pread(fd, piece, wanted, (off_t)done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0 || memcmp(piece, data + done, (size_t)n) != 0)
      return false;
    done += (size_t)n;
  }
  return true;
}

/* Compare a file with what would be written. */
static bool is_same(int fd, const struct stat *st, const tr_disk_id *id,
                    const void *data, size_t size, const tr_buffer *text, ending *e) {
  if (read_ending(fd, st, (size_t)st->st_size < REST ? (size_t)st->st_size : REST,
                  e) != TR_DISK_SOUND ||
      !has_id(e->footer, id) || e->body_size != size || e->text_size != text->len ||
      memcmp(e->text, text->data, text->len) != 0 || !is_text_sound(e))
    return false;
  if (e->size == (size_t)st->st_size)
    return size == 0 || memcmp(e->data, data, size) == 0;
  return begins_with(fd, data, size);
}

bool tr_disk_entry_confirm(int dir, const tr_disk_id *id, const void *data, size_t size,
                           const tr_buffer *text) {
  ending e = {0};
  struct stat st;
  struct timespec now[2];
  int fd = open_entry(dir, id->name, &st);
  bool same = fd >= 0 &&
              (uint64_t)st.st_size == (uint64_t)size + text->len + sizeof(footer) &&
              is_same(fd, &st, id, data, size, text, &e);
  if (same) {
    clock_gettime(CLOCK_REALTIME, &now[0]);
    now[1] = now[0];
    if (futimens(fd, now) == 0 && fstat(fd, &st) == 0)
      tr_store_saw(&st, id->key);
  }
  free(e.data);
  if (fd >= 0)
    close(fd);
  return same;
}

/* ------------------------------------------------------------------ writing */

bool tr_disk_entry_text(const char *key, size_t key_size, const char *record,
                        size_t record_size, tr_buffer *text, tr_error *error) {
  if (!tr_redact(key, strnlen(key, key_size), text) ||
      !tr_buffer_append(text, "", 1) ||
      !tr_buffer_append(text, record, record_size)) {
    tr_error_nomem(error);
    return false;
  }
  if (text->len <= MAX_TEXT)
    return true;
  tr_error_set(error, TR_TOO_LARGE,
               "cannot keep %.100s in the disk cache: its reference and record "
               "have more than %d bytes",
               text->data, MAX_TEXT);
  return false;
}

bool tr_disk_entry_seal(const tr_disk_id *id, const void *data, size_t size,
                        tr_buffer *text) {
  footer f;
  char hex[TR_HEX_MAX], number[17];
  size_t before = text->len;
  memcpy(f.magic, MAGIC, sizeof f.magic);
  memcpy(f.key, id->key, SHA256);
  memcpy(f.reference, id->reference, SHA256);
  tr_digest(TR_SHA256, data, size, hex);
  memcpy(f.body, hex, SHA256);
  snprintf(number, sizeof number, "%016llx", (unsigned long long)size);
  memcpy(f.body_size, number, sizeof f.body_size);
  snprintf(number, sizeof number, "%016llx", (unsigned long long)before);
  memcpy(f.text_size, number, sizeof f.text_size);
  if (!tr_buffer_append(text, &f, sizeof f))
    return false;
  tr_digest(TR_SHA256, text->data, before + offsetof(footer, check), hex);
  memcpy(text->data + before + offsetof(footer, check), hex, SHA256);
  return true;
}
