-- Instructions that an operation takes, counted by `make guard`; `make guard UPDATE=1` rewrites this.
return {
  built_by = "gcc (Debian 12.2.0-14+deb12u1) 12.2.0, Lua 5.4.4",
  counts = {
    ["queue put and get integer"] = 1911,
    ["queue put and get 100-byte string"] = 2323,
    ["queue put and get record"] = 9765,
    ["queue put_many and get_many, an item of 32"] = 934,
    ["marshal encode record"] = 4107,
    ["marshal decode record"] = 4941,
    ["Value add, raw"] = 923,
    ["Value add, locked"] = 928,
    ["Array element read, raw"] = 577,
    ["Array element read, locked"] = 604,
    ["Lock acquire and release"] = 819,
    ["Pool map, a trivial task in the process itself"] = 13185,
    ["Manager dict get, all but the waiting"] = 20556,
  },
}
