/*
** One fetch, from its options to its result. request.c prepares the attempts
** and receives the bytes; response.c decides what the end of an attempt means.
** The engine runs the attempts and knows nothing of HTTP.
*/
#ifndef TR_REQUEST_H
#define TR_REQUEST_H

#include "blob.h"
#include "future.h"
#include "libcurl.h"

enum {
  /* How much of an error's body is read, to keep its connection alive. */
  TR_ERROR_BODY = 64 * 1024,
  /* Of one response. libcurl bounds a line, and older ones not their sum. */
  TR_MAX_HEADERS = 256 * 1024
};

typedef struct tr_request {
  struct tr_request *prev, *next; /* the engine's */
  tr_future *future;              /* held */
  CURL *easy;
  double not_before; /* a tr_now() moment; the next attempt waits for it */
  bool waiting;      /* waits for its turn: not in the multi handle */
  struct tr_origin *origin; /* the engine's: which origin's limit it uses */

  char *url;                  /* where we are now, after redirects */
  char *display_url;          /* the URL asked for, without user and password */
  struct curl_slist *headers; /* of this attempt */
  struct curl_slist
      *caller_headers; /* the caller's; not sent to another origin */
  tr_buffer body;
  tr_freshness freshness; /* of the response so far, to resume by */
  tr_blob *known;         /* what a 304 means; retained, or NULL */
  tr_freshness known_freshness;
  char digest[TR_HEX_MAX]; /* what the body must have, or empty */
  size_t max_bytes, discarded, header_bytes;
  double deadline;
  int redirects_left, retries_left, attempts;
  bool body_started;     /* the attempt's response has begun its body */
  bool resuming;         /* the attempt asks for what comes after 'body' */
  bool headers_complete; /* the blank line after the headers has come */
  bool range_mismatch;   /* the part that came is not the one asked for */
  bool too_large, no_memory;
  char refused_address[64]; /* a private address, or empty */
  char why[CURL_ERROR_SIZE];
} tr_request;

/* Return a request for 'future' with its handle configured. Takes the handle,
** on failure too. NULL with the error. */
tr_request *tr_request_new(tr_future *future, const char *url,
                           const tr_fetch_options *options, CURL *easy,
                           tr_error *error);

/* Frees all but the handle. */
void tr_request_free(tr_request *t);

/* Prepares the next attempt: at 'url', with what is left of the time. False
** when memory is short. */
bool tr_request_prepare(tr_request *t);

/* The attempt's HTTP status, 0 before there is one. */
long tr_request_status(const tr_request *t);

static inline bool tr_is_success(long status) {
  return status >= 200 && status <= 299;
}

/* Copies a response header's value, or empties 'to' when it is not there or
** too long to be sent back. */
void tr_request_copy_header(tr_request *t, const char *name,
                            char to[TR_VALIDATOR_MAX]);

/*
** An attempt has ended with 'code'. False: there is to be another, from
** 'not_before' on. True: it is over, with a blob (the caller's) or an error.
*/
bool tr_request_end_attempt(tr_request *t, CURLcode code, tr_blob **blob,
                            tr_error *error);

#endif
