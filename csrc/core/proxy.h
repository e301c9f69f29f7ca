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

/* Split a proxy's URL, or "host:port", into a host, malloc'ed, and a port. False
** when it names no host, or memory is short. */
bool tr_proxy_parse(const char *proxy, char **host, int *port);

/* Let a SOCKS proxy resolve the names: libcurl would in a thread of its own, which
** whoever cancels the fetch has to wait for. False: memory is short. */
bool tr_proxy_let_resolve(char **proxy);

/* A proxy for a message: without user and password. Freed by the caller. NULL:
** memory is short. */
char *tr_proxy_display(const char *proxy);

#endif
