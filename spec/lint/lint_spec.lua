-- The checks that `make lint` runs must catch what they are for.
local helper = require "helper"
local lint = dofile(helper.root .. "/spec/lint/lint.lua")

describe("lint", function()
  it("finds a replaced name and names its replacement", function()
    for line, expected in pairs {
      ["static bool take_wheel(void) {"] = "take_wheel", ["  tr_dead_release(&dead);"] = "tr_dead_release",
      ['cache = { tier = "x" }'] = "tier", ["---@class theaterref.TierOptions"] = "tieroptions",
      ["cache:pin(reference)"] = "pin", ["Pinned in place"] = "pinned", ["M.static_or_pinned"] = "static_or_pinned",
      ["return { permit = f }"] = "permit =", ["rules.permit(m)"] = ".permit", ['policy.locked "f"'] = "policy.locked",
      ["theaterref plan m.toml --locked f"] = "--locked", ['resolver { lock = "theaterref.lock" }'] = 'lock = "theaterref.lock',
      ['cache = { who = "me" }'] = "who =", ["cache:stats().by"] = "stats().by", ["event.taken"] = "event.taken",
      ["store:list_leftovers()"] = "list_leftovers", ["it was set aside"] = "set aside", ["csrc/core/upkeep.c"] = "upkeep.c",
      ["the rule by default"] = "rule by default", ["resolver:tell(event)"] = ":tell", ["MAX_PLACES"] = "max_places",
      ['require "theaterref.lock"'] = 'require "theaterref.lock"',
    } do
      local name, instead = lint.replaced_name(line)
      assert.equal(expected, name)
      assert.is_string(instead)
    end
  end)

  it("lets names through that only look like a replaced one", function()
    for _, line in ipairs { "frontier", "spinning", "tr_kinds", "tr_deadline(5)", "blocked(x)", "it may permit that", "pinecone",
      "packages land in the store", "see figure 2", "theaterref.lock", "Kubernetes admission control" } do
      assert.is_nil((lint.replaced_name(line)), line)
    end
  end)

  -- The first fault in the prose of a file with this text, and its line.
  local function found(path, text)
    for _, piece in ipairs(lint.prose(path, text)) do
      local words, _, offset = lint.avoided_english(piece.text)
      if words then return words, piece.line + offset end
    end
  end

  for name, case in pairs {
    ["a C comment"] = { "x.c", "/* What comes back. */", "What c", 1 },
    ["a later line of a C comment"] = { "x.c", "int a;\n/*\n** A comment. Whether it ends\n*/", "Whether i", 3 },
    ["a line comment in C"] = { "x.c", "int a; // What comes back", "What c", 1 },
    ["a message in C"] = { "x.c", 'f("a part of it is missing");', "of it", 1 },
    ["a message in two C strings"] = { "x.c", 'f("a part of "\n  "it is missing");', "of it", 1 },
    ["a Lua comment"] = { "x.lua", "local a = 1 -- the end thereof", "thereof", 1 },
    ["a Lua comment over two lines"] = { "x.lua", "-- the end of\n-- it all", "of it", 1 },
    ["a help text after an option's name"] = { "x.lua", '{ "--x", nil, "What the policy does." }', "What t", 1 },
    ["a long string"] = { "x.lua", "local man = [[\nAll\nof it needs this.\n]]", "of it", 3 },
    ["a single-quoted string"] = { "x.lua", "f('none of it fits')", "of it", 1 },
    ["a table cell"] = { "x.md", "| a | Whoever comes first |", "Whoever c", 1 },
    ["a second sentence"] = { "x.md", "It works. That the file is there is checked.", "That the ", 1 },
    ["a sentence in parentheses"] = { "x.md", "It works (What comes next follows).", "What c", 1 },
    ["a sentence after a question"] = { "x.md", "What is it? What comes next.", "What c", 1 },
    ["a comment in a Makefile"] = { "Makefile", "# the driver, when he waits", "he", 1 },
    ["a comment in a script"] = { "x.sh", "# it does not start, nor does it stop", "nor does", 1 },
  } do
    it("finds English that the project avoids in " .. name, function()
      assert.same({ case[3], case[4] }, { found(case[1], case[2]) })
    end)
  end

  for name, case in pairs {
    ["questions"] = { "x.md", "What is a reference? A path or a URL." },
    ["questions with a dot in a name"] = { "x.md", "Where is theaterref.conf.lua?\nWhat does a.b\nmean?" },
    ["fenced code"] = { "x.md", "```\nWhat follows is code\n```\n- an item\n  ```\n  What follows is code\n  ```" },
    ["Lua code"] = { "x.lua", 'local he, thereof = 1, "--he"' },
    ["C code"] = { "x.c", 'f("*/*"); int he; /**/ int he2; /* the part that matters */' },
    ["ordinary words"] = { "x.md", "Use `of it` in code. The theme is theirs. That function returns nil." },
  } do
    it("lets " .. name .. " through", function() assert.is_nil((found(case[1], case[2]))) end)
  end

  it("fails when it finds no files to check", function()
    local _, _, status = helper.run(("cd /tmp && lua5.4 %s/spec/lint/lint.lua"):format(helper.root))
    assert.not_equal(0, status)
    _, _, status = helper.run(helper.root .. "/spec/lint/cycles.sh /nowhere.o")
    assert.not_equal(0, status)
    _, _, status = helper.run(helper.root .. "/spec/lint/cycles.sh")
    assert.not_equal(0, status)
  end)

  it("finds Lua modules that require each other, or one above them", function()
    helper.with_folder(function(folder)
      helper.run_ok(("mkdir -p %s/theaterref/source %s/theaterref/store"):format(folder, folder))
      local function check(text)
        helper.write(folder .. "/theaterref/source/a.lua", 'local b = require "theaterref.store.b"\n')
        helper.write(folder .. "/theaterref/store/b.lua", text)
        local out, _, status = helper.run(("cd %s && lua5.4 spec/lint/layers.lua %s"):format(helper.root, folder))
        return status, out
      end
      assert.equal(0, (check "-- require \"theaterref.source.a\"\n"))
      local status, out = check 'local a = require("theaterref.source.a")\n'
      assert.equal(1, status)
      assert.matches("theaterref.store.b requires theaterref.source.a, which is above it", out)
      assert.matches("a circle: ", out)
    end)
  end)

  it("finds C files that call each other", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/a.c", "void b(void); void a(void) { b(); }\n")
      helper.write(folder .. "/b.c", "void a(void); void b(void) { a(); }\n")
      helper.write(folder .. "/c.c", "void a(void); void c(void) { a(); }\n")
      helper.run_ok(("cd %s && cc -c a.c b.c c.c"):format(folder))
      local _, err, status = helper.run(("cd %s && %s/spec/lint/cycles.sh a.o b.o c.o"):format(folder, helper.root))
      assert.equal(1, status)
      assert.matches("a%.o", err)
      helper.write(folder .. "/b.c", "void b(void) { }\n")
      helper.run_ok(("cd %s && cc -c b.c && %s/spec/lint/cycles.sh a.o b.o c.o"):format(folder, helper.root))
    end)
  end)
end)
