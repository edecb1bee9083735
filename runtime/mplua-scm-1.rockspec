-- mp for stock Lua 5.4: luarocks make runtime/mplua-scm-1.rockspec, in the sources.
rockspec_format = "3.0"
package = "mplua"
version = "scm-1"
source = { url = "file://." }
description = {
  summary = "Processes, queues, shared memory, locks, pools and managers",
  detailed = "Does in Lua what Python's multiprocessing does, with processes made by fork.",
  license = "MIT",
  labels = { "multiprocessing", "parallel", "fork", "queue", "ipc" },
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "make",
  build_target = "build/rock/mp.so",
  build_variables = {
    BUILD = "build/rock",
    CC = "$(CC)",
    CFLAGS = "$(CFLAGS)",
    LUA = "$(LUA)",
    LUA_INC = "$(LUA_INCDIR)",
  },
  install_pass = false,
  install = { lib = { mp = "build/rock/mp.so" } },
}
