package = "theaterref"
version = "dev-1"
source = { url = "." }
description = {
  summary = "References to bytes, and manifests to spawn plans",
  detailed = "Turns file paths, store:// and http(s):// references into bytes under a policy in Lua, with a cache shared by "
    .. "the process and a content-addressed store on disk.",
  license = "Apache-2.0",
}
supported_platforms = { "linux" }
dependencies = { "lua ~> 5.4", "lpeg", "lua-cjson", "argparse" }
-- libcurl and mbedTLS are found by pkg-config and the linker: LuaRocks does not
-- look where Debian keeps their headers.
build = {
  type = "make",
  build_target = "module",
  install_target = "install-rock",
  install_variables = { LUADIR = "$(LUADIR)", LIBDIR = "$(LIBDIR)", BINDIR = "$(BINDIR)" },
}
