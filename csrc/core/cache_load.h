/* Loads of a cache: their beginning, with a claim that leads, and their end. */
#ifndef TR_CACHE_LOAD_H
#define TR_CACHE_LOAD_H

#include "cache_registry.h"

/* The purpose of a load. */
typedef struct tr_load {
  tr_key key; /* without limits */
  const tr_limits *limits;
  tr_bytes content; /* the key of the content, if the claim named one */
  double ttl;
  bool respect_no_store; /* keep nothing that its server would not have kept */
  bool provisional;    /* as in tr_claim_options, as the next */
  double keep_failure;
} tr_load;

/*
** Register a load and return the future that leads it. 'stale' is what it is to
** replace, and 'bytes' the slot with its bytes; both may be NULL. The cache's lock
** is held. NULL when memory is short.
*/
tr_future *tr_load_begin(tr_cache *cache, const tr_load *load, tr_slot *stale,
                         tr_slot *bytes);

#endif
