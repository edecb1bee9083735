-- mp.Listener and mp.Client: addresses, the handshake, pickles, and Python at the other end.
local T = require "spec.helper"
local mp = require "mp"
local auth = require "mp.auth"
local core = require "mp.core"

local KEY = "secret key"
local opened = {}

local function keep(object)
  opened[#opened + 1] = object
  return object
end

local function close_all()
  while #opened > 0 do table.remove(opened):close() end
end

local function listen(address, options) return keep(mp.Listener(address, options)) end

local start, finish = T.start, T.finish

local function fails(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(message))
end

--- Both ends of a connection.
local function linked(options, address)
  options = options or {}
  local l = listen(address or "\0mplua-spec-" .. core.getpid(), options)
  local p = start(function(where) -- passes its end on
    local conn = assert(mp.Client(where, options))
    while true do
      local value, why = conn:recv()
      if why then return end
      conn:send(value)
    end
  end, l.address)
  return keep(assert(l:accept(10))), p, l
end

local function hex(s) return (s:gsub("%x%x", function(b) return string.char(tonumber(b, 16)) end)) end

local function sequence(n)
  local list = {}
  for i = 0, n - 1 do list[#list + 1] = string.char(i) end
  return table.concat(list)
end

--- Runs a script where some files are empty; not everybody may.
local function without(files, text)
  local hide = {}
  for i, file in ipairs(files) do hide[i] = "mount --bind /dev/null " .. file end
  local alone = "unshare -m sh -c '" .. table.concat(hide, " && ") .. " && %s' 2>&1"
  if select(2, T.shell(alone:format("true"))) ~= 0 then pending("not permitted here") end
  local script = T.tmpname()
  local f = assert(io.open(script, "w"))
  f:write(text)
  f:close()
  local out, code = T.shell(alone:format(T.exe .. " " .. script))
  os.remove(script)
  return out, code
end

-- What a Listener and a Client are -------------------------------------------------------

describe("an address", function()
  after_each(close_all)

  it("of TCP has a port of its own when none is given", function()
    local l = listen({ "localhost", 0 })
    assert.equal("127.0.0.1", l.address[1])
    assert.is_true(l.address[2] > 0)
    assert.is_nil(l.last_accepted)
    local p = start(function(where)
      assert(mp.Client(where)):send("hello")
    end, l.address)
    local conn = keep(l:accept(10))
    assert.equal("hello", conn:recv(10))
    assert.equal("127.0.0.1", l.last_accepted[1])
    assert.equal(0, finish(p))
  end)

  it("may be a path, which goes with the listener", function()
    local path = T.tmpname()
    os.remove(path)
    local l = listen(path)
    assert.equal(path, l.address)
    local conn = keep(assert(mp.Client(path)))
    keep(assert(l:accept(5))):send({ 1 })
    assert.same({ 1 }, conn:recv(5))
    l:close()
    assert.is_nil(io.open(path))
    assert.same({ nil, "unreachable" }, { mp.Client(path) })
  end)

  it("may be a name without a file", function()
    local name = "\0mplua-abstract-" .. core.getpid()
    local l = listen(name)
    assert.equal(name, l.address)
    local conn = keep(assert(mp.Client(name)))
    assert.is_nil(l.last_accepted)
    keep(assert(l:accept(5)))
    assert.equal("", l.last_accepted)
    assert.is_false(conn.closed)
    l:close()
    assert.same({ nil, "refused" }, { mp.Client(name) })
  end)

  it("is a path in a private directory when there is none", function()
    local l = listen()
    local directory = l.address:match("^(.*)/")
    assert.matches("^drwx%-%-%-%-%-%-", (T.shell("ls -ld " .. T.quote(directory))))
    l:close()
    assert.equal(false, (require "lfs".attributes(directory) ~= nil))
  end)

  it("that a killed process left is used again; one in use is not", function()
    local path = T.tmpname()
    os.remove(path)
    local p = start(function()
      mp.Listener(path)
      os.execute("kill -9 " .. core.getpid())
      mp.sleep(10)
    end)
    assert.equal(-9, finish(p))
    local l = listen(path)
    fails("cannot listen at .*in use", mp.Listener, path)
    local conn = keep(assert(mp.Client(path)))
    keep(assert(l:accept(5)))
    assert.is_true(conn.writable)
  end)

  it("of nobody is refused or unreachable", function()
    local l = mp.Listener({ "127.0.0.1", 0 })
    local address = l.address
    l:close()
    assert.same({ nil, "refused" }, { mp.Client(address) })
    assert.same({ nil, "unreachable" }, { mp.Client("/nonexistent/mplua") })
  end)

  it("that is none is refused by name", function()
    fails("an address is {host, port}", mp.Client, { "localhost" })
    fails("from 0 to 65535", mp.Listener, { "localhost", 70000 })
    fails("107 bytes, this one has 200", mp.Listener, ("x"):rep(200))
    fails("or a path, got nil", mp.Client)
    fails("not of the family AF_INET", mp.Listener, "/tmp/x", { family = "AF_INET" })
    fails("unknown option 'auth'", mp.Client, { "localhost", 1 }, { auth = "x" })
    fails("option 'format': 'marshal' or 'pickle' expected", mp.Listener, nil, { format = "json" })
    fails("cannot listen at nowhere.invalid:0", mp.Listener, { "nowhere.invalid", 0 })
  end)

  it("knows localhost where no file names it", function()
    local out, code = without({ "/etc/hosts", "/etc/nsswitch.conf" }, [[
      local mp = require "mp"
      local l <close> = mp.Listener({ "localhost", 0 })
      local c <close> = assert(mp.Client({ "localhost", l.address[2] }))
      print(l.address[1], mp.type(c))]])
    assert.are.same({ "127.0.0.1\tmp.Connection\n", 0 }, { out, code })
  end)

  it("works for IPv6 where there is any", function()
    local ok, l = pcall(mp.Listener, { "::1", 0 })
    if not ok then return pending("no IPv6 here") end
    keep(l)
    keep(assert(mp.Client(l.address)))
    keep(assert(l:accept(5)))
    assert.equal("::1", l.last_accepted[1])
  end)
end)

describe("accept", function()
  after_each(close_all)

  it("has a time-out", function()
    assert.same({ nil, "timeout" }, { listen():accept(0.05) })
    assert.same({ nil, "timeout" }, { listen():accept(0) })
    fails("NaN", function() listen():accept(0 / 0) end)
  end)

  it("is not for a closed listener", function()
    local l = listen()
    l:close()
    l:close()
    fails("the mp.Listener is closed", l.accept, l)
    assert.matches("closed", tostring(l))
    assert.equal("mp.Listener", mp.type(l))
  end)

  it("tells of who does not know the key, and goes on", function()
    local l = listen(nil, { authkey = KEY })
    local p = start(function(where)
      assert.same({ nil, "denied" }, { mp.Client(where, { authkey = "other" }) })
      keep(assert(mp.Client(where, { authkey = KEY }))):send("in")
    end, l.address)
    assert.same({ nil, "denied" }, { l:accept(10) })
    assert.equal("in", keep(assert(l:accept(10))):recv(10))
    assert.equal(0, finish(p))
  end)

  it("is not kept by those who say nothing or nonsense", function()
    local l = listen(nil, { authkey = KEY })
    for i = 1, 20 do
      local silent = keep(assert(mp.Client(l.address)))
      if i % 2 == 0 then silent:send_bytes(("x"):rep(i % 4 == 0 and 20 or 5000)) end
    end
    local p = start(function(where)
      keep(assert(mp.Client(where, { authkey = KEY }))):send("in")
    end, l.address)
    local conn, why = l:accept(10)
    local denied = 0
    while why == "denied" do
      denied = denied + 1
      conn, why = l:accept(10)
    end
    assert.equal("in", keep(assert(conn, why)):recv(10))
    assert.is_true(denied <= 10)
    assert.equal(0, finish(p))
  end)

  it("does not spin over what a child has inherited of a handshake", function()
    local l = listen(nil, { authkey = KEY })
    local long, silent = mp.Client(l.address), keep(assert(mp.Client(l.address)))
    assert.same({ nil, "timeout" }, { l:accept(0.02) })
    local gate = mp.Event()
    local p = start(function() gate:wait(15) end)
    long:send_bytes(("x"):rep(300))
    assert.same({ nil, "timeout" }, { l:accept(0.02) })
    long:close()
    local before = os.clock()
    assert.same({ nil, "timeout" }, { l:accept(0.3) })
    assert.same({}, mp.wait({ l }, 0.3))
    assert.is_true(os.clock() - before < 0.2)
    assert.is_false(silent.closed)
    gate:set()
    assert.equal(0, finish(p))
  end)

  it("goes on in mp.wait", function()
    local l = listen(nil, { authkey = KEY })
    assert.same({}, mp.wait({ l }, 0.02))
    local p = start(function(where)
      keep(assert(mp.Client(where, { authkey = KEY }))):send("in")
    end, l.address)
    assert.same({ l }, mp.wait({ l }, 10))
    assert.equal("in", keep(assert(l:accept(0))):recv(10))
    assert.equal(0, finish(p))
  end)

  it("works in children that share a listener", function()
    local l = listen(nil, { authkey = KEY })
    local workers = {}
    for i = 1, 3 do
      workers[i] = start(function()
        local conn = assert(l:accept(10))
        conn:send(core.getpid())
        conn:close()
      end)
    end
    local seen = {}
    for _ = 1, 3 do seen[keep(assert(mp.Client(l.address, { authkey = KEY }))):recv(10)] = true end
    for _, p in ipairs(workers) do
      assert.is_true(seen[p.pid])
      assert.equal(0, finish(p))
    end
  end)

  it("serves forty clients at once", function()
    local l = listen({ "localhost", 0 }, { authkey = KEY })
    local clients, sum = {}, 0
    for i = 1, 40 do
      clients[i] = start(function(where)
        local conn = assert(mp.Client(where, { authkey = KEY }))
        conn:send(i)
        assert(conn:recv(15) == i * i)
      end, l.address)
    end
    for _ = 1, 40 do
      local conn <close> = assert(l:accept(15))
      local i = conn:recv(10)
      sum = sum + i
      conn:send(i * i)
    end
    assert.equal(820, sum)
    for i = 1, 40 do assert.equal(0, finish(clients[i])) end
  end)
end)

describe("Client", function()
  after_each(close_all)

  it("gives up when the other side has no key", function()
    local l = listen()
    assert.same({ nil, "timeout" }, { mp.Client(l.address, { authkey = KEY, timeout = 0.1 }) })
    fails("seconds expected", mp.Client, l.address, { timeout = "x" })
  end)

  it("is denied by who hangs up", function()
    local l = listen()
    local p = start(function() l:accept(10):close() end)
    assert.same({ nil, "denied" }, { mp.Client(l.address, { authkey = KEY, timeout = 10 }) })
    assert.equal(0, finish(p))
  end)
end)

-- What crosses ------------------------------------------------------------------------------

describe("a connection to elsewhere", function()
  after_each(close_all)

  it("carries values", function()
    local conn, p = linked { authkey = KEY }
    for _, value in ipairs { 1, 2.5, "x", true, { 1, { a = "b" } }, ("y"):rep(1 << 20) } do
      conn:send(value)
      assert.same(value, conn:recv(10))
    end
    conn:send(mp.null)
    assert.equal(mp.null, conn:recv(10))
    assert.equal("marshal", conn.format)
    conn:close()
    assert.equal(0, finish(p))
  end)

  it("carries no functions unless both sides agree, and no objects of the family", function()
    local conn, p, l = linked()
    fails("cannot marshal a function", conn.send, conn, function() return 1 end)
    fails("cannot marshal", conn.send, conn, mp.Queue())
    conn:close()
    assert.equal(0, finish(p))
    l:close()
    conn, p = linked { allow_code = true }
    conn:send(function(x) return x + 1 end)
    assert.equal(42, conn:recv(10)(41))
    conn:close()
    assert.equal(0, finish(p))
  end)

  it("refuses what is longer than it takes", function()
    local l = listen(nil, { max_message = 1000 })
    local client = keep(assert(mp.Client(l.address)))
    local conn = keep(assert(l:accept(5)))
    client:send_bytes(("x"):rep(1000))
    assert.equal(1000, #conn:recv_bytes(nil, 5))
    client:send_bytes(("x"):rep(1001))
    fails("message of 1001 bytes exceeds maxlength 1000", conn.recv, conn, 5)
    assert.is_true(conn.closed)
  end)

  it("keeps its ways when it is passed on", function()
    local l = listen(nil, { format = "pickle", max_message = 1000 })
    local client = keep(assert(mp.Client(l.address)))
    local a, b = mp.Pipe()
    a:send(keep(assert(l:accept(5))))
    local conn = keep(b:recv(5))
    a:close()
    b:close()
    assert.equal("pickle", conn.format)
    conn:send({ 1, 2 })
    assert.same({ 1, 2 }, client:recv(5))
    client:send_bytes(("x"):rep(1001))
    fails("exceeds maxlength 1000", conn.recv, conn, 5)
  end)
end)

-- Pickles ----------------------------------------------------------------------------------

describe("a pickle", function()
  after_each(close_all)

  local conn, raw
  before_each(function()
    local l = listen(nil, { format = "pickle" })
    raw = keep(assert(mp.Client(l.address)))
    conn = keep(assert(l:accept(5)))
  end)

  local function read(bytes)
    raw:send_bytes(bytes)
    return conn:recv(5)
  end

  it("of every plain value is written and read", function()
    for _, value in ipairs {
      0, 255, 256, -1, 1 << 31, math.mininteger, math.maxinteger, 0.5, -0.0, math.huge, true, false,
      "", "text", "h\u{e9}", "\xff\x00", ("z"):rep(70000), {}, { 1, 2, 3 }, { { {} } },
      { a = 1, b = { c = "d" } }, { [1.5] = 2, [-1] = 3, [true] = false },
    } do
      conn:send(value)
      assert.same(value, raw:recv(5))
    end
    conn:send { mp.null, mp.bytes("abc") }
    assert.same({ mp.null, "abc" }, raw:recv(5))
    local loop = { 1 }
    loop[2], loop[3] = loop, loop
    conn:send(loop)
    local got = raw:recv(5)
    assert.is_true(rawequal(got, got[2]) and rawequal(got, got[3]))
  end)

  it("of protocol 2 and 3 is read", function()
    assert.same({ [1] = true, [2] = true },
      read("\x80\x02c__builtin__\nset\nq\0]q\1(K\1K\2e\x85q\2Rq\3."))
    assert.same("\xff\0a", read("\x80\x02c_codecs\nencode\nq\0X\4\0\0\0\xc3\xbf\0aq\1X\6\0\0\0latin1q\2\x86q\3Rq\4."))
    assert.same({ 1, "a", mp.null }, read("\x80\x03(K\1X\1\0\0\0aNtq\0."))
    assert.same("", read("\x80\x02c__builtin__\nbytes\n)R."))
  end)

  it("of more than plain data is refused by name, and the next one is read", function()
    for pattern, bytes in pairs {
      ["refused: posix%.system"] = "\x80\x04\x8c\5posix\x8c\6system\x93\x8c\2id\x85R.",
      ["refused: os%.system"] = "\x80\x02cos\nsystem\nX\2\0\0\0id\x85R.",
      ["refused: builtins%.eval"] = "\x80\x02c__builtin__\neval\n.",
      ["refused: builtins%.set"] = "\x80\x04\x8c\8builtins\x8c\3set\x93.",
      ["refused: builtins%.bytes"] = "\x80\x04]\x8c\8builtins\x8c\5bytes\x93a.",
      ["operation 98"] = "\x80\x04}}b.",
      ["more than 64 bits"] = "\x80\x04\x8a\9\0\0\0\0\0\0\0\0\1.",
      ["NaN cannot be a key"] = "\x80\x04}G\x7f\xf8\0\0\0\0\0\0K\1s.",
      ["malformed data %(it ends too early%)"] = "\x80\x04X\xff\xff\xff\xffab",
      ["malformed data %(no mark%)"] = "\x80\x04e.",
      ["malformed data %(the stack is empty%)"] = "\x80\x04(a.",
      ["malformed data %(it refers"] = "\x80\x04h\7.",
      ["a protocol above 5"] = "\x80\x02\x80\x09N.",
      ["bytes behind its end"] = "\x80\x04N.N",
      ["not one value"] = "\x80\x04NN.",
    } do
      fails(pattern, read, bytes)
      assert.equal(7, read("\x80\x04K\7."))
    end
  end)

  it("can hold ints of any length that have a value of 64 bits", function()
    assert.equal(-1, read("\x80\x04\x8a\x0a" .. ("\xff"):rep(10) .. "."))
    assert.equal(math.maxinteger, read("\x80\x04\x8a\8\xff\xff\xff\xff\xff\xff\xff\x7f."))
    assert.equal(0, read("\x80\x04\x8a\0."))
    fails("64 bits", read, "\x80\x04\x8a\9\xff\xff\xff\xff\xff\xff\xff\xff\0.")
  end)

  it("of what Python has nothing for names the path", function()
    fails("cannot pickle a function at value%.a%[2%]", conn.send, conn, { a = { 1, print } })
    fails("cannot pickle a thread at value", conn.send, conn, coroutine.create(print))
    fails("a table that is a key", conn.send, conn, { [{}] = 1 })
    local deep = {}
    for _ = 1, 3000 do deep = { deep } end
    fails("2000 deep", conn.send, conn, deep)
    conn:send("still")
    assert.equal("still", raw:recv(5))
  end)

  it("may nest as deep as it likes", function()
    local value, depth = read("\x80\x04" .. ("]"):rep(100000) .. ("a"):rep(99999) .. "."), 0
    while value do value, depth = value[1], depth + 1 end
    assert.equal(100000, depth)
  end)

  it("of random bytes is a value or an error", function()
    local state = 12345
    local function random(n)
      state = (state * 1103515245 + 12345) & 0x7fffffff
      return (state >> 8) % n
    end
    local good = "\x80\x04(K\1\x8c\1ax}X\2\0\0\0bcK\2s]\x94(N\x88\x89e\x8f\x94(K\5\x90h\0\x86t."
    for _ = 1, 4000 do
      local bytes = { good:byte(1, -1) }
      for _ = 1, 1 + random(4) do bytes[3 + random(#bytes - 2)] = random(256) end
      raw:send_bytes(string.char(table.unpack(bytes)))
      pcall(conn.recv, conn, 5)
    end
    for _ = 1, 1000 do
      local bytes = { 0x80, 2 + random(4) }
      for i = 3, 3 + random(40) do bytes[i] = random(256) end
      raw:send_bytes(string.char(table.unpack(bytes)))
      pcall(conn.recv, conn, 5)
    end
    assert.equal(7, read("\x80\x04K\7."))
  end)
end)

-- The handshake ----------------------------------------------------------------------------

describe("the handshake", function()
  after_each(close_all)

  local digests = {
    sha256 = "de660527caa52c2d8313422ff6496f5aa46b4ddfca5f20b8da5748f901d3dd5b",
    md5 = "4f029a779bdd8985c1f1ad9a0f4b9135",
    sha384 = "c8e9fe2bdeb806e0decf0717a058be72c597f25a968232be34b30566dc0a6018"
      .. "b1f01212ca18eb95382dc585f89622c8",
    sha3_256 = "6990901d236ea56107ff9afdef1c41ac688674c4765c42582cf17bff62b0e618",
    sha3_384 = "f4e0a6e1ad37a3b29ada5ea078e8de668eb84324110e64866288deab3040724b"
      .. "a67cfe5caf6194fbb2103bf20c16e1ce",
  }

  it("answers as CPython does", function()
    for name, digest in pairs(digests) do
      local message = "{" .. name .. "}" .. sequence(40)
      local response = "{" .. name .. "}" .. hex(digest)
      assert.equal(response, auth.respond(KEY, message, true))
      assert.is_true(auth.verify(KEY, message, response, true))
      assert.is_false(auth.verify("other", message, response, true))
    end
    assert.equal(hex "4a02c707870ff5a776b673d15ef53ada", auth.respond(KEY, sequence(20), true))
    assert.is_true(auth.verify(KEY, "{sha256}" .. sequence(40),
      hex "b60d7fd0e70a7da2749f805c65053205", true))
  end)

  it("says at the door when there is no libcrypto", function()
    local lib = T.shell("ls /usr/lib/*/libcrypto.so.[0-9]*"):gsub("\n", " ")
    local files = {}
    for file in lib:gmatch("%S+") do files[#files + 1] = file end
    local out, code = without(files, [[
      local mp = require "mp"
      local open <close> = mp.Listener()
      print(pcall(mp.Listener, nil, { authkey = "k" }))
      print(pcall(mp.Client, open.address, { authkey = "k" }))]])
    assert.are.equal(0, code)
    assert.matches("^false\t.-needs libcrypto.-\nfalse\t.-needs libcrypto", out)
  end)

  it("takes no MD5 unless asked", function()
    assert.is_nil(auth.respond(KEY, sequence(20)))
    assert.is_nil(auth.respond(KEY, "{md5}" .. sequence(40)))
    assert.is_false(auth.verify(KEY, "{sha256}" .. sequence(40),
      hex "b60d7fd0e70a7da2749f805c65053205"))
    assert.is_nil(auth.respond(KEY, "short", true))
    assert.is_nil(auth.respond(KEY, "{sha1}" .. sequence(40), true))
    assert.is_nil(auth.respond(KEY, sequence(48), true))
  end)
end)

-- Python ------------------------------------------------------------------------------------

local pythons = {}
do
  local out = T.shell("for p in /usr/bin/python3 \"$HOME\"/.pyenv/versions/3.*/bin/python3; do "
    .. "[ -x \"$p\" ] && \"$p\" -c 'import sys, multiprocessing.connection as c; "
    .. "sys.version_info >= (3, 8) and print(sys.executable, \"%d.%d\" % sys.version_info[:2])' "
    .. "2>/dev/null; done")
  local seen = {}
  for path, version in out:gmatch("(%S+) (%d+%.%d+)\n") do
    if not seen[version] then pythons[#pythons + 1] = { path = path, version = version } end
    seen[version] = true
  end
end

local CLIENT = [[
import sys, multiprocessing.connection as c
conn = c.Client(("127.0.0.1", int(sys.argv[1])), authkey=b"secret key")
for v in [None, True, 1, -5, 2**40, 1.5, "t\u00e9xt", b"\xff\x00", [1, [2] ], (1, 2, 3), {"a": 1},
          {1, 2}, frozenset([3]), bytearray(b"ba"), "x" * 100000]:
    conn.send(v)
assert conn.recv() == [1, 2.5, "s", b"\xff", {"k": [True, None]}, b"forced"]
conn.send_bytes(b"y" * 20000)
assert conn.recv_bytes() == b"z" * 20000
]]

local SERVER = [[
import multiprocessing.connection as c
l = c.Listener(("127.0.0.1", 0), authkey=b"secret key")
print(l.address[1], flush=True)
conn = l.accept()
assert conn.recv() == {"a": [1, 2]}
conn.send((1, {"b": "c"}))
try: c.Listener.accept(l)
except Exception as e: print(type(e).__name__, flush=True)
]]

local HOSTILE = [[
import sys, os, multiprocessing.connection as c
class Evil:
    def __reduce__(self): return (os.system, ("touch " + sys.argv[2],))
conn = c.Client(("127.0.0.1", int(sys.argv[1])), authkey=b"secret key")
conn.send(Evil())
conn.send("after")
assert conn.recv() == "done"
]]

if #pythons == 0 then
  describe("Python", function() pending("no Python 3.8 or later here") end)
end

for _, python in ipairs(pythons) do
  describe("Python " .. python.version, function()
    after_each(close_all)

    local options = { authkey = KEY, format = "pickle", legacy = true }

    local function run(code, arguments)
      return io.popen(("%s -c %s %s 2>&1"):format(python.path, T.quote(code), arguments or ""))
    end

    local function done(pipe, expected)
      local out = pipe:read("a")
      assert.equal(expected or "", out)
      assert.is_true((pipe:close()))
    end

    it("is a client", function()
      local l = listen({ "127.0.0.1", 0 }, options)
      local pipe = run(CLIENT, l.address[2])
      local conn = keep(assert(l:accept(15)))
      for _, value in ipairs { mp.null, true, 1, -5, 1 << 40, 1.5, "t\u{e9}xt", "\xff\0", { 1, { 2 } },
        { 1, 2, 3 }, { a = 1 }, { true, true }, { [3] = true }, "ba", ("x"):rep(100000) } do
        assert.same(value, conn:recv(10))
      end
      conn:send { 1, 2.5, "s", "\xff", { k = { true, mp.null } }, mp.bytes "forced" }
      assert.equal(20000, #conn:recv_bytes(nil, 10))
      conn:send_bytes(("z"):rep(20000))
      done(pipe)
    end)

    it("is a server", function()
      local pipe = run(SERVER)
      local address = { "127.0.0.1", tonumber(pipe:read("l")) }
      local conn = keep(assert(mp.Client(address, options)))
      conn:send({ a = { 1, 2 } })
      assert.same({ 1, { b = "c" } }, conn:recv(10))
      assert.same({ nil, "denied" }, { mp.Client(address,
        { authkey = "wrong", format = "pickle", legacy = true, timeout = 10 }) })
      done(pipe, "AuthenticationError\n")
    end)

    it("executes nothing here", function()
      local l = listen({ "127.0.0.1", 0 }, options)
      local mark = T.tmpname()
      os.remove(mark)
      local pipe = run(HOSTILE, l.address[2] .. " " .. mark)
      local conn = keep(assert(l:accept(15)))
      fails("refused: posix%.system", conn.recv, conn, 10)
      assert.equal("after", conn:recv(10))
      conn:send("done")
      done(pipe)
      assert.is_nil(io.open(mark))
    end)
  end)
end
