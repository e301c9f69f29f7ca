-- Production: locked content only, from a store that came with the
-- release. Nothing is fetched, whatever a manifest says.
--
--     theaterref lock https://packages.example.org/worker.toml -o theaterref.lock --store release
local policy = theaterref.policy

return policy.combine(policy.lockfile("theaterref.lock", { store = "release", offline = true }), {
  -- Locked content cannot change: every package may be cached.
  cacheable = function() return true end,
})
