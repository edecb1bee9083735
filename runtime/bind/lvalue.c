/*** Numbers, arrays and records in memory that processes share.
 *
 * With a lock, which is the default, every operation takes it; holding it oneself
 * (`v:get_lock():with(...)`) makes several operations one.  Without one, elements are read and
 * written whole, and `add` and `compare_exchange` are atomic instructions.
 *
 * | typecode | what it holds | | typecode | what it holds |
 * | --- | --- | --- | --- | --- |
 * | `c` | one byte, as a string | | `f` | float of 4 bytes |
 * | `b` `B` | integer of 1 byte | | `d` | float of 8 bytes |
 * | `h` `H` | integer of 2 bytes | | `l` `L` | integer of 8 bytes |
 * | `i` `I` | integer of 4 bytes | | `q` `Q` | integer of 8 bytes |
 *
 * Capitals are unsigned.  A number that does not fit is refused, a float with an integer value
 * fits integers.  An unsigned number beyond Lua's integers shows as the nearest float.
 * @module value */
#include "lcell.h"

#define KIND MP_KIND_VALUE

static struct lspot spot(struct lcell *s) {
  return (struct lspot){s, s->data, s->elem, (char)s->c->code};
}

static bool is_value(lua_State *L, int idx) {
  size_t len;
  if (lua_type(L, idx) != LUA_TSTRING) return false;
  const char *key = lua_tolstring(L, idx, &len);
  return len == 5 && memcmp(key, "value", 5) == 0;
}

/*** One number or byte; what `mp.Value` and `mp.RawValue` make.
 * @type Value */

/*** The value: read and written as a field.  Writing what does not fit raises and changes nothing.
 * `v.value = v.value + 1` is two steps, `v:add(1)` is one.
 * @field value
 * @python `Value.value` */

/* Upvalue 1: the methods. */
static int value_index(lua_State *L) {
  if (is_value(L, 2)) {
    struct lspot p = spot(lcell_self(L, KIND));
    return lcell_read(L, &p);
  }
  lua_settop(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

static int value_newindex(lua_State *L) {
  struct lspot p = spot(lcell_self(L, KIND));
  uint64_t bits;
  if (!is_value(L, 2))
    return luaL_error(L, "mp.Value has no field '%s' (its field is 'value')",
                      luaL_tolstring(L, 2, NULL));
  int err = lcell_bits(L, 3, p.elem, &bits);
  if (err != 0)
    return luaL_error(L, "bad value for field 'value' of mp.Value (%s)",
                      lcell_why(L, 3, p.code, err));
  lcell_write(L, &p, bits);
  return 0;
}

/*** Adds to the value in one step.
 * @function Value:add
 * @tparam number n what is added, negative too
 * @treturn number the sum
 * @raise a sum that does not fit; nothing has changed then */
static int value_add(lua_State *L) {
  struct lspot p = spot(lcell_self(L, KIND));
  return lcell_add(L, &p, 2);
}

/*** Replaces the value by what a function makes of it.  With a lock, f runs once and holds it
 * (and cannot yield); without one it runs again when another was faster.
 * @function Value:update
 * @tparam function f gets the value, returns the new one
 * @return the new value
 * @raise what f raises; nothing has changed then */
static int value_update(lua_State *L) {
  struct lspot p = spot(lcell_self(L, KIND));
  return lcell_update(L, &p, 2);
}

/*** Replaces the value if it is what one expects.
 * @function Value:compare_exchange
 * @param old what is expected
 * @param new what it becomes then
 * @treturn boolean whether it was what was expected */
static int value_compare_exchange(lua_State *L) {
  struct lspot p = spot(lcell_self(L, KIND));
  return lcell_exchange(L, &p, 2);
}

/*** The lock that every operation takes.
 * @function Value:get_lock
 * @treturn RLock
 * @raise when it was made without
 * @usage local v = mp.Value("i", 21)
 * v:get_lock():with(function() v.value = v.value * 2 end)
 * print(v.value) --> 42 */
static int value_get_lock(lua_State *L) { return lcell_get_lock(L, lcell_self(L, KIND)); }

/*** Gives this handle up; calls of it are errors.  `<close>` does the same.
 * @function Value:close */
static int value_close(lua_State *L) { return lcell_close(L, KIND); }

/* Looks without the lock: what is shown is whole all the same. */
static int value_tostring(lua_State *L) {
  struct lcell *s;
  if (lcell_show(L, KIND, &s)) return 1;
  char code = (char)s->c->code;
  lcell_push(L, s->elem, mp_elem_load(s->data, s->width));
  const char *text = luaL_tolstring(L, -1, NULL);
  lua_pushfstring(L, code == 'c' ? "(%c, '%s')" : "(%c, %s)", code, text);
  lua_replace(L, -3);
  lua_pop(L, 1);
  lua_concat(L, 2);
  return 1;
}

/* With the typecode at 1 and the initial value at 2. */
static int make(lua_State *L, uint8_t flags) {
  char code = lcell_code(L, 1);
  enum mp_elem e = (enum mp_elem)mp_elem_of(code);
  uint64_t bits = 0;
  if (!lua_isnoneornil(L, 2)) lcell_check(L, 2, e, code, &bits);
  struct mp_cell_plan plan = {
      .code = code, .flags = flags, .stride = mp_elem_width(e), .n = 1};
  struct lcell *s = lcell_make(L, KIND, &plan);
  mp_elem_store(s->data, s->width, bits);
  return 1;
}

/*** @section end */

/*** Makes one number or byte that processes share; read and written as `v.value`.
 * @function mp.Value
 * @tparam string typecode one of those in the table above
 * @tparam[opt=0] number|string initial what it begins with; a byte for typecode `c`
 * @tparam[opt] table options
 * @tparam[opt=true] boolean options.lock false makes what `mp.RawValue` does
 * @treturn Value
 * @raise a number that does not fit; the shared memory is full
 * @python `multiprocessing.Value` */
static int value_new(lua_State *L) {
  lua_settop(L, 3);
  return make(L, lcell_options(L, 3));
}

/*** Makes a value without a lock: `add`, `update` and `compare_exchange` are atomic instructions.
 * @function mp.RawValue
 * @tparam string typecode one of those in the table above
 * @tparam[opt=0] number|string initial what it begins with
 * @treturn Value
 * @raise as `mp.Value`
 * @python `multiprocessing.sharedctypes.RawValue` */
static int raw_value_new(lua_State *L) {
  luaL_argcheck(L, lua_isnoneornil(L, 3), 3, "RawValue has no options");
  lua_settop(L, 2);
  return make(L, MP_CELL_RAW);
}

static const luaL_Reg methods[] = {{"add", value_add},
                                   {"update", value_update},
                                   {"compare_exchange", value_compare_exchange},
                                   {"get_lock", value_get_lock},
                                   {"close", value_close},
                                   {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__newindex", value_newindex},
                                       {"__tostring", value_tostring},
                                       {"__gc", lmp_gc},
                                       {"__close", value_close},
                                       {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"Value", value_new}, {"RawValue", raw_value_new}, {NULL, NULL}};

void lcell_open_value(lua_State *L) {
  struct lmp_opener o = {sizeof(struct lcell), 0, lcell_opened};
  lmp_opener_set(KIND, &o);
  lmp_type(L, KIND, "Value", methods, metamethods, value_index);
  luaL_setfuncs(L, functions, 0);
}
