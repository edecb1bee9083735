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
PREFIX ?= /usr/local
MULTIARCH := $(shell $(CC) -print-multiarch 2>/dev/null || gcc -print-multiarch 2>/dev/null)
LUA_INC ?= /usr/include/lua5.4
LUA_LIBDIR ?= /usr/lib/$(MULTIARCH)
LUA_A := $(LUA_LIBDIR)/liblua5.4.a

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
  -Wundef -Wvla -Wwrite-strings $(if $(WERROR),-Werror)
COMPILE := $(CC) $(STD) $(OPT) -g $(WARN) -fPIC -fvisibility=hidden $(SANFLAGS) \
  -I$(LUA_INC) $(CFLAGS)
LIBS := -ldl -lm -lpthread

CORE_SRC := $(sort $(wildcard runtime/os/*.c runtime/shm/*.c runtime/ipc/*.c))
MODULE_SRC := $(CORE_SRC) $(sort $(wildcard runtime/bind/*.c)) runtime/mplua.c
HOST_SRC := $(sort $(wildcard runtime/host/*.c))
MODULE_OBJ := $(MODULE_SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/embedded.o
LIB_OBJ := $(MODULE_OBJ) $(HOST_SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/runtime/command.o \
  $(BUILD)/obj/runtime/prompt.o
MAIN_OBJ := $(BUILD)/obj/runtime/main.o $(BUILD)/obj/runtime/heap.o
LUA_SRC := $(sort $(shell find lua/mp -name '*.lua' 2>/dev/null))

CHECKS := $(patsubst spec/core/%.c,$(BUILD)/core/%,$(sort $(wildcard spec/core/*_check.c)))
FUZZERS := $(patsubst spec/core/%.c,$(BUILD)/core/%,$(sort $(wildcard spec/core/fuzz_*.c)))
SPEC_SO := $(patsubst spec/%.c,$(BUILD)/spec/%.so,$(sort $(wildcard spec/*.c)))

PRODUCTS := $(BUILD)/mplua $(BUILD)/mp.so $(BUILD)/libmplua.a $(BUILD)/libmplua.so

.PHONY: all run test check checks bench guard doc lint asan tsan crash chaos fuzz fuzzers install clean help FORCE
.DELETE_ON_ERROR:
.SUFFIXES:

all: $(PRODUCTS)

help:
	@echo 'make [CC=clang] [WERROR=1] [DEBUG=1]   $(PRODUCTS)'
	@echo 'make run      the tutorial, one script after the other, then a word count'
<<<<<<< HEAD
	@echo 'make test     C checks and specs            make bench   the figures'
	@echo 'make doc      the manual: $(BUILD)/doc/index.html'
=======
	@echo 'make test     C checks and specs'
	@echo 'make bench [ROWS="w2 w3 scale cliff"] [ROUNDS=5]   the figures, beside those of PEERS'
	@echo 'make guard [UPDATE=1]   instructions of the hottest operations: have they grown?'
>>>>>>> 481af38b3056cdac0b759473a1e74384516aec81
	@echo 'make lint     luacheck, cppcheck, the direction of includes, symbols'
	@echo 'make asan     the checks under address and undefined behaviour sanitizers'
	@echo 'make tsan     the C checks under the thread sanitizer'
	@echo 'make crash    kills processes after every instruction of the operations (minutes)'
	@echo 'make chaos SECONDS=60 SEED=n   thirty processes, killed and stopped at random'
	@echo 'make fuzz SECONDS=60   libFuzzer on the readers of bytes from outside (needs clang)'
	@echo 'make install PREFIX=/usr/local DESTDIR=   make clean'

# What is compiled -------------------------------------------------------------

# Rewritten only when its text differs: a change of compiler or flags, or of the
# set of sources, makes what depends on it anew.
define keep
@mkdir -p $(@D); printf '%s\n' '$(subst ','\'',$(1))' | cmp -s - $@ || \
  printf '%s\n' '$(subst ','\'',$(1))' > $@
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

$(BUILD)/libmplua.so: $(LIB_OBJ) $(BUILD)/sources
	$(call say,LINK) $(CC) $(SANFLAGS) $(LDFLAGS) -shared -Wl,-soname,libmplua.so.0 -o $@ $(LIB_OBJ) \
	  $(LUA_LIBDIR)/liblua5.4.so $(LIBS)

# One object, in which only the public names are left global.
$(BUILD)/libmplua.a: $(LIB_OBJ) $(BUILD)/sources
	$(call say,AR) $(CC) -r -nostdlib -o $(BUILD)/obj/libmplua.o $(LIB_OBJ)
	@objcopy --localize-hidden $(BUILD)/obj/libmplua.o
	@rm -f $@ && ar rcs $@ $(BUILD)/obj/libmplua.o

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

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include \
	  $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/lib/lua/5.4
	install -m 755 $(BUILD)/mplua $(DESTDIR)$(PREFIX)/bin/mplua
	install -m 644 runtime/mplua.h $(DESTDIR)$(PREFIX)/include/mplua.h
	install -m 644 $(BUILD)/libmplua.a $(DESTDIR)$(PREFIX)/lib/libmplua.a
	install -m 755 $(BUILD)/libmplua.so $(DESTDIR)$(PREFIX)/lib/libmplua.so.0
	ln -sf libmplua.so.0 $(DESTDIR)$(PREFIX)/lib/libmplua.so
	install -m 755 $(BUILD)/mp.so $(DESTDIR)$(PREFIX)/lib/lua/5.4/mp.so
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' \
	  'includedir=$${prefix}/include' '' 'Name: mplua' \
	  'Description: Lua 5.4 with processes' 'Version: $(VERSION)' \
	  'Cflags: -I$${includedir} -I$(LUA_INC)' 'Libs: -L$${libdir} -lmplua -llua5.4' \
	  'Libs.private: $(LIBS)' > $(DESTDIR)$(PREFIX)/lib/pkgconfig/mplua.pc

clean:
	rm -rf build
