/* URLs: parsed once, here, for keys, rules, headers, redirects and fetches. */
#include "url.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "crypto.h"

const char TR_NO_MEMORY[] = "memory is short";

void tr_url_free(tr_url *url) {
  free(url->text);
  free(url->host);
  free(url->userinfo);
  free(url->fragment);
  *url = (tr_url){0};
}

static int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

char *tr_url_decode(const char *at, const char *end) {
  char *text = malloc((size_t)(end - at) + 1), *out = text;
  while (text != NULL && at < end) {
    int high = *at == '%' && end - at >= 3 ? hex_digit(at[1]) : -1;
    int low = high >= 0 ? hex_digit(at[2]) : -1;
    if (low >= 0) {
      *out++ = (char)(high << 4 | low);
      at += 3;
    } else {
      *out++ = *at++;
    }
  }
  if (text != NULL)
    *out = '\0';
  return text;
}

/* ---------------------------------------------------------------- authority */

/* The schemes, with their default ports. */
static const struct scheme {
  const char *name;
  int port;
  bool secure;
} schemes[] = {{"http", 80, false}, {"https", 443, true}, {"oci", 443, true}};

static const struct scheme *scheme_of(const char *text) {
  size_t i;
  for (i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    size_t len = strlen(schemes[i].name);
    if (strncasecmp(text, schemes[i].name, len) == 0 &&
        strncmp(text + len, "://", 3) == 0)
      return &schemes[i];
  }
  return NULL;
}

/* Write an address between brackets in its usual spelling. */
static const char *parse_ipv6(tr_url *url, const char *at, size_t len) {
  char text[INET6_ADDRSTRLEN];
  unsigned char address[16];
  url->host = malloc(INET6_ADDRSTRLEN);
  if (url->host == NULL)
    return TR_NO_MEMORY;
  if (len >= sizeof text)
    return "its address is no IPv6 address";
  memcpy(text, at, len);
  text[len] = '\0';
  if (inet_pton(AF_INET6, text, address) != 1)
    return "its address is no IPv6 address";
  inet_ntop(AF_INET6, address, url->host, INET6_ADDRSTRLEN);
  return NULL;
}

/* Copy a name in lower case; a numeric address, which may also be written as
** 0x7f.1 or 2130706433, in its usual spelling. */
static const char *parse_name(tr_url *url, const char *at, size_t len) {
  struct in_addr address;
  size_t i;
  if (len == 0)
    return "it names no host";
  url->host = malloc(len + INET_ADDRSTRLEN);
  if (url->host == NULL)
    return TR_NO_MEMORY;
  for (i = 0; i < len; i++) {
    unsigned char c = (unsigned char)at[i];
    if (c >= 0x80)
      return "its host is not ASCII; write it as xn--…";
    if (!isalnum(c) && strchr("-._~", c) == NULL)
      return "its host has a character that no host name has";
    url->host[i] = (char)tolower(c);
  }
  url->host[len] = '\0';
  if (isdigit((unsigned char)url->host[0]) && inet_aton(url->host, &address))
    inet_ntop(AF_INET, &address, url->host, INET_ADDRSTRLEN);
  return NULL;
}

static const char *parse_port(tr_url *url, const char *at, const char *end) {
  int port = 0;
  if (at == end)
    return NULL; /* "host:" has the default port */
  for (; at < end; at++) {
    if (!isdigit((unsigned char)*at) || (port = port * 10 + *at - '0') > 65535)
      return "the port is not a number from 0 to 65535";
  }
  url->port = port;
  return NULL;
}

/* [userinfo@]host[:port] */
static const char *parse_authority(tr_url *url, const char *at,
                                   const char *end) {
  const char *p, *host = at, *colon, *fault;
  for (p = at; p < end; p++)
    if (*p == '@')
      host = p + 1;
  if (host > at) {
    url->userinfo = strndup(at, (size_t)(host - 1 - at));
    if (url->userinfo == NULL)
      return TR_NO_MEMORY;
    if (strstr(url->userinfo, "%00") != NULL)
      return "its user or password has a %00";
  }
  if (host < end && *host == '[') {
    colon = memchr(host, ']', (size_t)(end - host));
    if (colon == NULL)
      return "its address lacks a ']'";
    fault = parse_ipv6(url, host + 1, (size_t)(colon - host - 1));
    colon++;
    if (fault == NULL && colon < end && *colon != ':')
      return "its port does not follow a ':'";
  } else {
    colon = memchr(host, ':', (size_t)(end - host));
    if (colon == NULL)
      colon = end;
    fault = parse_name(url, host, (size_t)(colon - host));
  }
  if (fault != NULL || colon == end)
    return fault;
  return parse_port(url, colon + 1, end);
}

/* --------------------------------------------------------------------- path */

/* The dots of a path segment that consists of dots, "." or "%2e": 1, 2, or 0
** for any other segment. */
static int count_dots(const char *at, const char *end) {
  int dots = 0;
  while (at < end && dots < 3) {
    if (*at == '.')
      at++;
    else if (end - at >= 3 && strncasecmp(at, "%2e", 3) == 0)
      at += 3;
    else
      return 0;
    dots++;
  }
  return dots <= 2 ? dots : 0;
}

/* Append a path without its dot segments (RFC 3986, 5.2.4). */
static char *append_path(char *out, const char *at, const char *end) {
  char *start = out;
  if (at == end) {
    *out++ = '/';
    return out;
  }
  while (at < end) { /* at a '/' */
    const char *next = memchr(at + 1, '/', (size_t)(end - at - 1));
    int dots;
    if (next == NULL)
      next = end;
    dots = count_dots(at + 1, next);
    if (dots == 2)
      while (out > start && *--out != '/')
        ;
    if (dots == 0) {
      memcpy(out, at, (size_t)(next - at));
      out += next - at;
    } else if (next == end) {
      *out++ = '/';
    }
    at = next;
  }
  return out;
}

static const char *check_characters(const char *text) {
  const char *p;
  for (p = text; *p != '\0'; p++) {
    if ((unsigned char)*p <= ' ' || *p == 0x7F)
      return "it has a space or a control character in it; write it as %XX";
    if (*p == '\\')
      return "it has a backslash in it; write it as %5C";
  }
  return NULL;
}

static const char *parse_parts(tr_url *url, const char *text) {
  const struct scheme *scheme = scheme_of(text);
  const char *at, *path, *query, *end, *fault = check_characters(text);
  bool bracket;
  char *out;
  if (fault != NULL)
    return fault;
  if (scheme == NULL)
    return "it is neither http nor https";
  url->secure = scheme->secure;
  url->port = scheme->port;
  at = text + strlen(scheme->name) + 3;
  end = at + strcspn(at, "#");
  path = at + strcspn(at, "/?#");
  query = path + strcspn(path, "?#");
  if (*end == '#' && (url->fragment = strdup(end + 1)) == NULL)
    return TR_NO_MEMORY;
  fault = parse_authority(url, at, path);
  if (fault != NULL)
    return fault;
  url->text = malloc(strlen(text) + INET6_ADDRSTRLEN + 16);
  if (url->text == NULL)
    return TR_NO_MEMORY;
  bracket = strchr(url->host, ':') != NULL;
  out = url->text + sprintf(url->text, "%s://%s%s%s", scheme->name,
                            bracket ? "[" : "", url->host, bracket ? "]" : "");
  if (url->port != scheme->port)
    out += sprintf(out, ":%d", url->port);
  url->origin_len = (size_t)(out - url->text);
  out = append_path(out, path, query);
  memcpy(out, query, (size_t)(end - query));
  out[end - query] = '\0';
  return NULL;
}

const char *tr_url_parse(tr_url *url, const char *text) {
  const char *fault;
  *url = (tr_url){0};
  fault = parse_parts(url, text);
  if (fault != NULL)
    tr_url_free(url);
  return fault;
}

/* The length of a scheme with its colon, or 0. */
static size_t scheme_length(const char *text) {
  size_t len = 0;
  if (!isalpha((unsigned char)text[0]))
    return 0;
  while (isalnum((unsigned char)text[len]) ||
         (text[len] != '\0' && strchr("+-.", text[len]) != NULL))
    len++;
  return text[len] == ':' ? len + 1 : 0;
}

char *tr_url_join(const tr_url *base, const char *location) {
  const char *path = base->text + base->origin_len;
  size_t keep = base->origin_len, i, spaces = 0;
  char *joined, *out;
  if (scheme_length(location) > 0)
    keep = 0;
  else if (strncmp(location, "//", 2) == 0)
    keep = (size_t)(strchr(base->text, ':') + 1 - base->text);
  else if (location[0] == '?')
    keep += strcspn(path, "?");
  else if (location[0] == '\0' || location[0] == '#')
    keep = strlen(base->text);
  else if (location[0] != '/')
    for (i = 0; path[i] != '\0' && path[i] != '?'; i++)
      if (path[i] == '/')
        keep = base->origin_len + i + 1;
  for (i = 0; location[i] != '\0'; i++)
    spaces += location[i] == ' ';
  joined = malloc(keep + strlen(location) + 2 * spaces + 1);
  if (joined == NULL)
    return NULL;
  memcpy(joined, base->text, keep);
  out = joined + keep;
  for (; *location != '\0'; location++) {
    if (*location == ' ') { /* servers send them, and browsers follow */
      memcpy(out, "%20", 3);
      out += 3;
    } else {
      *out++ = *location;
    }
  }
  *out = '\0';
  return joined;
}

bool tr_url_same_origin(const tr_url *a, const tr_url *b) {
  return a->origin_len == b->origin_len &&
         memcmp(a->text, b->text, a->origin_len) == 0;
}

bool tr_host_in_list(const char *host, const char *const *list) {
  size_t len = strlen(host);
  for (; *list != NULL; list++) {
    const char *pattern = *list;
    size_t tail = strlen(pattern) - 1;
    if (strcasecmp(pattern, host) == 0 ||
        (strncmp(pattern, "*.", 2) == 0 && len > tail &&
         strcasecmp(host + len - tail, pattern + 1) == 0))
      return true;
  }
  return false;
}

static size_t without_dot(const char *host, size_t len) {
  return len > 1 && host[len - 1] == '.' ? len - 1 : len;
}

int tr_host_match(const char *name, const char *host, int port) {
  const char *colon = strrchr(name, ':'), *end;
  bool bracket = name[0] == '[';
  size_t len;
  if (bracket) {
    name++;
    end = name + strcspn(name, "]");
    colon = *end == ']' && end[1] == ':' ? end + 1 : NULL;
  } else {
    if (colon != strchr(name, ':')) /* an address without brackets */
      colon = NULL;
    end = colon != NULL ? colon : name + strlen(name);
  }
  len = without_dot(name, (size_t)(end - name));
  if (len != without_dot(host, strlen(host)) ||
      strncasecmp(name, host, len) != 0)
    return 0;
  if (colon == NULL)
    return 1;
  return strtol(colon + 1, NULL, 10) == port ? 2 : 0;
}

/* ------------------------------------------------------------------ digests */

/* Query parameters that sign a URL for object stores and content networks:
** AWS (SigV4 and V2), Google, Azure (shared access signatures), CloudFront. */
static bool is_signature(const char *name, size_t len) {
  static const char *const names[] = {"sig",
                                      "se",
                                      "st",
                                      "sp",
                                      "sr",
                                      "sv",
                                      "ss",
                                      "srt",
                                      "spr",
                                      "sip",
                                      "skoid",
                                      "sktid",
                                      "skt",
                                      "ske",
                                      "sks",
                                      "skv",
                                      "Expires",
                                      "Signature",
                                      "Policy",
                                      "Key-Pair-Id",
                                      "hmac",
                                      "AWSAccessKeyId",
                                      "GoogleAccessId"};
  size_t i;
  if ((len > 6 && strncasecmp(name, "X-Amz-", 6) == 0) ||
      (len > 7 && strncasecmp(name, "X-Goog-", 7) == 0))
    return true;
  for (i = 0; i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == len && strncasecmp(name, names[i], len) == 0)
      return true;
  return false;
}

/* True if a query has a parameter that is a signature itself. Names such as "sp"
** mean a signature's terms beside one only. */
static bool is_signed(const char *query) {
  while (*query != '\0') {
    size_t name = strcspn(query, "=&");
    if ((name == 3 && strncasecmp(query, "sig", 3) == 0) ||
        (name == 4 && strncasecmp(query, "hmac", 4) == 0) ||
        (name == 9 && strncasecmp(query, "Signature", 9) == 0) ||
        (name == 15 && strncasecmp(query, "X-Amz-Signature", 15) == 0) ||
        (name == 16 && strncasecmp(query, "X-Goog-Signature", 16) == 0))
      return true;
    query += strcspn(query, "&");
    query += *query == '&';
  }
  return false;
}

static void short_digest(const void *data, size_t size,
                         char hex[TR_URL_DIGEST]) {
  char whole[TR_HEX_MAX];
  tr_digest(TR_SHA256, data, size, whole);
  memcpy(hex, whole, TR_URL_DIGEST - 1);
  hex[TR_URL_DIGEST - 1] = '\0';
}

void tr_url_digests(const char *url, char whole[TR_URL_DIGEST],
                    char unsigned_[TR_URL_DIGEST]) {
  const char *query = strchr(url, '?'), *at;
  size_t len = strlen(url);
  char *rest;
  short_digest(url, len, whole);
  memcpy(unsigned_, whole, TR_URL_DIGEST);
  rest = query != NULL && is_signed(query + 1) ? malloc(len + 1) : NULL;
  if (rest == NULL) /* without memory a new signature is a new URL */
    return;
  len = (size_t)(query - url);
  memcpy(rest, url, len);
  for (at = query + 1; *at != '\0';) {
    size_t parameter = strcspn(at, "&"), name = strcspn(at, "=&");
    if (!is_signature(at, name)) {
      rest[len++] = '&';
      memcpy(rest + len, at, parameter);
      len += parameter;
    }
    at += parameter;
    at += *at == '&';
  }
  short_digest(rest, len, unsigned_);
  free(rest);
}
