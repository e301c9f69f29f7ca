-- A spawn policy: each field replaces one rule, the rest keep the default.
local default = theaterref.policy.default

return {
  -- "worker" is an alias; everything else is read relative to its manifest.
  rewrite = function(reference, ctx)
    if reference == "worker" then reference = "store://demo/actors/greeter.wasm" end
    return default.rewrite(reference, ctx)
  end,

  -- Released packages never change either.
  cacheable = function(manifest, ctx)
    return default.cacheable(manifest, ctx) or ctx.reference:match("/releases/") ~= nil
  end,

  request = function()
    return { timeout = 10, max_bytes = 64 << 20 }
  end,
}
