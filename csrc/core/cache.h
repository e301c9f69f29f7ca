/*
** What the binding needs of the cache beyond the public API: entries, so
** that a Lua state can keep a handle and ask "is this still it?" without
** taking a lock or writing to memory that other threads read; and users, so
** that the statistics say who asked.
*/
#ifndef TR_CACHE_H
#define TR_CACHE_H

#include "entries.h"

/*
** Somebody who uses a cache: one for each handle. It counts its own hits,
** which it alone writes, so that a hit costs no shared cache line.
*/
typedef struct tr_user {
  _Atomic uint64_t hits;
  struct tr_who *who; /* in whose name its figures go; or NULL */
  struct tr_user *prev, *next;
} tr_user;

/* What was asked for in one name. */
typedef struct tr_who {
  struct tr_who *next;
  uint64_t hits, misses, coalesced;
  char name[];
} tr_who;

/* The options it was opened with; they live as long as it does. */
const tr_cache_options *tr_cache_settings(const tr_cache *cache);

/* 'who' may be NULL: in no name. False when memory is short. */
bool tr_cache_attach(tr_cache *cache, tr_user *user, const char *who);
void tr_cache_detach(tr_cache *cache, tr_user *user);

static inline void tr_count_hit(tr_user *user) {
  uint64_t hits = atomic_load_explicit(&user->hits, memory_order_relaxed);
  atomic_store_explicit(&user->hits, hits + 1, memory_order_relaxed);
}

/* The figures of one name after another: NULL begins, and NULL ends. Names
** are never taken back while the cache is open. */
const tr_who *tr_cache_who(tr_cache *cache, const tr_who *after,
                           tr_who *figures);

/* Like tr_cache_get and tr_cache_claim, but a hit is a retained entry. */
tr_entry *tr_cache_find(tr_cache *cache, tr_user *user, const char *key,
                        size_t len);
tr_claim tr_cache_claim_entry(tr_cache *cache, tr_user *user, const char *key,
                              size_t len, const tr_terms *terms,
                              tr_entry **entry, tr_future **future);

#endif
