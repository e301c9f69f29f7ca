/* Redirects: whether one is followed, and with which options. */
#include "redirect.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "http.h"
#include "metrics.h"
#include "redact.h"

/* True if a redirect stays within an object store's endpoint. */
static bool is_own_place(const tr_request *r, const tr_url *to) {
  return r->signer != NULL && r->first_origin && tr_signer_covers(r->signer, to);
}

/* Check where a redirect leads; NULL, or the reason why it is not followed. */
static const char *check_redirect(const tr_request *r, const tr_url *to) {
  const tr_url *asked = r->asked.text != NULL ? &r->asked : &r->url;
  const char *const *hosts =
      (const char *const *)r->asked_config->redirect_hosts;
  if (r->url.secure && !to->secure)
    return "a redirect from https to plain http";
  if (hosts != NULL && strcmp(to->host, asked->host) != 0 && !is_own_place(r, to) &&
      !tr_host_in_list(to->host, hosts))
    return "a redirect to a host that redirect_hosts does not list";
  if (tr_address_is_link_local(to->host))
    return "a redirect to a link-local address";
  if (r->message != NULL && r->message->method > TR_HEAD && !is_own_place(r, to))
    return "a redirect of a write to another place";
  return NULL;
}

/* Refuse a redirect: "Failed to fetch from <url>: refusing <what>, to <url>". */
static void refuse_redirect(const tr_request *r, const char *what,
                            const char *to, tr_error *error) {
  char *shown = tr_displayed(to);
  tr_error_set(error, TR_DENIED, "Failed to fetch from %s: refusing %s, to %s",
               r->shown, what, shown != NULL ? shown : "?");
  free(shown);
}

/* Refuse a redirect to what is no URL of http or https. Only its scheme is shown: secrets
** may be anywhere else in it. */
static void refuse_malformed(const tr_request *r, const char *to, tr_error *error) {
  static const char scheme[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-";
  size_t len = strspn(to, scheme);
  if (to[len] != ':' || len > 16)
    len = 0;
  tr_error_set(error, TR_DENIED,
               "Failed to fetch from %s: refusing a redirect that is neither http nor "
               "https, or malformed, to %.*s:\xE2\x80\xA6",
               r->shown, (int)len, to);
}

/* Take the options of the host that a redirect leads to. One without options of its own
** gets those of the host "*", or else those of the fetch, but nothing that identifies the
** caller. */
static bool choose_options(tr_request *r, const tr_url *to, tr_error *error) {
  tr_config *config = NULL, *other = r->asked_config;
  int best = 0;
  size_t i;
  if ((r->first_origin && tr_url_same_origin(&r->url, to)) || is_own_place(r, to))
    return true;
  for (i = 0; i < r->hop_count; i++) {
    int match = tr_host_match(r->hops[i].host, to->host, to->port);
    if (strcmp(r->hops[i].host, "*") == 0)
      other = r->hops[i].config;
    if (match > best) {
      best = match;
      config = r->hops[i].config;
    }
  }
  config = config != NULL ? tr_config_use(config)
                          : tr_config_foreign(other, error);
  if (config == NULL)
    return false;
  tr_config_release(r->config);
  r->config = config;
  r->first_origin = false;
  return true;
}

/*
** Follow a redirect within the rules: http and https only, never from https to
** http, to allowed hosts, each with its own options. False with the error when it must
** not or cannot be followed.
*/
static bool redirect(tr_request *r, const char *location, tr_error *error) {
  tr_url to;
  const char *fault = tr_url_parse(&to, location), *reason;
  if (fault != NULL || strncmp(to.text, "oci:", 4) == 0) {
    if (fault == NULL)
      tr_url_free(&to);
    refuse_malformed(r, location, error);
    return false;
  }
  reason = check_redirect(r, &to);
  if (reason == NULL && r->redirects_left-- <= 0) {
    char *shown = tr_displayed(location);
    tr_error_set(error, TR_NETWORK,
                 "Failed to fetch from %s: too many redirects, the last to %s",
                 r->shown, shown != NULL ? shown : "?");
    free(shown);
  } else if (reason != NULL) {
    refuse_redirect(r, reason, location, error);
  } else if (choose_options(r, &to, error)) {
    if (r->asked.text == NULL)
      r->asked = r->url;
    else
      tr_url_free(&r->url);
    r->url = to;
    if (!r->resuming || !r->renewed) {
      r->resuming = false;
      tr_request_reset_body(r);
    }
    r->moved = true;
    tr_count(TR_COUNT_REDIRECTS, 1);
    r->fresh_connection = false;
    r->not_before = 0;
    if (strcmp(to.host, r->asked.host) != 0 && !is_own_place(r, &to) &&
        !tr_request_add_host(r, to.host)) {
      tr_error_nomem(error);
      return false;
    }
    return tr_request_route(r, error);
  }
  tr_url_free(&to);
  return false;
}

bool tr_redirect_may_renew(const tr_request *r) {
  int status = r->response.status;
  return r->asked.text != NULL && r->resuming && !r->renewed && r->message == NULL &&
         (status == 400 || status == 401 || status == 403 || status == 404 || status == 410);
}

bool tr_redirect_renew(tr_request *r, tr_error *error) {
  tr_config_release(r->config);
  r->config = tr_config_use(r->asked_config);
  tr_url_free(&r->url);
  r->url = r->asked;
  memset(&r->asked, 0, sizeof r->asked);
  r->first_origin = r->moved = r->renewed = true;
  r->fresh_connection = false;
  r->not_before = 0;
  tr_response_clear(&r->response);
  return tr_request_route(r, error);
}

bool tr_redirect_is_due(const tr_request *r) {
  int status = r->response.status;
  const tr_message *m = r->message;
  if (m != NULL && (m->no_redirects || (m->method != TR_GET && m->method != TR_HEAD &&
                                        (r->signer == NULL || status != 307))))
    return false; /* an object store has done nothing when it answers 307 */
  return r->response.location != NULL &&
         (status == 301 || status == 302 || status == 303 || status == 307 ||
          status == 308);
}

bool tr_redirect_follow(tr_request *r, tr_error *error) {
  char *location = tr_url_join(&r->url, r->response.location);
  bool followed = location != NULL && redirect(r, location, error);
  if (location == NULL)
    tr_error_nomem(error);
  free(location);
  tr_response_clear(&r->response);
  return followed;
}
