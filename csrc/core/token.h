/*
** The tokens of registries: one cache for the process, by registry, principal, caller and scope.
** The driver's, as the engine's queues are.
*/
#ifndef TR_TOKEN_H
#define TR_TOKEN_H

#include "auth.h"
#include "blob.h"
#include "challenge.h"
#include "table.h"

/* Scopes of one token. */
enum { TR_SCOPES_MAX = 16 };

struct tr_request;

typedef struct tr_token {
  size_t refs;
  double expires_at; /* of tr_now() */
  char line[];       /* "Authorization: Bearer …" */
} tr_token;

tr_token *tr_token_retain(tr_token *token);
void tr_token_release(tr_token *token); /* NULL is allowed */

/* The place of one token. One without a scope holds what its registry asks for. */
typedef struct tr_token_slot {
  tr_node node;
  struct tr_token_slot *prev, *next; /* by their last use */
  tr_token *token;                   /* or NULL */
  tr_challenge *challenge; /* without a scope: the last one that could be answered, or
                              NULL */
  tr_future *fetch;                  /* of a token under way, or NULL */
  struct tr_request *fetcher;        /* that fetches it */
  struct tr_request *waiting;        /* those that need it */
  /* Without a scope: the first request to the registry, until its answer shows whether it
  ** asks for credentials; others wait for that. */
  struct tr_request *asker;
  bool is_asked; /* it answered without a challenge */
  char key[];
} tr_token_slot;

/* The slot of a scope, for a principal and what else identifies the caller to a realm (see
** tr_request_caller); NULL: none. With 'make' it is made: NULL then means that memory is
** short. A slot that a fetch or a request uses stays, others may give way to new ones. */
tr_token_slot *tr_token_slot_get(const tr_auth *auth, const char *caller,
                                 const char *scope, bool make);

/* The token of a slot if it has not expired; not retained. NULL: none. */
tr_token *tr_token_slot_current(tr_token_slot *slot, double now);

/* Keep a challenge, or forget it with NULL. False: memory is short. */
bool tr_token_slot_keep(tr_token_slot *slot, const tr_challenge *challenge);

/* Put a token into its slot, or take it out with NULL. */
void tr_token_slot_set(tr_token_slot *slot, tr_token *token);

/* The scopes to ask a token for, each once, with blanks between them: those of the request,
** or, if it names none, of the challenge. A registry cannot have a caller get a token for
** more than the request needs. False: memory is short. */
bool tr_token_scopes(tr_buffer *out, const char *asked, const char *challenged);

/* Append the query of a request for a token, "service=…&scope=…&scope=…". False: memory is
** short. */
bool tr_token_query(tr_buffer *out, const char *service, const char *scopes);

/* Append the form that exchanges an identity token for a token. False: memory is short. */
bool tr_token_form(tr_buffer *out, const tr_auth *auth, const char *service,
                   const char *scopes);

/* Read the answer to a request that was sent at a moment. NULL, and the fault: a static
** string. */
tr_token *tr_token_read(const char *text, size_t len, double sent_at, const char **fault);

/* Forget every token: wipe it and free it. No slot is in use. */
void tr_token_forget_all(void);
/* In a child: leave what the parent's driver may have been changing. */
void tr_token_forget_inherited(void);

#endif
