/* Signatures for object stores, in Lua. */
#include <mbedtls/base64.h>
#include <string.h>

#include "core/crypto.h"
#include "core/error.h"
#include "core/http.h"
#include "core/private_key.h"
#include "core/shared_text.h"
#include "core/sigv4.h"
#include "lutil.h"

/*
** signer{ endpoint =, region =, bucket =, access_key_id =, secret_access_key =, session_token =
** [, service =] } -> userdata for request_options | nil, error
** One principal at an endpoint such as "https://s3.example.org"; anonymous without keys.
*/
static int new_signer(lua_State *L) {
  tr_signer_options o = {0};
  tr_error error;
  lsigner *s;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  o.endpoint = tr_optstring(L, 1, "endpoint");
  o.region = tr_optstring(L, 1, "region");
  luaL_argcheck(L, o.endpoint != NULL && o.region != NULL, 1,
                "'endpoint' or 'region' is missing");
  o.service = tr_optstring(L, 1, "service");
  o.bucket = tr_optstring(L, 1, "bucket");
  o.access_key_id = tr_optstring(L, 1, "access_key_id");
  o.secret_access_key = tr_optstring(L, 1, "secret_access_key");
  o.session_token = tr_optstring(L, 1, "session_token");
  s = lua_newuserdatauv(L, sizeof *s, 0);
  s->signer = NULL;
  luaL_setmetatable(L, TR_SIGNER);
  s->signer = tr_signer_new(&o, &error);
  return s->signer != NULL ? 1 : tr_pusherror(L, &error);
}

static int signer_gc(lua_State *L) {
  lsigner *s = luaL_checkudata(L, 1, TR_SIGNER);
  tr_signer_release(s->signer);
  s->signer = NULL;
  return 0;
}

/* Move a buffer's bytes to a blob, which owns them while Lua may raise. */
static void fill_blob(lblob *b, bool ok, tr_buffer *buffer) {
  if (ok)
    b->blob = tr_buffer_to_blob(buffer);
  else
    tr_buffer_free(buffer);
}

/* random_hex(count) -> so many random bytes in hex, at most 32 */
static int random_hex(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  unsigned char raw[32];
  char hex[2 * sizeof raw + 1];
  luaL_argcheck(L, count >= 1 && count <= (lua_Integer)sizeof raw, 1, "not 1 to 32");
  if (tr_mbedtls_random(NULL, raw, (size_t)count) != 0)
    return luaL_error(L, "the system has no random bytes");
  tr_hex_encode(raw, (size_t)count, hex);
  lua_pushstring(L, hex);
  return 1;
}

/* Push a blob's bytes. */
static void push_bytes(lua_State *L, const lblob *b) {
  if (b->blob == NULL)
    luaL_error(L, "out of memory");
  lua_pushlstring(L, tr_blob_data(b->blob), tr_blob_size(b->blob));
}

/*
** sigv4(signer, { method =, url =, headers =, payload =, date = }) -> the value of Authorization,
** the canonical request
** 'payload' is a SHA-256 in hex, by default that of no bytes; 'date' has the form
** "20130524T000000Z"; all headers are signed.
*/
static int sigv4(lua_State *L) {
  static const char *const none[] = {NULL};
  lsigner *s = luaL_checkudata(L, 1, TR_SIGNER);
  tr_buffer authorization = {0}, canonical = {0};
  tr_signing what = {0};
  lblob *first, *second;
  bool ok;
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_argcheck(L, s->signer->access_key_id != NULL, 1, "the signer is anonymous");
  lua_settop(L, 2);
  lua_newtable(L);
  what.method = tr_optstring(L, 2, "method");
  what.url = tr_optstring(L, 2, "url");
  what.date = tr_optstring(L, 2, "date");
  what.payload = tr_optstring(L, 2, "payload");
  what.headers = tr_optheaders(L, 2, 3);
  what.region = s->signer->region;
  luaL_argcheck(L, what.method != NULL && what.url != NULL && what.date != NULL, 2,
                "'method', 'url' or 'date' is missing");
  if (what.payload == NULL)
    what.payload = TR_EMPTY_SHA256;
  if (what.headers == NULL)
    what.headers = none;
  first = tr_newblob(L);
  second = tr_newblob(L);
  ok = tr_sigv4_sign(s->signer, &what, &authorization, &canonical);
  fill_blob(first, ok, &authorization);
  fill_blob(second, ok, &canonical);
  push_bytes(L, first);
  push_bytes(L, second);
  return 2;
}

/* signer_covers(signer, url) -> boolean: whether its signatures may go there */
static int signer_covers(lua_State *L) {
  lsigner *s = luaL_checkudata(L, 1, TR_SIGNER);
  tr_url url;
  bool covers = tr_url_parse(&url, tr_checkcstring(L, 2)) == NULL;
  if (covers) {
    covers = tr_signer_covers(s->signer, &url);
    tr_url_free(&url);
  }
  lua_pushboolean(L, covers);
  return 1;
}

/* md5(bytes) -> the value of Content-MD5 */
static int md5(lua_State *L) {
  size_t len, written;
  const char *bytes = tr_checkbytes(L, 1, &len);
  unsigned char raw[16], text[32];
  if (!tr_md5(bytes, len, raw) ||
      mbedtls_base64_encode(text, sizeof text, &written, raw, sizeof raw) != 0)
    return luaL_error(L, "this mbedTLS has no MD5");
  lua_pushlstring(L, (const char *)text, written);
  return 1;
}

/* http_date(text) -> seconds since 1970 | nil: not an HTTP date */
static int http_date(lua_State *L) {
  const char *text = tr_checkcstring(L, 1);
  tr_error error;
  double seconds = tr_curl_open(&error) ? tr_date(text) : 0;
  if (seconds > 0)
    lua_pushinteger(L, (lua_Integer)seconds);
  else
    lua_pushnil(L);
  return 1;
}

/* shared(name) -> a text that this process keeps | nil */
static int shared(lua_State *L) {
  size_t len;
  const char *name = luaL_checklstring(L, 1, &len);
  lblob *b = tr_newblob(L);
  tr_buffer text = {0};
  if (tr_shared_get(name, len, &text))
    b->blob = tr_buffer_to_blob(&text);
  else
    tr_shared_free(&text);
  if (b->blob == NULL)
    lua_pushnil(L);
  else
    lua_pushlstring(L, tr_blob_data(b->blob), tr_blob_size(b->blob));
  return 1;
}

/* share(name, text, seconds): keep a text for all states of the process; nil: forget it */
static int share(lua_State *L) {
  size_t len, size = 0;
  const char *name = luaL_checklstring(L, 1, &len);
  const char *text = luaL_optlstring(L, 2, NULL, &size);
  tr_shared_set(name, len, text, size, luaL_optnumber(L, 3, 0));
  return 0;
}

void tr_open_signer(lua_State *L) {
  static const luaL_Reg methods[] = {{"__gc", signer_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"signer", new_signer},
                                       {"sigv4", sigv4},
                                       {"signer_covers", signer_covers},
                                       {"md5", md5},
                                       {"random_hex", random_hex},
                                       {"http_date", http_date},
                                       {"shared", shared},
                                       {"share", share},
                                       {NULL, NULL}};
  tr_newtype(L, TR_SIGNER, methods);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
