/* The WWW-Authenticate header of a 401 (RFC 9110, 11.6.1). */
#ifndef TR_CHALLENGE_H
#define TR_CHALLENGE_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of all such headers of one response that are kept; more are dropped. */
enum { TR_CHALLENGE_MAX = 16 * 1024 };

/* The challenges that a registry's client can answer. */
typedef struct tr_challenge {
  bool basic;
  bool bearer; /* with a realm; the first one counts */
  char realm[2048], service[512], scope[4096];
} tr_challenge;

/*
** Read the values of all such headers, a line each; in each line are any number of
** challenges. A line is read up to its first fault, and a challenge that has a parameter
** twice, too long, or with a control character does not count. Return true if there is one
** that can be answered.
*/
bool tr_challenge_parse(tr_challenge *challenge, const char *text, size_t len);

#endif
