/*
** The grammar of challenges: schemes and their parameters are separated by the same commas,
** so a name with '=' behind it is a parameter, and any other name begins a challenge.
*/
#include "challenge.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

typedef struct reader {
  const char *at, *end;
  bool basic, bearer; /* the scheme of the challenge that is being read */
  bool broken;        /* that challenge does not count */
  tr_challenge now;   /* its parameters so far */
  unsigned seen;      /* a bit for each parameter */
} reader;

static bool is_token_char(char c) {
  return isalnum((unsigned char)c) ||
         (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static void skip(reader *r, const char *set) {
  while (r->at < r->end && *r->at != '\0' && strchr(set, *r->at) != NULL)
    r->at++;
}

/* Read a token; return its length, 0 for none. */
static size_t read_token(reader *r) {
  const char *start = r->at;
  while (r->at < r->end && is_token_char(*r->at))
    r->at++;
  return (size_t)(r->at - start);
}

static bool is_word(const char *text, size_t len, const char *word) {
  return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

/* Return the place for a parameter's value, with its room; NULL for those that mean nothing
** here. */
static char *place_of(reader *r, const char *name, size_t len, size_t *room,
                      unsigned *bit) {
  if (is_word(name, len, "realm")) {
    *room = sizeof r->now.realm;
    *bit = 1;
    return r->now.realm;
  }
  if (is_word(name, len, "service")) {
    *room = sizeof r->now.service;
    *bit = 2;
    return r->now.service;
  }
  if (is_word(name, len, "scope")) {
    *room = sizeof r->now.scope;
    *bit = 4;
    return r->now.scope;
  }
  return NULL;
}

/* Read a quoted string or a token into 'to', or past it. False: it is neither. */
static bool read_value(reader *r, char *to, size_t room) {
  size_t len = 0;
  bool quoted = r->at < r->end && *r->at == '"';
  const char *start = r->at;
  if (quoted)
    r->at++;
  while (r->at < r->end && (quoted ? *r->at != '"' : is_token_char(*r->at))) {
    char c = *r->at++;
    if (quoted && c == '\\') {
      if (r->at == r->end)
        return false;
      c = *r->at++;
    }
    if ((unsigned char)c < ' ' || (unsigned char)c >= 0x7F || len + 1 >= room)
      r->broken |= to != NULL;
    else if (to != NULL)
      to[len++] = c;
  }
  if (to != NULL)
    to[len] = '\0';
  if (!quoted)
    return r->at > start;
  if (r->at == r->end)
    return false; /* the quotes are not closed */
  r->at++;
  return true;
}

/* Read a parameter from behind its '=' on. */
static bool read_parameter(reader *r, const char *name, size_t len) {
  size_t room = 0;
  unsigned bit = 0;
  char *to = place_of(r, name, len, &room, &bit);
  r->broken |= (r->seen & bit) != 0;
  r->seen |= bit;
  return read_value(r, to, room);
}

/* The challenge has ended: keep it if it is the first of its kind. */
static void end_challenge(reader *r, tr_challenge *c) {
  if (r->broken)
    return;
  c->basic |= r->basic;
  if (!r->bearer || c->bearer || r->now.realm[0] == '\0')
    return;
  c->bearer = true;
  memcpy(c->realm, r->now.realm, sizeof c->realm);
  memcpy(c->service, r->now.service, sizeof c->service);
  memcpy(c->scope, r->now.scope, sizeof c->scope);
}

static void begin_challenge(reader *r, const char *scheme, size_t len) {
  r->basic = is_word(scheme, len, "Basic");
  r->bearer = is_word(scheme, len, "Bearer");
  r->broken = false;
  r->seen = 0;
  r->now.realm[0] = r->now.service[0] = r->now.scope[0] = '\0';
}

/* Pass over the credentials that may follow a scheme instead of parameters (token68). */
static void skip_token68(reader *r) {
  const char *start = r->at;
  while (r->at < r->end && (isalnum((unsigned char)*r->at) ||
                            (*r->at != '\0' && strchr("-._~+/", *r->at) != NULL)))
    r->at++;
  if (r->at > start)
    skip(r, "=");
  skip(r, " \t");
  if (r->at < r->end && *r->at != ',')
    r->at = start; /* it is a parameter, then */
}

static void read_line(const char *text, size_t len, tr_challenge *c) {
  reader r = {.at = text, .end = text + len, .broken = true};
  for (;;) {
    const char *name, *after;
    size_t name_len;
    skip(&r, " \t,");
    name = r.at;
    name_len = read_token(&r);
    after = r.at;
    if (name_len == 0)
      break;
    skip(&r, " \t");
    if (r.at < r.end && *r.at == '=') {
      r.at++;
      skip(&r, " \t");
      if (!read_parameter(&r, name, name_len)) {
        r.broken = true;
        break;
      }
      skip(&r, " \t");
      if (r.at < r.end && *r.at != ',') {
        r.broken = true;
        break;
      }
    } else {
      end_challenge(&r, c);
      begin_challenge(&r, name, name_len);
      if (r.at > after)
        skip_token68(&r);
    }
  }
  r.broken |= r.at < r.end;
  end_challenge(&r, c);
}

bool tr_challenge_parse(tr_challenge *c, const char *text, size_t len) {
  const char *end = text + len;
  c->basic = c->bearer = false;
  c->realm[0] = c->service[0] = c->scope[0] = '\0';
  while (text < end) {
    const char *stop = memchr(text, '\n', (size_t)(end - text));
    if (stop == NULL)
      stop = end;
    read_line(text, (size_t)(stop - text), c);
    text = stop < end ? stop + 1 : end;
  }
  return c->basic || c->bearer;
}
