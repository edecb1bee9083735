-- Instructions that an operation takes, counted by `make guard`; `make guard UPDATE=1` rewrites this.
return {
  built_by = "gcc (Debian 12.2.0-14+deb12u1) 12.2.0, Lua 5.4.4",
  counts = {
    ["queue put and get integer"] = 1741,
    ["queue put and get 100-byte string"] = 1970,
    ["queue put and get record"] = 9128,
    ["queue put_many and get_many, an item of 32"] = 707,
    ["marshal encode record"] = 3954,
    ["marshal decode record"] = 4242,
    ["Value add, raw"] = 923,
    ["Value add, locked"] = 928,
    ["Array element read, raw"] = 577,
    ["Array element read, locked"] = 604,
    ["Lock acquire and release"] = 810,
    ["Pool map, a trivial task in the process itself"] = 12315,
    ["Manager dict get, all but the waiting"] = 19280,
  },
}
