# make            builds the command, the module and the libraries, below build/
# make run        shows it: the tutorial's scripts, then a real job
# make test       builds and runs every check
# make help       lists the rest
#
# CC=clang  WERROR=1  DEBUG=1 (build/debug)  BUILD=dir  V=1 (shows the commands)

VERSION := $(shell sed -n 's/^.define MPLUA_VERSION "\(.*\)"/\1/p' runtime/mplua.h)

ifeq ($(origin CC),default)
CC := gcc
endif
LUA ?= lua5.4
MULTIARCH := $(shell $(CC) -print-multiarch 2>/dev/null || gcc -print-multiarch 2>/dev/null)
LUA_INC ?= /usr/include/lua5.4
LUA_LIBDIR ?= /usr/lib/$(MULTIARCH)
LUA_A := $(LUA_LIBDIR)/liblua5.4.a

# Where things are installed.  LIBDIR is /usr/lib/x86_64-linux-gnu in a package; stock
# lua5.4 looks in LUA_CMOD below /usr and /usr/local.  LUA_PC is pkg-config's name of Lua.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
LUA_CMOD ?= $(LIBDIR)/lua/5.4
LUA_PC ?= lua5.4
SONAME := libmplua.so.0

ifdef DEBUG
BUILD ?= build/debug
OPT := -O0 -DMP_DEBUG -DLUA_USE_APICHECK -D_FORTIFY_SOURCE=0
else
BUILD ?= build
OPT := -O2
endif

# SAN=address,undefined or SAN=thread: see the targets asan and tsan.
ifdef SAN
SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer
endif
ifeq ($(SAN),thread)
UNTRACED := -Wl,--wrap=ptrace spec/core/untraced.c
endif

# say,WHAT: one line for a command, or with V=1 the command.
ifdef V
say =
else
say = @printf '  %-6s %s\n' $(1) $@;
endif

STD := -std=gnu11 -D_GNU_SOURCE
WARN := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
  -Wundef -Wvla -Wwrite-strings -Wdate-time $(if $(WERROR),-Werror)
# quote,TEXT: one word for sh.
quote = '$(subst ','\'',$(1))'
# The directory of the build is in nothing that it makes: see `make reproducible`.
COMPILE := $(CC) $(STD) $(OPT) -g -fno-asynchronous-unwind-tables $(WARN) -fPIC -fvisibility=hidden $(SANFLAGS) \
  -ffile-prefix-map=$(call quote,$(CURDIR)=.) -I$(LUA_INC) $(CPPFLAGS) $(CFLAGS)
LIBS := -ldl -lm -lpthread

CORE_SRC := $(sort $(wildcard runtime/os/*.c runtime/shm/*.c runtime/ipc/*.c))
MODULE_SRC := $(CORE_SRC) $(sort $(wildcard runtime/bind/*.c)) runtime/mplua.c
HOST_SRC := $(sort $(wildcard runtime/host/*.c))
MODULE_OBJ := $(MODULE_SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/embedded.o
LIB_OBJ := $(MODULE_OBJ) $(HOST_SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/runtime/command.o \
  $(BUILD)/obj/runtime/prompt.o
MAIN_OBJ := $(addprefix $(BUILD)/obj/runtime/,main.o heap.o small.o)
LUA_SRC := $(sort $(shell find lua/mp -name '*.lua' 2>/dev/null))

CHECKS := $(patsubst spec/core/%.c,$(BUILD)/core/%,$(sort $(wildcard spec/core/*_check.c)))
FUZZERS := $(patsubst spec/core/%.c,$(BUILD)/core/%,$(sort $(wildcard spec/core/fuzz_*.c)))
SPEC_SO := $(patsubst spec/%.c,$(BUILD)/spec/%.so,$(sort $(wildcard spec/*.c)))

PRODUCTS := $(BUILD)/mplua $(BUILD)/mp.so $(BUILD)/libmplua.a $(BUILD)/libmplua.so

.PHONY: all run test check checks bench guard doc lint asan tsan crash chaos fuzz fuzzers install \
  uninstall dist reproducible deb rock clean help FORCE
.DELETE_ON_ERROR:
.SUFFIXES:

all: $(PRODUCTS)

help:
	@echo 'make [CC=clang] [WERROR=1] [DEBUG=1]   $(PRODUCTS)'
	@echo 'make run      the tutorial, one script after the other, then a word count'
	@echo 'make test     C checks and specs'
	@echo 'make bench [ROWS="w2 w3 scale cliff"] [ROUNDS=5]   the figures, beside those of PEERS'
	@echo 'make guard [UPDATE=1]   instructions of the hottest operations: have they grown?'
	@echo 'make doc      the manual: $(BUILD)/doc/index.html'
	@echo 'make lint     luacheck, cppcheck, the direction of includes, symbols'
	@echo 'make asan     the checks under address and undefined behaviour sanitizers'
	@echo 'make tsan     the C checks under the thread sanitizer'
	@echo 'make crash    kills processes after every instruction of the operations (minutes)'
	@echo 'make chaos SECONDS=60 SEED=n   thirty processes, killed and stopped at random'
	@echo 'make fuzz SECONDS=60   libFuzzer on the readers of bytes from outside (needs clang)'
	@echo 'make install PREFIX=/usr/local LIBDIR=/usr/local/lib DESTDIR=   make uninstall   make clean'
	@echo 'make dist     $(BUILD)/mplua-$(VERSION).tar.xz      make deb     Debian packages'
	@echo 'make rock     mp for stock lua5.4, by luarocks, into a tree below $(BUILD)'
	@echo 'make reproducible   builds again from the tarball, elsewhere, and compares the bytes'

# What is compiled -------------------------------------------------------------

# Rewritten only when its text differs: a change of compiler or flags, or of the
# set of sources, makes what depends on it anew.
define keep
@mkdir -p $(@D); printf '%s\n' $(call quote,$(1)) | cmp -s - $@ || \
  printf '%s\n' $(call quote,$(1)) > $@
endef
$(BUILD)/flags: FORCE
	$(call keep,$(COMPILE) $(VERSION))
$(BUILD)/sources: FORCE
	$(call keep,$(LIB_OBJ))

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@test -f $(LUA_INC)/lua.h || { sh .ci/setup --check build; exit 1; }
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/obj/embedded.o: $(BUILD)/embedded.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -Iruntime -MMD -MP -c -o $@ $<

$(BUILD)/embedded.c: runtime/embed.lua FORCE
	@command -v $(LUA) >/dev/null || { sh .ci/setup --check build; exit 1; }
	@mkdir -p $(@D)
	@$(LUA) runtime/embed.lua $@ lua $(LUA_SRC)

-include $(LIB_OBJ:.o=.d) $(MAIN_OBJ:.o=.d)

# What is linked ---------------------------------------------------------------

# Lua inside, all of it, and visible to C modules that scripts load.
$(BUILD)/mplua: $(LIB_OBJ) $(MAIN_OBJ) $(BUILD)/sources
	$(call say,LINK) $(CC) $(SANFLAGS) $(LDFLAGS) -Wl,-E -Wl,--wrap=lua_close -Wl,-z,now -o $@ \
	  $(LIB_OBJ) $(MAIN_OBJ) -Wl,--whole-archive $(LUA_A) -Wl,--no-whole-archive $(LIBS)

# No Lua inside: the host has it.
$(BUILD)/mp.so: $(MODULE_OBJ) $(BUILD)/sources runtime/mp.map
	$(call say,LINK) $(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,--version-script=runtime/mp.map -o $@ \
	  $(MODULE_OBJ) -lm -lpthread

$(BUILD)/libmplua.so: $(LIB_OBJ) $(BUILD)/sources runtime/libmplua.map
	$(call say,LINK) $(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) \
	  -Wl,--version-script=runtime/libmplua.map -o $@ $(LIB_OBJ) $(LUA_LIBDIR)/liblua5.4.so $(LIBS)

# One object, in which only the public names are left global.
$(BUILD)/libmplua.a: $(LIB_OBJ) $(BUILD)/sources
	$(call say,AR) $(CC) -r -nostdlib -o $(BUILD)/obj/libmplua.o $(LIB_OBJ)
	@objcopy --localize-hidden $(BUILD)/obj/libmplua.o
	@rm -f $@ && ar rcsD $@ $(BUILD)/obj/libmplua.o

# C checks see every function; fuzzers get a main of their own.
$(BUILD)/core/fuzz_%: spec/core/fuzz_%.c $(LIB_OBJ)
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -DFUZZ_MAIN -Iruntime -MMD -MP -MF $@.d -o $@ $< $(UNTRACED) $(LIB_OBJ) $(LUA_A) $(LIBS)
$(BUILD)/core/%: spec/core/%.c $(LIB_OBJ)
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -Iruntime -MMD -MP -MF $@.d -o $@ $< $(UNTRACED) $(LIB_OBJ) $(LUA_A) $(LIBS)
-include $(CHECKS:=.d) $(FUZZERS:=.d)

# The same fuzzers, driven by libFuzzer.
$(BUILD)/fuzz_%: spec/core/fuzz_%.c $(LIB_OBJ)
	$(call say,CC) $(COMPILE) -fsanitize=fuzzer -Iruntime -o $@ $< $(LIB_OBJ) $(LUA_A) $(LIBS)

# Lua modules that specs use, in C.
$(BUILD)/spec/%.so: spec/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC) $(COMPILE) -fvisibility=default -shared -o $@ $<

# What is run ------------------------------------------------------------------

TUTORIAL := process01 process02 process_logging process_non_daemon process_daemon \
  process_detached process03 process04 process05 process05_1 process06 process07 process08 \
  sync1 sync2 sync3 sync4 sync5 sync6 sync7 sync8 parallel_loop

run:
	@sh .ci/setup build
	@$(MAKE) --no-print-directory all
	@sh .ci/tour $(BUILD)/mplua $(TUTORIAL)

test:
	@sh .ci/setup build test
	@$(MAKE) --no-print-directory check

checks: $(CHECKS) $(FUZZERS)

check: all checks $(SPEC_SO)
	@bash .ci/check $(BUILD)

# make bench [ROWS="w2 w3"] [ROUNDS=5] [SECS=0.3] [PYTHON=] [PEERS=]: PEERS is a folder with CPython's
# side in python/ and the limit programs in limits/, which are built below build/; without it ours
# stands alone.  ROWS=scale and ROWS=cliff run only when they are named.
PEERS ?= $(wildcard ../shared/bench)
PYTHON ?= $(or $(wildcard /usr/bin/python3),python3)
ROUNDS ?= 5
SECS ?= 0.3
PYTHON_SIDE := $(if $(wildcard $(PEERS)/python/*.py),$(PEERS))
LIMITS := $(if $(wildcard $(PEERS)/limits/Makefile),$(BUILD)/bench/limits)

bench: all
	@mkdir -p $(BUILD)/bench
	@$(if $(LIMITS),cp -R --preserve=timestamps $(PEERS)/limits $(BUILD)/bench/ && chmod -R u+w $(LIMITS) && \
	  $(MAKE) --no-print-directory -s -C $(LIMITS) BUILD=. all,echo 'bench: ours alone: there are no PEERS')
	@PEERS='$(PYTHON_SIDE)' LIMITS='$(LIMITS)' PYTHON='$(PYTHON)' ROUNDS=$(ROUNDS) SECS=$(SECS) \
	  VALUES=$(BUILD)/bench/values.tsv $(BUILD)/mplua spec/bench/run.lua $(ROWS)

# make guard: instructions of the hottest operations against spec/bench/instructions.lua, which
# make guard UPDATE=1 rewrites.
guard:
	@sh .ci/setup build valgrind
	@$(MAKE) --no-print-directory all
	@$(BUILD)/mplua spec/bench/guard.lua "$$($(CC) --version | head -n 1)" $(if $(UPDATE),update)

doc:
	@sh .ci/setup doc
	@rm -rf $(BUILD)/doc && mkdir -p $(BUILD)/doc
	@cd lua/manual && LUA_PATH="$$PWD/?.ld;;" MANUAL='$(abspath $(BUILD))/doc' ldoc --filter site.write .
	@echo 'the manual: $(BUILD)/doc/index.html'

lint:
	@sh .ci/setup build lint
	@$(MAKE) --no-print-directory all
	@bash .ci/lint $(BUILD)

asan:
	@sh .ci/setup build test
	@MPLUA_KILL_POINTS=$${MPLUA_KILL_POINTS:-3} \
	  $(MAKE) --no-print-directory BUILD=build/asan SAN=address,undefined check

tsan:
	@sh .ci/setup build
	@$(MAKE) --no-print-directory BUILD=build/tsan SAN=thread checks
	@FUZZ_ROUNDS=0 bash .ci/check build/tsan --core # a reader has one thread

crash:
	@sh .ci/setup build
	@$(MAKE) --no-print-directory all checks
	@MPLUA_KILL_POINTS=all bash .ci/crash $(BUILD)

SECONDS ?= 60
chaos:
	@sh .ci/setup build
	@$(MAKE) --no-print-directory all
	@$(BUILD)/mplua spec/crash/chaos.lua $(SECONDS) $(SEED)

fuzz:
	@sh .ci/setup build fuzz
	@$(MAKE) --no-print-directory CC=clang BUILD=build/fuzz SAN=fuzzer-no-link,address,undefined fuzzers
	@bash .ci/fuzz build/fuzz $(SECONDS)

fuzzers: $(patsubst spec/core/%.c,$(BUILD)/%,$(sort $(wildcard spec/core/fuzz_*.c)))

# What is packed ----------------------------------------------------------------

# One line for each file: mode, source, target.  A link's source is its text.
define newline


endef
space := $() $()
define INSTALLED
755|$(BUILD)/mplua|$(BINDIR)/mplua
644|runtime/mplua.1|$(MANDIR)/man1/mplua.1
644|runtime/mplua.h|$(INCLUDEDIR)/mplua.h
644|$(BUILD)/libmplua.a|$(LIBDIR)/libmplua.a
755|$(BUILD)/libmplua.so|$(LIBDIR)/libmplua.so.$(VERSION)
link|libmplua.so.$(VERSION)|$(LIBDIR)/$(SONAME)
link|$(SONAME)|$(LIBDIR)/libmplua.so
644|$(BUILD)/mplua.pc|$(LIBDIR)/pkgconfig/mplua.pc
755|$(BUILD)/mp.so|$(LUA_CMOD)/mp.so$(subst $(space)$(newline),$(newline),$(foreach f,$(sort \
  $(wildcard lua/meta/*.lua lua/meta/mp/*.lua)),$(newline)644|$(f)|$(DATADIR)/mplua/$(f:lua/%=%)))
endef
# The manual, when it was built, is a directory that is replaced as a whole.
HTML = $(DATADIR)/doc/mplua/html
# Directories that nobody misses when they are empty.
define OWN_DIRS
$(DATADIR)/mplua/meta/mp
$(DATADIR)/mplua/meta
$(DATADIR)/mplua
$(DATADIR)/doc/mplua
$(LIBDIR)/pkgconfig
$(LUA_CMOD)
$(LIBDIR)/lua
endef
define PC
prefix=$(PREFIX)
libdir=$(subst $(PREFIX)/,$${prefix}/,$(LIBDIR))
includedir=$(subst $(PREFIX)/,$${prefix}/,$(INCLUDEDIR))

Name: mplua
Description: Lua 5.4 with processes
Version: $(VERSION)
Requires: $(LUA_PC)
Cflags: -I"$${includedir}"
Libs: -L"$${libdir}" -lmplua
Libs.private: $(LIBS)
endef
install uninstall: export DESTDIR := $(DESTDIR)
install uninstall: export INSTALLED := $(INSTALLED)
install uninstall: export OWN_DIRS := $(OWN_DIRS)
install uninstall: export HTML := $(HTML)
install: export PC := $(PC)

install: all
	@printf '%s\n' "$$PC" > $(BUILD)/mplua.pc
	@printf '%s\n' "$$INSTALLED" | while IFS='|' read -r mode from to; do \
	  printf '  %-6s %s\n' INST "$$DESTDIR$$to"; \
	  if [ $$mode = link ]; then ln -sfn "$$from" "$$DESTDIR$$to"; \
	  else install -D -m $$mode "$$from" "$$DESTDIR$$to"; fi || exit 1; \
	done
	@[ ! -d $(BUILD)/doc ] || { printf '  %-6s %s\n' INST "$$DESTDIR$$HTML"; \
	  rm -rf "$$DESTDIR$$HTML" && mkdir -p "$$DESTDIR$$HTML" && \
	  cp -R $(BUILD)/doc/. "$$DESTDIR$$HTML"; }

uninstall:
	@printf '%s\n' "$$INSTALLED" | while IFS='|' read -r mode from to; do rm -f "$$DESTDIR$$to"; done
	@rm -rf "$$DESTDIR$$HTML"
	@printf '%s\n' "$$OWN_DIRS" | while read -r dir; do \
	  [ ! -d "$$DESTDIR$$dir" ] || rmdir --ignore-fail-on-non-empty "$$DESTDIR$$dir"; done

dist:
	@sh .ci/setup dist
	@sh .ci/dist $(BUILD) $(VERSION)

reproducible: all dist
	@+MAKE='$(MAKE)' bash .ci/reproducible $(BUILD) $(VERSION)

deb: dist
	@sh .ci/setup build deb
	@bash .ci/deb $(BUILD) $(VERSION)

rock:
	@sh .ci/setup build rock
	+luarocks --lua-version 5.4 --tree $(BUILD)/rocks make runtime/mplua-scm-1.rockspec

clean:
	rm -rf build
