/*
** One fetch, from its options to its result: attempts (transfer.c) and what
** their ends mean (outcome.c). The engine (fetch.c) runs the attempts and
** knows nothing of HTTP.
*/
#ifndef TR_TRANSFER_H
#define TR_TRANSFER_H

#include "blob.h"
#include "future.h"
#include "libcurl.h"

enum {
  /* How much of an error's body is read, to keep its connection alive. */
  TR_ERROR_BODY = 64 * 1024,
  /* Of one response. libcurl bounds a line, and older ones not their sum. */
  TR_MAX_HEADERS = 256 * 1024
};

typedef struct tr_transfer {
  struct tr_transfer *prev, *next; /* the engine's */
  tr_future *future;               /* held */
  CURL *easy;
  double not_before; /* a tr_now() moment; the next attempt waits for it */
  bool resting;      /* waits for its turn: not in the multi handle */
  struct tr_origin *origin; /* the engine's: whom it counts for */

  char *url;                  /* where we are now, after redirects */
  char *shown;                /* the URL asked for, without user and password */
  struct curl_slist *headers; /* of this attempt */
  struct curl_slist *callers; /* the caller's; not sent to another origin */
  tr_buffer body;
  tr_freshness freshness; /* of the response so far, to resume by */
  tr_blob *known;         /* what a 304 means; retained, or NULL */
  tr_freshness known_freshness;
  char digest[TR_HEX_MAX]; /* what the body must have, or empty */
  size_t max_bytes, discarded, header_bytes;
  double deadline;
  int redirects_left, retries_left, attempts;
  bool answered; /* the attempt's response has begun its body */
  bool resuming; /* the attempt asks for what comes after 'body' */
  bool headed;   /* the blank line after the headers has come */
  bool misfit;   /* the part that came is not the one asked for */
  bool too_large, no_memory;
  char refused[64]; /* the private address that was not asked, or empty */
  char why[CURL_ERROR_SIZE];
} tr_transfer;

/* A transfer for 'future' with its handle configured. Takes the handle, on
** failure too. NULL with the error. */
tr_transfer *tr_transfer_new(tr_future *future, const char *url,
                             const tr_fetch_options *options, CURL *easy,
                             tr_error *error);

/* Frees all but the handle. */
void tr_transfer_free(tr_transfer *t);

/* Prepares the next attempt: at 'url', with what is left of the time. False
** when memory is short. */
bool tr_transfer_aim(tr_transfer *t);

/* The attempt's HTTP status, 0 before there is one. */
long tr_transfer_status(const tr_transfer *t);

static inline bool tr_is_success(long status) {
  return status >= 200 && status <= 299;
}

/* Copies a response header's value, or empties 'to' when it is not there or
** too long to be sent back. */
void tr_transfer_copy_header(tr_transfer *t, const char *name,
                             char to[TR_VALIDATOR_MAX]);

/*
** An attempt has ended with 'code'. False: there is to be another, from
** 'not_before' on. True: it is over, with a blob (the caller's) or an error.
*/
bool tr_transfer_over(tr_transfer *t, CURLcode code, tr_blob **blob,
                      tr_error *error);

#endif
