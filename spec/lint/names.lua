--- Names that were replaced and must not come back, each with its replacement. A
-- name is a Lua pattern; it matches whole identifiers only, in every text file and
-- in file names.
return {
  -- Futures and errors
  { "tr_kind", "tr_error_kind" }, { "tr_kind_name", "tr_error_kind_name" }, { "tr_state", "tr_future_status" },
  { "tr_future_state", "tr_future_get_status" }, { "tr_complete", "tr_future_complete" }, { "tr_fail", "tr_future_fail" },
  { "tr_fail_with", "tr_pusherror" }, { "tr_give_up", "tr_future_abandon" },
  -- Caches
  { "[%w_]*_pin", "keep, or integrity" }, { "pin", "integrity, a digest, or keep" }, { "pins", "digests" },
  { "pinned", "with a digest, or kept" }, { "unpin%w*", "keep(key, false)" },
  { "tier", "disk cache" }, { "tiers", "disk caches" }, { "tier_[%w_]+", "disk_…" }, { "[%w_]+_tier", "…_disk" },
  { "tr_who", "tr_consumer" }, { "tr_user", "tr_cache_handle" }, { "tr_terms", "tr_claim_options" },
  { "tr_claimed", "tr_claim_result" }, { "take_off", "flight_start" }, { "land", "flight_finish" }, { "bury", "defer_free" },
  { "tr_dead", "tr_deferred" }, { "tr_dead_%w+", "tr_deferred" }, { "twin_of", "a copy" }, { "tr_addtwins", "tr_add_pair" },
  { "figures?", "counters, or statistics" },
  -- Stores
  { "[%w_]*set_aside", "quarantine" }, { "[%w_]*leftovers?", "temporary file" }, { "tr_store_step", "tr_store_open_subfolder" },
  { "tr_store_keep[%w_]*", "tr_store_freshen" }, { "tr_store_get_anew", "tr_store_get_uncached" },
  -- The engine
  { "tr_transfer[%w_]*", "tr_request" }, { "take_wheel", "become_driver" }, { "pump", "advance" },
  -- Rules, options and events
  { "[\"`]permit[\"`]", "allow_spawn" }, { "permit =", "allow_spawn =" }, { "read_lock", "read_lockfile" }, { "locked%(", "lockfile(" }, { "%-%-locked", "--lockfile" },
  { "building blocks?", "builders" }, { "errand", "host_call" }, { "run_errand", "run_host_call" }, { "lend", "expose" },
  { "lent[%w_]*", "exposed" }, { "rule by default", "default rule" },
  -- The pipeline
  { "is_heard", "has_listeners" }, { "heard", "has_listeners" }, { "take_up[%w_]*", "reload" }, { "[.:]places", "candidates" },
  { "tell_resolved", "emit_resolved" }, { ":tell", ":emit" },
  -- Files
  { "theaterref%.names", "theaterref.suggest" }, { "theaterref%.loading", "theaterref.resolve.load" },
  { "theaterref%.admission", "theaterref.resolve.admit" }, { "theaterref%.tier", "theaterref.store.disk_cache" },
  { "theaterref%.archive", "theaterref.store.archive" }, { "theaterref%.policy%.blocks", "theaterref.policy.builders" },
  { "upkeep", "store_gc" }, { "outcome%.[ch]", "response" }, { "flights%.h", "cache_registry.h" }, { "admission", "admit" },
}
