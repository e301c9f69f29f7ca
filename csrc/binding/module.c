/* The module "theaterref.core": every type and function, in one table. */
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/blob.h"
#include "core/crypto.h"
#include "core/error.h"
#include "core/outage.h"
#include "core/redact.h"
#include "core/url.h"
#include "lutil.h"

/* now() -> seconds of a clock that only runs forward */
static int now(lua_State *L) {
  lua_pushnumber(L, tr_now());
  return 1;
}

/* time() -> seconds since 1970, with their fractions: machines and processes agree on it */
static int wall_time(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
  return 1;
}

/* working_folder() -> absolute path of the process's own */
static int working_folder(lua_State *L) {
  char path[4096];
  if (getcwd(path, sizeof path) == NULL) {
    lua_pushfstring(L, "no working folder: %s", strerror(errno));
    return lua_error(L);
  }
  lua_pushstring(L, path);
  return 1;
}

/* real_path(path) -> the same without links and '..' | nil, error */
static int real_path(lua_State *L) {
  const char *path = tr_checkcstring(L, 1);
  char resolved[PATH_MAX];
  tr_error error;
  /* The kernel opens no longer path, but realpath walks it part by part, without end. */
  if (strlen(path) >= PATH_MAX) {
    errno = ENAMETOOLONG;
  } else if (realpath(path, resolved) != NULL) {
    lua_pushstring(L, resolved);
    return 1;
  }
  tr_error_errno(&error, errno, "Failed to read", path);
  return tr_pusherror(L, &error);
}

/* file_stamp(path) -> what changes when the file does | nil, error; the error's kind is
** "not_found" where there is no file */
static int file_stamp(lua_State *L) {
  const char *path = tr_checkcstring(L, 1);
  struct stat st;
  if (stat(path, &st) != 0) {
    tr_error error;
    tr_error_errno(&error, errno, "Failed to read", path);
    if (errno == ENOENT && lstat(path, &st) == 0)
      error.kind = TR_IO; /* a symbolic link that leads nowhere */
    return tr_pusherror(L, &error);
  }
  lua_pushfstring(L, "%I:%I:%I:%I.%I", (lua_Integer)st.st_dev,
                  (lua_Integer)st.st_ino, (lua_Integer)st.st_size,
                  (lua_Integer)st.st_mtim.tv_sec,
                  (lua_Integer)st.st_mtim.tv_nsec);
  return 1;
}

/* digest_library() -> "mbedTLS" or "libcrypto" */
static int digest_library(lua_State *L) {
  lua_pushstring(L, tr_crypto_backend());
  return 1;
}

/* curl() -> the libcurl in use, and its file of authorities; nil, nil */
static int curl(lua_State *L) {
  lua_pushstring(L, tr_curl_version());
  lua_pushstring(L, tr_curl_ca_file());
  return 2;
}

/* Push a text that was redacted, and free it. 'keep' is the userdata on top of the stack,
** which owns the text while Lua may raise. */
static int push_redacted(lua_State *L, lblob *keep, bool ok, tr_buffer *out) {
  if (ok)
    keep->blob = tr_buffer_to_blob(out);
  else
    tr_buffer_free(out);
  if (keep->blob == NULL)
    return luaL_error(L, "out of memory");
  lua_pushlstring(L, tr_blob_data(keep->blob), tr_blob_size(keep->blob));
  return 1;
}

/*
** redact(text [, reference]) -> text: every URL in it without user, password and query,
** every data URL without its data; and 'reference', where it stands in it, displayed
*/
static int redact(lua_State *L) {
  size_t len, reference_len;
  const char *text = luaL_checklstring(L, 1, &len);
  const char *reference = luaL_optlstring(L, 2, NULL, &reference_len);
  tr_buffer out = {0};
  lblob *keep = tr_newblob(L);
  bool ok = reference != NULL
                ? tr_redact_about(text, len, reference, reference_len, &out)
                : tr_redact(text, len, &out);
  return push_redacted(L, keep, ok, &out);
}

/* redact_reference(reference) -> text: the same for a text that is one reference */
static int redact_reference(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  tr_buffer out = {0};
  lblob *keep = tr_newblob(L);
  return push_redacted(L, keep, tr_redact_reference(text, len, &out), &out);
}

/* shows_secret(text, secret) -> boolean: the text has a part of the secret in it */
static int shows_secret(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  lua_pushboolean(L, tr_shows_secret(text, len, luaL_checkstring(L, 2)));
  return 1;
}

/* display_reference(reference) -> text: the same for messages, not longer than a line */
static int display_reference(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 1, &len);
  tr_buffer out = {0};
  lblob *keep = tr_newblob(L);
  return push_redacted(L, keep, tr_display_reference(text, len, &out), &out);
}

/* parse_url(text) -> { url, host, port, userinfo, fragment } | nil, fault */
static int parse_url(lua_State *L) {
  const char *text = tr_checkcstring(L, 1);
  tr_url url;
  const char *fault = tr_url_parse(&url, text);
  if (fault != NULL) {
    lua_pushnil(L);
    lua_pushstring(L, fault);
    return 2;
  }
  /* No more than some kilobytes leak if memory runs out in here. */
  lua_createtable(L, 0, 5);
  lua_pushstring(L, url.text);
  lua_setfield(L, -2, "url");
  lua_pushstring(L, url.host);
  lua_setfield(L, -2, "host");
  lua_pushinteger(L, url.port);
  lua_setfield(L, -2, "port");
  lua_pushstring(L, url.userinfo);
  lua_setfield(L, -2, "userinfo");
  lua_pushstring(L, url.fragment);
  lua_setfield(L, -2, "fragment");
  tr_url_free(&url);
  return 1;
}

/* catches_sigint() -> whether a handler of somebody's waits for SIGINT */
static int catches_sigint(lua_State *L) {
  struct sigaction action;
  lua_pushboolean(L, sigaction(SIGINT, NULL, &action) == 0 &&
                         action.sa_handler != SIG_DFL &&
                         action.sa_handler != SIG_IGN);
  return 1;
}

/* is_terminal(descriptor) -> boolean */
static int is_terminal(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* origin_fails(url) -> boolean: its server failed within the last 30 s */
static int origin_fails(lua_State *L) {
  lua_pushboolean(L, tr_outage_is_on(tr_checkcstring(L, 1)));
  return 1;
}

/* is_outage(error) -> boolean: the network or a server failed, and that may pass */
static int is_outage(lua_State *L) {
  tr_error error;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_getfield(L, 1, "kind");
  lua_getfield(L, 1, "status");
  tr_error_set(&error, tr_error_kind_named(lua_tostring(L, -2)), "%s", "");
  error.status = (int)lua_tointeger(L, -1);
  lua_pushboolean(L, tr_is_outage(&error));
  return 1;
}

/* next_id() -> an integer that no other call in this process gets */
static int next_id(lua_State *L) {
  static atomic_llong last;
  lua_pushinteger(L, (lua_Integer)atomic_fetch_add(&last, 1) + 1);
  return 1;
}

/* process_number() -> the number of this process; a child of fork() has another */
static int process_number(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)getpid());
  return 1;
}

int luaopen_theaterref_core(lua_State *L) {
  static const luaL_Reg functions[] = {{"now", now},
                                       {"time", wall_time},
                                       {"working_folder", working_folder},
                                       {"real_path", real_path},
                                       {"is_terminal", is_terminal},
                                       {"catches_sigint", catches_sigint},
                                       {"file_stamp", file_stamp},
                                       {"curl", curl},
                                       {"redact", redact},
                                       {"redact_reference", redact_reference},
                                       {"shows_secret", shows_secret},
                                       {"display_reference", display_reference},
                                       {"origin_fails", origin_fails},
                                       {"is_outage", is_outage},
                                       {"next_id", next_id},
                                       {"process_number", process_number},
                                       {"parse_url", parse_url},
                                       {"digest_library", digest_library},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_pushliteral(L, TR_VERSION);
  lua_setfield(L, -2, "version");
  luaL_newmetatable(L, TR_ERROR);
  lua_setfield(L, -2, "error_metatable"); /* error.lua gives it methods */
  tr_open_blob(L);
  tr_open_future(L);
  tr_open_request(L);
  tr_open_auth(L);
  tr_open_signer(L);
  tr_open_send(L);
  tr_open_watch(L);
  tr_open_cache(L);
  tr_open_disk(L);
  tr_open_store(L);
  tr_open_input(L);
  tr_open_output(L);
  lua_getfield(L, -1, "store_methods");
  tr_open_labels(L);
  tr_open_batch(L);
  tr_open_lock(L);
  lua_pop(L, 1);
  tr_open_json(L);
  tr_open_oci(L);
  tr_open_sandbox(L);
  tr_open_signature(L);
  tr_open_metrics(L);
  tr_open_derive(L);
  return 1;
}
