/* Failures of a fetch in words. */
#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "http.h"
#include "redact.h"

enum { NEWER_TOO_LARGE = 100 /* CURLE_TOO_LARGE, of libcurl 8.6 and newer */ };

/* Begin a message: "Failed to fetch from <url>: ", and the reason. */
void tr_failure_set(const tr_request *r, tr_error_kind kind, tr_error *error,
                 const char *reason) {
  char tries[32] = "", via[256] = "";
  if (r->attempts > 1)
    snprintf(tries, sizeof tries, " (after %d attempts)", r->attempts);
  if (r->proxy.url != NULL)
    snprintf(via, sizeof via, " (through the proxy %s)", r->proxy.url);
  if (r->message != NULL && r->message->method > TR_HEAD)
    tr_error_set(error, kind, "Failed to send %s to %s: %s%s%s",
                 tr_method_name(r->message->method), r->shown, reason, via, tries);
  else
    tr_error_set(error, kind, "Failed to %s from %s: %s%s%s",
                 r->response.complete_headers && r->response.status != 0
                     ? "read response body"
                     : "fetch",
                 r->shown, reason, via, tries);
}

/* True if the connection, not the server behind it, failed. */
bool tr_failure_is_connection(const tr_request *r, CURLcode code) {
  switch (code) {
  case CURLE_COULDNT_CONNECT:
  case CURLE_COULDNT_RESOLVE_PROXY:
    return r->refused[0] == '\0' || r->tried_addresses > 0;
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_PARTIAL_FILE:
  case CURLE_HTTP2:
  case CURLE_HTTP2_STREAM:
  case CURLE_OPERATION_TIMEDOUT:
    return true;
  case CURLE_SSL_CONNECT_ERROR: { /* a reset in the handshake is no bad peer */
    const char *why = r->handle != NULL ? r->handle->why : "";
    return strstr(why, "reset") != NULL || strstr(why, "SYSCALL") != NULL ||
           strstr(why, "unexpected eof") != NULL ||
           strstr(why, "SSL_ERROR_ZERO") != NULL;
  }
  default:
    return false;
  }
}

/* The first file for TLS that cannot be opened now, with errno; NULL: none. libcurl tells
** neither which it is, nor why. */
static const char *unreadable_file(const tr_request *r, CURLcode code) {
  const tr_config *c = r->config;
  const char *files[] = {c->ca_file != NULL ? c->ca_file : tr_curl_ca_file(),
                         c->client_cert, c->client_key};
  size_t i;
  if (code != CURLE_SSL_CACERT_BADFILE && code != CURLE_SSL_CERTPROBLEM)
    return NULL;
  for (i = 0; i < sizeof files / sizeof *files; i++) {
    int fd = files[i] != NULL ? open(files[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (files[i] != NULL && fd < 0)
      return files[i];
    if (fd >= 0)
      close(fd);
  }
  return NULL;
}

/* The reason of a failed attempt, in libcurl's words. */
static void describe_failure(const tr_request *r, CURLcode code,
                             tr_error *error) {
  const char *why = r->handle != NULL && r->handle->why[0] != '\0'
                        ? r->handle->why
                        : curl_easy_strerror(code);
  tr_error_kind kind = tr_failure_is_connection(r, code) && code != CURLE_OPERATION_TIMEDOUT
                           ? TR_NETWORK
                           : tr_error_kind_of_curl(code);
  const tr_config *c = r->config;
  const char *file = unreadable_file(r, code);
  int file_errno = errno;
  const char *advice = code == CURLE_PEER_FAILED_VERIFICATION
                           ? " (for a CA of your own, give ca_file)"
                           : "";
  const char *path = file != NULL                       ? file
                     : code != CURLE_SSL_CACERT_BADFILE ? c->unix_socket
                     : c->ca_file != NULL               ? c->ca_file
                                                        : tr_curl_ca_file();
  char *displayed = path != NULL ? tr_displayed(path) : NULL;
  const char *shown = displayed != NULL ? displayed : "?";
  char reason[768];
  long os_error = 0;
  if (r->handle != NULL)
    curl_easy_getinfo(r->handle->easy, CURLINFO_OS_ERRNO, &os_error);
  if (file != NULL)
    snprintf(reason, sizeof reason, "cannot read %s: %s", shown,
             strerror(file_errno));
  else if (code == CURLE_SSL_CACERT_BADFILE)
    snprintf(reason, sizeof reason, "%s has no certificate in PEM form", shown);
  else if (r->socket_errno != 0 && !r->connected)
    snprintf(reason, sizeof reason, "cannot open a socket: %s",
             strerror(r->socket_errno));
  else if (c->unix_socket != NULL && !r->connected)
    snprintf(reason, sizeof reason, "cannot connect to the socket %s%s%s", shown,
             os_error != 0 ? ": " : "",
             os_error != 0 ? strerror((int)os_error) : "");
  else
    snprintf(reason, sizeof reason, "%s%s", why, advice);
  free(displayed);
  tr_failure_set(r, kind, error, reason);
}

static void describe_refusal(const tr_request *r, tr_error *error) {
  char reason[256];
  if (r->link_local)
    snprintf(reason, sizeof reason,
             "its server is at the link-local address %s, which is never asked",
             r->refused);
  else
    snprintf(reason, sizeof reason,
             "its server is at the private address %s; to allow it, ask "
             "without refuse_private",
             r->refused);
  tr_failure_set(r, TR_DENIED, error, reason);
}

static void describe_timeout(const tr_request *r, tr_error *error) {
  char reason[160];
  if (r->connected || r->reused)
    snprintf(reason, sizeof reason,
             "no byte for %g second%s (stall_timeout)", r->stall_timeout,
             tr_plural(r->stall_timeout));
  else
    snprintf(reason, sizeof reason,
             "no connection within %g second%s (connect_timeout)",
             r->config->connect_timeout,
             tr_plural(r->config->connect_timeout));
  tr_failure_set(r, TR_TIMEOUT, error, reason);
}

static void describe_lookup(const tr_request *r, tr_error *error) {
  char reason[512];
  snprintf(reason, sizeof reason, "could not resolve host: %s (%s)",
           r->lookup_host, tr_dns_error(r->answer));
  tr_failure_set(r, TR_NETWORK, error, reason);
}

/* The error of an attempt that did not bring its body home. */
void tr_failure_explain(const tr_request *r, CURLcode code,
                            tr_error *error) {
  char reason[128];
  if (r->no_memory) {
    tr_error_nomem(error);
  } else if (r->answer != NULL && r->answer->error != 0) {
    describe_lookup(r, error);
  } else if (r->refused[0] != '\0' && (r->tried_addresses == 0 || r->reused)) {
    describe_refusal(r, error);
  } else if (r->header_bytes > TR_MAX_HEADERS ||
             ((code == CURLE_OUT_OF_MEMORY || (int)code == NEWER_TOO_LARGE) &&
              !r->response.complete_headers)) { /* a line libcurl refuses */
    snprintf(reason, sizeof reason,
             "more than 100 KiB in a header, or %d KiB in all",
             TR_MAX_HEADERS / 1024);
    tr_failure_set(r, TR_TOO_LARGE, error, reason);
  } else if (r->too_large) {
    snprintf(reason, sizeof reason,
             "larger than the limit of %zu byte%s%s", r->max_bytes,
             tr_plural((double)r->max_bytes),
             r->message == NULL ? "; raise max_bytes to allow it" : "");
    tr_failure_set(r, TR_TOO_LARGE, error, reason);
  } else if (r->fault != NULL) {
    tr_failure_set(r, TR_NETWORK, error, r->fault);
  } else if (r->stalled || (code == CURLE_OPERATION_TIMEDOUT && !r->connected)) {
    /* the driver's limit, or that of libcurl, if it looks first */
    describe_timeout(r, error);
  } else {
    describe_failure(r, code, error);
  }
}

void tr_failure_refuse_status(const tr_request *r, int status, tr_error *error) {
  bool unsigned_ = r->signer != NULL && r->signer->access_key_id == NULL &&
                   (status == 401 || status == 403);
  bool hidden = r->auth != NULL && tr_auth_covers(r->auth, &r->url) &&
                (status == 401 || status == 403 || status == 404);
  tr_error_set(error, TR_HTTP_STATUS, "HTTP request failed for %s: %d %s%s%s%s%s%s%s%s%s%s",
               r->shown, status, tr_reason_phrase(status), r->code[0] != '\0' ? " (" : "",
               r->code, r->code[0] != '\0' && r->why[0] != '\0' ? ": " : "",
               r->code[0] != '\0' ? r->why : "", r->code[0] != '\0' ? ")" : "",
               unsigned_ ? "; no credentials were sent" : "",
               hidden ? " (it does not exist, or needs credentials" : "",
               hidden && r->auth->principal[0] != '\0' ? " other than those given" : "",
               hidden ? ")" : "");
  error->status = status;
}

void tr_failure_time_out(const tr_request *r, size_t running,
                         tr_error *error) {
  char reason[256];
  if (r->state == TR_REQUEST_QUEUED)
    snprintf(reason, sizeof reason,
             "no turn within %g second%s (timeout); %zu other requests are under "
             "way (max_host_connections, max_connections)",
             r->timeout, tr_plural(r->timeout), running);
  else if (r->state == TR_REQUEST_LOOKUP)
    snprintf(reason, sizeof reason,
             "its host was not resolved within %g second%s (timeout)",
             r->timeout, tr_plural(r->timeout));
  else if (r->state == TR_REQUEST_TOKEN)
    snprintf(reason, sizeof reason,
             "no token for its registry within %g second%s (timeout)", r->timeout,
             tr_plural(r->timeout));
  else
    snprintf(reason, sizeof reason, "not done within %g second%s (timeout)",
             r->timeout, tr_plural(r->timeout));
  tr_failure_set(r, TR_TIMEOUT, error, reason);
}

/* The status of a proxy that refused a CONNECT, or 0. */
int tr_failure_connect_status(const tr_request *r) {
  long status = 0;
  if (r->handle != NULL && r->proxy.url != NULL)
    curl_easy_getinfo(r->handle->easy, CURLINFO_HTTP_CONNECTCODE, &status);
  return status >= 400 ? (int)status : 0;
}
