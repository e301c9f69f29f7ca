--- Builders: functions of `theaterref.policy` that make rules.
--
-- The host and policy scripts both have them. This file runs in both: in a script's
-- sandbox it sees only the table that scripts know as `theaterref`.
-- @module theaterref.policy.builders
return function(theaterref)
  local policy, reference = theaterref.policy, theaterref.reference
  local default = policy.default

  -- ------------------------------------------------------------------- checks

  -- Raises a fault of a builder's argument at the line that calls the builder.
  local function refuse(builder, fault) error(("policy.%s: %s"):format(builder, fault), 4) end

  -- Checks the type of an argument, and of what is in it: 'item' names the types that
  -- the values of a table may have, 'key' that of its keys.
  local function check(builder, what, value, expected, key, item)
    if type(value) ~= expected then refuse(builder, ("%s must be a %s, not a %s"):format(what, expected, type(value))) end
    for k, v in pairs(item and value or {}) do
      if type(k) ~= key then refuse(builder, ("the keys of %s must be %ss, not %s"):format(what, key, tostring(k))) end
      if not item[type(v)] then refuse(builder, ("%s[%s] must not be a %s"):format(what, tostring(k), type(v))) end
    end
  end

  -- Checks a table of options.
  local function check_options(builder, set, given)
    check(builder, "its options", given, "table")
    local fault = theaterref.option_fault(set, given)
    if fault then refuse(builder, fault) end
  end

  local a_text, text_or_list = { string = true }, { string = true, table = true }

  -- ---------------------------------------------------------------- rewriting

  local function starts_with(text, prefix) return text:sub(1, #prefix) == prefix end

  local function each(answer, apply)
    if type(answer) ~= "table" then return apply(answer) end
    local all = {}
    for _, item in ipairs(answer) do
      local more = apply(item)
      if type(more) ~= "table" then more = { more } end
      for _, one in ipairs(more) do all[#all + 1] = one end
    end
    return all
  end

  --- One rewriting after another: each gets what the one before answered.
  -- @tparam function ... rules
  -- @treturn function a rule `rewrite`
  function policy.chain(...)
    local rules = table.pack(...)
    for i = 1, rules.n do check("chain", "argument " .. i, rules[i], "function") end
    return function(ref, ctx)
      local answer = ref
      for _, rule in ipairs(rules) do
        answer = each(answer, function(one) return rule(one, ctx) end)
      end
      return answer
    end
  end

  -- Returns a reference with another beginning. That of a registry may end in '?ns=…', the
  -- registry that a mirror is to ask, which goes to the end.
  local function replace_prefix(base, rest)
    local prefix, ns = base:match "^([Oo][Cc][Ii]://[^?#]*)(%?ns=[^#]*)$"
    if not prefix then return base .. rest end
    local name, fragment = rest:match "^([^#]*)(.*)$"
    return prefix .. name .. ns .. fragment
  end

  --- Replaces prefixes by a text, or by a list to try in order. The longest prefix
  -- that matches counts.
  -- @tparam table prefixes text or list, by prefix
  -- A reference that is relative to its manifest is joined to it first.
  -- @treturn function a rule `rewrite`
  function policy.mirror(prefixes)
    check("mirror", "its argument", prefixes, "table", "string", text_or_list)
    for prefix, list in pairs(prefixes) do
      if type(list) == "table" then check("mirror", ("the list of '%s'"):format(prefix), list, "table", "number", a_text) end
    end
    return function(ref, ctx)
      ref = default.rewrite(ref, ctx)
      local best
      for prefix in pairs(prefixes) do
        if starts_with(ref, prefix) and (not best or #prefix > #best) then best = prefix end
      end
      if not best then return ref end
      return each(prefixes[best], function(base) return replace_prefix(base, ref:sub(#best + 1)) end)
    end
  end

  --- Short names for references.
  -- @tparam table names references by name
  -- @treturn function a rule `rewrite`
  function policy.alias(names)
    check("alias", "its argument", names, "table", "string", a_text)
    return function(ref) return names[ref] or ref end
  end

  --- `~/` and `${NAME}`, for the environment variables in a list.
  -- @tparam[opt] table names
  -- @treturn function a rule `rewrite`
  function policy.expand(names)
    local allowed = { HOME = true }
    check("expand", "its argument", names or {}, "table", "number", a_text)
    for _, name in ipairs(names or {}) do allowed[name] = true end
    local function value(name)
      if not allowed[name] then error("the environment variable '" .. name .. "' is not in the list that may be used", 0) end
      return theaterref.getenv(name) or error("the environment variable '" .. name .. "' is not set", 0)
    end
    return function(ref)
      if starts_with(ref, "~/") then ref = value "HOME" .. ref:sub(2) end
      return (ref:gsub("%${([%w_]+)}", value))
    end
  end

  -- ------------------------------------------------------------------- access

  local function set_of(list)
    if not list then return nil end
    local set = {}
    for _, item in ipairs(list) do set[item] = true end
    return set
  end

  local function host_allowed(host, hosts)
    for _, pattern in ipairs(hosts) do
      pattern = pattern:lower()
      if pattern == host or starts_with(pattern, "*.") and host:sub(-#pattern + 1) == pattern:sub(2) then return true end
    end
    return false
  end

  local function decode(hex) return string.char(tonumber(hex, 16)) end

  -- True if a reference climbs out of the prefix that it begins with, in the eyes of any
  -- server: with '..' spelled in any way, and encoded several times.
  local function climbs(ref)
    local path, found = ref:match "^[^?#]*", nil
    for _ = 1, 5 do
      path, found = path:gsub("%%(%x%x)", decode)
      if found == 0 then break end
    end
    if found > 0 then return true end -- nothing honest is encoded so often
    -- With the forms of '.' and '/' that are too long for UTF-8, but not for some servers.
    path = path:gsub("\xC0[\xAE\x2E]", "."):gsub("\xE0\x80\xAE", "."):gsub("\xC0\xAF", "/"):gsub("\xE0\x80\xAF", "/")
      :gsub("\xC1\x9C", "/"):gsub("\\", "/") .. "/"
    return path:find "/%.%.[/?#;%c ]" ~= nil
  end

  -- True if a file lies below a prefix that is a path or a file URL, wherever links lead.
  local function is_file_below(path, prefix)
    local parsed = reference.parse(prefix)
    local folder, rest = (parsed and parsed.path or ""):match "^(.*/)(.*)$"
    folder = folder and reference.real_path(folder)
    return folder ~= nil and starts_with(path, (folder == "/" and "" or folder) .. "/" .. rest)
  end

  -- True for a pipe that the process has open, whose path no link leads away from.
  local function is_open_pipe(ref, path)
    return path == ref and (path == "/dev/stdin" or path:find "^/dev/fd/%d+$" or path:find "^/proc/self/fd/%d+$") ~= nil
  end

  -- True if a reference has a prefix. One that ends within a host or port must end there in the
  -- reference, too: 'https://good.inv' is no prefix of 'https://good.invalid/'.
  local function has_prefix(ref, prefix)
    if not starts_with(ref, prefix) then return false end
    return not prefix:find "^%a[%w+.-]*://[^/?#]+$" or ref:find("^[/?#]", #prefix + 1) ~= nil or #ref == #prefix
  end

  -- True if a reference, and the path of its file if it is one, are below one of the prefixes.
  local function below_one(prefixes, ref, path)
    if climbs(ref) then return false end
    for _, prefix in ipairs(prefixes) do
      if has_prefix(ref, prefix) and (not path or is_open_pipe(ref, path) or is_file_below(path, prefix)) then return true end
    end
    return false
  end

  local with_host = { http = true, https = true, oci = true }

  --- Only what is listed, on top of the default rule: `schemes`, `hosts` (also
  -- `*.example.org`), `stores`, and `prefixes` of whole references, best with a '/' at the end,
  -- for files also of the path with its links resolved: give files as absolute paths. Redirects may lead to
  -- `hosts` and `redirect_hosts` only, if there are such lists; with `prefixes` alone, to the same
  -- host.
  -- @tparam table lists
  -- @treturn function a rule `allow`
  function policy.only(lists)
    check_options("only", "only", lists)
    if not next(lists) then refuse("only", "it lists nothing; give schemes, hosts, stores or prefixes") end
    local schemes, stores = set_of(lists.schemes), set_of(lists.stores)
    local function not_listed(what, list)
      return false, ("%s is not in the policy's list of %s; to allow it, add it there"):format(what, list)
    end
    local redirect_hosts
    if lists.hosts or lists.redirect_hosts then
      redirect_hosts = {}
      for _, host in ipairs(lists.hosts or {}) do redirect_hosts[#redirect_hosts + 1] = host end
      for _, host in ipairs(lists.redirect_hosts or {}) do redirect_hosts[#redirect_hosts + 1] = host end
    end
    return function(ref, ctx)
      local scheme = reference.scheme(ref) or "file"
      if schemes and not schemes[scheme] then return not_listed("the scheme " .. scheme, "schemes") end
      local parsed = reference.is_own_scheme(scheme) and reference.parse(ref) or {}
      if lists.hosts and with_host[scheme] and not host_allowed(parsed.host, lists.hosts) then
        return not_listed("the host " .. tostring(parsed.host), "hosts")
      end
      if lists.hosts and scheme == "s3" and not schemes and not lists.prefixes then -- a bucket is no host
        return false, "a bucket has no host that the policy could list; to allow it, list s3 in 'schemes', or it in 'prefixes'"
      end
      if stores and scheme == "store" and not stores[parsed.id] then
        return not_listed("the store " .. tostring(parsed.id), "stores")
      end
      if lists.prefixes and not below_one(lists.prefixes, ref, scheme == "file" and ctx.path) then
        if scheme == "file" and not ref:find "^/" and not reference.scheme(ref) then
          return false, "this relative path is not in the policy's list of prefixes; to allow it, give it as an absolute path"
        end
        return not_listed("this reference", "prefixes")
      end
      local allowed, why = default.allow(ref, ctx)
      if not allowed then
        return false, (why:gsub("; to allow it, .*", "; policy.only keeps this rule: to allow it, write an 'allow' without it"))
      end
      if redirect_hosts then return true, { redirect_hosts = redirect_hosts } end
      return true, not lists.prefixes and why or nil -- with prefixes, to the same host only
    end
  end

  -- ------------------------------------------------------------------ merging

  -- A JSON object's members: raw values by key, and whether it is one.
  local function members(text)
    local kind, list = theaterref.json_split(text)
    if kind ~= "object" then return nil end
    local found = {}
    for i = 1, #list, 2 do found[list[i]] = list[i + 1] end
    return found
  end

  local function write(object)
    if not next(object) then return "{}" end
    local keys, parts = {}, {}
    for key in pairs(object) do keys[#keys + 1] = key end
    table.sort(keys)
    local all = table.concat(keys)
    local plain = theaterref.json_quote(all) == '"' .. all .. '"' -- no key needs escapes: one call instead of many
    for i, key in ipairs(keys) do
      parts[i] = (plain and '"' .. key .. '":' or theaterref.json_quote(key) .. ":") .. object[key]
    end
    return "{" .. table.concat(parts, ",") .. "}"
  end

  -- RFC 7396: objects member by member, null takes a member away, anything else
  -- replaces. 'arrays' says what to do with two arrays.
  local function patch(target, change, arrays)
    if not change:find "^%s*[{%[]" then return change end
    local kind, items = theaterref.json_split(change)
    if kind == "array" and arrays and target then
      local old_kind, old = theaterref.json_split(target)
      if old_kind == "array" then
        for _, item in ipairs(items) do old[#old + 1] = item end
        return "[" .. table.concat(old, ",") .. "]"
      end
    end
    if kind ~= "object" then return change end
    local result = target and members(target) or {}
    for i = 1, #items, 2 do
      local key, value = items[i], items[i + 1]
      if value == "null" then result[key] = nil else result[key] = patch(result[key], value, arrays) end
    end
    return write(result)
  end

  local function is_object(state) return state and theaterref.json_split(state) == "object" end

  local function merge_with(arrays)
    return function(config, override)
      if not is_object(config) or not is_object(override) then return override or config end
      return patch(config, override, arrays)
    end
  end

  policy.merge = {
    --- Theater's: top-level members, the override's first; a rule `merge`.
    shallow = default.merge,
    --- RFC 7396, JSON merge patch: objects within objects too; null removes.
    deep = merge_with(false),
    --- The same, and two arrays become one after the other.
    append = merge_with(true),
    --- By top-level key: `config` or `override` (whose value stays), or a function
    -- of both raw values, each of which may be nil. Other keys as in `shallow`.
    -- @tparam table rules by key
    -- @treturn function a rule `merge`
    keys = function(rules)
      check("merge.keys", "its argument", rules, "table", "string", { string = true, ["function"] = true })
      for key, rule in pairs(rules) do
        if type(rule) == "string" and rule ~= "config" and rule ~= "override" then
          refuse("merge.keys", ("'%s' must be 'config', 'override' or a function, not '%s'%s"):format(key, rule,
            theaterref.closest(rule, { config = true, override = true })))
        end
      end
      return function(config, override)
        local ours, theirs = config and members(config), override and members(override)
        if not ours or not theirs then return override or config end
        local result = {}
        for key, value in pairs(ours) do result[key] = value end
        for key, value in pairs(theirs) do result[key] = value end
        for key, rule in pairs(rules) do
          if rule == "config" then result[key] = ours[key]
          elseif rule == "override" then result[key] = theirs[key]
          else result[key] = rule(ours[key], theirs[key]) end
        end
        return write(result)
      end
    end,
  }

  -- --------------------------------------------------------------- lockfiles

  -- A text as one word of a shell's.
  local function shell_word(text)
    if text:find "^[%w%./:_@%%+=,~-]+$" then return text end
    return "'" .. text:gsub("'", "'\\''") .. "'"
  end

  --- Rules under a lockfile: every reference must be in it and have its digest.
  -- `store`: look there first; `offline`: and nowhere else.
  -- @tparam string file
  -- @tparam[opt] table options
  -- @treturn table with a rule `integrity`
  function policy.lockfile(file, options)
    local where = options or {}
    check("lockfile", "its argument", file, "string")
    check_options("lockfile", "lockfile", where)
    local lines = theaterref.read_lockfile(file)
    return {
      integrity = function(ref, ctx)
        if ctx.purpose == "secret" then return nil end -- which a lockfile has no business to know
        local fields = lines[theaterref.lockfile_key(ref)]
        if not fields then
          -- A reference that would be redacted makes no command.
          local manifest = ctx.manifest_reference or ctx.purpose == "manifest" and ref
          if not manifest or manifest:find "[?@]" or reference.scheme(manifest) == "data" then manifest = "MANIFEST" end
          return nil, ("it is not in the lockfile %s; to allow it, lock its manifest again: theaterref lock -o %s %s"):format(
            file, shell_word(file), shell_word(manifest))
        end
        local signatures = fields.signatures and {}
        for digest in (fields.signatures or ""):gmatch "[^,]+" do signatures[#signatures + 1] = digest end
        return { sha256 = fields.sha256, store = where.store, offline = where.offline, signatures = signatures,
          manifest = fields.manifest, version = fields.version, size = fields.manifest and math.tointeger(tonumber(fields.size)) }
      end,
    }
  end

  -- ------------------------------------------------------------------- trust

  local known_purposes = { direct = true, manifest = true, initial_state = true, package = true, secret = true }

  -- Returns the host with its port, and the path, of a parsed URL; nil for anything else.
  local function place_of(parsed)
    if not parsed or not parsed.host then return nil end
    local path = parsed.text:match "^%a[%w+.-]*://[^/?#]*([^?#]*)"
    return parsed.host:lower():gsub("%.$", "") .. ":" .. tostring(parsed.port), path == "" and "/" or path
  end

  -- True if a URL's path is spelled in one way only, for any server.
  local function is_plain(path) return not path:find "[%%\\]" and not path:find("//", 1, true) and not path:find "/%.%.?/" end

  -- True if a URL has a prefix in any spelling: of what a server may take for it, too much counts
  -- rather than too little.
  local function may_be_below_url(parsed, prefix)
    local host, path = place_of(parsed)
    local its_host, its_path = place_of(reference.parse(prefix))
    if not host or host ~= its_host then return false end
    return starts_with(path, its_path) or not is_plain(path)
  end

  -- True if a file has a prefix, wherever the links in both lead.
  local function may_be_below_path(path, prefix)
    local parsed = reference.parse(prefix)
    local its_path = parsed and parsed.path
    if not its_path then return false end
    local real = reference.real_path(its_path)
    if real and its_path:find "/$" and real ~= "/" then real = real .. "/" end
    return is_file_below(path, prefix) or real ~= nil and starts_with(path, real)
  end

  -- True if a reference has one of the prefixes in any spelling.
  local function may_be_below(ref, prefixes)
    local parsed = reference.parse(ref)
    local path = parsed and parsed.path and (reference.real_path(parsed.path) or parsed.path)
    for _, prefix in ipairs(prefixes) do
      if has_prefix(ref, prefix) or may_be_below_url(parsed, prefix) then return true end
      if path and may_be_below_path(path, prefix) then return true end
    end
    return false
  end

  -- Raises if a list has nothing in it, which would require nothing.
  local function refuse_empty(builder, what, list)
    if list and not list[1] then refuse(builder, ("'%s' is empty; leave it out for all"):format(what)) end
  end

  --- Signatures by `threshold` of `keys`, for all references or those with one of the
  -- `purposes` and one of the `prefixes`.
  -- @tparam table options
  -- @treturn function a rule `signatures`
  function policy.signed(options)
    check_options("signed", "signed", options)
    if not options.keys then refuse("signed", "it needs 'keys'") end
    refuse_empty("signed", "purposes", options.purposes)
    refuse_empty("signed", "prefixes", options.prefixes)
    for _, purpose in ipairs(options.purposes or {}) do
      if not known_purposes[purpose] then
        refuse("signed", ("there is no purpose '%s'%s"):format(purpose, theaterref.closest(purpose, known_purposes)))
      end
    end
    local purposes, prefixes = set_of(options.purposes), options.prefixes
    local requirement = { keys = options.keys, threshold = options.threshold, endings = options.endings }
    return function(ref, ctx)
      if purposes and not purposes[ctx.purpose] then return nil end
      if not prefixes or may_be_below(ref, prefixes) then return requirement end
      if ctx.asked and may_be_below(ctx.asked, prefixes) then return requirement end
      if reference.scheme(ref) ~= "data" then return nil end
      -- A data URL comes from where its manifest came from.
      for _, origin in ipairs { ctx.origin or ctx.manifest_reference, ctx.manifest_reference } do
        if may_be_below(origin, prefixes) then return requirement end
      end
    end
  end

  --- Packages that are WebAssembly: a core `module`, or a `component`. Preamble, version and
  -- sections are checked. Manifests and states are accepted.
  -- @tparam table options
  -- @treturn function a rule `accept`
  function policy.wasm(options)
    check_options("wasm", "wasm", options)
    if not (options.module or options.component) then refuse("wasm", "it accepts nothing; give module or component") end
    return function(blob, ctx)
      if ctx.purpose ~= "package" and ctx.purpose ~= "direct" then return true end
      local kind, why = blob:wasm_type()
      if not kind then return false, "not WebAssembly: " .. why end
      if options[kind] then return true end
      return false, ("a wasm %s, but the policy accepts a wasm %s only"):format(kind, options.module and "module" or "component")
    end
  end

  -- ---------------------------------------------------------------- the rest

  --- A number from 0 up to 100 that is always the same for a name: for rules that
  -- mean a share of all actors.
  -- @tparam string name
  -- @treturn number
  function policy.percentile(name)
    check("percentile", "its argument", name, "string")
    return tonumber(theaterref.sha256(name):sub(1, 8), 16) / 0x100000000 * 100
  end

  --- Several tables of rules as one; the later wins.
  -- @tparam table ...
  -- @treturn table
  function policy.combine(...)
    local all, given = {}, table.pack(...)
    for i = 1, given.n do
      check("combine", "argument " .. i, given[i], "table")
      for name, rule in pairs(given[i]) do all[name] = rule end
    end
    return all
  end

  return policy
end
