/*
** Records: where the bytes of a result came from, and how to ask whether they
** are still good. A cache keeps one with each entry.
*/
#ifndef TR_RECORD_H
#define TR_RECORD_H

#include "theaterref.h"
#include "url.h"

enum {
  TR_VALIDATOR_MAX = 256, /* room for an ETag or a date, and its final zero */
  TR_CONTENT_MAX = 256,   /* bytes of a content key */
  /* Bytes of all hosts. More of them than fit are not listed: the last is then
  ** TR_OTHER_HOSTS, which no list of hosts allows. */
  TR_HOSTS_MAX = 2048,
  TR_EXTRA_MAX = 4096 /* bytes of all extra names and values */
};
#define TR_OTHER_HOSTS "*"

/* Some bytes, of somebody else. */
typedef struct tr_bytes {
  const char *at;
  size_t len;
} tr_bytes;

/*
** A record. It is either a draft on the stack, whose texts belong to others, or
** one of tr_record_new: shared, immutable, and with texts of its own. Texts are
** never NULL in the latter.
*/
typedef struct tr_record {
  double age; /* seconds that the bytes were old when they arrived here */
  const char *etag, *last_modified;   /* validators; "": none */
  const char *url, *unsigned_url;     /* digests (tr_url_digests); "": none */
  tr_bytes hosts;   /* that it was redirected to: each ends with a zero byte */
  tr_bytes content; /* the key of the content, if the bytes have one */
  tr_bytes extra;   /* names and values by turns: each ends with a zero byte */
  bool from_private; /* a peer had a private address */
  bool no_store;     /* the server allows no cache that others may read */
  bool open_ended;   /* no length marked the end of the body */
  bool unsettled;    /* they may have changed since, under the same validators */
} tr_record;

/* A shared copy with one reference. NULL when memory is short. */
tr_record *tr_record_new(const tr_record *draft);
tr_record *tr_record_retain(tr_record *record);
void tr_record_release(tr_record *record); /* NULL is allowed */

/* Bytes of memory that a shared record takes. */
size_t tr_record_size(const tr_record *record);

/* True if a server can be asked whether the bytes have changed. */
bool tr_record_has_validators(const tr_record *record);

/*
** Add a host to a list in a buffer of TR_HOSTS_MAX bytes, unless the list has it;
** '*len' is the bytes in use.
*/
void tr_hosts_add(char *hosts, size_t *len, const char *host);

/* The traits of bytes that the limits of a request may forbid. */
enum {
  TR_FROM_PRIVATE = 1, /* a peer had a private address */
  TR_REDIRECTED = 2,   /* from another host than the one asked */
  TR_OPEN_ENDED = 4    /* no length marked the end of the body */
};

/* The traits that a record tells of. NULL: none. */
unsigned tr_record_traits(const tr_record *record);

/* The limits of a request on where bytes may come from. */
typedef struct tr_limits {
  unsigned forbidden; /* traits; TR_REDIRECTED: but for 'redirect_hosts' */
  const char *const *redirect_hosts; /* of whoever made the options */
  uint64_t id; /* of these limits in this process; 0: there are none */
} tr_limits;

/* The limits of a request with some options; NULL: none. */
tr_limits tr_limits_of(const tr_fetch_options *options);

/* True if limits allow bytes with a record. */
bool tr_limits_allow(const tr_limits *limits, const tr_record *record);

#endif
