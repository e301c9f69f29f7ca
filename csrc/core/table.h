/* A chained hash table of nodes that live inside what they index. */
#ifndef TR_TABLE_H
#define TR_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tr_node {
  struct tr_node *next;
  uint64_t hash;
  const char *key; /* not owned */
  size_t len;
} tr_node;

typedef struct tr_table {
  tr_node **slots;
  size_t mask; /* slots - 1, a power of two less one */
  size_t count;
} tr_table;

bool tr_table_init(tr_table *table);
void tr_table_free(tr_table *table);

/* A hash that a writer of references cannot predict: seeded per process. */
uint64_t tr_table_hash(const char *key, size_t len);

tr_node *tr_table_find(const tr_table *table, uint64_t hash, const char *key,
                       size_t len);
/* Adds a node whose key, len and hash are set and not there yet. */
void tr_table_add(tr_table *table, tr_node *node);
void tr_table_remove(tr_table *table, tr_node *node);

#endif
