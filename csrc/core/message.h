/* The message of a request: a method, a body and headers of its own. */
#ifndef TR_MESSAGE_H
#define TR_MESSAGE_H

#include "blob.h"

enum {
  TR_ANSWER_MAX = 4 * 1024 * 1024, /* bytes of a response's body */
  TR_FIELDS_MAX = 32 * 1024        /* bytes of the response headers that are kept */
};

typedef enum tr_method {
  TR_GET,
  TR_HEAD,
  TR_POST,
  TR_PUT,
  TR_PATCH,
  TR_DELETE
} tr_method;

/* The method with a name such as "PUT"; -1: unknown. */
int tr_method_named(const char *name);
const char *tr_method_name(tr_method method);

/* True if a request that may have arrived can be sent again (RFC 9110, 9.2.2). */
bool tr_method_is_idempotent(tr_method method);

/* The caller's wishes. A body is never copied. */
typedef struct tr_send_options {
  tr_method method;
  tr_blob *body; /* or NULL */
  const char *const *headers; /* "Name: value", NULL-terminated; NULL: none. They go to
                                 the origin asked for, and replace those of the fetch's
                                 options that have their names */
  bool no_redirects; /* a redirect is the response */
  bool secret;       /* wipe the body, the headers and the response's fields */
  bool link_local;   /* it may go to a link-local address */
  bool is_conditional; /* a repetition would be refused because of the first one's success */
} tr_send_options;

typedef struct tr_message {
  tr_method method;
  tr_blob *body; /* retained, or NULL */
  char **headers; /* NULL-terminated */
  bool no_redirects, secret, is_conditional;
  size_t at;        /* of the body, sent in this attempt */
} tr_message;

/* A message of these options. NULL: memory is short. */
tr_message *tr_message_new(const tr_send_options *options);
void tr_message_free(tr_message *message); /* NULL is allowed */

/* True if it must not be sent again once it may have arrived. */
bool tr_message_is_single(const tr_message *message, int retries_left);

/* True if it has a header with the name of a line "Name: value". */
bool tr_message_replaces(const tr_message *message, const char *line);

/* Keep a header line of the response, if callers may want to know it: name, zero byte, value,
** zero byte. Several of one name become one, in the order in which they came. */
void tr_message_keep_field(tr_buffer *fields, const char *line, size_t size);

/* Return the value of a kept field by its name, or NULL. */
const char *tr_message_field(const tr_buffer *fields, const char *name);

#endif
