/*
** Handles. Some twenty options are the same for every fetch of a configuration;
** they are set once on a handle, which then waits for the next fetch.
*/
#include "handle.h"

#include <mbedtls/platform_util.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "request.h"
#include "socket.h"

enum {
  KEPT_HANDLES = 64,
  /* libcurl's reads; its default of 16 KiB costs a third of the bandwidth. It makes
  ** the buffer anew for each transfer: malloc returns a block of 128 KiB to the system
  ** each time. */
  READ_BUFFER = 96 * 1024,
  /* Seconds that a parsed CA file is shared by new connections. Parsing the
  ** system's takes 21 ms, on the driver. */
  CA_CACHE_SECONDS = 10
};

static tr_handle *kept; /* the driver's */
static int kept_count;

/* ------------------------------------------------------------------- handles */

static long milliseconds(double seconds) {
  double ms = seconds * 1000;
  return ms < 1 ? 1 : ms > 1e9 ? 1000000000L : (long)ms;
}

/* Return libcurl's limit for a connection. The driver keeps the limit and says which option
** it is, so libcurl's comes a moment later. Of one above 600 ms, libcurl gives the first of
** several addresses half. */
static long connect_limit(double seconds) {
  static const double later = 0.05, least = 0.601;
  return milliseconds(seconds + later > least ? seconds + later : least);
}

/* Set the options of a configuration; return the first failure. */
static CURLcode configure(tr_handle *h, const tr_config *c) {
  const char *ca_file = c->ca_file != NULL ? c->ca_file : tr_curl_ca_file();
  CURLcode code = CURLE_OK;
#define SET(option, value)                                                     \
  do {                                                                         \
    if (code == CURLE_OK)                                                      \
      code = curl_easy_setopt(h->easy, option, value);                         \
  } while (0)
  SET(CURLOPT_BUFFERSIZE, (long)READ_BUFFER);
  SET(CURLOPT_PRIVATE, h);
  SET(CURLOPT_ERRORBUFFER, h->why);
  SET(CURLOPT_NOSIGNAL, 1L);
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_PATH_AS_IS, 1L); /* the URL is in normal form already */
  SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
  SET(CURLOPT_HTTP_CONTENT_DECODING, 0L); /* gzip.c knows when it has ended */
  SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  SET(CURLOPT_NOPROXY, ""); /* proxy.c has decided */
  SET(CURLOPT_WRITEFUNCTION, tr_request_on_body);
  SET(CURLOPT_WRITEDATA, h);
  SET(CURLOPT_HEADERFUNCTION, tr_request_on_header);
  SET(CURLOPT_HEADERDATA, h);
  SET(CURLOPT_OPENSOCKETFUNCTION, tr_socket_open);
  SET(CURLOPT_OPENSOCKETDATA, h);
  SET(CURLOPT_CLOSESOCKETFUNCTION, tr_socket_close);
  SET(CURLOPT_PREREQFUNCTION, tr_socket_connected);
  SET(CURLOPT_PREREQDATA, h);
  SET(CURLOPT_USERAGENT,
      c->user_agent != NULL ? c->user_agent : "theaterref/" TR_VERSION);
  SET(CURLOPT_CONNECTTIMEOUT_MS,
      c->connect_timeout >= 0 ? connect_limit(c->connect_timeout) : 1000000000L);
  /* Ours instead of the system's, not on top; without a folder, libcurl can
  ** share what it has parsed. */
  if (ca_file != NULL) {
    SET(CURLOPT_CAINFO, ca_file);
    SET(CURLOPT_PROXY_CAINFO, ca_file);
    SET(CURLOPT_CAPATH, NULL);
    SET(CURLOPT_PROXY_CAPATH, NULL);
  }
  if (c->client_cert != NULL)
    SET(CURLOPT_SSLCERT, c->client_cert);
  if (c->client_key != NULL)
    SET(CURLOPT_SSLKEY, c->client_key);
  /* A server may choose a group so large that its finite-field handshake takes this
  ** thread seconds; those that offer nothing better are rare. */
  if (tr_curl_has_openssl()) {
    SET(CURLOPT_SSL_CIPHER_LIST, "DEFAULT:!kDHE");
    SET(CURLOPT_PROXY_SSL_CIPHER_LIST, "DEFAULT:!kDHE");
  }
  SET(CURLOPT_KEYPASSWD, ""); /* or OpenSSL would ask on the terminal */
  if (c->unix_socket != NULL)
    SET(CURLOPT_UNIX_SOCKET_PATH, c->unix_socket);
  /* Unix sockets have no names by which socket.c could tell them apart. */
  SET(CURLOPT_FORBID_REUSE, c->unix_socket != NULL ? 1L : 0L);
  if (c->netrc)
    SET(CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
#undef SET
  if (code == CURLE_OK) /* libcurl 7.87 and newer */
    curl_easy_setopt(h->easy, CURLOPT_CA_CACHE_TIMEOUT, (long)CA_CACHE_SECONDS);
  return code;
}

static tr_handle *handle_new(tr_config *config, CURLcode *code) {
  tr_handle *h = calloc(1, sizeof *h);
  if (h == NULL)
    return NULL;
  h->easy = curl_easy_init();
  if (h->easy != NULL)
    *code = configure(h, config);
  if (h->easy != NULL && *code == CURLE_OK) {
    h->config = tr_config_use(config);
    h->proxy[0] = '\1'; /* not set: libcurl would ask the environment */
    return h;
  }
  curl_easy_cleanup(h->easy);
  free(h);
  return NULL;
}

void tr_handle_clear_headers(tr_handle *h) {
  struct curl_slist *line;
  for (line = h->secret ? h->headers : NULL; line != NULL; line = line->next)
    mbedtls_platform_zeroize(line->data, strlen(line->data));
  h->secret = false;
  curl_slist_free_all(h->headers);
  h->headers = NULL;
}

static void handle_free(tr_handle *h) {
  curl_easy_cleanup(h->easy);
  tr_handle_clear_headers(h);
  curl_slist_free_all(h->addresses);
  tr_config_release(h->config);
  free(h);
}

/* Notice a CA file that was replaced: for a while no new connection shares what
** was parsed before. */
static void check_ca_file(tr_handle *h) {
  tr_config *c = h->config;
  const char *path = c->ca_file != NULL ? c->ca_file : tr_curl_ca_file();
  double now = tr_now();
  struct stat st;
  bool changed;
  if (now - c->ca_checked > 1 && path != NULL && stat(path, &st) == 0) {
    long long stamp[3] = {(long long)st.st_ino, (long long)st.st_size,
                          (long long)st.st_mtim.tv_sec * 1000000000 +
                              st.st_mtim.tv_nsec};
    if (c->ca_checked > 0 && memcmp(stamp, c->ca_stamp, sizeof stamp) != 0)
      c->ca_changed = now;
    memcpy(c->ca_stamp, stamp, sizeof stamp);
    c->ca_checked = now;
  }
  changed = c->ca_changed > 0 && now - c->ca_changed < CA_CACHE_SECONDS + 1;
  if (changed != h->no_ca_cache) {
    curl_easy_setopt(h->easy, CURLOPT_CA_CACHE_TIMEOUT,
                     changed ? 0L : (long)CA_CACHE_SECONDS);
    h->no_ca_cache = changed;
  }
}

tr_handle *tr_handle_get(tr_config *config, CURLcode *code) {
  tr_handle **link = &kept, *h;
  while ((h = *link) != NULL && h->config != config)
    link = &h->next;
  *code = CURLE_OK;
  if (h != NULL) {
    *link = h->next;
    kept_count--;
  } else {
    h = handle_new(config, code);
  }
  if (h != NULL)
    check_ca_file(h);
  return h;
}

void tr_handle_give_time(tr_handle *h, double seconds) {
  h->one_time = true;
  curl_easy_setopt(h->easy, CURLOPT_CONNECTTIMEOUT_MS, connect_limit(seconds));
}

void tr_handle_release(tr_handle *h, bool reusable) {
  h->request = NULL;
  if (!reusable || h->one_time) {
    handle_free(h);
    return;
  }
  if (h->secret) { /* not to be kept for as long as the handle */
    curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, NULL);
    h->set_headers = NULL;
    tr_handle_clear_headers(h);
  }
  if (kept_count >= KEPT_HANDLES) { /* the one that was used longest ago */
    tr_handle **link = &kept, *oldest;
    while ((*link)->next != NULL)
      link = &(*link)->next;
    oldest = *link;
    *link = NULL;
    kept_count--;
    handle_free(oldest);
  }
  h->next = kept;
  kept = h;
  kept_count++;
}

void tr_handle_free_all(void) {
  tr_handle *h;
  while ((h = kept) != NULL) {
    kept = h->next;
    handle_free(h);
  }
  kept_count = 0;
}

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static tr_handle *inherited;

void tr_handle_forget_all(void) {
  inherited = kept;
  kept = NULL;
  kept_count = 0;
}
