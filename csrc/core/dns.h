/* Name lookups on threads of their own, with a short cache. */
#ifndef TR_DNS_H
#define TR_DNS_H

#include <stdatomic.h>
#include <stdbool.h>

/* The answer to a lookup. Immutable, and shared. */
typedef struct tr_dns_answer {
  atomic_size_t refs;
  int error;        /* 0, or of getaddrinfo: EAI_AGAIN and so on */
  int errnum;       /* errno with EAI_SYSTEM */
  char addresses[]; /* "192.0.2.1,[2001:db8::1]" */
} tr_dns_answer;

tr_dns_answer *tr_dns_retain(tr_dns_answer *answer);
void tr_dns_release(tr_dns_answer *answer); /* NULL is allowed */
/* Text for an answer's error. Static storage. */
const char *tr_dns_error(const tr_dns_answer *answer);

/* One who waits for an answer; part of a larger structure. */
typedef struct tr_dns_query {
  struct tr_dns_query *prev, *next;
  struct tr_dns_host *host; /* NULL: not waiting */
  void (*done)(struct tr_dns_query *query, tr_dns_answer *answer);
} tr_dns_query;

/* Return the answer in the cache, retained, or NULL. */
tr_dns_answer *tr_dns_cached(const char *host);

/*
** Look a name up. 'done' gets the answer, retained, on some thread, under the
** lock of this file: it may take the engine's lock and nothing else. At most 32
** lookups run at a time that somebody waits for; others wait. False when memory is short, or no thread
** can be had.
*/
bool tr_dns_start(tr_dns_query *query, const char *host);

/* After this 'done' is not called. A lookup under way goes on, for the cache. */
void tr_dns_cancel(tr_dns_query *query);

/* Registers the fork handlers. Call it after those of the engine are there. */
void tr_dns_prepare_fork(void);

#endif
