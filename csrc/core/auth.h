/* Principals at registries, and the places that may get their credentials. */
#ifndef TR_AUTH_H
#define TR_AUTH_H

#include <stdatomic.h>

#include "url.h"

/* Strings may be NULL and are copied. */
typedef struct tr_auth_options {
  const char *registry; /* "host" or "host:port" */
  bool insecure;        /* it is asked over plain http */
  const char *username, *password;
  const char *identity_token; /* instead of a password: exchanged for tokens */
  const char *const *realm_hosts; /* NULL-terminated: where tokens may come from, beside
                                     the registry itself: "host", at the scheme's port,
                                     "host:port" or "*.example.org" */
} tr_auth_options;

/* One principal at one registry. Immutable; any thread. */
typedef struct tr_auth {
  tr_url registry;      /* its origin */
  char *basic;          /* "Authorization: Basic …", or NULL */
  char *identity_token; /* or NULL */
  char **realm_hosts;   /* NULL-terminated */
  char principal[TR_HEX_MAX]; /* a keyed digest of the credentials; empty: anonymous */
  atomic_size_t refs;
} tr_auth;

/* NULL with the error. */
tr_auth *tr_auth_new(const tr_auth_options *options, tr_error *error);
tr_auth *tr_auth_retain(tr_auth *auth);
void tr_auth_release(tr_auth *auth); /* NULL is allowed */

/* True if a URL is at the registry, to which alone its tokens go. */
bool tr_auth_covers(const tr_auth *auth, const tr_url *url);

/* True if credentials may go to a realm: to the registry's own host, or one that is listed. */
bool tr_auth_trusts(const tr_auth *auth, const tr_url *realm);

/* NULL if tokens may be asked for at a realm, which 'url' becomes: nobody's at any host over
** https, and those for credentials where these may go; else the reason why
** they may not, and 'url' is empty. '*is_host': another host is all that is wrong. */
const char *tr_auth_check_realm(const tr_auth *auth, const char *realm, tr_url *url,
                                bool *is_host);

#endif
