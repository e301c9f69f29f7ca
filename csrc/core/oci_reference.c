/* References to registries, parsed once, here: nothing that does not fit the grammar gets
** into a request. */
#include "oci_reference.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void tr_oci_reference_free(tr_oci_reference *r) {
  free(r->registry);
  free(r->host);
  free(r->repository);
  free(r->tag);
  free(r->manifest);
  free(r->ns);
  free(r->fragment);
  *r = (tr_oci_reference){0};
}

static bool is_lower(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_tag_character(char c) {
  return is_lower(c) || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '-';
}

/* ------------------------------------------------------------------- parts */

/* The end of one part of a name: [a-z0-9]+ with '.', '_', "__" or dashes between. NULL
** if none begins at 'at'. */
static const char *part_end(const char *at, const char *end) {
  for (;;) {
    const char *start = at;
    while (at < end && is_lower(*at))
      at++;
    if (at == start)
      return NULL;
    if (at == end || *at == '/')
      return at;
    if (*at == '.') {
      at++;
    } else if (*at == '_') {
      at += at + 1 < end && at[1] == '_' ? 2 : 1;
    } else if (*at == '-') {
      while (at < end && *at == '-')
        at++;
    } else {
      return NULL;
    }
  }
}

static const char *repository_fault(const char *at, const char *end) {
  if (at == end)
    return "it names no repository";
  if (end - at > TR_OCI_NAME_MAX)
    return "its repository has more than 255 characters";
  for (;;) {
    at = part_end(at, end);
    if (at == NULL)
      return "its repository has a character or an empty part that no name has: it takes "
             "lower-case letters, digits, and '.', '_' or '-' between them";
    if (at == end)
      return NULL;
    at++;
  }
}

const char *tr_oci_tag_fault(const char *text, size_t len) {
  size_t i;
  if (len == 0)
    return "its tag is empty";
  if (len > TR_OCI_TAG_MAX)
    return "its tag has more than 128 characters";
  if (text[0] == '.' || text[0] == '-')
    return "its tag begins with a '.' or '-'";
  for (i = 0; i < len; i++)
    if (!is_tag_character(text[i]))
      return "its tag has a character that no tag has: it takes letters, digits, '_', '.' "
             "and '-'";
  return NULL;
}

bool tr_oci_is_digest(const char *text, size_t len) {
  size_t i;
  if (len != 7 + TR_OCI_DIGEST_HEX || memcmp(text, "sha256:", 7) != 0)
    return false;
  for (i = 7; i < len; i++)
    if (!((text[i] >= '0' && text[i] <= '9') ||
          (text[i] >= 'a' && text[i] <= 'f')))
      return false;
  return true;
}

/* True if Docker Hub goes by this name, too. */
static bool is_docker_hub(const char *registry) {
  return strcmp(registry, "docker.io") == 0 ||
         strcmp(registry, "index.docker.io") == 0 ||
         strcmp(registry, "registry-1.docker.io") == 0;
}

/* Read "host[:port]" in normal form. '*host' may be NULL. */
static const char *read_registry(const char *at, const char *end,
                                 char **registry, char **host, int *port) {
  size_t len = (size_t)(end - at);
  char *text = malloc(len + 8);
  tr_url url;
  const char *fault;
  if (text == NULL)
    return TR_NO_MEMORY;
  memcpy(text, "oci://", 6);
  memcpy(text + 6, at, len);
  memcpy(text + 6 + len, "/", 2);
  fault = memchr(at, '@', len) != NULL
              ? "it has a user or a password in it; configure them under 'registries'"
              : tr_url_parse(&url, text);
  free(text);
  if (fault != NULL)
    return strcmp(fault, "it names no host") == 0 ? "it names no registry" : fault;
  *registry = strndup(url.text + 6, url.origin_len - 6);
  if (*registry != NULL && is_docker_hub(*registry))
    strcpy(*registry, "docker.io"); /* the shortest of its names */
  if (host != NULL) {
    *host = url.host;
    url.host = NULL;
    *port = url.port;
  }
  tr_url_free(&url);
  return *registry == NULL ? TR_NO_MEMORY : NULL;
}

/* ------------------------------------------------------------------- parse */

static const char *copy(char **to, const char *at, const char *end) {
  *to = strndup(at, (size_t)(end - at));
  return *to == NULL ? TR_NO_MEMORY : NULL;
}

static const char *read_repository(tr_oci_reference *r, const char *at,
                                   const char *end) {
  const char *fault = repository_fault(at, end);
  size_t len = (size_t)(end - at);
  if (fault != NULL || strcmp(r->registry, "docker.io") != 0 ||
      memchr(at, '/', len) != NULL)
    return fault != NULL ? fault : copy(&r->repository, at, end);
  r->repository = malloc(len + 9);
  if (r->repository == NULL)
    return TR_NO_MEMORY;
  memcpy(r->repository, "library/", 8);
  memcpy(r->repository + 8, at, len);
  r->repository[8 + len] = '\0';
  return NULL;
}

/* repository[:tag][@digest], where a ':' is no part of a name. */
static const char *read_name(tr_oci_reference *r, const char *at,
                             const char *end) {
  const char *digest = memchr(at, '@', (size_t)(end - at)), *colon, *fault;
  if (digest != NULL) {
    if (!tr_oci_is_digest(digest + 1, (size_t)(end - digest - 1)))
      return "its digest is not @sha256: and 64 lower-case hex digits";
    if ((fault = copy(&r->manifest, digest + 8, end)) != NULL)
      return fault;
    end = digest;
  }
  colon = memchr(at, ':', (size_t)(end - at));
  if (colon != NULL) {
    fault = tr_oci_tag_fault(colon + 1, (size_t)(end - colon - 1));
    if (fault == NULL)
      fault = copy(&r->tag, colon + 1, end);
    if (fault != NULL)
      return fault;
    end = colon;
  }
  return read_repository(r, at, end);
}

static const char *parse(tr_oci_reference *r, const char *text) {
  const char *at = text + 6, *slash, *end, *query, *fault;
  if (strncasecmp(text, "oci://", 6) != 0)
    return "it does not begin with oci://";
  end = at + strcspn(at, "#");
  if (*end == '#' && (r->fragment = strdup(end + 1)) == NULL)
    return TR_NO_MEMORY;
  query = at + strcspn(at, "?#");
  slash = at + strcspn(at, "/?#");
  if (slash == at)
    return "it names no registry";
  if (*slash != '/')
    return "it names no repository";
  fault = read_registry(at, slash, &r->registry, &r->host, &r->port);
  if (fault == NULL && query < end)
    fault = strncmp(query, "?ns=", 4) != 0
                ? "it has a query, which only a mirror's '?ns=registry' may be"
                : read_registry(query + 4, end, &r->ns, NULL, NULL);
  return fault != NULL ? fault : read_name(r, slash + 1, query);
}

const char *tr_oci_reference_parse(tr_oci_reference *reference,
                                   const char *text) {
  const char *fault;
  *reference = (tr_oci_reference){0};
  fault = parse(reference, text);
  if (fault != NULL)
    tr_oci_reference_free(reference);
  return fault;
}
