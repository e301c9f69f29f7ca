/* The index of a cache: by key, and by reference. */
#include "cache_index.h"

#include <string.h>

#include "theaterref.h"

tr_key tr_key_of(const char *text, size_t len) {
  return (tr_key){text, len, 0, tr_table_hash(text, len)};
}

/* The hash tells keys apart that differ in their limits alone. */
tr_key tr_key_limited(tr_key key, uint64_t limits) {
  key.hash ^= key.limits ^ limits;
  key.limits = limits;
  return key;
}

bool tr_index_init(tr_index *index) {
  return tr_table_init(&index->keys) && tr_table_init(&index->references);
}

void tr_index_free(tr_index *index) {
  tr_table_free(&index->keys);
  tr_table_free(&index->references);
}

static size_t reference_len(const char *text, size_t len) {
  const char *end = memchr(text, '\0', len);
  return end != NULL ? (size_t)(end - text) : len;
}

/* The hash of a key's reference. Most keys are one. */
static uint64_t reference_hash(const tr_key *key, size_t len) {
  return len == key->len ? key->hash ^ key->limits
                         : tr_table_hash(key->text, len);
}

void tr_item_set_key(tr_item *item, const tr_key *key, const char *text) {
  size_t len = reference_len(key->text, key->len);
  item->node = (tr_node){.hash = key->hash, .key = text, .len = key->len};
  item->reference =
      (tr_node){.hash = reference_hash(key, len), .key = text, .len = len};
  item->limits = key->limits;
}

tr_key tr_item_key(const tr_item *item) {
  return (tr_key){item->node.key, item->node.len, item->limits,
                  item->node.hash};
}

static tr_item *item_of(tr_node *node, size_t offset) {
  return node == NULL ? NULL : (tr_item *)((char *)node - offset);
}

tr_item *tr_index_find(const tr_index *index, const tr_key *key) {
  return item_of(tr_table_find(&index->keys, key->hash, key->text, key->len),
                 offsetof(tr_item, node));
}

tr_item *tr_index_first(const tr_index *index, const tr_key *key) {
  size_t len = reference_len(key->text, key->len);
  return item_of(tr_table_find(&index->references, reference_hash(key, len),
                               key->text, len),
                 offsetof(tr_item, reference));
}

void tr_index_add(tr_index *index, tr_item *item) {
  tr_node *first = tr_table_find(&index->references, item->reference.hash,
                                 item->reference.key, item->reference.len);
  item->prev = NULL;
  item->next = item_of(first, offsetof(tr_item, reference));
  if (first != NULL) {
    item->next->prev = item;
    tr_table_remove(&index->references, first);
  }
  tr_table_add(&index->references, &item->reference);
  if (!item->unlisted)
    tr_table_add(&index->keys, &item->node);
}

void tr_index_remove(tr_index *index, tr_item *item) {
  if (item->next != NULL)
    item->next->prev = item->prev;
  if (item->prev != NULL) {
    item->prev->next = item->next;
  } else {
    tr_table_remove(&index->references, &item->reference);
    if (item->next != NULL)
      tr_table_add(&index->references, &item->next->reference);
  }
  if (!item->unlisted)
    tr_table_remove(&index->keys, &item->node);
}

/* ---------------------------------------------------------------------- keys */

/* Copy a part of a key to where it belongs, if there is room for the whole. */
static size_t put(char *key, size_t at, const char *part, size_t len,
                  bool room) {
  if (room && len > 0)
    memcpy(key + at, part, len);
  return at + len;
}

size_t tr_cache_key(char *key, size_t size, const char *reference,
                    const char *digest, const char *scope) {
  size_t reference_size = strlen(reference);
  size_t digest_len = digest != NULL ? strlen(digest) : 0;
  size_t scope_len = scope != NULL ? strlen(scope) : 0;
  bool plain = digest_len == 0 && scope_len == 0;
  size_t len = reference_size + (plain ? 0 : 2 + digest_len + scope_len), at;
  at = put(key, 0, reference, reference_size, len <= size);
  if (plain)
    return len;
  at = put(key, at, "", 1, len <= size);
  at = put(key, at, digest, digest_len, len <= size);
  at = put(key, at, "", 1, len <= size);
  put(key, at, scope, scope_len, len <= size);
  return len;
}
