/* Reads what marshal_encode.c writes, and anything else without harm.
 *
 * All that a decode needs lies in its own C frame and on the Lua stack: tables that are
 * made step the collector, so finalizers may decode meanwhile, and errors may leave at
 * any point.  The stack from `base` on: memory for frames when there are many, objects
 * that are referred to by offset, containers in progress that do not fit, metatables to
 * be set again at the end, a slot for each string of the window when the message is
 * long enough to pay for them; then two
 * slots for each container in progress: it, and the key whose value is being read, or
 * nil.
 */
#include "marshal_private.h"
#include <errno.h>
#include <limits.h>

enum phase { ELEMENTS, KEY, VALUE, METATABLE, UPVALUES, USERVALUE };

/* A container being read.  i, n: elements or upvalues there are and will be.  count:
 * records left, UINT64_MAX when END tells. */
struct dec_frame {
  uint64_t i, n, count;
  unsigned char phase, has_meta;
};

enum { LOCAL_FRAMES = 24, POOL_PAYS = 1024 };

/* Slots from base on. */
enum { SLOT_FRAMES, SLOT_OBJECTS, SLOT_SPILL, SLOT_LATE, SLOTS };

/* levels: slot of the lowest container on the stack.  budget: elements and records that
 * tables may still announce.  pool: slot of the strings, 0 for none.  nstr: strings
 * numbered so far; their tags: strings[]; their values are in the pool where pooled[]
 * says so.  meta_tag: how the object that was read last was written, if it may be a
 * class. */
struct dec {
  lua_State *L;
  struct lmp_unpack *u;
  const unsigned char *p, *end;
  struct dec_frame *frames;
  size_t depth, capframes, spilled;
  int base, levels, pool;
  uint64_t budget;
  uint64_t nstr;
  int meta_tag;
  const unsigned char *strings[WINDOW];
  unsigned char pooled[WINDOW];
  struct dec_frame local[LOCAL_FRAMES];
};

/* ---- reading ------------------------------------------------------------------- */

static void malformed(struct dec *d, const char *what) {
  luaL_error(d->L, "marshal: malformed data (%s at byte %I)", what,
             (LUAI_UACINT)(d->p - d->u->data));
}

static inline size_t left(const struct dec *d) { return (size_t)(d->end - d->p); }

static inline void need(struct dec *d, size_t n) {
  if (left(d) < n) malformed(d, "it ends too early");
}

static inline uint64_t take_varint(struct dec *d) {
  uint64_t v = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    need(d, 1);
    unsigned char c = *d->p++;
    v |= (uint64_t)(c & 127) << shift;
    if (c < 128) return v;
  }
  malformed(d, "a number too long");
  return 0;
}

static inline unsigned take_byte(struct dec *d) {
  need(d, 1);
  return *d->p++;
}

/* The bytes of a string whose tag is at `at`; it was looked at before, or is now when
 * d is given. */
static inline const unsigned char *string_at(struct dec *d, const unsigned char *at, size_t *n) {
  unsigned tag = *at++;
  if (tag < TAG_NIL) {
    *n = tag - TAG_STR;
    return at;
  }
  size_t head = tag == TAG_STR1 ? 1 : tag == TAG_STR4 ? 4 : 8;
  if ((size_t)(d->end - at) < head) malformed(d, "it ends too early");
  uint64_t len = tag == TAG_STR1 ? *at : tag == TAG_STR4 ? get32(at) : get64(at);
  if (len > (size_t)(d->end - at) - head) malformed(d, "a string longer than the data");
  *n = (size_t)len;
  return at + head;
}

/* Pushes the string at d->p, whose tag is the next byte. */
static inline void push_string(struct dec *d) {
  const unsigned char *tag = d->p;
  size_t n;
  const unsigned char *s = string_at(d, tag, &n);
  if (n > (size_t)(d->end - s)) malformed(d, "a string longer than the data");
  if (n > 0) {
    uint64_t k = d->nstr++ % WINDOW;
    d->strings[k] = tag;
    d->pooled[k] = 0;
  }
  d->p = s + n;
  lua_pushlstring(d->L, (const char *)s, n);
}

/* Pushes a string that was there before. */
static inline void push_known_string(struct dec *d) {
  lua_State *L = d->L;
  unsigned k = take_byte(d);
  if (k >= d->nstr) malformed(d, "a reference to a string that is not there");
  if (d->pooled[k]) {
    lua_pushvalue(L, d->pool + (int)k);
    return;
  }
  size_t n;
  const unsigned char *s = string_at(d, d->strings[k], &n);
  lua_pushlstring(L, (const char *)s, n);
  if (!d->pool) return;
  lua_pushvalue(L, -1);
  lua_replace(L, d->pool + (int)k);
  d->pooled[k] = 1;
}

/* Pushes an integer or float, the tag of which was read; false when it is neither. */
static inline bool push_number(struct dec *d, unsigned tag) {
  lua_State *L = d->L;
  const unsigned char *p = d->p;
  lua_Integer v;
  switch (tag) {
  case TAG_U1: need(d, 1), d->p += 1, v = *p; break;
  case TAG_N1: need(d, 1), d->p += 1, v = ~(lua_Integer)*p; break;
  case TAG_U2: need(d, 2), d->p += 2, v = get16(p); break;
  case TAG_N2: need(d, 2), d->p += 2, v = ~(lua_Integer)get16(p); break;
  case TAG_U4: need(d, 4), d->p += 4, v = get32(p); break;
  case TAG_N4: need(d, 4), d->p += 4, v = ~(lua_Integer)get32(p); break;
  case TAG_I8: need(d, 8), d->p += 8, v = (lua_Integer)get64(p); break;
  case TAG_F8:
    need(d, 8);
    d->p += 8;
    lua_pushnumber(L, get_float(p));
    return true;
  default: return false;
  }
  lua_pushinteger(L, v);
  return true;
}

/* ---- frames -------------------------------------------------------------------- */

static inline int slot(const struct dec *d) {
  return d->levels + 2 * (int)(d->depth - 1 - d->spilled);
}

/* Other memory for frames, twice as much, which the stack holds. */
static void frames_grow(struct dec *d) {
  lua_State *L = d->L;
  size_t cap = 2 * d->capframes;
  if (d->depth >= DEPTH_MAX && (d->u->mode & LMP_MODE) != LMP_FAMILY)
    malformed(d, "it is nested too deep");
  struct dec_frame *f = lua_newuserdatauv(L, cap * sizeof *f, 0);
  memcpy(f, d->frames, d->depth * sizeof *f);
  lua_replace(L, d->base + SLOT_FRAMES);
  d->frames = f;
  d->capframes = cap;
}

static void spill(struct dec *d) {
  lua_State *L = d->L;
  int tab = d->base + SLOT_SPILL;
  if (lua_isnil(L, tab)) {
    lua_newtable(L);
    lua_replace(L, tab);
  }
  lmp_spill(L, tab, d->levels, d->spilled);
  d->spilled += LEVELS;
}

/* A place for one more container, which the caller pushes then and gives to opened(). */
static inline void open(struct dec *d) {
  if (d->depth == 0) return;
  if (d->frames[d->depth - 1].phase != VALUE) lua_pushnil(d->L);
  if (d->depth - d->spilled >= 2 * LEVELS) spill(d);
}

static inline struct dec_frame *opened(struct dec *d, enum phase phase) {
  if (d->depth == d->capframes) frames_grow(d);
  if (!lua_checkstack(d->L, 24)) luaL_error(d->L, "stack overflow");
  struct dec_frame *f = &d->frames[d->depth++];
  f->phase = (unsigned char)phase;
  f->i = f->n = f->count = 0;
  f->has_meta = 0;
  return f;
}

/* The innermost container, on top, is complete: it becomes the value that was read
 * for the one around it, and lies where scalars do. */
static inline void close_frame(struct dec *d) {
  d->meta_tag = 0;
  d->depth--;
  if (d->depth == 0) return;
  if (d->depth == d->spilled) {
    d->spilled -= LEVELS;
    lmp_unspill(d->L, d->base + SLOT_SPILL, d->levels, d->spilled, 1);
  }
  if (d->frames[d->depth - 1].phase != VALUE) lua_replace(d->L, slot(d) + 1);
}

/* ---- references ---------------------------------------------------------------- */

/* Notes the object on top when others refer to it; `at` is its tag. */
static inline void note(struct dec *d, const unsigned char *at) {
  lua_State *L = d->L;
  if (!(*at & BIT_SHARED)) return;
  int objects = d->base + SLOT_OBJECTS;
  if (lua_isnil(L, objects)) {
    lua_newtable(L);
    lua_replace(L, objects);
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, objects, at - d->u->data + 1);
}

/* Pushes the object whose offset comes next. */
static void push_noted(struct dec *d) {
  lua_State *L = d->L;
  uint64_t off = take_varint(d);
  int objects = d->base + SLOT_OBJECTS;
  if (off >= d->u->len || lua_isnil(L, objects) ||
      lua_rawgeti(L, objects, (lua_Integer)off + 1) == LUA_TNIL)
    malformed(d, "a reference to nothing");
  d->meta_tag = d->u->data[off] & ~BIT_SHARED;
}

/* ---- tables -------------------------------------------------------------------- */

static inline uint64_t announce(struct dec *d, uint64_t n, unsigned bytes) {
  if (n > d->budget / bytes) malformed(d, "a table larger than the data");
  d->budget -= n * bytes;
  return n;
}

static inline int at_most_int(uint64_t n) { return n > INT_MAX ? INT_MAX : (int)n; }

/* What is read next of a table whose elements are there. */
static inline bool records_next(struct dec_frame *f) {
  if (f->count == 0) return false;
  f->phase = KEY;
  return true;
}

/* After the records: true when the metatable is still to come. */
static inline bool metatable_next(struct dec_frame *f) {
  f->phase = METATABLE;
  return f->has_meta;
}

/* Pushes the table whose tag is at `at`; true when it is complete already. */
static inline bool push_table(struct dec *d, const unsigned char *at) {
  unsigned form = *at & ~(unsigned)(BIT_SHARED | BIT_META);
  uint64_t n = 0, count = 0, size = 0;
  if (form != TAG_REC) n = announce(d, take_varint(d), 1);
  if (form != TAG_LIST) {
    unsigned c = take_byte(d);
    if (c <= REC_EXACT) count = size = announce(d, c, 2);
    else {
      if (c - REC_EXACT - 1 > 62) malformed(d, "a table larger than the data");
      size = announce(d, (uint64_t)1 << (c - REC_EXACT - 1), 1);
      count = UINT64_MAX;
    }
  }
  bool meta = *at & BIT_META;
  if (n == 0 && count == 0 && !meta) {
    lua_newtable(d->L);
    note(d, at);
    d->meta_tag = 0;
    return true;
  }
  open(d);
  lua_createtable(d->L, at_most_int(n), at_most_int(size));
  note(d, at);
  struct dec_frame *f = opened(d, n ? ELEMENTS : count ? KEY : METATABLE);
  f->n = n;
  f->count = count;
  f->has_meta = meta;
  return false;
}

/* Room for the k elements of a run in the innermost table. */
static struct dec_frame *run_frame(struct dec *d, uint64_t k, size_t width) {
  struct dec_frame *f = d->depth ? &d->frames[d->depth - 1] : NULL;
  if (!f || f->phase != ELEMENTS || k > f->n - f->i) malformed(d, "a run out of place");
  need(d, k * width);
  return f;
}

static inline void set_integers(lua_State *L, int t, uint64_t i, const unsigned char *p, int k,
                                unsigned width, uint64_t lo) {
  for (int j = 0; j < k; j++, p += width) {
    uint64_t v = width == 1 ? *p : width == 2 ? get16(p) : width == 4 ? get32(p) : get64(p);
    lua_pushinteger(L, (lua_Integer)(lo + v));
    lua_rawseti(L, t, (lua_Integer)(i + (uint64_t)j + 1));
  }
}

/* Reads a run of elements; true when they were the last ones of the array part. */
static bool take_run(struct dec *d, unsigned tag) {
  static const unsigned char widths[] = {1, 1, 2, 4, 8, 8};
  lua_State *L = d->L;
  unsigned width = widths[tag - TAG_RUNS];
  int k = (int)take_byte(d) + 1;
  uint64_t lo = 0;
  if (tag >= TAG_RUN1 && tag <= TAG_RUN4) {
    lo = take_varint(d);
    lo = lo & 1 ? ~(lo >> 1) : lo >> 1;
  }
  struct dec_frame *f = run_frame(d, (uint64_t)k, width);
  int t = slot(d);
  if (tag == TAG_RUNF) {
    for (int j = 0; j < k; j++) {
      lua_pushnumber(L, get_float(d->p + 8 * j));
      lua_rawseti(L, t, (lua_Integer)(f->i + (uint64_t)j + 1));
    }
  } else
    switch (width) { /* four loops, each with its width known */
    case 1: set_integers(L, t, f->i, d->p, k, 1, lo); break;
    case 2: set_integers(L, t, f->i, d->p, k, 2, lo); break;
    case 4: set_integers(L, t, f->i, d->p, k, 4, lo); break;
    default: set_integers(L, t, f->i, d->p, k, 8, lo);
    }
  d->p += (size_t)k * width;
  f->i += (uint64_t)k;
  return f->i == f->n;
}

/* The table on top is being read still, or may be. */
static bool in_progress(const struct dec *d) {
  for (size_t k = d->spilled; k < d->depth; k++)
    if (lua_rawequal(d->L, -1, d->levels + 2 * (int)(k - d->spilled))) return true;
  return d->spilled > 0;
}

/* Lua looks for __gc when a metatable is set: one that has not all of its fields yet
 * is set once more when everything is there. */
static void set_late(struct dec *d) {
  lua_State *L = d->L;
  int late = d->base + SLOT_LATE;
  if (lua_isnil(L, late)) {
    lua_newtable(L);
    lua_replace(L, late);
  }
  lua_Integer n = (lua_Integer)lua_rawlen(L, late);
  lua_pushvalue(L, slot(d));
  lua_rawseti(L, late, n + 1);
  lua_pushvalue(L, -1);
  lua_rawseti(L, late, n + 2);
}

static void set_again(struct dec *d) {
  lua_State *L = d->L;
  int late = d->base + SLOT_LATE;
  if (lua_isnil(L, late)) return;
  lua_Integer n = (lua_Integer)lua_rawlen(L, late);
  for (lua_Integer i = 1; i < n; i += 2) {
    lua_rawgeti(L, late, i);
    lua_rawgeti(L, late, i + 1);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
  }
}

/* The metatable is on top; d->meta_tag says how it was written. */
static void set_metatable(struct dec *d) {
  lua_State *L = d->L;
  unsigned where = d->u->mode & LMP_MODE;
  bool named = d->meta_tag == TAG_NAMED || d->meta_tag == TAG_REG;
  if (!lua_istable(L, -1)) malformed(d, "a metatable that is no table");
  if (where == LMP_NETWORK && !named) malformed(d, "a metatable that is no class");
  if (where != LMP_FAMILY && d->meta_tag == TAG_NAMED && !(d->u->mode & LMP_CODE)) {
    lua_pushliteral(L, "__gc");
    if (lua_rawget(L, -2) != LUA_TNIL)
      luaL_error(L, "marshal: this data makes objects of a class with a finalizer that is not "
                 "registered (mp.marshal.register)");
    lua_pop(L, 1);
  }
  if (d->meta_tag && !named && in_progress(d)) set_late(d);
  lua_setmetatable(L, slot(d));
}

/* ---- functions, names, handles ------------------------------------------------- */

static void need_code(struct dec *d, const char *what) {
  if ((d->u->mode & LMP_MODE) != LMP_FAMILY && !(d->u->mode & LMP_CODE))
    luaL_error(d->L, "marshal: this data holds %s, which is refused without allow_code", what);
}

struct piece {
  const char *s;
  size_t n;
};

static const char *read_piece(lua_State *L, void *arg, size_t *n) {
  struct piece *p = arg;
  (void)L;
  *n = p->n;
  p->n = 0;
  return p->s;
}

/* Pushes the function whose tag is at `at`; true when it has no upvalues. */
static bool push_function(struct dec *d, const unsigned char *at) {
  lua_State *L = d->L;
  lua_Debug ar;
  need_code(d, "a function");
  need(d, NONCE + 4);
  if ((d->u->mode & LMP_MODE) == LMP_FAMILY &&
      (!lmp_member_if(L) || memcmp(d->p, mp_nonce(), NONCE) != 0))
    malformed(d, "a function of another family");
  size_t n = get32(d->p + NONCE);
  d->p += NONCE + 4;
  need(d, n);
  struct piece piece = {(const char *)d->p, n};
  open(d);
  if (lua_load(L, read_piece, &piece, "=marshal", "b") != LUA_OK) {
    const char *why = lua_tostring(L, -1);
    malformed(d, why ? why : "a function");
  }
  d->p += n;
  note(d, at);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  if (take_byte(d) != ar.nups) malformed(d, "a function with other upvalues");
  opened(d, UPVALUES)->n = ar.nups;
  return ar.nups == 0;
}

/* An upvalue of the innermost function is one that another function has already; true
 * when it was the last. */
static bool join_upvalue(struct dec *d) {
  lua_State *L = d->L;
  struct dec_frame *f = d->depth ? &d->frames[d->depth - 1] : NULL;
  if (!f || f->phase != UPVALUES) malformed(d, "a variable out of place");
  push_noted(d);
  int k = (int)take_byte(d);
  if (!lua_isfunction(L, -1) || lua_iscfunction(L, -1) || !lua_getupvalue(L, -1, k))
    malformed(d, "a variable that is not there");
  lua_pop(L, 1);
  lua_upvaluejoin(L, slot(d), (int)++f->i, lua_gettop(L), k);
  lua_pop(L, 1);
  return f->i == f->n;
}

/* The name that comes next, as bytes of the message. */
static const char *take_name(struct dec *d, size_t *n) {
  need(d, 1);
  unsigned tag = *d->p;
  if (tag < TAG_STR || (tag >= TAG_NIL && (tag < TAG_STR1 || tag > TAG_STR8)))
    malformed(d, "a name that is no string");
  const unsigned char *s = string_at(d, d->p, n);
  if (*n > (size_t)(d->end - s)) malformed(d, "a name longer than the data");
  d->p = s + *n;
  return (const char *)s;
}

static inline enum phase phase_now(const struct dec *d) {
  return d->depth ? (enum phase)d->frames[d->depth - 1].phase : ELEMENTS;
}

static void push_named(struct dec *d) {
  lua_State *L = d->L;
  size_t n;
  const char *s = take_name(d, &n);
  bool trusted = (d->u->mode & LMP_MODE) == LMP_FAMILY || (d->u->mode & LMP_CODE);
  if (!trusted && (d->u->mode & LMP_MODE) == LMP_NETWORK && phase_now(d) != METATABLE)
    need_code(d, "a module");
  lmp_name_find(L, s, n, trusted);
  d->meta_tag = TAG_NAMED;
  if (!lua_istable(L, -1)) need_code(d, "a function");
}

static void push_registered(struct dec *d) {
  lua_State *L = d->L;
  size_t n;
  const char *s = take_name(d, &n);
  lmp_marshal(L);
  lmp_marshal_push(L, MARSHAL_CLASSES);
  lua_pushlstring(L, s, n);
  if (lua_rawget(L, -2) != LUA_TTABLE) {
    lua_pushlstring(L, s, n);
    luaL_error(L, "marshal: no class is registered here as '%s'", lua_tostring(L, -1));
  }
  lua_remove(L, -2);
  d->meta_tag = TAG_REG;
}

static void push_globals(struct dec *d) {
  if ((d->u->mode & LMP_MODE) == LMP_NETWORK) need_code(d, "the globals table");
  d->meta_tag = 0;
  lua_rawgeti(d->L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
}

/* The handle on top is complete (true), or its user value follows. */
static bool handle_opened(struct dec *d, const unsigned char *at, bool more) {
  note(d, at);
  opened(d, USERVALUE);
  return !more;
}

static bool push_handle(struct dec *d, const unsigned char *at) {
  struct lmp_unpack *u = d->u;
  uint64_t i = take_varint(d);
  uint64_t wide = take_varint(d);
  uint32_t part = (uint32_t)wide;
  if (i >= u->nrefs || part != wide) malformed(d, "a handle that is not there");
  uint32_t entry = u->entries[i];
  open(d);
  if (entry != UINT32_MAX) {
    u->entries[i] = UINT32_MAX;
    lmp_push_object(d->L, u->refs[i], entry, part);
  } else
    lmp_push_sibling(d->L, u->refs[i], part);
  return handle_opened(d, at, (*at & ~BIT_SHARED) == TAG_HANDLE_U);
}

/* An object that the data does not keep alive. */
static bool push_serial(struct dec *d, const unsigned char *at) {
  lua_State *L = d->L;
  uint32_t entry;
  need(d, NONCE + 17);
  if ((d->u->mode & LMP_MODE) != LMP_STRING) malformed(d, "an object by serial number");
  const unsigned char *p = d->p + NONCE;
  d->p += NONCE + 17;
  if (p[0] < MP_KIND_QUEUE || p[0] >= MP_KIND_PIPE) malformed(d, "an object of no kind");
  const char *kind = lmp_kind_name(p[0]);
  struct mp_member *me = lmp_member(L);
  if (memcmp(p - NONCE, mp_nonce(), NONCE) != 0)
    luaL_error(L, "marshal: the %s in this data is another family's", kind);
  open(d);
  int e = mp_refer_serial(get32(p + 1), get64(p + 5), me, &entry);
  if (e == ESTALE) luaL_error(L, "marshal: the %s in this data no longer exists", kind);
  if (e == ENOMEM) lmp_full(L);
  if (e) lmp_fail(L, e, "refer to a shared object");
  lmp_push_object(L, get32(p + 1), entry, get32(p + 13));
  return handle_opened(d, at, (*at & ~BIT_SHARED) == TAG_SERIAL_U);
}

static void push_connection(struct dec *d) {
  struct lmp_unpack *u = d->u;
  uint64_t i = take_varint(d), flags = take_varint(d), pipe = take_varint(d);
  if (i >= u->nfds || u->fds[i] < 0 || flags > UINT_MAX || pipe > u->nrefs)
    malformed(d, "a connection that is not there");
  lmp_conn_push(d->L, &u->fds[i], (unsigned)flags, pipe ? u->refs[pipe - 1] : 0);
}

/* ---- the loop ------------------------------------------------------------------ */

/* What push_value did. */
enum pushed {
  PUSHED,  /* a complete value is on top */
  OPENED,  /* a container whose contents come next */
  CLOSED,  /* the innermost container is complete, and on top */
  NOTHING, /* something else: go on */
  FINISHED /* the elements, or all of it, of the innermost container were read */
};

static enum pushed push_object(struct dec *d, unsigned tag, const unsigned char *at) {
  switch (tag & ~(unsigned)BIT_SHARED) {
  case TAG_FUNC: return push_function(d, at) ? CLOSED : OPENED;
  case TAG_HANDLE:
  case TAG_HANDLE_U: return push_handle(d, at) ? CLOSED : OPENED;
  case TAG_SERIAL:
  case TAG_SERIAL_U: return push_serial(d, at) ? CLOSED : OPENED;
  case TAG_NAMED: push_named(d); break;
  case TAG_REG: push_registered(d); break;
  case TAG_CONN: push_connection(d); break;
  default: malformed(d, "an unknown tag");
  }
  note(d, at);
  return PUSHED;
}

/* END closes the records of a table that did not say how many. */
static enum pushed take_end(struct dec *d) {
  struct dec_frame *f = d->depth ? &d->frames[d->depth - 1] : NULL;
  if (!f || f->phase != KEY || f->count != UINT64_MAX) malformed(d, "an end out of place");
  f->count = 0;
  return FINISHED;
}

static inline enum pushed push_value(struct dec *d) {
  lua_State *L = d->L;
  need(d, 1);
  const unsigned char *at = d->p;
  unsigned tag = *at;
  if (tag >= TAG_STR && tag < TAG_NIL) {
    push_string(d);
    return PUSHED;
  }
  d->p++;
  if (tag < TAG_STR) {
    lua_pushinteger(L, (lua_Integer)tag);
    return PUSHED;
  }
  switch (tag) {
  case TAG_NIL: lua_pushnil(L); return PUSHED;
  case TAG_FALSE: lua_pushboolean(L, 0); return PUSHED;
  case TAG_TRUE: lua_pushboolean(L, 1); return PUSHED;
  case TAG_NULL: lua_pushlightuserdata(L, NULL); return PUSHED;
  case TAG_STR1: case TAG_STR4: case TAG_STR8:
    d->p = at;
    push_string(d);
    return PUSHED;
  case TAG_SREF: push_known_string(d); return PUSHED;
  case TAG_REF: push_noted(d); return PUSHED;
  case TAG_GLOBALS: push_globals(d); return PUSHED;
  case TAG_END: return take_end(d);
  case TAG_UPREF: return join_upvalue(d) ? FINISHED : NOTHING;
  case TAG_RUNS: case TAG_RUN1: case TAG_RUN2: case TAG_RUN4: case TAG_RUN8: case TAG_RUNF:
    return take_run(d, tag) ? FINISHED : NOTHING;
  default:
    if (push_number(d, tag)) return PUSHED;
    if (tag >= TAG_LIST && tag < TAG_FUNC) return push_table(d, at) ? PUSHED : OPENED;
    return push_object(d, tag, at);
  }
}

static void check_key(struct dec *d) {
  lua_State *L = d->L;
  if (lua_isnil(L, -1) ||
      (lua_type(L, -1) == LUA_TNUMBER && lua_tonumber(L, -1) != lua_tonumber(L, -1)))
    malformed(d, "a key that is nil or not a number");
}

/* Gives the value on top to the innermost container; true when that has all it
 * expected of this phase. */
static inline bool deliver(struct dec *d, struct dec_frame *f) {
  lua_State *L = d->L;
  switch ((enum phase)f->phase) {
  case ELEMENTS:
    lua_rawseti(L, slot(d), (lua_Integer)++f->i);
    return f->i == f->n;
  case KEY:
    if (lua_type(L, -1) != LUA_TSTRING) check_key(d);
    f->phase = VALUE;
    return false;
  case VALUE:
    lua_rawset(L, slot(d));
    f->phase = KEY;
    if (f->count == UINT64_MAX) return false;
    return --f->count == 0;
  case METATABLE:
    set_metatable(d);
    return true;
  case UPVALUES:
    if (!lua_setupvalue(L, slot(d), (int)++f->i)) malformed(d, "an upvalue that is not there");
    return f->i == f->n;
  case USERVALUE:
    if (lua_getiuservalue(L, slot(d), 1) == LUA_TNIL) {
      lua_pop(L, 1);
      lua_setiuservalue(L, slot(d), 1);
    } else
      lua_pop(L, 2);
    return true;
  }
  return false;
}

/* The innermost container has what it expected: what comes next, or true when it is
 * complete. */
static inline bool complete(struct dec_frame *f) {
  switch ((enum phase)f->phase) {
  case ELEMENTS: return !records_next(f) && !metatable_next(f);
  case KEY:
  case VALUE: return !metatable_next(f);
  default: return true;
  }
}

static void decode_all(struct dec *d) {
  for (;;) {
    enum pushed what = push_value(d);
    if (what == OPENED || what == NOTHING) continue;
    if (what == CLOSED) close_frame(d);
    for (;;) {
      if (d->depth == 0) return;
      struct dec_frame *f = &d->frames[d->depth - 1];
      if (what != FINISHED && !deliver(d, f)) break;
      if (!complete(f)) break;
      close_frame(d);
      what = CLOSED;
    }
  }
}

/* A value that is all by itself: no object, no reference. */
static bool push_lone(struct dec *d) {
  const unsigned char *at = d->p;
  unsigned tag = *at;
  size_t n;
  if (tag < TAG_STR) lua_pushinteger(d->L, (lua_Integer)tag), d->p++;
  else if (tag < TAG_NIL || (tag >= TAG_STR1 && tag <= TAG_STR8)) {
    const unsigned char *s = string_at(d, at, &n);
    if (n > (size_t)(d->end - s)) malformed(d, "a string longer than the data");
    d->p = s + n;
    lua_pushlstring(d->L, (const char *)s, n);
  } else {
    d->p++;
    if (push_number(d, tag)) return true;
    d->p = at;
    return false;
  }
  return true;
}

/* Prepares the stack for a value with objects. */
static void prepare(struct dec *d) {
  lua_State *L = d->L;
  d->base = lua_gettop(L) + 1;
  d->pool = d->u->len >= POOL_PAYS ? d->base + SLOTS : 0;
  d->levels = d->base + SLOTS + (d->pool ? WINDOW : 0);
  if (!lua_checkstack(L, d->levels - d->base + 24)) luaL_error(L, "stack overflow");
  lua_settop(L, d->levels - 1);
  d->frames = d->local;
  d->capframes = LOCAL_FRAMES;
  d->depth = d->spilled = 0;
  d->nstr = 0;
  d->meta_tag = 0;
  d->budget = left(d);
}

void lmp_decode(lua_State *L, struct lmp_unpack *u) {
  struct dec d;
  d.L = L;
  d.u = u;
  d.p = u->data;
  d.end = u->data + u->len;
  d.base = 0;
  if (!lua_checkstack(L, 8)) luaL_error(L, "stack overflow");
  if ((u->mode & LMP_MODE) != LMP_FAMILY) {
    if (u->len == 0 || *d.p != TAG_MAGIC) malformed(&d, "it does not begin like a value");
    d.p++;
  }
  need(&d, 1);
  if (!push_lone(&d)) {
    prepare(&d);
    decode_all(&d);
    set_again(&d);
  }
  if (d.p != d.end) malformed(&d, "something comes after the value");
  if (d.base) {
    lua_replace(L, d.base);
    lua_settop(L, d.base);
  }
}
