/* The proxy that a URL is fetched through. */
#ifndef TR_PROXY_H
#define TR_PROXY_H

#include "url.h"

/*
** Set '*proxy' to the proxy for a URL, as curl reads the environment: http_proxy
** (in lower case only), https_proxy or HTTPS_PROXY, then all_proxy or ALL_PROXY;
** none for a host that no_proxy or NO_PROXY lists. Set it to "" if there is none.
** The string is malloc'ed. False when memory is short.
*/
bool tr_proxy_for(const tr_url *url, char **proxy);

/* A proxy. libcurl gets and tells its URL without user and password. */
typedef struct tr_proxy {
  char *url;   /* "scheme://host:port"; NULL: no proxy */
  char *login; /* "user[:password]" as written, or NULL */
  char *host;  /* without brackets */
  int port;
} tr_proxy;

/* Parse a proxy's URL, or "host:port". NULL, or the fault: a static string, and
** nothing to free then. */
const char *tr_proxy_parse(tr_proxy *proxy, const char *text);
void tr_proxy_free(tr_proxy *proxy);

#endif
