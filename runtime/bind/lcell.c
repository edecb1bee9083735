/* Value, Array and Struct: what they have in common. */
#include "lcell.h"
#include <stdio.h>

/* ---- handles ---- */

void lcell_opened(lua_State *L, struct lmp_handle *h) {
  (void)L;
  struct lcell *s = (struct lcell *)(void *)h;
  struct mp_cell *c = mp_at(h->obj);
  int elem = mp_elem_of((char)c->code);
  s->root = s;
  s->c = c;
  s->data = mp_cell_data(c);
  s->n = c->n;
  s->raw = c->flags & MP_CELL_RAW;
  s->elem = (uint8_t)(elem < 0 ? MP_U8 : elem);
  s->width = (uint8_t)mp_elem_width(s->elem);
  if (h->part >= LCELL_RECORD && h->part - LCELL_RECORD < c->n && c->flags & MP_CELL_MANY)
    s->data += (size_t)(h->part - LCELL_RECORD) * c->stride;
  else h->part = 0; /* a number from outside may be anything */
}

struct lcell *lcell_make(lua_State *L, int kind, const struct mp_cell_plan *p) {
  struct mp_cell_plan plan = *p;
  size_t size = mp_cell_size(&plan);
  if (size == 0) lmp_full(L);
  struct lcell *s = lmp_make(L, kind, size, sizeof *s, mp_cell_init, &plan);
  lcell_opened(L, &s->h);
  return s;
}

void *lcell_scratch(lua_State *L, size_t size) { return lua_newuserdatauv(L, size, 0); }

uint8_t lcell_options(lua_State *L, int arg) {
  bool lock = true;
  if (lua_isnoneornil(L, arg)) return 0;
  luaL_checktype(L, arg, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
    bool known = lua_type(L, -2) == LUA_TSTRING && strcmp(lua_tostring(L, -2), "lock") == 0;
    if (!known)
      luaL_argerror(L, arg, lua_pushfstring(L, "unknown option '%s' (known options: lock)",
                                            luaL_tolstring(L, -2, NULL)));
    if (!lua_isboolean(L, -1))
      luaL_argerror(L, arg, lua_pushfstring(L, "boolean expected for option 'lock', got %s",
                                            luaL_typename(L, -1)));
    lock = lua_toboolean(L, -1);
  }
  return lock ? 0 : MP_CELL_RAW;
}

char lcell_code(lua_State *L, int arg) {
  size_t len;
  luaL_checktype(L, arg, LUA_TSTRING);
  const char *s = lua_tolstring(L, arg, &len);
  if (len != 1 || mp_elem_of(*s) < 0)
    luaL_argerror(L, arg, lua_pushfstring(L, "unknown typecode '%s' (known: "
                                          MP_TYPECODES ")", s));
  return *s;
}

int lcell_get_lock(lua_State *L, struct lcell *s) {
  if (s->raw)
    return luaL_error(L, "%s has no lock: it was made with lock = false",
                      lmp_kind_name((int)(s->h.tag - lmp_tags)));
  lmp_push_sibling(L, s->h.obj, 1);
  return 1;
}

static void pin(struct lcell *s) {
  uint32_t word = s->h.me->word;
  s->pins = s->pinner == word ? s->pins + 1 : 1;
  s->pinner = word;
}

static void unpin(struct lcell *s) {
  if (s->pinner == s->h.me->word && s->pins > 0) s->pins--;
}

int lcell_close(lua_State *L, int kind) {
  struct lcell *s = lmp_test(L, 1, kind);
  if (!s) s = lmp_check(L, 1, kind);
  if (s->h.obj == 0) return 0;
  if (s->root != s) {
    s->h.obj = 0; /* has no reference of its own */
    return 0;
  }
  if (s->pins > 0 && s->pinner == s->h.me->word)
    return luaL_error(L, "%s is in use by an update: it cannot be closed",
                      lmp_kind_name(kind));
  lmp_release(L, &s->h);
  return 0;
}

bool lcell_show(lua_State *L, int kind, struct lcell **out) {
  struct lcell *s = lmp_test(L, 1, kind);
  *out = s;
  if (s && (s->h.obj == 0 || s->root->h.obj == 0)) {
    lua_pushfstring(L, "%s (closed)", lmp_kind_name(kind));
    return true;
  }
  if (!s) return lmp_check(L, 1, kind) != NULL;
  char id[24];
  snprintf(id, sizeof id, "0x%zx", (size_t)s->h.obj * 16);
  lua_pushfstring(L, "%s: %s ", lmp_kind_name(kind), id);
  return false;
}

/* ---- the lock ---- */

void lcell_wait(lua_State *L, struct lcell *s, int err) {
  struct mp_member *me = s->h.me;
  const char *name = lmp_kind_name((int)(s->h.tag - lmp_tags));
  while (err != 0 && err != EOWNERDEAD) {
    if (err == EOVERFLOW) luaL_error(L, "the lock of %s is held too many times", name);
    if (err != EINTR) lmp_fail(L, err, "take the lock of a shared value");
    lmp_pause(L, me);
    if (s->h.obj == 0 || s->root->h.obj == 0)
      luaL_error(L, "%s was closed while waiting for its lock", name);
    mp_label(me, s->h.obj, MP_WAIT_LOCK);
    err = mp_rlock_take(&s->c->rlock, me->word, MP_FOREVER);
    mp_unlabel(me);
  }
}

/* ---- elements ---- */

static const char *why_not_char(lua_State *L, int idx) {
  if (lua_type(L, idx) != LUA_TSTRING)
    return lua_pushfstring(L, "string of one byte expected, got %s", luaL_typename(L, idx));
  return lua_pushfstring(L, "string of one byte expected, got %I bytes",
                         (LUAI_UACINT)lua_rawlen(L, idx));
}

const char *lcell_why(lua_State *L, int idx, char code, int err) {
  idx = lua_absindex(L, idx);
  if (code == 'c') return why_not_char(L, idx);
  if (err == EINVAL)
    return lua_pushfstring(L, "number expected, got %s", luaL_typename(L, idx));
  const char *number = luaL_tolstring(L, idx, NULL);
  if (err == EDOM)
    return lua_pushfstring(L, "number %s is not an integer, as typecode '%c' wants", number,
                           code);
  return lua_pushfstring(L, "number %s does not fit typecode '%c' (%s)", number, code,
                         mp_elem_range((enum mp_elem)mp_elem_of(code)));
}

void lcell_check(lua_State *L, int arg, enum mp_elem e, char code, uint64_t *bits) {
  int err = lcell_bits(L, arg, e, bits);
  if (err != 0) luaL_argerror(L, arg, lcell_why(L, arg, code, err));
}

static int add_failed(lua_State *L, const struct lspot *p, int arg, int err, uint64_t bits) {
  if (err == EDOM) return luaL_argerror(L, arg, lcell_why(L, arg, p->code, EDOM));
  lcell_push(L, p->elem, bits);
  const char *old = luaL_tolstring(L, -1, NULL), *n = luaL_tolstring(L, arg, NULL);
  lua_pushfstring(L, "%s + %s does not fit typecode '%c' (%s)", old, n, p->code,
                  mp_elem_range(p->elem));
  return luaL_argerror(L, arg, lua_tostring(L, -1));
}

int lcell_add(lua_State *L, const struct lspot *p, int arg) {
  struct mp_num n;
  uint64_t bits;
  if (p->elem == MP_CHAR) return luaL_error(L, "nothing can be added to typecode 'c'");
  n.is_float = !lua_isinteger(L, arg);
  if (!n.is_float) n.i = lua_tointeger(L, arg);
  else if (lua_type(L, arg) == LUA_TNUMBER) n.d = lua_tonumber(L, arg);
  else luaL_typeerror(L, arg, "number");
  int err;
  if (p->s->raw) {
    err = mp_elem_add(p->at, p->elem, n, &bits);
  } else {
    lcell_lock(L, p->s);
    err = mp_elem_add_locked(p->at, p->elem, n, &bits);
    lcell_unlock(p->s);
  }
  if (err != 0) return add_failed(L, p, arg, err, bits);
  lcell_push(L, p->elem, bits);
  return 1;
}

int lcell_exchange(lua_State *L, const struct lspot *p, int arg) {
  uint64_t old, fresh;
  bool done;
  lcell_check(L, arg, p->elem, p->code, &old);
  lcell_check(L, arg + 1, p->elem, p->code, &fresh);
  if (p->s->raw) {
    done = mp_elem_exchange(p->at, p->elem, old, fresh);
  } else {
    lcell_lock(L, p->s);
    done = mp_elem_exchange_locked(p->at, p->elem, old, fresh);
    lcell_unlock(p->s);
  }
  lua_pushboolean(L, done);
  return 1;
}

/* ---- update ---- */

static int update_result(lua_State *L, const struct lspot *p, int err) {
  return luaL_error(L, "bad result of the function that 'update' called (%s)",
                    lcell_why(L, -1, p->code, err));
}

/* Without a lock: until nobody has changed the element between its reading and the
 * exchange.  f may do anything, close the handle too. */
static int update_raw(lua_State *L, const struct lspot *p, int f) {
  int kind = (int)(p->s->h.tag - lmp_tags), err;
  unsigned width = mp_elem_width(p->elem);
  uint64_t old = mp_elem_load(p->at, width), fresh;
  for (;;) {
    lua_settop(L, f);
    lua_pushvalue(L, f);
    lcell_push(L, p->elem, old);
    lua_call(L, 1, 1);
    if (!lmp_here(&p->s->h) || !lmp_here(&p->s->root->h))
      return luaL_error(L, "%s was closed by the function that 'update' called",
                        lmp_kind_name(kind));
    if ((err = lcell_bits(L, -1, p->elem, &fresh)) != 0) return update_result(L, p, err);
    if (mp_elem_swap(p->at, width, &old, fresh)) break;
  }
  lcell_push(L, p->elem, fresh);
  return 1;
}

/* f(byte): called protected, since making the string may fail. */
static int call_with_byte(lua_State *L) {
  char byte = (char)lua_tointeger(L, 2);
  lua_settop(L, 1);
  lua_pushlstring(L, &byte, 1);
  lua_call(L, 1, 1);
  return 1;
}

/* f(element), protected: no error leaves this with the lock held. */
static int call_locked(lua_State *L, const struct lspot *p, int f) {
  uint64_t bits = mp_elem_load(p->at, mp_elem_width(p->elem));
  if (p->elem != MP_CHAR) {
    lua_pushvalue(L, f);
    lcell_push(L, p->elem, bits);
    return lua_pcall(L, 1, 1, 0);
  }
  lua_pushcfunction(L, call_with_byte);
  lua_pushvalue(L, f);
  lua_pushinteger(L, (lua_Integer)bits);
  return lua_pcall(L, 2, 1, 0);
}

static int update_locked(lua_State *L, const struct lspot *p, int f) {
  struct lcell *root = p->s->root;
  uint32_t me = root->h.me->word;
  uint64_t fresh = 0;
  int err = 0;
  luaL_checkstack(L, 6, NULL);
  lcell_lock(L, p->s);
  pin(root);
  int status = call_locked(L, p, f);
  unpin(root);
  bool held = mp_lock_mine(&root->c->rlock.lock, me);
  if (status == LUA_OK) err = lcell_bits(L, -1, p->elem, &fresh);
  if (held && status == LUA_OK && err == 0)
    mp_elem_store(p->at, mp_elem_width(p->elem), fresh);
  lcell_unlock(p->s);
  if (status != LUA_OK) return lua_error(L);
  if (!held) return luaL_error(L, "the function that 'update' called has released the lock");
  if (err != 0) return update_result(L, p, err);
  lcell_push(L, p->elem, fresh);
  return 1;
}

int lcell_update(lua_State *L, const struct lspot *p, int arg) {
  if (lua_type(L, arg) != LUA_TFUNCTION) {
    if (luaL_getmetafield(L, arg, "__call") == LUA_TNIL) luaL_typeerror(L, arg, "function");
    lua_pop(L, 1);
  }
  lua_settop(L, arg);
  return p->s->raw ? update_raw(L, p, arg) : update_locked(L, p, arg);
}

void lmp_open_cell(lua_State *L) {
  lcell_open_value(L);
  lcell_open_array(L);
  lcell_open_struct(L);
}
