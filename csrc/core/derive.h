/* Derived bytes, such as the machine code of a package: their keys in caches, and the functions
** that are computing them. */
#ifndef TR_DERIVE_H
#define TR_DERIVE_H

#include "future.h"

enum {
  TR_RECIPE_MAX = 1024,
  TR_DERIVED_KEY_MAX = TR_RECIPE_MAX + TR_HEX_MAX + 16
};

/* Write the key of the bytes that a recipe makes of a blob; return its length, or 0 with the
** error: the recipe is empty or too long. */
size_t tr_derived_key(char key[TR_DERIVED_KEY_MAX], tr_blob *blob, const char *recipe,
                      tr_error *error);

/* A running function; it is on its thread's stack. */
typedef struct tr_derivation {
  const tr_cache *cache;
  char key[TR_DERIVED_KEY_MAX];
  const tr_promise *result;  /* that others wait for until the function returns */
  const tr_promise *awaited; /* that it waits for itself, or NULL */
  struct tr_derivation **thread, *outer;
  struct tr_derivation *prev, *next; /* all of the process */
} tr_derivation;

/* Begin to derive on this thread, for a future that leads the claim. False with the error: an outer
** function does so already. */
bool tr_derivation_begin(tr_derivation *d, const tr_cache *cache, const char *key,
                         const tr_promise *result, tr_error *error);
/* End it, on the same thread. Calls nest: end the last one first. */
void tr_derivation_end(tr_derivation *d);
/* Record that the function that runs on this thread, if any, waits for a promise, however it came to
** that. False with the error: the promise's own function already waits for this one. */
bool tr_derivation_wait(const tr_promise *promise, tr_error *error);
void tr_derivation_waited(void);

#endif
