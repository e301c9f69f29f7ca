/*
** An object store refuses a request that is signed for the wrong region or with a wrong time, and
** reports the right one. A refused request had no effect, so any request may be sent again.
*/
#include "resign.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "http.h"
#include "redact.h"
#include "s3_places.h"
#include "sign.h"

enum {
  MAX_REGIONS = 2, /* moves of one request */
  LOOK_AHEAD = 64  /* characters behind the end of a text that is cut, in which a secret may go on */
};
/* Servers refuse a clock that differs by 15 minutes. */
static const double CLOCK_DIFFERS = 600;

/* Decode the character that a reference such as "&amp;" or "&#43;" stands for, if it is ASCII.
** Returns the length of the reference; 0: it is none. */
static size_t decode(const char *at, const char *end, char *to) {
  static const struct { const char *name; char c; } names[] = {
      {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
  const char *stop = memchr(at, ';', (size_t)(end - at < 9 ? end - at : 9));
  size_t i, len = stop != NULL ? (size_t)(stop + 1 - at) : 0;
  bool is_hex = len > 3 && (at[2] == 'x' || at[2] == 'X');
  long code = 0;
  for (i = 0; i < sizeof names / sizeof names[0]; i++)
    if (len == strlen(names[i].name) && memcmp(at, names[i].name, len) == 0) {
      *to = names[i].c;
      return len;
    }
  if (len > 3 && at[1] == '#')
    code = strtol(at + (is_hex ? 3 : 2), NULL, is_hex ? 16 : 10); /* ends at the ';' at the latest */
  if (code < 32 || code > 126)
    return 0;
  *to = (char)code;
  return len;
}

/* Copy the text of the first element with a name, cut to 'room'. A text that shows a secret of the
** request, which a server may repeat, is left out. */
static void copy_element(const tr_request *r, const char *text, size_t size, const char *start,
                         char *to, size_t room) {
  const char *at = memmem(text, size, start, strlen(start)), *end;
  char whole[sizeof r->why + LOOK_AHEAD];
  size_t len = 0, used;
  to[0] = '\0';
  if (at == NULL)
    return;
  at += strlen(start);
  end = memchr(at, '<', (size_t)(text + size - at));
  if (end == NULL)
    return;
  for (; at < end && len < sizeof whole; len++, at += used) {
    whole[len] = *at;
    used = *at == '&' ? decode(at, end, whole + len) : 1;
    used = used > 0 ? used : 1;
  }
  if (tr_shows_secret(whole, len, r->signer->secret_access_key) ||
      tr_shows_secret(whole, len, r->signer->session_token))
    return;
  len = len < room ? len : room - 1;
  memcpy(to, whole, len);
  to[len] = '\0';
}

/* True for a code such as "NoSuchKey". */
static bool is_code(const char *text) {
  return text[0] != '\0' &&
         text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.")] ==
             '\0';
}

void tr_resign_read(tr_request *r) {
  const tr_buffer *from = r->message != NULL ? &r->body : &r->refusal;
  size_t size = from->len < TR_REFUSAL_MAX ? from->len : TR_REFUSAL_MAX;
  r->code[0] = r->why[0] = r->told_region[0] = '\0';
  if (!r->response.complete_headers || r->response.status < 300)
    return;
  memcpy(r->told_region, r->response.bucket_region, sizeof r->told_region);
  if (size > 0 && memmem(from->data, size, "<Error", 6) != NULL) {
    copy_element(r, from->data, size, "<Code>", r->code, sizeof r->code);
    copy_element(r, from->data, size, "<Message>", r->why, sizeof r->why);
    if (r->told_region[0] == '\0')
      copy_element(r, from->data, size, "<Region>", r->told_region, sizeof r->told_region);
  }
  if (!is_code(r->code))
    r->code[0] = '\0';
  r->refusal.len = 0;
}

/* Direct the request to the same object in another region. False: there is no such host. */
static bool move(tr_request *r, tr_error *error) {
  char *moved = tr_signer_move(&r->url, r->region, r->told_region);
  const char *fault = NULL;
  tr_url url;
  memcpy(r->region, r->told_region, sizeof r->region);
  tr_place_set_region(r->signer->place, r->region);
  if (moved == NULL)
    return true; /* the endpoint answers for all regions */
  fault = tr_url_parse(&url, moved);
  free(moved);
  if (fault != NULL) {
    tr_error_nomem(error); /* the URL was valid before */
    return false;
  }
  if (tr_url_same_origin(&url, &r->url)) {
    tr_url_free(&r->url);
    r->url = url;
    return true;
  }
  tr_url_free(&r->url);
  r->url = url;
  r->moved = true;
  r->fresh_connection = false;
  return tr_request_route(r, error);
}

/* True if a request was refused because of its region, and the server named another. */
static bool is_elsewhere(const tr_request *r) {
  int status = r->response.status;
  return (status == 301 || status == 307 || status == 400) && r->region_moves < MAX_REGIONS &&
         tr_region_valid(r->told_region) && strcmp(r->told_region, r->region) != 0;
}

/* Find how many seconds the server's clock is ahead. False: the refusal has another reason. The
** answer to a HEAD has no code. */
static bool find_skew(const tr_request *r, double *ahead) {
  bool is_head = r->message != NULL && r->message->method == TR_HEAD;
  double date = r->response.status == 403 ? tr_date(r->response.date) : 0;
  if (date <= 0 || r->skew_tried || !tr_sign_is_due(r))
    return false;
  *ahead = date - (double)time(NULL);
  return strcmp(r->code, "RequestTimeTooSkewed") == 0 ||
         (is_head && fabs(*ahead - tr_place_skew(&r->url)) > CLOCK_DIFFERS);
}

bool tr_resign_answer(tr_request *r, tr_verdict *verdict, tr_error *error) {
  double skew;
  bool ok = true;
  if (!tr_signer_covers(r->signer, &r->url))
    return false;
  if (is_elsewhere(r)) {
    r->region_moves++;
    ok = move(r, error);
  } else if (find_skew(r, &skew)) {
    r->skew_tried = true;
    tr_place_set_skew(&r->url, skew);
  } else {
    return false;
  }
  r->resuming = false;
  r->not_before = 0;
  *verdict = ok ? TR_VERDICT_AGAIN : TR_VERDICT_DONE;
  return true;
}
