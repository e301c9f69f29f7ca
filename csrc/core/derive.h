/* Derived bytes, such as the machine code of a package: their keys in caches, and who computes
** them now. */
#ifndef TR_DERIVE_H
#define TR_DERIVE_H

#include "theaterref.h"

enum {
  TR_RECIPE_MAX = 1024,
  TR_DERIVED_KEY_MAX = TR_RECIPE_MAX + TR_HEX_MAX + 16
};

/* Write the key of what a recipe makes of a blob; return its length, or 0 with the error:
** the recipe is empty or too long. */
size_t tr_derived_key(char key[TR_DERIVED_KEY_MAX], tr_blob *blob, const char *recipe,
                      tr_error *error);

/* Derived bytes of a cache. */
typedef struct tr_derived {
  const tr_cache *cache;
  char key[TR_DERIVED_KEY_MAX];
} tr_derived;

/* A function at work, and what it waits for; its memory is that of the thread it runs on. */
typedef struct tr_derivation {
  tr_derived what, awaited; /* with an empty key: nothing */
  struct tr_derivation **thread, *outer;
  struct tr_derivation *prev, *next; /* all of the process */
} tr_derivation;

/* Begin to derive on this thread. False with the error: a function further out does so. */
bool tr_derivation_begin(tr_derivation *d, const tr_cache *cache, const char *key,
                         tr_error *error);
/* End it, on the same thread, which began no other one since that has not ended. */
void tr_derivation_end(tr_derivation *d);
/* Note that the function that runs on this thread, if any, waits for other bytes. False with
** the error: their function waits for it already. */
bool tr_derivation_wait(const tr_cache *cache, const char *key, tr_error *error);
void tr_derivation_waited(void);

#endif
