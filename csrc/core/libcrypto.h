/* OpenSSL's libcrypto, opened when something needs it that mbedTLS lacks. */
#ifndef TR_LIBCRYPTO_H
#define TR_LIBCRYPTO_H

#include <stdbool.h>

/* A function to find, and the pointer that gets its address. */
typedef struct tr_symbol {
  const char *name;
  void *pointer;
} tr_symbol;

/* Open one of several libraries, the first that exists, and find functions in it; the
** lists end in NULL. It stays open. False if there is none, or a function is missing. */
bool tr_library_find(const char *const *names, const tr_symbol *symbols);

/* Find functions of libcrypto. */
bool tr_libcrypto_find(const tr_symbol *symbols);

#endif
