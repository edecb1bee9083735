-- Hosts in C: examples/embed, built and run.
local T = require "spec.helper"

local root = require("lfs").currentdir()

describe("the hosts in examples/embed", function()
  local dir, lua
  setup(function()
    dir = T.tmpname()
    assert(os.execute("mkdir " .. dir))
    lua = "/usr/lib/" .. (T.shell "gcc -print-multiarch"):gsub("%s+$", "") .. "/liblua5.4.a"
  end)
  teardown(function() os.execute("rm -rf " .. dir) end)

  -- What a host prints, and its exit code.
  local function host(name, args)
    if T.sanitized then pending("not with sanitizers") end
    local out, code = T.shell(("gcc -std=c11 -Wall -Wextra -Werror -pedantic -I%s/runtime -I/usr/include/lua5.4"
      .. " -o %s/%s %s/examples/embed/%s.c %s/libmplua.a %s -ldl -lm -lpthread"):format(
      root, dir, name, root, name, T.build, lua), 60)
    assert.equal(0, code, out)
    return T.shell(("%s/%s %s"):format(dir, name, args or ""))
  end

  it("open and close the library, again and again", function()
    local out, code = host "minimal"
    assert.equal("1 4 9\n1 4 9\n", out)
    assert.equal(0, code)
  end)

  it("feed Lua processes from four threads, and poll what comes", function()
    local out, code = host "threads"
    assert.equal(("thread 0: N\nthread 1: N\nthread 2: N\nthread 3: N\n"):gsub("N", "5239625"), out)
    assert.equal(0, code)
  end)

  it("have a pool without any Lua of their own", function()
    local out, code = host "pool"
    assert.matches("value: text: mplua%-mplua%-mplua\n", out)
    assert.matches("error: a task that fails\n", out)
    assert.matches("error: worker ended with exit code 3", out)
    assert.matches("fib%(20%) to fib%(24%) together: 110447\n$", out)
    assert.equal(0, code)
  end)

  it("limit the memory and the time of others' scripts", function()
    local function script(name, text)
      local path = dir .. "/" .. name .. ".lua"
      local file = assert(io.open(path, "w"))
      file:write(text)
      file:close()
      return path
    end
    local out, code = host("limits", table.concat({
      script("good", "print 'fine'"),
      script("endless", "while true do end"),
      script("greedy", "local s = ('x'):rep(1 << 26) .. 'y'"),
      script("wrong", "x = = 1"),
    }, " "))
    assert.matches("^fine\n[^\n]*good%.lua: done\n", out)
    assert.matches("\n[^\n]*endless%.lua: more than %d s\n", out)
    assert.matches("not enough memory\n.*greedy%.lua: failed\n", out)
    assert.matches("wrong%.lua:1: unexpected symbol near '='\n$", out)
    assert.equal(0, code)
  end)
end)
