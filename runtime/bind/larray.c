/*** mp.Array: elements of one type that processes share.
 * @module array */
#include "lcell.h"
#include <limits.h>

#define KIND MP_KIND_ARRAY
/* Slices up to this many bytes are prepared on the C stack. */
#define SLICE_MAX 1024

static inline void *at(const struct lcell *a, uint64_t k) { return a->data + k * a->width; }
static inline char code_of(const struct lcell *a) { return (char)a->c->code; }

/* An integer key, -1 for anything else (strings of digits are no indices). */
static inline uint64_t key(lua_State *L, int idx) {
  int ok;
  if (lua_type(L, idx) != LUA_TNUMBER) return UINT64_MAX;
  lua_Integer i = lua_tointegerx(L, idx, &ok);
  return ok ? (uint64_t)i - 1 : UINT64_MAX;
}

/*** What `mp.Array` and `mp.RawArray` make: `a[i]` from 1 on, `#a`, `ipairs(a)`.
 * Reading outside gives nil; writing there, or what does not fit, raises and changes nothing.
 * @type Array */

/* ---- one element ---- */

/* Upvalue 1: the methods. */
static int array_index(lua_State *L) {
  if (lua_type(L, 2) != LUA_TNUMBER) {
    lua_settop(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
  }
  struct lcell *a = lcell_self(L, KIND);
  uint64_t k = key(L, 2);
  if (k >= a->n) {
    lua_pushnil(L);
    return 1;
  }
  lcell_lock(L, a);
  uint64_t bits = mp_elem_load(at(a, k), a->width);
  lcell_unlock(a);
  lcell_push(L, a->elem, bits);
  return 1;
}

static const char *bad_index(lua_State *L, const struct lcell *a, int idx) {
  if (lua_type(L, idx) != LUA_TNUMBER)
    return lua_pushfstring(L, "index expected, got %s", luaL_typename(L, idx));
  return lua_pushfstring(L, "index %s is out of range (1..%I)", luaL_tolstring(L, idx, NULL),
                         (LUAI_UACINT)a->n);
}

static int array_newindex(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  uint64_t k = key(L, 2), bits;
  if (k >= a->n) {
    if (lua_type(L, 2) == LUA_TSTRING)
      return luaL_error(L, "mp.Array has no field '%s'", lua_tostring(L, 2));
    return luaL_error(L, "mp.Array: %s", bad_index(L, a, 2));
  }
  int err = lcell_bits(L, 3, a->elem, &bits);
  if (err != 0)
    return luaL_error(L, "bad value for element %I of mp.Array (%s)", (LUAI_UACINT)k + 1,
                      lcell_why(L, 3, code_of(a), err));
  lcell_lock(L, a);
  mp_elem_store(at(a, k), a->width, bits);
  lcell_unlock(a);
  return 0;
}

/* The element whose index is argument 2. */
static struct lspot spot(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  uint64_t k = key(L, 2);
  if (k >= a->n) luaL_argerror(L, 2, bad_index(L, a, 2));
  return (struct lspot){a, at(a, k), a->elem, code_of(a)};
}

/*** Adds to an element in one step.
 * @function Array:add
 * @tparam integer i which one
 * @tparam number n what is added
 * @treturn number the sum
 * @raise a sum that does not fit; nothing has changed then */
static int array_add(lua_State *L) {
  struct lspot p = spot(L);
  return lcell_add(L, &p, 3);
}

/*** Replaces an element by what a function makes of it (see `Value:update`).
 * @function Array:update
 * @tparam integer i which one
 * @tparam function f gets the element, returns the new one
 * @return the new element
 * @raise what f raises; nothing has changed then */
static int array_update(lua_State *L) {
  struct lspot p = spot(L);
  return lcell_update(L, &p, 3);
}

/*** Replaces an element if it is what one expects.
 * @function Array:compare_exchange
 * @tparam integer i which one
 * @param old what is expected
 * @param new what it becomes then
 * @treturn boolean whether it was what was expected */
static int array_compare_exchange(lua_State *L) {
  struct lspot p = spot(L);
  return lcell_exchange(L, &p, 3);
}

static int array_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)lcell_self(L, KIND)->n);
  return 1;
}

/* ---- many elements: reading ---- */

/* The string of `size` bytes from `from` on.  The buffer's memory is taken before the
 * lock is. */
static int push_bytes(lua_State *L, struct lcell *a, const void *from, size_t size) {
  luaL_Buffer b;
  char *to = luaL_buffinitsize(L, &b, size);
  lcell_lock(L, a);
  mp_cell_copy(to, from, size, a->width);
  lcell_unlock(a);
  luaL_pushresultsize(&b, size);
  return 1;
}

/* Fills the list on top with the elements from k on.  Its places exist already, so that
 * nothing here allocates or raises: the lock may be held. */
static void fill_list(lua_State *L, const struct lcell *a, uint64_t k, uint64_t n) {
  const char *p = at(a, k);
  unsigned width = a->width;
  enum mp_elem e = a->elem;
  if (e == MP_F64)
    for (uint64_t i = 1; i <= n; i++, p += 8) {
      lcell_push(L, MP_F64, mp_elem_load(p, 8));
      lua_rawseti(L, -2, (lua_Integer)i);
    }
  else
    for (uint64_t i = 1; i <= n; i++, p += width) {
      lcell_push(L, e, mp_elem_load(p, width));
      lua_rawseti(L, -2, (lua_Integer)i);
    }
}

/* A list of the single bytes of the string on top. */
static int split_bytes(lua_State *L) {
  size_t n;
  const char *s = lua_tolstring(L, -1, &n);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushlstring(L, s + i, 1);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int push_list(lua_State *L, struct lcell *a, uint64_t k, uint64_t n) {
  if (n >= INT_MAX)
    return luaL_error(L, "%I elements are too many for a list", (LUAI_UACINT)n);
  if (a->elem == MP_CHAR) {
    push_bytes(L, a, at(a, k), n);
    return split_bytes(L);
  }
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, (int)n, 0);
  lcell_lock(L, a);
  fill_list(L, a, k, n);
  lcell_unlock(a);
  return 1;
}

/*** The elements from i to j; negative ones count from the end, as in string.sub.
 * @function Array:get
 * @tparam[opt=1] integer i first index
 * @tparam[opt=#a] integer j last index
 * @treturn table|string a list; a string for typecode `c`
 * @python slices, `a[i:j]` */
static int array_get(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  lua_Integer n = (lua_Integer)a->n;
  lua_Integer i = luaL_optinteger(L, 2, 1), j = luaL_optinteger(L, 3, n);
  if (i < 0) i = i < -n ? 1 : n + i + 1;
  if (j < 0) j = n + j + 1;
  if (i < 1) i = 1;
  if (j > n) j = n;
  uint64_t k = (uint64_t)i - 1, count = i <= j ? (uint64_t)(j - i + 1) : 0;
  if (count == 0) k = 0;
  return a->elem == MP_CHAR ? push_bytes(L, a, at(a, k), count) : push_list(L, a, k, count);
}

/*** All elements as a list.
 * @function Array:totable
 * @treturn table also for typecode `c`, where the elements are strings of one byte */
static int array_totable(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  return push_list(L, a, 0, a->n);
}

/*** The memory of the array as a string, in the order of bytes of the machine.
 * @function Array:bytes
 * @treturn string */
static int array_bytes(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  return push_bytes(L, a, a->data, a->n * a->width);
}

/* ---- many elements: writing ---- */

#define READ_AT_ONCE 32 /* elements that lie on the stack together */

/* The element on top, of Lua type `type`, as bits: what nearly all are, quickly. */
static inline int read_element(lua_State *L, int type, enum mp_elem e, uint64_t *bits) {
  int whole;
  if (type != LUA_TNUMBER || e == MP_CHAR) return lcell_bits(L, -1, e, bits);
  if (e == MP_F64) {
    double d = lua_tonumber(L, -1);
    memcpy(bits, &d, sizeof d);
    return 0;
  }
  lua_Integer i = e == MP_F32 ? (whole = 0) : lua_tointegerx(L, -1, &whole);
  return whole ? mp_elem_from_int(e, i, bits) : lcell_bits(L, -1, e, bits);
}

/* The list at `idx` as elements in `out`; raises for argument `arg` at the first that
 * does not fit.  Runs no code of the user's. */
static void read_list(lua_State *L, int idx, int arg, char code, size_t n, void *out) {
  enum mp_elem e = (enum mp_elem)mp_elem_of(code);
  unsigned width = mp_elem_width(e);
  char *p = out;
  int top = lua_gettop(L);
  luaL_checkstack(L, READ_AT_ONCE + 8, NULL);
  for (size_t i = 1; i <= n; i++, p += width) {
    uint64_t bits;
    int err = read_element(L, lua_rawgeti(L, idx, (lua_Integer)i), e, &bits);
    if (err != 0)
      luaL_argerror(L, arg, lua_pushfstring(L, "element %I: %s", (LUAI_UACINT)i,
                                            lcell_why(L, -1, code, err)));
    mp_elem_store(p, width, bits);
    if (i % READ_AT_ONCE == 0) lua_settop(L, top);
  }
  lua_settop(L, top);
}

/* How many elements the list (or string, for 'c') at `arg` has. */
static size_t list_length(lua_State *L, int arg, char code) {
  int type = lua_type(L, arg);
  if (type != LUA_TTABLE && !(type == LUA_TSTRING && code == 'c'))
    luaL_typeerror(L, arg, code == 'c' ? "string or list" : "list");
  return lua_rawlen(L, arg);
}

/* The elements of `arg`; a list's are made in `room`, when that is too small in memory
 * that is pushed. */
static const void *list_elements(lua_State *L, int arg, char code, size_t n, void *room,
                                 size_t size) {
  size_t need = n * mp_elem_width((enum mp_elem)mp_elem_of(code));
  if (lua_type(L, arg) == LUA_TSTRING) return lua_tostring(L, arg);
  void *out = need <= size ? room : lcell_scratch(L, need);
  read_list(L, arg, arg, code, n, out);
  return out;
}

/*** Sets the elements from i on: all of them or, when one does not fit, none.
 * @function Array:set
 * @tparam integer i first index; negative ones count from the end
 * @tparam table|string list a string for typecode `c` only
 * @raise when the list goes beyond the end or an element does not fit */
static int array_set(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  uint64_t room[SLICE_MAX / 8];
  lua_Integer i = luaL_checkinteger(L, 2);
  size_t n = list_length(L, 3, code_of(a));
  if (i < 0) i += (lua_Integer)a->n + 1;
  uint64_t k = (uint64_t)i - 1;
  if (k >= a->n && !(k == a->n && n == 0)) return luaL_argerror(L, 2, bad_index(L, a, 2));
  if (n > a->n - k)
    return luaL_argerror(L, 3, lua_pushfstring(L, "%I elements from index %I on do not fit, "
                                               "the array ends at %I", (LUAI_UACINT)n,
                                               (LUAI_UACINT)i, (LUAI_UACINT)a->n));
  const void *from = list_elements(L, 3, code_of(a), n, room, sizeof room);
  lcell_lock(L, a);
  mp_cell_copy(at(a, k), from, n * a->width, a->width);
  lcell_unlock(a);
  return 0;
}

/*** Sets all elements.
 * @function Array:fill
 * @param x what each of them becomes
 * @raise what does not fit; nothing has changed then */
static int array_fill(lua_State *L) {
  struct lcell *a = lcell_self(L, KIND);
  uint64_t bits;
  lcell_check(L, 2, a->elem, code_of(a), &bits);
  lcell_lock(L, a);
  mp_elem_fill(a->data, a->width, a->n, bits);
  lcell_unlock(a);
  return 0;
}

/* ---- the rest ---- */

/*** The lock that every operation takes.
 * @function Array:get_lock
 * @treturn RLock
 * @raise when it was made without */
static int array_get_lock(lua_State *L) { return lcell_get_lock(L, lcell_self(L, KIND)); }

/*** Gives this handle up; calls of it are errors.  `<close>` does the same.
 * @function Array:close */
static int array_close(lua_State *L) { return lcell_close(L, KIND); }

static int array_tostring(lua_State *L) {
  struct lcell *a;
  if (lcell_show(L, KIND, &a)) return 1;
  lua_pushfstring(L, "(%c, %I item%s)", code_of(a), (LUAI_UACINT)a->n, a->n == 1 ? "" : "s");
  lua_concat(L, 2);
  return 1;
}

static uint64_t array_size(lua_State *L, int arg) {
  int ok;
  lua_Integer n = lua_tointegerx(L, arg, &ok);
  if (!ok) luaL_argerror(L, arg, "a size is an integer");
  luaL_argcheck(L, n >= 0, arg, "a size is not negative");
  return (uint64_t)n;
}

/* With the typecode at 1 and what it begins with at 2.  The elements are copied when the
 * array exists: nobody else knows it yet. */
static int make(lua_State *L, uint8_t flags) {
  char code = lcell_code(L, 1);
  struct mp_cell_plan plan = {.code = code, .flags = flags,
                              .stride = mp_elem_width((enum mp_elem)mp_elem_of(code))};
  const void *image = NULL;
  uint64_t room[SLICE_MAX / 8];
  if (lua_type(L, 2) == LUA_TNUMBER) {
    plan.n = array_size(L, 2);
  } else {
    if (lua_type(L, 2) != LUA_TTABLE && !(code == 'c' && lua_type(L, 2) == LUA_TSTRING))
      luaL_typeerror(L, 2, code == 'c' ? "size, string or list" : "size or list");
    plan.n = list_length(L, 2, code);
    image = list_elements(L, 2, code, plan.n, room, sizeof room);
  }
  struct lcell *a = lcell_make(L, KIND, &plan);
  if (image) mp_cell_copy(a->data, image, plan.n * a->width, a->width);
  return 1;
}

/*** @section end */

/*** Makes an array of numbers or bytes that processes share.
 * @function mp.Array
 * @tparam string typecode see above
 * @tparam integer|table|string init a size (the elements are 0 then), or a list of the elements; a
 *   string for typecode `c` only
 * @tparam[opt] table options
 * @tparam[opt=true] boolean options.lock false makes what `mp.RawArray` does
 * @treturn Array
 * @raise an element that does not fit; the shared memory is full
 * @python `multiprocessing.Array`; indices begin with 1 */
static int array_new(lua_State *L) {
  lua_settop(L, 3);
  return make(L, lcell_options(L, 3));
}

/*** Makes an array without a lock: elements are whole; `add`, `update` and `compare_exchange` are
 * atomic instructions.
 * @function mp.RawArray
 * @tparam string typecode see above
 * @tparam integer|table|string init as for `mp.Array`
 * @treturn Array
 * @python `multiprocessing.sharedctypes.RawArray` */
static int raw_array_new(lua_State *L) {
  luaL_argcheck(L, lua_isnoneornil(L, 3), 3, "RawArray has no options");
  lua_settop(L, 2);
  return make(L, MP_CELL_RAW);
}

static const luaL_Reg methods[] = {{"add", array_add},
                                   {"update", array_update},
                                   {"compare_exchange", array_compare_exchange},
                                   {"get", array_get},
                                   {"set", array_set},
                                   {"fill", array_fill},
                                   {"totable", array_totable},
                                   {"bytes", array_bytes},
                                   {"get_lock", array_get_lock},
                                   {"close", array_close},
                                   {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__newindex", array_newindex},
                                       {"__len", array_len},
                                       {"__tostring", array_tostring},
                                       {"__gc", lmp_gc},
                                       {"__close", array_close},
                                       {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"Array", array_new}, {"RawArray", raw_array_new}, {NULL, NULL}};

void lcell_open_array(lua_State *L) {
  struct lmp_opener o = {sizeof(struct lcell), 0, lcell_opened};
  lmp_opener_set(KIND, &o);
  lmp_type(L, KIND, "Array", methods, metamethods, array_index);
  luaL_setfuncs(L, functions, 0);
}
