/*
** One fetch, from its options to its result, over any number of attempts.
** request.c sends an attempt, headers.c and receive.c receive its response, response.c
** decides what the end of an attempt means. The engine runs the attempts and knows nothing
** of HTTP.
*/
#ifndef TR_REQUEST_H
#define TR_REQUEST_H

#include "blob.h"
#include "dns.h"
#include "future.h"
#include "gzip.h"
#include "handle.h"
#include "hasher.h"
#include "http.h"
#include "message.h"
#include "proxy.h"
#include "signer.h"
#include "token.h"

enum {
  /* How much of an error's body is read, to keep its connection alive. */
  TR_ERROR_BODY = 64 * 1024,
  TR_REFUSAL_MAX = 8 * 1024, /* kept of an object store's, for its reason */
  TR_ERROR_SECONDS = 1, /* and for how long */
  /* Of one response. libcurl bounds a line, and older ones not their sum. */
  TR_MAX_HEADERS = 256 * 1024
};

/* The state of a request; the engine's. */
typedef enum tr_request_state {
  TR_REQUEST_NEW,     /* submitted, not seen by the driver yet */
  TR_REQUEST_LOOKUP,  /* waits for the address of its host */
  TR_REQUEST_TOKEN,   /* waits for a token */
  TR_REQUEST_QUEUED,  /* waits for its turn at its origin */
  TR_REQUEST_RUNNING, /* in the multi handle */
  TR_REQUEST_RESTING, /* waits before a retry */
  TR_REQUEST_HASHING  /* has its body, waits for the digest */
} tr_request_state;

/* The thing that a request in TR_REQUEST_TOKEN waits for; see authorize.c. */
typedef enum tr_wait {
  TR_WAIT_NONE,
  TR_WAIT_ANSWER, /* the first answer of its registry, to another request */
  TR_WAIT_TOKEN,
  TR_WAIT_OVER,  /* nothing more: it goes on */
  TR_WAIT_FAILED /* nothing more: there is no token */
} tr_wait;

/* The response of the current attempt, so far. */
typedef struct tr_response {
  int status;
  bool amid_headers;     /* its status line has come, and no blank line yet */
  bool complete_headers; /* the blank line of a final response has come */
  bool http2, chunked, has_length, bad_length, has_range, other_encoding, gzip;
  bool framing; /* the last line was of a header that says where the body ends */
  bool bad_header;
  bool no_store;     /* Cache-Control: no-store, or private */
  bool body_started; /* its body is being received */
  uint64_t length;   /* of the body as sent */
  uint64_t range_start, range_end, range_total; /* total 0: "*" */
  bool has_retry_after;
  double retry_after; /* seconds; 0: at once */
  char etag[TR_VALIDATOR_MAX], last_modified[TR_VALIDATOR_MAX];
  char date[TR_DATE_MAX], content_type[128];
  char content_digest[80]; /* of a registry's answer, as it tells */
  char bucket_region[TR_REGION_MAX]; /* that an object store tells */
  char *location; /* or NULL */
  char *challenge; /* of a 401: WWW-Authenticate, a line for each; or NULL */
} tr_response;

/* The options of a host that a redirect may lead to. */
typedef struct tr_hop {
  char *host; /* or "host:port" */
  tr_config *config;
} tr_hop;

typedef struct tr_request {
  tr_promise *promise; /* retained */
  tr_config *config;   /* of the host that is asked now */
  tr_config *asked_config; /* of the one asked first */
  tr_hop *hops;
  size_t hop_count;

  /* Of the engine. */
  tr_request_state state;
  tr_handle *handle; /* while it runs */
  struct tr_origin *origin;
  struct tr_request *prev, *next;   /* in its origin's queue, or posted */
  struct tr_request *all_prev, *all_next;
  size_t heap_index;                /* 1 and up; 0: not in the heap */
  double wake_at;
  struct tr_request *posted_next;
  bool posted, adopted, looked_up, hashed;
  void (*on_hashed)(void *request);
  void (*on_connected)(struct tr_request *request);
  void (*start)(struct tr_request *other); /* submit another, from the driver */
  void (*wake)(struct tr_request *request); /* have the driver look at it again */
  tr_dns_query query;
  tr_dns_answer *answer; /* retained, or NULL */

  /* The attempt. */
  tr_url url;        /* where it goes, after redirects */
  tr_url asked;      /* where the reference led first, if there was a redirect */
  char *shown;       /* the reference asked for, for messages */
  tr_proxy proxy;
  const char *lookup_host; /* the name to look up, the URL's or the proxy's; or NULL */
  int lookup_port;
  bool conditional;  /* a 304 may come */
  bool first_origin; /* on the origin asked for: its secrets may be sent */
  bool fresh_connection, plain_encoding, resuming, connected, reused;
  char *userinfo;    /* of the reference, or NULL */
  tr_response response;
  size_t discarded, header_bytes, taken; /* in the turn that began at 'turn' */
  double turn, headers_at;
  double started, connect_by, last_progress, not_before;
  double lookup_seconds; /* of the connect timeout, that the lookup took */
  uint64_t connection; /* the number of its socket, which others may share; or 0 */
  char refused[64]; /* an address that may not be asked, or empty */
  bool link_local;  /* it is refused whatever the options say */
  int tried_addresses, socket_errno;
  const char *fault; /* of the response, or NULL; static */
  bool too_large, no_memory, range_mismatch, stalled, out_of_step;

  /* The body so far, over attempts. */
  tr_buffer body;
  uint64_t total;         /* of the whole body; 0: not known */
  uint64_t part_end;      /* of what has been received and is under way */
  bool total_known;
  size_t resumed_from;
  char etag[TR_VALIDATOR_MAX], last_modified[TR_VALIDATOR_MAX]; /* its own */
  char body_date[TR_DATE_MAX];
  tr_gzip *gunzip;
  tr_hasher *hasher;
  bool hashing;    /* the hasher has a part */
  size_t fed;

  /* Its message, if it is not a plain fetch. */
  tr_message *message;
  tr_buffer fields; /* of the response to one, or of an object store (tr_message_keep_field) */

  /* Its authentication; see authorize.c. */
  tr_auth *auth; /* retained, or NULL */
  char *auth_scope;
  char caller[TR_HEX_MAX]; /* of tr_request_caller; empty without 'auth' */
  const char *authorization; /* a header line, of 'auth' or of the token; or NULL */
  tr_token *token;           /* retained, or NULL */
  bool token_is_new;         /* and the registry has not taken it yet */
  int auth_rounds;           /* challenges since it took the last one */
  tr_wait wait;
  tr_token_slot *slot;       /* in whose list it waits, or NULL */
  struct tr_request *slot_prev, *slot_next;
  tr_token_slot *asks; /* the registry whose first answer it brings, or NULL */
  void (*on_answer)(struct tr_request *request); /* once its headers are here; or NULL */
  bool has_held;     /* it has waited for another's first answer */
  bool guess_failed; /* no token without a challenge to this request */
  double hold_until; /* while it waits for an answer; or never */
  tr_error *token_error;  /* malloc'ed, or NULL */
  tr_token_slot *fetches; /* whose token it brings, or NULL */

  /* Its signatures; see sign.c and resign.c. */
  tr_signer *signer;          /* retained, or NULL */
  char region[TR_REGION_MAX]; /* that it is signed for */
  char told_region[TR_REGION_MAX]; /* that the server wants, or empty */
  char code[64], why[256];    /* of a refusal, or empty */
  tr_buffer refusal;          /* its body */
  int region_moves;
  bool skew_tried;
  bool may_be_link_local; /* it asks for the credentials that clouds keep there */

  /* For the whole fetch. */
  tr_blob *known; /* the meaning of a 304; retained, or NULL */
  tr_record *known_record; /* if there is a known blob */
  char *hosts; /* that it was redirected to (tr_hosts_add), or NULL */
  size_t hosts_len;
  bool from_private; /* a peer had a private address */
  bool no_store;     /* a server allowed no cache that others may read */
  bool open_ended;   /* no length marked the end of the body */
  char digest[TR_HEX_MAX]; /* that the body must have, or empty */
  bool told_digest; /* by the registry, not by the caller */
  size_t max_bytes;
  double submitted, deadline, timeout, stall_timeout;
  int redirects_left, retries_left, attempts, parts_left, step_retries;
  bool refuse_private, require_length, moved;
  bool renewed; /* it has gone back from where a redirect led to where it began */
  bool timed_out; /* its own 'timeout' is over */
  tr_info *info; /* filled in as it goes */
} tr_request;

/* The limits of one call of libcurl; the driver's. libcurl reads a connection on for
** as long as bytes come, up to 12 MiB, while all others wait. */
typedef struct tr_turn {
  double now;        /* bytes come too often to ask for the time each time */
  size_t share;      /* bytes of one body, after which it is paused */
  tr_handle *paused; /* by 'next', for the driver to go on with */
} tr_turn;
extern tr_turn tr_request_turn;

/* A request may have these beside the options of a fetch. */
typedef struct tr_request_extra {
  const tr_send_options *send; /* NULL: a plain fetch */
  tr_auth *auth;               /* NULL: none */
  const char *auth_scope; /* such as "repository:name:pull"; NULL: the registry tells */
  tr_signer *signer; /* NULL: none */
} tr_request_extra;

/* A request for a promise; 'extra' may be NULL. NULL with the error. */
tr_request *tr_request_new(tr_promise *promise, const char *url,
                           const tr_fetch_options *options,
                           const tr_request_extra *extra, tr_error *error);
void tr_request_free(tr_request *r); /* NULL is allowed */

/* Aim at 'r->url': choose the proxy, and the name to look up. False with the error. */
bool tr_request_route(tr_request *r, tr_error *error);

/* Prepare the next attempt on a handle of its configuration. False: memory is
** short. */
bool tr_request_send(tr_request *r, tr_handle *handle);

/* Note a host that the fetch was redirected to. False: memory is short. */
bool tr_request_add_host(tr_request *r, const char *host);

/* Forget a response. */
void tr_response_clear(tr_response *response);

/* The names of libcurl's callbacks; the context is a tr_handle. */
size_t tr_request_on_header(char *data, size_t size, size_t count,
                            void *handle);
size_t tr_request_on_body(char *data, size_t size, size_t count, void *handle);

/* Unpack more of a piece that was too much for one turn. False: the attempt fails. */
bool tr_request_unpack_more(tr_request *r);

/* Forget the body, to begin again. */
void tr_request_reset_body(tr_request *r);

/* Begin a body that may have no bytes. False: it does not fit what there is. */
bool tr_request_begin_body(tr_request *r);

static inline bool tr_is_success(int status) {
  return status >= 200 && status <= 299;
}

/* True if the status decides already, and the rest of the body is not wanted. */
static inline bool tr_request_is_decided(const tr_request *r) {
  return r->response.complete_headers && r->response.status >= 300 && r->message == NULL;
}

/* The next step of a request after an attempt. */
typedef enum tr_verdict {
  TR_VERDICT_DONE,  /* with a blob (the caller's) or an error */
  TR_VERDICT_AGAIN, /* another attempt, from 'not_before' on */
  TR_VERDICT_TOKEN, /* another one, with a token that it waits for */
  TR_VERDICT_HASH   /* with its digest */
} tr_verdict;

/* An attempt has ended with a CURLcode. */
tr_verdict tr_request_end_attempt(tr_request *r, int code, tr_blob **blob,
                                  tr_error *error);
/* The hasher is done: the blob (the caller's) or the error. */
void tr_request_end_hashing(tr_request *r, tr_blob **blob, tr_error *error);

/* Its time is up, wherever it is. */
void tr_request_time_out(tr_request *r, size_t running, tr_error *error);

#endif
