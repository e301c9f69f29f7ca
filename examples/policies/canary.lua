-- Five in a hundred actors get the next version. Which ones depends on their
-- names alone, so an actor that is spawned again gets the same.
local policy = theaterref.policy

local now, soon = "https://packages.example.org/worker/1.2.3/", "https://packages.example.org/worker/1.3.0/"

local move = policy.mirror { [now] = soon }

return {
  rewrite = function(ref, ctx)
    return ctx.name and policy.percentile(ctx.name) < 5 and move(ref, ctx) or ref
  end,
}
