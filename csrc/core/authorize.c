/*
** A registry answers 401 and names a realm, which hands out tokens. The token is fetched by
** a request of its own, for all that need the same one; they wait for it, each within its
** own deadline, and then go on.
*/
#include "authorize.h"

#include <math.h>
#include <mbedtls/platform_util.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "http.h"
#include "redact.h"

enum {
  MAX_ROUNDS = 4,        /* of credentials that the registry refuses */
  TOKEN_RETRIES = 2,
  ANSWER_MAX = 256 * 1024 /* bytes of a realm's answer */
};
/* Those that wait have deadlines of their own, or none. */
static const double TOKEN_SECONDS = 60;
/* Requests to a registry wait so long for the answer to the first one, which tells how to
** authenticate: else each of them would be challenged. */
static const double HOLD = 0.3;

/* True if a request may have credentials: at the registry, which no redirect has left. */
static bool is_at_registry(const tr_request *r) {
  return r->auth != NULL && r->first_origin && tr_auth_covers(r->auth, &r->url);
}

/* The slot of a scope for a request; see tr_token_slot_get. */
static tr_token_slot *slot_of(const tr_request *r, const char *scope, bool make) {
  return tr_token_slot_get(r->auth, r->caller, scope, make);
}

/* ---------------------------------------------------------------------- waiting */

static void wait_for(tr_request *r, tr_token_slot *slot, double hold_until) {
  r->slot = slot;
  r->hold_until = hold_until;
  r->slot_prev = NULL;
  r->slot_next = slot->waiting;
  if (slot->waiting != NULL)
    slot->waiting->slot_prev = r;
  slot->waiting = r;
}

/* Wait no more. The fetch that nobody waits for ends. */
static void leave(tr_request *r) {
  tr_token_slot *slot = r->slot;
  tr_future *fetch;
  if (slot == NULL)
    return;
  r->slot = NULL;
  *(r->slot_prev != NULL ? &r->slot_prev->slot_next : &slot->waiting) = r->slot_next;
  if (r->slot_next != NULL)
    r->slot_next->slot_prev = r->slot_prev;
  if (slot->waiting != NULL || slot->fetch == NULL)
    return;
  fetch = slot->fetch;
  slot->fetcher->fetches = NULL;
  slot->fetcher = NULL;
  slot->fetch = NULL;
  tr_future_release(fetch);
}

/* Have a request send a token from now on. 'is_new': there is no better one. */
static void take_token(tr_request *r, tr_token *token, bool is_new) {
  tr_token_release(r->token);
  r->token = tr_token_retain(token);
  r->authorization = token->line;
  r->token_is_new = is_new;
}

/* End the waiting of a request, with a token or an error. */
static void settle(tr_request *r, tr_token *token, const tr_error *error) {
  leave(r);
  if (token != NULL) /* without a challenge, the scope was a guess */
    take_token(r, token, r->auth_rounds > 0);
  else if ((r->token_error = malloc(sizeof *error)) != NULL)
    *r->token_error = *error;
  r->token_settled = true;
  r->wake(r);
}

/* Remember a challenge for the next requests to the registry, or forget it with NULL.
** Without memory for it, they are challenged again. */
static void remember(const tr_request *r, const tr_challenge *challenge) {
  tr_token_slot *registry = slot_of(r, "", challenge != NULL);
  if (registry != NULL)
    tr_token_slot_keep(registry, challenge);
}

void tr_authorize_accepted(tr_request *r) {
  static const tr_challenge basic = {.basic = true};
  if (!is_at_registry(r))
    return;
  if (r->auth_rounds > 0 && r->authorization != NULL && r->token == NULL)
    remember(r, &basic);
  r->token_is_new = false;
  r->auth_rounds = 0;
}

void tr_authorize_release(tr_request *r) {
  leave(r);
  r->held = true;
}

/* A registry's first answer has come, or will not come: those that wait go on. */
static void stop_asking(tr_request *r) {
  tr_token_slot *registry = r->asks;
  r->on_answer = NULL;
  r->asks = NULL;
  if (registry == NULL)
    return;
  registry->asker = NULL;
  while (registry->waiting != NULL) {
    tr_request *other = registry->waiting;
    tr_authorize_release(other);
    other->token_settled = true;
    other->wake(other);
  }
}

/* tr_request.on_answer: a challenge is an answer only if it can be answered itself. */
static void on_answer(tr_request *r) {
  if (r->response.status == 401)
    return;
  tr_authorize_accepted(r);
  if (r->asks != NULL)
    r->asks->is_asked = true;
  stop_asking(r);
}

/* Find out whether a registry asks for credentials. True: another request does, and this
** one waits. One that has waited in vain takes the other's place: a repository that does not
** answer must not hold up those after it. */
static bool ask_registry(tr_request *r) {
  tr_token_slot *registry = slot_of(r, "", true);
  tr_request *asker = registry != NULL ? registry->asker : NULL;
  if (registry == NULL || registry->is_asked || asker == r)
    return false;
  if (asker != NULL && !r->held) {
    wait_for(r, registry, tr_now() + HOLD);
    return true;
  }
  if (asker != NULL) {
    asker->asks = NULL;
    asker->on_answer = NULL;
  }
  registry->asker = r;
  r->asks = registry;
  r->on_answer = on_answer;
  return false;
}

bool tr_authorize_resume(tr_request *r, tr_error *error) {
  bool held = r->held && r->token_error == NULL;
  r->token_settled = false;
  if (held || (r->token_error == NULL && r->authorization != NULL))
    return true;
  if (r->token_error != NULL)
    tr_error_set(error, r->token_error->kind, "Failed to fetch from %s: cannot get a token: %s",
                 r->shown, r->token_error->message);
  else
    tr_error_nomem(error);
  if (r->token_error != NULL)
    error->status = r->token_error->status;
  return false;
}

/* ---------------------------------------------------------------------- fetching */

/* Refuse a realm: TR_VERDICT_DONE. */
static tr_verdict refuse_realm(const tr_request *r, const char *realm, const char *fault,
                               bool is_host, tr_error *error) {
  char *shown = tr_displayed(realm);
  tr_error_set(error, TR_DENIED,
               "Failed to fetch from %s: its registry wants tokens from %s, where "
               "credentials must not go: %s%s",
               r->shown, shown != NULL ? shown : "?", fault,
               is_host ? "; to allow it, add its host and port to realm_hosts" : "");
  free(shown);
  return TR_VERDICT_DONE;
}

/* Leave out of the options what identifies the caller: everything, unless it is meant for
** the realm, which the registry alone may have chosen. */
static void stay_anonymous(tr_fetch_options *o, bool is_meant, bool is_own) {
  o->netrc = false;
  if (!is_meant)
    o->headers = NULL;
  if (!is_meant && !is_own) {
    o->client_cert = o->client_key = NULL;
    o->unix_socket = NULL;
  }
}

/* The options of a request to a realm: those of the registry if it is there, too, else
** those of its own host, and nothing else that identifies the caller. */
static void choose_options(const tr_request *r, const tr_url *realm, tr_fetch_options *o) {
  const tr_config *config = NULL, *others = r->asked_config;
  bool is_own = strcmp(realm->host, r->auth->registry.host) == 0 &&
                realm->port == r->auth->registry.port;
  int best = 0;
  size_t i;
  for (i = 0; i < r->hop_count; i++) {
    int match = tr_host_match(r->hops[i].host, realm->host, realm->port);
    if (match > best) {
      best = match;
      config = r->hops[i].config;
    }
  }
  if (config == NULL && !is_own)
    for (i = 0; i < r->hop_count; i++)
      if (strcmp(r->hops[i].host, "*") == 0)
        others = r->hops[i].config;
  tr_config_options(config != NULL ? config : others, o);
  o->redirect_hosts = NULL;
  stay_anonymous(o, config != NULL && tr_auth_trusts(r->auth, realm), is_own);
  o->refuse_private = r->refuse_private;
  o->timeout = TOKEN_SECONDS;
  o->retries = TOKEN_RETRIES;
  o->max_bytes = ANSWER_MAX;
}

/* A request to a realm: its URL, and its message. */
typedef struct realm_request {
  tr_buffer url, form;
  tr_send_options send;
  const char *headers[2];
} realm_request;

static bool describe_request(realm_request *q, const tr_request *r, const tr_url *realm,
                             const char *service, const char *scopes) {
  const char *join = strchr(realm->text, '?') != NULL ? "&" : "?";
  const tr_auth *auth = r->auth;
  q->send.no_redirects = q->send.secret = true;
  q->send.headers = q->headers;
  if (!tr_buffer_append(&q->url, realm->text, strlen(realm->text)))
    return false;
  if (auth->identity_token != NULL) {
    q->headers[0] = "Content-Type: application/x-www-form-urlencoded";
    q->send.method = TR_POST;
    if (!tr_token_form(&q->form, auth, service, scopes))
      return false;
    q->send.body = tr_buffer_to_blob(&q->form);
    if (q->send.body == NULL)
      return false;
  } else {
    q->headers[0] = auth->basic;
    if ((service[0] != '\0' || scopes[0] != '\0') &&
        !(tr_buffer_append(&q->url, join, 1) && tr_token_query(&q->url, service, scopes)))
      return false;
  }
  return tr_buffer_append(&q->url, "", 1);
}

/* Make the request for a token. NULL with the error. */
static tr_request *make_fetcher(tr_request *r, tr_token_slot *slot, const tr_url *realm,
                                const tr_challenge *challenge, tr_error *error) {
  tr_fetch_options options = TR_FETCH_OPTIONS;
  realm_request q = {0};
  tr_request_extra extra = {.send = &q.send};
  tr_buffer scopes = {0};
  tr_promise *promise = tr_promise_new(NULL, NULL);
  tr_request *fetcher = NULL;
  if (promise != NULL)
    slot->fetch = tr_promise_future(promise, false);
  tr_error_nomem(error);
  choose_options(r, realm, &options);
  if (slot->fetch != NULL &&
      tr_token_scopes(&scopes, r->auth_scope, challenge->scope) &&
      describe_request(&q, r, realm, challenge->service, scopes.data))
    fetcher = tr_request_new(promise, q.url.data, &options, &extra, error);
  if (fetcher == NULL) {
    tr_future_release(slot->fetch);
    slot->fetch = NULL;
  }
  if (promise != NULL)
    tr_promise_release(promise);
  if (fetcher == NULL && q.send.body != NULL) /* else it does so itself */
    mbedtls_platform_zeroize((void *)tr_blob_data(q.send.body),
                             tr_blob_size(q.send.body));
  tr_blob_release(q.send.body);
  if (q.form.data != NULL)
    mbedtls_platform_zeroize(q.form.data, q.form.cap);
  tr_buffer_free(&q.form);
  tr_buffer_free(&q.url);
  tr_buffer_free(&scopes);
  return fetcher;
}

/* Fetch a token unless that is under way. False with the error. */
static bool start_fetch(tr_request *r, tr_token_slot *slot, const tr_url *realm,
                        const tr_challenge *challenge, tr_error *error) {
  if (slot->fetch != NULL)
    return true;
  slot->fetcher = make_fetcher(r, slot, realm, challenge, error);
  if (slot->fetcher == NULL)
    return false;
  slot->fetcher->fetches = slot;
  r->start(slot->fetcher);
  return true;
}

/* Wait for a token of a realm that the registry has named. */
static tr_verdict get_token(tr_request *r, tr_token_slot *slot,
                            const tr_challenge *challenge, tr_error *error) {
  tr_url realm;
  bool is_host, started;
  const char *fault =
      tr_auth_check_realm(r->auth, challenge->realm, &realm, &is_host);
  if (fault != NULL)
    return refuse_realm(r, challenge->realm, fault, is_host, error);
  started = start_fetch(r, slot, &realm, challenge, error);
  tr_url_free(&realm);
  if (!started)
    return TR_VERDICT_DONE;
  wait_for(r, slot, HUGE_VAL);
  return TR_VERDICT_TOKEN;
}

/* ------------------------------------------------------------------- the answer */

/* The error of a status that brings no token. */
static void explain_status(const tr_request *fetcher, int status, tr_error *error) {
  bool denied = status == 401 || status == 403 || status == 404;
  bool moved = status >= 300 && status <= 399;
  tr_error_set(error, moved ? TR_DENIED : TR_HTTP_STATUS, "%s answered %d %s%s",
               fetcher->shown, status, tr_reason_phrase(status),
               denied  ? " (the repository does not exist, or needs credentials)"
               : moved ? ", and is not followed through redirects"
                       : "");
  error->status = status;
}

/* Read the token of an answer. NULL with the error. */
static tr_token *read_answer(const tr_request *fetcher, const tr_blob *blob,
                             tr_error *error) {
  const char *fault;
  tr_token *token;
  if (!tr_is_success(fetcher->response.status)) {
    explain_status(fetcher, fetcher->response.status, error);
    return NULL;
  }
  token = tr_token_read(tr_blob_data(blob), tr_blob_size(blob), fetcher->started, &fault);
  if (token == NULL)
    tr_error_set(error, TR_NETWORK, "%s: %s", fetcher->shown, fault);
  return token;
}

/* Give those that wait what a fetch has brought. */
static void end_fetch(tr_token_slot *slot, tr_token *token, const tr_error *error) {
  tr_future *fetch = slot->fetch;
  tr_token_slot_set(slot, token);
  if (token == NULL && slot->waiting != NULL) /* it may name another realm by now */
    remember(slot->waiting, NULL);
  slot->fetch = NULL;
  slot->fetcher = NULL;
  while (slot->waiting != NULL)
    settle(slot->waiting, token, error);
  tr_future_release(fetch);
}

void tr_authorize_finish(tr_request *r, const tr_blob *blob, const tr_error *error) {
  tr_token_slot *slot = r->fetches;
  tr_error why;
  tr_token *token = NULL;
  leave(r);
  stop_asking(r);
  if (slot != NULL) {
    r->fetches = NULL;
    if (blob != NULL)
      token = read_answer(r, blob, &why);
    else if (error != NULL)
      why = *error;
    else
      tr_error_set(&why, TR_CANCELLED, "the engine was shut down");
    end_fetch(slot, token, &why);
    tr_token_release(token);
  }
  if (blob != NULL && r->message != NULL && r->message->secret) /* of this request alone */
    mbedtls_platform_zeroize((void *)tr_blob_data(blob), tr_blob_size(blob));
}

/* ------------------------------------------------------------------ the requests */

/* Have a request send user and password. Without a challenge, that was a guess. */
static void take_basic(tr_request *r) {
  tr_token_release(r->token);
  r->token = NULL;
  r->authorization = r->auth->basic;
  r->token_is_new = r->auth_rounds > 0;
}

tr_verdict tr_authorize_attempt(tr_request *r, tr_error *error) {
  tr_token_slot *registry, *slot;
  tr_challenge challenge;
  tr_token *token;
  tr_url realm;
  bool is_host;
  if (!is_at_registry(r) || r->authorization != NULL)
    return TR_VERDICT_AGAIN;
  registry = slot_of(r, "", false);
  if (registry == NULL || registry->challenge == NULL)
    return ask_registry(r) ? TR_VERDICT_TOKEN : TR_VERDICT_AGAIN;
  if (!registry->challenge->bearer) {
    if (r->auth->basic != NULL)
      take_basic(r);
    return TR_VERDICT_AGAIN;
  }
  if (r->auth_scope[0] == '\0')
    return TR_VERDICT_AGAIN; /* the registry is to name it */
  challenge = *registry->challenge;
  slot = slot_of(r, r->auth_scope, true);
  if (slot == NULL) {
    tr_error_nomem(error);
    return TR_VERDICT_DONE;
  }
  token = tr_token_slot_current(slot, tr_now());
  if (token == NULL) {
    if (tr_auth_check_realm(r->auth, challenge.realm, &realm, &is_host) != NULL)
      return TR_VERDICT_AGAIN; /* another caller's realm: the registry is to name it */
    tr_url_free(&realm);
    challenge.scope[0] = '\0'; /* it was that of another request */
    return get_token(r, slot, &challenge, error);
  }
  take_token(r, token, false);
  return TR_VERDICT_AGAIN;
}

/* Answer a challenge by a token that the request has not sent yet. */
static tr_verdict answer_bearer(tr_request *r, const tr_challenge *challenge,
                                tr_error *error) {
  const char *scope = r->auth_scope[0] != '\0' ? r->auth_scope : challenge->scope;
  tr_token_slot *slot = slot_of(r, scope[0] != '\0' ? scope : " ", true);
  tr_verdict verdict;
  tr_token *token;
  if (slot == NULL) {
    tr_error_nomem(error);
    return TR_VERDICT_DONE;
  }
  if (slot->token == r->token)
    tr_token_slot_set(slot, NULL); /* the one that was refused, or none */
  token = tr_token_slot_current(slot, tr_now());
  if (token != NULL) {
    take_token(r, token, false);
    return TR_VERDICT_AGAIN;
  }
  verdict = get_token(r, slot, challenge, error);
  if (verdict == TR_VERDICT_TOKEN) { /* others can get theirs meanwhile */
    remember(r, challenge);
    stop_asking(r);
  }
  return verdict;
}

bool tr_authorize_answer(tr_request *r, tr_verdict *verdict, tr_error *error) {
  const char *text = r->response.challenge;
  tr_challenge challenge;
  if (!is_at_registry(r) || text == NULL || r->token_is_new ||
      r->auth_rounds++ >= MAX_ROUNDS)
    return false;
  if (!tr_challenge_parse(&challenge, text, strlen(text)) ||
      (!challenge.bearer &&
       (r->auth->basic == NULL || r->authorization == r->auth->basic)))
    return false;
  r->not_before = 0;
  *verdict = TR_VERDICT_AGAIN;
  if (challenge.bearer)
    *verdict = answer_bearer(r, &challenge, error);
  else
    take_basic(r);
  return true;
}
