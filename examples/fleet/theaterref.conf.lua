-- For the hosts of a fleet: the mirror is asked first, and the registry itself if that fails.
-- A release is deployed with its lockfile, and what it has is kept on disk.
local mirror, registry = theaterref.getenv "FLEET_MIRROR", theaterref.getenv "FLEET_REGISTRY"
local realm = theaterref.getenv "FLEET_REALM" -- a token server elsewhere

return {
  registries = registry and { [registry] = { mirrors = { mirror }, realm_hosts = { realm }, cache_scope = "fleet" } } or nil,
  lockfile = theaterref.getenv "FLEET_LOCKFILE",
  cache = { disk = "packages-cache" },
}
