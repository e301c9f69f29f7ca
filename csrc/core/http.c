/* URLs, statuses and libcurl's codes, in the words of our errors. */
#include "http.h"

#include <arpa/inet.h>
#include <string.h>

char *tr_url_without_credentials(const char *url) {
  const char *host = strstr(url, "://"), *at = NULL, *p;
  char *copy = strdup(url);
  if (copy == NULL || host == NULL)
    return copy;
  host += 3;
  for (p = host; *p != '\0' && strchr("/?#", *p) == NULL; p++)
    if (*p == '@')
      at = p + 1;
  if (at != NULL)
    memmove(copy + (host - url), copy + (at - url), strlen(at) + 1);
  return copy;
}

bool tr_url_same_origin(const char *a, const char *b) {
  static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST,
                                    CURLUPART_PORT};
  CURLU *ua = curl_url(), *ub = curl_url();
  bool same = ua != NULL && ub != NULL &&
              curl_url_set(ua, CURLUPART_URL, a, 0) == CURLUE_OK &&
              curl_url_set(ub, CURLUPART_URL, b, 0) == CURLUE_OK;
  size_t i;
  for (i = 0; same && i < sizeof parts / sizeof *parts; i++) {
    char *pa = NULL, *pb = NULL;
    same = curl_url_get(ua, parts[i], &pa, CURLU_DEFAULT_PORT) == CURLUE_OK &&
           curl_url_get(ub, parts[i], &pb, CURLU_DEFAULT_PORT) == CURLUE_OK &&
           curl_strequal(pa, pb);
    curl_free(pa);
    curl_free(pb);
  }
  curl_url_cleanup(ua);
  curl_url_cleanup(ub);
  return same;
}

tr_error_kind tr_error_kind_of_curl(CURLcode code) {
  switch (code) {
  case CURLE_OPERATION_TIMEDOUT:
    return TR_TIMEOUT;
  case CURLE_FILESIZE_EXCEEDED:
    return TR_TOO_LARGE;
  case CURLE_URL_MALFORMAT:
    return TR_INVALID_REFERENCE;
  case CURLE_OUT_OF_MEMORY:
    return TR_IO;
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_SSL_ENGINE_NOTFOUND:
  case CURLE_SSL_CERTPROBLEM:
  case CURLE_SSL_CIPHER:
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_CACERT_BADFILE:
  case CURLE_SSL_ISSUER_ERROR:
    return TR_TLS;
  default:
    return TR_NETWORK;
  }
}

static bool is_private_v4(const unsigned char a[4]) {
  return a[0] == 0 || a[0] == 10 || a[0] == 127 || a[0] >= 224 ||
         (a[0] == 100 && (a[1] & 0xC0) == 64) || (a[0] == 169 && a[1] == 254) ||
         (a[0] == 172 && (a[1] & 0xF0) == 16) || (a[0] == 192 && a[1] == 168) ||
         (a[0] == 192 && a[1] == 0 && (a[2] == 0 || a[2] == 2)) ||
         (a[0] == 198 &&
          ((a[1] & 0xFE) == 18 || (a[1] == 51 && a[2] == 100))) ||
         (a[0] == 203 && a[1] == 0 && a[2] == 113);
}

bool tr_address_is_private(const char *address) {
  static const unsigned char mapped[12] = {0, 0, 0, 0, 0,    0,
                                           0, 0, 0, 0, 0xFF, 0xFF};
  static const unsigned char nat64[12] = {0, 0x64, 0xFF, 0x9B};
  unsigned char a[16];
  if (inet_pton(AF_INET, address, a) == 1)
    return is_private_v4(a);
  if (inet_pton(AF_INET6, address, a) != 1)
    return true;
  if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0)
    return is_private_v4(a + 12);
  /* of all the rest, 2000::/3 is what is given out */
  return (a[0] & 0xE0) != 0x20 ||
         (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0D && a[3] == 0xB8) ||
         (a[0] == 0x20 && a[1] == 0x02 && is_private_v4(a + 2)); /* 6to4 */
}

const char *tr_reason_phrase(long status) {
  static const struct {
    long status;
    const char *phrase;
  } phrases[] = {{300, "Multiple Choices"},
                 {301, "Moved Permanently"},
                 {302, "Found"},
                 {303, "See Other"},
                 {304, "Not Modified"},
                 {307, "Temporary Redirect"},
                 {308, "Permanent Redirect"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {402, "Payment Required"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {406, "Not Acceptable"},
                 {407, "Proxy Authentication Required"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {410, "Gone"},
                 {411, "Length Required"},
                 {412, "Precondition Failed"},
                 {413, "Payload Too Large"},
                 {414, "URI Too Long"},
                 {415, "Unsupported Media Type"},
                 {416, "Range Not Satisfiable"},
                 {417, "Expectation Failed"},
                 {421, "Misdirected Request"},
                 {422, "Unprocessable Entity"},
                 {425, "Too Early"},
                 {426, "Upgrade Required"},
                 {428, "Precondition Required"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {451, "Unavailable For Legal Reasons"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {502, "Bad Gateway"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"},
                 {505, "HTTP Version Not Supported"}};
  size_t i;
  for (i = 0; i < sizeof phrases / sizeof *phrases; i++)
    if (phrases[i].status == status)
      return phrases[i].phrase;
  return "<unknown status code>";
}
