/* Streams of values: what is not small. */
#include "marshal_stream.h"

enum { SIZED_HEAD = 5 };

void lmp_stream_put_large(lua_State *L, int idx, struct lmp_pack *p) {
  int type = lua_type(L, idx);
  if (type == LUA_TSTRING || type == LUA_TLIGHTUSERDATA) {
    lmp_encode(L, idx, p, LMP_FAMILY);
    return;
  }
  (void)lmp_room(L, p, SIZED_HEAD);
  size_t at = p->len;
  p->len += SIZED_HEAD;
  lmp_encode(L, idx, p, LMP_FAMILY);
  size_t n = p->len - at - SIZED_HEAD;
  if (n > UINT32_MAX) luaL_error(L, "cannot marshal a value of more than 4 GiB");
  p->data[at] = TAG_SIZED;
  put32(p->data + at + 1, (uint32_t)n);
}

/* Bytes of the value at `p`, which ends before `end`, its head included; 0: malformed. */
static size_t size_at(const unsigned char *p, const unsigned char *end) {
  size_t left = (size_t)(end - p), head = 1;
  uint64_t n = 0;
  if (left == 0) return 0;
  if (*p < TAG_STR) return 1;
  if (*p < TAG_NIL) n = *p - TAG_STR;
  else switch (*p) {
  case TAG_NIL: case TAG_FALSE: case TAG_TRUE: case TAG_NULL: break;
  case TAG_U1: case TAG_N1: n = 1; break;
  case TAG_U2: case TAG_N2: n = 2; break;
  case TAG_U4: case TAG_N4: n = 4; break;
  case TAG_I8: case TAG_F8: n = 8; break;
  case TAG_STR1: head = 2; break;
  case TAG_STR4: case TAG_SIZED: head = 5; break;
  case TAG_STR8: head = 9; break;
  default: return 0;
  }
  if (head > left) return 0;
  if (head > 1) n = head == 2 ? p[1] : head == 5 ? get32(p + 1) : get64(p + 1);
  return n > left - head ? 0 : head + (size_t)n;
}

void lmp_stream_push_large(lua_State *L, struct lmp_stream *s) {
  const unsigned char *p = s->at;
  size_t n = size_at(p, s->end), skip = n && *p == TAG_SIZED ? SIZED_HEAD : 0;
  s->at = n ? p + n : s->end;
  if (n == 0) luaL_error(L, "marshal: malformed data (a stream of values)");
  s->u.data = p + skip;
  s->u.len = n - skip;
  s->u.mode = LMP_FAMILY;
  lmp_decode(L, &s->u);
}

void lmp_stream_skip(struct lmp_stream *s) {
  int values = 1;
  if (lmp_stream_failed(s)) {
    s->at++;
    values = 2;
  }
  for (; values > 0; values--) {
    size_t n = size_at(s->at, s->end);
    s->at = n ? s->at + n : s->end;
  }
}
