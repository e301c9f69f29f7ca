/* The grammar of URLs: their parts, and their normal form. */
#ifndef TR_URL_H
#define TR_URL_H

#include "theaterref.h"

/*
** The parts of an http, https or oci URL in normal form (RFC 3986, 6.2): scheme
** and host in lower case, no default port, no "." or ".." segments (nor "%2e"),
** numeric addresses in their usual spelling. Everything else is as it was.
*/
typedef struct tr_url {
  char *text;        /* "scheme://host[:port]/path[?query]" */
  size_t origin_len; /* of "scheme://host[:port]" in 'text' */
  char *host;        /* without brackets */
  int port;
  bool secure;    /* https or oci */
  char *userinfo; /* "user[:password]" as written, or NULL */
  char *fragment; /* as written, without '#', or NULL */
} tr_url;

/* Parse 'text'. NULL, or the fault: a static string such as "it names no
** host"; then there is nothing to free. */
const char *tr_url_parse(tr_url *url, const char *text);
void tr_url_free(tr_url *url);

/* The fault of what could not be copied. */
extern const char TR_NO_MEMORY[];

/* Decode each %XX up to 'end': malloc'ed. NULL when memory is short. */
char *tr_url_decode(const char *at, const char *end);

/* Return the absolute URL that 'location' means in a response from 'base' (RFC
** 3986, 5.2): malloc'ed, not in normal form yet. NULL when memory is short. */
char *tr_url_join(const tr_url *base, const char *location);

/* True if two URLs have the same scheme, host and port. */
bool tr_url_same_origin(const tr_url *a, const tr_url *b);

/*
** True if 'host' is in a list of hosts, which NULL ends: "example.org" names
** that host, "*.example.org" every host below it. Case does not matter.
*/
bool tr_host_in_list(const char *host, const char *const *list);

/* How well a name of options, "host" or "host:port", fits a host and port: 0 if it does
** not, 1, or 2 if the port is named. Case, a final dot and brackets do not matter. */
int tr_host_match(const char *name, const char *host, int port);

/* Digests that tell whether validators belong to a URL: of all of 'url', and
** without the query parameters that sign it (a new signature, same content). */
enum { TR_URL_DIGEST = 33 /* 128 bits in hex */ };
void tr_url_digests(const char *url, char whole[TR_URL_DIGEST],
                    char unsigned_[TR_URL_DIGEST]);

#endif
