/* Making a request, and sending each of its attempts. */
#include "request.h"

#include <arpa/inet.h>
#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "crypto.h"
#include "error.h"
#include "http.h"
#include "metrics.h"
#include "options.h"
#include "redact.h"
#include "scope.h"
#include "send.h"
#include "sign.h"

enum {
  /* A body may come in so many parts, if each brings it further. */
  MAX_PARTS = 1000,
  /* How often a connection may turn out to be out of step. */
  MAX_STEP_RETRIES = 8,
  /* libcurl forgets addresses after 60 s, and would look them up itself. */
  ADDRESSES_SECONDS = 20
};

/* ------------------------------------------------------------------ creating */

void tr_request_free(tr_request *r) {
  size_t i;
  if (r == NULL)
    return;
  tr_hasher_free(r->hasher); /* first: it reads the body */
  tr_buffer_free(&r->body);
  tr_gzip_free(r->gunzip);
  tr_blob_release(r->known);
  tr_record_release(r->known_record);
  free(r->hosts);
  tr_dns_release(r->answer);
  tr_url_free(&r->url);
  tr_url_free(&r->asked);
  tr_response_clear(&r->response);
  free(r->shown);
  tr_proxy_free(&r->proxy);
  free(r->userinfo);
  tr_info_free(r->info);
  tr_token_release(r->token);
  tr_auth_release(r->auth);
  tr_signer_release(r->signer);
  tr_buffer_free(&r->refusal);
  if (r->message != NULL && r->message->secret && r->fields.data != NULL)
    mbedtls_platform_zeroize(r->fields.data, r->fields.cap);
  tr_buffer_free(&r->fields);
  tr_message_free(r->message);
  free(r->auth_scope);
  free(r->token_error);
  for (i = 0; i < r->hop_count; i++) {
    free(r->hops[i].host);
    tr_config_release(r->hops[i].config);
  }
  free(r->hops);
  if (r->asked_config != NULL)
    tr_config_release(r->asked_config);
  if (r->config != NULL)
    tr_config_release(r->config);
  if (r->promise != NULL)
    tr_promise_release(r->promise);
  free(r);
}

static bool check_digest(const tr_fetch_options *o, tr_error *error) {
  if (o->digest == NULL || tr_hex_valid(o->digest))
    return true;
  tr_error_set(error, TR_INVALID_REFERENCE,
               "'%s' is no digest: 40 hex digits of SHA-1 or 64 of SHA-256 "
               "were expected",
               o->digest);
  return false;
}

/* Parse the reference, and refuse a link-local address even for a proxy. */
static bool parse_reference(tr_request *r, const char *url, tr_error *error) {
  const char *fault = tr_url_parse(&r->url, url);
  if (fault == NULL && strncmp(r->url.text, "oci:", 4) == 0)
    fault = "it is neither http nor https";
  if (fault != NULL) {
    tr_error_set(error, TR_INVALID_REFERENCE, "Failed to fetch from %s: %s",
                 r->shown, fault);
    return false;
  }
  if (r->may_be_link_local || !tr_address_is_link_local(r->url.host))
    return true;
  tr_error_set(error, TR_DENIED,
               "Failed to fetch from %s: link-local addresses, where clouds "
               "keep credentials, are never asked",
               r->shown);
  return false;
}

static bool copy_options(tr_request *r, const tr_fetch_options *o) {
  r->timeout = o->timeout;
  r->stall_timeout = o->stall_timeout;
  r->deadline = tr_deadline(o->timeout);
  r->max_bytes = o->max_bytes;
  r->redirects_left = o->max_redirects;
  r->retries_left = o->retries;
  r->parts_left = MAX_PARTS;
  r->step_retries = MAX_STEP_RETRIES;
  r->refuse_private = o->refuse_private;
  r->require_length = o->require_length;
  if (o->digest != NULL)
    memcpy(r->digest, o->digest, strlen(o->digest) + 1);
  r->userinfo = r->url.userinfo;
  r->url.userinfo = NULL;
  r->info = calloc(1, sizeof *r->info);
  if (r->info == NULL)
    return false;
  r->info->queued = r->info->connected = r->info->first_byte = -1;
  return true;
}

/* Find the configurations of the hosts that redirects may lead to. */
static bool add_hops(tr_request *r, const tr_fetch_host *hosts,
                     tr_error *error) {
  size_t count = 0, i;
  while (hosts != NULL && hosts[count].host != NULL)
    count++;
  if (count == 0)
    return true;
  r->hops = calloc(count, sizeof *r->hops);
  if (r->hops == NULL) {
    tr_error_nomem(error);
    return false;
  }
  for (i = 0; i < count; i++) {
    tr_fetch_options o = TR_FETCH_OPTIONS;
    tr_hop *hop = &r->hops[i];
    if (!tr_options_copy(&o, sizeof o, hosts[i].options, "TR_FETCH_OPTIONS",
                         error))
      return false;
    hop->host = strdup(hosts[i].host);
    hop->config = hop->host != NULL ? tr_config_get(&o, error) : NULL;
    if (hop->config == NULL) {
      if (hop->host == NULL)
        tr_error_nomem(error);
      free(hop->host);
      return false;
    }
    r->hop_count++;
  }
  return true;
}

/* A known blob is of use only if it has the digest that is asked for. */
static void take_known(tr_request *r) {
  char actual[TR_HEX_MAX];
  r->known = tr_promise_known(r->promise, &r->known_record);
  if (r->known == NULL || r->digest[0] == '\0')
    return;
  tr_digest(tr_algorithm_of(r->digest), tr_blob_data(r->known),
            tr_blob_size(r->known), actual);
  if (!curl_strequal(actual, r->digest)) {
    tr_blob_release(r->known);
    r->known = NULL;
  }
}

/* Take over what a request has beside its options. False: memory is short. */
static bool add_extra(tr_request *r, const tr_request_extra *extra) {
  const char *scope = extra->auth_scope != NULL ? extra->auth_scope : "";
  if (extra->auth != NULL) {
    r->auth = tr_auth_retain(extra->auth);
    if ((r->auth_scope = strdup(scope)) == NULL)
      return false;
  }
  if (extra->signer != NULL) {
    r->signer = tr_signer_retain(extra->signer);
    r->plain_encoding = true; /* objects are taken as they are stored */
  }
  if (extra->send == NULL)
    return true;
  r->message = tr_message_new(extra->send);
  r->plain_encoding = true;
  if (r->max_bytes > TR_ANSWER_MAX)
    r->max_bytes = TR_ANSWER_MAX;
  return r->message != NULL;
}

tr_request *tr_request_new(tr_promise *promise, const char *url,
                           const tr_fetch_options *options,
                           const tr_request_extra *extra, tr_error *error) {
  tr_request *r;
  if (!check_digest(options, error))
    return NULL;
  r = calloc(1, sizeof *r);
  if (r != NULL)
    r->shown = tr_displayed(url);
  if (r == NULL || r->shown == NULL) {
    tr_error_nomem(error);
    free(r);
    return NULL;
  }
  r->first_origin = true;
  r->attempts = 1;
  r->submitted = tr_now();
  r->promise = tr_promise_retain(promise);
  r->may_be_link_local = extra != NULL && extra->send != NULL && extra->send->link_local;
  r->config = parse_reference(r, url, error) ? tr_config_get(options, error)
                                             : NULL;
  if (r->config == NULL) {
    tr_request_free(r);
    return NULL;
  }
  r->asked_config = tr_config_use(r->config);
  if (!copy_options(r, options) || (extra != NULL && !add_extra(r, extra)) ||
      (r->signer != NULL && !tr_sign_begin(r))) {
    tr_request_free(r);
    tr_error_nomem(error);
    return NULL;
  }
  if ((r->auth != NULL && !tr_request_caller(options, r->caller, error)) ||
      !add_hops(r, options->hosts, error) || !tr_request_route(r, error)) {
    tr_request_free(r);
    return NULL;
  }
  if (r->message == NULL)
    take_known(r);
  return r;
}

/* --------------------------------------------------------------------- aiming */

/* False if libcurl knows a host by itself: an address, or localhost. */
static bool needs_lookup(const char *host) {
  unsigned char address[16];
  size_t len = strlen(host);
  return inet_pton(AF_INET, host, address) != 1 &&
         inet_pton(AF_INET6, host, address) != 1 &&
         strcasecmp(host, "localhost") != 0 &&
         !(len > 10 && strcasecmp(host + len - 10, ".localhost") == 0);
}

/* Choose the proxy. False with the error. */
static bool set_proxy(tr_request *r, tr_error *error) {
  char *text = NULL;
  const char *fault = NULL;
  if (r->config->proxy != NULL)
    text = strdup(r->config->proxy);
  else if (!tr_proxy_for(&r->url, &text))
    fault = TR_NO_MEMORY;
  if (text == NULL)
    fault = TR_NO_MEMORY;
  else if (text[0] != '\0')
    fault = tr_proxy_parse(&r->proxy, text);
  if (fault == TR_NO_MEMORY)
    tr_error_nomem(error);
  else if (fault != NULL) /* the text may have a password anywhere */
    tr_error_set(error, TR_POLICY,
                 "Failed to fetch from %s: the proxy that %s is invalid: %s",
                 r->shown,
                 r->config->proxy != NULL ? "the option 'proxy' names"
                                          : "the environment names",
                 fault);
  free(text);
  return fault == NULL;
}

bool tr_request_route(tr_request *r, tr_error *error) {
  tr_proxy_free(&r->proxy);
  r->looked_up = false;
  tr_dns_release(r->answer);
  r->answer = NULL;
  r->lookup_host = NULL;
  if (r->config->unix_socket != NULL)
    return true;
  if (!set_proxy(r, error))
    return false;
  r->lookup_host = r->proxy.url != NULL ? r->proxy.host : r->url.host;
  r->lookup_port = r->proxy.url != NULL ? r->proxy.port : r->url.port;
  if (!needs_lookup(r->lookup_host))
    r->lookup_host = NULL;
  return true;
}

bool tr_request_add_host(tr_request *r, const char *host) {
  if (r->hosts == NULL && (r->hosts = malloc(TR_HOSTS_MAX)) == NULL)
    return false;
  tr_hosts_add(r->hosts, &r->hosts_len, host);
  return true;
}

/* -------------------------------------------------------------------- sending */

static bool add_header(struct curl_slist **list, const char *line) {
  struct curl_slist *longer = curl_slist_append(*list, line);
  if (longer != NULL)
    *list = longer;
  return longer != NULL;
}

/* Add "<name>: <value>" unless the value is empty, or would end the line. */
static bool add_field(tr_handle *h, const char *name, const char *value) {
  char line[TR_VALIDATOR_MAX + 32];
  if (value[0] == '\0' || value[strcspn(value, "\r\n")] != '\0')
    return true;
  snprintf(line, sizeof line, "%s: %s", name, value);
  return add_header(&h->headers, line);
}

/* Validators go to the URL that they came from: the ETag also if only the
** signature of the URL is another. Those of bytes that may have changed since
** prove nothing. */
static bool add_conditions(tr_request *r, tr_handle *h) {
  const tr_record *known = r->known_record;
  char whole[TR_URL_DIGEST], unsigned_url[TR_URL_DIGEST];
  tr_url_digests(r->url.text, whole, unsigned_url);
  if (known->unsettled || (known->unsigned_url[0] != '\0' &&
                           strcmp(known->unsigned_url, unsigned_url) != 0))
    return true;
  r->conditional = known->etag[0] != '\0';
  if (!add_field(h, "If-None-Match", known->etag))
    return false;
  if (known->last_modified[0] == '\0' ||
      (known->url[0] != '\0' && strcmp(known->url, whole) != 0))
    return true;
  r->conditional = true;
  return add_field(h, "If-Modified-Since", known->last_modified);
}

static bool add_range(tr_request *r, tr_handle *h) {
  char range[64];
  snprintf(range, sizeof range, "bytes=%zu-", r->body.len);
  return add_field(h, "Range", range) &&
         add_field(h, "If-Range",
                   r->etag[0] != '\0' ? r->etag : r->last_modified);
}

/* The credentials of an attempt: they go to the registry only, and not there either once
** a redirect has left it. */
static const char *authorization_of(const tr_request *r) {
  return r->authorization != NULL && r->first_origin && tr_auth_covers(r->auth, &r->url)
             ? r->authorization
             : NULL;
}

/* True if a line of the configuration gives way to one of this attempt. */
static bool is_replaced(const tr_request *r, const char *line, bool plain) {
  bool authorized = authorization_of(r) != NULL || tr_sign_is_due(r);
  return (plain && curl_strnequal(line, "Accept-Encoding:", 16)) ||
         (authorized && curl_strnequal(line, "Authorization:", 14)) ||
         (tr_sign_is_due(r) && curl_strnequal(line, "Host:", 5)) ||
         (r->message != NULL && r->first_origin && tr_message_replaces(r->message, line));
}

/* Set the header fields: those of the configuration, if no more are needed. */
static bool set_headers(tr_request *r, tr_handle *h) {
  struct curl_slist *all, *line;
  const char *authorization = authorization_of(r), *accept = tr_send_accept(r);
  bool plain = r->plain_encoding || r->resuming, is_signed = tr_sign_is_due(r);
  tr_handle_clear_headers(h);
  all = r->config->headers;
  if (plain || authorization != NULL || accept != NULL || (r->known != NULL && !r->resuming)) {
    h->secret = authorization != NULL || is_signed || (r->message != NULL && r->message->secret);
    for (line = all; line != NULL; line = line->next)
      if (!is_replaced(r, line->data, plain) && !add_header(&h->headers, line->data))
        return false;
    if ((authorization != NULL && !add_header(&h->headers, authorization)) ||
        (accept != NULL && !add_header(&h->headers, accept)) ||
        (r->message != NULL && !tr_send_headers(r, h)) ||
        (plain && !add_header(&h->headers, "Accept-Encoding: identity")) ||
        !(r->resuming ? add_range(r, h)
                      : r->known == NULL || add_conditions(r, h)) ||
        (is_signed && !tr_sign_attempt(r, h)))
      return false;
    all = h->headers;
  }
  if (all == h->set_headers && h->headers == NULL)
    return true;
  h->set_headers = all;
  return curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, all) == CURLE_OK;
}

/* Give libcurl the addresses of the name that it would look up. */
static bool set_addresses(tr_request *r, tr_handle *h) {
  struct curl_slist *fresh;
  char *line;
  size_t size;
  if (r->answer == NULL || r->answer->error != 0)
    return true;
  size = strlen(r->lookup_host) + strlen(r->answer->addresses) + 16;
  line = malloc(size);
  if (line == NULL)
    return false;
  snprintf(line, size, "+%s:%d:%s", r->lookup_host, r->lookup_port,
           r->answer->addresses);
  if (h->addresses != NULL && strcmp(h->addresses->data, line) == 0) {
    free(line);
    if (tr_now() - h->addresses_set < ADDRESSES_SECONDS)
      return true;
    h->addresses_set = tr_now();
    return curl_easy_setopt(h->easy, CURLOPT_RESOLVE, h->addresses) ==
           CURLE_OK;
  }
  fresh = curl_slist_append(NULL, line);
  free(line);
  if (fresh == NULL ||
      curl_easy_setopt(h->easy, CURLOPT_RESOLVE, fresh) != CURLE_OK) {
    curl_slist_free_all(fresh);
    return false;
  }
  curl_slist_free_all(h->addresses);
  h->addresses = fresh;
  h->addresses_set = tr_now();
  return true;
}

/* Set user and password, which libcurl sends to this origin only. */
static bool set_user(tr_handle *h, const char *userinfo) {
  const char *end = userinfo + strlen(userinfo);
  const char *colon = strchr(userinfo, ':');
  char *user = tr_url_decode(userinfo, colon != NULL ? colon : end);
  char *password = tr_url_decode(colon != NULL ? colon + 1 : end, end);
  bool ok = user != NULL && password != NULL &&
            curl_easy_setopt(h->easy, CURLOPT_USERNAME, user) == CURLE_OK &&
            curl_easy_setopt(h->easy, CURLOPT_PASSWORD, password) == CURLE_OK;
  free(user);
  free(password);
  return ok;
}

/* Set the proxy, unless the handle has it. */
static bool set_proxy_option(const tr_proxy *proxy, tr_handle *h) {
  const char *url = proxy->url != NULL ? proxy->url : "";
  if (proxy->login == NULL && strcmp(h->proxy, url) == 0)
    return true;
  if (curl_easy_setopt(h->easy, CURLOPT_PROXY, url) != CURLE_OK ||
      curl_easy_setopt(h->easy, CURLOPT_PROXYUSERPWD, proxy->login) != CURLE_OK)
    return false;
  snprintf(h->proxy, sizeof h->proxy, "%s",
           proxy->login == NULL && strlen(url) < sizeof h->proxy
               ? url
               : "\1"); /* none has this name */
  return true;
}

/* Set what depends on the URL: itself, the proxy, user and password. */
static bool set_target(tr_request *r, tr_handle *h) {
  size_t len = strlen(r->url.text);
  if (strcmp(h->url, r->url.text) != 0) {
    if (curl_easy_setopt(h->easy, CURLOPT_URL, r->url.text) != CURLE_OK)
      return false;
    h->url[0] = '\0';
    if (len < sizeof h->url)
      memcpy(h->url, r->url.text, len + 1);
  }
  if (!set_proxy_option(&r->proxy, h))
    return false;
  if (r->userinfo == NULL || !r->first_origin)
    return true;
  h->one_time = true;
  return set_user(h, r->userinfo);
}

bool tr_request_send(tr_request *r, tr_handle *h) {
  bool fresh = r->fresh_connection;
  h->request = r;
  h->why[0] = '\0';
  r->handle = h;
  tr_response_clear(&r->response);
  r->discarded = r->header_bytes = 0;
  r->conditional = false;
  r->range_mismatch = r->stalled = r->out_of_step = r->connected = false;
  r->too_large = r->no_memory = r->reused = false;
  r->refused[0] = '\0';
  r->tried_addresses = r->socket_errno = 0;
  r->fault = NULL;
  r->connection = 0;
  r->started = r->last_progress = tr_now();
  r->connect_by =
      tr_deadline(r->config->connect_timeout) - r->lookup_seconds;
  r->lookup_seconds = 0;
  if (r->info->queued < 0)
    r->info->queued = r->started - r->submitted;
  if (r->resuming)
    tr_count(TR_COUNT_RESUMES, 1);
  else
    tr_request_reset_body(r);
  r->resumed_from = r->body.len;
  if (fresh != h->fresh) {
    curl_easy_setopt(h->easy, CURLOPT_FRESH_CONNECT, fresh ? 1L : 0L);
    h->fresh = fresh;
  }
  return set_target(r, h) && set_headers(r, h) && set_addresses(r, h) &&
         (r->message == NULL || tr_send_prepare(r, h));
}
