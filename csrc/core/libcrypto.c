/* Opens libraries that are optional. */
#include "libcrypto.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>

bool tr_library_find(const char *const *names, const tr_symbol *symbols) {
  void *library = NULL;
  for (; library == NULL && *names != NULL; names++)
    library = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL)
    return false;
  for (; symbols->name != NULL; symbols++) {
    void *address = dlsym(library, symbols->name);
    if (address == NULL)
      return false;
    /* POSIX lets an object pointer hold a function's address; ISO C does not. */
    memcpy(symbols->pointer, &address, sizeof address);
  }
  return true;
}

bool tr_libcrypto_find(const tr_symbol *symbols) {
  static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.1.1", NULL};
  static const uint64_t no_atexit = 0x00080000; /* OPENSSL_INIT_NO_ATEXIT */
  int (*init)(uint64_t, const void *);
  const tr_symbol first[] = {{"OPENSSL_init_crypto", &init}, {NULL, NULL}};
  /* Its exit handler frees what other threads still use; see libcurl.c. */
  return tr_library_find(names, first) && init(no_atexit, NULL) == 1 &&
         tr_library_find(names, symbols);
}
