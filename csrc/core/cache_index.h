/*
** An index by key that also knows the keys of each reference (see tr_cache_key).
** Finding by key costs one look-up; the items of one reference are a list.
*/
#ifndef TR_CACHE_INDEX_H
#define TR_CACHE_INDEX_H

#include "table.h"

/* A key to find; its text belongs to others. Keys with the same text and other
** limits are different keys of one reference. */
typedef struct tr_key {
  const char *text;
  size_t len;
  uint64_t limits; /* the id of a request's limits (tr_limits); 0: none */
  uint64_t hash;
} tr_key;

/* A key without limits. */
tr_key tr_key_of(const char *text, size_t len);
/* The same with limits. */
tr_key tr_key_limited(tr_key key, uint64_t limits);

/* A part of whatever is in the index. */
typedef struct tr_item {
  tr_node node;      /* by key */
  tr_node reference; /* by reference; in the index for the first of a list */
  uint64_t limits;
  bool unlisted;     /* not found by key: there may be several */
  struct tr_item *prev, *next; /* of the same reference */
} tr_item;

typedef struct tr_index {
  tr_table keys, references;
} tr_index;

bool tr_index_init(tr_index *index); /* false: memory is short */
void tr_index_free(tr_index *index);

/* Set the key of an item. The text, a copy of the key's, lives as long as it. */
void tr_item_set_key(tr_item *item, const tr_key *key, const char *text);
tr_key tr_item_key(const tr_item *item);

/* Return the item of a key, or NULL. */
tr_item *tr_index_find(const tr_index *index, const tr_key *key);
/* Return the first item of a key's reference, or NULL; the others are its 'next'. */
tr_item *tr_index_first(const tr_index *index, const tr_key *key);
/* Add an item whose key is not there yet; it is the first of its reference. */
void tr_index_add(tr_index *index, tr_item *item);
void tr_index_remove(tr_index *index, tr_item *item);

#endif
