-- The command: what is Lua's own is checked against stock lua5.4, side by side.
local T = require "spec.helper"

local STOCK = "/usr/bin/lua5.4"

--- Runs `PROG <words>` in sh, in a fresh directory with some scripts in it, with PROG
-- the given command.  Returns {out, err, code}, in which PROG stands for the command.
-- TERM and COLUMNS: readline shall not dress or cut what lua echoes.
local dir

local function write(name, text)
  local file = assert(io.open(dir .. "/" .. name, "wb"))
  file:write(text)
  file:close()
end

local function run(exe, line)
  local shell = ("cd %s && { %s\n} >out 2>err"):format(dir, line:gsub("PROG", (exe:gsub("%%", "%%%%"))))
  local _, how, code = os.execute("TERM=dumb COLUMNS=1000 timeout -k 5 20 sh -c " .. T.quote(shell))
  local function result(name)
    return (T.read(dir .. "/" .. name):gsub(exe:gsub("%p", "%%%0"), "PROG"))
  end
  return { out = result "out", err = result "err", code = how == "signal" and 128 + code or code }
end

local function mplua(line) return run(T.exe, line) end

--- Runs the line with both; the results must be the same, and are returned.  The usage
-- text may have the lines of options that lua lacks.
local function same(line)
  local mine, stock = mplua(line), run(STOCK, line)
  mine.err = mine.err:gsub("\n  %-[mh] [^\n]*", ""):gsub("\n  %-%-version [^\n]*", "")
  assert.same(stock, mine, line)
  return mine
end

local scripts = {
  ["args.lua"] = [[
    local low = 0
    while arg[low - 1] do low = low - 1 end
    for i = low, #arg do print(i, arg[i]) end
    print("...", select("#", ...), ...)]],
  ["fails.lua"] = "local function f() error('broken') end\nf()",
  ["table.lua"] = "error({code = 2})",
  ["object.lua"] = "error(setmetatable({}, {__tostring = function() return 'an object' end}))",
  ["bad.lua"] = "x = = 1",
  ["nothing.lua"] = "",
  ["shebang.lua"] = "#!/usr/bin/env lua\nprint('shebang', ...)",
  ["mod.lua"] = "return {name = ..., answer = 42}",
  ["init.lua"] = "print 'init file'",
  ["exit.lua"] = "io.write('before') os.exit(tonumber(arg[1]) or arg[1] == 'true')",
  ["broken.lua"] = "error('broken module')",
}

setup(function()
  dir = T.tmpname()
  assert(os.execute("mkdir " .. dir))
  for name, text in pairs(scripts) do write(name, text) end
  assert(os.execute(("cd %s && mkdir sub && printf 'print(\"sub\", arg[0], ...)' >sub/init.lua"):format(dir)))
end)

teardown(function() os.execute("rm -rf " .. dir) end)

describe("a script", function()
  it("gets its arguments in arg and ...", function()
    same "PROG args.lua"
    same "PROG args.lua a 'b c' ''"
    same "PROG -W args.lua -e x"
    same "PROG -e 'x = 1' -- args.lua a"
  end)

  it("can come from stdin, with arguments after -", function()
    assert.equal("3\n", same("echo 'print(1 + 2)' | PROG").out)
    same "echo 'print(...)' | PROG - a b"
    same "echo 'x = = 1' | PROG"
    same "echo 'error({})' | PROG -"
    same "echo 'print(arg[0], arg[-1])' | PROG"
  end)

  it("may be named - after --", function()
    same "cp args.lua ./- && PROG -- - a; code=$?; rm ./-; exit $code"
    same "PROG -- - </dev/null"
  end)

  it("may begin with #", function() same "PROG shebang.lua x" end)

  it("is an error when it is missing", function()
    assert.equal(1, same("PROG nofile").code)
    same "PROG nofile.lua a b"
    same "PROG -- nofile.lua"
    same "PROG ."
  end)

  it("may be compiled code", function()
    same "luac5.4 -o out.luac args.lua && PROG out.luac a b"
  end)

  it("that fails ends with 1, the message and a traceback on stderr", function()
    local r = same "PROG fails.lua"
    assert.equal(1, r.code)
    assert.equal("", r.out)
    assert.matches("^PROG: fails.lua:1: broken\nstack traceback:\n", r.err)
    assert.matches("syntax error", same("PROG bad.lua").err .. "syntax error")
    assert.equal(1, same("PROG bad.lua").code)
  end)

  it("may fail with any value", function()
    assert.matches("error object is a table value", same("PROG table.lua").err)
    assert.matches("PROG: an object\n", same("PROG object.lua").err)
    same "PROG -e 'error(nil)'"
    same "PROG -e 'error(12)'"
    same "PROG -e 'error()'"
    same "PROG -e 'error(print)' 2>&1"
    same "PROG -e 'error(setmetatable({}, {__tostring = function() return 1 end}))'"
    same "PROG -e 'error(setmetatable({}, {__tostring = function() error(\"in it\") end}))'"
    same "PROG -e 'local function f() return f() + 1 end f()' 2>&1 | head -n 1"
    same "PROG -e 'string.rep(\"x\", -1)(1)'"
  end)

  it("ends with the status that os.exit says", function()
    for _, status in ipairs { "0", "1", "7", "255", "256", "true", "false" } do
      same("PROG exit.lua " .. status)
    end
    same "PROG -e 'os.exit(3, true)'"
    same "PROG -e 'local x <close> = setmetatable({}, {__close = function() print \"closed\" end}) os.exit(4, true)'"
    same "PROG -e 'setmetatable({}, {__gc = function() print \"collected\" end})'"
    same "PROG -e 'setmetatable({}, {__gc = function() print \"collected\" end}) error \"x\"'"
  end)

  it("that a signal ends looks so from outside", function()
    same "PROG -e 'os.execute(\"kill -TERM $PPID\")'; echo $?"
  end)

  it("finds 'arg' as LUA_INIT or -e left it", function()
    same "PROG -e 'arg = nil' args.lua a"
    same "PROG -e 'arg[1] = \"changed\" arg[2] = nil' args.lua a b"
    same "PROG -e 'arg = setmetatable({}, {__len = function() error \"len\" end})' args.lua a b"
  end)

  it("with closed standard streams ends as under lua", function()
    same "PROG -e 'print(1)' >&-; echo $? >&2"
    same "PROG -e 'error(1)' 2>&-; echo $?"
    same "PROG args.lua <&-"
    same "PROG -e 'print(io.read())' <&-"
    same "PROG -e 'print(1)' >/dev/full; echo $?"
  end)
end)

describe("options", function()
  it("-e runs a string, attached or not, several in order", function()
    same "PROG -e 'print(1)' -e'print(2)' -e 'print(...)' args.lua a"
    same "PROG -e 'print(1) error(\"x\")' -e 'print(2)'"
    same "PROG -e 'x ='"
    same "PROG -e ''"
    same "PROG -e"
    same "PROG -e -x"
    same "PROG -e'-x'"
    same "PROG -e '' -e"
  end)

  it("-l requires a module, under its name or another", function()
    same "PROG -l mod -e 'print(mod.name, mod.answer)'"
    same "PROG -lmod -e 'print(mod.answer)'"
    same "PROG -l m=mod -e 'print(m.answer, mod)'"
    same "PROG -l m= -e 'print(m)' 2>&1 | head -n 1"
    same "PROG -l =mod -e 'print(_G[\"\"].answer)'"
    same "PROG -l"
    same "PROG -l broken"
    same "PROG -l nomodule 2>&1 | head -n 1"
  end)

  it("-W turns warnings on", function()
    same "PROG -W -e 'warn \"careful\"'"
    same "PROG -e 'warn \"careful\"'"
    same "PROG -e 'warn \"a\"' -W -e 'warn(\"b\", \"c\")'"
    same "PROG -W -e 'setmetatable({}, {__gc = function() error \"in gc\" end}) collectgarbage()'"
  end)

  it("-E ignores the environment", function()
    same "LUA_INIT='print(1)' PROG -E -e 'print(2)'"
    same "LUA_PATH='x' PROG -E -e 'print(package.path)'"
    same "LUA_CPATH_5_4='x;;' PROG -e 'print(package.cpath)'"
    same "LUA_PATH='x;;y' PROG -e 'print(package.path)'"
  end)

  it("LUA_INIT_5_4 or LUA_INIT is run first, a file after @", function()
    same "LUA_INIT='print(1)' PROG -e 'print(2)'"
    same "LUA_INIT='print(1)' LUA_INIT_5_4='print(54)' PROG -e 'print(2)'"
    same "LUA_INIT='@init.lua' PROG args.lua x"
    same "LUA_INIT='@nofile.lua' PROG args.lua x"
    same "LUA_INIT='error(\"in init\")' PROG args.lua x"
    same "LUA_INIT='x =' PROG args.lua x"
    same "LUA_INIT='' PROG args.lua x"
    same "LUA_INIT='arg = {[0] = \"x\", \"y\"}' PROG args.lua x"
  end)

  it("end at the script, at - and at --", function()
    same "PROG -- args.lua -e"
    same "PROG args.lua -- -v"
    same "PROG -W -- "
    same "PROG -E -W -e 'print(1)' --"
    same "echo 'print(arg[0], #arg)' | PROG -"
    same "PROG </dev/null"
    same "PROG -- </dev/null"
  end)

  it("that do not exist are refused with the usage on stderr", function()
    for _, option in ipairs { "-x", "--x", "-ex", "-ix", "-vv", "-Ex", "-WW", "---", "-i-", "-e" } do
      local mine, stock = mplua("PROG " .. option), run(STOCK, "PROG " .. option)
      local function first(text) return text:match("^[^\n]*\n[^\n]*") end
      assert.equal(stock.code, mine.code, option)
      assert.equal(first(stock.err), first(mine.err), option)
      assert.equal(stock.out, mine.out, option)
    end
    assert.matches("unrecognized option '%-x'\nusage: PROG %[options%] %[script %[args%]%]\n", mplua("PROG -x").err)
    assert.equal(1, mplua("PROG -e 'print(1)' -x").code)
    assert.equal("", mplua("PROG -e 'print(1)' -x").out)
    assert.matches("'%-m' needs argument", mplua("PROG -m").err)
  end)

  it("-v prints the version, and what else there is runs", function()
    assert.same({ out = "mplua 0.1.0 (Lua 5.4.4)\n", err = "", code = 0 }, mplua("PROG -v"))
    assert.same({ out = "mplua 0.1.0 (Lua 5.4.4)\n", err = "", code = 0 }, mplua("PROG --version args.lua"))
    assert.same({ out = "mplua 0.1.0 (Lua 5.4.4)\n1\n", err = "", code = 0 }, mplua("PROG -v -e 'print(1)'"))
    assert.same({ out = "mplua 0.1.0 (Lua 5.4.4)\nshebang\n", err = "", code = 0 }, mplua("PROG -v shebang.lua"))
  end)

  it("-h and --help print the usage on stdout", function()
    for _, option in ipairs { "-h", "--help", "-v -h", "-e 'error(1)' --help" } do
      local r = mplua("PROG " .. option)
      assert.equal(0, r.code)
      assert.equal("", r.err)
      assert.matches("^usage: PROG %[options%]", r.out)
      for _, each in ipairs { "-e stat", "-i ", "-l mod", "-m mod", "-v ", "--version ", "-E ", "-W ",
        "-h ", "-- ", "- " } do
        assert.truthy(r.out:find("  " .. each, 1, true), each)
      end
    end
  end)

  it("are in the manual page in the order and with the words of the help", function()
    -- the text of a line of mdoc: its macros name how words look
    local function plain(line)
      line = line:gsub("\\&", ""):gsub(" Ns ", ""):gsub("=Ar ", "="):gsub("Fl ?", "-")
      return (line:gsub("^%.?It ", ""):gsub("%f[%w.]%.?Ar ", ""):gsub("^%.%-", "-"))
    end
    local page = T.read("runtime/mplua.1"):match("The options are as follows:\n.-\n(%.It.-)%.El\n")
    local told, complete = {}, true
    for line in page:gmatch("[^\n]+") do
      if line:find "^%.It" then
        told[#told + 1], complete = { plain(line), "" }, false
      elseif not complete then -- the first sentence
        local entry = told[#told]
        entry[2] = entry[2] .. " " .. plain(line):gsub("^ ", "")
        complete = line:find "%.$" ~= nil
      end
    end
    local function normal(text)
      return (text:lower():gsub(" ?[.)]", ""):gsub("['(]", ""):gsub("^ ", ""):gsub(" $", ""))
    end
    local help = {}
    for line in mplua("PROG -h").out:gmatch("\n  (%-[^\n]*)") do
      help[#help + 1] = { line:sub(1, 9):match("^(.-) *$"), normal(line:sub(11)) }
    end
    for _, entry in ipairs(told) do entry[2] = normal(entry[2]) end
    assert.same(help, told)
    assert.equal(12, #help)
  end)

  it("-m runs a module as the script, with its file as arg[0]", function()
    assert.same({ out = "sub\t./sub/init.lua\ta\tb\n", err = "", code = 0 }, mplua("PROG -m sub a b"))
    local r = mplua("PROG -W -margs -e x")
    assert.equal(0, r.code)
    assert.matches("\n0\t%./args%.lua\n1\t%-e\n2\tx\n%.%.%.\t2\t%-e\tx\n$", r.out)
    assert.matches("^%-2\tPROG\n%-1\t%-W\n", r.out)
    assert.equal("1\n0\t./args.lua\n", mplua("PROG -e 'print(1)' -m args | head -n 7 | grep -E '^[01]'").out)
    r = mplua("PROG -m fails")
    assert.equal(1, r.code)
    assert.matches("^PROG: %./fails%.lua:1: broken\nstack traceback:\n", r.err)
    r = mplua("PROG -m no.such.module")
    assert.equal(1, r.code)
    assert.matches("^PROG: module 'no%.such%.module' not found:\n\tno file '", r.err)
    assert.matches("bad%.lua:1: unexpected symbol", mplua("PROG -m bad").err)
  end)
end)

describe("the prompt", function()
  -- Lines that are no terminal's are echoed, as readline does it for lua.
  local function prompt(lines, options)
    write("in", lines)
    local r = mplua(("PROG -i %s <in"):format(options or ""))
    r.out = r.out:gsub("^mplua 0%.1%.0 %(Lua 5%.4%.4%)\n", "")
    return r
  end

  it("prints what expressions return", function()
    assert.same({ out = "> 1 + 2\n3\n> 1, 2\n1\t2\n> y = 'x'\n> = y\nx\n> nil\nnil\n> \n", err = "", code = 0 },
      prompt "1 + 2\n1, 2\ny = 'x'\n= y\nnil\n")
    assert.equal("> local z = 6\n> z\nnil\n> \n", prompt("local z = 6\nz\n").out)
  end)

  it("goes on reading until a chunk is complete", function()
    assert.equal("> for i = 1, 2 do\n>> print(i)\n>> end\n1\n2\n> \n", prompt("for i = 1, 2 do\nprint(i)\nend\n").out)
    assert.equal("> = 1 ..\n>> 2\n12\n> \n", prompt("= 1 ..\n2\n").out)
    local r = prompt("for i = 1, 2 do\n")
    assert.matches("'end' expected near <eof>", r.err)
  end)

  it("prints errors, with a traceback and without a name, and goes on", function()
    local r = prompt "error 'oops'\nx = = 1\nerror {}\n1\n"
    assert.equal("> error 'oops'\n> x = = 1\n> error {}\n> 1\n1\n> \n", r.out)
    assert.matches("^stdin:1: oops\nstack traceback:\n", r.err)
    assert.matches("\nstdin:1: unexpected symbol near '='\n", r.err)
    assert.matches("\n%(error object is a table value%)\n", r.err)
    assert.equal(0, r.code)
  end)

  it("uses _PROMPT and _PROMPT2, whatever their type", function()
    assert.equal("> _PROMPT, _PROMPT2 = '$ ', '+>'\n$ 1\n1\n$ print(\n+>1)\n1\n$ \n",
      prompt("_PROMPT, _PROMPT2 = '$ ', '+>'\n1\nprint(\n1)\n").out)
    assert.equal("> _PROMPT = 12\n121\n1\n12\n", prompt("_PROMPT = 12\n1\n").out)
    write("in", " --\na = 2\n")
    assert.equal("1 --\n2a = 2\n3\n", same([[PROG -e 'local n = 0
      _PROMPT = setmetatable({}, {__tostring = function() n = n + 1 return n .. "" end})' -i <in | sed 1d]]).out)
  end)

  it("says so when print fails", function()
    local r = prompt "print = nil\n1\n"
    assert.matches("error calling 'print' %(attempt to call a nil value%)", r.err)
    assert.equal(0, r.code)
  end)

  it("comes after the script, and ends by os.exit", function()
    assert.equal("shebang\ta\n> \n", prompt("", "shebang.lua a").out)
    assert.equal(1, prompt("", "fails.lua").code)
    assert.equal("", prompt("", "fails.lua").out)
    assert.equal(5, prompt("os.exit(5)\n").code)
  end)

  it("takes lines of any length", function()
    local line = "s = '" .. ("x"):rep(100000) .. "'\n"
    assert.equal("> " .. line .. "> #s\n100000\n> \n", prompt(line .. "#s\n").out)
  end)

  it("is there when stdin is a terminal, with line editing", function()
    local line = ("script -qec %s /dev/null"):format(T.quote(T.exe))
    if not os.execute("script -qec true /dev/null >/dev/null 2>&1") then
      return pending("needs script(1) and pseudo-terminals")
    end
    write("in", "1 + 41\nio.stdout:write('ed', 'ited\\n')\nos.exit(9)\n")
    local out, code = T.shell(("cd %s && (cat in; sleep 5) | TERM=dumb %s"):format(dir, line))
    assert.matches("mplua 0%.1%.0 %(Lua 5%.4%.4%)", out)
    assert.matches("\n42\r?\n", out)
    assert.matches("\nedited\r?\n", out)
    assert.equal(9, code)
  end)
end)

-- What is read as a script, byte by byte.
describe("the bytes of a script", function()
  it("may begin with a byte order mark, a whole one", function()
    local mark = "\xEF\xBB\xBF"
    for name, text in pairs {
      alone = mark, code = mark .. "print(3)", note = mark .. "#!x\nprint(debug.getinfo(1).currentline)",
      twice = mark .. mark .. "print(3)", compiled = mark .. "#x\n" .. string.dump(load "print(4)"),
      first = "\xEF", second = "\xEF\xBB", late = "\xEFprint(3)", later = "\xEF\xBBprint(3)",
    } do
      write("mark_" .. name, text)
      same("PROG mark_" .. name)
      same("PROG - <mark_" .. name)
    end
    assert.equal("2\n", same("PROG mark_note").out)
  end)

  it("may be a first line of comment and no more, or nothing", function()
    for i, text in ipairs { "#only this", "#", "", "\n", "#!x\n\n  x = = 1", "#x\n#y" } do
      write("line", text)
      local r = same "PROG line"
      assert.equal(i > 4 and 1 or 0, r.code)
      same "PROG <line"
    end
  end)

  it("may be compiled, also after a comment, and are refused when they are cut off", function()
    local code = string.dump(load("print(..., arg[0])", "=made"))
    write("compiled", code)
    write("noted", "#comment\n" .. string.dump(load("print(...)"), true))
    write("cut", code:sub(1, 60))
    write("header", "\27Luaxxxx")
    assert.equal("a\tcompiled\n", same("PROG compiled a").out)
    same "PROG - a <compiled"
    assert.equal("a\n", same("PROG noted a").out)
    assert.matches("truncated", same("PROG cut").err)
    same "PROG header"
  end)

  it("may be NUL inside strings, and nowhere else", function()
    write("zero", "print('a\0b', #'a\0b')")
    assert.equal("a\0b\t3\n", same("PROG zero").out)
    same "PROG <zero"
    write("zero", "print(1)\0print(2)")
    same "PROG zero"
  end)

  it("may come in several lines from stdin", function()
    assert.equal("1\tnil\n", same("printf 'print(\\n1, a\\n)\\n' | PROG -").out)
    same "printf 'print(10)\\nprint(2)\\n\\n' | PROG"
    assert.equal("-h\n", same("echo 'print(arg[1])' | PROG - -h").out)
  end)
end)

describe("the environment", function()
  it("gives the paths, with the default where ;; stands", function()
    for _, path in ipairs { "", ";", ";;", ";;;;", "a;;b", ";;b", "a;;", "a;b;;c", "a;;b;;c", "x" } do
      same(("LUA_PATH='%s' LUA_CPATH='%s' PROG -e 'print(package.path, package.cpath)'"):format(path, path))
      same(("LUA_PATH_5_4='%s' LUA_PATH=y LUA_CPATH_5_4='%s' PROG -e 'print(package.path, package.cpath)'")
        :format(path, path))
    end
    local default = same("env -i PROG -e 'print(package.path, package.cpath)'").out
    assert.equal(default,
      same("LUA_PATH=x LUA_CPATH=x LUA_INIT='error(1)' PROG -E -e 'print(package.path, package.cpath)'").out)
  end)

  it("has LUA_INIT run before the options, with arg at hand", function()
    assert.equal("3.2\n", same("LUA_INIT='X = tonumber(arg[1])' PROG - 3.2 <<'end'\nprint(X)\nend").out)
    write("count.lua", "x = x or 10; print(x, ...); x = x + 1")
    assert.equal("10\n11\ta\n", same("LUA_INIT=@count.lua PROG count.lua a").out)
    same "echo 'print(2)' | LUA_INIT=@ PROG count.lua"
    same "LUA_INIT_5_4= LUA_INIT='print(1)' PROG nothing.lua"
    same "LUA_INIT='print(...)' PROG nothing.lua a"
    same "LUA_INIT='x = 1' PROG -e 'print(x)'"
    same "LUA_INIT='#x' PROG nothing.lua"
    same "LUA_INIT='error({})' PROG"
    same "LUA_INIT='os.exit(7)' PROG -x"
    same "LUA_INIT='os.exit(7)' PROG nothing.lua"
  end)

  it("is told of as LUA_INIT when that fails", function()
    local r = same "LUA_INIT='error(\"msg\")' PROG"
    assert.matches("^PROG: LUA_INIT:1: msg\n", r.err)
    assert.equal(1, r.code)
    assert.matches("LUA_INIT_5_4:1: msg", same("LUA_INIT_5_4='error(\"msg\")' PROG").err)
  end)
end)

describe("several options", function()
  it("require one library after the other, and know its names", function()
    write("one.lua", "print(1) a = 2 return {x = 15}")
    write("two.lua", "print(a, one.x)")
    assert.equal("1\n2\t15\n2\t15\n", same("PROG -l one -ltwo -lstring -l io two.lua").out)
    write("three.lua", "print(str.upper 'alo', m.max(10, 20))")
    assert.equal("0.0\nALO\t20\n", same("PROG -l str=string -lm=math -e 'print(m.sin(0))' three.lua").out)
    same "PROG -l a=b=c 2>&1 | head -n 1"
    write("wants_arg.lua", "assert(arg)")
    same "PROG -lwants_arg - <wants_arg.lua"
  end)

  it("run nothing after one that failed or ended the program", function()
    same "PROG -e 'print(1)' -e 'os.exit(3)' -e 'print(2)'"
    same "PROG -e 'error(\"x\", 0)' nothing.lua"
    same "PROG -e 'error(\"x\", 0)' -i </dev/null | sed 1d"
    same "PROG -l broken -e 'print(1)'"
  end)

  it("may hold no statement, or what only the prompt understands", function()
    same "PROG '-e ' -- args.lua a b c"
    same "PROG -e ' ' -e ''"
    same "PROG -e 'return 1'"
    assert.matches("unexpected symbol near '='", same("PROG -e '= 1'").err)
    same "PROG -e '#x'"
    assert.matches("syntax error", same("PROG -e a").err)
  end)

  it("are many words when there are many", function()
    local r = same "PROG - $(seq 1 29999) z <<'end'\nprint(select('#', ...), (select(-1, ...)))\nend"
    assert.equal("30000\tz\n", r.out)
    same "PROG -e 'print(#arg, arg[3000])' nothing.lua $(seq 1 3000)"
  end)

  it("leave what they are not", function()
    for _, words in ipairs { "-v- </dev/null", "-W-", "-lx -e", "-e '' -l", "'- '", "-?", "-l -v", "-iv", "-i -e" } do
      same("PROG " .. words .. " 2>&1 | sed '/^  -/d'")
    end
  end)

  it("name the program as it was called, or mplua", function()
    assert.equal("prog: x\n", (mplua "bash -c \"exec -a prog PROG -e 'error(\\\"x\\\", 0)'\" 2>&1 | head -n 1").out)
    assert.equal("mplua: x\n", (mplua "bash -c \"exec -a '' PROG -e 'error(\\\"x\\\", 0)'\" 2>&1 | head -n 1").out)
  end)

  it("of which -W is one let warnings be turned off and on", function()
    write("warns.lua", [=[
      warn("@strange")                  -- no control that is known
      warn("@off", "one", "@off")       -- several words are no control
      warn("@off") warn("two") warn("@on", "three", "@on") warn("@off")
      warn("@on") warn("", "@on") warn("@on") warn("four", "five")]=])
    assert.equal("Lua warning: @offone@off\nLua warning: @on\nLua warning: fourfive\n", same("PROG -W warns.lua").err)
    assert.equal("Lua warning: @on\nLua warning: fourfive\n", same("PROG warns.lua").err)
  end)
end)

describe("the end of a program", function()
  it("is the status that os.exit was given, whether it closes the state or not", function()
    for _, words in ipairs { "", "nil", "nil, true", "0, true", "true, true", "1, true", "false, true", "1.0", "-1",
      "3, false", "\"3\"", "\"x\"", "{}", "1.5" } do
      same(("PROG -e 'os.exit(%s)'"):format(words))
    end
  end)

  it("closes pending variables, the last first, when it closes the state", function()
    local function closing(action)
      return ("local a <close> = setmetatable({}, {__close = function(_, e) print('a', e) end})\n"
        .. "local b <close> = setmetatable({}, {__close = function() print 'b' %s end})\n"
        .. "os.exit(true, true)"):format(action)
    end
    write("closing.lua", closing "")
    assert.same({ out = "b\na\tnil\n", err = "", code = 0 }, same "PROG closing.lua")
    write("closing.lua", closing "error 'in b'")
    same "PROG closing.lua"
    same "PROG -W closing.lua"
    write("closing.lua", "coroutine.wrap(function()\n" .. closing "" .. " end)()")
    same "PROG closing.lua"
    write("closing.lua", "local a <close> = setmetatable({}, {__close = function(_, e) print(e) end}) error 'x'")
    same "PROG closing.lua"
  end)

  it("warns of finalizers that fail, in the order in which they run", function()
    write("final.lua", [[
      local function fails(what) return setmetatable({}, {__gc = function() error(what) end}) end
      a, b, c = fails "first", fails "second", fails {}
      d = fails(setmetatable({}, {__tostring = function() return "third" end}))]])
    local r = same "PROG -W final.lua"
    assert.matches("second.*first", r.err)
    assert.equal(0, r.code)
    assert.equal("", same("PROG final.lua").err)
  end)

  it("runs no finalizer that was set by one, and needs no second end", function()
    write("final.lua", [[
      setmetatable({}, {__gc = function() print "last" end})
      setmetatable({}, {__gc = function()
        setmetatable({}, {__gc = function() print "never" end})
        print("first", collectgarbage())
        os.exit(0, true)
      end})]])
    assert.equal("first\tnil\nlast\n", same("PROG -W final.lua").out)
  end)

  it("writes what was buffered", function()
    same "PROG -e 'io.output(\"o.txt\") io.write \"alo\"'; cat o.txt; rm o.txt"
    same "PROG -e 'io.stdout:setvbuf \"full\" io.write \"alo\" os.exit(1)'"
    same "PROG -e 'io.stdout:close() print(1)'"
  end)

  it("may be an error of any kind", function()
    for i, text in ipairs {
      "error(setmetatable({}, {__name = 'My.Type'}))", "error(setmetatable({}, {__tostring = 1}))",
      "error(setmetatable({}, {__tostring = function() return nil end}))", "error(coroutine.create(print))",
      "error(true)", "error('', 0)", "error('a\\0b', 0)", "error 'x' --[[\n]]", "string.rep()", "goto x",
      "coroutine.wrap(function() error 'inside' end)()", "for i = 1, 10 do", "print 'a' --[[ open", "nothing()",
      "local function f(n) if n == 0 then error 'deep' end f(n - 1) end f(100)",
      "debug.sethook(function() error 'hook' end, 'l')\nlocal x = 1\n", "return 1, 2", "local x <const> = 1; x = 2",
      "local t = setmetatable({}, {__tostring = function()\n return debug.getinfo(4).currentline .. '' end})\nerror(t)",
    } do
      write("kind.lua", text)
      same("PROG kind.lua # " .. i)
    end
  end)

  it("leaves debug.debug as it was", function()
    assert.equal("lua_debug> 1000lua_debug> ",
      same("printf 'io.stderr:write(1000)\\ncont\\n' | PROG -e 'debug.debug()'").err)
    same "printf 'error(1)\\nx = = 1\\n' | PROG -e 'debug.debug()'"
  end)
end)

describe("the prompt beside lua's", function()
  -- What is compared has no first line, which is the version.
  local function both(lines, words)
    write("in", lines)
    return same(("PROG -i %s <in >said; code=$?; sed 1d said; exit $code"):format(words or ""))
  end

  it("takes expressions, statements and comments", function()
    assert.equal("> (6*2-6) -- note\n6\n> a =\n>> 10\n> print(a)\n10\n> a\n10\n> \n",
      both("(6*2-6) -- note\na =\n10\nprint(a)\na").out)
    assert.equal("> a = [[b\n>> c\n>> d]]\n> =a\nb\nc\nd\n> \n", both("a = [[b\nc\nd]]\n=a").out)
    both "return 1\nreturn\nlocal x = 1\nx\n \n\n;\n--\n-- x\n--[[\nopen\n]]\n1 --[[\n]]\n"
    both "1;\n1;;\n=1;\n=1;;\n;1\n"
    both "1,2\n1,\n2\n= \n=\n= = 1\n==1\n#'abc'\n#!x\n"
    both "goto x\n::x::\nbreak\nwhile true do break end\n"
  end)

  it("takes chunks of many lines, also empty ones", function()
    local text = "function f(x)\n local a = [[\nxuxu\n]] local b = \"\\\nxuxu\\n\"\n"
      .. " if x == 11 then return 1 + 12, 2 + 20 end\n return x + 1 end\nf(100)\nassert(a == b)\ndo return f(11) end"
    assert.matches("\n101\n> assert%(a == b%)\ntrue\n> do return f%(11%) end\n13\t22\n> \n$", both(text .. "\n").out)
    both((text:gsub("(%w) (%w)", "%1\n\n%2")) .. "\n")
    both "function g(x)\nreturn x + 1\nend\ng(1), g(2)\ng(\n1)\n"
  end)

  it("says the same of errors", function()
    both "f()\nerror 'x'\nerror{}\nerror(setmetatable({}, {__tostring = function() return 'obj' end}))\n"
    both "error(setmetatable({}, {__name = 'N'}))\nerror()\nerror(12)\nerror('', 0)\n"
    both "error(setmetatable({}, {__tostring = function() error 'again' end}))\n"
    both "x = = 1\nend\n)\nif x then\nelse\nend\n'abc\n[[abc\n]]\n[==[\n]]\n]==]\n"
    both "coroutine.wrap(error)('x')\ncoroutine.yield(1)\ndebug.traceback('m')\n"
    both "warn 'a'\nwarn '@on'\nwarn 'b'\n"
  end)

  it("survives a print that fails", function()
    assert.matches("error calling 'print'", both("print = nil\n1\n").err)
    both "print = function() error 'in print' end\n1\n"
    both "print = function() error {} end\n1\n"
    both "print = 1\n1\n"
    same "echo 10 | PROG -e 'print = nil' -i >/dev/null"
  end)

  it("prints as many results as there are", function()
    both "table.unpack({}, 1, 300)\nselect('#', table.unpack({}, 1, 900))\n"
    both "table.unpack({}, 1, 100000)\n"
  end)

  it("comes after a script that went well, and sees its arguments", function()
    both("...\narg[1], arg[0]\n", "nothing.lua a b")
    both("1\n", "fails.lua")
    both("1\n", "nofile")
    both("os.exit(3)\n")
    both("os.exit(true, true)\n")
    both("error 'last'\n")
    both("local x <close> = setmetatable({}, {__close = function() print 'closed' end})\n")
    same "PROG -i <&- >/dev/null"
  end)
end)

describe("Ctrl-C", function()
  -- The script says that it runs, the shell waits for that and sends the signal; the
  -- first `answered` ones are answered by another line.
  local function interrupt(exe, code, answered)
    local line = ([[
      mkfifo fifo; exec 3<>fifo
      PROG -e %s >&3 2>err2 &
      pid=$!
      read -r ready <&3
      for i in $(seq %d); do kill -INT $pid; read -r more <&3; done
      kill -INT $pid; wait $pid; code=$?
      exec 3>&-; rm fifo; cat err2; exit $code]]):format(T.quote(code), answered or 0)
    return run(exe, line)
  end

  -- Where exactly the signal comes, and so the position and the traceback, may differ.
  local function both(code, answered)
    local mine, stock = interrupt(T.exe, code, answered), interrupt(STOCK, code, answered)
    for _, result in ipairs { mine, stock } do
      result.out = result.out:gsub("%(command line%):1: interrupted!", "interrupted!")
        :gsub("stack traceback:\n.*", "stack traceback:\n")
    end
    assert.same(stock, mine)
    return mine
  end

  it("raises 'interrupted!' in Lua code and ends with 1", function()
    local r = both("local ok, e = pcall(function() io.write 'ready\\n' io.flush() while true do end end) "
      .. "error(tostring(ok) .. e:match 'interrupted!$', 0)")
    assert.equal(1, r.code)
    assert.matches("^PROG: falseinterrupted!\n", r.out)
  end)

  it("unwinds a whole program, with the message that lua prints", function()
    local r = both("local x <close> = setmetatable({}, {__close = function() io.stderr:write 'closed\\n' end}) "
      .. "io.write 'ready\\n' io.flush() while true do end")
    assert.equal(1, r.code)
    assert.equal("closed\nPROG: interrupted!\nstack traceback:\n", r.out)
  end)

  it("ends what runs at the prompt, which goes on", function()
    local r = mplua [[
      mkfifo fifo; exec 3<>fifo
      printf 'io.stderr:write "ready\\n" while true do end\n6 * 7\n' >in
      PROG -i <in >out2 2>fifo &
      pid=$!
      read -r ready <&3
      kill -INT $pid; read -r said <&3; wait $pid; code=$?
      exec 3>&-; rm fifo; echo "$said"; tail -n 3 out2; exit $code]]
    r.out = r.out:gsub("^stdin:1: ", "") -- where it was is not certain
    assert.same({ out = "interrupted!\n> 6 * 7\n42\n> \n", err = "", code = 0 }, r)
  end)

  it("kills at the second time", function()
    local r = both("local function burn() io.write 'x\\n' io.flush() while true do end end "
      .. "pcall(burn) pcall(burn) pcall(burn)", 1)
    assert.equal(130, r.code)
  end)
end)

describe("the library", function()
  it("is there without any path, from any directory", function()
    local r = mplua("cd / && env -i PROG -e 'print(type(require \"mp\"), package.loaded[\"mp.core\"] ~= nil)'")
    assert.same({ out = "table\ttrue\n", err = "", code = 0 }, r)
    assert.equal("table\n", mplua("env -i LUA_PATH=x LUA_CPATH=x PROG -e 'print(type(require \"mp\"))'").out)
  end)

  it("is not opened before it is required", function()
    assert.equal("nil\tnil\n", mplua("PROG -e 'print(package.loaded.mp, package.loaded[\"mp.core\"])'").out)
  end)

  it("is one a state, also when it is taken out of package.loaded", function()
    assert.equal("true\n", mplua([[PROG -e '
      local mp = require "mp"
      for name in pairs(package.loaded) do
        if name:match("^mp") then package.loaded[name] = nil end
      end
      print(require "mp" == mp)']]).out)
  end)

  it("loads under stock lua5.4 as mp.so", function()
    if T.sanitized then pending("not with sanitizers") end
    local out, code = T.shell(("cd / && env -i LUA_CPATH='%s/?.so' %s -e 'print(type(require \"mp\"))'")
      :format(T.build, STOCK))
    assert.equal("table\n", out)
    assert.equal(0, code)
  end)

  it("reports its version", function()
    assert.equal("0.1.0\n", mplua("PROG -e 'print(require(\"mp\").version)'").out)
  end)
end)

describe("C modules of the system", function()
  it("find Lua's functions in the command", function()
    assert.equal("string\n", mplua("PROG -e 'print(type(require(\"lfs\").currentdir()))'").out)
  end)
end)

describe("a large heap", function()
  it("survives blocks that grow and shrink across every limit", function()
    local r = T.mplua [[
      local t = {}
      for i = 1, 3000000 do t[i] = i end                 -- array part: 64 MiB
      for i = 1, #t, 1000 do assert(t[i] == i) end
      for i = #t, 1001, -1 do t[i] = nil end
      t.x = 1 collectgarbage()
      for i = 1, 1000 do assert(t[i] == i) end
      local s = {}
      for _, mib in ipairs { 1, 15, 16, 17, 31, 32, 33, 64 } do
        local text = ("0123456789abcdef"):rep(mib * 65536 + 1)
        assert(#text == mib * 1048576 + 16 and text:sub(-3) == "def")
        s[#s + 1] = text
        assert(text .. "x" ~= text)
      end
      s = nil collectgarbage()
      assert(collectgarbage "count" < 10000)
      local buffer = {}
      for i = 1, 400 do buffer[i] = ("x"):rep(65536) end
      assert(#table.concat(buffer) == 400 * 65536)
      assert(not pcall(string.rep, "x", 1 << 50))
      print "fine"]]
    assert.same({ out = "fine\n", err = "", code = 0 }, r)
  end)

  it("is refused, not crashed, when there is no memory for it", function()
    if T.sanitized then pending("not with sanitizers") end
    local r = T.mplua([[
      local t = {}
      print(pcall(function() while true do t[#t + 1] = ("x"):rep(20 << 20) .. #t end end))
      t = nil
      print(#("y"):rep(1 << 20))]], nil, { env = "ulimit -v 400000;" })
    assert.same({ out = "false\tnot enough memory\n1048576\n", err = "", code = 0 }, r)
  end)
end)
