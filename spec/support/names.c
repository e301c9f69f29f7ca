/*
** A name service for specs, preloaded in front of the system's: "slow…" and 1.2.3.4.5
** answer after eight seconds, "late…" after one, "again…" fails for the moment the first
** time, "meta…" is a cloud's metadata service, "two…" is 127.0.0.1 and 127.0.0.2, and any
** other name below ".spec" is 127.0.0.1.
*/
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *,
                   struct addrinfo **);

static atomic_int slow, most_slow, again;

__attribute__((visibility("default"))) int
getaddrinfo(const char *name, const char *service,
            const struct addrinfo *hints, struct addrinfo **found) {
  void *address = dlsym(RTLD_NEXT, "getaddrinfo");
  lookup *next;
  size_t len = name != NULL ? strlen(name) : 0;
  memcpy(&next, &address, sizeof next);
  bool digits = name != NULL && strcmp(name, "1.2.3.4.5") == 0;
  if (!digits && (len < 5 || strcmp(name + len - 5, ".spec") != 0))
    return next(name, service, hints, found);
  if (strncmp(name, "late", 4) == 0)
    sleep(1);
  if (digits || strncmp(name, "slow", 4) == 0) {
    int now = atomic_fetch_add(&slow, 1) + 1, most = atomic_load(&most_slow);
    while (now > most && !atomic_compare_exchange_weak(&most_slow, &most, now))
      ;
    if (getenv("SHOW_LOOKUPS") != NULL)
      fprintf(stderr, "%d at once\n", atomic_load(&most_slow));
    sleep(8);
    atomic_fetch_sub(&slow, 1);
    return EAI_NONAME;
  }
  if (strncmp(name, "again", 5) == 0 && atomic_fetch_add(&again, 1) == 0)
    return EAI_AGAIN;
  if (strncmp(name, "two", 3) == 0) {
    int failed = next("127.0.0.1", service, hints, found);
    struct addrinfo *last = failed == 0 ? *found : NULL;
    while (last != NULL && last->ai_next != NULL)
      last = last->ai_next;
    return failed != 0 ? failed : next("127.0.0.2", service, hints, &last->ai_next);
  }
  return next(strncmp(name, "meta", 4) == 0 ? "169.254.169.254" : "127.0.0.1",
              service, hints, found);
}
