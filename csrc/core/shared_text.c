/*
** Texts by name, as few as a process has sources of credentials. They stay in memory after
** their time, until another takes their place: nothing waits to remove them.
*/
#include "shared_text.h"

#include <mbedtls/platform_util.h>
#include <pthread.h>
#include <string.h>

#include "future.h"

enum { TEXTS = 64, LONGEST = 64 * 1024 };

typedef struct shared_text {
  tr_buffer name, text; /* without a name: unused */
  double until;
} shared_text;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static shared_text texts[TEXTS];
static size_t next_text; /* to be replaced */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void prepare_fork(void) { pthread_atfork(before_fork, after_fork, after_fork); }

static void take_lock(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, prepare_fork);
  pthread_mutex_lock(&lock);
}

void tr_shared_free(tr_buffer *text) {
  if (text->data != NULL)
    mbedtls_platform_zeroize(text->data, text->cap);
  tr_buffer_free(text);
}

/* Find a text. The lock is held. */
static shared_text *find(const char *name, size_t len) {
  size_t i;
  for (i = 0; i < TEXTS; i++)
    if (texts[i].name.len == len && texts[i].name.data != NULL &&
        memcmp(texts[i].name.data, name, len) == 0)
      return &texts[i];
  return NULL;
}

/* Forget a text. The lock is held. */
static void forget(shared_text *one) {
  tr_buffer_free(&one->name);
  tr_shared_free(&one->text);
}

bool tr_shared_get(const char *name, size_t len, tr_buffer *text) {
  const shared_text *one;
  bool found;
  take_lock();
  one = find(name, len);
  found = one != NULL && tr_now() < one->until &&
          tr_buffer_reserve(text, one->text.len + 1) &&
          tr_buffer_append(text, one->text.data, one->text.len);
  pthread_mutex_unlock(&lock);
  return found;
}

void tr_shared_set(const char *name, size_t len, const char *text, size_t size,
                   double seconds) {
  shared_text *one;
  take_lock();
  one = find(name, len);
  if (one != NULL)
    forget(one);
  if (text != NULL && len > 0 && len <= LONGEST && size <= LONGEST) {
    one = &texts[next_text];
    next_text = (next_text + 1) % TEXTS;
    forget(one);
    one->until = tr_now() + seconds;
    if (!tr_buffer_append(&one->name, name, len) ||
        !tr_buffer_reserve(&one->text, size + 1) ||
        !tr_buffer_append(&one->text, text, size))
      forget(one);
  }
  pthread_mutex_unlock(&lock);
}
