/*
** theaterref: turns references into bytes, quickly and safely.
** This is the public C API, and the only header a host includes.
**
** Conventions
**   Ownership  A function that makes, opens, reads or retains an object returns
**              one reference, which the caller releases with the matching
**              *_release or *_free. A function that reads a part of an object,
**              such as tr_plan_package or tr_future_get_info, returns a pointer
**              that the object still owns.
**              Strings and buffers passed in are only read during the call.
**   Errors     A function that can fail takes a 'tr_error *', which may be NULL,
**              and fills it when it returns NULL or false. A call that fails
**              leaves nothing behind.
**   Options    A struct of options is initialised by its macro, which also holds
**              the defaults: tr_fetch_options o = TR_FETCH_OPTIONS; then set
**              the fields that differ. A pointer to options may be NULL, for the
**              defaults. Structs may grow: a program compiled against an older
**              header keeps working.
**   Threads    Every function may be called from any thread at any time,
**              unless its comment says otherwise.
**   Units      Seconds as double, bytes as size_t. A timeout below zero
**              means "no limit"; NaN is refused, or counts as zero. A timeout of 0
**              is over at once: tr_future_wait only looks, a fetch or a call of a
**              host fails. Only in tr_host_options does 0 mean the configuration's
**              timeout.
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

/* The version of the library; it is defined only here. */
#define TR_VERSION "0.1.0"

/* Return the version of the running library: TR_VERSION of its own header.
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
  TR_CANCELLED,
  TR_UNTRUSTED, /* not signed by the keys that a policy trusts */
  TR_REJECTED,  /* a policy looked at the bytes and refused them */
  TR_UNKNOWN_OUTCOME /* a write to a server may have been applied, or not */
} tr_error_kind;

/* A failure, by value: nothing in it needs freeing. */
typedef struct tr_error {
  tr_error_kind kind; /* for code to act on */
  int status;         /* HTTP status, or 0 */
  int errnum;         /* errno, or 0 */
  char message[1024]; /* for people; redacted, then cut with "..." if it is too long */
  void *reserved[4];  /* for future fields */
} tr_error;

/* Return the kind's name, such as "not_found". Static storage. */
TR_API const char *tr_error_kind_name(tr_error_kind kind);

/* -------------------------------------------------------------- blobs */

/* Immutable bytes with a reference count; they never change and never move. */
typedef struct tr_blob tr_blob;

/* Return a blob with a copy of 'size' bytes, or NULL if memory is short. */
TR_API tr_blob *tr_blob_new(const void *data, size_t size);
/* Add a reference; return the blob. */
TR_API tr_blob *tr_blob_retain(tr_blob *blob);
/* Release one reference. NULL is allowed. */
TR_API void tr_blob_release(tr_blob *blob);
/* Return its bytes; never NULL, even for size 0. Valid while a reference is held. */
TR_API const void *tr_blob_data(const tr_blob *blob);
/* Return its size in bytes. */
TR_API size_t tr_blob_size(const tr_blob *blob);

/* ------------------------------------------------------------- digests */

/* How content is hashed. */
typedef enum tr_algorithm { TR_SHA1, TR_SHA256 } tr_algorithm;

/* Room for the longest digest in hex and its final zero. */
#define TR_HEX_MAX 65

/* Write the digest of 'data' in lower-case hex to 'hex', zero-terminated. */
TR_API void tr_digest(tr_algorithm algorithm, const void *data, size_t size,
                      char hex[TR_HEX_MAX]);

/* ------------------------------------------------------------- futures */

/* A handle on a result that arrives once: a blob, or an error. */
typedef struct tr_future tr_future;

/* The status of a future. */
typedef enum tr_future_status {
  TR_PENDING,
  TR_READY,
  TR_FAILED,
  TR_ABANDONED /* its loader gave up; nothing will complete it */
} tr_future_status;

/* Return a pending future to complete, or NULL if memory is short. */
TR_API tr_future *tr_future_create(void);
/* Add a reference to this handle; return it. */
TR_API tr_future *tr_future_retain(tr_future *future);
/*
** Release a reference. NULL is allowed. Releasing the last one cancels work that
** nobody else wants, and abandons a load that this future leads (see TR_LEAD)
** unless tr_fetch has taken it over.
*/
TR_API void tr_future_release(tr_future *future);
/* Return the current status. Does not block. */
TR_API tr_future_status tr_future_get_status(tr_future *future);
/*
** Wait until the future has a result, 'timeout' seconds have passed, or the process is
** interrupted. TR_READY sets '*blob', retained. Every other status sets the error; for
** TR_PENDING its kind is TR_TIMEOUT or TR_CANCELLED, or TR_POLICY, at once, if a callback
** of a host waits for a future of that host, or functions of tr_derive would wait for each
** other. (Two hosts whose callbacks wait for futures of each other wait until they time out.)
** 'blob' and 'error' may be NULL.
*/
TR_API tr_future_status tr_future_wait(tr_future *future, double timeout,
                                       tr_blob **blob, tr_error *error);
/*
** Return a descriptor that becomes readable once the future has a result, for poll and
** event loops, or -1 with errno. The future owns it: do not read or close it. Each
** future has its own.
*/
TR_API int tr_future_fd(tr_future *future);
/* Get the bytes received so far and, if known (else 0), the bytes expected in all.
** Either pointer may be NULL. */
TR_API void tr_future_progress(tr_future *future, size_t *received,
                               size_t *total);

/*
** Give a future its result. A cache whose claim made the future stores the blob before
** any waiter wakes. The blob is retained as needed. Return false if it had a result.
*/
TR_API bool tr_future_complete(tr_future *future, tr_blob *blob);
/* Fail a future, as tr_future_complete completes one. The error is copied. */
TR_API bool tr_future_fail(tr_future *future, const tr_error *error);

/*
** Give up a load that this future leads: waiters see TR_ABANDONED, and one of
** them leads next. Does nothing if tr_fetch has taken the load over, or the future
** has a result.
*/
TR_API void tr_future_abandon(tr_future *future);

/* Let the work continue after all references to the future are released. */
TR_API void tr_future_detach(tr_future *future);

/* Return how often its load was tried so far; usually 1. */
TR_API int tr_future_attempts(tr_future *future);

/*
** Interrupt every current and future wait of the process, until called with false. A wait
** for a future returns TR_PENDING within a tenth of a second, with an error of kind
** TR_CANCELLED, "interrupted"; a call of a host fails with that error. The loads go on.
** May be called from a signal handler.
*/
TR_API void tr_interrupt(bool on);

/* Facts about the fetch of a finished future. They live as long as the future; unknown
** strings are NULL. */
typedef struct tr_info tr_info;
/* Return the facts, or NULL if there is no result yet or nothing was fetched. */
TR_API const tr_info *tr_future_get_info(tr_future *future);
/* Return the URL after redirects, without user, password and query. */
TR_API const char *tr_info_url(const tr_info *info);
TR_API int tr_info_status(const tr_info *info); /* of HTTP */
/* Return the media type that the server sent. */
TR_API const char *tr_info_content_type(const tr_info *info);
/* Return the digest that the body was checked against, in hex. */
TR_API const char *tr_info_digest(const tr_info *info);
/* Return true if the server confirmed that the known body has not changed (304). */
TR_API bool tr_info_unchanged(const tr_info *info);
/* Return how many requests the fetch took, not counting redirects; at least 1. */
TR_API int tr_info_attempts(const tr_info *info);
/* Return the bytes of bodies received, as sent: more than the body after a retry. */
TR_API uint64_t tr_info_received(const tr_info *info);
/* The moments of a fetch. */
typedef enum tr_moment {
  TR_MOMENT_STARTED,    /* its turn came */
  TR_MOMENT_CONNECTED,  /* it had a connection */
  TR_MOMENT_FIRST_BYTE, /* of a body */
  TR_MOMENT_DONE
} tr_moment;
/* Return seconds from the call that asked for the fetch; below 0: never reached. */
TR_API double tr_info_seconds(const tr_info *info, tr_moment moment);

/* ------------------------------------------------------------- fetching */

/*
** Options of a fetch. Strings may be NULL and are copied.
**
** A whole fetch has no time limit by default: a large file on a slow link must not
** fail. A fetch ends when its server is silent for 'stall_timeout'; it is retried and
** resumed while there is time.
*/
typedef struct tr_fetch_options {
  size_t size; /* set by the initialiser macro */
  double timeout; /* seconds for everything: queue, attempts, pauses; -1 */
  double connect_timeout;  /* seconds to look up the host and connect; 10 */
  double stall_timeout;    /* seconds without a byte; 15 */
  size_t max_bytes;        /* of the decoded body; 1 GiB */
  int max_redirects;       /* 10 */
  int retries;             /* after a temporary failure; 2 */
  const char *ca_file;     /* PEM bundle, instead of the system's. It and the next two must
                              be regular files of at most 16 MiB */
  const char *client_cert; /* PEM file; not sent to another origin after a redirect,
                              as 'headers' and 'netrc' */
  const char *client_key;  /* PEM file, without a password; NULL: client_cert */
  const char *unix_socket; /* path of a server's socket; NULL: TCP */
  const char *proxy;       /* NULL: the environment's; "": none */
  const char *user_agent;  /* NULL: "theaterref/<version>" */
  const char *const *headers; /* "Name: value", NULL-terminated; not sent to another
                                 origin, except Accept */
  const char *const *redirect_hosts; /* NULL-terminated: redirects may lead to the
                                        requested host and to these, such as
                                        "*.example.org"; NULL: to any */
  const char *digest;  /* hex of the SHA-1 or SHA-256 the body must have */
  bool refuse_private; /* never connect to a private, loopback or link-local
                          address; a proxy, which hides the peer, is exempt */
  bool netrc;          /* user and password from ~/.netrc */
  bool require_length; /* refuse a body without a length or chunks, which ends when
                          the connection closes: it may have been cut off. HTTP/2
                          needs a length: libcurl does not tell the end of a stream
                          from a reset */
  const char *cache_scope; /* who shares cached bytes; see tr_request_scope */
  const struct tr_fetch_host *hosts; /* options for hosts that redirects lead to;
                                        NULL: none */
} tr_fetch_options;

/* Options for redirects to one host, instead of those of the fetch: headers, ca_file,
** client_cert, client_key, netrc, proxy, unix_socket, user_agent, connect_timeout and
** cache_scope; the other options apply to the whole fetch. The best match is used once
** the origin differs from the requested one. Without a match, the fetch's own options
** are used, but without headers, client_cert, client_key and netrc. Accept is not secret: the
** fetch's own goes along unless the host has another one. */
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

/* Return the version of the libcurl in use and of what it is built on, or NULL if there
** is none. This and tr_curl_ca_file open libcurl, as the first fetch does. Static
** storage. */
TR_API const char *tr_curl_version(void);
/* Return the PEM file of the authorities that libcurl trusts if a fetch names none, or
** NULL. */
TR_API const char *tr_curl_ca_file(void);

/*
** Start to fetch an http or https URL into a pending future: a new one, or one from a
** cache's claim (TR_LEAD). When its 'timeout' is over, others that wait for the load see
** TR_ABANDONED: the limit was not theirs. Return false, with the future untouched and the
** error set, if the fetch could not start. Link-local addresses, where clouds serve
** credentials, are always refused.
*/
TR_API bool tr_fetch(tr_future *future, const char *url,
                     const tr_fetch_options *options, tr_error *error);

/* Limits of the process, whose fetches all share one engine. */
typedef struct tr_engine_options {
  size_t size; /* set by the initialiser macro */
  int max_connections;      /* concurrent requests; 128. One slot in eight is reserved
                               for origins without a request. 0: unchanged */
  int max_host_connections; /* the same for one origin; 32. 0: unchanged */
} tr_engine_options;

/* Initialises a tr_engine_options: its size, and the defaults. */
#define TR_ENGINE_OPTIONS                                                      \
  { sizeof(tr_engine_options), 128, 32 }

/* Set the limits, from now on. Return false with the error. */
TR_API bool tr_engine_configure(const tr_engine_options *options,
                                tr_error *error);

/* Stop the engine: abandon pending fetches, close connections, end its thread.
** The next fetch starts it again. A thread that watches the engine and holds no memory
** ends by itself, about ten seconds after the last fetch. */
TR_API void tr_shutdown(void);

/* --------------------------------------------------------------- cache */

/*
** A map from references to blobs, shared by every Lua state and thread of the process.
**
** An entry's key is bytes: the reference alone, or reference, zero byte, digest, zero
** byte, scope (tr_cache_key). The digest is the one that the bytes were checked against;
** the scope separates requesters (tr_request_scope). Both may be empty. Getting and
** claiming take a whole key. Removing, refreshing and keeping take a reference, and act
** on all of its entries and loads.
*/
typedef struct tr_cache tr_cache;

/*
** Write the key of a reference to 'key', which has room for 'size' bytes, and return
** its length; write nothing if the key does not fit. 'digest' and 'scope' may be NULL
** or empty. A key has no final zero byte.
*/
TR_API size_t tr_cache_key(char *key, size_t size, const char *reference,
                           const char *digest, const char *scope);

/*
** Write the scope of a request's options: "" if none of them can change whose bytes
** arrive. Otherwise it is an HMAC-SHA-256 in hex, with a secret that never leaves this
** process and its children, of the headers, 'client_cert', 'client_key', 'netrc',
** 'unix_socket', 'proxy' and 'ca_file' ("" counts as a proxy too: it overrides the
** environment). If 'cache_scope' is set, the scope is only its SHA-256: the same in
** every process. Options that change how bytes arrive, but not whose, do not count:
** limits, timeouts, retries and 'user_agent'; and 'refuse_private' and
** 'redirect_hosts', which a claim checks. Reads no file. Return false with the error.
*/
TR_API bool tr_request_scope(const tr_fetch_options *options,
                             char scope[TR_HEX_MAX], tr_error *error);

/* Options of a cache. */
typedef struct tr_cache_options {
  size_t size; /* set by the initialiser macro */
  size_t max_bytes;        /* 256 MiB; 0: no limit */
  size_t max_entries;      /* 0: no limit */
  double ttl;          /* seconds an entry is fresh; below 0: for ever */
  double negative_ttl; /* seconds that a 404, 410 or missing file is remembered;
                          0 */
  double stale_while_revalidate; /* seconds past its ttl that an entry is still
                                    served while it reloads; 0 */
  double stale_if_error; /* seconds past its ttl that an entry is served if the
                            server fails; 0 */
  bool no_coalesce;      /* concurrent misses each load; the last one wins */
  const char *disk;      /* folder of the disk cache, or NULL. Copied, and kept for
                            the code that loads: the cache itself reads no file */
  size_t disk_max_bytes; /* the disk cache's limit; 0: none */
} tr_cache_options;

/* Initialises a tr_cache_options: its size, and the defaults. */
#define TR_CACHE_OPTIONS                                                       \
  { sizeof(tr_cache_options), (size_t)256 << 20, 0, -1, 0, 0, 0, false, 0, 0 }

/*
** Open the process's cache with this name, making it on the first call; a NULL name
** makes a private one. NULL options mean the defaults for a new cache, and join an open
** one, whatever its options. Options that differ from those of the open cache are an
** error of kind TR_IO.
*/
TR_API tr_cache *tr_cache_open(const char *name,
                               const tr_cache_options *options,
                               tr_error *error);
/* Add a reference; return the cache. */
TR_API tr_cache *tr_cache_retain(tr_cache *cache);
/* Release one reference. NULL is allowed. The last one frees the cache; a named
** cache holds a reference to itself until it is closed. */
TR_API void tr_cache_release(tr_cache *cache);
/*
** Close the cache with this name. Handles that are open keep working; the last release
** frees it. The next tr_cache_open with the name makes a new cache. Return false if
** there is none.
*/
TR_API bool tr_cache_close(const char *name);

/* Return the fresh blob cached under the key, retained, or NULL. */
TR_API tr_blob *tr_cache_get(tr_cache *cache, const char *key, size_t len);

/* The outcome of a claim. */
typedef enum tr_claim {
  TR_HIT,  /* 'blob' is set, retained */
  TR_WAIT, /* another caller is loading 'future': wait for it, and claim again if it
              becomes TR_ABANDONED */
  TR_LEAD, /* 'future' is yours to complete, with tr_future_complete, tr_future_fail or
              tr_fetch, or to give up with tr_future_abandon; then release it */
  TR_STALE, /* both: serve 'blob', and reload it in the background, as with TR_LEAD
               (call tr_future_detach so that nobody has to wait for it) */
  TR_NOMEM  /* memory is short, or options were not initialised; nothing is set */
} tr_claim;

/* Options of one claim, in addition to the cache's own. */
typedef struct tr_claim_options {
  size_t size; /* set by the initialiser macro */
  double ttl;      /* of the bytes that this claim loads; TR_CACHE_TTL */
  bool revalidate; /* never a hit: ask the server whether the cached bytes have
                      changed */
  const tr_fetch_options *request; /* how this claim would fetch, or NULL */
  const char *content; /* a key shared by all references with these bytes */
  size_t content_len;  /* 0: none; above 256 it is ignored */
  bool respect_no_store; /* do not keep a body with Cache-Control: no-store or
                            private */
  bool provisional; /* the caller is going to accept or reject the bytes */
  double max_age; /* seconds after which bytes that were loaded or confirmed are
                     revalidated instead of being a hit, and after which a remembered
                     failure is ignored; below 0: no limit */
  double keep_failure; /* seconds for which a failure of this load answers claims that would
                          lead, even if there are older bytes; below 0: as negative_ttl
                          and stale_if_error say */
} tr_claim_options;

/* The 'ttl' that means the cache's own. */
#define TR_CACHE_TTL (-1e300)

/* Initialises a tr_claim_options: its size, and the defaults. */
#define TR_CLAIM_OPTIONS                                                       \
  {                                                                            \
    sizeof(tr_claim_options), TR_CACHE_TTL, false, 0, 0, 0, false, false, -1,  \
        -1                                                                     \
  }

/*
** Claim 'key' for loading; see tr_claim. Does not block on a load. Sets '*blob' and
** '*future' as tr_claim says, or to NULL; release both. If a load finds its blob
** unchanged (HTTP's 304), everybody keeps sharing the same memory.
**
** An entry remembers the hosts that its bytes were redirected to, and whether a peer
** had a private address. It is a miss for a claim whose request forbids that by
** 'redirect_hosts' or 'refuse_private'. Such a claim leaves the entry to others: it waits
** only for loads of claims with the same two options, and its own load is stored beside
** that entry, for claims with the same two options.
**
** 'content' is for a key whose content has a name, such as a digest that is checked:
** "sha256:<hex>" as the reference of a key, with its scope. The blob is stored once,
** under that key; the claimed key becomes an alias, which finds the blob at the cost of
** a hit. An alias does not keep its blob in the cache. It leads to a blob, not to
** another alias.
*/
TR_API tr_claim tr_cache_claim(tr_cache *cache, const char *key, size_t len,
                               const tr_claim_options *options, tr_blob **blob,
                               tr_future **future);
/*
** Forget a reference. A load in flight still answers those who wait for it, but its
** result is not kept. Return whether an entry was there; a remembered failure does not
** count.
*/
TR_API bool tr_cache_remove(tr_cache *cache, const char *reference, size_t len);
/* Accept the bytes that a claim with 'provisional' brought. */
TR_API void tr_cache_accept(tr_cache *cache, const char *key, size_t len);
/*
** Reject the bytes that a claim with 'provisional' brought. The entries of the key that
** still have these bytes are removed, unless a claim without 'provisional' got them or
** somebody accepted them. Return whether any was removed.
*/
TR_API bool tr_cache_reject(tr_cache *cache, const char *key, size_t len,
                            const tr_blob *blob);
/* Forget all references. */
TR_API void tr_cache_clear(tr_cache *cache);
/*
** Make the entries of a reference stale: the next claim leads, and asks the server
** whether they have changed. Return false if there were none.
*/
TR_API bool tr_cache_refresh(tr_cache *cache, const char *reference,
                             size_t len);
/*
** Protect the entries of a reference (and their replacements) from eviction, or stop
** protecting them. They still count against 'max_bytes'. Return false if there are none.
*/
TR_API bool tr_cache_keep(tr_cache *cache, const char *reference, size_t len,
                          bool kept);
/*
** Compute bytes from a blob, such as the machine code of a package. Return them, retained, or
** NULL with the error. 'context' is the caller's. The result belongs to tr_derive.
*/
typedef tr_blob *(*tr_derive_work)(void *context, tr_blob *blob, tr_error *error);
/*
** Return the bytes that 'work' makes of a blob. All threads and Lua states that use the cache
** compute them once for each SHA-256 and recipe: one caller computes, on its own thread, and
** others wait for at most 'timeout' seconds (below 0: no limit). Return NULL with the error.
** The bytes are an entry of the cache, with its limits; its reference is
** "derived://<sha256>/<recipe>". The disk cache, if the cache has one, keeps them for other
** processes. Its folder and the file must belong to the effective user, nobody else may be able
** to write to them, and the digest must match. Otherwise the entry counts as a miss, and in the
** metric theaterref_corruptions with the place "disk_cache".
**
** 'recipe' has 1 to 1024 bytes and names everything else that the bytes depend on: the
** compiler, its version and options, and the machine. All waiting callers get a failure, and it
** is not kept. 'work' may derive other bytes. If functions would wait for themselves or for each
** other, in any number of threads, the call that closes the cycle fails at once, with
** TR_POLICY. The result may be empty. Any thread; in a child of fork(), the next call
** computes again.
*/
TR_API tr_blob *tr_derive(tr_cache *cache, tr_blob *blob, const char *recipe,
                          double timeout, tr_derive_work work, void *context,
                          tr_error *error);
/* Return the number of blobs, including stale ones. */
TR_API size_t tr_cache_len(tr_cache *cache);

/* The statistics of a cache since it was made. */
typedef enum tr_stat {
  TR_STAT_HITS,      /* claims and gets that found something fresh */
  TR_STAT_MISSES,    /* claims and gets that found nothing to serve or wait for */
  TR_STAT_COALESCED, /* claims that waited for another caller's load */
  TR_STAT_STALE,     /* claims served past the entry's ttl */
  TR_STAT_LOADS,     /* loads that brought a blob */
  TR_STAT_ERRORS,    /* loads that failed */
  TR_STAT_EVICTIONS, /* entries evicted to make room */
  TR_STAT_ENTRIES,   /* entries held now */
  TR_STAT_BYTES,     /* their bytes */
  TR_STAT_COUNT      /* number of statistics in this header */
} tr_stat;

/* Fill in the first 'count' statistics, all of the same moment: pass TR_STAT_COUNT and
** an array of that size. */
TR_API void tr_cache_get_stats(tr_cache *cache, uint64_t *values,
                               size_t count);

/* -------------------------------------------------------------- metrics */

/*
** Return the metrics of the process as OpenMetrics text, in UTF-8, or NULL with the error.
** They count what every host, Lua state and thread of the process did: fetches, caches,
** stores, refusals, script limits and plans. Labels hold outcomes, rules, steps and the names
** of caches, never a reference or a host. Any thread; does not block on a load. A
** child of fork() continues with the counts of its parent. Serve it as
** "application/openmetrics-text; version=1.0.0; charset=utf-8".
*/
TR_API tr_blob *tr_metrics(tr_error *error);

/* ---------------------------------------------------------------- files */

/* The usual limit for a file: 1 GiB. */
#define TR_FILE_MAX_BYTES ((size_t)1 << 30)

/*
** Read a whole regular file, or a pipe up to its end. Waits 2 seconds for a pipe's
** writer, and 30 for each piece. More than 'max_bytes' is TR_TOO_LARGE. Anything else,
** such as a device, is refused. Return NULL with the error.
*/
TR_API tr_blob *tr_file_read(const char *path, size_t max_bytes,
                             tr_error *error);
/*
** Write a file. Readers see the old content or the new, never a mixture, and the file
** keeps its mode; 'durable' syncs the file and its folder before the call returns.
** Symbolic links are followed. Anything but a regular file, such as a device or a pipe,
** is opened and written. Return false with the error.
*/
TR_API bool tr_file_write(const char *path, const void *data, size_t size,
                          bool durable, tr_error *error);

/* ---------------------------------------------------------------- store */

/*
** Return the reason why a name cannot be a label, or NULL if it can: it is empty,
** absolute or too long, or a part is empty, '.' or '..' or holds a control character.
** Static storage. The same rule applies to a store's id.
*/
TR_API const char *tr_label_fault(const char *label);

/* A content-addressed store on disk, in Theater's layout. */
typedef struct tr_store tr_store;

/* When to check a read against its name. */
typedef enum tr_verify {
  TR_VERIFY_ONCE, /* once or twice in this process, until the file changes */
  TR_VERIFY_ALWAYS,
  TR_VERIFY_NEVER /* do not verify reads, except empty files and content that a put
                     finds */
} tr_verify;

/* Options of a store. */
typedef struct tr_store_options {
  size_t size; /* set by the initialiser macro */
  tr_algorithm algorithm; /* names new content; TR_SHA1 is Theater's */
  tr_verify verify;       /* when to check a read against its name */
  bool durable;           /* sync before a write returns; true */
  bool unmapped;          /* read large content instead of mapping it */
  double lock_timeout;    /* seconds to wait for others who move labels or lock the
                             store before the call fails; 30; -1: no limit */
  unsigned label_history; /* how many hashes a label's history keeps, whose content gc
                             spares; 5; at most 100 */
} tr_store_options;

/* Initialises a tr_store_options: its size, and the defaults. */
#define TR_STORE_OPTIONS                                                       \
  { sizeof(tr_store_options), TR_SHA1, TR_VERIFY_ONCE, true, false, 30, 5 }

/*
** Open a store in the folder 'base_path', which holds data/ and labels/. Neither
** needs to exist yet: the first write makes them. Return NULL with the error.
*/
TR_API tr_store *tr_store_open(const char *base_path,
                               const tr_store_options *options,
                               tr_error *error);
/* Close a store. NULL is allowed. Its blobs stay valid. */
TR_API void tr_store_close(tr_store *store);

/* Return the algorithm that names new content. */
TR_API tr_algorithm tr_store_algorithm(const tr_store *store);

/* Store bytes, and write their hash to 'hash'. Return false with the error. */
TR_API bool tr_store_put(tr_store *store, const void *data, size_t size,
                         char hash[TR_HEX_MAX], tr_error *error);
/* Return the content with this hash (40 or 64 hex digits), or NULL with the error. */
TR_API tr_blob *tr_store_get(tr_store *store, const char *hash,
                             tr_error *error);
/* Return 1 if the store has the content, 0 if not, or -1 with the error. */
TR_API int tr_store_exists(tr_store *store, const char *hash, tr_error *error);
/*
** Point a label at content in the store. With 'expect', do so only if the label points
** at that hash, or if 'expect' is "", only if there is no such label. The content that
** the label pointed at before is safe from garbage collection for the grace period.
** Return 1 if it was done, 0 if the label was not as expected, or -1 with the error. A
** label that begins with "hash/", or is 40 or 64 hex digits, is refused, since it would
** be taken for a hash. A blank label, as a crash of Theater leaves it, is an error with
** 'expect'.
*/
TR_API int tr_store_label(tr_store *store, const char *label, const char *hash,
                          const char *expect, tr_error *error);
/* Get the hash that a label points at. Return 1, 0 if there is no such label, or -1 with
** the error, also if the label is blank: its writer is not done, or crashed. The folder
** labels/ and folders in it may be symbolic links for readers, but not for writers. */
TR_API int tr_store_get_label(tr_store *store, const char *label,
                              char hash[TR_HEX_MAX], tr_error *error);
/*
** Get the content that a label points at. If the label moves meanwhile, read it again:
** the result is what it points at, or did a moment ago. Return NULL with the error, whose
** kind is TR_OK if there is no such label.
*/
TR_API tr_blob *tr_store_get_labelled(tr_store *store, const char *label,
                                      tr_error *error);
/*
** Remove a label; with 'only_if', only if it points at that hash. Return 1 if it was
** removed, 0 if there was nothing to remove, or -1 with the error.
*/
TR_API int tr_store_remove_label(tr_store *store, const char *label,
                                 const char *only_if, tr_error *error);

/* Called for each item of a listing; false stops it. */
typedef bool (*tr_store_visit)(void *context, const char *name, size_t size);
/*
** Visit the hashes that a label pointed at before, newest first, each once and without
** the current one; 'size' is 0. Only moves by theaterref are recorded. Removing a label
** removes its history. To roll back, move the label to one of them. Return false with
** the error.
*/
TR_API bool tr_store_each_former(tr_store *store, const char *label,
                                 tr_store_visit visit, void *context,
                                 tr_error *error);

/*
** A batch: many puts and labels for the price of one sync. None of them is visible
** before the commit, and none at all if the process fails before. Use it from one thread
** at a time. It belongs to the process that began it: in a child of a fork, only
** tr_batch_free works.
*/
typedef struct tr_batch tr_batch;
/* Begin an empty batch; free it before you close its store. Return NULL with the
** error. */
TR_API tr_batch *tr_batch_begin(tr_store *store, tr_error *error);
/* Add bytes, and write their hash to 'hash'. Return false with the error. Content that
** the store has is not copied: the commit fails if it was deleted meanwhile. */
TR_API bool tr_batch_put(tr_batch *batch, tr_algorithm algorithm,
                         const void *data, size_t size, char hash[TR_HEX_MAX],
                         tr_error *error);
/* Add a label. Its content may be in the store or in the batch: the commit looks for
** it. A label that is in the batch already gets this hash instead. Return false with the
** error. */
TR_API bool tr_batch_label(tr_batch *batch, const char *label, const char *hash,
                           tr_error *error);
/*
** Put everything in place, the labels last. The commit first checks that it can: a label
** without content or with an impossible name is an error, and changes nothing. After
** another error, such as of a disk, content may be in place, but no label has moved,
** unless the very last sync failed. The rest stays in the batch: commit again to retry.
** Two errors end the batch, and all later calls fail: a failed sync, since the disk may
** have lost bytes, and a label that could not be moved. Labels that were moved before it
** are put back, which needs no room on the disk; the error says if that failed. Free the
** batch then, and begin another one. A process that is killed while labels move leaves some
** moved.
*/
TR_API bool tr_batch_commit(tr_batch *batch, tr_error *error);
/* Free a batch and drop whatever was not committed. */
TR_API void tr_batch_free(tr_batch *batch);

/* Visit every label, in no order; 'size' is 0. Nested labels are named "a/b". Anything
** else among them, such as a symbolic link, is visited too, since a label may be behind
** it: tr_store_get_label gives the fault. Return false with the error, unless everything
** was visited or 'visit' stopped it. */
TR_API bool tr_store_each_label(tr_store *store, tr_store_visit visit,
                                void *context, tr_error *error);
/* Visit every content hash with its size in bytes, in no order. */
TR_API bool tr_store_each_content(tr_store *store, tr_store_visit visit,
                                  void *context, tr_error *error);

/* Check content against its name, whatever was checked before. */
TR_API bool tr_store_check(tr_store *store, const char *hash, tr_error *error);
/*
** Delete content unless it was put, labelled or unlabelled in the last 'grace' seconds.
** Return 1 if it was deleted (or, with 'dry_run', would be), 0 if not, or -1 with the
** error.
*/
TR_API int tr_store_discard(tr_store *store, const char *hash, double grace,
                            bool dry_run, tr_error *error);
/* Lock the store: garbage collectors and label updates, in all processes and in this
** thread, wait until it is unlocked; readers and writers of content do not. Return the
** lock, or -1 with the error, of kind TR_NOT_FOUND if there is no store yet, TR_TIMEOUT
** if 'lock_timeout' passes. */
TR_API int tr_store_lock_all(tr_store *store, tr_error *error);
/* Release a lock that tr_store_lock_all returned. */
TR_API void tr_store_unlock(int lock);
/* Visit the corrupt content in the quarantine folder, corrupt/, with its size in
** bytes. */
TR_API bool tr_store_each_quarantined(tr_store *store, tr_store_visit visit,
                                      void *context, tr_error *error);
/* Visit the temporary files that crashed writers left, with their size in
** bytes. */
TR_API bool tr_store_each_temporary(tr_store *store, tr_store_visit visit,
                                    void *context, tr_error *error);
/* Delete a temporary file older than 'grace' seconds. Returns as tr_store_discard. */
TR_API int tr_store_discard_temporary(tr_store *store, const char *name,
                                      double grace, bool dry_run,
                                      tr_error *error);

/* --------------------------------------------------------- initial state */

/*
** Merge two initial states, either of which may be NULL. One alone is returned byte for
** byte. Two JSON objects give their union, compact and with sorted keys: the override
** wins key by key, and each value stays as it was written. Anything else gives the
** override. Returns NULL with no error kind set if both were NULL.
*/
TR_API tr_blob *tr_merge_states(tr_blob *config_state, tr_blob *override_state,
                                tr_error *error);

/* ----------------------------------------------------------------- hosts */

/*
** A host: a policy and everything needed to plan spawns, in a Lua state of its own. A
** process may have any number, on any threads; hosts that name one cache share it. Two
** threads that plan with one host take turns: give each thread a host. A host keeps no
** results between calls. After a fork() the child may use every host except one that
** another thread was using at the time: calls to that one fail. Futures that were
** pending are TR_ABANDONED in the child.
*/
typedef struct tr_host tr_host;

/*
** Get each line of a host's log, on the thread that plans, during the plan. A call to the
** same host from the sink fails with kind TR_POLICY. 'level' is "debug", "info", "warn"
** or "error". The strings are valid only during the call; the line has no newline, no
** secret and no control character.
*/
typedef void (*tr_log_sink)(void *context, const char *level, const char *line);

/* Options of a host. Strings may be NULL and are copied. They override the
** configuration. */
typedef struct tr_host_options {
  size_t size; /* set by the initialiser macro */
  const char *config;   /* path of a configuration file; "": the one in the usual
                           places, if any; NULL: none */
  const char *policy;   /* path of a policy script; NULL: the default rules */
  bool trusted;         /* run that script without a sandbox */
  const char *home;     /* Theater home; NULL: $THEATER_HOME, or ~/.theater */
  const char *cache;    /* name of a cache of the process to use, made with the
                           defaults unless it is open; NULL: the configuration's,
                           else none */
  const char *lockfile; /* path of a lockfile that must list every reference;
                           NULL: none */
  const char *offline;  /* fetch nothing: use only files, local stores and cached
                           bytes; with a lockfile, locked content comes from the
                           store of this id. NULL: fetch */
  const char *ca_file;  /* PEM file of authorities to trust; NULL: the
                           system's */
  double timeout;       /* seconds for each fetch; 0: the configuration's, else
                           no limit */
  const char *log;      /* "debug", "info", "warn", "error" or "off"; NULL:
                           $THEATERREF_LOG, else "warn" */
  tr_log_sink log_sink; /* NULL: standard error */
  void *log_context;    /* passed to the sink */
  const char *lua_folder; /* folder with theaterref/init.lua; NULL: where it was
                             installed */
} tr_host_options;

/* Initialises a tr_host_options: its size, and the defaults. */
#define TR_HOST_OPTIONS                                                        \
  {                                                                            \
    sizeof(tr_host_options), 0, 0, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0         \
  }

/* Make a host. Return NULL with the error: of kind TR_POLICY if the policy or an option
** is at fault, TR_SYNTAX if the configuration is, TR_NOT_FOUND if the file of either is
** missing. */
TR_API tr_host *tr_host_new(const tr_host_options *options, tr_error *error);
/* Free a host that is not in a call. NULL is allowed. Its plans stay. Its pending
** futures fail with kind TR_CANCELLED. */
TR_API void tr_host_free(tr_host *host);

/* Options of one call of a host. */
typedef struct tr_call_options {
  size_t size; /* set by the initialiser macro */
  double timeout;            /* seconds for the call; -1: no limit */
  const char *initial_state; /* for plans: JSON text that overrides the manifest's
                                initial state, or NULL */
} tr_call_options;

/* Initialises a tr_call_options: its size, and the defaults. */
#define TR_CALL_OPTIONS                                                        \
  { sizeof(tr_call_options), -1, 0 }

/* Everything a spawn needs. */
typedef struct tr_plan tr_plan;

/*
** Plan the spawn of a manifest's actor. Block until everything is here, the timeout is
** over or the process is interrupted. Return NULL with the error.
*/
TR_API tr_plan *tr_host_plan(tr_host *host, const char *manifest,
                             const tr_call_options *options, tr_error *error);
/* Free a plan and release its blobs. NULL is allowed. */
TR_API void tr_plan_free(tr_plan *plan);

/*
** The parts of a plan, which owns them: they live as long as the plan, unless you retain
** a blob. Any thread may read them.
*/

/* Return the actor's name. */
TR_API const char *tr_plan_name(const tr_plan *plan);
/*
** Return the manifest as JSON text: its variables are filled in, and the policy may have
** narrowed it. Nothing is lost: numbers are as a JSON manifest writes them, or have all
** their digits; [] and {} stay distinct, but an empty table of a Lua manifest is {}.
** Dates, inf and nan, which JSON lacks, are strings, spelled as in TOML. Keys are sorted.
*/
TR_API tr_blob *tr_plan_manifest(const tr_plan *plan);
/* Return the reference of the manifest, as it was requested. */
TR_API const char *tr_plan_manifest_reference(const tr_plan *plan);
/* Return the reference that its bytes came from, after rewriting, schemes and
** redirects. */
TR_API const char *tr_plan_origin(const tr_plan *plan);
/* Return the reference that the package came from. */
TR_API const char *tr_plan_package_reference(const tr_plan *plan);
/* Return "wasm module", "wasm component" or "unknown", by the package's first bytes. */
TR_API const char *tr_plan_package_type(const tr_plan *plan);
/* Return how many keys signed the package; 0 if the policy requires no signature. */
TR_API size_t tr_plan_signer_count(const tr_plan *plan);
/* Return the name of one of them, as the policy names the key; NULL past the last. */
TR_API const char *tr_plan_signer(const tr_plan *plan, size_t signer);
/* Return the bytes to run. */
TR_API tr_blob *tr_plan_package(const tr_plan *plan);
/* Return the initial state: JSON text with its secrets, or NULL if there is none. */
TR_API tr_blob *tr_plan_initial_state(const tr_plan *plan);
/* Return the initial state with its secrets' references unresolved: safe to log. */
TR_API tr_blob *tr_plan_state_without_secrets(const tr_plan *plan);
/* Return true if the host has a cache and the policy let it keep the package. */
TR_API bool tr_plan_used_cache(const tr_plan *plan);
/* Return true if the package was in the cache already. */
TR_API bool tr_plan_cache_hit(const tr_plan *plan);

/* Return the number of steps of the plan. */
TR_API size_t tr_plan_phase_count(const tr_plan *plan);
/* Return the name of a step, such as "package"; NULL past the last. */
TR_API const char *tr_plan_phase_name(const tr_plan *plan, size_t phase);
/* Return how long the step took, in seconds. */
TR_API double tr_plan_phase_seconds(const tr_plan *plan, size_t phase);
/* Return how many bytes the step loaded or processed. */
TR_API uint64_t tr_plan_phase_bytes(const tr_plan *plan, size_t phase);

/*
** Return the bytes that a reference means, under the host's policy and through its
** cache, if any. Blocks like tr_host_plan. Return NULL with the error.
*/
TR_API tr_blob *tr_host_resolve(tr_host *host, const char *reference,
                                const tr_call_options *options,
                                tr_error *error);

/*
** Start to plan a spawn, and return a future at once, or NULL with the error. If the plan
** fails, the future has the error. The timeout counts from this call. To cancel the work,
** release the future before it has a result.
**
** The host's own thread, started by the first future, advances all of them. It takes
** turns with the host's other calls: these occupy the host until they return, and its
** futures wait meanwhile. Callbacks of the host run on that thread too; it blocks all
** signals.
**
** The future's blob is the package. tr_future_progress reports the load that it waits
** for; tr_future_get_info returns NULL.
*/
TR_API tr_future *tr_host_start_plan(tr_host *host, const char *manifest,
                                     const tr_call_options *options,
                                     tr_error *error);
/* Take the plan of a future that is TR_READY; you own it. Return NULL if it was taken, or
** the future is not of a plan. */
TR_API tr_plan *tr_future_take_plan(tr_future *future);
/* Start to resolve a reference, as tr_host_resolve does, with a future as in
** tr_host_start_plan. The future's blob is the bytes. */
TR_API tr_future *tr_host_start_resolve(tr_host *host, const char *reference,
                                        const tr_call_options *options,
                                        tr_error *error);

/* A follower calls back with the content of a reference, and again whenever that changes. */
typedef struct tr_follower tr_follower;

/*
** Receive new content; or, with 'blob' NULL, the error of a failed check or of rejected content:
** then the last content stays good. Equal failures in a row are reported once. The first call
** may begin before tr_host_follow returns. The calls come in order, on the host's own thread,
** which holds no lock and no turn of the host: 'call' may plan and resolve with the host, but
** the host's futures and followers wait until it returns. It must not free the host, or wait for
** a future of the host, which fails with TR_POLICY. The arguments are valid during the call;
** retain the blob to keep it longer.
*/
typedef void (*tr_follow_call)(void *context, const char *reference, tr_blob *blob,
                               const tr_error *error);

/* Options of a follower. */
typedef struct tr_follow_options {
  size_t size; /* set by the initialiser macro */
  double interval; /* seconds that a check is good for, at least 0.01; 0: 60, or the
                      label_ttl of a remote store */
  double jitter;   /* the part of the interval, from 0 to 1, by which checks come
                      later; 0.1 */
  double timeout;  /* seconds for one check; 600; -1: no limit */
} tr_follow_options;

/* Initialises a tr_follow_options: its size, and the defaults. */
#define TR_FOLLOW_OPTIONS                                                      \
  { sizeof(tr_follow_options), 0, 0.1, 600 }

/*
** Follow a reference under the host's policy. Return a follower, which you free, or NULL with
** the error. The system watches local files and labels if it can; everything else is checked
** once per interval for all followers of the process, by conditional requests, or HEAD for tags
** in registries. In a child of fork() a follower pauses until the host gets its next future or
** follower there.
*/
TR_API tr_follower *tr_host_follow(tr_host *host, const char *reference,
                                   const tr_follow_options *options,
                                   tr_follow_call call, void *context,
                                   tr_error *error);
/* Free a follower. NULL is allowed. No callback begins after that, and a running one has
** returned, unless it is the caller. May be called after the host was freed, which also ends
** the callbacks. */
TR_API void tr_follower_free(tr_follower *follower);

/* ------------------------------------------------------------------ Lua */

struct lua_State;

/* Open the C half of the module: what require "theaterref.core" returns. */
TR_API int luaopen_theaterref_core(struct lua_State *L);

/* Open the whole module, for a host with a Lua state of its own: what require
** "theaterref" returns, from now on in that state too. Its Lua files are found on
** package.path, or where they were installed. May raise. */
TR_API int luaopen_theaterref(struct lua_State *L);

/* Return the blob at a stack index, not retained, or NULL if it is not a blob. */
TR_API tr_blob *tr_toblob(struct lua_State *L, int index);

/* Push a blob; the Lua value takes a reference of its own. May raise. */
TR_API void tr_pushblob(struct lua_State *L, tr_blob *blob);

#ifdef __cplusplus
}
#endif

#endif
