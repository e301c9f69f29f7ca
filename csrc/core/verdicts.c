/*
** Verdicts are in a table of fixed size: a hash chooses a row of eight, whose oldest makes
** room. So neither a lookup nor the memory grows, whatever is asked.
*/
#include "verdicts.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

enum {
  ROWS = 512,
  IN_ROW = 8,
  DIGITS = TR_HEX_MAX - 1,
  MAX_BY = 1024, /* bytes; longer ones are not remembered */
  MAX_TEXT = 2 * DIGITS + MAX_BY
};

typedef struct verdict {
  char *text; /* of the bytes, the requirement, and what was checked; NULL: unused */
  size_t len;
  uint64_t hash; /* of the text */
  tr_key_set signers;
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

/* Set the text of a verdict. False if it is too long. */
static bool set_text(verdict *v, char text[MAX_TEXT], const char *sha256,
                     const char *requirement, const char *by, size_t len) {
  if (len > MAX_BY)
    return false;
  memcpy(text, sha256, DIGITS);
  memcpy(text + DIGITS, requirement, DIGITS);
  memcpy(text + 2 * (size_t)DIGITS, by, len);
  *v = (verdict){.text = text, .len = 2 * (size_t)DIGITS + len};
  v->hash = tr_table_hash(text, v->len);
  return true;
}

/* Find a verdict in its row; NULL if there is none. */
static verdict *find(row *r, const verdict *wanted) {
  size_t i;
  for (i = 0; i < IN_ROW; i++) {
    verdict *v = r->verdicts + i;
    if (v->text != NULL && v->hash == wanted->hash && v->len == wanted->len &&
        memcmp(v->text, wanted->text, v->len) == 0)
      return v;
  }
  return NULL;
}

bool tr_verdict_find(const char *sha256, const char *requirement, const char *by,
                     size_t len, tr_key_set *signers) {
  char text[MAX_TEXT];
  verdict wanted, *found;
  *signers = 0;
  if (!set_text(&wanted, text, sha256, requirement, by, len))
    return false;
  lock_table();
  found = find(rows + wanted.hash % ROWS, &wanted);
  if (found != NULL)
    *signers = found->signers;
  pthread_mutex_unlock(&lock);
  return *signers != 0;
}

void tr_verdict_remember(const char *sha256, const char *requirement, const char *by,
                         size_t len, tr_key_set signers) {
  char text[MAX_TEXT], *unused = NULL;
  verdict fresh, *place;
  row *r;
  if (!set_text(&fresh, text, sha256, requirement, by, len))
    return;
  fresh.text = malloc(fresh.len);
  if (fresh.text == NULL)
    return;
  memcpy(fresh.text, text, fresh.len);
  fresh.signers = signers;
  r = rows + fresh.hash % ROWS;
  lock_table();
  place = find(r, &fresh);
  if (place == NULL) {
    place = r->verdicts + r->oldest;
    r->oldest = (unsigned char)((r->oldest + 1) % IN_ROW);
  }
  unused = place->text;
  *place = fresh;
  pthread_mutex_unlock(&lock);
  free(unused);
}

void tr_verdicts_forget(void) {
  size_t i, j;
  lock_table();
  for (i = 0; i < ROWS; i++)
    for (j = 0; j < IN_ROW; j++)
      free(rows[i].verdicts[j].text);
  memset(rows, 0, sizeof rows);
  memset(asked, 0, sizeof asked);
  pthread_mutex_unlock(&lock);
}

bool tr_verdicts_noted(const char *sha256, const char *what, bool note) {
  char both[2 * TR_HEX_MAX], digest[TR_HEX_MAX];
  question_row *r;
  bool found = false;
  size_t i;
  tr_digest(TR_SHA256, what, strlen(what), digest);
  snprintf(both, sizeof both, "%s%s", sha256, digest);
  tr_digest(TR_SHA256, both, strlen(both), digest);
  r = asked + tr_table_hash(digest, DIGITS) % ROWS;
  lock_table();
  for (i = 0; i < IN_ROW && !found; i++)
    found = memcmp(r->questions[i].digest, digest, DIGITS) == 0;
  if (note && !found) {
    memcpy(r->questions[r->oldest].digest, digest, DIGITS);
    r->oldest = (unsigned char)((r->oldest + 1) % IN_ROW);
  }
  pthread_mutex_unlock(&lock);
  return found;
}
