/* What marshal keeps for a state, the packs, and mp.marshal.  The format stands in
 * marshal_private.h; marshal_encode.c writes it, marshal_decode.c reads it.
 */

/*** Values as bytes: what queues, pipes, pools and managers do with everything that crosses.
 *
 * * Integers and floats keep their subtype, strings any bytes, tables cycles and shared references.
 * * Lua functions cross with their upvalues; upvalues that functions share stay shared among
 *   those of one message.  The table of globals becomes the receiver's.
 * * C functions and modules that are in `package.loaded` go by name.
 * * Shared objects (queues, locks, values ...) go as handles and arrive as the same object.  A
 *   string made by `encode` names them within the family, and does not keep them alive.
 * * A class that is a module or was registered (`mp.marshal.register`) goes by name, so that
 *   `getmetatable(x) == Class` holds on the other side.  Any other metatable goes by value inside a
 *   family, and not at all over a network.  No metamethod runs meanwhile.
 * * Coroutines, and userdata of other libraries, cannot cross: `cannot marshal a thread at
 *   value.jobs[3].co`.
 * @module marshal */
#include "marshal_private.h"
#include "marshal_table.h"
#include <stdatomic.h>
#include <stdlib.h>

/* What is larger than this is given back when it is not used any more. */
#define KEEP ((size_t)1 << 20)

static const char marshal_key[1];

/* The marshal of the state that this thread used last, found by the address of its
 * registry.  `closed` counts states that ended: another may get the address. */
static atomic_uint closed;
static _Thread_local struct {
  const void *registry;
  struct marshal *m;
  unsigned closed;
} last;

/* ---- the state ----------------------------------------------------------------- */

void lmp_pack_free(struct lmp_pack *p) {
  free(p->data);
  free(p->refs);
  free(p->fds);
  memset(p, 0, sizeof *p);
}

static int marshal_gc(lua_State *L) {
  struct marshal *m = lua_touserdata(L, 1);
  atomic_fetch_add_explicit(&closed, 1, memory_order_relaxed);
  lmp_pack_free(&m->pack);
  for (struct aside *a = m->aside, *next; a; a = next) {
    next = a->next;
    lmp_pack_free(&a->pack);
    free(a);
  }
  m->aside = NULL;
  free(m->frames);
  free(m->seen);
  free(m->named);
  m->frames = NULL, m->capframes = 0;
  m->seen = NULL, m->capseen = m->nseen = 0;
  m->named = NULL, m->capnamed = m->nnamed = 0;
  m->searched = false;
  return 0;
}

static void new_table(lua_State *L, const char *mode) {
  lua_newtable(L);
  if (!mode) return;
  lua_createtable(L, 0, 1);
  lua_pushstring(L, mode);
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
}

static struct marshal *marshal_make(lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  struct marshal *m = lua_newuserdatauv(L, sizeof *m, MARSHAL_CLASS_NAMES);
  memset(m, 0, sizeof *m);
  m->peek = lmp_table_known(L);
  new_table(L, NULL);
  lua_setiuservalue(L, -2, MARSHAL_SPILL);
  new_table(L, "k");
  lua_setiuservalue(L, -2, MARSHAL_NAMES);
  new_table(L, NULL);
  lua_setiuservalue(L, -2, MARSHAL_CLASSES);
  new_table(L, NULL);
  lua_setiuservalue(L, -2, MARSHAL_CLASS_NAMES);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, marshal_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, marshal_key);
  return m;
}

struct marshal *lmp_marshal(lua_State *L) {
  const void *registry = lua_topointer(L, LUA_REGISTRYINDEX);
  unsigned now = atomic_load_explicit(&closed, memory_order_relaxed);
  if (last.registry == registry && last.closed == now) return last.m;
  lua_rawgetp(L, LUA_REGISTRYINDEX, marshal_key);
  struct marshal *m = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (!m) m = marshal_make(L);
  last.registry = registry;
  last.m = m;
  last.closed = now;
  return m;
}

void lmp_marshal_push(lua_State *L, int uservalue) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, marshal_key);
  if (!uservalue) return;
  lua_getiuservalue(L, -1, uservalue);
  lua_replace(L, -2);
}

void lmp_spill(lua_State *L, int tab, int base, size_t level) {
  lua_rotate(L, base, -2 * LEVELS);
  for (lua_Integer k = 2 * LEVELS; k >= 1; k--)
    lua_rawseti(L, tab, (lua_Integer)(2 * level) + k);
}

void lmp_unspill(lua_State *L, int tab, int base, size_t level, int extra) {
  for (lua_Integer k = 1; k <= 2 * LEVELS; k++) {
    lua_rawgeti(L, tab, (lua_Integer)(2 * level) + k);
    lua_pushnil(L);
    lua_rawseti(L, tab, (lua_Integer)(2 * level) + k);
  }
  if (extra) lua_rotate(L, base, -extra);
}

/* ---- packs --------------------------------------------------------------------- */

/* Gives back what one large message needed, unless the last one was large too:
 * then the next one may be. */
static void trim(struct marshal *m) {
  m->large = false;
  if (m->pack.cap > KEEP) {
    if (m->pack.len < m->pack.cap / 4) {
      free(m->pack.data);
      m->pack.data = NULL;
      m->pack.cap = 0;
    } else
      m->large = true;
  }
  if (m->capframes * sizeof *m->frames > KEEP) {
    free(m->frames);
    m->frames = NULL;
    m->capframes = 0;
  }
  if (m->capseen * sizeof *m->seen > KEEP) {
    if (m->nseen < m->capseen / 8) {
      free(m->seen);
      m->seen = NULL;
      m->capseen = m->nseen = 0;
    } else
      m->large = true;
  }
}

static void clean(lua_State *L, struct marshal *m) {
  if (m->spill_used) {
    m->spill_used = false;
    luaL_checkstack(L, 4, NULL);
    lmp_marshal_push(L, 0);
    new_table(L, NULL);
    lua_setiuservalue(L, -2, MARSHAL_SPILL);
    lua_pop(L, 1);
  }
  if (m->large) trim(m);
}

static inline struct lmp_pack *pack_of(lua_State *L, struct marshal *m) {
  if (m->spill_used || m->large) clean(L, m);
  m->pack.len = 0;
  m->pack.nrefs = m->pack.nfds = 0;
  m->pack.item = 0;
  return &m->pack;
}

size_t lmp_string_head(unsigned char *head, size_t n) { return lmp_head_of_string(head, n); }

struct lmp_pack *lmp_pack(lua_State *L) { return pack_of(L, lmp_marshal(L)); }

unsigned char *lmp_room(lua_State *L, struct lmp_pack *p, size_t n) {
  if (p->cap - p->len >= n) return p->data + p->len;
  size_t cap = p->cap < 512 ? 1024 : p->cap;
  while (cap - p->len < n) {
    if (cap > SIZE_MAX / 2) luaL_error(L, "not enough memory");
    cap *= 2;
  }
  unsigned char *data = realloc(p->data, cap);
  if (!data) luaL_error(L, "not enough memory");
  p->data = data;
  p->cap = cap;
  if (cap > KEEP) ((struct marshal *)p)->large = true;
  return p->data + p->len;
}

/* ---- mp.marshal ---------------------------------------------------------------- */

/* A long string by itself is put together by Lua, which copies it only once. */
enum { LONG_STRING = 1024 };

static int encode_long(lua_State *L, size_t n) {
  unsigned char head[10] = {TAG_MAGIC};
  size_t size = lmp_head_of_string(head + 1, n) + 1;
  lua_pushlstring(L, (const char *)head, size);
  lua_pushvalue(L, 1);
  lua_concat(L, 2);
  return 1;
}

/*** Makes a string of a value.
 * @function mp.marshal.encode
 * @param v any value, nil too
 * @treturn string
 * @raise what cannot be encoded, with the path to it
 * @python `pickle.dumps`
 * @usage local text = mp.marshal.encode { 1, 2.0, { x = "y" } }
 * local copy = mp.marshal.decode(text)
 * print(#copy, copy[2], copy[3].x) --> 3	2.0	y */
static int l_encode(lua_State *L) {
  unsigned char bytes[1 + 9 + LONG_STRING];
  int type = lua_type(L, 1);
  bytes[0] = TAG_MAGIC;
  if (type == LUA_TSTRING) {
    size_t n;
    const char *s = lua_tolstring(L, 1, &n);
    if (n >= LONG_STRING) return encode_long(L, n);
    size_t head = 1 + lmp_head_of_string(bytes + 1, n);
    memcpy(bytes + head, s, n);
    lua_pushlstring(L, (const char *)bytes, head + n);
    return 1;
  }
  if (type == LUA_TNUMBER && lua_isinteger(L, 1)) {
    size_t n = lmp_integer_to(bytes + 1, lua_tointeger(L, 1));
    lua_pushlstring(L, (const char *)bytes, 1 + n);
    return 1;
  }
  if (type == LUA_TNONE) luaL_checkany(L, 1);
  struct lmp_pack *p = pack_of(L, lua_touserdata(L, lua_upvalueindex(1)));
  lmp_encode(L, 1, p, LMP_STRING);
  lua_pushlstring(L, (const char *)p->data, p->len);
  return 1;
}

/* {allow_code = boolean} at `arg` -> mode bits. */
static unsigned decode_options(lua_State *L, int arg) {
  unsigned mode = 0;
  if (lua_isnoneornil(L, arg)) return 0;
  luaL_checktype(L, arg, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "allow_code") != 0) {
      const char *key = luaL_tolstring(L, -2, NULL);
      luaL_argerror(L, arg, lua_pushfstring(L, "unknown option '%s' (known: allow_code)", key));
    }
    if (!lua_isboolean(L, -1)) luaL_argerror(L, arg, "allow_code must be true or false");
    if (lua_toboolean(L, -1)) mode |= LMP_CODE;
  }
  return mode;
}

/*** Makes the value again.  Hostile bytes are an error, as long as no code is allowed: Lua does not
 * verify functions.
 * @function mp.marshal.decode
 * @tparam string s what `encode` made
 * @tparam[opt] table options
 * @tparam[opt=false] boolean options.allow_code whether functions may be in it
 * @return the value
 * @raise malformed or truncated data, bytes behind the value, functions that are not allowed
 * @python `pickle.loads`, which runs what it is told to */
static int l_decode(lua_State *L) {
  struct lmp_unpack u = {.mode = LMP_STRING};
  if (lua_type(L, 1) != LUA_TSTRING) luaL_typeerror(L, 1, "string");
  u.data = (const unsigned char *)lua_tolstring(L, 1, &u.len);
  if (lua_gettop(L) > 1) u.mode |= decode_options(L, 2);
  lmp_decode(L, &u);
  return 1;
}

void lmp_open_marshal(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"encode", l_encode}, {"decode", l_decode}, {"register", lmp_marshal_register}, {NULL, NULL}};
  lmp_marshal(L);
  luaL_newlibtable(L, functions);
  lmp_marshal_push(L, 0);
  luaL_setfuncs(L, functions, 1);
  lua_setfield(L, -2, "marshal");
}
