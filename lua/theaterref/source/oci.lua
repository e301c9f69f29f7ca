--- `oci://registry[:port]/repository[:tag][@sha256:<hex>][#title=<name>&sha256=<hex>]`: a layer
-- of an artifact in a registry.
-- @module theaterref.source.oci
local Chain = require "theaterref.registry.chain"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local references = require "theaterref.registry.reference"
local requests = require "theaterref.registry.requests"

local M = { fetches = true, parse = references.parse, join = references.join, at_digest = references.at_digest,
  manifest = references.manifest, as_signature = references.as_signature, signature_places = references.signature_places,
  other_keys = references.other_keys }

function M.key(parsed) return parsed.key end

function M.is_remote() return true end

function M.is_immutable(parsed) return parsed.manifest ~= nil end

-- ----------------------------------------------------------------- requests

-- Adapted requests, by what they were made of and their repository: files with credentials are
-- looked at once a second.
local adapted, LOOK_SECONDS = setmetatable({}, { __mode = "k" }), 1

-- Returns the places that may be asked, with the options and the source of the credentials for each:
-- mirrors, and the registry.
local function places_of(parsed, context, request)
  local places = {}
  for i, endpoint in ipairs(requests.endpoints(parsed, context.registries)) do
    function endpoint.warn(message)
      context:emit("registry", { reference = errors.redact_reference(parsed.text), message = message })
    end
    requests.find_credentials(endpoint)
    local options = endpoint.mirror and requests.mirror_request(endpoint, context.defaults, request.options)
    places[i] = { endpoint = endpoint, options = options or requests.request(endpoint, request.options),
      document_options = options and requests.mirror_document_request(options) }
  end
  return places
end

--- Adapts the options of a job's request to the registry: the places to ask, and the scope in caches of
-- bytes from there. It names the sources of credentials: no helper runs for what a cache has.
function M.request(job, context, request)
  local parsed = job.parsed
  local name = parsed.registry .. "/" .. parsed.repository .. (parsed.ns and "?ns=" .. parsed.ns or "")
  local of_request = adapted[request]
  local before = of_request and of_request[name]
  if before and core.now() < before.at + LOOK_SECONDS then return before.request end
  local places = places_of(parsed, context, request)
  local scope, may_be_on_disk = requests.scope(places)
  local made = { compiled = request.compiled, options = request.options, scope = scope, revalidate = request.revalidate,
    may_be_on_disk = may_be_on_disk, max_bytes = request.max_bytes, timeout = request.timeout,
    origin = places[#places].endpoint.origin .. "/", routes = places }
  if not of_request or of_request.count >= 256 then
    of_request = { count = 0 }
    adapted[request] = of_request
  end
  if not before then of_request.count = of_request.count + 1 end
  of_request[name] = { at = core.now(), request = made }
  return made
end

-- ------------------------------------------------------------------- chains

-- Failures that another endpoint would share.
local final = { cancelled = true, invalid_reference = true, policy = true }

-- Has a chain work at a place: once more if that refuses what a helper said earlier.
local function at_place(job, context, links, place, work)
  local found, more, record = work(Chain.new(job, context, links, place))
  if found or not requests.renew_credentials(place.endpoint, more.status) or links.is_over() then return found, more, record end
  place.credentials, place.renewals = nil, (place.renewals or 0) + 1
  return work(Chain.new(job, context, links, place))
end

-- Returns places in the order in which to ask them: those whose server just failed last.
local function in_order(places)
  local sound, failing = {}, {}
  for _, place in ipairs(places) do
    table.insert(places[2] and core.origin_fails(place.endpoint.origin) and failing or sound, place)
  end
  return table.move(failing, 1, #failing, #sound + 1, sound)
end

-- Has a chain work at each endpoint in turn, until one has what is wanted. The registry's own failure
-- says more than those of its mirrors.
local function at_endpoints(job, context, links, work)
  local places, first, own = in_order(job.request.routes), nil, nil
  for i, place in ipairs(places) do
    local found, more, record = at_place(job, context, links, place, work)
    if found then return found, more, record end
    first = first or more
    if not place.endpoint.mirror then own = more end
    if i == #places or final[more.kind] or links.is_over() then return nil, own or first end
    context:emit("fallback", { reference = errors.redact_reference(job.target), message = tostring(more) })
  end
end

--- Drives the chain of a reference.
-- @tparam table job
-- @tparam table context
-- @tparam table links what gets its links: `get(link)`, its bytes or nil and an error;
-- `fresh(link)`, the same if a cache has them, and both set `link.record`; `put(link, blob, record)`,
-- into its cache;
-- `await(future)`; `seconds_left()`; `cache(reference)`, the cache for what an
-- immutable reference leads to, or nil; `is_over()`
-- @treturn theaterref.blob
-- @treturn table the link of the layer; or, of signatures, `is_gathered`, and `is_whole` if they
-- may be kept
-- @treturn ?table a record of where the redirects of all links led
-- @return[2] nil
-- @treturn[2] table an error
function M.drive(job, context, links)
  return at_endpoints(job, context, links, function(chain)
    if job.parsed.is_gathered then return chain:gather() end
    local blob, err = chain:drive()
    return blob, blob and chain.layer or err, chain.record
  end)
end

--- Gets the documents that led to a job's bytes, each checked against its digest: an index and
-- a manifest, or the manifest alone. A signature over any of them is one of the bytes.
-- @tparam table job
-- @tparam table context
-- @tparam table links as for `drive`
-- @tparam string sha256 of the bytes
-- @tparam ?table store where documents may be, too
-- @treturn table a list of `{ digest =, blob = }`
-- @return[2] nil
-- @treturn[2] table an error
function M.documents(job, context, links, sha256, store)
  local manifest = job.parsed.manifest or job.locked_manifest or job.manifest
  return at_endpoints(job, context, links, function(chain) return chain:read_documents(manifest, sha256, store) end)
end

return M
