/*
** theaterref: turns references into bytes, once, fast and safely.
** This is the public C API, and the only header a host includes.
**
** Conventions
**   Ownership  A function that makes, opens, reads or retains something hands the
**              caller one reference, given back with the matching *_release or
**              *_free. A function that reads a part of something, such as
**              tr_plan_package or tr_future_get_info, keeps it.
**              Strings and buffers passed in are only read during the call.
**   Errors     A function that can fail takes a 'tr_error *', which may be NULL,
**              and fills it when it returns NULL or false. Nothing is left
**              behind by a call that failed.
**   Options    A struct of options is initialised by its macro, which also holds
**              the defaults: tr_fetch_options o = TR_FETCH_OPTIONS; then set
**              what is to differ. A function that takes a pointer to one takes
**              NULL for the defaults. Structs may grow: a program compiled
**              against an older header keeps working.
**   Threads    Every function may be called from any thread at any time,
**              unless its comment says otherwise.
**   Units      Seconds as double, bytes as size_t. A timeout below zero
**              means "no limit"; NaN is refused, or is no time at all.
*/
#ifndef THEATERREF_H
#define THEATERREF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Marks exported functions. */
#define TR_API __attribute__((visibility("default")))

/* The version of the library; the only place where it is written down. */
#define TR_VERSION "0.1.0"

/* The version of the library that is running: TR_VERSION of its own header.
** Static storage. */
TR_API const char *tr_version(void);

/* ------------------------------------------------------------- errors */

/* The kind of a failure; Lua sees the lower-case name in 'err.kind'. */
typedef enum tr_error_kind {
  TR_OK = 0,
  TR_INVALID_REFERENCE,
  TR_NOT_FOUND,
  TR_DENIED,
  TR_HTTP_STATUS,
  TR_NETWORK,
  TR_TLS,
  TR_TIMEOUT,
  TR_TOO_LARGE,
  TR_DIGEST_MISMATCH,
  TR_CORRUPT,
  TR_IO,
  TR_SYNTAX,
  TR_POLICY,
  TR_CANCELLED
} tr_error_kind;

/* One failure, by value: nothing in it needs freeing. */
typedef struct tr_error {
  tr_error_kind kind; /* what to decide by */
  int status;         /* HTTP status, or 0 */
  int errnum;         /* errno, or 0 */
  char message[1024]; /* for people; redacted, then cut with "..." if too long */
  void *reserved[4];  /* for fields to come */
} tr_error;

/* The kind's name, such as "not_found". Static storage. */
TR_API const char *tr_error_kind_name(tr_error_kind kind);

/* -------------------------------------------------------------- blobs */

/* Immutable bytes with a reference count; they never change and never move. */
typedef struct tr_blob tr_blob;

/* A blob holding a copy of 'size' bytes, or NULL when memory is short. */
TR_API tr_blob *tr_blob_new(const void *data, size_t size);
/* One reference more, for the caller; returns the blob. */
TR_API tr_blob *tr_blob_retain(tr_blob *blob);
/* Release one reference. NULL is allowed. */
TR_API void tr_blob_release(tr_blob *blob);
/* Never NULL, even when the size is 0. Valid while a reference is held. */
TR_API const void *tr_blob_data(const tr_blob *blob);
/* How many bytes it has. */
TR_API size_t tr_blob_size(const tr_blob *blob);

/* ------------------------------------------------------------- digests */

/* How content is hashed. */
typedef enum tr_algorithm { TR_SHA1, TR_SHA256 } tr_algorithm;

/* Room for the longest digest in hex and its final zero. */
#define TR_HEX_MAX 65

/* Writes the digest of 'data' in lower-case hex to 'hex', zero-terminated. */
TR_API void tr_digest(tr_algorithm algorithm, const void *data, size_t size,
                      char hex[TR_HEX_MAX]);

/* ------------------------------------------------------------- futures */

/* One handle on a result that arrives once: a blob, or an error. */
typedef struct tr_future tr_future;

/* The status of a future. */
typedef enum tr_future_status {
  TR_PENDING,
  TR_READY,
  TR_FAILED,
  TR_ABANDONED /* its loader gave up; nothing will complete it */
} tr_future_status;

/* Return a pending future to complete, or NULL when memory is short. */
TR_API tr_future *tr_future_create(void);
/* Add a reference to this handle; return it. */
TR_API tr_future *tr_future_retain(tr_future *future);
/*
** Release a reference. NULL is allowed. The last one gives the handle up: work
** that nobody else wants stops, and a load that this future leads (see TR_LEAD)
** is abandoned unless tr_fetch has taken it over.
*/
TR_API void tr_future_release(tr_future *future);
/* Return its status now. Does not block. */
TR_API tr_future_status tr_future_get_status(tr_future *future);
/*
** Wait until the future has a result, 'timeout' seconds have passed, or the
** process is interrupted. TR_READY sets '*blob', retained; every other status
** sets the error, which for TR_PENDING has the kind TR_TIMEOUT or TR_CANCELLED; or
** TR_POLICY, at once, when a callback of a host waits for a future of that host. (Two
** hosts whose callbacks wait for futures of each other wait until their time is over.)
** 'blob' and 'error' may be NULL.
*/
TR_API tr_future_status tr_future_wait(tr_future *future, double timeout,
                                       tr_blob **blob, tr_error *error);
/*
** Return a descriptor that becomes readable once the future has a result, for
** poll and event loops, or -1 with errno. It is the future's: do not read or
** close it. No other future has the same one.
*/
TR_API int tr_future_fd(tr_future *future);
/* Get the bytes received so far and, when known (else 0), expected in all. Either
** pointer may be NULL. */
TR_API void tr_future_progress(tr_future *future, size_t *received,
                               size_t *total);

/*
** Give a future its result; a cache whose claim made it stores the blob before
** any waiter is woken. The blob is retained as needed. False: it had a result.
*/
TR_API bool tr_future_complete(tr_future *future, tr_blob *blob);
/* The same with an error, which is copied. */
TR_API bool tr_future_fail(tr_future *future, const tr_error *error);

/*
** Give up a load that this future leads: waiters see TR_ABANDONED, and one of
** them leads next. Nothing happens when tr_fetch has taken it over, or it has a
** result.
*/
TR_API void tr_future_abandon(tr_future *future);

/* Let the work go on after every future is released. */
TR_API void tr_future_detach(tr_future *future);

/* Return how often its load was tried so far; 1 for most. */
TR_API int tr_future_attempts(tr_future *future);

/*
** Interrupt every wait of the process, and every one to come, until it is called
** with false. A wait for a future returns TR_PENDING within a tenth of a second, with an
** error of kind TR_CANCELLED, "interrupted"; a call of a host fails with that error. The
** loads go on. May be called from a signal handler.
*/
TR_API void tr_interrupt(bool on);

/* Facts about a fetch, of a future that has its result. They live as long as the
** future; strings are NULL if there is nothing to tell. */
typedef struct tr_info tr_info;
/* Return the facts, or NULL: no result yet, or nothing was fetched. */
TR_API const tr_info *tr_future_get_info(tr_future *future);
/* The URL after redirects, without user, password and query. */
TR_API const char *tr_info_url(const tr_info *info);
TR_API int tr_info_status(const tr_info *info); /* HTTP's */
/* The media type that the server said. */
TR_API const char *tr_info_content_type(const tr_info *info);
/* The digest that the body was checked against, in hex. */
TR_API const char *tr_info_digest(const tr_info *info);
/* True if the server said that the known body has not changed (304). */
TR_API bool tr_info_unchanged(const tr_info *info);
/* How many requests it took, redirects aside; 1 and up. */
TR_API int tr_info_attempts(const tr_info *info);
/* Bytes of bodies received, as sent: more than the body if it was retried. */
TR_API uint64_t tr_info_received(const tr_info *info);
/* The moments of a fetch. */
typedef enum tr_moment {
  TR_MOMENT_STARTED,    /* its turn came */
  TR_MOMENT_CONNECTED,  /* it had a connection */
  TR_MOMENT_FIRST_BYTE, /* of a body */
  TR_MOMENT_DONE
} tr_moment;
/* Seconds from the call that asked for the fetch; below 0: never. */
TR_API double tr_info_seconds(const tr_info *info, tr_moment moment);

/* ------------------------------------------------------------- fetching */

/*
** Options of a fetch. Strings may be NULL and are copied.
**
** There is no default time limit for a whole fetch: a large file on a slow link
** must not fail. A fetch ends when its server is silent for 'stall_timeout', and
** it is retried and resumed while there is time.
*/
typedef struct tr_fetch_options {
  size_t size; /* set by the initialiser macro */
  double timeout; /* seconds for everything: queue, attempts, pauses; -1 */
  double connect_timeout;  /* seconds to look up and to connect; 10 */
  double stall_timeout;    /* seconds without a byte; 15 */
  size_t max_bytes;        /* of the decoded body; 1 GiB */
  int max_redirects;       /* 10 */
  int retries;             /* after a failure that may pass; 2 */
  const char *ca_file;     /* PEM bundle, instead of the system's */
  const char *client_cert; /* PEM file; not for another origin that a redirect
                              leads to, as 'headers' and 'netrc' */
  const char *client_key;  /* PEM file, without a password; NULL: client_cert */
  const char *unix_socket; /* path of a server's socket; NULL: TCP */
  const char *proxy;       /* NULL: the environment's; "": none */
  const char *user_agent;  /* NULL: "theaterref/<version>" */
  const char *const *headers; /* "Name: value", NULL-terminated; not sent on to
                                 another origin */
  const char *const *redirect_hosts; /* NULL-terminated: redirects may lead to
                                        the host asked and to these, such as
                                        "*.example.org"; NULL: to any */
  const char *digest;  /* hex of the SHA-1 or SHA-256 the body must have */
  bool refuse_private; /* never connect to a private, loopback or link-local
                          address; a proxy, which hides the peer, is exempt */
  bool netrc;          /* user and password from ~/.netrc */
  bool require_length; /* refuse a body that ends with the connection, without
                          a length or chunks: it may have been cut off. Over
                          HTTP/2 a length is needed: libcurl does not tell the
                          end of a stream from its reset */
  const char *cache_scope; /* who shares cached bytes; see tr_request_scope */
  const struct tr_fetch_host *hosts; /* options for hosts that a redirect leads
                                        to; NULL: none has its own */
} tr_fetch_options;

/* The options with which a redirect to a host is followed, instead of those of the
** fetch: headers, ca_file, client_cert, client_key, netrc, proxy, unix_socket,
** user_agent, connect_timeout and cache_scope; the rest applies to all of the fetch.
** The best match is taken, as soon as the origin is another than the one asked; with
** no match the fetch's own, but without headers, client_cert, client_key and netrc. */
typedef struct tr_fetch_host {
  const char *host; /* "example.org" or "example.org:8443", in any case; NULL ends
                       the list */
  const tr_fetch_options *options; /* all of them; NULL: the defaults */
} tr_fetch_host;

/* Initialises a tr_fetch_options: its size, and the defaults. */
#define TR_FETCH_OPTIONS                                                       \
  {                                                                            \
    sizeof(tr_fetch_options), -1, 10, 15, (size_t)1 << 30, 10, 2, 0, 0, 0, 0,  \
        0, 0, 0, 0, 0, false, false, false, 0, 0                               \
  }

/* libcurl is opened at the first fetch, or by one of these. Static storage.
** The libcurl in use and what it is built on; NULL where there is none. */
TR_API const char *tr_curl_version(void);
/* The PEM file of the authorities that it trusts where a fetch names none, or
** NULL. */
TR_API const char *tr_curl_ca_file(void);

/*
** Start to fetch an http or https URL into a pending future: a new one, or one
** that a cache's claim gave (TR_LEAD). If its 'timeout' is over, others that wait for
** the load see TR_ABANDONED: the limit was not theirs. False, with the future untouched and the
** error set, when not even a start was possible. Link-local addresses, where
** clouds keep credentials, are always refused.
*/
TR_API bool tr_fetch(tr_future *future, const char *url,
                     const tr_fetch_options *options, tr_error *error);

/* Limits of the process, which has one engine for all its fetches. */
typedef struct tr_engine_options {
  size_t size; /* set by the initialiser macro */
  int max_connections;      /* requests at one time; 128. One in eight is for
                               origins that have none. 0: as it is */
  int max_host_connections; /* the same for one origin; 32. 0: as it is */
} tr_engine_options;

/* Initialises a tr_engine_options: its size, and the defaults. */
#define TR_ENGINE_OPTIONS                                                      \
  { sizeof(tr_engine_options), 128, 32 }

/* Set the limits, from now on. False with the error. */
TR_API bool tr_engine_configure(const tr_engine_options *options,
                                tr_error *error);

/* Stop the engine: abandon what is under way, close connections, end its thread.
** The next fetch starts it again. */
TR_API void tr_shutdown(void);

/* --------------------------------------------------------------- cache */

/*
** References to blobs, shared by every Lua state and thread of the process.
**
** A key of an entry is bytes: the reference alone, or reference, zero byte, digest,
** zero byte, scope (tr_cache_key). The digest is the one that the bytes were checked
** against, the scope tells apart who asked (tr_request_scope); both may be empty.
** Getting and claiming take a whole key. Removing, refreshing and keeping take a
** reference, and act on all of its entries and loads.
*/
typedef struct tr_cache tr_cache;

/*
** Write the key of a reference to 'key', which has room for 'size' bytes, and
** return its length; nothing is written if there is no room for it. 'digest' and
** 'scope' may be NULL or empty. A key has no final zero byte.
*/
TR_API size_t tr_cache_key(char *key, size_t size, const char *reference,
                           const char *digest, const char *scope);

/*
** Write the scope of a request's options: "" if nothing in them can change whose
** bytes arrive. Else it is the HMAC-SHA-256 in hex, with a key that never leaves
** this process and its children, of the headers, 'client_cert', 'client_key',
** 'netrc', 'unix_socket', 'proxy' and 'ca_file' ("" is a proxy too: none, whatever the
** environment says). It is the SHA-256 of 'cache_scope' alone if that is set: the same
** in every process. Options that change how bytes arrive, but not whose,
** have no part in it: limits, timeouts, retries, 'user_agent'; and 'refuse_private'
** and 'redirect_hosts', which a claim checks. Reads no file. False with the error.
*/
TR_API bool tr_request_scope(const tr_fetch_options *options,
                             char scope[TR_HEX_MAX], tr_error *error);

/* Options of a cache. */
typedef struct tr_cache_options {
  size_t size; /* set by the initialiser macro */
  size_t max_bytes;    /* 256 MiB; 0: no bound */
  size_t max_entries;  /* 0: no bound */
  double ttl;          /* seconds an entry is fresh; below 0: for ever */
  double negative_ttl; /* seconds that "there is none" (404, 410, no such
                          file) is remembered; 0 */
  double stale_while_revalidate; /* seconds past its ttl that an entry is still
                                    served while it is loaded anew; 0 */
  double stale_if_error; /* seconds past its ttl that an entry is served when
                            loading it anew fails for lack of a server; 0 */
  bool no_coalesce;      /* concurrent misses each load; the last one wins */
  const char *disk;      /* folder of the disk cache, or NULL. Copied, and kept
                            for the code that loads: the cache itself reads no
                            file */
  size_t disk_max_bytes; /* the disk cache's bound; 0: none */
} tr_cache_options;

/* Initialises a tr_cache_options: its size, and the defaults. */
#define TR_CACHE_OPTIONS                                                       \
  { sizeof(tr_cache_options), (size_t)256 << 20, 0, -1, 0, 0, 0, false, 0, 0 }

/*
** Opens the process's cache of that name, making it on the first call; a NULL name
** makes a private one. NULL options are the defaults for a cache that is made, and
** join one that is open, whatever its options. Other options that differ from those
** that it was made with are an error of kind TR_IO.
*/
TR_API tr_cache *tr_cache_open(const char *name,
                               const tr_cache_options *options,
                               tr_error *error);
/* One reference more, for the caller; returns the cache. */
TR_API tr_cache *tr_cache_retain(tr_cache *cache);
/* Release one reference. NULL is allowed. The last one frees the cache; a named
** cache that is not closed has a reference of its own. */
TR_API void tr_cache_release(tr_cache *cache);
/*
** Close the cache of a name. Those who have it open go on with it; it is freed with
** the last reference. The next opening of the name makes a new cache. False: there
** is none.
*/
TR_API bool tr_cache_close(const char *name);

/* The fresh blob cached under the key, retained, or NULL. */
TR_API tr_blob *tr_cache_get(tr_cache *cache, const char *key, size_t len);

/* The outcome of a claim. */
typedef enum tr_claim {
  TR_HIT,  /* 'blob' is set, retained */
  TR_WAIT, /* 'future' is of whoever loads it; wait, and claim again if it
              turns out TR_ABANDONED */
  TR_LEAD, /* 'future' is yours to complete: tr_future_complete, tr_future_fail,
              tr_fetch, or else tr_future_abandon; then release it */
  TR_STALE, /* both: serve 'blob', and load it anew in the background, as with
               TR_LEAD (tr_future_detach lets nobody wait for it) */
  TR_NOMEM  /* memory is short, or options were not initialised; nothing is set */
} tr_claim;

/* Options of one claim, beside the cache's own. */
typedef struct tr_claim_options {
  size_t size; /* set by the initialiser macro */
  double ttl;      /* of what this claim loads; TR_CACHE_TTL */
  bool revalidate; /* never a hit: the server is asked whether what is cached
                      is still good */
  const tr_fetch_options *request; /* how this claim would fetch, or NULL */
  const char *content; /* the key that all references with these bytes share */
  size_t content_len;  /* 0: none; a longer one than 256 is ignored */
  bool respect_no_store; /* do not keep a body with Cache-Control: no-store or
                            private */
} tr_claim_options;

/* The 'ttl' that stands for the cache's own. */
#define TR_CACHE_TTL (-1e300)

/* Initialises a tr_claim_options: its size, and the defaults. */
#define TR_CLAIM_OPTIONS                                                       \
  { sizeof(tr_claim_options), TR_CACHE_TTL, false, 0, 0, 0, false }

/*
** Claim 'key' for loading; see tr_claim. Does not block on a load. '*blob' and
** '*future' are set to NULL, or as tr_claim says; release both. A load that finds
** its blob unchanged (HTTP's 304) gives everybody the same memory again.
**
** An entry remembers the hosts that its bytes were redirected to, and whether a peer
** had a private address. It is a miss for a claim whose request forbids that by
** 'redirect_hosts' or 'refuse_private'. Such a claim leaves it to others: it waits
** only for loads of claims with the same two options, and its own load is stored
** beside that entry, for claims with the same two options.
**
** 'content' is for a key whose content has a name, such as a digest that is checked:
** "sha256:<hex>" as the reference of a key, with its scope. The blob is stored once,
** under that key; the claimed key becomes an alias, through which it is found at the
** cost of a hit. An alias does not keep its blob in the cache. It leads to a blob, not
** to another alias.
*/
TR_API tr_claim tr_cache_claim(tr_cache *cache, const char *key, size_t len,
                               const tr_claim_options *options, tr_blob **blob,
                               tr_future **future);
/*
** Forgets a reference. A load in flight still answers those who wait for it, but
** its result is not kept. Returns whether an entry was there; a remembered failure
** is none.
*/
TR_API bool tr_cache_remove(tr_cache *cache, const char *reference, size_t len);
/* The same for all references. */
TR_API void tr_cache_clear(tr_cache *cache);
/*
** Makes the entries of a reference stale: the next claim leads, and asks the server
** whether they have changed. False when there were none.
*/
TR_API bool tr_cache_refresh(tr_cache *cache, const char *reference,
                             size_t len);
/*
** Keeps the entries of a reference (and what replaces them) from eviction, or no
** longer does. They still count against 'max_bytes'. False when there are none.
*/
TR_API bool tr_cache_keep(tr_cache *cache, const char *reference, size_t len,
                          bool kept);
/* How many blobs it holds, stale ones as well. */
TR_API size_t tr_cache_len(tr_cache *cache);

/* The statistics of a cache since it was made. */
typedef enum tr_stat {
  TR_STAT_HITS,      /* claims and gets that found something fresh */
  TR_STAT_MISSES,    /* that found nothing to serve or to wait for */
  TR_STAT_COALESCED, /* that waited for somebody else's load */
  TR_STAT_STALE,     /* that were served past their ttl */
  TR_STAT_LOADS,     /* that brought a blob */
  TR_STAT_ERRORS,    /* loads that failed */
  TR_STAT_EVICTIONS, /* entries that had to make room */
  TR_STAT_ENTRIES,   /* entries held now */
  TR_STAT_BYTES,     /* their bytes */
  TR_STAT_COUNT      /* how many there are in this header */
} tr_stat;

/* Fill in the first 'count' statistics, all of one moment: pass TR_STAT_COUNT and
** an array of so many. */
TR_API void tr_cache_get_stats(tr_cache *cache, uint64_t *values,
                               size_t count);

/* ---------------------------------------------------------------- files */

/* The usual limit for a file: 1 GiB. */
#define TR_FILE_MAX_BYTES ((size_t)1 << 30)

/*
** Read a regular file whole, or up to a pipe's end; wait 2 seconds for a pipe's
** writer, and 30 for each piece. More than 'max_bytes' is TR_TOO_LARGE. Anything
** else, such as a device, is refused. NULL with the error.
*/
TR_API tr_blob *tr_file_read(const char *path, size_t max_bytes,
                             tr_error *error);
/*
** Write a file. Its name shows the old content or the new, never a mixture, and the
** file keeps its mode; 'durable' syncs the file and its folder before it returns.
** Symbolic links are followed. Anything but a regular file, such as a device or a pipe,
** is opened and written. False with the error.
*/
TR_API bool tr_file_write(const char *path, const void *data, size_t size,
                          bool durable, tr_error *error);

/* ---------------------------------------------------------------- store */

/*
** Why a name cannot be a label, or NULL when it can: it is empty, absolute,
** too long, or a part is empty, '.', '..' or holds a control
** character. Static storage. A store's id is held to the same rule.
*/
TR_API const char *tr_label_fault(const char *label);

/* A content-addressed store on disk, in Theater's layout. */
typedef struct tr_store tr_store;

/* When a read is checked against its name. */
typedef enum tr_verify {
  TR_VERIFY_ONCE, /* once or twice in this process, for a file as it is */
  TR_VERIFY_ALWAYS,
  TR_VERIFY_NEVER /* do not verify reads, except empty files and content that
                     a put finds */
} tr_verify;

/* Options of a store. */
typedef struct tr_store_options {
  size_t size; /* set by the initialiser macro */
  tr_algorithm algorithm; /* names of new content; TR_SHA1 is Theater's */
  tr_verify verify;       /* when a read is checked against its name */
  bool durable;           /* sync what is written before it returns; true */
  bool unmapped;          /* read large content rather than map it */
  double lock_timeout;    /* seconds to wait for others who move labels or lock the
                             store, then the call fails; 30; -1: no limit */
  unsigned label_history; /* how many of its last hashes a label that moves has in
                             its history, whose content gc keeps; 5; at most 100 */
} tr_store_options;

/* Initialises a tr_store_options: its size, and the defaults. */
#define TR_STORE_OPTIONS                                                       \
  { sizeof(tr_store_options), TR_SHA1, TR_VERIFY_ONCE, true, false, 30, 5 }

/*
** A store in the folder 'base_path', which holds data/ and labels/. Neither
** needs to exist yet: the first write makes them. NULL with the error.
*/
TR_API tr_store *tr_store_open(const char *base_path,
                               const tr_store_options *options,
                               tr_error *error);
/* Close a store. NULL is allowed. Its blobs stay valid. */
TR_API void tr_store_close(tr_store *store);

/* The algorithm that names new content. */
TR_API tr_algorithm tr_store_algorithm(const tr_store *store);

/* Stores bytes and writes their hash to 'hash'. */
TR_API bool tr_store_put(tr_store *store, const void *data, size_t size,
                         char hash[TR_HEX_MAX], tr_error *error);
/* The content of that hash (40 or 64 hex digits). */
TR_API tr_blob *tr_store_get(tr_store *store, const char *hash,
                             tr_error *error);
/* 1, 0, or -1 with the error. */
TR_API int tr_store_exists(tr_store *store, const char *hash, tr_error *error);
/*
** Point a label at content that is there; with 'expect', only if the label
** points at that hash, or if that is "", only if there is no such label. The content
** that it pointed at before is safe from garbage collection for the grace period.
** 1 when it was done, 0 when the label was not as expected, or -1. A label that begins
** with "hash/", or is 40 or 64 hex digits, cannot be made, since it would be taken for a
** hash; a blank one,
** as a crash of Theater leaves it, is an error with 'expect'.
*/
TR_API int tr_store_label(tr_store *store, const char *label, const char *hash,
                          const char *expect, tr_error *error);
/* The hash a label points at: 1, 0 when there is no such label, or -1, also when it is
** blank: its writer is not done, or crashed. The folder
** labels/ and folders in it may be symbolic links for readers, not for others. */
TR_API int tr_store_get_label(tr_store *store, const char *label,
                              char hash[TR_HEX_MAX], tr_error *error);
/*
** Get the content that a label points at. A label that moves meanwhile is read
** again, so that the answer is what it points at, or did a moment ago. NULL with the
** error, whose kind is TR_OK if there is no such label.
*/
TR_API tr_blob *tr_store_get_labelled(tr_store *store, const char *label,
                                      tr_error *error);
/*
** Removes a label; with 'only_if', only when it points at that hash.
** 1 when it was removed, 0 when there was nothing to remove, or -1.
*/
TR_API int tr_store_remove_label(tr_store *store, const char *label,
                                 const char *only_if, tr_error *error);

/* Called for each item of a listing; false stops it. */
typedef bool (*tr_store_visit)(void *context, const char *name, size_t size);
/*
** Visit the hashes that a label pointed at before, the newest first, none twice and
** without the one that it points at now; 'size' is 0. Moves by other programs than
** theaterref are not recorded. A label that is removed has no history any more. To
** roll back, move the label to one of them. False with the error.
*/
TR_API bool tr_store_each_former(tr_store *store, const char *label,
                                 tr_store_visit visit, void *context,
                                 tr_error *error);

/*
** A batch: many puts and labels for the price of one sync. None of them is
** visible before the commit, and none at all if the process fails before. One
** thread at a time. It belongs to the process that began it: in a child of a fork,
** nothing but tr_batch_free works.
*/
typedef struct tr_batch tr_batch;
/* An empty batch, to be freed before its store is closed. NULL with the
** error. */
TR_API tr_batch *tr_batch_begin(tr_store *store, tr_error *error);
/* Takes bytes in and writes their hash to 'hash'. False with the error. Of content that
** the store has, no copy is kept: the commit fails if it was deleted meanwhile. */
TR_API bool tr_batch_put(tr_batch *batch, tr_algorithm algorithm,
                         const void *data, size_t size, char hash[TR_HEX_MAX],
                         tr_error *error);
/* The content may be in the store or in the batch: commit looks for it. A label that is in
** the batch already gets this hash instead. */
TR_API bool tr_batch_label(tr_batch *batch, const char *label, const char *hash,
                           tr_error *error);
/*
** Put everything in place, the labels last. Before that it checks that everything
** can be: a label without content or with an impossible name is an error, and then nothing
** is in place. After another error, such as of a disk, content may be in place, but no label
** has moved, unless the very last sync failed. The rest stays in the batch: commit again to
** try it. Two errors end the batch, and all that follows fails: a failed sync, since the
** disk may have lost bytes, and a label that could not be moved: those that were moved before
** it are put back, which needs no room on the disk, and the error says if that failed. Free
** the batch then, and begin another one.
*/
TR_API bool tr_batch_commit(tr_batch *batch, tr_error *error);
/* Frees a batch; what was not committed never was. */
TR_API void tr_batch_free(tr_batch *batch);

/* Visit every label, in no order; 'size' is 0. Nested labels come as "a/b". Anything
** else among them, such as a symbolic link, is visited too, since a label may be
** behind it: tr_store_get_label tells the fault. False with the error, unless
** everything was seen or 'visit' stopped it. */
TR_API bool tr_store_each_label(tr_store *store, tr_store_visit visit,
                                void *context, tr_error *error);
/* Every content hash with its size in bytes, in no order. */
TR_API bool tr_store_each_content(tr_store *store, tr_store_visit visit,
                                  void *context, tr_error *error);

/* Checks content against its name, whatever was checked before. */
TR_API bool tr_store_check(tr_store *store, const char *hash, tr_error *error);
/*
** Delete content that was last put, labelled or the content of a label more than
** 'grace' seconds ago. 1 when it was deleted (or, with 'dry_run', would be), 0, or -1.
*/
TR_API int tr_store_discard(tr_store *store, const char *hash, double grace,
                            bool dry_run, tr_error *error);
/* Lock the store: garbage collectors and label updates, in all processes and in this
** thread, wait until it is unlocked; readers and writers of content do not. -1 with the
** error, of kind TR_NOT_FOUND where there is no store yet, TR_TIMEOUT when
** 'lock_timeout' is over. */
TR_API int tr_store_lock_all(tr_store *store, tr_error *error);
/* Unlocks what tr_store_lock_all locked. */
TR_API void tr_store_unlock(int lock);
/* Visit corrupt content in quarantine, the folder corrupt/, with its size in
** bytes. */
TR_API bool tr_store_each_quarantined(tr_store *store, tr_store_visit visit,
                                      void *context, tr_error *error);
/* Visit the temporary files that crashed writers left, with their size in
** bytes. */
TR_API bool tr_store_each_temporary(tr_store *store, tr_store_visit visit,
                                    void *context, tr_error *error);
/* Delete a temporary file older than 'grace' seconds; as tr_store_discard. */
TR_API int tr_store_discard_temporary(tr_store *store, const char *name,
                                      double grace, bool dry_run,
                                      tr_error *error);

/* --------------------------------------------------------- initial state */

/*
** Merge two initial states, either of which may be NULL. One alone is itself, byte for
** byte. Two JSON objects give their union, compact and with sorted keys, where the
** override wins key by key and each value stays as it is written; anything else gives the
** override. NULL with no error kind set: both were NULL.
*/
TR_API tr_blob *tr_merge_states(tr_blob *config_state, tr_blob *override_state,
                                tr_error *error);

/* ----------------------------------------------------------------- hosts */

/*
** A host: a policy and what it needs to plan spawns. It has a Lua state of its
** own. Any number may be in one process, on any threads; those that name one
** cache share it. Two threads that plan with one host take turns: give each
** thread a host. Between calls it holds no result of theirs. After a fork() the
** child may use it, unless another thread was using it: then its calls fail. The
** futures of its calls that were pending are TR_ABANDONED in the child.
*/
typedef struct tr_host tr_host;

/*
** Gets each line of a host's log, on the thread that plans, while it plans. If it
** calls the same host, that call fails with kind TR_POLICY. 'level' is "debug", "info",
** "warn" or "error". The strings are only good for the call; the line has no
** newline, no secret and no control character in it.
*/
typedef void (*tr_log_sink)(void *context, const char *level, const char *line);

/* Options of a host. Strings may be NULL and are copied. They override the
** configuration. */
typedef struct tr_host_options {
  size_t size; /* set by the initialiser macro */
  const char *config;   /* path of a configuration file; "": the one that is in
                           the usual places, if any; NULL: none */
  const char *policy;   /* path of a policy script; NULL: the default rules */
  bool trusted;         /* run that script without a sandbox */
  const char *home;     /* Theater home; NULL: $THEATER_HOME, or ~/.theater */
  const char *cache;    /* name of the process's cache to use, made with the
                           defaults unless it is open; NULL: the
                           configuration's, else none */
  const char *lockfile; /* path of a lockfile that must list every reference;
                           NULL: none */
  const char *offline;  /* fetch nothing: only files, local stores and what
                           caches have; with a lockfile, locked content comes
                           from the store of this id. NULL: fetch */
  const char *ca_file;  /* PEM file of authorities to trust; NULL: the
                           system's */
  double timeout;       /* seconds for each fetch; 0: the configuration's, else
                           no limit */
  const char *log;      /* "debug", "info", "warn", "error" or "off"; NULL:
                           $THEATERREF_LOG, else "warn" */
  tr_log_sink log_sink; /* NULL: standard error */
  void *log_context;    /* what the sink is called with */
  const char *lua_folder; /* where theaterref/init.lua lies; NULL: where it was
                             installed */
} tr_host_options;

/* Initialises a tr_host_options: its size, and the defaults. */
#define TR_HOST_OPTIONS                                                        \
  {                                                                            \
    sizeof(tr_host_options), 0, 0, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0         \
  }

/* Make a host. NULL with the error: of kind TR_POLICY when the policy or an
** option is at fault, TR_SYNTAX when the configuration is, TR_NOT_FOUND when the file
** of either is missing. */
TR_API tr_host *tr_host_new(const tr_host_options *options, tr_error *error);
/* Free a host that is not in a call. NULL is allowed. Its plans stay. Its futures that
** are pending fail with kind TR_CANCELLED. */
TR_API void tr_host_free(tr_host *host);

/* Options of one call of a host. */
typedef struct tr_call_options {
  size_t size; /* set by the initialiser macro */
  double timeout;            /* seconds for the call; -1: no limit */
  const char *initial_state; /* of plans: JSON text that overrides the
                                manifest's initial state, or NULL */
} tr_call_options;

/* Initialises a tr_call_options: its size, and the defaults. */
#define TR_CALL_OPTIONS                                                        \
  { sizeof(tr_call_options), -1, 0 }

/* Everything a spawn needs. */
typedef struct tr_plan tr_plan;

/*
** Plan the spawn of a manifest's actor; block until everything is here, the time
** is over or the process is interrupted. Return NULL with the error.
*/
TR_API tr_plan *tr_host_plan(tr_host *host, const char *manifest,
                             const tr_call_options *options, tr_error *error);
/* Free a plan and release its blobs. NULL is allowed. */
TR_API void tr_plan_free(tr_plan *plan);

/*
** The parts of a plan, which owns them: they live as long as it does, unless you
** retain a blob. Any thread may read them.
*/

/* The actor's name. */
TR_API const char *tr_plan_name(const tr_plan *plan);
/*
** The manifest as JSON text: its variables are filled in, and the policy may have
** narrowed it. Nothing is lost: numbers are as a JSON manifest writes them, or have
** all their digits; [] and {} stay apart, but in Lua manifests {} is an object. Dates,
** inf and nan, which JSON does not have, are strings, spelled as in TOML. Keys are
** sorted.
*/
TR_API tr_blob *tr_plan_manifest(const tr_plan *plan);
/* The reference of the manifest, as it was asked for. */
TR_API const char *tr_plan_manifest_reference(const tr_plan *plan);
/* The reference that its bytes came from: after rewriting, schemes and redirects. */
TR_API const char *tr_plan_origin(const tr_plan *plan);
/* The reference that the package came from. */
TR_API const char *tr_plan_package_reference(const tr_plan *plan);
/* The bytes to run. */
TR_API tr_blob *tr_plan_package(const tr_plan *plan);
/* JSON text with its secrets, or NULL: there is none. */
TR_API tr_blob *tr_plan_initial_state(const tr_plan *plan);
/* The same with the references of its secrets as they were: it may be logged. */
TR_API tr_blob *tr_plan_state_without_secrets(const tr_plan *plan);
/* True if the host has a cache, and the policy let the package into it. */
TR_API bool tr_plan_used_cache(const tr_plan *plan);
/* True if the cache had it already. */
TR_API bool tr_plan_cache_hit(const tr_plan *plan);

/* How many steps the plan took. */
TR_API size_t tr_plan_phase_count(const tr_plan *plan);
/* The name of a step, such as "package"; NULL past the last. */
TR_API const char *tr_plan_phase_name(const tr_plan *plan, size_t phase);
/* How long it took, in seconds. */
TR_API double tr_plan_phase_seconds(const tr_plan *plan, size_t phase);
/* How many bytes it brought, or worked on. */
TR_API uint64_t tr_plan_phase_bytes(const tr_plan *plan, size_t phase);

/*
** The bytes that a reference means, under the host's policy and through its
** cache, if it has one. Blocks as tr_host_plan. NULL with the error.
*/
TR_API tr_blob *tr_host_resolve(tr_host *host, const char *reference,
                                const tr_call_options *options,
                                tr_error *error);

/*
** Start to plan a spawn, and return its future at once; NULL with the error. A plan that
** fails is an error of the future. The timeout counts from this call. Release the future
** before it has a result to cancel the work.
**
** A thread of the host's own, started by the first future, advances all of them. It
** takes turns with the host's other calls: these keep the host until they return, and
** its futures wait meanwhile. Callbacks of the host run on that thread, too; all signals
** are blocked in it.
**
** The future's blob is the package. tr_future_progress tells of the load that it waits
** for, tr_future_get_info returns NULL.
*/
TR_API tr_future *tr_host_start_plan(tr_host *host, const char *manifest,
                                     const tr_call_options *options,
                                     tr_error *error);
/* Take the plan of a future that is TR_READY; you own it. NULL: it was taken, or this is
** no future of a plan. */
TR_API tr_plan *tr_future_take_plan(tr_future *future);
/* Start to resolve a reference, as tr_host_resolve does; else as tr_host_start_plan. The
** future's blob is the bytes. */
TR_API tr_future *tr_host_start_resolve(tr_host *host, const char *reference,
                                        const tr_call_options *options,
                                        tr_error *error);

/* ------------------------------------------------------------------ Lua */

struct lua_State;

/* Opens the C half of the module: what require "theaterref.core" returns. */
TR_API int luaopen_theaterref_core(struct lua_State *L);

/* Opens the whole module, for a host with a Lua state of its own: what require
** "theaterref" returns, and from now on gives in that state. Its Lua files are
** found on package.path, or where they were installed. May raise. */
TR_API int luaopen_theaterref(struct lua_State *L);

/* The blob at a stack index, not retained, or NULL when it is none. */
TR_API tr_blob *tr_toblob(struct lua_State *L, int index);

/* Pushes a blob; the Lua value takes a reference of its own. May raise. */
TR_API void tr_pushblob(struct lua_State *L, tr_blob *blob);

#ifdef __cplusplus
}
#endif

#endif
