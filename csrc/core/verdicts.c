/*
** Verdicts are in a table of fixed size: a key's digests choose a row of eight, whose
** oldest makes room. So neither a lookup nor the memory grows, whatever is asked.
*/
#include "verdicts.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 512, IN_ROW = 8, DIGITS = TR_HEX_MAX - 1 };

typedef struct verdict {
  char sha256[DIGITS], requirement[DIGITS], documents[DIGITS]; /* without final zeros */
  tr_key_set signers;                                          /* 0: unused */
} verdict;

typedef struct row {
  verdict verdicts[IN_ROW];
  unsigned char oldest;
} row;

/* A text about bytes, as its digest; all zeros: unused. */
typedef struct question {
  char digest[DIGITS];
} question;

typedef struct question_row {
  question questions[IN_ROW];
  unsigned char oldest;
} question_row;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static row rows[ROWS];
static question_row asked[ROWS];

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void at_fork(void) { pthread_atfork(before_fork, after_fork, after_fork); }

static void lock_table(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&lock);
}

/* Digits of a digest are as good as random: a few choose a row. */
static size_t row_of(const char *a, const char *b) {
  uint64_t x, y;
  memcpy(&x, a, sizeof x);
  memcpy(&y, b, sizeof y);
  return (size_t)(((x ^ (y << 1)) * UINT64_C(0x9E3779B97F4A7C15)) >> 55);
}

/* Fill in the key of a verdict. */
static void set_key(verdict *v, const char *sha256, const char *requirement,
                    const char *documents) {
  memcpy(v->sha256, sha256, DIGITS);
  memcpy(v->requirement, requirement, DIGITS);
  if (documents[0] != '\0')
    memcpy(v->documents, documents, DIGITS);
  else
    memset(v->documents, 0, DIGITS);
}

/* Find a verdict by its key in its row; NULL if there is none. */
static verdict *find(row *r, const verdict *key) {
  size_t i;
  for (i = 0; i < IN_ROW; i++)
    if (r->verdicts[i].signers != 0 &&
        memcmp(&r->verdicts[i], key, 3 * (size_t)DIGITS) == 0)
      return r->verdicts + i;
  return NULL;
}

bool tr_verdict_find(const char *sha256, const char *requirement, const char *documents,
                     tr_key_set *signers) {
  verdict key, *found;
  set_key(&key, sha256, requirement, documents);
  lock_table();
  found = find(rows + row_of(sha256, requirement), &key);
  *signers = found != NULL ? found->signers : 0;
  pthread_mutex_unlock(&lock);
  return *signers != 0;
}

void tr_verdict_remember(const char *sha256, const char *requirement,
                         const char *documents, tr_key_set signers) {
  row *r = rows + row_of(sha256, requirement);
  verdict key, *place;
  set_key(&key, sha256, requirement, documents);
  key.signers = signers;
  lock_table();
  place = find(r, &key);
  if (place == NULL) {
    place = r->verdicts + r->oldest;
    r->oldest = (unsigned char)((r->oldest + 1) % IN_ROW);
  }
  *place = key;
  pthread_mutex_unlock(&lock);
}

void tr_verdicts_forget(void) {
  lock_table();
  memset(rows, 0, sizeof rows);
  memset(asked, 0, sizeof asked);
  pthread_mutex_unlock(&lock);
}

bool tr_verdicts_first_time(const char *sha256, const char *what) {
  char both[2 * TR_HEX_MAX], digest[TR_HEX_MAX];
  question_row *r;
  bool first = true;
  size_t i;
  tr_digest(TR_SHA256, what, strlen(what), digest);
  snprintf(both, sizeof both, "%s%s", sha256, digest);
  tr_digest(TR_SHA256, both, strlen(both), digest);
  r = asked + row_of(digest, digest + 8);
  lock_table();
  for (i = 0; i < IN_ROW && first; i++)
    first = memcmp(r->questions[i].digest, digest, DIGITS) != 0;
  if (first) {
    memcpy(r->questions[r->oldest].digest, digest, DIGITS);
    r->oldest = (unsigned char)((r->oldest + 1) % IN_ROW);
  }
  pthread_mutex_unlock(&lock);
  return first;
}
