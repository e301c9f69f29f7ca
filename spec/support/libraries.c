/* Preloaded by a spec: hides libraries whose names hold a word of HIDDEN_LIBRARIES, which
** commas separate. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_hidden(const char *name) {
  const char *word = getenv("HIDDEN_LIBRARIES");
  while (word != NULL && *word != '\0') {
    size_t len = strcspn(word, ",");
    if (memmem(name, strlen(name), word, len) != NULL)
      return true;
    word += len + (word[len] == ',');
  }
  return false;
}

__attribute__((visibility("default"))) void *dlopen(const char *name, int flags) {
  void *(*open_library)(const char *, int) = NULL;
  void *address = dlsym(RTLD_NEXT, "dlopen");
  memcpy(&open_library, &address, sizeof address);
  return name != NULL && is_hidden(name) ? NULL : open_library(name, flags);
}
