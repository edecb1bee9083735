--- The handshake of CPython's multiprocessing.connection: each side shows that it knows the
-- key, without sending it. A message of Python 3.12 and later names its digest; those of
-- 3.11 and earlier are MD5's, and are taken only when asked for ("legacy").
--
-- A side is an object with send(message) and recv() -> message; either may raise or yield.

local check = require "mp.check"
local core = require "mp.core"

local CHALLENGE, WELCOME, FAILURE = "#CHALLENGE#", "#WELCOME#", "#FAILURE#"
--- Random bytes of a challenge, and the least that one may have.
local RANDOM, LEAST = 40, 20

local lengths = { md5 = 16, sha256 = 32, sha384 = 48, sha3_256 = 32, sha3_384 = 48 }

local auth = {}

--- Raises unless there are the digests that handshakes with these options need: so what is
-- missing is an error of who listens or connects, and not one in the middle.
function auth.check(options)
  if not options.authkey then return end
  check.call(core.hmac, "sha256", options.authkey, "")
  if options.legacy then check.call(core.hmac, "md5", options.authkey, "") end
end

-- The digest that a message names at its beginning, and what is behind it; nil: none that
-- is taken.
local function named(message, legacy)
  local name, rest = message:match("^{([%w_]+)}(.*)$")
  if lengths[name] and (legacy or name ~= "md5") then return name, rest end
end

--- What answers a challenge.
-- @param message the challenge without its first word
-- @return the response; nil when it cannot be given
function auth.respond(key, message, legacy)
  if #message < LEAST then return nil end
  if #message == LEAST then return legacy and core.hmac("md5", key, message) or nil end
  local name = named(message, legacy)
  return name and "{" .. name .. "}" .. core.hmac(name, key, message)
end

--- Whether a response answers the challenge `message`.
function auth.verify(key, message, response, legacy)
  local name, digest = named(response, legacy)
  if legacy and #response == lengths.md5 then name, digest = "md5", response end
  if not name then return false end
  return core.same(digest, core.hmac(name, key, message))
end

--- Asks the other side to show that it knows the key.
-- @return whether it does
function auth.deliver(side, key, legacy)
  local message = "{sha256}" .. core.random(RANDOM)
  side.send(CHALLENGE .. message)
  local good = auth.verify(key, message, side.recv(), legacy)
  side.send(good and WELCOME or FAILURE)
  return good
end

--- Shows the other side that this one knows the key.
-- @return whether it believes that
function auth.answer(side, key, legacy)
  local challenge = side.recv()
  if challenge:sub(1, #CHALLENGE) ~= CHALLENGE then return false end
  local response = auth.respond(key, challenge:sub(#CHALLENGE + 1), legacy)
  if not response then
    side.send(FAILURE)
    return false
  end
  side.send(response)
  return side.recv() == WELCOME
end

return auth
