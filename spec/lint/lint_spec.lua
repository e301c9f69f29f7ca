-- The checks that `make lint` runs must catch what they are for.
local helper = require "helper"
local lint = dofile(helper.root .. "/spec/lint/lint.lua")

describe("lint", function()
  it("finds a replaced name and names its replacement", function()
    for line, expected in pairs {
      ["static bool take_wheel(void) {"] = "take_wheel", ["  tr_dead_release(&dead);"] = "tr_dead_release",
      ['cache = { tier = "x" }'] = "tier", ["cache:pin(reference)"] = "pin", ["return { permit = f }"] = "permit =",
      ["policy.locked(file)"] = "locked(", ["theaterref plan m.toml --locked f"] = "--locked",
      ["store:list_leftovers()"] = "list_leftovers", ["csrc/core/upkeep.c"] = "upkeep",
      ["the rule by default"] = "rule by default", ["resolver:tell(event)"] = ":tell",
    } do
      local name, instead = lint.replaced_name(line)
      assert.equal(expected, name)
      assert.is_string(instead)
    end
  end)

  it("lets names through that only look like a replaced one", function()
    for _, line in ipairs { "frontier", "spinning", "tr_kinds", "tr_deadline(5)", "blocked(x)", "it may permit that", "pinecone" } do
      assert.is_nil((lint.replaced_name(line)), line)
    end
  end)

  -- The first fault in the prose of a file with this text.
  local function found(path, text)
    local state = {}
    for line in text:gmatch "[^\n]+" do
      for _, piece in ipairs(lint.prose(path, line, state)) do
        local words = lint.avoided_english(piece)
        if words then return words end
      end
    end
  end

  it("finds English that the project avoids, in comments, messages and Markdown", function()
    assert.equal("What c", found("x.c", "/* What comes back. */"))
    assert.equal("Whether i", found("x.c", "/*\n** A long comment. Whether it ends\n*/"))
    assert.equal("thereof", found("x.lua", "local a = 1 -- the end thereof"))
    assert.equal("of it", found("x.c", 'tr_error_set(e, TR_IO, "a part of it is missing");'))
    assert.equal("Whoever c", found("x.md", "| a | Whoever comes first |"))
    assert.equal("That i", found("x.md", "It works. That is all."))
    assert.equal("he", found("Makefile", "# the driver, when he waits"))
    assert.equal("nor does", found("x.sh", "# it does not start, nor does it stop"))
  end)

  it("lets questions, code and ordinary words through", function()
    assert.is_nil(found("x.md", "What is a reference? A path or a URL."))
    assert.is_nil(found("x.md", "```\nWhat follows is code\n```"))
    assert.is_nil(found("x.lua", "local he, thereof = 1, 2"))
    assert.is_nil(found("x.c", "int what; /* the part that matters */"))
    assert.is_nil(found("x.md", "Use `of it` in code. The theme is theirs."))
  end)
end)
