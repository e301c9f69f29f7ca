std = "lua54"
max_line_length = 130
files["spec"] = { std = "+busted", max_line_length = 250 }
files["examples/actor/spawn_policy.lua"] = { read_globals = { "theaterref" } }
files["examples/fleet"] = { read_globals = { "theaterref" } }
files["examples/policies"] = { read_globals = { "theaterref" } }
files["lua/types"] = { unused_args = false, unused = false, max_line_length = 250 }
