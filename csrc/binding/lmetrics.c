/* Metrics: their text, and counters for Lua. */
#include <string.h>

#include "core/error.h"
#include "core/metrics.h"
#include "lutil.h"

/* metrics() -> text | nil, error */
static int metrics(lua_State *L) {
  lblob *keep = tr_newblob(L);
  tr_error error;
  keep->blob = tr_metrics(&error);
  if (keep->blob == NULL)
    return tr_pusherror(L, &error);
  lua_pushlstring(L, tr_blob_data(keep->blob), tr_blob_size(keep->blob));
  return 1;
}

/* count_refusal(rule): a rule refused something. A name that is no rule's is ignored. */
static int count_refusal(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  unsigned rule = 0;
  while (rule < TR_RULES && strcmp(tr_rule_names[rule], name) != 0)
    rule++;
  if (rule < TR_RULES)
    tr_count(TR_COUNT_REFUSALS + rule, 1);
  return 0;
}

/* count(name): something happened. */
static int count(lua_State *L) {
  static const char *const names[] = {"corrupt_bucket", "outage",        "derived_disk",
                                      "derived",        "derive_failed", "check_same",
                                      "check_changed",  "check_failed",  NULL};
  static const unsigned counters[] = {TR_COUNT_CORRUPT_BUCKET,
                                      TR_COUNT_OUTAGES,
                                      TR_COUNT_DERIVED + TR_DERIVED_DISK,
                                      TR_COUNT_DERIVED + TR_DERIVED_COMPUTED,
                                      TR_COUNT_DERIVED + TR_DERIVED_FAILED,
                                      TR_COUNT_CHECKS + TR_CHECK_SAME,
                                      TR_COUNT_CHECKS + TR_CHECK_CHANGED,
                                      TR_COUNT_CHECKS + TR_CHECK_FAILED};
  tr_count(counters[luaL_checkoption(L, 1, NULL, names)], 1);
  return 0;
}

/* count_step(number, seconds): a step of a plan took so long; the number is that in plan_steps,
** from 1. */
static int count_step(lua_State *L) {
  lua_Integer step = luaL_checkinteger(L, 1);
  luaL_argcheck(L, step >= 1 && step <= TR_PLAN_STEPS, 1, "there is no such step");
  tr_count_time(TR_TIME_PLAN + (unsigned)step - 1, luaL_checknumber(L, 2));
  return 0;
}

/* count_plan([kind]): a plan ended, with an error of this kind if it failed. */
static int count_plan(lua_State *L) {
  const char *kind = luaL_optstring(L, 1, NULL);
  tr_count(TR_COUNT_PLANS + (kind != NULL ? tr_error_kind_named(kind) : TR_OK), 1);
  return 0;
}

void tr_open_metrics(lua_State *L) {
  static const luaL_Reg functions[] = {{"metrics", metrics},
                                       {"count", count},
                                       {"count_refusal", count_refusal},
                                       {"count_step", count_step},
                                       {"count_plan", count_plan},
                                       {NULL, NULL}};
  int i;
  luaL_setfuncs(L, functions, 0);
  lua_createtable(L, TR_PLAN_STEPS, 0);
  for (i = 0; i < TR_PLAN_STEPS; i++) {
    lua_pushstring(L, tr_plan_steps[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "plan_steps");
}
