-- Release assets come from the mirror in the house; what it does not have, or
-- while it is down, from where they were published.
local policy = theaterref.policy

local mirror = policy.mirror {
  ["https://github.com/"] = { "https://mirror.internal/github/", "https://github.com/" },
}

return {
  rewrite = mirror,
  -- A mirror that is down must not hold up every spawn.
  request = function(ref)
    return theaterref.reference.scheme(ref) and { connect_timeout = 2, retries = 1 } or nil
  end,
}
