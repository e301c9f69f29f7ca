/* Proxies from the environment. libcurl reads it too, but tells nobody which one
** it will use, and its name has to be looked up before. */
#include "proxy.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *variable(const char *lower, const char *upper) {
  const char *value = getenv(lower);
  if ((value == NULL || value[0] == '\0') && upper != NULL)
    value = getenv(upper);
  return value != NULL && value[0] != '\0' ? value : NULL;
}

/* The bytes of an address, for comparing: 4, 16, or 0 if it is none. */
static size_t address_of(const char *host, unsigned char raw[16]) {
  if (inet_pton(AF_INET, host, raw) == 1)
    return 4;
  return inet_pton(AF_INET6, host, raw) == 1 ? 16 : 0;
}

/* True if an address lies in "network/bits". */
static bool in_network(const char *host, const char *pattern) {
  unsigned char address[16], network[16];
  const char *slash = strchr(pattern, '/');
  char text[INET6_ADDRSTRLEN];
  size_t len = slash != NULL ? (size_t)(slash - pattern) : strlen(pattern);
  size_t size = address_of(host, address), bits, bytes;
  if (size == 0 || len >= sizeof text)
    return false;
  memcpy(text, pattern, len);
  text[len] = '\0';
  if (address_of(text, network) != size)
    return false;
  bits = slash != NULL ? strtoul(slash + 1, NULL, 10) : size * 8;
  if (bits > size * 8)
    return false;
  bytes = bits / 8;
  if (memcmp(address, network, bytes) != 0)
    return false;
  return bits % 8 == 0 ||
         (address[bytes] ^ network[bytes]) >> (8 - bits % 8) == 0;
}

/* True if one item of no_proxy covers a host: the host, or a domain above it. */
static bool covers(const char *item, size_t len, const char *host) {
  size_t host_len = strlen(host);
  char text[256];
  if (len == 1 && item[0] == '*')
    return true;
  if (len > 0 && item[0] == '.') {
    item++;
    len--;
  }
  if (len == 0 || len >= sizeof text)
    return false;
  memcpy(text, item, len);
  text[len] = '\0';
  if (in_network(host, text))
    return true;
  return host_len >= len && strcasecmp(host + host_len - len, text) == 0 &&
         (host_len == len || host[host_len - len - 1] == '.');
}

static bool is_exempt(const char *host) {
  const char *list = variable("no_proxy", "NO_PROXY");
  while (list != NULL && *list != '\0') {
    size_t len = strcspn(list, ", ");
    if (len > 0 && covers(list, len, host))
      return true;
    list += len;
    list += strspn(list, ", ");
  }
  return false;
}

bool tr_proxy_for(const tr_url *url, char **proxy) {
  const char *found = url->secure ? variable("https_proxy", "HTTPS_PROXY")
                                  : variable("http_proxy", NULL);
  if (found == NULL)
    found = variable("all_proxy", "ALL_PROXY");
  *proxy = strdup(found == NULL || is_exempt(url->host) ? "" : found);
  return *proxy != NULL;
}

bool tr_proxy_parse(const char *proxy, char **host, int *port) {
  const char *at = strstr(proxy, "://"), *end, *p, *colon;
  *port = at != NULL && strncasecmp(proxy, "https", 5) == 0 ? 443 : 1080;
  at = at != NULL ? at + 3 : proxy;
  end = at + strcspn(at, "/?#");
  for (p = at; p < end; p++)
    if (*p == '@')
      at = p + 1;
  if (*at == '[') {
    colon = memchr(at, ']', (size_t)(end - at));
    if (colon == NULL)
      return false;
    *host = strndup(at + 1, (size_t)(colon - at - 1));
    colon++;
  } else {
    colon = memchr(at, ':', (size_t)(end - at));
    if (colon == NULL)
      colon = end;
    *host = strndup(at, (size_t)(colon - at));
  }
  if (colon < end && *colon == ':' && atoi(colon + 1) > 0)
    *port = atoi(colon + 1);
  return *host != NULL && **host != '\0';
}

bool tr_proxy_let_resolve(char **proxy) {
  static const char *const names[][2] = {{"socks5://", "socks5h://"},
                                         {"socks4://", "socks4a://"}};
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++) {
    size_t len = strlen(names[i][0]), size;
    char *longer;
    if (strncasecmp(*proxy, names[i][0], len) != 0)
      continue;
    size = strlen(*proxy) + 2;
    longer = malloc(size);
    if (longer == NULL)
      return false;
    snprintf(longer, size, "%s%s", names[i][1], *proxy + len);
    free(*proxy);
    *proxy = longer;
    break;
  }
  return true;
}

char *tr_proxy_display(const char *proxy) {
  const char *scheme_end = strstr(proxy, "://");
  size_t scheme = scheme_end != NULL ? (size_t)(scheme_end + 3 - proxy) : 0;
  const char *at = strrchr(proxy + scheme, '@');
  const char *rest = at != NULL ? at + 1 : proxy + scheme;
  size_t size = scheme + strlen(rest) + 1;
  char *shown = malloc(size);
  if (shown != NULL)
    snprintf(shown, size, "%.*s%s", (int)scheme, proxy, rest);
  return shown;
}
