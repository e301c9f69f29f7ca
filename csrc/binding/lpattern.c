/*
** Lua 5.4's patterns for scripts: find, match, gmatch and gsub. Lua's own would do,
** but for one thing: they cannot be stopped. Here each look at a byte or at a part of
** the pattern is charged to the script's budget.
*/
#include <ctype.h>
#include <string.h>

#include "lsandbox.h"

enum {
  MAX_CAPTURES = 32,
  MAX_DEPTH = 200,     /* of quantifiers and captures, one within the other */
  CHARGE_AT = 512,     /* looks at the text or the pattern */
  LOOKS_A_STEP = 8,    /* of the budget; they are faster than an instruction */
  BYTES_A_LOOK = 16,   /* where memchr or memcmp does the work */
  OPEN = -1,           /* the lengths of captures that have none */
  POSITION = -2
};

typedef struct capture {
  const char *start;
  ptrdiff_t len; /* or OPEN, or POSITION */
} capture;

typedef struct matcher {
  lua_State *S;
  const char *text, *text_end, *pattern_end;
  size_t looks; /* not charged yet */
  int depth, count;
  capture captures[MAX_CAPTURES];
} matcher;

static void charge(matcher *m) {
  size_t steps = (m->looks + LOOKS_A_STEP - 1) / LOOKS_A_STEP;
  m->looks = 0;
  tr_sandbox_charge(m->S, steps);
}

static inline void look(matcher *m, size_t count) {
  m->looks += count;
  if (m->looks >= CHARGE_AT)
    charge(m);
}

/* ------------------------------------------------------- single characters */

static bool in_class(unsigned char c, unsigned char letter) {
  int found;
  switch (tolower(letter)) {
  case 'a': found = isalpha(c); break;
  case 'c': found = iscntrl(c); break;
  case 'd': found = isdigit(c); break;
  case 'g': found = isgraph(c); break;
  case 'l': found = islower(c); break;
  case 'p': found = ispunct(c); break;
  case 's': found = isspace(c); break;
  case 'u': found = isupper(c); break;
  case 'w': found = isalnum(c); break;
  case 'x': found = isxdigit(c); break;
  case 'z': found = c == '\0'; break; /* of Lua 5.1, and still there */
  default: return letter == c;
  }
  return (found != 0) != (isupper(letter) != 0);
}

/* Check that 'c' is in the set whose '[' is at 'p' and whose ']' is at 'end'. */
static bool in_set(matcher *m, unsigned char c, const char *p, const char *end) {
  bool negated = p[1] == '^';
  const char *start = p;
  bool found = false;
  p += negated ? 2 : 1;
  while (p < end && !found) {
    if (*p == '%') {
      found = in_class(c, (unsigned char)p[1]);
      p += 2;
    } else if (p[1] == '-' && p + 2 < end) {
      found = (unsigned char)p[0] <= c && c <= (unsigned char)p[2];
      p += 3;
    } else {
      found = (unsigned char)*p++ == c;
    }
  }
  look(m, (size_t)(p - start));
  return found != negated;
}

/* Return the end of the single-character item at 'p', which is not the pattern's end. */
static const char *item_end(matcher *m, const char *p) {
  const char *start = p, *end = m->pattern_end;
  if (*p == '%') {
    if (p + 1 == end)
      luaL_error(m->S, "malformed pattern (ends with '%%')");
    return p + 2;
  }
  if (*p++ != '[')
    return p;
  if (p < end && *p == '^')
    p++;
  for (bool first = true; first || p >= end || *p != ']'; first = false) {
    if (p >= end) /* a ']' that comes first is one of the set */
      luaL_error(m->S, "malformed pattern (missing ']')");
    p += *p == '%' ? 2 : 1;
  }
  look(m, (size_t)(p - start));
  return p + 1;
}

/* Check that the byte at 's' fits the item from 'p' to 'end'. */
static bool fits(matcher *m, const char *s, const char *p, const char *end) {
  unsigned char c;
  look(m, 1);
  if (s >= m->text_end)
    return false;
  c = (unsigned char)*s;
  switch (*p) {
  case '.': return true;
  case '%': return in_class(c, (unsigned char)p[1]);
  case '[': return in_set(m, c, p, end - 1);
  default: return (unsigned char)*p == c;
  }
}

/* ---------------------------------------------------------- compound items */

static const char *match_here(matcher *m, const char *s, const char *p);

/* As many as there are, then fewer. */
static const char *match_longest(matcher *m, const char *s, const char *item,
                                 const char *end) {
  const char *last = s;
  while (fits(m, last, item, end))
    last++;
  for (;; last--) {
    const char *found = match_here(m, last, end + 1);
    if (found != NULL || last == s)
      return found;
  }
}

/* None, then more. */
static const char *match_shortest(matcher *m, const char *s, const char *item,
                                  const char *end) {
  for (;; s++) {
    const char *found = match_here(m, s, end + 1);
    if (found != NULL || !fits(m, s, item, end))
      return found;
  }
}

static const char *open_capture(matcher *m, const char *s, const char *p) {
  bool position = p[1] == ')';
  const char *found;
  if (m->count == MAX_CAPTURES)
    luaL_error(m->S, "too many captures");
  m->captures[m->count++] = (capture){s, position ? POSITION : OPEN};
  found = match_here(m, s, p + (position ? 2 : 1));
  if (found == NULL)
    m->count--;
  return found;
}

static const char *close_capture(matcher *m, const char *s, const char *p) {
  int i = m->count - 1;
  const char *found;
  while (i >= 0 && m->captures[i].len != OPEN)
    i--;
  if (i < 0)
    luaL_error(m->S, "invalid pattern capture");
  m->captures[i].len = s - m->captures[i].start;
  found = match_here(m, s, p + 1);
  if (found == NULL)
    m->captures[i].len = OPEN;
  return found;
}

/* "%1": the text of a capture again. Return its end, or NULL. */
static const char *match_again(matcher *m, const char *s, char digit) {
  int i = digit - '1';
  const capture *c = &m->captures[i < 0 ? 0 : i];
  if (i < 0 || i >= m->count || c->len == OPEN)
    luaL_error(m->S, "invalid capture index %%%d", i + 1);
  if (c->len == POSITION || c->len > m->text_end - s)
    return NULL;
  look(m, (size_t)c->len / BYTES_A_LOOK + 1);
  return memcmp(c->start, s, (size_t)c->len) == 0 ? s + c->len : NULL;
}

/* "%bxy", 'p' at its x: a balanced text. Return its end, or NULL. */
static const char *match_balanced(matcher *m, const char *s, const char *p) {
  size_t level = 0;
  if (m->pattern_end - p < 2)
    luaL_error(m->S, "malformed pattern (missing arguments to '%%b')");
  if (s >= m->text_end || *s != p[0])
    return NULL;
  for (level = 1, s++; s < m->text_end; s++) {
    look(m, 1);
    if (*s == p[1]) {
      if (--level == 0)
        return s + 1;
    } else if (*s == p[0]) {
      level++;
    }
  }
  return NULL;
}

/* "%f[set]", 'set' at its '[': check that a text that fits begins at 's'. Both ends of
** the text count as a zero byte. */
static bool at_frontier(matcher *m, const char *s, const char *set, const char *end) {
  unsigned char before = s == m->text ? 0 : (unsigned char)s[-1];
  unsigned char here = s == m->text_end ? 0 : (unsigned char)*s;
  return !in_set(m, before, set, end - 1) && in_set(m, here, set, end - 1);
}

/* "%b", "%f" or "%1" at 'p', if it is one of them: moves *s (NULL: no match) and
** *p past it. */
static bool match_special(matcher *m, const char **s, const char **p) {
  const char *item = *p;
  char kind = item + 1 < m->pattern_end ? item[1] : '\0';
  if (kind == 'b') {
    *s = match_balanced(m, *s, item + 2);
    *p = item + 4;
  } else if (kind == 'f') {
    const char *end;
    if (item + 2 == m->pattern_end || item[2] != '[')
      luaL_error(m->S, "missing '[' after '%%f' in pattern");
    end = item_end(m, item + 2);
    if (!at_frontier(m, *s, item + 2, end))
      *s = NULL;
    *p = end;
  } else if (isdigit((unsigned char)kind)) {
    *s = match_again(m, *s, kind);
    *p = item + 2;
  } else {
    return false;
  }
  return true;
}

/* Match the rest of the pattern, from 'p', at 's'. Return the end of the match. */
static const char *match_rest(matcher *m, const char *s, const char *p) {
  while (s != NULL && p < m->pattern_end) {
    const char *end;
    char quantifier;
    look(m, 1);
    if (*p == '(')
      return open_capture(m, s, p);
    if (*p == ')')
      return close_capture(m, s, p);
    if (*p == '$' && p + 1 == m->pattern_end)
      return s == m->text_end ? s : NULL;
    if (*p == '%' && match_special(m, &s, &p))
      continue;
    end = item_end(m, p);
    quantifier = end < m->pattern_end ? *end : '\0';
    if (quantifier == '-' || quantifier == '*' || quantifier == '?') {
      if (fits(m, s, p, end)) { /* only then is there a choice, which takes depth */
        const char *found;
        if (quantifier == '-')
          return match_shortest(m, s, p, end);
        if (quantifier == '*')
          return match_longest(m, s, p, end);
        found = match_here(m, s + 1, end + 1);
        if (found != NULL)
          return found;
      }
      p = end + 1;
    } else if (!fits(m, s, p, end)) {
      return NULL;
    } else if (quantifier == '+') {
      return match_longest(m, s + 1, p, end);
    } else {
      s++;
      p = end;
    }
  }
  return s;
}

static const char *match_here(matcher *m, const char *s, const char *p) {
  const char *end;
  if (m->depth == MAX_DEPTH)
    luaL_error(m->S, "pattern too complex");
  m->depth++;
  end = match_rest(m, s, p);
  m->depth--;
  return end;
}

/* Match the whole pattern, from 'p', at 's'. */
static const char *match_at(matcher *m, const char *s, const char *p) {
  m->depth = m->count = 0;
  return match_here(m, s, p);
}

/* ----------------------------------------------------------------- captures */

/* Push capture 'i' of the match from 's' to 'end'; without captures, 0 is the match. */
static void push_capture(matcher *m, int i, const char *s, const char *end) {
  capture c = {s, end - s};
  if (i < m->count)
    c = m->captures[i];
  else if (i != 0)
    luaL_error(m->S, "invalid capture index %%%d", i + 1);
  if (c.len == OPEN)
    luaL_error(m->S, "unfinished capture");
  if (c.len == POSITION)
    lua_pushinteger(m->S, c.start - m->text + 1);
  else
    lua_pushlstring(m->S, c.start, (size_t)c.len);
}

/* Push all captures, or the match when there are none. Return how many. */
static int push_captures(matcher *m, const char *s, const char *end) {
  int i, count = m->count == 0 && s != NULL ? 1 : m->count;
  luaL_checkstack(m->S, count, "too many captures");
  for (i = 0; i < count; i++)
    push_capture(m, i, s, end);
  return count;
}

/* ---------------------------------------------------------------- functions */

/* Read the text and the pattern, arguments 1 and 2. Return the pattern. */
static const char *start(lua_State *S, matcher *m) {
  size_t len;
  const char *pattern;
  memset(m, 0, offsetof(matcher, captures));
  m->S = S;
  m->text = luaL_checklstring(S, 1, &len);
  m->text_end = m->text + len;
  pattern = luaL_checklstring(S, 2, &len);
  m->pattern_end = pattern + len;
  return pattern;
}

/* Return where argument 3 says to begin; NULL: past the end of the text. */
static const char *start_position(lua_State *S, const matcher *m) {
  lua_Integer at = luaL_optinteger(S, 3, 1), len = m->text_end - m->text;
  if (at < 0)
    at = at < -len ? 1 : len + at + 1;
  else if (at == 0)
    at = 1;
  return at > len + 1 ? NULL : m->text + (at - 1);
}

/* Return where 'len' bytes of 'what' are in the text, from 's' on, or NULL. */
static const char *find_plain(matcher *m, const char *s, const char *what, size_t len) {
  if (len == 0)
    return s;
  while ((size_t)(m->text_end - s) >= len) {
    size_t left = (size_t)(m->text_end - s) - len + 1;
    const char *at = memchr(s, *what, left);
    look(m, (at == NULL ? left : (size_t)(at - s)) / BYTES_A_LOOK + 1);
    if (at == NULL)
      return NULL;
    look(m, len / BYTES_A_LOOK);
    if (memcmp(at, what, len) == 0)
      return at;
    s = at + 1;
  }
  return NULL;
}

static bool is_plain(const char *pattern, const char *end) {
  for (; pattern < end; pattern++) {
    if (*pattern != '\0' && strchr("^$*+?.([%-", *pattern) != NULL)
      return false;
  }
  return true;
}

/* Push the bounds of what was found, as 'find' answers them. */
static int push_bounds(matcher *m, const char *from, const char *to) {
  lua_pushinteger(m->S, from - m->text + 1);
  lua_pushinteger(m->S, to - m->text);
  return 2;
}

static int find_or_match(lua_State *S, bool find) {
  matcher m;
  const char *pattern = start(S, &m), *s = start_position(S, &m), *end = NULL;
  bool anchored = *pattern == '^' && pattern < m.pattern_end;
  if (s == NULL) {
    lua_pushnil(S);
    return 1;
  }
  look(&m, (size_t)(m.pattern_end - pattern) / BYTES_A_LOOK);
  if (find && (lua_toboolean(S, 4) || is_plain(pattern, m.pattern_end))) {
    size_t len = (size_t)(m.pattern_end - pattern);
    s = find_plain(&m, s, pattern, len);
    charge(&m);
    if (s != NULL)
      return push_bounds(&m, s, s + len);
    lua_pushnil(S);
    return 1;
  }
  for (; s <= m.text_end; s++) {
    end = match_at(&m, s, pattern + anchored);
    if (end != NULL || anchored)
      break;
  }
  charge(&m);
  if (end == NULL) {
    lua_pushnil(S);
    return 1;
  }
  if (!find)
    return push_captures(&m, s, end);
  push_bounds(&m, s, end);
  return 2 + push_captures(&m, NULL, NULL);
}

static int find(lua_State *S) { return find_or_match(S, true); }

static int match(lua_State *S) { return find_or_match(S, false); }

/* The iterator of 'gmatch'. Its upvalues: text, pattern, where to go on, and where the
** last match ended (or -1), since no empty match may follow a match there. */
static int gmatch_next(lua_State *S) {
  matcher m;
  const char *pattern, *s;
  lua_Integer last = lua_tointeger(S, lua_upvalueindex(4));
  lua_settop(S, 0);
  lua_pushvalue(S, lua_upvalueindex(1));
  lua_pushvalue(S, lua_upvalueindex(2));
  pattern = start(S, &m);
  for (s = m.text + lua_tointeger(S, lua_upvalueindex(3)); s <= m.text_end; s++) {
    const char *end = match_at(&m, s, pattern);
    if (end != NULL && end - m.text != last) {
      lua_pushinteger(S, end - m.text);
      lua_copy(S, -1, lua_upvalueindex(3));
      lua_replace(S, lua_upvalueindex(4));
      charge(&m);
      return push_captures(&m, s, end);
    }
  }
  charge(&m);
  return 0;
}

static int gmatch(lua_State *S) {
  matcher m;
  const char *s;
  start(S, &m);
  s = start_position(S, &m);
  lua_settop(S, 2);
  lua_pushinteger(S, s == NULL ? m.text_end - m.text + 1 : s - m.text);
  lua_pushinteger(S, -1);
  lua_pushcclosure(S, gmatch_next, 4);
  return 1;
}

/* Add the replacement text, argument 3, with its "%1". */
static void add_text(matcher *m, luaL_Buffer *out, const char *s, const char *end) {
  size_t len;
  const char *text = lua_tolstring(m->S, 3, &len), *stop = text + len, *mark;
  look(m, len / BYTES_A_LOOK + 1);
  for (; (mark = memchr(text, '%', (size_t)(stop - text))) != NULL; text = mark + 2) {
    luaL_addlstring(out, text, (size_t)(mark - text));
    if (mark[1] == '%' && mark + 1 < stop) {
      luaL_addchar(out, '%');
    } else if (mark[1] == '0') {
      look(m, (size_t)(end - s) / BYTES_A_LOOK + 1);
      luaL_addlstring(out, s, (size_t)(end - s));
    } else if (isdigit((unsigned char)mark[1])) {
      push_capture(m, mark[1] - '1', s, end);
      luaL_addvalue(out);
      look(m, 1);
    } else {
      luaL_error(m->S, "invalid use of '%c' in replacement string", '%');
    }
  }
  luaL_addlstring(out, text, (size_t)(stop - text));
}

/* Add what argument 3, a function or table, has for the match. False, and nothing
** added, if the match stays. */
static bool add_answer(matcher *m, luaL_Buffer *out, const char *s, const char *end) {
  lua_State *S = m->S;
  charge(m);
  if (lua_type(S, 3) == LUA_TFUNCTION) {
    lua_pushvalue(S, 3);
    lua_call(S, push_captures(m, s, end), 1);
  } else {
    push_capture(m, 0, s, end);
    lua_gettable(S, 3);
  }
  if (!lua_toboolean(S, -1)) {
    lua_pop(S, 1);
    return false;
  }
  if (!lua_isstring(S, -1))
    luaL_error(S, "invalid replacement value (a %s)", luaL_typename(S, -1));
  luaL_addvalue(out);
  return true;
}

static int gsub(lua_State *S) {
  matcher m;
  const char *pattern = start(S, &m), *s = m.text, *last = NULL;
  const char *kept = m.text; /* 'out' has all up to here */
  int type = lua_type(S, 3);
  bool by_text = type == LUA_TSTRING || type == LUA_TNUMBER;
  lua_Integer most = luaL_optinteger(S, 4, m.text_end - m.text + 1), count = 0;
  bool anchored = *pattern == '^' && pattern < m.pattern_end, changed = false;
  luaL_Buffer out;
  luaL_argexpected(S, by_text || type == LUA_TFUNCTION || type == LUA_TTABLE, 3,
                   "string/function/table");
  luaL_buffinit(S, &out);
  while (count < most) {
    const char *end = match_at(&m, s, pattern + anchored);
    if (end != NULL && end != last) {
      count++;
      luaL_addlstring(&out, kept, (size_t)(s - kept));
      kept = s;
      if (by_text)
        add_text(&m, &out, s, end);
      if (by_text || add_answer(&m, &out, s, end)) {
        kept = end;
        changed = true;
      }
      s = last = end;
    } else if (s < m.text_end) {
      s++;
    } else {
      break;
    }
    if (anchored)
      break;
  }
  charge(&m);
  if (changed) {
    luaL_addlstring(&out, kept, (size_t)(m.text_end - kept));
    luaL_pushresult(&out);
  } else {
    lua_pushvalue(S, 1);
  }
  lua_pushinteger(S, count);
  return 2;
}

void tr_sandbox_open_patterns(lua_State *S) {
  static const luaL_Reg functions[] = {{"find", find},
                                       {"match", match},
                                       {"gmatch", gmatch},
                                       {"gsub", gsub},
                                       {NULL, NULL}};
  luaL_setfuncs(S, functions, 0);
}
