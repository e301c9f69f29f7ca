/*
** Records in Lua are tables: { age, etag, last_modified, url, unsigned_url, hosts,
** private, no_store, open_ended, unsettled, content, extra }, each as in tr_record.
*/
#include <string.h>

#include "lutil.h"

/* A text of the record at 'index', unless it would end a header line, or is longer
** than a server's can be. */
static const char *record_text(lua_State *L, int index, const char *name) {
  const char *value = tr_optstring(L, index, name);
  return value != NULL && strlen(value) < TR_VALIDATOR_MAX &&
                 value[strcspn(value, "\r\n")] == '\0'
             ? value
             : "";
}

const char *tr_checkcontent(lua_State *L, size_t *len) {
  const char *content = NULL;
  *len = 0;
  if (lua_isnil(L, -1))
    return NULL;
  if (lua_type(L, -1) == LUA_TSTRING)
    content = lua_tolstring(L, -1, len);
  if (content == NULL || *len == 0 || *len > TR_CONTENT_MAX)
    luaL_error(L, "'content' must be a key of 1 to %d bytes", TR_CONTENT_MAX);
  return content;
}

/* Read the field 'hosts' of the record at 'index', a list, into a buffer. */
static tr_bytes record_hosts(lua_State *L, int index, char *hosts) {
  tr_bytes bytes = {hosts, 0};
  int top = lua_gettop(L);
  lua_Integer i;
  if (lua_getfield(L, index, "hosts") == LUA_TTABLE)
    for (i = 1; lua_rawgeti(L, top + 1, i) == LUA_TSTRING; i++) {
      tr_hosts_add(hosts, &bytes.len, lua_tostring(L, -1));
      lua_pop(L, 1);
    }
  lua_settop(L, top);
  return bytes;
}

/* Read the field 'extra' of the record at 'index', strings by name, into a buffer. */
static tr_bytes record_extra(lua_State *L, int index, char *extra) {
  tr_bytes bytes = {extra, 0};
  int top = lua_gettop(L);
  if (lua_getfield(L, index, "extra") == LUA_TTABLE)
    for (lua_pushnil(L); lua_next(L, top + 1) != 0; lua_pop(L, 1)) {
      size_t name, value;
      if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "'extra' must hold strings by name");
      name = strlen(lua_tostring(L, -2)) + 1;
      value = strlen(lua_tostring(L, -1)) + 1;
      if (name > TR_EXTRA_MAX || value > TR_EXTRA_MAX ||
          bytes.len + name + value > TR_EXTRA_MAX)
        luaL_error(L, "'extra' holds more than %d bytes", TR_EXTRA_MAX);
      memcpy(extra + bytes.len, lua_tostring(L, -2), name);
      memcpy(extra + bytes.len + name, lua_tostring(L, -1), value);
      bytes.len += name + value;
    }
  lua_settop(L, top);
  return bytes;
}

tr_record *tr_optrecord(lua_State *L, int index) {
  char hosts[TR_HOSTS_MAX], extra[TR_EXTRA_MAX];
  tr_record draft = {.age = 0}, *record;
  if (lua_isnoneornil(L, index))
    return NULL;
  draft.age = tr_optseconds(L, index, "age", 0);
  draft.etag = record_text(L, index, "etag");
  draft.last_modified = record_text(L, index, "last_modified");
  draft.url = record_text(L, index, "url");
  draft.unsigned_url = record_text(L, index, "unsigned_url");
  draft.from_private = tr_optbool(L, index, "private", false);
  draft.no_store = tr_optbool(L, index, "no_store", false);
  draft.open_ended = tr_optbool(L, index, "open_ended", false);
  draft.unsettled = tr_optbool(L, index, "unsettled", false);
  draft.hosts = record_hosts(L, index, hosts);
  draft.extra = record_extra(L, index, extra);
  lua_getfield(L, index, "content");
  draft.content.at = tr_checkcontent(L, &draft.content.len);
  lua_pop(L, 1); /* the table has it */
  record = tr_record_new(&draft);
  if (record == NULL)
    luaL_error(L, "out of memory");
  return record;
}

void tr_set_record(lua_State *L, const tr_record *record) {
  const char *at, *end;
  lua_Integer count = 0;
  tr_set_text(L, "etag", record->etag);
  tr_set_text(L, "last_modified", record->last_modified);
  tr_set_text(L, "url", record->url);
  tr_set_text(L, "unsigned_url", record->unsigned_url);
  if (record->open_ended) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "open_ended");
  }
  if (record->unsettled) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "unsettled");
  }
  if (record->no_store) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "no_store");
  }
  lua_pushboolean(L, record->from_private);
  lua_setfield(L, -2, "private");
  lua_newtable(L);
  at = record->hosts.at;
  for (end = at + record->hosts.len; at < end; at += strlen(at) + 1) {
    lua_pushstring(L, at);
    lua_rawseti(L, -2, ++count);
  }
  lua_setfield(L, -2, "hosts");
  if (record->content.len > 0) {
    lua_pushlstring(L, record->content.at, record->content.len);
    lua_setfield(L, -2, "content");
  }
  if (record->extra.len == 0)
    return;
  lua_newtable(L);
  at = record->extra.at;
  for (end = at + record->extra.len; at < end; at += strlen(at) + 1) {
    lua_pushstring(L, at);
    at += strlen(at) + 1;
    lua_pushstring(L, at);
    lua_rawset(L, -3);
  }
  lua_setfield(L, -2, "extra");
}

static int record_gc(lua_State *L) {
  tr_record **record = luaL_checkudata(L, 1, TR_RECORD);
  tr_record_release(*record);
  *record = NULL;
  return 0;
}

tr_record **tr_newrecord(lua_State *L) {
  tr_record **record = lua_newuserdatauv(L, sizeof *record, 0);
  *record = NULL;
  if (luaL_newmetatable(L, TR_RECORD)) {
    lua_pushcfunction(L, record_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return record;
}
