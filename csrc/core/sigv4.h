/* AWS Signature Version 4. */
#ifndef TR_SIGV4_H
#define TR_SIGV4_H

#include <time.h>

#include "blob.h"
#include "signer.h"

/* "YYYYMMDDTHHMMSSZ" */
enum { TR_SIGV4_DATE = 17 };

/* The SHA-256 of no bytes. */
extern const char TR_EMPTY_SHA256[];

/* A request to be signed. */
typedef struct tr_signing {
  const char *method;
  const char *url;                 /* "scheme://host/path?query" */
  const char *const *headers;      /* "Name: value", NULL-terminated; all are signed */
  const char *payload;             /* SHA-256 of the body in hex */
  const char *region;
  const char *date; /* as tr_sigv4_date writes it */
} tr_signing;

void tr_sigv4_date(time_t seconds, char date[TR_SIGV4_DATE]);

/* Append the value of the header Authorization, without a zero byte. 'canonical' gets the
** canonical request, or is NULL. False: memory is short. */
bool tr_sigv4_sign(tr_signer *signer, const tr_signing *what, tr_buffer *authorization,
                   tr_buffer *canonical);

#endif
