/* Records of results, and what a request allows of them. */
#include "record.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

/* A shared record: one block of memory. */
typedef struct shared {
  tr_record record; /* first: its address is the block's */
  atomic_size_t refs;
  size_t size;
  char text[];
} shared;

static size_t length(const char *text) {
  return text != NULL ? strlen(text) : 0;
}

/* Copy a text with its final zero byte to where the next one goes. */
static const char *copy_text(char **at, const char *text) {
  char *copy = *at;
  size_t len = length(text);
  if (len > 0)
    memcpy(copy, text, len);
  copy[len] = '\0';
  *at += len + 1;
  return copy;
}

static tr_bytes copy_bytes(char **at, tr_bytes bytes) {
  tr_bytes copy = {*at, bytes.len};
  if (bytes.len > 0)
    memcpy(*at, bytes.at, bytes.len);
  *at += bytes.len;
  return copy;
}

tr_record *tr_record_new(const tr_record *d) {
  size_t size = sizeof(shared) + length(d->etag) + length(d->last_modified) +
                length(d->url) + length(d->unsigned_url) + 4 + d->hosts.len +
                d->content.len + d->extra.len;
  shared *s = malloc(size);
  char *at;
  if (s == NULL)
    return NULL;
  atomic_init(&s->refs, 1);
  s->size = size;
  s->record = *d;
  at = s->text;
  s->record.etag = copy_text(&at, d->etag);
  s->record.last_modified = copy_text(&at, d->last_modified);
  s->record.url = copy_text(&at, d->url);
  s->record.unsigned_url = copy_text(&at, d->unsigned_url);
  s->record.hosts = copy_bytes(&at, d->hosts);
  s->record.content = copy_bytes(&at, d->content);
  s->record.extra = copy_bytes(&at, d->extra);
  return &s->record;
}

tr_record *tr_record_retain(tr_record *record) {
  atomic_fetch_add_explicit(&((shared *)record)->refs, 1,
                            memory_order_relaxed);
  return record;
}

void tr_record_release(tr_record *record) {
  if (record != NULL &&
      atomic_fetch_sub_explicit(&((shared *)record)->refs, 1,
                                memory_order_acq_rel) == 1)
    free(record);
}

size_t tr_record_size(const tr_record *record) {
  return ((const shared *)record)->size;
}

bool tr_record_has_validators(const tr_record *record) {
  return record != NULL &&
         (record->etag[0] != '\0' || record->last_modified[0] != '\0');
}

/* ---------------------------------------------------------------------- hosts */

static const char *next_text(const char *text) {
  return text + strlen(text) + 1;
}

void tr_hosts_add(char *hosts, size_t *len, const char *host) {
  size_t size = strlen(host) + 1;
  const char *at;
  for (at = hosts; at < hosts + *len; at = next_text(at))
    if (strcmp(at, host) == 0 || strcmp(at, TR_OTHER_HOSTS) == 0)
      return;
  if (size > TR_HOSTS_MAX - sizeof TR_OTHER_HOSTS - *len) {
    host = TR_OTHER_HOSTS;
    size = sizeof TR_OTHER_HOSTS;
  }
  memcpy(hosts + *len, host, size);
  *len += size;
}

/* --------------------------------------------------------------------- limits */

unsigned tr_record_traits(const tr_record *record) {
  return record == NULL ? 0
                        : (record->from_private ? TR_FROM_PRIVATE : 0u) |
                              (record->hosts.len > 0 ? TR_REDIRECTED : 0u) |
                              (record->open_ended ? TR_OPEN_ENDED : 0u);
}

tr_limits tr_limits_of(const tr_fetch_options *o) {
  tr_limits limits = {0, NULL, 0};
  size_t i;
  if (o == NULL || (!o->refuse_private && !o->require_length &&
                    o->redirect_hosts == NULL))
    return limits;
  limits.forbidden = (o->refuse_private ? TR_FROM_PRIVATE : 0u) |
                     (o->redirect_hosts != NULL ? TR_REDIRECTED : 0u) |
                     (o->require_length ? TR_OPEN_ENDED : 0u);
  limits.redirect_hosts = o->redirect_hosts;
  limits.id = tr_table_hash((const char *)&limits.forbidden,
                            sizeof limits.forbidden);
  for (i = 0; o->redirect_hosts != NULL && o->redirect_hosts[i] != NULL; i++)
    limits.id = limits.id * 31 + tr_table_hash(o->redirect_hosts[i],
                                               strlen(o->redirect_hosts[i]));
  if (limits.id == 0)
    limits.id = 1;
  return limits;
}

bool tr_limits_allow(const tr_limits *limits, const tr_record *record) {
  const char *host, *end = record->hosts.at + record->hosts.len;
  if ((limits->forbidden & TR_FROM_PRIVATE) != 0 && record->from_private)
    return false;
  if ((limits->forbidden & TR_OPEN_ENDED) != 0 && record->open_ended)
    return false;
  if ((limits->forbidden & TR_REDIRECTED) != 0)
    for (host = record->hosts.at; host < end; host = next_text(host))
      if (!tr_host_in_list(host, limits->redirect_hosts))
        return false;
  return true;
}
