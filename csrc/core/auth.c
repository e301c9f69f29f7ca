/*
** Principals. A registry names the place where its tokens come from, so a hostile one could
** have credentials sent anywhere: only its own origin and places that are listed get them.
*/
#include "auth.h"

#include <mbedtls/base64.h>
#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "blob.h"
#include "crypto.h"
#include "error.h"
#include "http.h"

/* A place that hands out the tokens of a registry at another host. */
static const struct known_realm {
  const char *registry, *realm;
} known_realms[] = {{"registry-1.docker.io", "auth.docker.io"},
                    {"registry.gitlab.com", "gitlab.com"}};

/* ------------------------------------------------------------------ principals */

static void free_secret(char *text) {
  if (text != NULL)
    mbedtls_platform_zeroize(text, strlen(text));
  free(text);
}

static void auth_free(tr_auth *a) {
  size_t i;
  tr_url_free(&a->registry);
  free_secret(a->basic);
  free_secret(a->identity_token);
  for (i = 0; a->realm_hosts != NULL && a->realm_hosts[i] != NULL; i++)
    free(a->realm_hosts[i]);
  free(a->realm_hosts);
  mbedtls_platform_zeroize(a, sizeof *a);
  free(a);
}

/* Wipe and free a buffer. */
static void free_buffer(tr_buffer *b) {
  if (b->data != NULL)
    mbedtls_platform_zeroize(b->data, b->cap);
  tr_buffer_free(b);
}

static bool set_registry(tr_auth *a, const tr_auth_options *o, tr_error *error) {
  size_t size = strlen(o->registry) + 16;
  char *text = malloc(size);
  const char *fault;
  if (text == NULL) {
    tr_error_nomem(error);
    return false;
  }
  snprintf(text, size, "%s://%s", o->insecure ? "http" : "https", o->registry);
  fault = o->registry[strcspn(o->registry, "/?#@")] != '\0'
              ? "it is no \"host\" or \"host:port\""
              : tr_url_parse(&a->registry, text);
  free(text);
  if (fault != NULL)
    tr_error_set(error, TR_POLICY, "the registry \"%s\" is invalid: %s", o->registry,
                 fault);
  return fault == NULL;
}

/* Make "Authorization: Basic …". False: memory is short. */
static bool set_basic(tr_auth *a, const tr_auth_options *o) {
  static const char field[] = "Authorization: Basic ";
  const char *password = o->password != NULL ? o->password : "";
  size_t user_len = strlen(o->username), password_len = strlen(password), written;
  size_t room = (user_len + password_len + 3) / 3 * 4 + 1;
  tr_buffer plain = {0};
  bool ok;
  a->basic = malloc(sizeof field + room);
  ok = a->basic != NULL && tr_buffer_reserve(&plain, user_len + password_len + 1) &&
       tr_buffer_append(&plain, o->username, user_len) &&
       tr_buffer_append(&plain, ":", 1) &&
       tr_buffer_append(&plain, password, password_len);
  if (a->basic != NULL)
    memcpy(a->basic, field, sizeof field);
  ok = ok && mbedtls_base64_encode((unsigned char *)a->basic + sizeof field - 1, room,
                                   &written, (const unsigned char *)plain.data,
                                   plain.len) == 0;
  free_buffer(&plain);
  return ok;
}

/* Make the keyed digest of the credentials. False with the error. */
static bool set_principal(tr_auth *a, tr_error *error) {
  const char *parts[] = {a->basic, a->identity_token};
  tr_buffer text = {0};
  bool ok = true;
  size_t i, all = 2;
  if (a->basic == NULL && a->identity_token == NULL)
    return true;
  for (i = 0; i < 2; i++)
    all += parts[i] != NULL ? strlen(parts[i]) : 0;
  ok = tr_buffer_reserve(&text, all); /* it does not move: no copy stays behind */
  for (i = 0; ok && i < 2; i++)
    ok = tr_buffer_append(&text, parts[i] != NULL ? parts[i] : "",
                          parts[i] != NULL ? strlen(parts[i]) + 1 : 1);
  if (!ok)
    tr_error_nomem(error);
  ok = ok && tr_process_hmac(text.data, text.len, a->principal, error);
  free_buffer(&text);
  return ok;
}

static bool copy_realm_hosts(tr_auth *a, const char *const *hosts) {
  size_t count = 0, i;
  while (hosts != NULL && hosts[count] != NULL)
    count++;
  a->realm_hosts = calloc(count + 1, sizeof *a->realm_hosts);
  for (i = 0; a->realm_hosts != NULL && i < count; i++)
    if ((a->realm_hosts[i] = strdup(hosts[i])) == NULL)
      return false;
  return a->realm_hosts != NULL;
}

/* True if a text fits into a line of a header. */
static bool is_one_line(const char *text) {
  return text == NULL || text[strcspn(text, "\r\n")] == '\0';
}

tr_auth *tr_auth_new(const tr_auth_options *o, tr_error *error) {
  tr_auth *a;
  bool ok;
  if (!is_one_line(o->username) || !is_one_line(o->password) ||
      !is_one_line(o->identity_token) ||
      (o->username != NULL && strchr(o->username, ':') != NULL)) {
    tr_error_set(error, TR_POLICY,
                 "the credentials have a line break in them, or the username has a ':'");
    return NULL;
  }
  a = calloc(1, sizeof *a);
  if (a == NULL) {
    tr_error_nomem(error);
    return NULL;
  }
  atomic_init(&a->refs, 1);
  if (!set_registry(a, o, error)) {
    auth_free(a);
    return NULL;
  }
  ok = copy_realm_hosts(a, o->realm_hosts);
  if (ok && o->identity_token != NULL && o->identity_token[0] != '\0')
    ok = (a->identity_token = strdup(o->identity_token)) != NULL;
  else if (ok && o->username != NULL && o->username[0] != '\0')
    ok = set_basic(a, o);
  if (!ok)
    tr_error_nomem(error);
  if (ok && set_principal(a, error))
    return a;
  auth_free(a);
  return NULL;
}

tr_auth *tr_auth_retain(tr_auth *a) {
  atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
  return a;
}

void tr_auth_release(tr_auth *a) {
  if (a != NULL && atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) == 1)
    auth_free(a);
}

bool tr_auth_covers(const tr_auth *a, const tr_url *url) {
  return tr_url_same_origin(&a->registry, url);
}

/* ---------------------------------------------------------------------- realms */

static int default_port(const tr_url *url) { return url->secure ? 443 : 80; }

/* True if an entry of a list names a realm's host, and its port. */
static bool names_realm(const char *entry, const tr_url *realm) {
  const char *list[] = {entry, NULL};
  if (strncmp(entry, "*.", 2) == 0)
    return realm->port == default_port(realm) && tr_host_in_list(realm->host, list);
  return tr_host_match(entry, realm->host, realm->port) >
         (realm->port == default_port(realm) ? 0 : 1);
}

bool tr_auth_trusts(const tr_auth *a, const tr_url *realm) {
  size_t i;
  if (strcmp(realm->host, a->registry.host) == 0 && realm->port == a->registry.port)
    return true;
  for (i = 0; i < sizeof known_realms / sizeof *known_realms; i++)
    if (strcmp(known_realms[i].registry, a->registry.host) == 0 &&
        names_realm(known_realms[i].realm, realm))
      return true;
  for (i = 0; a->realm_hosts[i] != NULL; i++)
    if (names_realm(a->realm_hosts[i], realm))
      return true;
  return false;
}

const char *tr_auth_check_realm(const tr_auth *a, const char *realm, tr_url *url,
                                bool *is_host) {
  const char *fault = tr_url_parse(url, realm);
  *is_host = false;
  if (fault != NULL)
    return fault;
  if (strncmp(url->text, "oci:", 4) == 0)
    fault = "it is neither http nor https";
  else if (url->userinfo != NULL)
    fault = "it names a user";
  else if (url->fragment != NULL)
    fault = "it has a fragment";
  else if (!url->secure && a->registry.secure)
    fault = "it is plain http, and the registry is not";
  else if (tr_address_is_link_local(url->host))
    fault = "it is at a link-local address, where clouds keep credentials";
  else if (!(a->principal[0] == '\0' && url->secure) && !tr_auth_trusts(a, url)) {
    fault = "it is at another host";
    *is_host = true;
  }
  if (fault != NULL)
    tr_url_free(url);
  return fault;
}
