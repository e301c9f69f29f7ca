/* Proxies from the environment. libcurl reads it too, but tells nobody which one
** it will use, and its name has to be looked up before. */
#include "proxy.h"

#include <arpa/inet.h>
#include <ctype.h>
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

/* The kinds of proxies. SOCKS ones resolve the names: libcurl would in a thread of its
** own, which whoever cancels the fetch has to wait for. */
static const struct kind {
  const char *scheme, *used;
  int port; /* libcurl's default */
} kinds[] = {{"http", "http", 1080},      {"https", "https", 443},
             {"socks4", "socks4a", 1080}, {"socks4a", "socks4a", 1080},
             {"socks5", "socks5h", 1080}, {"socks5h", "socks5h", 1080}};

/* The kind of a proxy, and where its authority begins; NULL: there is no such kind. */
static const struct kind *kind_of(const char **at) {
  const char *end = strstr(*at, "://");
  size_t i;
  if (end == NULL)
    return &kinds[0];
  for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    size_t len = strlen(kinds[i].scheme);
    if (len == (size_t)(end - *at) &&
        strncasecmp(*at, kinds[i].scheme, len) == 0) {
      *at = end + 3;
      return &kinds[i];
    }
  }
  return NULL;
}

/* Take the address from between brackets, without its zone. */
static const char *parse_address(tr_proxy *proxy, const char *at,
                                 const char *end) {
  unsigned char address[16];
  const char *zone = memchr(at, '%', (size_t)(end - at));
  proxy->host = strndup(at, (size_t)((zone != NULL ? zone : end) - at));
  if (proxy->host == NULL)
    return TR_NO_MEMORY;
  return inet_pton(AF_INET6, proxy->host, address) == 1
             ? NULL
             : "its address is no IPv6 address";
}

/* Take the host's name: decoded, as libcurl does before it looks it up. */
static const char *parse_host(tr_proxy *proxy, const char *at,
                              const char *end) {
  const char *p;
  proxy->host = tr_url_decode(at, end);
  if (proxy->host == NULL)
    return TR_NO_MEMORY;
  if (proxy->host[0] == '\0')
    return "it names no host";
  for (p = proxy->host; *p != '\0'; p++)
    if ((unsigned char)*p >= 0x80 ||
        (!isalnum((unsigned char)*p) && strchr("-._~", *p) == NULL))
      return "its host has a character that no host name has";
  return NULL;
}

static const char *parse_port(tr_proxy *proxy, const char *at,
                              const char *end) {
  int port = 0;
  if (at == end)
    return NULL; /* "host:" has the default port */
  for (; at < end; at++)
    if (!isdigit((unsigned char)*at) || (port = port * 10 + *at - '0') > 65535)
      return "its port is no number up to 65535";
  proxy->port = port;
  return NULL;
}

static const char *parse(tr_proxy *proxy, const char *text) {
  const char *at = text, *end, *p, *colon, *host_end, *fault;
  const struct kind *kind = kind_of(&at);
  size_t room;
  if (kind == NULL)
    return "its scheme is none of http, https, socks4, socks4a, socks5 and socks5h";
  proxy->port = kind->port;
  end = at + strcspn(at, "/?#");
  for (p = end; p > at && p[-1] != '@'; p--)
    ;
  if (p > at && (proxy->login = strndup(at, (size_t)(p - 1 - at))) == NULL)
    return TR_NO_MEMORY;
  at = p;
  if (proxy->login != NULL && strstr(proxy->login, "%00") != NULL)
    return "its user or password has a %00";
  if (*at == '[') {
    host_end = memchr(at, ']', (size_t)(end - at));
    if (host_end == NULL)
      return "its address lacks a ']'";
    fault = parse_address(proxy, at + 1, host_end);
    colon = ++host_end;
    if (fault == NULL && colon < end && *colon != ':')
      fault = "its port does not follow a ':'";
  } else {
    colon = memchr(at, ':', (size_t)(end - at));
    if (colon == NULL)
      colon = end;
    host_end = NULL;
    fault = parse_host(proxy, at, colon);
  }
  if (fault == NULL && colon < end)
    fault = parse_port(proxy, colon + 1, end);
  if (fault != NULL)
    return fault;
  room = strlen(text) + 32;
  proxy->url = malloc(room);
  if (proxy->url == NULL)
    return TR_NO_MEMORY;
  if (host_end != NULL) /* with its zone */
    snprintf(proxy->url, room, "%s://%.*s:%d", kind->used, (int)(host_end - at),
             at, proxy->port);
  else
    snprintf(proxy->url, room, "%s://%s:%d", kind->used, proxy->host,
             proxy->port);
  return NULL;
}

const char *tr_proxy_parse(tr_proxy *proxy, const char *text) {
  const char *fault;
  *proxy = (tr_proxy){0};
  fault = parse(proxy, text);
  if (fault != NULL)
    tr_proxy_free(proxy);
  return fault;
}

void tr_proxy_free(tr_proxy *proxy) {
  free(proxy->url);
  free(proxy->login);
  free(proxy->host);
  *proxy = (tr_proxy){0};
}
