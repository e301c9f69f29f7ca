/* The options of fetches, shared by all that have the same ones. */
#ifndef TR_FETCH_CONFIG_H
#define TR_FETCH_CONFIG_H

#include "libcurl.h"
#include "table.h"

/* Options that are the same for many fetches: shared, and kept. Immutable but for
** the driver's notes on the CA file. */
typedef struct tr_config {
  tr_node node;
  struct tr_config *prev, *next; /* among those that nothing uses */
  size_t uses;                   /* requests and handles */
  double connect_timeout, stall_timeout;
  bool netrc;
  char *ca_file, *client_cert, *client_key, *unix_socket, *user_agent, *proxy;
  char **header_lines;        /* NULL-terminated, or NULL */
  char **redirect_hosts;      /* NULL-terminated; NULL: any */
  struct curl_slist *headers; /* the lines, and Accept-Encoding */
  double ca_checked;          /* when 'ca_file' was looked at last */
  long long ca_stamp[3];
  double ca_changed;
} tr_config;

/* The configuration of some options, used; NULL with the error. */
tr_config *tr_config_get(const tr_fetch_options *options, tr_error *error);
/* The same without what identifies the caller (header lines, certificate, netrc), for an
** origin that it is not meant for; used. NULL with the error. */
tr_config *tr_config_foreign(const tr_config *config, tr_error *error);
/* The options that a configuration is of: its strings are not copied. */
void tr_config_options(const tr_config *config, tr_fetch_options *options);
tr_config *tr_config_use(tr_config *config);
void tr_config_release(tr_config *config);

/* Registers the fork handlers of configurations. Call it once. */
void tr_config_prepare_fork(void);

#endif
