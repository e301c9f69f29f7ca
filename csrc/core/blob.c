/* Blobs: heap bytes or a mapped file behind one reference count. */
#include "blob.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 4 * 1024 * 1024 }; /* two huge pages, on most machines */

struct tr_blob {
  atomic_size_t refs;
  void *data; /* NULL where the bytes follow this header */
  size_t size;
  _Atomic(char *) sha256; /* in hex; NULL until somebody asks for it */
  bool mapped;
  char inplace[]; /* one block for header and bytes: one malloc, one free */
};

static atomic_size_t live;

static tr_blob *blob_alloc(size_t inplace) {
  tr_blob *blob;
  if (inplace > SIZE_MAX - sizeof *blob)
    return NULL;
  blob = malloc(sizeof *blob + inplace);
  if (blob == NULL)
    return NULL;
  atomic_init(&blob->refs, 1);
  blob->data = NULL;
  blob->size = inplace;
  atomic_init(&blob->sha256, NULL);
  blob->mapped = false;
  atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
  return blob;
}

tr_blob *tr_blob_new(const void *data, size_t size) {
  tr_blob *blob = blob_alloc(size);
  if (blob != NULL && size > 0)
    memcpy(blob->inplace, data, size);
  return blob;
}

tr_blob *tr_blob_adopt(void *data, size_t size) {
  tr_blob *blob = blob_alloc(0);
  if (blob == NULL) {
    free(data);
    return NULL;
  }
  blob->data = data;
  blob->size = size;
  return blob;
}

tr_blob *tr_blob_map(int fd, size_t size) {
  void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  tr_blob *blob;
  if (data == MAP_FAILED)
    return NULL;
  blob = blob_alloc(0);
  if (blob == NULL) {
    munmap(data, size);
    return NULL;
  }
  blob->data = data;
  blob->size = size;
  blob->mapped = true;
  return blob;
}

tr_blob *tr_blob_unmapped(tr_blob *blob) {
  return blob->mapped ? tr_blob_new(blob->data, blob->size) : tr_blob_retain(blob);
}

tr_blob *tr_blob_retain(tr_blob *blob) {
  atomic_fetch_add_explicit(&blob->refs, 1, memory_order_relaxed);
  return blob;
}

void tr_blob_release(tr_blob *blob) {
  if (blob == NULL ||
      atomic_fetch_sub_explicit(&blob->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (blob->mapped)
    munmap(blob->data, blob->size);
  else
    free(blob->data);
  free(atomic_load_explicit(&blob->sha256, memory_order_relaxed));
  free(blob);
  atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
}

const void *tr_blob_data(const tr_blob *blob) {
  return blob->data != NULL ? blob->data : blob->inplace;
}

size_t tr_blob_size(const tr_blob *blob) { return blob->size; }

const char *tr_blob_known_sha256(const tr_blob *blob) {
  return atomic_load_explicit(&blob->sha256, memory_order_acquire);
}

void tr_blob_keep_sha256(tr_blob *blob, const char *hex) {
  char *kept = strdup(hex), *none = NULL;
  if (kept != NULL && !atomic_compare_exchange_strong(&blob->sha256, &none, kept))
    free(kept); /* another thread was first */
}

size_t tr_blob_count(void) {
  return atomic_load_explicit(&live, memory_order_relaxed);
}

/* Ask for huge pages in a large block: the kernel gets and clears 2 MiB at once then,
** in a fraction of the time. It is told of whole pages, and so of all of a mapping:
** realloc would have to copy one that is half of a kind and half of another. */
static void use_huge_pages(char *data, size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t before = (uintptr_t)data % page;
  if (size >= LARGE)
    madvise(data - before, (before + size + page - 1) / page * page,
            MADV_HUGEPAGE);
}

bool tr_buffer_reserve(tr_buffer *buffer, size_t more) {
  size_t need, cap;
  char *data;
  if (more > PTRDIFF_MAX - buffer->len)
    return false;
  need = buffer->len + more;
  if (need <= buffer->cap)
    return true;
  cap = buffer->cap > PTRDIFF_MAX / 2 ? PTRDIFF_MAX : buffer->cap * 2;
  if (cap < need) /* a first reservation is exact */
    cap = need;
  data = realloc(buffer->data, cap);
  if (data == NULL)
    return false;
  use_huge_pages(data, cap);
  buffer->data = data;
  buffer->cap = cap;
  return true;
}

bool tr_buffer_append(tr_buffer *buffer, const void *data, size_t size) {
  if (!tr_buffer_reserve(buffer, size))
    return false;
  if (size > 0)
    memcpy(buffer->data + buffer->len, data, size);
  buffer->len += size;
  return true;
}

void tr_buffer_free(tr_buffer *buffer) {
  free(buffer->data);
  *buffer = (tr_buffer){0};
}

tr_blob *tr_buffer_to_blob(tr_buffer *buffer) {
  tr_buffer taken = *buffer;
  *buffer = (tr_buffer){0};
  if (taken.len > 0 && taken.cap - taken.len > taken.len / 8) {
    char *exact = realloc(taken.data, taken.len);
    if (exact != NULL)
      taken.data = exact;
  }
  return tr_blob_adopt(taken.data, taken.len);
}
