# theaterref: every command a person needs. `make help` lists them.
#
#   make            build into build/
#   make demo       install what is missing, build, plan a spawn three ways
#   make test       install what is missing, build, run every spec
#   make test-s3    s3:// on Ceph's gateway, which it starts, and with awscli and rclone
#   make bench      the benchmarks, as tables of ratios; ONLY=fetch, cache, store, plan, start, growth, metrics, fleet, derive or s3
#   make bench-results  all of them, kept in spec/bench/results with the machine; for a release
#   make doc        the Lua API, the C API and the guides as HTML, in build/doc
#   make test-i386  the specs on a 32-bit machine; test-s390x: on a big-endian one; SUITE=trixie: Debian 13. Needs root
#   make soak       everything at once for T=120 seconds, under faults; and how the heap grows
#   make coverage   how much of the C core the specs run
#   make fuzz       libFuzzer on all that reads what comes from outside; T=60 seconds each
#   make lint       luacheck; the C with every warning by gcc and clang; names and English
#   make install    PREFIX=/usr/local DESTDIR=; make uninstall takes it away
#   make deb        a Debian package, in build/
#   make env        shell lines that make the build tree usable: eval "$(make -s env)"
#
# SAN=address,undefined or SAN=thread builds and tests with sanitizers, and CC=clang
# with Clang, each in a tree of its own.

LUA      ?= lua5.4
CC       ?= cc
comma    := ,
BUILD    := build$(if $(SAN),/$(subst $(comma),-,$(SAN)))$(if $(COVERAGE),/coverage)$(if $(filter clang%,$(notdir $(CC))),/by-clang)
LUA_VERSION := 5.4
LUA_PKG  := lua5.4

PREFIX   ?= /usr/local
LIB_FOLDER ?= $(PREFIX)/lib
LUA_FOLDER := $(PREFIX)/share/lua/$(LUA_VERSION)
LUA_CFOLDER := $(LIB_FOLDER)/lua/$(LUA_VERSION)
VERSION  := $(shell sed -n 's/^\#define TR_VERSION "\(.*\)"/\1/p' csrc/theaterref.h)

# V=1 shows the commands.
Q := $(if $(V),,@)

WARNINGS := -Wall -Wextra -Wpedantic -Wno-psabi
OPTIMIZE ?= $(if $(SAN),-O1 -fno-omit-frame-pointer,-O2)
# Files of more than 2 GiB, and times after 2038, on 32-bit machines too.
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 -Icsrc
CFLAGS   += -std=c11 -g $(OPTIMIZE) -fPIC -fno-plt -fvisibility=hidden -pthread $(WARNINGS)
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN)) $(if $(COVERAGE),--coverage -O0)
PKG_CFLAGS = $(shell pkg-config --cflags $(LUA_PKG) libcurl)
# -z nodelete: closing the last Lua state must not unmap code that the I/O
# thread runs.
LDFLAGS  += -Wl,-z,nodelete -Wl,-z,now -Wl,--as-needed
LDLIBS    = -lmbedcrypto -ldl -lm -pthread # libcurl is opened when it is needed

CORE     := $(wildcard csrc/core/*.c)
BINDING  := $(wildcard csrc/binding/*.c)
HOST     := $(wildcard csrc/host/*.c)
OBJECTS  := $(patsubst csrc/%.c,$(BUILD)/obj/%.o,$(CORE) $(BINDING))
MODULE   := $(BUILD)/lib/theaterref/core.so
SONAME   := libtheaterref.so.$(firstword $(subst ., ,$(VERSION)))
LIBRARY  := $(BUILD)/lib/$(SONAME)
ARCHIVE  := $(BUILD)/lib/libtheaterref.a
HOST_OBJECTS := $(patsubst csrc/%.c,$(BUILD)/obj/%.o,$(HOST))
SUPPORT  := $(BUILD)/spec/threads.so $(BUILD)/spec/faults.so $(BUILD)/spec/names.so $(BUILD)/spec/libraries.so

.PHONY: all demo test test-s3 test-i386 test-s390x test-amd64 soak bench bench-results lint env install uninstall deb module install-rock FORCE clean help doc coverage fuzz fuzz-keep
all: $(MODULE) $(LIBRARY) $(ARCHIVE)

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -20

# Says which packages are missing, by Debian's names: words of a command, and the package
# that makes it succeed.
define needs
	@missing=; need() { sh -c "$$2" >/dev/null 2>&1 || missing="$$missing $$1"; }; $(1); \
	[ -z "$$missing" ] || { echo "Missing; on Debian: apt-get install$$missing" >&2; exit 1; }
endef
has_header = need $(1) "echo '\#include <$(2)>' | $(CC) $(PKG_CFLAGS) -E -"

$(BUILD)/needs:
	$(call needs,need gcc "$(CC) --version"; need pkg-config "pkg-config --version"; \
	  need liblua5.4-dev "pkg-config $(LUA_PKG)"; need libcurl4-openssl-dev "pkg-config libcurl"; \
	  $(call has_header,zlib1g-dev,zlib.h); $(call has_header,libmbedtls-dev,mbedtls/sha256.h))
	@mkdir -p $(@D) && touch $@

$(BUILD)/obj/%.o: csrc/%.c Makefile | $(BUILD)/needs
	@mkdir -p $(@D)
	@echo "  cc  $<"
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $(SANFLAGS) -MMD -MP -c $< -o $@

$(MODULE): $(OBJECTS)
	@mkdir -p $(@D)
	@echo "  ld  $@"
	$(Q)$(CC) -shared $(CFLAGS) $(SANFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

# The folder where hosts look for our Lua files; it changes with PREFIX.
$(BUILD)/prefix: FORCE
	@mkdir -p $(@D)
	@echo '$(LUA_FOLDER)' | cmp -s - $@ || echo '$(LUA_FOLDER)' > $@
FORCE:
$(HOST_OBJECTS): CPPFLAGS += -DTR_LUA_FOLDER='"$(LUA_FOLDER)"'
$(HOST_OBJECTS): $(BUILD)/prefix

$(LIBRARY): $(OBJECTS) $(HOST_OBJECTS)
	@mkdir -p $(@D)
	@echo "  ld  $@"
	$(Q)$(CC) -shared -Wl,-soname,$(SONAME) $(CFLAGS) $(SANFLAGS) $(LDFLAGS) $^ $(LDLIBS) -l$(LUA_PKG) -o $@
	@ln -sf $(SONAME) $(@D)/libtheaterref.so

$(ARCHIVE): $(OBJECTS) $(HOST_OBJECTS)
	@mkdir -p $(@D)
	@echo "  ar  $@"
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# Lua modules of the specs' own.
$(BUILD)/spec/%.so: spec/support/%.c Makefile
	@mkdir -p $(@D)
	@echo "  ld  $@"
	$(Q)$(CC) -shared $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $(SANFLAGS) $< -o $@ -l$(LUA_PKG) -ldl -pthread

$(BUILD)/spec/lua: spec/support/lua.c
	@mkdir -p $(@D)
	@echo "  ld  $@"
	$(Q)$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $(SANFLAGS) $< -o $@ -l$(LUA_PKG)

-include $(OBJECTS:.o=.d) $(HOST_OBJECTS:.o=.d)

# ------------------------------------------------------------ what is needed

DEPS_build := gcc libc6-dev pkg-config lua5.4 liblua5.4-dev libcurl4-openssl-dev zlib1g-dev \
              libmbedtls-dev lua-cjson lua-lpeg lua-argparse ca-certificates $(filter clang%,$(CC))
DEPS_demo  := $(DEPS_build) nginx-light openssl wabt
DEPS_test  := $(DEPS_demo) lua-busted lua-luv lua-cqueues strace luarocks locales tinyproxy-bin \
              dpkg-dev groff-base g++ minisign docker-registry apache2-utils skopeo \
              curl procps python3
DEPS_s3    := $(DEPS_test) ceph-mon ceph-osd radosgw ceph-common awscli rclone
DEPS_bench := $(DEPS_demo) docker-registry apache2-utils
DEPS_doc   := lua-ldoc lua-discount doxygen
DEPS_coverage := $(DEPS_test) lcov
DEPS_fuzz  := $(DEPS_build) lua-filesystem clang libclang-rt-14-dev
DEPS_lint  := $(DEPS_build) lua-check clang
DEPS_deb   := $(DEPS_build) dpkg-dev

# Installs the packages of a list that are missing, and says so.
define install_missing
	@missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "Installing with apt-get:" $$missing; \
	  $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

deps-%:
	$(call install_missing,$(DEPS_$*))

# --------------------------------------------------------------- for a person

# The paths that make the build tree usable; ';;' keeps Lua's own.
LUA_ENV = LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" \
          LUA_CPATH="$(CURDIR)/$(BUILD)/lib/?.so;$(CURDIR)/$(BUILD)/spec/?.so;;" \
          PATH="$(CURDIR)/lua/bin:$$PATH"
env:
	@echo 'export $(LUA_ENV)'

demo: deps-demo
	@$(MAKE) -s --no-print-directory all
	@$(LUA_ENV) $(LUA) examples/demo.lua

# With sanitizers the interpreter is one that they are linked into. ThreadSanitizer's detector of deadlocks
# ends at 64 locks; fork() takes that of each cache.
SPEC_LUA := $(if $(SAN),$(CURDIR)/$(BUILD)/spec/lua,$(LUA))
SPEC_ENV = THEATERREF_LOG=off THEATERREF_CONFIG= BUILD=$(BUILD) SAN=$(SAN) SPEC_LUA=$(SPEC_LUA) \
  TSAN_OPTIONS="halt_on_error=1 detect_deadlocks=0 die_after_fork=0 suppressions=$(CURDIR)/spec/support/tsan.supp" \
  LSAN_OPTIONS="suppressions=$(CURDIR)/spec/support/lsan.supp:print_suppressions=0"
BUSTED = $(LUA_ENV) $(SPEC_ENV) $(SPEC_LUA) /usr/bin/busted
SPECS ?= spec

# A second server for the specs, which is not installed: its package would start it.
CADDY := build/tools/usr/bin/caddy
$(CADDY):
	@echo "Downloading caddy"
	@mkdir -p build/tools && cd build/tools && \
	{ apt-get download -qq caddy 2>/dev/null && dpkg-deb -x caddy_*.deb . && rm caddy_*.deb && touch usr/bin/caddy; } || \
	  echo "caddy cannot be downloaded: its specs will be pending"

test: deps-test $(CADDY)
	@$(MAKE) -s --no-print-directory all $(SUPPORT) $(if $(SAN),$(BUILD)/spec/lua)
	@$(BUSTED) $(SPECS)

SOAK_SECONDS = $(if $(filter command% environment%,$(origin T)),$(T),120)
# Everything at once on eight threads for T seconds, while networks, servers and disks fail.
SOAK_ENV = $(LUA_ENV) LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;$(CURDIR)/spec/support/?.lua;$(CURDIR)/spec/bench/?.lua;$(CURDIR)/spec/soak/?.lua;;" \
  $(SPEC_ENV) ASAN_OPTIONS=verify_asan_link_order=0
soak: deps-test
	@$(MAKE) -s --no-print-directory all $(SUPPORT) $(BUILD)/spec/process.so $(if $(SAN),$(BUILD)/spec/lua)
	@$(SOAK_ENV) $(if $(findstring thread,$(SAN)),,LD_PRELOAD=$(CURDIR)/$(BUILD)/spec/faults.so) $(SPEC_LUA) spec/soak/soak.lua $(SOAK_SECONDS)
# S3 on a real engine, which this starts unless THEATERREF_S3 names a file with the settings of one.
test-s3: deps-s3
	@$(MAKE) -s --no-print-directory all $(SUPPORT) $(if $(SAN),$(BUILD)/spec/lua)
	@$(BUSTED) --pattern=_engine spec/s3

BARE := $(BUILD)/spec/bare.so
$(BARE): spec/bench/bare.c
	@mkdir -p $(@D)
	@echo "  ld  $@"
	$(Q)$(CC) -shared $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $< -o $@ -lcurl $(LDLIBS)

OURS := $(BUILD)/spec/ours.so
$(OURS): spec/bench/ours.c $(ARCHIVE)
	@mkdir -p $(@D)
	@echo "  ld  $@"
	$(Q)$(CC) -shared $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS) $(LDFLAGS) $< $(ARCHIVE) -o $@ -l$(LUA_PKG) $(LDLIBS)

bench: deps-bench
	@$(MAKE) -s --no-print-directory all $(SUPPORT) $(BARE) $(OURS)
	@$(LUA_ENV) LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;$(CURDIR)/spec/support/?.lua;$(CURDIR)/spec/bench/?.lua;;" \
	  $(LUA) spec/bench/bench.lua $(ONLY)

# The tables of a release, which are kept with the machine. It should have nothing else to do.
BENCH_RESULTS := spec/bench/results/$(VERSION).txt
bench-results: deps-bench
	@$(MAKE) -s --no-print-directory all $(SUPPORT) $(BARE) $(OURS)
	@mkdir -p $(dir $(BENCH_RESULTS))
	@{ $(LUA_ENV) $(LUA) spec/bench/machine.lua && $(MAKE) -s --no-print-directory bench; } > $(BENCH_RESULTS).part && \
	  mv $(BENCH_RESULTS).part $(BENCH_RESULTS) && cat $(BENCH_RESULTS)

# The suite, or SPECS, on other architectures, in chroots that are made when they are missing.
test-i386 test-s390x test-amd64: test-%:
	@.ci/chroot.sh $* test SPECS="$(SPECS)" $(if $(filter-out cc,$(CC)),CC=$(CC))

lint: deps-lint
	luacheck --quiet lua spec examples
	@$(LUA) spec/lint/lint.lua
	@$(LUA) spec/lint/layers.lua lua
	@for cc in gcc clang; do for f in $(CORE) $(BINDING) $(HOST) $(wildcard spec/support/*.c spec/bench/*.c examples/hosts/*.c); do \
	  $$cc $(CPPFLAGS) -DTR_CURL_LINKED $(PKG_CFLAGS) $(CFLAGS) -Werror -fsyntax-only $$f || exit 1; done; \
	  echo "$$cc: no warnings"; done
	@$(MAKE) -s --no-print-directory all
	@spec/lint/cycles.sh $(OBJECTS) $(HOST_OBJECTS)

# A warning is a failure: what is public is described.
doc: deps-doc
	@mkdir -p build/doc
	@cd lua && ldoc --fatalwarnings -q -d ../build/doc . >/dev/null
	@sed -i -E 's,href="(examples/guides/)?([A-Za-z0-9-]+\.md)(["#]),href="\2.html\3,g' build/doc/topics/*.html # as LDoc names pages
	@doxygen csrc/Doxyfile
	@echo "build/doc/index.html: the Lua API and the guides; build/doc/c/index.html: the C API"

# The lines of the C core that the specs run, by file, and those they do not.
coverage: deps-coverage
	@$(MAKE) -s --no-print-directory test COVERAGE=1 || true
	@lcov -q --capture --directory build/coverage/obj/core --output-file build/coverage/all.info
	@lcov -q --extract build/coverage/all.info '*/csrc/core/*' --output-file build/coverage/core.info
	@lcov --list build/coverage/core.info

# T seconds of libFuzzer for each target, from the seeds in spec/fuzz/<target> and
# what was found before, spec/fuzz/found/<target>.
FUZZ_TARGETS := merge label reference toml template pattern plan bundle minisign public_key challenge oci image_signature s3
T ?= 60
FUZZ_ENV = $(LUA_ENV) ASAN_OPTIONS=detect_leaks=0
fuzz: deps-fuzz build/fuzz/fuzz
	@for t in $(FUZZ_TARGETS); do mkdir -p build/fuzz/found/$$t; \
	  $(LUA) spec/fuzz/corpus.lua unpack spec/fuzz/found/$$t build/fuzz/found/$$t; \
	  echo "fuzzing $$t for $(T) s"; \
	  $(FUZZ_ENV) FUZZ_TARGET=$$t build/fuzz/fuzz -max_total_time=$(T) -max_len=4096 -timeout=10 -verbosity=0 \
	    -print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/found/$$t spec/fuzz/$$t 2>&1 \
	    | grep -E "ERROR|SUMMARY|executed_units" || true; \
	  if ls build/fuzz/crash-* build/fuzz/timeout-* build/fuzz/oom-* >/dev/null 2>&1; then exit 1; fi; done

# Keeps what 'make fuzz' found: the fewest inputs that reach as much.
fuzz-keep: deps-fuzz build/fuzz/fuzz
	@mkdir -p spec/fuzz/found
	@for t in $(FUZZ_TARGETS); do rm -rf build/fuzz/fewest && mkdir -p build/fuzz/fewest; \
	  $(FUZZ_ENV) FUZZ_TARGET=$$t build/fuzz/fuzz -merge=1 -max_len=512 -verbosity=0 build/fuzz/fewest build/fuzz/found/$$t >/dev/null 2>&1; \
	  $(LUA) spec/fuzz/corpus.lua pack build/fuzz/fewest spec/fuzz/found/$$t && wc -lc spec/fuzz/found/$$t; done

build/fuzz/fuzz: spec/fuzz/fuzz.c $(CORE) $(BINDING)
	@mkdir -p $(@D)
	@echo "  clang  $@"
	$(Q)clang -fsanitize=fuzzer,address,undefined $(CPPFLAGS) $(PKG_CFLAGS) -std=c11 -g -O1 $^ -o $@ \
	  $(shell pkg-config --libs $(LUA_PKG)) $(LDLIBS)

# ---------------------------------------------------------------- installing

# With DESTDIR the files go below that folder, for packagers.
TO := $(DESTDIR)$(PREFIX)
TO_LIB := $(DESTDIR)$(LIB_FOLDER)
LUA_FILES := $(shell cd lua && find theaterref -name '*.lua')

# The command, with the folders of its prefix in front of Lua's own paths.
define LAUNCHER
#!/usr/bin/env $(LUA)
package.path = "$(LUA_FOLDER)/?.lua;$(LUA_FOLDER)/?/init.lua;" .. package.path
package.cpath = "$(LUA_CFOLDER)/?.so;" .. package.cpath
os.exit(require("theaterref.cli").main(arg), true)
endef

define PKG_CONFIG_FILE
prefix=$(PREFIX)
libdir=$(LIB_FOLDER)

Name: theaterref
Description: References to bytes, and manifests to spawn plans
Version: $(VERSION)
Requires.private: $(LUA_PKG)
Libs: -L$${libdir} -ltheaterref
Libs.private: -lmbedcrypto -ldl -lm -pthread
Cflags: -I$${prefix}/include
endef
export LAUNCHER PKG_CONFIG_FILE

COMPLETIONS := bash-completion/completions/theaterref zsh/vendor-completions/_theaterref fish/vendor_completions.d/theaterref.fish

install: all
	$(call needs,need lua5.4 "$(LUA) -v"; for m in lpeg cjson argparse; do need lua-$$m "$(LUA) -e 'require \"$$m\"'"; done)
	@for f in $(LUA_FILES); do install -D -m 644 lua/$$f $(DESTDIR)$(LUA_FOLDER)/$$f || exit 1; done
	@install -D -m 755 $(MODULE) $(DESTDIR)$(LUA_CFOLDER)/theaterref/core.so
	@install -D -m 644 csrc/theaterref.h $(TO)/include/theaterref.h
	@install -D -m 644 lua/types/theaterref.lua $(TO)/share/theaterref/types/theaterref.lua
	@install -D -m 755 $(LIBRARY) $(TO_LIB)/$(SONAME)
	@ln -sf $(SONAME) $(TO_LIB)/libtheaterref.so
	@install -D -m 644 $(ARCHIVE) $(TO_LIB)/libtheaterref.a
	@mkdir -p $(TO)/bin $(TO_LIB)/pkgconfig $(TO)/share/man/man1 $(addprefix $(TO)/share/,$(dir $(COMPLETIONS)))
	@printf '%s\n' "$$LAUNCHER" > $(TO)/bin/theaterref && chmod 755 $(TO)/bin/theaterref
	@printf '%s\n' "$$PKG_CONFIG_FILE" > $(TO_LIB)/pkgconfig/theaterref.pc
	@$(LUA_ENV) $(LUA) -e 'io.write(require("theaterref.cli.manual").page())' > $(TO)/share/man/man1/theaterref.1
	@set -- $(COMPLETIONS); for shell in bash zsh fish; do \
	  $(LUA_ENV) $(LUA) lua/bin/theaterref completion $$shell > $(TO)/share/$$1 || exit 1; shift; done
	@[ -n "$(DESTDIR)" ] || ldconfig 2>/dev/null || true # where it may
	@echo "Installed theaterref $(VERSION) in $(TO)"
	@[ -n "$(DESTDIR)" ] || $(LUA) -e 'os.exit(package.path:find("$(LUA_FOLDER)/?.lua", 1, true) and true or false)' || \
	  printf '%s\n' 'To use it in Lua, which does not look there:' \
	    '  export LUA_PATH="$(LUA_FOLDER)/?.lua;$(LUA_FOLDER)/?/init.lua;;" LUA_CPATH="$(LUA_CFOLDER)/?.so;;"'

# The rockspec builds and installs the module and the command.
module: $(MODULE)
install-rock: module
	@for f in $(LUA_FILES); do install -D -m 644 lua/$$f $(LUADIR)/$$f || exit 1; done
	@install -D -m 755 $(MODULE) $(LIBDIR)/theaterref/core.so
	@install -D -m 755 lua/bin/theaterref $(BINDIR)/theaterref

uninstall:
	rm -rf $(DESTDIR)$(LUA_FOLDER)/theaterref $(DESTDIR)$(LUA_CFOLDER)/theaterref $(TO)/share/theaterref
	rm -f $(TO)/bin/theaterref $(TO)/include/theaterref.h $(TO)/share/man/man1/theaterref.1 \
	  $(TO_LIB)/libtheaterref.so* $(TO_LIB)/libtheaterref.a $(TO_LIB)/pkgconfig/theaterref.pc \
	  $(addprefix $(TO)/share/,$(COMPLETIONS))

DEB_ROOT := build/deb
deb: deps-deb
	@rm -rf $(DEB_ROOT)
	@$(MAKE) -s --no-print-directory install PREFIX=/usr LIB_FOLDER=/usr/lib/$$(dpkg-architecture -qDEB_HOST_MULTIARCH) \
	  DESTDIR=$(CURDIR)/$(DEB_ROOT) >/dev/null
	@rockspec/deb.sh $(DEB_ROOT) $(VERSION) build/theaterref_$(VERSION)-1_$$(dpkg --print-architecture).deb

clean:
	rm -rf build
