/* Derived bytes, such as the machine code of a package: their keys in caches. */
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

#endif
