/* What the bindings of Value, Array and Struct share. */
#ifndef LMP_CELL_H
#define LMP_CELL_H
#include "../ipc/cell.h"
#include "lmp.h"

/* A handle of any of these kinds.
 * root: the handle that has the reference: itself, or for a record of an array of
 *   records that was indexed here the array's handle, which is its user value 2.
 * c, data, n, elem, width, raw: what is looked up again and again.  data of a record
 *   in an array is the record's place.
 * pins: how many updates of process `pinner` need it open (of the root); a forked child
 *   inherits the number but not the need. */
struct lcell {
  struct lmp_handle h;
  struct lcell *root;
  struct mp_cell *c;
  char *data;
  uint64_t n;
  uint8_t elem;
  uint8_t width;
  bool raw;
  uint32_t pins;
  uint32_t pinner;
};

/* A record of an array of records is the part that many behind the array's lock. */
#define LCELL_RECORD 2

/* One element somewhere in a cell. */
struct lspot {
  struct lcell *s;
  void *at;
  enum mp_elem elem;
  char code;
};

/* Fills what a handle looks up; h.obj and h.part are set. */
void lcell_opened(lua_State *L, struct lmp_handle *h);
/* The handle at 1; raises when it is of another kind or closed. */
static inline struct lcell *lcell_self(lua_State *L, int kind) {
  struct lcell *s = lmp_test(L, 1, kind);
  return s && lmp_here(&s->h) ? s : lmp_check(L, 1, kind);
}
/* Makes the cell of a plan and pushes its handle; the data are zeros. */
struct lcell *lcell_make(lua_State *L, int kind, const struct mp_cell_plan *p);
/* The options at `arg`: {lock = boolean}; the flags of a cell. */
uint8_t lcell_options(lua_State *L, int arg);
/* The typecode at `arg`. */
char lcell_code(lua_State *L, int arg);
/* Private memory that Lua frees; pushes its owner. */
void *lcell_scratch(lua_State *L, size_t size);

/* Takes the lock, if the cell has one.  Raises (interrupted, closed meanwhile): then it
 * is not held.  Until lcell_unlock nothing may raise. */
void lcell_wait(lua_State *L, struct lcell *s, int err);
static inline void lcell_lock(lua_State *L, struct lcell *s) {
  if (s->raw) return;
  int e = mp_rlock_take(&s->c->rlock, s->h.me->word, MP_FOREVER);
  if (e != 0 && e != EOWNERDEAD) lcell_wait(L, s, e);
}
static inline void lcell_unlock(struct lcell *s) {
  if (!s->raw) (void)mp_rlock_release(&s->c->rlock, s->h.me->word);
}

/* The value at `idx` as bits; raises and allocates nothing.  0; EINVAL: of a wrong type;
 * ERANGE, EDOM: see mp_elem_from_int. */
static inline int lcell_bits(lua_State *L, int idx, enum mp_elem e, uint64_t *bits) {
  if (e == MP_CHAR) {
    size_t len;
    if (lua_type(L, idx) != LUA_TSTRING) return EINVAL;
    const char *s = lua_tolstring(L, idx, &len);
    if (len != 1) return EINVAL;
    *bits = (unsigned char)*s;
    return 0;
  }
  if (lua_type(L, idx) != LUA_TNUMBER) return EINVAL;
  if (e == MP_F64) {
    double d = lua_tonumber(L, idx);
    memcpy(bits, &d, sizeof d);
    return 0;
  }
  if (lua_isinteger(L, idx)) return mp_elem_from_int(e, lua_tointeger(L, idx), bits);
  return mp_elem_from_float(e, lua_tonumber(L, idx), bits);
}
/* Pushes what is wrong with the value at `idx` when lcell_bits failed. */
const char *lcell_why(lua_State *L, int idx, char code, int err);
/* The bits of an argument; raises. */
void lcell_check(lua_State *L, int arg, enum mp_elem e, char code, uint64_t *bits);

/* Pushes an element.  Allocates for MP_CHAR only. */
static inline void lcell_push(lua_State *L, enum mp_elem e, uint64_t bits) {
  if (e == MP_F64) {
    double d;
    memcpy(&d, &bits, sizeof d);
    lua_pushnumber(L, d);
  } else if (e == MP_CHAR) {
    char byte = (char)bits;
    lua_pushlstring(L, &byte, 1);
  } else {
    struct mp_num v = mp_elem_num(e, bits);
    if (v.is_float) lua_pushnumber(L, v.d);
    else lua_pushinteger(L, v.i);
  }
}

/* Pushes the element of a spot. */
static inline int lcell_read(lua_State *L, const struct lspot *p) {
  lcell_lock(L, p->s);
  uint64_t bits = mp_elem_load(p->at, mp_elem_width(p->elem));
  lcell_unlock(p->s);
  lcell_push(L, p->elem, bits);
  return 1;
}
static inline void lcell_write(lua_State *L, const struct lspot *p, uint64_t bits) {
  lcell_lock(L, p->s);
  mp_elem_store(p->at, mp_elem_width(p->elem), bits);
  lcell_unlock(p->s);
}

/* The methods of elements, their own arguments from `arg` on. */
int lcell_add(lua_State *L, const struct lspot *p, int arg);
int lcell_update(lua_State *L, const struct lspot *p, int arg);
int lcell_exchange(lua_State *L, const struct lspot *p, int arg);

/* Pushes the lock of a handle as an mp.RLock. */
int lcell_get_lock(lua_State *L, struct lcell *s);
/* close and __close. */
int lcell_close(lua_State *L, int kind);
/* For tostring: true when it is closed, with the text pushed; else the handle, and
 * "mp.Value: 0x3f80 " pushed. */
bool lcell_show(lua_State *L, int kind, struct lcell **out);

void lcell_open_value(lua_State *L);
void lcell_open_array(lua_State *L);
void lcell_open_struct(lua_State *L);

#endif
