--- Resolving: how a reference becomes bytes.
--
-- A wish is what is to be resolved, a table: `reference`; `ctx`, what it is for; `options`:
-- `cached`, through the context's cache, `cache`, through that one, or `ask_cacheable`, as
-- the rule `cacheable` says; and `ttl`, `revalidate` and `disk`, for the cache. The outcome
-- is put on the same table:
-- `target`, the candidate whose bytes they are; `origin`, where these finally came from;
-- `used_cache`, whether they went through a cache; `hit`, whether it had them; `manifest`, the digest
-- of the manifest in a registry that led to them; `title`, of their layer there, for one with
-- `wants_title`.
-- @module theaterref.resolve.load
local admit = require "theaterref.resolve.admit"
local candidates = require "theaterref.resolve.candidates"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.resolve.future"
local gets = require "theaterref.resolve.get"
local judging = require "theaterref.resolve.judge"
local kept = require "theaterref.resolve.kept"
local reference = require "theaterref.reference"

local M = {}

M.links_of = gets.links_of

-- ----------------------------------------------------------------- resolving

-- Emits that bytes are there, of a job and of those it led to.
local function emit_resolved(context, job, blob, list)
  while job do
    if context.trace then context.trace { resolved = job, blob = blob, candidates = list or { job.target } } end
    if context.has_listeners then
      context:emit("resolved", { reference = reference.redact(job.target), purpose = job.ctx.purpose, bytes = #blob })
    end
    job, list = job.led_to, nil
  end
end

-- Notes for a follower the job of its check, and the keys of that and of those it led to.
local function note_job(wish, job)
  wish.job = job
  while job do
    kept.note_keys(job)
    job = job.led_to
  end
end

-- Puts the outcome of a wish on it.
local function succeed(context, wish, job, blob, list)
  wish.target, wish.hit, wish.signed_by = job.target, job.hit, job.signed_by
  if job.follow then note_job(wish, job) end
  if job.manifest then wish.manifest, wish.title = job.manifest, job.title end
  if wish.ctx.purpose ~= "direct" then wish.origin, wish.used_cache = job.origin or job.target, job.cache ~= nil end
  if context.has_listeners or context.trace then emit_resolved(context, job, blob, list) end
  return blob
end

-- Moves the jobs whose server failed a moment ago behind the others.
local function put_failing_last(jobs)
  local sound, failing = {}, {}
  for _, job in ipairs(jobs) do
    local url = job.source.fetches and (job.request.origin or job.parsed.url)
    table.insert(url and core.origin_fails(url) and failing or sound, job)
  end
  return table.move(failing, 1, #failing, #sound + 1, sound)
end

-- Returns a candidate's failure, and traces it.
local function failed(context, target, err)
  if context.trace then
    context.trace { rule = "candidate", by = "resolver", reference = reference.redact(target), reason = tostring(err) }
  end
  return { target = target, err = err }
end

-- Emits that a candidate is tried because the last one failed, if it did.
local function tell_fallback(context, job, failures)
  local last = failures[#failures]
  if not last then return end
  context:emit("fallback", { reference = reference.redact(job.target), message = tostring(last.err) })
end

-- Fetches jobs in order until one has bytes. Returns its bytes and the job.
local function first_of(context, task, jobs, failures)
  for _, job in ipairs(jobs) do
    tell_fallback(context, job, failures)
    local blob, err = gets.get_remote(context, task, job)
    if blob then blob, err = judging.judged(context, task, job, blob, M) end
    if blob then return blob, job end
    failures[#failures + 1] = failed(context, job.target, err)
    if candidates.is_final(err) or task.over then return nil end
  end
end

-- Resolves a wish whose reference has one candidate.
local function resolve_one(task, context, wish, target)
  local job, err = admit.admit(context, wish, target)
  err = err or task:lateness()
  if err then return nil, err end
  local blob
  blob, err = gets.get(context, task, job)
  if blob then blob, err = judging.judged(context, task, job, blob, M) end
  if not blob then return nil, err end
  return succeed(context, wish, job, blob)
end

-- Resolves a wish whose reference has several: takes the first that is at hand, and
-- fetches only if none is.
local function resolve_list(task, context, wish, list)
  local remote, failures = {}, {}
  for _, target in ipairs(list) do
    local late = task:lateness()
    if late then return nil, late end
    local job, blob, err
    job, err = admit.admit(context, wish, target)
    if job then
      if not job.source.is_remote() then tell_fallback(context, job, failures) end
      blob, err = gets.at_hand(context, task, job)
    end
    if blob then blob, err = judging.judged(context, task, job, blob, M) end
    if blob then return succeed(context, wish, job, blob, list) end
    if err then
      failures[#failures + 1] = failed(context, target, err)
      if candidates.is_final(err) then break end
    else
      remote[#remote + 1] = job
    end
  end
  remote = put_failing_last(remote)
  for i = 1, #remote do remote[i].others = remote end
  local blob, job = first_of(context, task, remote, failures)
  if blob then return succeed(context, wish, job, blob, list) end
  return nil, candidates.failure(failures)
end

--- Resolves a wish within a future's work.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam[opt] table wish the future itself, if it is nothing more
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function M.resolve(task, context, wish)
  wish = wish or task
  local list, err = candidates.list(context, wish.reference, wish.ctx)
  local blob
  if type(list) == "table" then
    local follow = wish.options.follow
    for _, target in ipairs(follow and list or {}) do follow.places[target] = true end
    blob, err = resolve_list(task, context, wish, list)
  elseif list then
    blob, err = resolve_one(task, context, wish, list)
  end
  if blob then return blob end
  return nil, errors.about(err, reference.redact(wish.reference))
end

--- Resolves a reference as it is: the rule `rewrite` is not asked.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam table wish gets `manifest`, the digest of the manifest in a registry that led to the bytes
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function M.resolve_as_is(task, context, wish) return resolve_one(task, context, wish, wish.reference) end

--- Puts bytes that a follower found to be new into the resolver's own cache, if that has one of the places where the
-- check could find them: the next resolve there must not return older ones.
-- @tparam table context
-- @tparam table places the keys: all candidates, and what they led to
-- @tparam table job
-- @tparam theaterref.blob blob
function M.renew(context, places, job, blob)
  local had = false
  for place in pairs(context.cache and places or {}) do had = context.cache:refresh(place) or had end
  while job.led_to do job = job.led_to end
  if not had or job.source.probe or job.source.drive then return end -- local bytes are loaded, and a tag is asked
  job.cache, job.follow, job.max_age, job.ttl, job.keep_failure = context.cache, nil, nil, nil, nil -- the followers'
  kept.put(context, job, blob, job.record)
  context.cache:accept(job.key)
end

-- Loads a stale entry anew into the future that leads its claim; if that fails, the other
-- candidates, each for its own entry. Nobody waits for it: 'M.reap' moves it on.
function gets.in_background(context, job, lead)
  lead:detach()
  local function work(task)
    local blob, err = gets.lead_claim(context, task, job, lead)
    if blob then return blob end
    gets.renews(job, err) -- the next load has others
    local failures, others = { { target = job.target, err = err } }, {}
    for _, other in ipairs(job.others or {}) do
      if other ~= job then others[#others + 1] = other end
    end
    if candidates.is_final(err) then return nil, err end
    return first_of(context, task, others, failures), err
  end
  table.insert(context.background, Future.run({ reference = job.target }, work))
end

local function reap_done(background)
  for i = #background, 1, -1 do
    if background[i]:done() then table.remove(background, i) end
  end
end

--- Moves on the background loads of a context.
-- @tparam table context
function M.reap(context)
  local background = context.background
  if background.reaping then return end -- a load's events may lead here
  background.reaping = true
  local ok, raised = pcall(reap_done, background) -- Ctrl-C may raise
  background.reaping = false
  if not ok then error(raised, 0) end
end

return M
