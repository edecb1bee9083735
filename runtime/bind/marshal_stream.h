/* Values one behind the other, as a pool's batches and reports carry them: to be read one
 * by one, late, and from the next one on when one cannot be read.  Small scalars, which
 * are most of what pools carry, are written and read here, without a call.
 */
#ifndef LMP_MARSHAL_STREAM_H
#define LMP_MARSHAL_STREAM_H
#include "marshal_private.h"

#define LMP_SMALL (STR_INLINE + 1) /* bytes that a small scalar takes at most */

/* at, end: what is left.  u: the objects that the values refer to, all of the stream. */
struct lmp_stream {
  const unsigned char *at, *end;
  struct lmp_unpack u;
};

/* Writes the value at `idx` to `to` when it is a small scalar: its length, else 0. */
static inline size_t lmp_small_to(lua_State *L, int idx, unsigned char *to) {
  size_t n;
  const char *s;
  switch (lua_type(L, idx)) {
  case LUA_TNUMBER:
    if (lua_isinteger(L, idx)) return lmp_integer_to(to, lua_tointeger(L, idx));
    to[0] = TAG_F8;
    put_float(to + 1, lua_tonumber(L, idx));
    return 9;
  case LUA_TSTRING:
    s = lua_tolstring(L, idx, &n);
    if (n > STR_INLINE) return 0;
    to[0] = (unsigned char)(TAG_STR + n);
    memcpy(to + 1, s, n);
    return n + 1;
  case LUA_TBOOLEAN: to[0] = lua_toboolean(L, idx) ? TAG_TRUE : TAG_FALSE; return 1;
  case LUA_TNIL: to[0] = TAG_NIL; return 1;
  default: return 0;
  }
}

/* Any other value; see lmp_stream_put. */
void lmp_stream_put_large(lua_State *L, int idx, struct lmp_pack *p);

/* Appends the value at `idx` (not negative) to `p`.  Raises as lmp_encode does. */
static inline void lmp_stream_put(lua_State *L, int idx, struct lmp_pack *p) {
  unsigned char *to = p->data + p->len;
  if (p->cap - p->len < LMP_SMALL) to = lmp_room(L, p, LMP_SMALL);
  size_t n = lmp_small_to(L, idx, to);
  if (n) p->len += n;
  else lmp_stream_put_large(L, idx, p);
}

/* Pushes a small scalar that begins at p, `left` bytes before the end; how many it has.  0: it is
 * something else, and nothing is pushed. */
static inline size_t lmp_small_push(lua_State *L, const unsigned char *p, size_t left) {
  unsigned tag = left ? *p : TAG_END;
  if (tag < TAG_STR) {
    lua_pushinteger(L, (lua_Integer)tag);
    return 1;
  }
  if (tag < TAG_NIL && left > tag - TAG_STR) {
    size_t n = tag - TAG_STR;
    lua_pushlstring(L, (const char *)p + 1, n);
    return 1 + n;
  }
  if (tag == TAG_F8 && left > 8) {
    lua_pushnumber(L, get_float(p + 1));
    return 9;
  }
  if (tag == TAG_U2 && left > 2) {
    lua_pushinteger(L, get16(p + 1));
    return 3;
  }
  if (tag == TAG_U4 && left > 4) {
    lua_pushinteger(L, get32(p + 1));
    return 5;
  }
  if (tag == TAG_NIL) {
    lua_pushnil(L);
    return 1;
  }
  if (tag == TAG_FALSE || tag == TAG_TRUE) {
    lua_pushboolean(L, tag == TAG_TRUE);
    return 1;
  }
  return 0;
}

/* Any other value; see lmp_stream_push. */
void lmp_stream_push_large(lua_State *L, struct lmp_stream *s);

/* Pushes the next value and moves on, also when it raises because the value cannot be
 * read (a module that is not there).  What comes next must be no FAILED. */
static inline void lmp_stream_push(lua_State *L, struct lmp_stream *s) {
  size_t n = lmp_small_push(L, s->at, (size_t)(s->end - s->at));
  if (n) s->at += n;
  else lmp_stream_push_large(L, s);
}

static inline bool lmp_stream_failed(const struct lmp_stream *s) {
  return s->at < s->end && *s->at == TAG_FAILED;
}

/* Passes over the next value, or FAILED and its two. */
void lmp_stream_skip(struct lmp_stream *s);

#endif
