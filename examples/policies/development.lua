-- On a developer's machine: one package is the local build, everything else is
-- as in production.
local policy = theaterref.policy

local builds = policy.alias {
  ["https://packages.example.org/worker/1.2.3/worker.wasm"] = "${THEATERREF_BUILDS}/worker.wasm",
}

return {
  rewrite = policy.chain(policy.default.rewrite, builds, policy.expand { "THEATERREF_BUILDS" }),
  -- A build changes under one's hands: it is never kept.
  cacheable = function(manifest, ctx)
    return not (ctx.package and builds(ctx.package):find("^%${")) and policy.default.cacheable(manifest, ctx)
  end,
}
