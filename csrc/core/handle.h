/*
** Configured handles of libcurl: what a fetch sets is set once for all fetches
** with the same options, and the handles are kept for the next.
*/
#ifndef TR_HANDLE_H
#define TR_HANDLE_H

#include "fetch_config.h"

struct tr_request;

typedef struct tr_handle {
  CURL *easy;
  tr_config *config;
  struct tr_request *request;     /* that it runs, or NULL */
  char url[256];                  /* that it has, or empty */
  struct curl_slist *set_headers; /* not owned: those of its config, or NULL */
  struct curl_slist *headers;     /* of this attempt alone, or NULL */
  struct curl_slist *addresses;
  double addresses_set; /* when libcurl got them last */
  bool one_time;        /* it has options of one attempt: not to be kept */
  bool secret;          /* its 'headers' are */
  bool fresh, no_ca_cache, paused;
  char proxy[128];
  char why[CURL_ERROR_SIZE];
  struct tr_handle *next;
} tr_handle;

/* A handle with this configuration, kept or new. NULL: memory is short, or this
** libcurl lacks an option ('*code' says which error). Driver only. */
tr_handle *tr_handle_get(tr_config *config, CURLcode *code);
/* Forget the headers of an attempt. Driver only. */
void tr_handle_clear_headers(tr_handle *handle);
/* Let an attempt under way have so many seconds in all to connect. Driver only. */
void tr_handle_give_time(tr_handle *handle, double seconds);
/* Give a handle back: to be kept if 'reusable'. Driver only. */
void tr_handle_release(tr_handle *handle, bool reusable);
/* Free the handles that are kept. */
void tr_handle_free_all(void);
/* In a child: forget the handles, which are the parent's. */
void tr_handle_forget_all(void);

#endif
