/*
** A signature covers the host and all x-amz-… headers. It does not cover other headers, such as
** conditions and ranges: proxies may change them, and nothing secret depends on them.
*/
#include "sign.h"

#include <mbedtls/platform_util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crypto.h"
#include "s3_places.h"
#include "sigv4.h"

bool tr_sign_begin(tr_request *r) {
  const tr_signer *s = r->signer;
  char *moved;
  snprintf(r->region, sizeof r->region, "%s", s->region);
  if (tr_place_region(s->place, r->region) &&
      (moved = tr_signer_move(&r->url, s->region, r->region)) != NULL) {
    tr_url url;
    const char *fault = tr_url_parse(&url, moved);
    free(moved);
    if (fault != NULL)
      return false; /* it was valid before */
    tr_url_free(&r->url);
    r->url = url;
  }
  if (s->access_key_id != NULL && r->message != NULL && r->message->body != NULL) {
    char hex[TR_HEX_MAX];
    tr_blob_sha256(r->message->body, hex); /* it stays with the blob */
  }
  return true;
}

bool tr_sign_is_due(const tr_request *r) {
  return r->signer != NULL && r->signer->access_key_id != NULL && r->first_origin &&
         tr_signer_covers(r->signer, &r->url);
}

/* Add "<name>: <value>" to the headers. */
static bool add_line(tr_handle *h, const char *name, const char *value, size_t len) {
  size_t size = strlen(name) + len + 3;
  char *line = malloc(size);
  struct curl_slist *longer = NULL;
  if (line != NULL) {
    snprintf(line, size, "%s: %.*s", name, (int)len, value);
    longer = curl_slist_append(h->headers, line);
    mbedtls_platform_zeroize(line, size);
    free(line);
  }
  if (longer != NULL)
    h->headers = longer;
  return longer != NULL;
}

/* Return the host and all x-amz-... headers of a handle, to be freed; NULL: memory is short. */
static const char **find_signed(const tr_handle *h, const char *host) {
  const struct curl_slist *line;
  const char **lines;
  size_t count = 2; /* the host and the final NULL */
  for (line = h->headers; line != NULL; line = line->next)
    count++;
  lines = calloc(count, sizeof *lines);
  if (lines == NULL)
    return NULL;
  lines[0] = host;
  count = 1;
  for (line = h->headers; line != NULL; line = line->next)
    if (curl_strnequal(line->data, "x-amz-", 6))
      lines[count++] = line->data;
  return lines;
}

/* Sign the headers of the handle. */
static bool add_signature(tr_request *r, tr_handle *h, tr_signing *what) {
  tr_buffer value = {0};
  char host[512];
  const char *start = strstr(r->url.text, "://") + 3, **lines;
  bool ok;
  snprintf(host, sizeof host, "host: %.*s", (int)strcspn(start, "/?"), start);
  lines = find_signed(h, host);
  what->headers = lines;
  ok = lines != NULL && tr_sigv4_sign(r->signer, what, &value, NULL) &&
       add_line(h, "Authorization", value.data, value.len);
  free(lines);
  tr_buffer_free(&value);
  return ok;
}

bool tr_sign_attempt(tr_request *r, tr_handle *h) {
  const tr_signer *s = r->signer;
  const char *token = s->session_token;
  char date[TR_SIGV4_DATE], payload[TR_HEX_MAX];
  tr_signing what = {.method = tr_method_name(r->message != NULL ? r->message->method : TR_GET),
                     .url = r->url.text,
                     .payload = payload,
                     .region = r->region,
                     .date = date};
  if (r->message != NULL && r->message->body != NULL)
    tr_blob_sha256(r->message->body, payload);
  else
    memcpy(payload, TR_EMPTY_SHA256, TR_HEX_MAX);
  tr_sigv4_date((time_t)((double)time(NULL) + tr_place_skew(&r->url)), date);
  return add_line(h, "x-amz-date", date, strlen(date)) &&
         add_line(h, "x-amz-content-sha256", payload, strlen(payload)) &&
         (token == NULL || add_line(h, "x-amz-security-token", token, strlen(token))) &&
         add_signature(r, h, &what);
}
