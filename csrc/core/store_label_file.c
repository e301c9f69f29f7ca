/*
** The files of labels: each holds a hash. The '/' in a label makes folders, as Theater
** does it.
*/
#include <errno.h>
#include <fcntl.h>
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

const char *tr_new_label_fault(const char *label) {
  if (strncmp(label, "hash/", 5) == 0)
    return "it starts with 'hash/', so that every reference to it would name "
           "content by its hash";
  if (tr_hex_valid(label))
    return "it looks like a hash, and would be taken for one";
  return tr_label_fault(label);
}

static bool check(const char *label, const char *fault, tr_error *error) {
  if (fault != NULL)
    tr_error_set(error, TR_INVALID_REFERENCE, "Invalid label '%s': %s", label,
                 fault);
  return fault == NULL;
}

bool tr_store_check_label(const char *label, tr_error *error) {
  return check(label, tr_label_fault(label), error);
}

bool tr_store_check_new_label(const char *label, tr_error *error) {
  return check(label, tr_new_label_fault(label), error);
}

const char *tr_store_next_folder(const char **rest, char room[TR_MAX_PART + 1]) {
  const char *slash = strchr(*rest, '/');
  if (slash == NULL)
    return NULL;
  memcpy(room, *rest, (size_t)(slash - *rest));
  room[slash - *rest] = '\0';
  *rest = slash + 1;
  return room;
}

int tr_store_open_label_folder(int base, const char *label, tr_opening how,
                               const char **name) {
  const char *part = "labels";
  char room[TR_MAX_PART + 1];
  int fd = fcntl(base, F_DUPFD_CLOEXEC, 0);
  *name = label;
  while (fd >= 0 && part != NULL) {
    int inner = how == TR_MAKING
                    ? tr_store_make_subfolder(fd, part)
                    : tr_store_open_subfolder(fd, part, how == TR_READING);
    int errnum = errno;
    close(fd);
    errno = errnum;
    fd = inner;
    part = tr_store_next_folder(name, room);
  }
  return fd;
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
                               bool patient, char hash[TR_HEX_MAX], tr_error *error) {
  struct timespec pause = {.tv_nsec = 1000 * 1000};
  tr_holding holds;
  int tries = patient ? 100 : 0;
  while ((holds = read_once(folder, name, label, hash, error)) == TR_BLANK &&
         tries-- > 0)
    nanosleep(&pause, NULL);
  return holds;
}

int tr_store_label_at(int base, const char *label, bool patient, char hash[TR_HEX_MAX],
                      tr_error *error) {
  const char *name;
  int folder = tr_store_open_label_folder(base, label, TR_READING, &name);
  tr_holding holds;
  hash[0] = '\0';
  holds = tr_store_read_label(folder, name, label, patient, hash, error);
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
  found = tr_store_label_at(base, label, true, hash, error);
  close(base);
  return found;
}

tr_blob *tr_store_get_labelled(tr_store *store, const char *label,
                               tr_error *error) {
  return tr_store_get_labelled_bounded(store, label, SIZE_MAX, error);
}

tr_blob *tr_store_get_labelled_bounded(tr_store *store, const char *label,
                                       size_t max_bytes, tr_error *error) {
  char hash[TR_HEX_MAX], last[TR_HEX_MAX] = "";
  int found, tries = 100;
  error = tr_error_or_ignored(error);
  while ((found = tr_store_get_label(store, label, hash, error)) == 1) {
    tr_blob *blob = tr_store_get_bounded(store, hash, max_bytes, error);
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
