/* Plans: their parts, taken from Lua. */
#include <stdlib.h>
#include <string.h>

#include "host.h"

/* One step of a plan. */
typedef struct phase {
  char *name;
  double seconds;
  uint64_t bytes;
} phase;

/* Everything a spawn needs; see the getters. */
struct tr_plan {
  char *name, *manifest_reference, *origin, *package_reference, *package_type;
  size_t signer_count;
  char **signers;
  tr_blob *manifest, *package, *initial_state, *state_without_secrets;
  bool used_cache, cache_hit;
  size_t phase_count;
  phase *phases;
};

/* Everything that is taken belongs to the plan at once: the next call may raise. */

/* Take a copy of a string field of the table on top, if it has one. */
static void take_string(lua_State *L, const char *name, char **to) {
  if (lua_getfield(L, -1, name) == LUA_TSTRING) {
    *to = strdup(lua_tostring(L, -1));
    if (*to == NULL)
      luaL_error(L, "out of memory");
  }
  lua_pop(L, 1);
}

/* Take the value on top, a blob or a string or else none, and pop it. */
static void take_value(lua_State *L, tr_blob **to) {
  size_t len;
  const char *text;
  if (tr_toblob(L, -1) != NULL) {
    *to = tr_blob_retain(tr_toblob(L, -1));
  } else if (lua_type(L, -1) == LUA_TSTRING) {
    text = lua_tolstring(L, -1, &len);
    *to = tr_blob_new(text, len);
    if (*to == NULL)
      luaL_error(L, "out of memory");
  }
  lua_pop(L, 1);
}

/* Take the names of the keys that signed the package, if it had to be signed. */
static void take_signers(lua_State *L, tr_plan *plan) {
  size_t count, i;
  if (lua_getfield(L, -1, "signed_by") == LUA_TTABLE) {
    count = lua_rawlen(L, -1);
    plan->signers = calloc(count > 0 ? count : 1, sizeof *plan->signers);
    if (plan->signers == NULL)
      luaL_error(L, "out of memory");
    for (i = 0; i < count; i++) {
      lua_rawgeti(L, -1, (lua_Integer)i + 1);
      plan->signers[i] = strdup(lua_tostring(L, -1));
      if (plan->signers[i] == NULL)
        luaL_error(L, "out of memory");
      plan->signer_count = i + 1;
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static void take_flag(lua_State *L, const char *name, bool *to) {
  lua_getfield(L, -1, name);
  *to = lua_toboolean(L, -1);
  lua_pop(L, 1);
}

static void take_phases(lua_State *L, tr_plan *plan) {
  size_t count, i;
  lua_getfield(L, -1, "phases");
  luaL_checktype(L, -1, LUA_TTABLE);
  count = lua_rawlen(L, -1);
  plan->phases = calloc(count > 0 ? count : 1, sizeof *plan->phases);
  if (plan->phases == NULL)
    luaL_error(L, "out of memory");
  plan->phase_count = count;
  for (i = 0; i < count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    take_string(L, "name", &plan->phases[i].name);
    lua_getfield(L, -1, "seconds");
    lua_getfield(L, -2, "bytes");
    plan->phases[i].seconds = lua_tonumber(L, -2);
    plan->phases[i].bytes = (uint64_t)lua_tointeger(L, -1);
    lua_pop(L, 3);
  }
  lua_pop(L, 1);
}

/* Take both states of the plan on top; one text, mostly. */
static void take_states(lua_State *L, tr_plan *plan) {
  lua_getfield(L, -1, "state_without_secrets");
  lua_getfield(L, -2, "initial_state");
  if (lua_rawequal(L, -1, -2)) {
    lua_pop(L, 1);
    take_value(L, &plan->initial_state);
    if (plan->initial_state != NULL)
      plan->state_without_secrets = tr_blob_retain(plan->initial_state);
  } else {
    take_value(L, &plan->initial_state);
    take_value(L, &plan->state_without_secrets);
  }
}

/* Take the manifest of the plan on top as JSON text. Argument 2 writes it. */
static void take_manifest(lua_State *L, tr_plan *plan) {
  lua_pushvalue(L, 2);
  lua_getfield(L, -2, "manifest");
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2))
    lua_error(L);
  lua_pop(L, 1);
  take_value(L, &plan->manifest);
}

void tr_plan_take(lua_State *L, tr_plan **to) {
  tr_plan *plan = *to = calloc(1, sizeof *plan);
  if (plan == NULL)
    luaL_error(L, "out of memory");
  take_string(L, "name", &plan->name);
  take_string(L, "manifest_reference", &plan->manifest_reference);
  take_string(L, "origin", &plan->origin);
  take_manifest(L, plan);
  take_string(L, "package_reference", &plan->package_reference);
  take_string(L, "package_type", &plan->package_type);
  take_signers(L, plan);
  lua_getfield(L, -1, "package");
  take_value(L, &plan->package);
  take_states(L, plan);
  take_flag(L, "used_cache", &plan->used_cache);
  take_flag(L, "cache_hit", &plan->cache_hit);
  take_phases(L, plan);
}

void tr_plan_free(tr_plan *plan) {
  size_t i;
  if (plan == NULL)
    return;
  free(plan->name);
  free(plan->manifest_reference);
  free(plan->origin);
  free(plan->package_reference);
  free(plan->package_type);
  for (i = 0; i < plan->signer_count; i++)
    free(plan->signers[i]);
  free(plan->signers);
  tr_blob_release(plan->manifest);
  tr_blob_release(plan->package);
  tr_blob_release(plan->initial_state);
  tr_blob_release(plan->state_without_secrets);
  for (i = 0; i < plan->phase_count; i++)
    free(plan->phases[i].name);
  free(plan->phases);
  free(plan);
}

const char *tr_plan_name(const tr_plan *plan) { return plan->name; }

tr_blob *tr_plan_manifest(const tr_plan *plan) { return plan->manifest; }

const char *tr_plan_manifest_reference(const tr_plan *plan) {
  return plan->manifest_reference;
}

const char *tr_plan_origin(const tr_plan *plan) { return plan->origin; }

const char *tr_plan_package_reference(const tr_plan *plan) {
  return plan->package_reference;
}

const char *tr_plan_package_type(const tr_plan *plan) {
  return plan->package_type;
}

size_t tr_plan_signer_count(const tr_plan *plan) { return plan->signer_count; }

const char *tr_plan_signer(const tr_plan *plan, size_t signer) {
  return signer < plan->signer_count ? plan->signers[signer] : NULL;
}

tr_blob *tr_plan_package(const tr_plan *plan) { return plan->package; }

tr_blob *tr_plan_initial_state(const tr_plan *plan) {
  return plan->initial_state;
}

tr_blob *tr_plan_state_without_secrets(const tr_plan *plan) {
  return plan->state_without_secrets;
}

bool tr_plan_used_cache(const tr_plan *plan) { return plan->used_cache; }

bool tr_plan_cache_hit(const tr_plan *plan) { return plan->cache_hit; }

size_t tr_plan_phase_count(const tr_plan *plan) { return plan->phase_count; }

const char *tr_plan_phase_name(const tr_plan *plan, size_t phase) {
  return phase < plan->phase_count ? plan->phases[phase].name : NULL;
}

double tr_plan_phase_seconds(const tr_plan *plan, size_t phase) {
  return phase < plan->phase_count ? plan->phases[phase].seconds : 0;
}

uint64_t tr_plan_phase_bytes(const tr_plan *plan, size_t phase) {
  return phase < plan->phase_count ? plan->phases[phase].bytes : 0;
}
