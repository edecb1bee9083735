-- Logging: what is written, when, and that lines stay whole.
local T = require "spec.helper"
local mp = require "mp"

local function run(text, args) return T.mplua("local mp = require 'mp'\n" .. text, args) end

local function fails(pattern, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(err))
end

describe("the logger", function()
  it("writes nothing until it is asked to", function()
    local r = run [[
      local logger = mp.get_logger()
      logger:error("unseen")
      logger:set_level("DEBUG")
      logger:critical("unseen")
      local p = mp.Process(function() end)
      p:start()
      p:join()
    ]]
    assert.same({ "", "", 0 }, { r.out, r.err, r.code })
  end)

  it("writes lines with level and process name to stderr", function()
    local r = run [[
      local logger = mp.log_to_stderr("INFO")
      logger:info("started %d of %s", 3, "x")
      logger:debug("unseen")
      logger:error("100% sure")
      local p = mp.Process{ name = "worker", target = function() logger:warning("in the child") end }
      p:start()
      p:join()
      logger:set_level("CRITICAL")
    ]]
    assert.equal(table.concat({
      "[INFO/MainProcess] started 3 of x",
      "[ERROR/MainProcess] 100% sure",
      "[INFO/worker] child process calling self.run()",
      "[WARNING/worker] in the child",
      "[INFO/worker] process shutting down",
      "[INFO/worker] process exiting with exitcode 0",
      "",
    }, "\n"), r.err)
  end)

  it("logs at WARNING when nobody has said anything else", function()
    local r = run [[
      local logger = mp.log_to_stderr()
      logger:info("unseen")
      logger:warning("seen")
      logger:critical("this too")
    ]]
    assert.equal("[WARNING/MainProcess] seen\n[CRITICAL/MainProcess] this too\n", r.err)
  end)

  it("has every level, in their order", function()
    local r = run [[
      local logger = mp.log_to_stderr()
      local levels = { "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL" }
      for _, level in ipairs(levels) do
        logger:set_level(level)
        for _, other in ipairs(levels) do logger[other:lower()](logger, level) end
      end
      logger:set_level("CRITICAL")
    ]]
    local count = {}
    for name, level in r.err:gmatch("%[(%u+)/MainProcess%] (%u+)\n") do
      count[level] = (count[level] or 0) + 1
      count[name] = count[name] or 0
    end
    assert.same({ DEBUG = 5, INFO = 4, WARNING = 3, ERROR = 2, CRITICAL = 1 }, count)
  end)

  it("is the same every time", function()
    assert.equal(mp.get_logger(), mp.get_logger())
    assert.is_nil(mp.get_logger().handler)
  end)

  it("uses the name that the process has now", function()
    local r = run [[
      local logger = mp.log_to_stderr()
      mp.current_process().name = "renamed"
      logger:error("x")
    ]]
    assert.equal("[ERROR/renamed] x\n", r.err)
  end)

  it("gives lines to a handler instead", function()
    local logger = mp.get_logger()
    local seen = {}
    logger.handler = function(...) seen[#seen + 1] = table.pack(...) end
    logger:warning("%s!", "careful")
    logger:info("below the level")
    logger.handler = nil
    logger:error("to nobody")
    assert.same({ { "WARNING", "careful!", "MainProcess", n = 3 } }, seen)
  end)

  it("hands level and handler down to children", function()
    local q <close> = mp.Queue()
    local logger = mp.get_logger()
    logger.handler = function(level, message, name) q:put { level, message, name } end
    local p = mp.Process { name = "heir", target = function() logger:error("from below") end }
    p:start()
    p:join()
    logger.handler = nil
    assert.same({ "ERROR", "from below", "heir" }, q:get(0))
    assert.is_true(q:empty())
  end)

  it("survives a handler that fails", function()
    local r = run [[
      local logger = mp.get_logger()
      logger.handler = function() error("broken", 0) end
      logger:error("lost")
      print("alive")
    ]]
    assert.same({ "alive\n", "[ERROR/MainProcess] log handler failed: broken\n" }, { r.out, r.err })
  end)

  it("says what is misused", function()
    local logger = mp.get_logger()
    local known = "known levels: CRITICAL, DEBUG, ERROR, INFO, WARNING"
    fails("log_spec%.lua:%d+: bad argument #1 to 'log_to_stderr' %(unknown level 'info'; " .. known,
      function() mp.log_to_stderr("info") end)
    fails("bad argument #1 to 'set_level' %(unknown level 'LOUD'; " .. known, function() logger:set_level("LOUD") end)
    fails("bad argument #1 to 'set_level' %(string expected, got no value%)", function() logger:set_level() end)
    fails("bad argument #1 to 'info' %(string expected, got table%)", function() logger:info({}) end)
    logger.handler = function() end
    fails("log_spec%.lua:%d+: bad argument #2 to 'error' %(number expected, got string%)",
      function() logger:error("%d", "x") end)
    logger.handler = nil
    fails("calling 'info' on bad self %(mp.Logger expected, got string%)", function() logger.info("x") end)
    fails("field 'handler' of an mp.Logger: function expected, got number", function() logger.handler = 1 end)
    fails("has no field 'handlers'", function() logger.handlers = print end)
    assert.is_nil(logger.handler)
  end)
end)

describe("lines of several processes", function()
  it("never mix", function()
    local r = run [[
      local logger = mp.log_to_stderr("ERROR")
      local gate = mp.Event()
      for i = 1, 8 do
        mp.Process(function()
          gate:wait()
          for j = 1, 200 do logger:error("%s", ("%d"):format(i):rep(50 + j)) end
        end):start()
      end
      gate:set()
    ]]
    local lines = 0
    for line in r.err:gmatch("([^\n]*)\n") do
      local digits = line:match("^%[ERROR/Process%-%d%] (%d+)$")
      assert.truthy(digits, line)
      assert.equal(digits:sub(1, 1):rep(#digits), digits)
      lines = lines + 1
    end
    assert.equal(1600, lines)
  end)
end)
