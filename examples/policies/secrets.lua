-- { "$ref": "secret://name" } in an initial state is replaced by the file
-- /run/secrets/name when an actor is spawned. Manifests hold no secrets, and
-- neither do events, errors and what the command prints. References in the state
-- that the caller gives are filled in too: allow only the secrets that everybody who
-- can start this actor may read.
local policy = theaterref.policy

local folder = "file:///run/secrets/"

return {
  secrets = function(ref) return ref:find("^secret://[%w_-]+$") ~= nil end,
  rewrite = function(ref, ctx)
    if ctx.purpose == "secret" then return folder .. ref:match("^secret://(.*)$") end
    return policy.default.rewrite(ref, ctx)
  end,
  allow = function(ref, ctx)
    if ctx.purpose == "secret" then return true end -- it was rewritten into the folder
    -- A file counts by the path that would be opened.
    if (ctx.path or ref):find("/run/secrets", 1, true) then return false, "secrets are for initial states only" end
    return policy.default.allow(ref, ctx)
  end,
}
