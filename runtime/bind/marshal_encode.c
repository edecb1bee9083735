/* Writes a Lua value as bytes.
 *
 * Containers in progress are frames of an array of our own, two slots of the Lua stack
 * each: a table and the key that is reached, a function or handle and nil.  Nothing
 * here steps the collector until an error is raised: no finalizer can use the pack
 * meanwhile, and addresses stay what they are.
 */
#include "marshal_private.h"
#include "marshal_table.h"
#include <stdio.h>
#include <stdlib.h>

enum phase {
  ELEMENTS, /* of the array part */
  RECORDS,  /* the value of the key in the second slot */
  KEY,      /* that key itself */
  METATABLE,
  UPVALUES,
  USERVALUE
};

/* What has to be done before an attempt can succeed. */
enum retry { DONE, SEARCH_NAMES, JOIN_FAMILY };

/* One attempt.  start: where the message begins in p.  depth: frames in use, the
 * lowest `spilled` of them not on the stack.  base: the slot of the lowest that is.
 * nstr: strings numbered so far.  searched: names are as new as can be. */
struct enc {
  lua_State *L;
  struct marshal *m;
  struct lmp_pack *p;
  unsigned mode;
  int base;
  size_t start, depth, spilled;
  uint32_t nstr;
  const void *globals;
  const unsigned char *nonce;
  enum retry retry;
  bool searched;
};

/* ---- errors -------------------------------------------------------------------- */

/* A path is put together without Lua's help, in place. */
struct path {
  char s[4096];
  size_t n;
  bool compound; /* "key of x": what follows needs parentheses */
};

static void add(struct path *p, const char *s, size_t n) {
  if (n > sizeof p->s - 1 - p->n) n = sizeof p->s - 1 - p->n;
  memcpy(p->s + p->n, s, n);
  p->n += n;
  p->s[p->n] = '\0';
}

static void prepend(struct path *p, const char *s) {
  size_t n = strlen(s);
  if (n + p->n >= sizeof p->s) return;
  memmove(p->s + n, p->s, p->n + 1);
  memcpy(p->s, s, n);
  p->n += n;
}

static bool is_name(const char *s, size_t n) {
  static const char *const words[] = {
      "and",    "break", "do",   "else", "elseif", "end",  "false", "for",   "function", "goto",
      "if",     "in",    "local", "nil", "not",    "or",   "repeat", "return", "then",   "true",
      "until",  "while"};
  if (n == 0 || n > 100 || (s[0] >= '0' && s[0] <= '9')) return false;
  for (size_t i = 0; i < n; i++)
    if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || s[i] == '_' ||
          (s[i] >= '0' && s[i] <= '9')))
      return false;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strlen(words[i]) == n && memcmp(words[i], s, n) == 0) return false;
  return true;
}

static void add_quoted(struct path *p, const char *s, size_t n) {
  char c[8];
  add(p, "[\"", 2);
  for (size_t i = 0; i < n && i < 60; i++) {
    unsigned char u = (unsigned char)s[i];
    if (u == '"' || u == '\\') snprintf(c, sizeof c, "\\%c", u);
    else if (u == '\n') snprintf(c, sizeof c, "\\n");
    else if (u < ' ' || u == 127) snprintf(c, sizeof c, "\\%03d", u);
    else snprintf(c, sizeof c, "%c", u);
    add(p, c, strlen(c));
  }
  if (n > 60) add(p, "...", 3);
  add(p, "\"]", 2);
}

/* The key at `idx` as an index. */
static void add_key(struct path *p, lua_State *L, int idx) {
  char c[64];
  size_t n;
  switch (lua_type(L, idx)) {
  case LUA_TSTRING: {
    const char *s = lua_tolstring(L, idx, &n);
    if (!is_name(s, n)) {
      add_quoted(p, s, n);
      return;
    }
    add(p, ".", 1);
    add(p, s, n);
    return;
  }
  case LUA_TNUMBER:
    if (lua_isinteger(L, idx)) snprintf(c, sizeof c, "[%lld]", (long long)lua_tointeger(L, idx));
    else snprintf(c, sizeof c, "[%.14g]", lua_tonumber(L, idx));
    break;
  case LUA_TBOOLEAN:
    snprintf(c, sizeof c, "[%s]", lua_toboolean(L, idx) ? "true" : "false");
    break;
  default:
    snprintf(c, sizeof c, "[%s: %p]", lua_typename(L, lua_type(L, idx)), lua_topointer(L, idx));
  }
  add(p, c, strlen(c));
}

/* Pushes slot `which` (0 or 1) of a frame. */
static void push_slot(const struct enc *e, size_t frame, int which) {
  if (frame >= e->spilled)
    lua_pushvalue(e->L, e->base + 2 * (int)(frame - e->spilled) + which);
  else {
    lmp_marshal_push(e->L, MARSHAL_SPILL);
    lua_rawgeti(e->L, -1, (lua_Integer)(2 * frame) + which + 1);
    lua_replace(e->L, -2);
  }
}

/* "x" -> "upvalue 'log' of x" and the like. */
static void wrap(struct path *p, const char *what) {
  prepend(p, what);
  p->compound = true;
}

static void add_upvalue(const struct enc *e, struct path *p, size_t frame) {
  char what[128];
  push_slot(e, frame, 0);
  const char *name = lua_getupvalue(e->L, -1, (int)e->m->frames[frame].i);
  snprintf(what, sizeof what, "upvalue '%.80s' of ", name ? name : "?");
  lua_pop(e->L, name ? 2 : 1);
  wrap(p, what);
}

/* One step down from a frame to what it is at. */
static void add_step(const struct enc *e, struct path *p, size_t frame) {
  const struct enc_frame *f = &e->m->frames[frame];
  char c[32];
  if (p->compound && f->phase <= RECORDS) {
    prepend(p, "(");
    add(p, ")", 1);
    p->compound = false;
  }
  switch ((enum phase)f->phase) {
  case ELEMENTS:
    snprintf(c, sizeof c, "[%llu]", (unsigned long long)f->i);
    add(p, c, strlen(c));
    break;
  case RECORDS:
    push_slot(e, frame, 1);
    add_key(p, e->L, -1);
    lua_pop(e->L, 1);
    break;
  case KEY: wrap(p, "key of "); break;
  case METATABLE: wrap(p, "metatable of "); break;
  case UPVALUES: add_upvalue(e, p, frame); break;
  case USERVALUE: wrap(p, "user value of "); break;
  }
}

/* The path of what the frame `depth - 1` is at; of a deep one head and tail. */
static void make_path(const struct enc *e, struct path *p, size_t depth) {
  enum { HEAD = 20, TAIL = 10 };
  p->n = 0;
  p->compound = false;
  add(p, "value", 5);
  if (e->p->item) {
    char c[32];
    add(p, c, (size_t)snprintf(c, sizeof c, "[%lld]", (long long)e->p->item));
  }
  for (size_t k = 0; k < depth; k++) {
    if (k == HEAD && depth > HEAD + TAIL) {
      char c[64];
      k = depth - TAIL;
      snprintf(c, sizeof c, " ...(%zu levels)... ", k - HEAD);
      add(p, c, strlen(c));
    }
    add_step(e, p, k);
  }
}

/* cannot marshal <what> at <path><note> */
static void refuse_at(struct enc *e, size_t depth, const char *what, const char *note) {
  struct path p;
  luaL_checkstack(e->L, LUA_MINSTACK, NULL);
  make_path(e, &p, depth);
  luaL_error(e->L, "cannot marshal %s at %s%s", what, p.s, note);
}

/* What cannot cross may be inside an object of the library that never does, a Process or a
 * Pool: then it is that which is refused.  (A class with a name does cross.) */
static void refuse_object_around(struct enc *e) {
  lua_State *L = e->L;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  for (size_t k = 0; k < e->depth; k++) {
    push_slot(e, k, 0);
    if (lua_istable(L, -1) && lua_getmetatable(L, -1)) {
      lua_pushliteral(L, "__mp");
      if (lua_rawget(L, -2) == LUA_TSTRING && !lmp_perhaps_named(e->m, lua_topointer(L, -2)))
        refuse_at(e, k, lua_pushfstring(L, "a %s", lua_tostring(L, -1)), "");
      lua_pop(L, 2);
    }
    lua_pop(L, 1);
  }
}

static void refuse(struct enc *e, const char *what, const char *note) {
  refuse_object_around(e);
  refuse_at(e, e->depth, what, note);
}

/* The userdata on top, by its type's name. */
static void refuse_userdata(struct enc *e) {
  lua_State *L = e->L;
  struct path p;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  refuse_object_around(e);
  make_path(e, &p, e->depth);
  const char *name = "userdata";
  if (luaL_getmetafield(L, -1, "__name") == LUA_TSTRING) name = lua_tostring(L, -1);
  luaL_error(L, "cannot marshal a %s at %s", name, p.s);
}

/* ---- bytes --------------------------------------------------------------------- */

static inline unsigned char *room(struct enc *e, size_t n) {
  struct lmp_pack *p = e->p;
  return p->cap - p->len >= n ? p->data + p->len : lmp_room(e->L, p, n);
}

static inline void put_byte(struct enc *e, int byte) {
  *room(e, 1) = (unsigned char)byte;
  e->p->len++;
}

static inline size_t varint(unsigned char *p, uint64_t v) {
  size_t n = 0;
  for (; v > 127; v >>= 7) p[n++] = (unsigned char)(v | 128);
  p[n++] = (unsigned char)v;
  return n;
}

static void put_varint(struct enc *e, uint64_t v) {
  unsigned char *p = room(e, 10);
  e->p->len += varint(p, v);
}

static inline void put_integer(struct enc *e, lua_Integer v) {
  unsigned char *p = room(e, 9);
  e->p->len += lmp_integer_to(p, v);
}

static inline void put_bytes(struct enc *e, const char *s, size_t n) {
  unsigned char *p = room(e, n + 9);
  size_t head = lmp_head_of_string(p, n);
  memcpy(p + head, s, n);
  e->p->len += head + n;
}

/* The string at `idx`, by reference when it was written a short while ago. */
static inline void put_string(struct enc *e, int idx) {
  size_t n;
  const char *s = lua_tolstring(e->L, idx, &n);
  if (n == 0) {
    put_byte(e, TAG_STR);
    return;
  }
  struct seen_str *seen = &e->m->strings[hash_ptr(s) >> (64 - SEEN_STR_BITS)];
  if (seen->s == s && seen->gen == e->m->gen && e->nstr - seen->number <= WINDOW) {
    unsigned char *p = room(e, 2);
    p[0] = TAG_SREF;
    p[1] = (unsigned char)(seen->number % WINDOW);
    e->p->len += 2;
    return;
  }
  seen->s = s;
  seen->gen = e->m->gen;
  seen->number = e->nstr++;
  put_bytes(e, s, n);
}

static inline void put_number(struct enc *e, int idx) {
  if (lua_isinteger(e->L, idx))
    put_integer(e, lua_tointeger(e->L, idx));
  else {
    unsigned char *p = room(e, 9);
    p[0] = TAG_F8;
    put_float(p + 1, lua_tonumber(e->L, idx));
    e->p->len += 9;
  }
}

/* Writes the value at `idx` when it is no object. */
static inline bool put_scalar(struct enc *e, int idx, int type) {
  switch (type) {
  case LUA_TSTRING: put_string(e, idx); return true;
  case LUA_TNUMBER: put_number(e, idx); return true;
  case LUA_TBOOLEAN: put_byte(e, lua_toboolean(e->L, idx) ? TAG_TRUE : TAG_FALSE); return true;
  case LUA_TNIL: put_byte(e, TAG_NIL); return true;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(e->L, idx)) return false;
    put_byte(e, TAG_NULL);
    return true;
  default: return false;
  }
}

/* ---- what was written ---------------------------------------------------------- */

static struct seen *seen_place(struct seen *seen, size_t cap, uint32_t gen, const void *p) {
  size_t i = hash_ptr(p) >> 20 & (cap - 1);
  while (seen[i].gen == gen && seen[i].p != p) i = (i + 1) & (cap - 1);
  return &seen[i];
}

static void seen_grow(struct enc *e) {
  struct marshal *m = e->m;
  size_t cap = m->capseen ? 4 * m->capseen : 64;
  struct seen *seen = calloc(cap, sizeof *seen);
  if (!seen) luaL_error(e->L, "not enough memory");
  for (size_t i = 0; i < m->capseen; i++)
    if (m->seen[i].gen == m->gen) *seen_place(seen, cap, m->gen, m->seen[i].p) = m->seen[i];
  free(m->seen);
  m->seen = seen;
  m->capseen = cap;
  m->large = true;
}

/* Where the object was written; or notes that it is going to be, at the end of the
 * message. */
static inline const struct seen *seen_before(struct enc *e, const void *p, size_t at,
                                             uint32_t sub) {
  struct marshal *m = e->m;
  if (2 * m->nseen >= m->capseen) seen_grow(e);
  struct seen *s = seen_place(m->seen, m->capseen, m->gen, p);
  if (s->gen == m->gen) return s;
  m->nseen++;
  s->p = p;
  s->at = at;
  s->gen = m->gen;
  s->sub = sub;
  return NULL;
}

static inline size_t here(const struct enc *e) { return e->p->len - e->start; }

/* A reference to the object at `at`, which is marked. */
static void put_ref(struct enc *e, int tag, size_t at) {
  e->p->data[e->start + at] |= BIT_SHARED;
  put_byte(e, tag);
  put_varint(e, at);
}

/* Begins with the object on top: writes a reference and is done, or notes it. */
static inline bool again(struct enc *e, const void *p) {
  const struct seen *s = seen_before(e, p, here(e), 0);
  if (!s) return false;
  put_ref(e, TAG_REF, s->at);
  return true;
}

/* ---- frames -------------------------------------------------------------------- */

static void frames_grow(struct enc *e) {
  struct marshal *m = e->m;
  size_t cap = m->capframes ? 2 * m->capframes : 32;
  if (e->depth >= DEPTH_MAX && (e->mode & LMP_MODE) != LMP_FAMILY) {
    char note[64];
    snprintf(note, sizeof note, ": it is nested deeper than %d levels", DEPTH_MAX);
    refuse(e, "a table", note);
  }
  struct enc_frame *f = realloc(m->frames, cap * sizeof *f);
  if (!f) luaL_error(e->L, "not enough memory");
  m->frames = f;
  m->capframes = cap;
  m->large = true;
}

static void spill(struct enc *e) {
  lua_State *L = e->L;
  lmp_marshal_push(L, MARSHAL_SPILL);
  lua_insert(L, e->base);
  e->m->spill_used = true;
  lmp_spill(L, e->base, e->base + 1, e->spilled);
  lua_remove(L, e->base);
  e->spilled += LEVELS;
}

static void unspill(struct enc *e) {
  lua_State *L = e->L;
  lmp_marshal_push(L, MARSHAL_SPILL);
  e->spilled -= LEVELS;
  lmp_unspill(L, e->base, e->base + 1, e->spilled, 0);
  lua_remove(L, e->base);
}

/* The slot of the innermost container. */
static inline int slot(const struct enc *e) {
  return e->base + 2 * (int)(e->depth - 1 - e->spilled);
}

/* A frame for the container on top.  After it the caller has the second slot to
 * fill. */
static inline struct enc_frame *enter(struct enc *e, enum phase phase) {
  if (e->depth - e->spilled >= 2 * LEVELS) {
    lua_State *L = e->L;
    lua_insert(L, e->base); /* out of the way of the others */
    e->base++;
    spill(e);
    e->base--;
    lua_rotate(L, e->base, -1);
  }
  if (e->depth == e->m->capframes) frames_grow(e);
  if (!lua_checkstack(e->L, 48)) luaL_error(e->L, "stack overflow");
  struct enc_frame *f = &e->m->frames[e->depth++];
  f->phase = (unsigned char)phase;
  f->i = f->n = f->count = 0;
  f->has_meta = f->skip = f->first = f->begun = 0;
  return f;
}

/* The innermost container is written. */
static inline void leave(struct enc *e) {
  lua_settop(e->L, slot(e) - 1);
  e->depth--;
  if (e->depth == e->spilled && e->depth > 0) unspill(e);
}

/* ---- tables -------------------------------------------------------------------- */

static inline bool is_network(const struct enc *e) { return (e->mode & LMP_MODE) == LMP_NETWORK; }
static inline bool code_crosses(const struct enc *e) {
  return !is_network(e) || (e->mode & LMP_CODE);
}

static void put_name(struct enc *e, int tag, const char *s, size_t n) {
  put_byte(e, tag);
  put_bytes(e, s, n);
}

/* Writes the object on top by name when it has one that is good for this. */
static bool put_named(struct enc *e, const void *p, bool as_metatable) {
  const char *s;
  size_t n;
  if (!lmp_perhaps_named(e->m, p)) return false;
  enum lmp_name name = lmp_name_of(e->L, -1, &s, &n);
  if (name == LMP_NAME_NONE) return false;
  bool good = name == LMP_NAME_REG || as_metatable || (name == LMP_NAME_VALUE && code_crosses(e));
  if (good) put_name(e, name == LMP_NAME_REG ? TAG_REG : TAG_NAMED, s, n);
  lua_pop(e->L, 1);
  return good;
}

static inline void put_table_head(struct enc *e, struct enc_frame *f, int form) {
  unsigned char *p = room(e, 12);
  size_t n = 1;
  f->at = here(e);
  p[0] = (unsigned char)(form | (f->has_meta ? BIT_META : 0));
  if (form != TAG_REC) n += varint(p + n, f->n);
  if (form != TAG_LIST) {
    f->count_at = e->p->len + n;
    p[n++] = 0;
  } else
    f->count_at = 0;
  e->p->len += n;
}

/* Pushes the key that comes before the first record. */
static inline void push_start(lua_State *L, const struct enc_frame *f) {
  if (f->n == 0 || f->skip) lua_pushnil(L);
  else lua_pushinteger(L, (lua_Integer)f->n);
}

static void open_fresh_table(struct enc *e, const void *p) {
  lua_State *L = e->L;
  struct enc_frame *f = enter(e, ELEMENTS);
  int t = slot(e);
  f->n = lua_rawlen(L, t);
  f->skip = f->n > 0 && !(e->m->peek && lmp_table_reaches(p, f->n));
  if (lua_getmetatable(L, t)) {
    f->has_meta = 1;
    lua_pop(L, 1);
  }
  push_start(L, f);
  if (!lua_next(L, t)) {
    put_table_head(e, f, TAG_LIST);
    lua_pushnil(L);
  } else if (f->n == 0) { /* the walk has begun */
    put_table_head(e, f, TAG_REC);
    f->phase = RECORDS;
    f->first = 1;
  } else {
    put_table_head(e, f, TAG_MIXED);
    lua_pop(L, 1);
  }
}

static void open_table(struct enc *e) {
  const void *p = lua_topointer(e->L, -1);
  if (!e->m->searched) {
    e->retry = SEARCH_NAMES;
    return;
  }
  if (p == e->globals) {
    if (!code_crosses(e)) refuse(e, "the globals table", ": functions do not leave the family");
    put_byte(e, TAG_GLOBALS);
  } else if (!again(e, p) && !put_named(e, p, false)) {
    open_fresh_table(e, p);
    return;
  }
  lua_pop(e->L, 1);
}

static void refuse_class(struct enc *e) {
  refuse_at(e, e->depth - 1, "a table with a metatable",
            ": its class is neither registered nor in a module");
}

/* The metatable on top was written; to the network only under a name. */
static bool metatable_again(struct enc *e, const void *p) {
  const struct seen *s = seen_before(e, p, here(e), 0);
  if (!s) return false;
  int tag = e->p->data[e->start + s->at] & ~BIT_SHARED;
  if (is_network(e) && tag != TAG_NAMED && tag != TAG_REG) refuse_class(e);
  put_ref(e, TAG_REF, s->at);
  return true;
}

/* The metatable on top: by name, or like any table. */
static void open_metatable(struct enc *e) {
  const void *p = lua_topointer(e->L, -1);
  if (p == e->globals && !is_network(e)) put_byte(e, TAG_GLOBALS);
  else if (!metatable_again(e, p) && !put_named(e, p, true)) {
    if (!e->searched && (is_network(e) || lmp_names_loaded(e->L) != e->m->loaded)) {
      e->retry = SEARCH_NAMES;
      return;
    }
    if (is_network(e)) refuse_class(e);
    open_fresh_table(e, p);
    return;
  }
  lua_pop(e->L, 1);
}

/* Reads integers from the first one, which is on top, on.  How many, their values
 * and least and largest. */
static inline int read_integers(lua_State *L, int t, uint64_t i, uint64_t n, lua_Integer *v,
                                lua_Integer *lo, lua_Integer *hi) {
  enum { BATCH = 32 }; /* popped together; enter() has made room for them */
  int k = 0, top = lua_gettop(L) - 1, pushed = 1;
  lua_Integer x = lua_tointeger(L, -1), min = x, max = x;
  for (;;) {
    v[k++] = x;
    min = x < min ? x : min;
    max = x > max ? x : max;
    if (k == RUN_MAX || i + (uint64_t)k > n) break;
    if (pushed == BATCH) lua_settop(L, top), pushed = 0;
    pushed++;
    if (lua_rawgeti(L, t, (lua_Integer)(i + (uint64_t)k)) != LUA_TNUMBER || !lua_isinteger(L, -1))
      break;
    x = lua_tointeger(L, -1);
  }
  lua_settop(L, top);
  *lo = min;
  *hi = max;
  return k;
}

static size_t pack_run(unsigned char *p, const lua_Integer *v, int k, lua_Integer lo,
                       lua_Integer hi) {
  uint64_t range = (uint64_t)hi - (uint64_t)lo;
  size_t n = 2;
  p[1] = (unsigned char)(k - 1);
  if (lo >= 0 && hi <= UINT8_MAX) {
    p[0] = TAG_RUNS;
    for (int j = 0; j < k; j++) p[n + (size_t)j] = (unsigned char)v[j];
    return n + (size_t)k;
  }
  if (range > UINT32_MAX) {
    p[0] = TAG_RUN8;
    for (int j = 0; j < k; j++) put64(p + n + 8 * (size_t)j, (uint64_t)v[j]);
    return n + 8 * (size_t)k;
  }
  n += varint(p + n, lo < 0 ? ~((uint64_t)lo << 1) : (uint64_t)lo << 1);
  if (range <= UINT8_MAX) {
    p[0] = TAG_RUN1;
    for (int j = 0; j < k; j++) p[n + (size_t)j] = (unsigned char)(v[j] - lo);
    return n + (size_t)k;
  }
  if (range <= UINT16_MAX) {
    p[0] = TAG_RUN2;
    for (int j = 0; j < k; j++)
      put16(p + n + 2 * (size_t)j, (uint16_t)((uint64_t)v[j] - (uint64_t)lo));
    return n + 2 * (size_t)k;
  }
  p[0] = TAG_RUN4;
  for (int j = 0; j < k; j++)
    put32(p + n + 4 * (size_t)j, (uint32_t)((uint64_t)v[j] - (uint64_t)lo));
  return n + 4 * (size_t)k;
}

/* Writes the integers from element i on, the first of which is on top; how many. */
static int put_integers(struct enc *e, int t, uint64_t i, uint64_t n) {
  lua_Integer v[RUN_MAX], lo, hi;
  int k = read_integers(e->L, t, i, n, v, &lo, &hi);
  if (k < 4)
    for (int j = 0; j < k; j++) put_integer(e, v[j]);
  else
    e->p->len += pack_run(room(e, 12 + 8 * RUN_MAX), v, k, lo, hi);
  return k;
}

/* The same for floats. */
static int put_floats(struct enc *e, int t, uint64_t i, uint64_t n) {
  lua_State *L = e->L;
  unsigned char *p = room(e, 2 + 8 * RUN_MAX);
  int k = 0;
  do {
    put_float(p + 2 + 8 * (size_t)k++, lua_tonumber(L, -1));
    lua_pop(L, 1);
    if (k == RUN_MAX || i + (uint64_t)k > n) break;
    lua_rawgeti(L, t, (lua_Integer)(i + (uint64_t)k));
    if (lua_type(L, -1) != LUA_TNUMBER || lua_isinteger(L, -1)) {
      lua_pop(L, 1);
      break;
    }
  } while (1);
  if (k == 1) {
    p[0] = TAG_F8;
    memmove(p + 1, p + 2, 8);
    e->p->len += 9;
  } else {
    p[0] = TAG_RUNF;
    p[1] = (unsigned char)(k - 1);
    e->p->len += 2 + 8 * (size_t)k;
  }
  return k;
}

/* The elements and records are written. */
static inline void after_records(struct enc *e, struct enc_frame *f) {
  if (f->count_at) {
    unsigned char c = (unsigned char)f->count;
    if (f->count > REC_EXACT) {
      unsigned log = 0;
      while (((uint64_t)1 << log) < f->count) log++;
      c = (unsigned char)(REC_EXACT + 1 + log);
      put_byte(e, TAG_END);
    }
    e->p->data[f->count_at] = c;
  }
  if (f->has_meta) f->phase = METATABLE;
  else leave(e);
}

/* Writes elements until one is an object, which is left on top (true), or there are
 * no more. */
static bool elements(struct enc *e) {
  lua_State *L = e->L;
  struct enc_frame *f = &e->m->frames[e->depth - 1];
  int t = slot(e);
  uint64_t i = f->i, n = f->n;
  while (i < n) {
    int type = lua_rawgeti(L, t, (lua_Integer)++i);
    if (type == LUA_TNUMBER) {
      i += (uint64_t)(lua_isinteger(L, -1) ? put_integers(e, t, i, n) : put_floats(e, t, i, n)) - 1;
    } else if (put_scalar(e, -1, type))
      lua_pop(L, 1);
    else {
      f->i = i;
      return true;
    }
  }
  if (f->count_at) {
    lua_pop(L, 1);
    push_start(L, f);
    f->phase = RECORDS;
  } else
    after_records(e, f);
  return false;
}

/* An element that was written already, met by a walk through all keys. */
static inline bool is_element(lua_State *L, int idx, uint64_t n) {
  return lua_isinteger(L, idx) && (uint64_t)lua_tointeger(L, idx) - 1 < n;
}

/* Writes records until a key or value is an object, which is left on top (true). */
static bool records(struct enc *e) {
  lua_State *L = e->L;
  struct enc_frame *f = &e->m->frames[e->depth - 1];
  int t = slot(e);
  while (f->first || lua_next(L, t)) {
    f->first = 0;
    if (f->skip && is_element(L, -2, f->n)) {
      lua_pop(L, 1);
      continue;
    }
    f->count++;
    int type = lua_type(L, -2);
    if (type == LUA_TSTRING) put_string(e, -2);
    else if (!put_scalar(e, -2, type)) {
      f->phase = KEY;
      lua_pop(L, 1);
      lua_pushvalue(L, -1);
      return true;
    }
    type = lua_type(L, -1);
    if (!put_scalar(e, -1, type)) return true;
    lua_pop(L, 1);
  }
  after_records(e, f);
  return false;
}

/* A key that is an object was written; its value. */
static bool after_key(struct enc *e) {
  lua_State *L = e->L;
  e->m->frames[e->depth - 1].phase = RECORDS;
  lua_pushvalue(L, -1);
  int type = lua_rawget(L, slot(e));
  if (!put_scalar(e, -1, type)) return true;
  lua_pop(L, 1);
  return false;
}

/* ---- functions ----------------------------------------------------------------- */

static int dump_piece(lua_State *L, const void *data, size_t n, void *arg) {
  struct lmp_pack *p = ((struct enc *)arg)->p;
  memcpy(lmp_room(L, p, n), data, n);
  p->len += n;
  return 0;
}

/* The family's nonce is known; else the state has to join it first. */
static bool has_nonce(struct enc *e) {
  if (e->nonce) return true;
  if (!lmp_member_if(e->L)) {
    e->retry = JOIN_FAMILY;
    return false;
  }
  e->nonce = mp_nonce();
  return true;
}

static void put_nonce(struct enc *e) {
  memcpy(room(e, NONCE), e->nonce, NONCE);
  e->p->len += NONCE;
}

/* The Lua function on top. */
static void open_lua_function(struct enc *e) {
  lua_State *L = e->L;
  lua_Debug ar;
  if (!has_nonce(e)) return;
  size_t at = here(e);
  put_byte(e, TAG_FUNC); /* where again() said */
  put_nonce(e);
  room(e, 4);
  e->p->len += 4;
  size_t from = e->p->len;
  lua_dump(L, dump_piece, e, 0);
  size_t size = e->p->len - from;
  if (size > UINT32_MAX) refuse(e, "a function of more than 4 GiB", "");
  put32(e->p->data + from - 4, (uint32_t)size);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  put_byte(e, ar.nups);
  struct enc_frame *f = enter(e, UPVALUES);
  f->at = at;
  f->n = ar.nups;
  lua_pushnil(L);
}

static void open_function(struct enc *e) {
  lua_State *L = e->L;
  const void *p = lua_topointer(L, -1);
  if (!code_crosses(e)) refuse(e, "a function", ": functions do not leave the family");
  if (again(e, p) || put_named(e, p, false)) {
    lua_pop(L, 1);
    return;
  }
  bool c = lua_iscfunction(L, -1);
  if (!e->searched && (c || !e->m->searched || lmp_names_loaded(L) != e->m->loaded)) {
    e->retry = SEARCH_NAMES;
    return;
  }
  if (c) refuse(e, "a C function", ": no module has it");
  open_lua_function(e);
}

/* The value on top is an environment that asks a function for what it has not: the
 * globals as a test runner or a host shows them.  Its copy would drag all of that
 * along; the receiver has globals of its own. */
static bool stands_for_globals(lua_State *L, const char *name) {
  if (strcmp(name, "_ENV") != 0 || !lua_istable(L, -1) || !lua_getmetatable(L, -1)) return false;
  int top = lua_gettop(L) - 1;
  bool asks = !lua_getmetatable(L, -1) && lua_getfield(L, -1, "__index") == LUA_TFUNCTION;
  lua_settop(L, top);
  return asks;
}

/* Writes upvalues until one is an object. */
static bool upvalues(struct enc *e) {
  lua_State *L = e->L;
  struct enc_frame *f = &e->m->frames[e->depth - 1];
  int fn = slot(e);
  while (f->i < f->n) {
    int k = (int)++f->i;
    const struct seen *s = seen_before(e, lua_upvalueid(L, fn, k), f->at, (uint32_t)k);
    if (s) {
      put_ref(e, TAG_UPREF, s->at);
      put_byte(e, (int)s->sub);
      continue;
    }
    const char *name = lua_getupvalue(L, fn, k);
    if (name && stands_for_globals(L, name)) put_byte(e, TAG_GLOBALS);
    else if (!put_scalar(e, -1, lua_type(L, -1))) return true;
    lua_pop(L, 1);
  }
  leave(e);
  return false;
}

/* ---- userdata ------------------------------------------------------------------ */

/* Which of the message's objects it is.  Its block is noted like what lies in Lua's
 * memory; the place noted is the index. */
static uint32_t ref_index(struct enc *e, mp_ref obj) {
  struct lmp_pack *p = e->p;
  const struct seen *s = seen_before(e, mp_at(obj), p->nrefs, 0);
  if (s) return (uint32_t)s->at;
  if (p->nrefs == p->caprefs) {
    uint32_t cap = p->caprefs ? 2 * p->caprefs : 16;
    mp_ref *refs = realloc(p->refs, cap * sizeof *refs);
    if (!refs) luaL_error(e->L, "not enough memory");
    p->refs = refs;
    p->caprefs = cap;
  }
  p->refs[p->nrefs] = obj;
  return p->nrefs++;
}

static uint32_t fd_index(struct enc *e, int fd) {
  struct lmp_pack *p = e->p;
  if (p->nfds == p->capfds) {
    uint32_t cap = p->capfds ? 2 * p->capfds : 8;
    int *fds = realloc(p->fds, cap * sizeof *fds);
    if (!fds) luaL_error(e->L, "not enough memory");
    p->fds = fds;
    p->capfds = cap;
  }
  p->fds[p->nfds] = fd;
  return p->nfds++;
}

static void refuse_mp(struct enc *e, int kind, const char *how, const char *note) {
  char what[64];
  snprintf(what, sizeof what, "a %s%s", how, lmp_kind_name(kind));
  refuse(e, what, note);
}

/* The handle on top as a place that the reader must find alive. */
static void put_serial(struct enc *e, const struct lmp_handle *h, int tag) {
  const struct mp_object *o = mp_at(h->obj);
  put_byte(e, tag);
  put_nonce(e);
  unsigned char *p = room(e, 17);
  p[0] = (unsigned char)mp_block_kind(&o->block);
  put32(p + 1, h->obj);
  put64(p + 5, o->serial);
  put32(p + 13, h->part);
  e->p->len += 17;
}

static void open_handle(struct enc *e, int kind) {
  lua_State *L = e->L;
  const struct lmp_handle *h = lua_touserdata(L, -1);
  unsigned where = e->mode & LMP_MODE;
  if (!h->obj) refuse_mp(e, kind, "closed ", "");
  if (where == LMP_NETWORK) refuse_mp(e, kind, "", ": shared objects do not leave the family");
  if (where == LMP_STRING && !has_nonce(e)) return;
  if (again(e, h)) {
    lua_pop(L, 1);
    return;
  }
  bool more = lua_getiuservalue(L, -1, 1) > LUA_TNIL;
  size_t at = here(e);
  lua_pop(L, 1);
  if (where == LMP_FAMILY) {
    put_byte(e, more ? TAG_HANDLE_U : TAG_HANDLE);
    put_varint(e, ref_index(e, h->obj));
    put_varint(e, h->part);
  } else
    put_serial(e, h, more ? TAG_SERIAL_U : TAG_SERIAL);
  if (more) {
    enter(e, USERVALUE)->at = at;
    lua_pushnil(L);
  } else
    lua_pop(L, 1);
}

static void open_connection(struct enc *e) {
  lua_State *L = e->L;
  unsigned flags;
  mp_ref pipe;
  if (!(e->mode & LMP_CONNECTIONS))
    refuse_mp(e, LMP_CONNECTION, "",
              ": connections cross in process arguments, pipes and AF_UNIX connections only");
  if (!again(e, lua_topointer(L, -1))) {
    int fd = lmp_conn_fd(L, -1, &flags, &pipe);
    if (fd < 0) refuse_mp(e, LMP_CONNECTION, "closed ", "");
    put_byte(e, TAG_CONN);
    put_varint(e, fd_index(e, fd));
    put_varint(e, flags);
    put_varint(e, pipe && !is_network(e) ? (uint64_t)ref_index(e, pipe) + 1 : 0);
  }
  lua_pop(L, 1);
}

static void open_userdata(struct enc *e) {
  int kind = lmp_kind(e->L, -1);
  if (kind == LMP_CONNECTION) open_connection(e);
  else if (kind < 0) refuse_userdata(e);
  else if (kind >= MP_KIND_OBJECTS) refuse_mp(e, kind, "", "");
  else open_handle(e, kind);
}

/* ---- the loop ------------------------------------------------------------------ */

/* Writes the object on top, or makes a frame of it. */
static inline void open_value(struct enc *e) {
  int type = lua_type(e->L, -1);
  if (type == LUA_TTABLE) {
    if (e->depth && e->m->frames[e->depth - 1].phase == METATABLE) open_metatable(e);
    else open_table(e);
    return;
  }
  switch (type) {
  case LUA_TFUNCTION: open_function(e); break;
  case LUA_TUSERDATA: open_userdata(e); break;
  case LUA_TTHREAD: refuse(e, "a thread", ""); break;
  default: refuse(e, "a light userdata", "");
  }
}

/* What belongs to the innermost container besides its contents: once. */
static bool companion(struct enc *e, struct enc_frame *f) {
  lua_State *L = e->L;
  int t = slot(e);
  if (f->begun) {
    leave(e);
    return false;
  }
  f->begun = 1;
  lua_settop(L, t + 1);
  if (f->phase == METATABLE) lua_getmetatable(L, t);
  else if (put_scalar(e, -1, lua_getiuservalue(L, t, 1))) return false;
  return true;
}

/* Goes on with the innermost container; true when an object is on top. */
static inline bool step(struct enc *e) {
  struct enc_frame *f = &e->m->frames[e->depth - 1];
  unsigned phase = f->phase; /* not a switch: the first two are nearly all there is */
  if (phase == RECORDS) return records(e);
  if (phase == ELEMENTS) return elements(e);
  if (phase == KEY) return after_key(e);
  if (phase == UPVALUES) return upvalues(e);
  return companion(e, f);
}

/* A value by itself: a string has no number. */
static inline bool encode_scalar(struct enc *e, int idx, int type) {
  if (type != LUA_TSTRING) return put_scalar(e, idx, type);
  size_t n;
  const char *s = lua_tolstring(e->L, idx, &n);
  put_bytes(e, s, n);
  return true;
}

/* The object on top and all that is in it. */
static enum retry encode_object(struct enc *e) {
  lua_State *L = e->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  e->globals = lua_topointer(L, -1);
  lua_pop(L, 1);
  e->m->nseen = 0;
  if (++e->m->gen == 0) { /* marks of four billion messages ago must not come to life */
    memset(e->m->strings, 0, sizeof e->m->strings);
    if (e->m->seen) memset(e->m->seen, 0, e->m->capseen * sizeof *e->m->seen);
    e->m->gen = 1;
  }
  for (;;) {
    open_value(e);
    if (e->retry) return e->retry;
    do
      if (e->depth == 0) return DONE;
    while (!step(e));
  }
}

/* Does what an attempt asked for.  It may run finalizers, which may encode: what the
 * pack has got is put aside meanwhile. */
static void prepare(struct enc *e, enum retry what) {
  struct marshal *m = e->m;
  struct aside *a = malloc(sizeof *a);
  if (!a) luaL_error(e->L, "not enough memory");
  a->pack = m->pack;
  a->next = m->aside;
  memset(&m->pack, 0, sizeof m->pack);
  m->aside = a;
  if (what == SEARCH_NAMES) lmp_names_search(e->L, m);
  else lmp_member(e->L);
  lmp_pack_free(&m->pack);
  m->pack = a->pack;
  m->aside = a->next;
  free(a);
}

/* The object at `idx`, in as many attempts as it takes. */
static void encode_here(struct enc *e, int idx) {
  lua_State *L = e->L;
  struct lmp_pack *p = e->p;
  size_t len = p->len;
  uint32_t nrefs = p->nrefs, nfds = p->nfds;
  int top = lua_gettop(L);
  lua_pushvalue(L, idx);
  for (;;) {
    enum retry what = encode_object(e);
    if (what == DONE) return;
    lua_settop(L, top + 1);
    p->len = len;
    p->nrefs = nrefs;
    p->nfds = nfds;
    prepare(e, what);
    e->searched |= what == SEARCH_NAMES;
    e->depth = e->spilled = 0;
    e->nstr = 0;
    e->retry = DONE;
  }
}

void lmp_encode(lua_State *L, int idx, struct lmp_pack *p, unsigned mode) {
  struct enc e;
  e.L = L;
  e.p = p;
  e.start = p->len;
  e.nstr = 0;
  if (!lua_checkstack(L, 32)) luaL_error(L, "stack overflow");
  if ((mode & LMP_MODE) != LMP_FAMILY) put_byte(&e, TAG_MAGIC);
  e.m = (struct marshal *)p;
  e.depth = e.spilled = 0; /* what an error needs */
  e.mode = mode;
  if (encode_scalar(&e, idx, lua_type(L, idx))) return;
  e.base = lua_gettop(L) + 1;
  e.nonce = NULL;
  e.retry = DONE;
  e.searched = false;
  encode_here(&e, idx);
}
