/*
** Signatures for Lua: keys, requirements, checks, the memory of good checks, and signing;
** also what a package's bytes are. Lists of signers in Lua hold places in the list of keys
** that the requirement was made of.
*/
#include <errno.h>
#include <fcntl.h>
#include <mbedtls/platform_util.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/blob.h"
#include "core/crypto.h"
#include "core/error.h"
#include "core/image_signature.h"
#include "core/oci_reference.h"
#include "core/password.h"
#include "core/signature.h"
#include "core/signing.h"
#include "core/verdicts.h"
#include "core/wasm.h"
#include "lutil.h"

#define TR_PUBLIC_KEY "theaterref.public_key"
#define TR_REQUIREMENT "theaterref.requirement"

static tr_blob *check_blob(lua_State *L, int index) {
  tr_blob *blob = tr_toblob(L, index);
  if (blob == NULL)
    luaL_typeerror(L, index, "blob");
  return blob;
}

/* --------------------------------------------------------------- public keys */

static tr_public_key *check_key(lua_State *L, int index) {
  tr_public_key **key = luaL_checkudata(L, index, TR_PUBLIC_KEY);
  luaL_argcheck(L, *key != NULL, index, "the key was collected");
  return *key;
}

/* public_key(text) -> key | nil, error of kind "syntax" */
static int public_key(lua_State *L) {
  size_t size;
  const char *text = tr_checkbytes(L, 1, &size);
  tr_error error;
  tr_public_key **key = lua_newuserdatauv(L, sizeof *key, 0);
  *key = NULL;
  luaL_setmetatable(L, TR_PUBLIC_KEY);
  *key = tr_public_key_read(text, size, &error);
  return *key != NULL ? 1 : tr_pusherror(L, &error);
}

static int key_gc(lua_State *L) {
  tr_public_key **key = luaL_checkudata(L, 1, TR_PUBLIC_KEY);
  tr_public_key_release(*key);
  *key = NULL;
  return 0;
}

/* key:fingerprint() -> SHA-256 in hex, the same for all encodings of the key */
static int key_fingerprint(lua_State *L) {
  lua_pushstring(L, tr_public_key_fingerprint(check_key(L, 1)));
  return 1;
}

/* key:type() -> "ecdsa-p256", "rsa" or "minisign" */
static int key_type(lua_State *L) {
  lua_pushstring(L, tr_public_key_type_name(check_key(L, 1)));
  return 1;
}

/* -------------------------------------------------------------- requirements */

static tr_requirement *check_requirement(lua_State *L, int index) {
  return luaL_checkudata(L, index, TR_REQUIREMENT);
}

/* requirement(keys, threshold) -> requirement | nil, error of kind "policy" */
static int requirement(lua_State *L) {
  tr_public_key *keys[TR_MAX_KEYS + 1]; /* one more, for the error */
  lua_Integer threshold = luaL_checkinteger(L, 2);
  tr_requirement *made;
  tr_error error;
  size_t count, i;
  luaL_checktype(L, 1, LUA_TTABLE);
  count = lua_rawlen(L, 1);
  for (i = 0; i < count && i <= TR_MAX_KEYS; i++) {
    tr_public_key **key;
    lua_rawgeti(L, 1, (lua_Integer)i + 1);
    key = luaL_testudata(L, -1, TR_PUBLIC_KEY);
    luaL_argcheck(L, key != NULL && *key != NULL, 1, "a list of public keys expected");
    keys[i] = *key;
    lua_pop(L, 1); /* the list has it */
  }
  made = lua_newuserdatauv(L, sizeof *made, 0);
  memset(made, 0, sizeof *made);
  luaL_setmetatable(L, TR_REQUIREMENT);
  return tr_requirement_init(made, keys, count, threshold, &error)
             ? 1
             : tr_pusherror(L, &error);
}

static int requirement_gc(lua_State *L) {
  tr_requirement_free(check_requirement(L, 1));
  return 0;
}

/* requirement:id() -> hex; equal for equal keys and thresholds */
static int requirement_id(lua_State *L) {
  lua_pushstring(L, check_requirement(L, 1)->id);
  return 1;
}

/* requirement:threshold() -> integer */
static int requirement_threshold(lua_State *L) {
  lua_pushinteger(L, check_requirement(L, 1)->threshold);
  return 1;
}

/* Push the places of keys in the list that the requirement was made of, in order. */
static int push_signers(lua_State *L, const tr_requirement *r, tr_key_set signers) {
  lua_Integer count = 0;
  int place, i;
  lua_createtable(L, r->count, 0);
  for (place = 0; place < TR_MAX_KEYS; place++)
    for (i = 0; i < r->count; i++)
      if (r->given[i] == place && (signers & (tr_key_set)1 << i) != 0) {
        lua_pushinteger(L, place + 1);
        lua_rawseti(L, -2, ++count);
      }
  return 1;
}

/* Read such a list. */
static tr_key_set check_signers(lua_State *L, int index, const tr_requirement *r) {
  tr_key_set signers = 0;
  lua_Integer n, count;
  luaL_checktype(L, index, LUA_TTABLE);
  count = (lua_Integer)lua_rawlen(L, index);
  for (n = 1; n <= count; n++) {
    lua_Integer place;
    int i = 0;
    lua_rawgeti(L, index, n);
    place = lua_tointeger(L, -1);
    lua_pop(L, 1);
    while (i < r->count && r->given[i] + 1 != place)
      i++;
    luaL_argcheck(L, i < r->count, index, "it names no key of the requirement");
    signers |= (tr_key_set)1 << i;
  }
  luaL_argcheck(L, signers != 0, index, "it names no signer");
  return signers;
}

/* ------------------------------------------------------------------ checking */

/* check_signature(requirement, blob, document) -> signers | nil, error: of kind
** "untrusted", with the reason as its message, or "io" if it could not be checked */
static int check_signature(lua_State *L) {
  tr_requirement *r = check_requirement(L, 1);
  tr_blob *blob = check_blob(L, 2);
  size_t size;
  const char *document = tr_checkbytes(L, 3, &size);
  tr_key_set signers;
  tr_error error;
  if (!tr_signature_check(r, blob, document, size, &signers, &error))
    return tr_pusherror(L, &error);
  return push_signers(L, r, signers);
}

/* check_image_signature(requirement, payload, signature in base64) -> signers, digest of the
** manifest that it is about | nil, error: as check_signature */
static int check_image_signature(lua_State *L) {
  tr_requirement *r = check_requirement(L, 1);
  size_t size, signature_size;
  const char *payload = tr_checkbytes(L, 2, &size);
  const char *signature = tr_checkbytes(L, 3, &signature_size);
  char manifest[TR_HEX_MAX];
  tr_key_set signers;
  tr_error error;
  if (!tr_image_signature_check(r, payload, size, signature, signature_size, manifest,
                                &signers, &error))
    return tr_pusherror(L, &error);
  push_signers(L, r, signers);
  lua_pushstring(L, manifest);
  return 2;
}

/* check_image_bundle(requirement, manifest in hex, bundle) -> signers | nil, error: as
** check_signature */
static int check_image_bundle(lua_State *L) {
  tr_requirement *r = check_requirement(L, 1);
  size_t len, size;
  const char *manifest = luaL_checklstring(L, 2, &len);
  const char *bundle = tr_checkbytes(L, 3, &size);
  tr_key_set signers;
  tr_error error;
  luaL_argcheck(L, len == TR_OCI_DIGEST_HEX && strspn(manifest, "0123456789abcdef") == len,
                2, "64 digits of hex expected");
  if (!tr_image_bundle_check(r, manifest, bundle, size, &signers, &error))
    return tr_pusherror(L, &error);
  return push_signers(L, r, signers);
}

/* verdict(requirement, blob, by) -> signers, if they are remembered | nil */
static int verdict(lua_State *L) {
  tr_requirement *r = check_requirement(L, 1);
  tr_blob *blob = check_blob(L, 2);
  size_t len;
  const char *by = luaL_checklstring(L, 3, &len);
  char sha256[TR_HEX_MAX];
  tr_key_set signers;
  tr_blob_sha256(blob, sha256);
  if (tr_verdict_find(sha256, r->id, by, len, &signers))
    return push_signers(L, r, signers);
  lua_pushnil(L);
  return 1;
}

/* remember_verdict(requirement, blob, by, signers): the caller found that they are enough */
static int remember_verdict(lua_State *L) {
  tr_requirement *r = check_requirement(L, 1);
  tr_blob *blob = check_blob(L, 2);
  tr_key_set signers = check_signers(L, 4, r);
  size_t len;
  const char *by = luaL_checklstring(L, 3, &len);
  char sha256[TR_HEX_MAX];
  tr_blob_sha256(blob, sha256);
  tr_verdict_remember(sha256, r->id, by, len, signers);
  return 0;
}

/* forget_verdicts() */
static int forget_verdicts(lua_State *L) {
  (void)L;
  tr_verdicts_forget();
  return 0;
}

/* noted(blob, what [, note]) -> whether this text about these bytes was noted before */
static int noted(lua_State *L) {
  tr_blob *blob = check_blob(L, 1);
  const char *what = tr_checkcstring(L, 2);
  char sha256[TR_HEX_MAX];
  tr_blob_sha256(blob, sha256);
  lua_pushboolean(L, tr_verdicts_noted(sha256, what, lua_toboolean(L, 3)));
  return 1;
}

/* ------------------------------------------------------------------- signing */

/* sign(blob, pem [, password]) -> base64 and a line end | nil, error: of kind "denied",
** with its field 'password' "needed" or "wrong", or "syntax" for another fault of the key */
static int sign(lua_State *L) {
  tr_blob *blob = check_blob(L, 1);
  size_t size, password_len = 0;
  const char *pem = tr_checkbytes(L, 2, &size);
  const char *password = luaL_optlstring(L, 3, NULL, &password_len);
  char text[TR_SIGNATURE_TEXT];
  tr_password_fault fault;
  tr_error error;
  if (tr_sign(blob, pem, size, password, password_len, text, &fault, &error)) {
    lua_pushstring(L, text);
    return 1;
  }
  tr_pusherror(L, &error);
  tr_set_text(L, "password", fault == TR_PASSWORD_NEEDED  ? "needed"
                             : fault == TR_PASSWORD_WRONG ? "wrong"
                                                          : NULL);
  return 2;
}

enum { KEY_FILE_MAX = 64 * 1024 };

/* Read a key file, of less than KEY_FILE_MAX bytes. Returns its size; -1 with the error. */
static ssize_t read_key(const char *path, char *pem, tr_error *error) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t size = 0, n;
  do {
    n = fd >= 0 ? read(fd, pem + size, (size_t)(KEY_FILE_MAX - size)) : -1;
    size += n > 0 ? n : 0;
  } while (n > 0 || (n < 0 && errno == EINTR));
  if (n < 0)
    tr_error_errno(error, errno, "Failed to read", path);
  else if (size == KEY_FILE_MAX)
    tr_error_path(error, TR_TOO_LARGE, "Failed to read", path,
                  "it is too large for a key");
  if (fd >= 0)
    close(fd);
  return n == 0 && size < KEY_FILE_MAX ? size : -1;
}

/* Sign with the key in a file, and ask for its password with a prompt. */
static bool sign_with_key(tr_blob *blob, const char *path, const char *prompt,
                          char *pem, char *password, char *text, tr_error *error) {
  ssize_t size = read_key(path, pem, error);
  size_t len = 0;
  tr_password_fault fault;
  if (size < 0)
    return false;
  if (tr_sign(blob, pem, (size_t)size, NULL, 0, text, &fault, error))
    return true;
  return fault == TR_PASSWORD_NEEDED && tr_password_read(prompt, password, &len, error) &&
         tr_sign(blob, pem, (size_t)size, password, len, text, &fault, error);
}

/*
** sign_with_file(blob, path, prompt) -> base64 and a line end | nil, error
** Neither the key nor its password, which is asked for on the terminal, is ever in Lua's
** memory.
*/
static int sign_with_file(lua_State *L) {
  tr_blob *blob = check_blob(L, 1);
  const char *path = tr_checkcstring(L, 2), *prompt = luaL_checkstring(L, 3);
  char text[TR_SIGNATURE_TEXT], password[TR_PASSWORD_MAX], *pem = malloc(KEY_FILE_MAX);
  tr_error error;
  bool done;
  if (pem == NULL)
    return luaL_error(L, "out of memory");
  tr_begin_wait(L);
  done = sign_with_key(blob, path, prompt, pem, password, text, &error);
  tr_end_wait();
  mbedtls_platform_zeroize(password, sizeof password);
  mbedtls_platform_zeroize(pem, KEY_FILE_MAX);
  free(pem);
  if (!done)
    return tr_pusherror(L, &error);
  lua_pushstring(L, text);
  return 1;
}

/* ------------------------------------------------------------------ packages */

/* package_type(bytes) -> "wasm module", "wasm component" or "unknown" */
static int package_type(lua_State *L) {
  static const char *const names[] = {"unknown", "wasm module", "wasm component"};
  size_t size;
  const char *bytes = tr_checkbytes(L, 1, &size);
  lua_pushstring(L, names[tr_wasm_get_type(bytes, size)]);
  return 1;
}

void tr_open_signature(lua_State *L) {
  static const luaL_Reg key_methods[] = {{"fingerprint", key_fingerprint},
                                         {"type", key_type},
                                         {"__gc", key_gc},
                                         {NULL, NULL}};
  static const luaL_Reg requirement_methods[] = {{"id", requirement_id},
                                                 {"threshold", requirement_threshold},
                                                 {"__gc", requirement_gc},
                                                 {NULL, NULL}};
  static const luaL_Reg functions[] = {{"public_key", public_key},
                                       {"requirement", requirement},
                                       {"check_signature", check_signature},
                                       {"check_image_signature", check_image_signature},
                                       {"check_image_bundle", check_image_bundle},
                                       {"verdict", verdict},
                                       {"remember_verdict", remember_verdict},
                                       {"forget_verdicts", forget_verdicts},
                                       {"noted", noted},
                                       {"sign", sign},
                                       {"sign_with_file", sign_with_file},
                                       {"package_type", package_type},
                                       {NULL, NULL}};
  tr_newtype(L, TR_PUBLIC_KEY, key_methods);
  tr_newtype(L, TR_REQUIREMENT, requirement_methods);
  lua_pop(L, 2);
  luaL_setfuncs(L, functions, 0);
}
