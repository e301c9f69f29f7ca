/* The hash table under the cache: SipHash-1-3 over keys, chains, doubling. */
#include "table.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { FIRST_SLOTS = 64 };

bool tr_table_init(tr_table *table) {
  table->slots = calloc(FIRST_SLOTS, sizeof *table->slots);
  table->mask = FIRST_SLOTS - 1;
  table->count = 0;
  return table->slots != NULL;
}

void tr_table_free(tr_table *table) { free(table->slots); }

static uint64_t seed[2];

static void make_seed(void) {
  /* Before the kernel has entropy this leaves zeros: weaker, never wrong. */
  if (getrandom(seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
    memset(seed, 0, sizeof seed);
}

static inline uint64_t rotate(uint64_t x, int by) {
  return x << by | x >> (64 - by);
}

static inline void sip_round(uint64_t v[4]) {
  v[0] += v[1];
  v[1] = rotate(v[1], 13) ^ v[0];
  v[0] = rotate(v[0], 32);
  v[2] += v[3];
  v[3] = rotate(v[3], 16) ^ v[2];
  v[0] += v[3];
  v[3] = rotate(v[3], 21) ^ v[0];
  v[2] += v[1];
  v[1] = rotate(v[1], 17) ^ v[2];
  v[2] = rotate(v[2], 32);
}

uint64_t tr_table_hash(const char *key, size_t len) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  uint64_t v[4], word;
  size_t left = len;
  pthread_once(&once, make_seed);
  v[0] = seed[0] ^ UINT64_C(0x736f6d6570736575);
  v[1] = seed[1] ^ UINT64_C(0x646f72616e646f6d);
  v[2] = seed[0] ^ UINT64_C(0x6c7967656e657261);
  v[3] = seed[1] ^ UINT64_C(0x7465646279746573);
  for (; left >= 8; key += 8, left -= 8) {
    memcpy(&word, key, 8);
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
  }
  word = 0;
  memcpy(&word, key, left);
  word |= (uint64_t)len << 56;
  v[3] ^= word;
  sip_round(v);
  v[0] ^= word;
  v[2] ^= 0xFF;
  sip_round(v);
  sip_round(v);
  sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

tr_node *tr_table_find(const tr_table *table, uint64_t hash, const char *key,
                       size_t len) {
  tr_node *node = table->slots[hash & table->mask];
  while (node != NULL && (node->hash != hash || node->len != len ||
                          memcmp(node->key, key, len) != 0))
    node = node->next;
  return node;
}

/* Doubles the slots; without memory the chains just get longer. */
static void grow(tr_table *table) {
  size_t i, slots = (table->mask + 1) * 2;
  tr_node **bigger = calloc(slots, sizeof *bigger);
  if (bigger == NULL)
    return;
  for (i = 0; i <= table->mask; i++) {
    tr_node *node = table->slots[i], *next;
    for (; node != NULL; node = next) {
      next = node->next;
      node->next = bigger[node->hash & (slots - 1)];
      bigger[node->hash & (slots - 1)] = node;
    }
  }
  free(table->slots);
  table->slots = bigger;
  table->mask = slots - 1;
}

void tr_table_add(tr_table *table, tr_node *node) {
  tr_node **slot;
  if (table->count > table->mask)
    grow(table);
  slot = &table->slots[node->hash & table->mask];
  node->next = *slot;
  *slot = node;
  table->count++;
}

void tr_table_remove(tr_table *table, tr_node *node) {
  tr_node **link = &table->slots[node->hash & table->mask];
  while (*link != node)
    link = &(*link)->next;
  *link = node->next;
  table->count--;
}
