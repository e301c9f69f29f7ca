/* Structs of options that may grow: each begins with its size. */
#ifndef TR_OPTIONS_H
#define TR_OPTIONS_H

#include <string.h>

#include "error.h"

/*
** Copy the caller's options over the defaults in 'to', a struct of 'size' bytes.
** A caller compiled against an older header has a smaller one. NULL: the
** defaults. False with the error if 'from' was not initialised.
*/
static inline bool tr_options_copy(void *to, size_t size, const void *from,
                                   const char *macro, tr_error *error) {
  size_t given;
  if (from == NULL)
    return true;
  memcpy(&given, from, sizeof given);
  if (given > sizeof given && given <= size) {
    memcpy(to, from, given);
    return true;
  }
  tr_error_set(error, TR_POLICY,
               "options that were not initialised: write '= %s' where they are "
               "defined",
               macro);
  return false;
}

#endif
