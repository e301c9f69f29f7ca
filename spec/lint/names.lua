--- Names that were replaced and must not come back, each with its replacement. A
-- name is a Lua pattern in lower case; it is matched against lower-case lines of
-- every text file, and against file names. Patterns that begin or end with a letter
-- match whole words only.
return {
  -- Futures and errors
  { "tr_kind", "tr_error_kind" }, { "tr_kind_%w+", "tr_error_kind_…" }, { "tr_state", "tr_future_status" },
  { "tr_future_state", "tr_future_get_status" }, { "tr_complete", "tr_future_complete" },
  { "tr_fail", "tr_future_fail" }, { "tr_fail_with", "tr_pusherror" }, { "tr_give_up", "tr_future_abandon" },
  { "theaterref%.kind", "theaterref.ErrorKind" },
  -- Caches
  { "[%w_]*_pin", "keep, or integrity" }, { "pin", "integrity, a digest, or keep" }, { "pin_[%w_]+", "integrity" },
  { "pins", "digests" }, { "[%w_]*pinned", "with a digest, or kept" }, { "unpin%w*", "keep(key, false)" },
  { "tiers?", "disk cache" }, { "tier_[%w_]+", "disk_…" }, { "tieroptions", "DiskCacheOptions" },
  { "[%w_]+_tier", "…_disk" }, { "tr_who", "tr_consumer" }, { "tr_cache_who", "tr_cache_next_consumer" },
  { "who%s*=", "consumer =" }, { "stats%(%)%.by", "stats().by_consumer" }, { "tr_user", "tr_cache_handle" },
  { "tr_cache_settings", "tr_cache_get_options" }, { "tr_terms", "tr_claim_options" },
  { "theaterref%.terms", "theaterref.CacheableOptions" }, { "tr_claimed", "tr_claim_result" },
  { "take_off", "flight_start" }, { "land%(", "flight_finish(" }, { "bury", "defer_free" }, { "tr_dead", "tr_deferred" },
  { "tr_dead_%w+", "tr_deferred_…" }, { "twin_of", "a copy" }, { "tr_addtwins", "tr_add_pair" },
  { "push_figures", "push_counters" },
  -- Stores
  { "[%w_]*set[_ ]aside", "quarantine" }, { "put aside", "quarantine" }, { "[%w_]*leftovers?", "temporary file" },
  { "leftover_%w+", "temporary file" }, { "tr_store_step", "tr_store_open_subfolder" },
  { "tr_store_keep[%w_]*", "tr_store_freshen" }, { "tr_store_get_anew", "tr_store_get_uncached" },
  -- The engine
  { "tr_transfer[%w_]*", "tr_request" }, { "take_wheel", "become_driver" }, { "pump%(", "advance(" },
  { "wake_resting", "start_waiting" }, { "give_up_waiting", "fail_expired" },
  -- Rules, options and events
  { "[.'\"`]permit", "allow_spawn" }, { "permit%s*=", "allow_spawn =" }, { "read_lock", "read_lockfile" },
  { "polic[%l]+%.locked", "policy.lockfile" }, { "%-%-locked", "--lockfile" }, { "lock%s*=%s*['\"].*%.lock", "lockfile =" },
  { "policy[%s=]*{%s*event%s*=", "on_event =" }, { "[.]event%(", "on_event(" }, { "event%.taken", "event.reloaded" },
  { "building blocks?", "builders" }, { "errand", "host_call" }, { "run_errand", "run_host_call" },
  { "lends?", "expose" }, { "[%w_]*lent_to", "exposed_to" }, { "tr_sandbox_lend_library", "tr_sandbox_open_library" },
  { "rule by default", "default rule" },
  -- The pipeline
  { "is_heard", "has_listeners" }, { "[.]heard", "has_listeners" }, { "take[_ ]up", "reload" },
  { "[.:]places", "candidates" }, { "max_places", "MAX_CANDIDATES" }, { "tell_resolved", "emit_resolved" },
  { ":tell", ":emit" },
  -- Files
  { "theaterref%.names", "theaterref.suggest" }, { "theaterref%.loading", "theaterref.resolve.load" },
  { "theaterref%.admission", "theaterref.resolve.admit" }, { "theaterref%.tier", "theaterref.store.disk_cache" },
  { "theaterref%.archive", "theaterref.store.archive" }, { "policy%.blocks", "policy.builders" },
  { "require%s*%(?['\"]theaterref%.lock['\"]", "theaterref.policy.lockfile" },
  { "theaterref%.secrets", "theaterref.manifest.secrets" }, { "upkeep%.[ch]", "store_gc" }, { "outcome%.[ch]", "response" },
  { "flights%.h", "cache_registry.h" }, { "caches%.c", "cache_registry.c" }, { "verified%.c", "store_verify.c" },
  { "core/fetch%.c", "engine.c" }, { "transfer%.[ch]", "request" }, { "digest%.h", "crypto.h" },
}
