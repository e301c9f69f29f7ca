/* Addresses, statuses and libcurl's codes, in the words of our errors. */
#include "http.h"

#include <arpa/inet.h>
#include <string.h>

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

/* True if an IPv6 address stands for an IPv4 one, its last four bytes. */
static bool holds_v4(const unsigned char a[16]) {
  static const unsigned char mapped[12] = {0, 0, 0, 0, 0,    0,
                                           0, 0, 0, 0, 0xFF, 0xFF};
  static const unsigned char nat64[12] = {0, 0x64, 0xFF, 0x9B};
  return memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0;
}

bool tr_address_is_private(const char *address) {
  unsigned char a[16];
  if (inet_pton(AF_INET, address, a) == 1)
    return is_private_v4(a);
  if (inet_pton(AF_INET6, address, a) != 1)
    return true;
  if (holds_v4(a))
    return is_private_v4(a + 12);
  /* of all the rest, 2000::/3 is what is given out */
  return (a[0] & 0xE0) != 0x20 ||
         (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0D && a[3] == 0xB8) ||
         (a[0] == 0x20 && a[1] == 0x02 && is_private_v4(a + 2)); /* 6to4 */
}

/* True for the addresses of a network without a router, where clouds put their
** metadata services: 169.254.0.0/16, fe80::/10, and Amazon's fd00:ec2::254. */
bool tr_address_is_link_local(const char *address) {
  static const unsigned char amazon[16] = {0xFD, 0x00, 0x0E, 0xC2, 0, 0, 0, 0,
                                           0,    0,    0,    0,    0, 0, 2, 0x54};
  unsigned char a[16];
  char text[INET6_ADDRSTRLEN];
  size_t len = strlen(address);
  if (len > 1 && len < sizeof text && address[len - 1] == '.') {
    memcpy(text, address, len - 1); /* "169.254.169.254." is the same */
    text[len - 1] = '\0';
    address = text;
  }
  if (inet_pton(AF_INET, address, a) == 1)
    return a[0] == 169 && a[1] == 254;
  if (inet_pton(AF_INET6, address, a) != 1)
    return false;
  if (holds_v4(a))
    return a[12] == 169 && a[13] == 254;
  return (a[0] == 0xFE && (a[1] & 0xC0) == 0x80) || memcmp(a, amazon, 16) == 0;
}

double tr_date(const char *text) {
  time_t date = curl_getdate(text, NULL);
  return date > 0 ? (double)date : 0;
}

const char *tr_reason_phrase(long status) {
  static const struct {
    long status;
    const char *phrase;
  } phrases[] = {{206, "Partial Content"},
                 {300, "Multiple Choices"},
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
