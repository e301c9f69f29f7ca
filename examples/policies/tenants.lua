-- Many tenants in one host: each manifest may use its tenant's own packages and
-- the public ones, over https, and nothing inside the network.
local policy = theaterref.policy

local public = "https://packages.example.org/public/"
local is_public = policy.only { prefixes = { public } }
local is_own = policy.only { prefixes = { "https://packages.example.org/tenants/" } }
local common = policy.only { schemes = { "https" }, hosts = { "packages.example.org", "*.tenants.example.org" } }

return {
  allow = function(ref, ctx)
    local allowed, why = common(ref, ctx)
    if not allowed or ctx.purpose == "manifest" then return allowed, why end
    local origin = ctx.origin or ""
    local tenant = is_own(origin, ctx) and origin:match("^https://packages%.example%.org/tenants/([%w-]+)/")
    if is_public(ref, ctx) then return true end
    if tenant and policy.only { prefixes = { "https://packages.example.org/tenants/" .. tenant .. "/" } }(ref, ctx) then
      return true
    end
    return false, "it belongs to another tenant; to allow it, publish it below " .. public
  end,
  request = function() return { refuse_private = true, max_bytes = 64 << 20, timeout = 20 } end,
  -- A tenant's actor gets a network only if it says which hosts.
  allow_spawn = function(manifest)
    local rights = type(manifest.permission_policy) == "table" and manifest.permission_policy or {}
    if rights.network and not rights.network_hosts then return false, "permission_policy.network wants network_hosts" end
    return true
  end,
}
