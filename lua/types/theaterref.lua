---@meta theaterref
-- The API for editors: LuaLS, the Lua language server, completes and checks by it
-- when this folder is in `workspace.library`. The reference is what `make doc` writes.

---@alias theaterref.Bytes string|theaterref.Blob

---@alias theaterref.ErrorKind
---| "invalid_reference"
---| "not_found"
---| "denied"
---| "http_status"
---| "network"
---| "tls"
---| "timeout"
---| "too_large"
---| "digest_mismatch"
---| "corrupt"
---| "io"
---| "syntax"
---| "policy"
---| "cancelled"
---| "untrusted"
---| "rejected"
---| "unknown_outcome"

---@alias theaterref.Level "debug"|"info"|"warn"|"error"|"off"

---@alias theaterref.Algorithm "sha1"|"sha256"

---The value that a function returns after nil. `tostring(err)` is a line for people.
---@class theaterref.Error
---@field kind theaterref.ErrorKind
---@field message string
---@field reference? string redacted: without user, password and query
---@field status? integer the HTTP status
---@field code? string the reason in an object store's words, of a write
---@field errno? integer the system's error number
---@field manifest_reference? string the manifest that names the reference, redacted
---@field advice? string what to do

-- ------------------------------------------------------------------- options

---@class theaterref.RequestOptions
---@field timeout? number
---@field connect_timeout? number
---@field stall_timeout? number
---@field max_bytes? integer
---@field max_redirects? integer
---@field retries? integer
---@field headers? table<string, string>
---@field hosts? table<string, theaterref.HostOptions>
---@field ca_file? string
---@field client_cert? string
---@field client_key? string
---@field netrc? boolean
---@field unix_socket? string
---@field user_agent? string
---@field refuse_private? boolean
---@field proxy? string
---@field redirect_hosts? string[]|"any"
---@field require_length? boolean
---@field cache_scope? string
---@field revalidate? boolean
---@field lua_manifests? boolean

---@class theaterref.HostOptions
---@field headers? table<string, string>
---@field ca_file? string
---@field client_cert? string
---@field client_key? string
---@field proxy? string
---@field netrc? boolean
---@field cache_scope? string

---@class theaterref.RegistryOptions
---@field username? string
---@field password? string
---@field identity_token? string
---@field cache_scope? string
---@field ca_file? string
---@field client_cert? string
---@field client_key? string
---@field proxy? string
---@field plain_http? boolean
---@field mirrors? string[]
---@field realm_hosts? string[]

---@class theaterref.BucketOptions
---@field endpoint? string
---@field region? string
---@field style? "path"|"virtual"
---@field access_key_id? string
---@field secret_access_key? string
---@field session_token? string
---@field profile? string
---@field credential_process? string
---@field anonymous? boolean
---@field cache_scope? string
---@field ca_file? string
---@field proxy? string
---@field plain_http? boolean

---@class theaterref.S3Options: theaterref.BucketOptions
---@field buckets? table<string, theaterref.BucketOptions>

---@class theaterref.CopyOptions
---@field all? boolean

---@class theaterref.LogOptions
---@field level? theaterref.Level
---@field sink? fun(level: theaterref.Level, line: string, event?: theaterref.Event)

---@class theaterref.ResolverOptions: theaterref.RequestOptions
---@field policy? string|theaterref.Rules
---@field trusted? boolean
---@field lockfile? string
---@field offline? string
---@field signatures? theaterref.Signatures
---@field cache? theaterref.Cache|theaterref.CacheOptions
---@field registries? table<string, theaterref.RegistryOptions>
---@field s3? theaterref.S3Options
---@field stores? table<string, theaterref.RemoteStoreOptions>
---@field respect_no_store? boolean
---@field label_history? integer
---@field home? string
---@field log? theaterref.Level|theaterref.LogOptions|false
---@field helpers? table<string, function>
---@field on_event? fun(event: theaterref.Event)
---@field max_manifest_bytes? integer
---@field max_state_bytes? integer
---@field strict_state? boolean
---@field resolve_timeout? number
---@field plan_timeout? number
---@field max_host_connections? integer
---@field max_connections? integer

---@class theaterref.DiskCacheOptions
---@field store? string
---@field home? string
---@field base_path? string
---@field max_bytes? integer

---@class theaterref.CacheOptions
---@field name? string
---@field consumer? string
---@field max_bytes? integer
---@field max_entries? integer
---@field ttl? number
---@field stale_while_revalidate? number
---@field stale_if_error? number
---@field negative_ttl? number
---@field coalesce? boolean
---@field disk? string|theaterref.DiskCacheOptions

---@class theaterref.LabelOptions
---@field expect? string|false

---@class theaterref.GcOptions
---@field grace? number
---@field dry_run? boolean
---@field remote? boolean
---@field progress? fun(done: integer, all: integer)

---@class theaterref.StoreOptions
---@field home? string
---@field base_path? string
---@field durability? "full"|"none"
---@field verify? "once"|"always"|"never"
---@field algorithm? theaterref.Algorithm
---@field map? boolean
---@field lock_timeout? number
---@field label_history? integer
---@field remote? string
---@field label_ttl? number
---@field max_bytes? integer
---@field s3? theaterref.S3Options
---@field request? theaterref.RequestOptions
---@field on_warning? fun(message: string)

---@class theaterref.RemoteStoreOptions
---@field remote? string
---@field label_ttl? number
---@field max_bytes? integer

-- --------------------------------------------------------------------- blobs

---Immutable bytes outside Lua's memory. `a == b`: the same bytes.
---@class theaterref.Blob
---@operator len: integer
local Blob = {}

---The bytes from `i` to `j`, counted as in `string.sub`.
---@param i? integer
---@param j? integer
---@return string
function Blob:sub(i, j) end

---The values of the bytes from `i` to `j`, as `string.byte` has them.
---@param i? integer
---@param j? integer
---@return integer ...
function Blob:byte(i, j) end

---The type of a WebAssembly binary that is complete.
---@return "module"|"component"|nil
---@return string? # what it is instead
function Blob:wasm_type() end

---@param algorithm? theaterref.Algorithm "sha256" unless said otherwise
---@return string hex
function Blob:digest(algorithm) end

---Writes a file: its name shows the old content or the new, never a part.
---@param path string
---@return true?
---@return theaterref.Error?
function Blob:write(path) end

---True if two blobs are the same memory.
---@param other theaterref.Blob
---@return boolean
function Blob:same(other) end

---The address of the bytes; valid as long as the blob.
---@return lightuserdata
---@return integer # how many there are
function Blob:pointer() end

-- -------------------------------------------------------------------- caches

---References to blobs, one for every Lua state of the process. `#cache`: how many.
---@class theaterref.Cache
---@operator len: integer
local Cache = {}

---@param reference string
---@return theaterref.Blob? # when it is there and fresh
function Cache:get(reference) end

---@return integer
function Cache:len() end

---@return boolean
function Cache:is_empty() end

---Forgets it.
---@param reference string
---@return boolean # whether it was there; a remembered failure is not
function Cache:remove(reference) end

---Forgets everything.
function Cache:clear() end

---Makes it stale: the next resolve asks its source.
---@param reference string
---@return boolean # whether it was there
function Cache:refresh(reference) end

---Keeps it, and what replaces it, from being evicted.
---@param reference string
---@param kept? boolean false: it may be evicted again
---@return boolean # whether it was there
function Cache:keep(reference, kept) end

---@class theaterref.CacheStats
---@field hits integer
---@field misses integer
---@field coalesced integer waited for another's load
---@field stale integer served past their ttl
---@field loads integer
---@field errors integer
---@field evictions integer
---@field entries integer
---@field bytes integer
---@field by_consumer table<string, { hits: integer, misses: integer, coalesced: integer }>

---@return theaterref.CacheStats
function Cache:stats() end

---Closes the cache of this name: its handles go on with it, and the next one to open the
---name makes a new cache.
---@return boolean # false: it has no name, or is closed already
function Cache:close() end

---Seconds that an entry is fresh; nil: for ever.
---@return number?
function Cache:ttl() end

---The folder of its disk cache, and the disk cache's bound in bytes.
---@return string?
---@return integer?
function Cache:disk() end

-- ------------------------------------------------------------------- futures

---One result that arrives once. `cqueues.poll(future)` works.
---@class theaterref.Future
---@field hit boolean whether a cache had it
---@field signed_by? string[] the keys that signed the bytes, if any were required
---@field target string where it came from
local Future = {}

---@return boolean
function Future:done() end

---@param seconds? number at most; then an error of kind `timeout`, and it may be waited for again
---@return theaterref.Blob?
---@return theaterref.Error?
function Future:wait(seconds) end

---Makes it signal a notifier of the core when `done` may have something to do.
---@param notifier userdata
function Future:notify(notifier) end

---Stops signalling a notifier.
---@param notifier userdata
function Future:forget(notifier) end

---Gives it up; a transfer that nobody else wants stops.
function Future:cancel() end

---A descriptor that is readable when the result of `done()` has changed; do not read or close it.
---@return integer
function Future:pollfd() end

---The events to watch the descriptor for.
---@return "r"
function Future:events() end

---How long a loop may sleep on it, in seconds.
---@return number?
function Future:timeout() end

---A follower of a reference. `cqueues.poll(follower)` works.
---@class theaterref.Follower
local Follower = {}

---Does the work that is due: checks, and calls the function if the content has changed.
---@return boolean # false once it is closed
function Follower:step() end

---As `step`: true once it is closed.
---@return boolean
function Follower:done() end

---@param seconds? number at most; without it, until there is new content
---@return theaterref.Blob?
---@return string|theaterref.Error # the reference
function Follower:wait(seconds) end

---@return theaterref.Blob? # the last good content
---@return theaterref.Error? # of the last check, if it failed
function Follower:content() end

---Makes it signal this notifier of the core instead of its own. Call it before the first step.
---@param notifier userdata
function Follower:notify(notifier) end

---Stops it.
function Follower:close() end

---Stops it, too.
function Follower:cancel() end

---A descriptor that is readable when `step` has something to do; do not read or close it.
---@return integer
function Follower:pollfd() end

---The events to watch the descriptor for.
---@return "r"
function Follower:events() end

---How long a loop may sleep on it, in seconds.
---@return number?
function Follower:timeout() end

---@class theaterref.Info
---@field url string redacted, after redirects
---@field status integer
---@field attempts integer
---@field received integer bytes, as sent
---@field unchanged boolean
---@field content_type? string
---@field no_store? boolean # Cache-Control: no-store or private
---@field etag? string
---@field last_modified? string
---@field hosts? string[] that it was redirected to, in order
---@field private? boolean whether a server had a private address
---@field digest? string
---@field seconds { started?: number, connected?: number, first_byte?: number, done: number }

---Facts about the fetch, once it is done.
---@return theaterref.Info?
function Future:info() end

---Bytes received so far and, when known, expected in all.
---@return integer
---@return integer?
function Future:progress() end

-- -------------------------------------------------------------------- stores

---A content store on disk, in Theater's layout.
---@class theaterref.Store
local Store = {}

---@param bytes theaterref.Bytes
---@return string? hash
---@return theaterref.Error?
function Store:put(bytes) end

---@param hash string
---@param max_bytes? integer larger content is an error of kind "too_large"
---@return theaterref.Blob?
---@return theaterref.Error?
function Store:get(hash, max_bytes) end

---@param hash string
---@return boolean?
---@return theaterref.Error?
function Store:exists(hash) end

---Points a label at content. With `expect`, only if it is at that hash (`false`:
---only if there is no such label); false when it was not.
---@param name string
---@param hash string
---@param options? theaterref.LabelOptions
---@return boolean?
---@return theaterref.Error?
function Store:label(name, hash, options) end

---@param name string
---@param hash string
---@return boolean?
---@return theaterref.Error?
function Store:replace_at_label(name, hash) end

---@param name string
---@return string? hash nil alone when there is no such label
---@return theaterref.Error?
function Store:get_by_label(name) end

---@param name string
---@param max_bytes? integer larger content is an error of kind "too_large"
---@return theaterref.Blob? # nil alone when there is no such label
---@return theaterref.Error?
function Store:get_content_by_label(name, max_bytes) end

---@param name string
---@return boolean?
---@return theaterref.Error?
function Store:label_exists(name) end

---@param name string
---@return string[]? hashes
---@return theaterref.Error?
function Store:history(name) end

---@param name string
---@param options? { to: string }
---@return string? hash
---@return string|theaterref.Error? # the hash until now
function Store:rollback(name, options) end

---@param name string
---@param bytes theaterref.Bytes
---@return string? hash
---@return theaterref.Error?
function Store:store_at_label(name, bytes) end

---@param name string
---@param bytes theaterref.Bytes
---@return string? hash
---@return theaterref.Error?
function Store:replace_content_at_label(name, bytes) end

---@param name string
---@return boolean? # whether it was there
---@return theaterref.Error?
function Store:remove_label(name) end

---@param name string
---@param hash string
---@return boolean? # whether it was there, and at this hash
---@return theaterref.Error?
function Store:remove_from_label(name, hash) end

---@return string[]?
---@return theaterref.Error?
function Store:list_labels() end

---@return string[]?
---@return theaterref.Error?
function Store:list_all_content() end

---@return integer? bytes
---@return theaterref.Error?
function Store:calculate_total_size() end

---@class theaterref.Batch
local Batch = {}

---@param bytes theaterref.Bytes
---@param algorithm? theaterref.Algorithm the store's unless said otherwise
---@return string? hash
---@return theaterref.Error?
function Batch:put(bytes, algorithm) end

---@param name string
---@param hash string
---@return true?
---@return theaterref.Error?
function Batch:label(name, hash) end

---Stores much for the price of one sync: nothing before the end, then all. The batch commits unless the function raises, or
---returns false or nil and an error.
---@param work fun(batch: theaterref.Batch): any
---@return any # what `work` returns; true if it returns nothing
---@return theaterref.Error?
function Store:batch(work) end

---@class theaterref.VerifyReport
---@field checked integer
---@field corrupt string[]
---@field unreadable string[]
---@field missing string[]
---@field dangling string[]
---@field faulty_labels table<string, string>
---@field quarantined string[]
---@field unexpected string[] what lies in data/ and is no content
---@field temporary_files string[]

---@param options? { progress?: fun(done: integer, all: integer), remote?: boolean }
---@return theaterref.VerifyReport?
---@return theaterref.Error?
function Store:verify(options) end

---@param options? theaterref.GcOptions
---@return { deleted: string[], temporary_files: string[], failed: table<string, string>, kept: { labelled: integer, young: integer, in_use: integer } }?
---@return theaterref.Error?
function Store:gc(options) end

---@return { bytes: integer, unlabelled: integer, labels: { label: string, hash: string, bytes?: integer }[] }?
---@return theaterref.Error?
function Store:usage() end

---@param path string|file*
---@param options? { progress?: fun(done: integer, all: integer), force?: boolean } # force: replace an export of another store
---@return true?
---@return theaterref.Error?
function Store:export(path, options) end

---@param path string|file*
---@param options? { progress: fun(bytes: integer, all?: integer), keep_labels: boolean }
---@return integer? # how many files there were
---@return integer|theaterref.Error? # how many labels moved or, with keep_labels, stayed
function Store:import(path, options) end

-- ------------------------------------------------------------------ policies

---@alias theaterref.Purpose "manifest"|"package"|"initial_state"|"secret"|"direct"|"signature"|"key"

---@class theaterref.Context
---@field purpose theaterref.Purpose
---@field manifest_reference? string what the manifest's references are relative to
---@field origin? string where the manifest's bytes came from: after rewriting, schemes and redirects
---@field origin_is_remote? boolean true: over the network, also from a remote store
---@field manifest? table
---@field name? string
---@field package? string as written
---@field digest? string for `cacheable` and `accept`: the SHA-256 that the bytes must have
---@field asked? string for `signatures`: the reference before `rewrite`
---@field plain_http? table<string, boolean> for `allow`: the option of that name, by registry, if one has it; and by `s3://<bucket>`
---@field reference? string for `cacheable` and `accept`: the bytes' reference

---@class theaterref.Event
---@field type "resolved"|"cache"|"retry"|"retries_failed"|"fallback"|"registry"|"remote_store"|"disk_cache"|"follow_changed"|"follow_failed"|"phase"|"failure"|"refusal"|"signed"|"misspelt_key"|"state_not_json"|"policy_reloaded"|"policy_broken"
---@field reference string redacted
---@field purpose? theaterref.Purpose|"spawn"
---@field bytes? integer
---@field outcome? "hit"|"stale"|"wait"|"miss"|"disk"
---@field attempts? integer
---@field message? string
---@field reason? string
---@field name? string
---@field known? string
---@field seconds? number
---@field signed_by? string the names of the keys
---@field sha256? string

---@alias theaterref.CacheableOptions { ttl?: number, revalidate?: boolean, disk?: false }
---@alias theaterref.Integrity string|{ sha256?: string, sha1?: string, store?: string, offline?: boolean, signatures?: string[] }
---@alias theaterref.Signatures { keys: string[], threshold?: integer, endings?: string[], from?: string|string[] }
---@alias theaterref.Rewrite fun(reference: string, ctx: theaterref.Context): string|string[]
---@alias theaterref.Allow fun(reference: string, ctx: theaterref.Context): boolean?, string|{ redirect_hosts: string[]|"any" }|nil
---@alias theaterref.Merge fun(config_state?: string, override_state?: string, ctx?: theaterref.Context): string?

---@class theaterref.Rules
---@field rewrite? theaterref.Rewrite
---@field allow? theaterref.Allow
---@field integrity? fun(reference: string, ctx: theaterref.Context): theaterref.Integrity?, string?
---@field signatures? fun(reference: string, ctx: theaterref.Context): theaterref.Signatures?, string?
---@field accept? fun(blob: theaterref.Blob, ctx: theaterref.Context): boolean, string? a script's blob has `sub`, `byte` and `wasm_type`
---@field cacheable? fun(manifest?: table, ctx: theaterref.Context): boolean|theaterref.CacheableOptions?
---@field merge? theaterref.Merge
---@field secrets? fun(reference: string, ctx: theaterref.Context): boolean?
---@field allow_spawn? fun(manifest: table, ctx: theaterref.Context): boolean|table, string?
---@field request? fun(reference: string, ctx: theaterref.Context): theaterref.RequestOptions?
---@field on_event? fun(event: theaterref.Event)
---@field schemes? table<string, fun(reference: string, ctx: theaterref.Context): theaterref.Bytes|theaterref.Future|{ reference: string }>

---@class theaterref.DefaultRules
---@field rewrite theaterref.Rewrite
---@field allow theaterref.Allow
---@field integrity fun(reference: string, ctx: theaterref.Context): theaterref.Integrity?
---@field signatures fun(reference: string, ctx: theaterref.Context): theaterref.Signatures?
---@field accept fun(blob: theaterref.Blob, ctx: theaterref.Context): boolean
---@field cacheable fun(manifest?: table, ctx: theaterref.Context): boolean
---@field merge theaterref.Merge
---@field secrets fun(reference: string, ctx: theaterref.Context): boolean
---@field allow_spawn fun(manifest: table, ctx: theaterref.Context): boolean
---@field request fun(reference: string, ctx: theaterref.Context): theaterref.RequestOptions
---@field on_event fun(event: theaterref.Event)

---@class theaterref.MergeRules
---@field shallow theaterref.Merge Theater's: key by key at the top, the override first
---@field deep theaterref.Merge RFC 7396
---@field append theaterref.Merge the same, and arrays are put together
---@field keys fun(rules: table<string, "config"|"override"|fun(config?: string, override?: string): string?>): theaterref.Merge

---@class theaterref.Policies
---@field default theaterref.DefaultRules
---@field merge theaterref.MergeRules
local policy = {}

---Replaces prefixes; the longest that matches counts.
---@param prefixes table<string, string|string[]>
---@return theaterref.Rewrite
function policy.mirror(prefixes) end

---Short names for references.
---@param names table<string, string>
---@return theaterref.Rewrite
function policy.alias(names) end

---`~/` and `${NAME}`, for the environment variables in a list.
---@param names? string[]
---@return theaterref.Rewrite
function policy.expand(names) end

---One rewriting after another.
---@param ... theaterref.Rewrite
---@return theaterref.Rewrite
function policy.chain(...) end

---Only what is listed, on top of the default rule.
---@param lists { schemes?: string[], hosts?: string[], stores?: string[], prefixes?: string[] }
---@return theaterref.Allow
function policy.only(lists) end

---Signatures by `threshold` of `keys`.
---@param options { keys: string[], threshold?: integer, endings?: string[], purposes?: string[], prefixes?: string[] }
---@return fun(reference: string, ctx: theaterref.Context): theaterref.Signatures?
function policy.signed(options) end

---Packages that are WebAssembly.
---@param options { module?: boolean, component?: boolean }
---@return fun(blob: theaterref.Blob, ctx: theaterref.Context): boolean, string?
function policy.wasm(options) end

---Every reference must be in the lockfile and have its digest.
---@param file string
---@param options? { store?: string, offline?: boolean }
---@return theaterref.Rules
function policy.lockfile(file, options) end

---Several tables of rules as one; the later wins.
---@param ... theaterref.Rules
---@return theaterref.Rules
function policy.combine(...) end

---A number from 0 up to 100 that is always the same for a name.
---@param name string
---@return number
function policy.percentile(name) end

-- ----------------------------------------------------------------- resolvers

---@class theaterref.Phase
---@field name string
---@field seconds number
---@field bytes integer

---@class theaterref.Plan
---@field manifest table exactly what the document says, its variables filled in
---@field manifest_reference string as it was asked for
---@field origin string where its bytes came from: after rewriting, schemes and redirects
---@field name string
---@field package theaterref.Blob
---@field package_reference string
---@field package_type "wasm module"|"wasm component"|"unknown" by the first eight bytes
---@field signed_by? string[] the keys that signed the package; nil if the policy requires none
---@field initial_state? string JSON text
---@field state_without_secrets? string the same, with its `$ref` objects as they were
---@field secrets? { filled: integer, left: integer } how many `$ref` objects were filled in, and how many stay; nil without any
---@field used_cache boolean
---@field cache_hit boolean
---@field phases theaterref.Phase[]

---@class theaterref.CallOptions
---@field cached? boolean through the resolver's cache
---@field cache? theaterref.Cache through this one
---@field ttl? number
---@field revalidate? boolean
---@field disk? boolean false: not through the disk cache
---@field resolve_timeout? number

---@class theaterref.FollowOptions
---@field interval? number seconds that a check is good for; 60, or the `label_ttl` of a remote store
---@field jitter? number the part of the interval, from 0 to 1, by which checks come later; 0.1
---@field on_error? fun(err: theaterref.Error, reference: string)
---@field resolve_timeout? number for each check; 600

---@class theaterref.DeriveOptions
---@field cache? theaterref.Cache instead of the resolver's own
---@field derive_timeout? number 600

---@class theaterref.PlanOptions
---@field initial_state? theaterref.Bytes
---@field plan_timeout? number

---References to bytes, under a policy.
---@class theaterref.Resolver
local Resolver = {}

---@param reference string
---@param options? theaterref.CallOptions
---@return theaterref.Blob?
---@return theaterref.Error?
function Resolver:resolve(reference, options) end

---@param reference string
---@param cache? theaterref.Cache instead of the resolver's own
---@return theaterref.Blob?
---@param options? theaterref.CallOptions
---@return boolean|theaterref.Error # whether it was there already
function Resolver:resolve_cached(reference, cache, options) end

---@param references string[]
---@return (theaterref.Blob|false)[]
---@return (theaterref.Error|false)[]
function Resolver:resolve_all(references) end

---@param reference string
---@param options? theaterref.CallOptions
---@return theaterref.Future?
---@return theaterref.Error?
function Resolver:start(reference, options) end

---Follows a reference: calls a function with its content, and again when that changes.
---@param reference string
---@param call fun(blob: theaterref.Blob, reference: string)
---@param options? theaterref.FollowOptions
---@return theaterref.Follower
function Resolver:follow(reference, call, options) end

---Returns what a function makes of a blob, computed once for each SHA-256 and recipe.
---@param blob theaterref.Blob
---@param recipe string names everything else that the result depends on
---@param make fun(blob: theaterref.Blob): theaterref.Bytes?, any
---@param options? theaterref.DeriveOptions
---@return theaterref.Blob?
---@return theaterref.Error?
function Resolver:derive(blob, recipe, make, options) end

---Starts to derive, and returns at once, unless this call is the one that computes.
---@param blob theaterref.Blob
---@param recipe string
---@param make fun(blob: theaterref.Blob): theaterref.Bytes?, any
---@param options? theaterref.DeriveOptions
---@return theaterref.Future?
---@return theaterref.Error?
function Resolver:start_derive(blob, recipe, make, options) end

---Everything a spawn needs.
---@param manifest_reference string
---@param options? theaterref.PlanOptions
---@return theaterref.Plan?
---@return theaterref.Error?
function Resolver:plan(manifest_reference, options) end

---Starts to plan a spawn, and returns at once. The future's result is the plan.
---@param manifest_reference string
---@param options? theaterref.PlanOptions
---@return theaterref.Future?
---@return theaterref.Error?
function Resolver:start_plan(manifest_reference, options) end

---The steps of a plan up to the manifest's variables.
---@param manifest_reference string
---@param options? theaterref.PlanOptions
---@return { text: string, format: "toml"|"json"|"lua" }?
---@return theaterref.Error?
function Resolver:render(manifest_reference, options) end

---Plans or resolves, and calls `trace` with each step: what a rule answered, and what was resolved.
---@param reference string
---@param ctx { purpose: theaterref.Purpose, name?: string } with the purpose `manifest` it is planned
---@param trace fun(step: table)
---@param options? theaterref.PlanOptions
---@return theaterref.Plan|theaterref.Blob|nil
---@return theaterref.Error?
function Resolver:trace(reference, ctx, trace, options) end

---Pushes a manifest to a registry, with its package and its initial state.
---@param manifest_reference string
---@param target string `oci://registry/repository:tag`
---@param options? theaterref.PlanOptions
---@return { reference: string, digest: string, package_reference: string, package_digest: string, moved_from?: string }?
---@return theaterref.Error?
function Resolver:push(manifest_reference, target, options) end

---Copies the bytes of a reference, or with `all` a whole artifact, to another place.
---@param from string
---@param to string a path, `store://<id>/<label>`, `oci://registry/repository:tag` or `s3://bucket/key`
---@param options? theaterref.CopyOptions
---@return { reference: string, bytes?: integer, sha256?: string, digest?: string, documents?: integer, blobs?: integer, package_reference?: string, moved_from?: string }?
---@return theaterref.Error?
function Resolver:copy(from, to, options) end

---Signs an artifact in a registry as cosign does, and pushes the signature beside it.
---@param reference string
---@param key theaterref.Bytes|fun(payload: theaterref.Blob): string?, theaterref.Error? the private key in PEM, or what signs
---@param password? string
---@return { reference: string, digest: string, signature: string }?
---@return theaterref.Error?
function Resolver:sign(reference, key, password) end

---All tags of a repository in a registry.
---@param reference string
---@return string[]?
---@return theaterref.Error?
function Resolver:tags(reference) end

---Tells what an artifact in a registry has.
---@param reference string
---@return table?
---@return theaterref.Error?
function Resolver:inspect(reference) end

---The store of an id, in this resolver's home.
---@param id string
---@return theaterref.Store?
---@return theaterref.Error?
function Resolver:store(id) end

-- ---------------------------------------------------------------- the module

---@class theaterref.ParsedReference
---@field scheme string
---@field text string
---@field path? string
---@field id? string
---@field hash? string
---@field label? string
---@field url? string
---@field host? string
---@field port? integer
---@field sha256? string
---@field sha1? string
---@field bytes? string
---@field registry? string
---@field repository? string
---@field tag? string
---@field manifest? string
---@field title? string

---@class theaterref.References
local reference = {}

---The scheme in front of `://`, in lower case.
---@param ref string
---@return string?
function reference.scheme(ref) end

---True if theaterref itself reads a scheme.
---@param scheme string
---@return boolean
function reference.is_own_scheme(scheme) end

--- True if the bytes that a reference means count as coming from the network.
---@param ref string
---@return boolean
function reference.is_remote(ref) end

--- True if a reference means the same bytes for ever, by its form alone.
---@param ref string
---@return boolean
function reference.is_immutable(ref) end

---@param ref string
---@param schemes? table<string, any> names of other schemes that count as such
---@return theaterref.ParsedReference?
---@return theaterref.Error?
function reference.parse(ref, schemes) end

---Joins a reference to the document at `base`.
---@param base? string
---@param ref string
---@param info? table what loading the document fixed
---@return string?
---@return theaterref.Error?
function reference.join(base, ref) end

---A reference without what must not be shown.
---@param ref string
---@return string
function reference.redact(ref) end

---A reference to an artifact in a registry, at the digest of a manifest; others stay as they are.
---@param ref string
---@param manifest string
---@return string
function reference.at_digest(ref, manifest) end

---A reference that is meant as a manifest's: to an artifact in a registry, with the title `manifest.toml`; others unchanged.
---@param ref string
---@param schemes? table<string, function> a policy's own, by name
---@return string
function reference.for_manifest(ref, schemes) end

---A path as an absolute one; other references stay as they are.
---@param ref string
---@return string
function reference.absolute(ref) end

---@class theaterref.Templates
local template = {}

---@param text string
---@param state? string|table JSON text or a Lua table
---@param options? { helpers?: table<string, function>, max_bytes?: integer }
---@return string?
---@return theaterref.Error?
function template.substitute_variables(text, state, options) end

---@class theaterref
---@field _VERSION string
---@field policy theaterref.Policies
---@field reference theaterref.References
---@field template theaterref.Templates
local theaterref = {}

---Resolves a reference to its bytes, past any cache.
---@param ref string
---@param options? theaterref.ResolverOptions
---@return theaterref.Blob?
---@return theaterref.Error?
function theaterref.resolve_reference(ref, options) end

---Resolves a reference through a cache.
---@param ref string
---@param cache theaterref.Cache
---@param options? theaterref.ResolverOptions
---@return theaterref.Blob?
---@return boolean|theaterref.Error # whether it was there already
function theaterref.resolve_reference_cached(ref, cache, options) end

---@param config_state? theaterref.Bytes
---@param override_state? theaterref.Bytes
---@return string?
function theaterref.merge_initial_states(config_state, override_state) end

---The metrics of the process as OpenMetrics text.
---@return string?
---@return theaterref.Error?
function theaterref.metrics() end

---Sign bytes as `cosign sign-blob` does.
---@param bytes theaterref.Bytes
---@param key theaterref.Bytes the private key in PEM
---@param password? string
---@return string? # the text of a `.sig` file
---@return theaterref.Error?
function theaterref.sign(bytes, key, password) end

---Check signatures of bytes.
---@param bytes theaterref.Bytes
---@param signatures theaterref.Bytes[] the texts of signatures
---@param keys string[] the texts of public keys
---@param threshold? integer
---@return integer[]? # the places in `keys` of those that signed
---@return theaterref.Error?
function theaterref.verify(bytes, signatures, keys, threshold) end

---@return string?
---@return theaterref.Error?
function theaterref.get_theater_home() end

---@param options? theaterref.CacheOptions
---@return theaterref.Cache?
---@return theaterref.Error?
function theaterref.resource_cache(options) end

---@param id string
---@param options? theaterref.StoreOptions
---@return theaterref.Store?
---@return theaterref.Error?
function theaterref.content_store(id, options) end

---@param options? theaterref.ResolverOptions
---@return theaterref.Resolver?
---@return theaterref.Error?
function theaterref.resolver(options) end

---The options that a configuration file sets.
---@param path? string instead of the usual places
---@return theaterref.ResolverOptions?
---@return string|theaterref.Error? # the file they came from
function theaterref.config(path) end

return theaterref
