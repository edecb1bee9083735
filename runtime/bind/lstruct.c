/*** mp.Struct: records with named fields that processes share.
 * @module struct */

/* Three things have this kind: a record type (Point), a record (Point{x = 1}) and an
 * array of records (Point:array(10)).  A type lives in shared memory too, as a layout
 * without records, so that it can be sent like everything else.
 */
#include "lcell.h"
#include <limits.h>
#include <stdarg.h>

#define KIND MP_KIND_STRUCT
/* Texts up to this many bytes are read on the C stack. */
#define TEXT_MAX 1024
/* What tostring shows of a text. */
#define SHOWN_MAX 40

static struct lcell *self(lua_State *L) {
  struct lcell *s = lcell_self(L, KIND);
  if (!lmp_here(&s->root->h)) luaL_error(L, "mp.Struct is closed: its array was");
  return s;
}

static const struct mp_layout *layout_of(const struct lcell *s) {
  return mp_cell_layout(s->c);
}

/* MP_CELL_TYPE, MP_CELL_MANY or 0 for a record (also one in an array). */
static unsigned shape(const struct lcell *s) {
  return s->h.part >= LCELL_RECORD ? 0 : s->c->flags & (MP_CELL_TYPE | MP_CELL_MANY);
}

/* ---- fields ---- */

/* Pushes "x, y, name". */
static const char *field_names(lua_State *L, const struct mp_layout *l) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (unsigned k = 0; k < l->nfields; k++) {
    if (k > 0) luaL_addstring(&b, ", ");
    luaL_addlstring(&b, mp_field_name(l, &l->fields[k]), l->fields[k].len);
  }
  luaL_pushresult(&b);
  return lua_tostring(L, -1);
}

static const struct mp_field *find(lua_State *L, const struct lcell *s, int idx) {
  size_t len;
  if (lua_type(L, idx) != LUA_TSTRING) return NULL;
  const char *name = lua_tolstring(L, idx, &len);
  return mp_layout_find(layout_of(s), name, len);
}

static int no_field(lua_State *L, const struct lcell *s, int idx) {
  const char *name = luaL_tolstring(L, idx, NULL);
  if (shape(s) == MP_CELL_TYPE)
    return luaL_error(L, "mp.Struct: a record type has no field '%s'", name);
  if (shape(s) == MP_CELL_MANY)
    return luaL_error(L, "mp.Struct: an array of records has no field '%s'", name);
  return luaL_error(L, "mp.Struct has no field '%s' (its fields: %s)", name,
                    field_names(L, layout_of(s)));
}

/* A value for a field, checked: bits, or a text that the stack holds. */
struct value {
  uint64_t bits;
  const char *text;
  uint32_t len;
};

/* Raises when the value at `idx` cannot be in the field. */
static struct value field_value(lua_State *L, int idx, const struct mp_layout *l,
                                const struct mp_field *f) {
  struct value v = {0, NULL, 0};
  const char *why;
  if (f->cap == 0) {
    int err = lcell_bits(L, idx, (enum mp_elem)mp_elem_of((char)f->code), &v.bits);
    if (err == 0) return v;
    why = lcell_why(L, idx, (char)f->code, err);
  } else if (lua_type(L, idx) != LUA_TSTRING) {
    why = lua_pushfstring(L, "string expected, got %s", luaL_typename(L, idx));
  } else {
    size_t len;
    v.text = lua_tolstring(L, idx, &len);
    v.len = (uint32_t)len;
    if (len <= f->cap) return v;
    why = lua_pushfstring(L, "a string of %I bytes does not fit, there is room for %I",
                          (LUAI_UACINT)len, (LUAI_UACINT)f->cap);
  }
  lua_pushlstring(L, mp_field_name(l, f), f->len);
  luaL_error(L, "bad value for field '%s' of mp.Struct (%s)", lua_tostring(L, -1), why);
  return v;
}

static void store_field(void *record, const struct mp_field *f, const struct value *v) {
  void *at = (char *)record + f->at;
  if (f->cap > 0) mp_text_store(at, f->cap, v->text, v->len);
  else mp_elem_store(at, mp_elem_width((enum mp_elem)mp_elem_of((char)f->code)), v->bits);
}

static struct lspot spot_of(struct lcell *s, const struct mp_field *f) {
  char code = (char)f->code;
  return (struct lspot){s, s->data + f->at, (enum mp_elem)mp_elem_of(code), code};
}

static int push_text(lua_State *L, struct lcell *s, const struct mp_field *f) {
  uint64_t room[TEXT_MAX / 8];
  void *buf = f->cap <= TEXT_MAX ? room : lcell_scratch(L, mp_text_half(f->cap));
  const struct mp_text *t = (const struct mp_text *)(const void *)(s->data + f->at);
  lcell_lock(L, s);
  uint32_t len = mp_text_load(t, f->cap, buf);
  lcell_unlock(s);
  lua_pushlstring(L, buf, len);
  return 1;
}

/* Pushes a field of a record in private memory. */
static void push_private(lua_State *L, const struct mp_field *f, const void *record) {
  const void *at = (const char *)record + f->at;
  enum mp_elem e = (enum mp_elem)mp_elem_of((char)f->code);
  if (f->cap == 0) {
    lcell_push(L, e, mp_elem_load(at, mp_elem_width(e)));
    return;
  }
  const struct mp_text *t = at;
  uint64_t word = atomic_load_explicit(&t->word, memory_order_relaxed);
  lua_pushlstring(L, mp_text_in(t, f->cap), (uint32_t)word);
}

/* ---- records ---- */

/* Fills a zeroed private record from the table at `idx`. */
static void fill_record(lua_State *L, int idx, const struct lcell *type, void *record) {
  const struct mp_layout *l = layout_of(type);
  luaL_checkstack(L, 6, NULL);
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    const struct mp_field *f = find(L, type, -2);
    if (!f) {
      const char *name = luaL_tolstring(L, -2, NULL);
      luaL_error(L, "mp.Struct has no field '%s' (its fields: %s)", name, field_names(L, l));
      return;
    }
    struct value v = field_value(L, lua_gettop(L), l, f);
    store_field(record, f, &v);
  }
}

/* Zeroed private memory for n records; pushes its owner. */
static char *private_records(lua_State *L, const struct lcell *type, size_t n) {
  size_t size;
  if (__builtin_mul_overflow(n, (size_t)type->c->stride, &size)) lmp_full(L);
  char *image = lcell_scratch(L, size ? size : 1);
  memset(image, 0, size);
  return image;
}

/* A copy of the record that is one at one time if there is a lock; pushes its owner. */
static const char *snapshot(lua_State *L, struct lcell *s, const char *record) {
  char *image = private_records(L, s, 1);
  lcell_lock(L, s);
  mp_record_load(layout_of(s), image, record);
  lcell_unlock(s);
  return image;
}

static struct lcell *make(lua_State *L, const struct lcell *type, uint8_t flags, uint64_t n,
                          const void *image) {
  struct mp_cell_plan plan = {.flags = (uint8_t)((type->raw ? MP_CELL_RAW : 0) | flags),
                              .stride = type->c->stride, .n = n, .layout = layout_of(type)};
  struct lcell *s = lcell_make(L, KIND, &plan);
  if (image && n > 0) memcpy(s->data, image, n * type->c->stride);
  return s;
}

static struct lcell *self_type(lua_State *L, const char *what) {
  struct lcell *s = self(L);
  if (shape(s) != MP_CELL_TYPE) luaL_error(L, "mp.Struct: only a record type %s", what);
  return s;
}

/*** A record type, what `mp.Struct` makes.
 * @type RecordType */

/*** Makes a record: call the type.  Fields that are not named are 0 or "".
 * @function RecordType:__call
 * @tparam[opt] table fields name = value
 * @treturn Record its fields are read and written by name, `p.x = p.x + 1`
 * @raise an unknown field, a value that does not fit
 * @usage local Point = mp.Struct { { "x", "d" }, { "y", "d" } }
 * local p = Point { x = 1 }
 * p.y = p.x + 1
 * print(p.x, p.y) --> 1.0	2.0 */
static int struct_call(lua_State *L) {
  struct lcell *type = self_type(L, "can be called");
  char *image = NULL;
  lua_settop(L, 2);
  if (!lua_isnil(L, 2)) {
    luaL_argexpected(L, lua_istable(L, 2), 2, "table of fields");
    image = private_records(L, type, 1);
    fill_record(L, 2, type, image);
  }
  make(L, type, 0, 1, image);
  return 1;
}

/*** Makes an array of records.
 * @function RecordType:array
 * @tparam integer|table n how many, or a list of tables of fields
 * @treturn Record the array `a`: `a[i].x` is a field of a record, `a[i] = {x = 1}` sets all of its
 *   fields, `#a` says how many there are */
static int struct_array(lua_State *L) {
  struct lcell *type = self_type(L, "makes arrays");
  char *image = NULL;
  size_t n;
  lua_settop(L, 2);
  if (lua_istable(L, 2)) {
    n = lua_rawlen(L, 2);
    image = private_records(L, type, n);
    for (size_t k = 0; k < n; k++) {
      if (lua_rawgeti(L, 2, (lua_Integer)k + 1) != LUA_TTABLE)
        return luaL_error(L, "mp.Struct: bad record %I for 'array' (table of fields expected, "
                          "got %s)", (LUAI_UACINT)k + 1, luaL_typename(L, -1));
      fill_record(L, lua_gettop(L), type, image + k * type->c->stride);
      lua_pop(L, 1);
    }
  } else {
    if (lua_type(L, 2) != LUA_TNUMBER) return luaL_typeerror(L, 2, "size or list of records");
    lua_Integer size = luaL_checkinteger(L, 2);
    luaL_argcheck(L, size >= 0, 2, "a size is not negative");
    n = (size_t)size;
  }
  luaL_argcheck(L, n < UINT32_MAX - LCELL_RECORD, 2, "too many records");
  make(L, type, MP_CELL_MANY, n, image);
  return 1;
}

/* ---- reading and writing ---- */

/* Which record of an array the key at 2 means; false: none. */
static bool place(lua_State *L, const struct lcell *s, uint64_t *k) {
  int ok;
  if (lua_type(L, 2) != LUA_TNUMBER) return false;
  *k = (uint64_t)lua_tointegerx(L, 2, &ok) - 1;
  return ok && *k < s->n;
}

/* Pushes record k of the array at 1: a handle that borrows the array's reference.  (User
 * value 1 would be sent along with it.) */
static int push_record(lua_State *L, struct lcell *array, uint64_t k) {
  struct lcell *r = lmp_new(L, sizeof *r, KIND, 2);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 2);
  r->h.me = array->h.me;
  r->h.obj = array->h.obj;
  r->h.entry = UINT32_MAX;
  r->h.part = (uint32_t)k + LCELL_RECORD;
  lcell_opened(L, &r->h);
  r->root = array;
  r->h.tag = &lmp_tags[KIND];
  return 1;
}

/* The methods are upvalue 1; pushes one or nil. */
static bool push_method(lua_State *L) {
  lua_pushvalue(L, 2);
  return lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL;
}

/* A closed handle still has its methods: it may be closed again. */
static int closed_index(lua_State *L) {
  if (lua_type(L, 2) == LUA_TSTRING && push_method(L)) return 1;
  self(L);
  return 0;
}

/* Fields come first: a record may have one with the name of a method. */
static int struct_index(lua_State *L) {
  struct lcell *s = lmp_test(L, 1, KIND);
  uint64_t k;
  lua_settop(L, 2);
  if (!s || !lmp_here(&s->h) || !lmp_here(&s->root->h)) return closed_index(L);
  if (shape(s) == 0) {
    const struct mp_field *f = find(L, s, 2);
    if (f && f->cap > 0) return push_text(L, s, f);
    if (f) {
      struct lspot p = spot_of(s, f);
      return lcell_read(L, &p);
    }
  } else if (shape(s) == MP_CELL_MANY && lua_type(L, 2) == LUA_TNUMBER) {
    if (place(L, s, &k)) return push_record(L, s, k);
    lua_pushnil(L);
    return 1;
  }
  return push_method(L) ? 1 : no_field(L, s, 2);
}

/* points[k] = {x = 1}: fields that are not named become 0 or "". */
static int set_record(lua_State *L, struct lcell *s, uint64_t k) {
  if (!lua_istable(L, 3))
    return luaL_error(L, "bad value for record %I of mp.Struct (table of fields expected, "
                      "got %s)", (LUAI_UACINT)k + 1, luaL_typename(L, 3));
  char *image = private_records(L, s, 1);
  fill_record(L, 3, s, image);
  lcell_lock(L, s);
  mp_record_store(layout_of(s), s->data + k * s->c->stride, image);
  lcell_unlock(s);
  return 0;
}

static int struct_newindex(lua_State *L) {
  struct lcell *s = self(L);
  uint64_t k;
  if (shape(s) == MP_CELL_MANY && lua_type(L, 2) == LUA_TNUMBER) {
    if (place(L, s, &k)) return set_record(L, s, k);
    return luaL_error(L, "mp.Struct: index %s is out of range (1..%I)",
                      luaL_tolstring(L, 2, NULL), (LUAI_UACINT)s->n);
  }
  const struct mp_field *f = shape(s) == 0 ? find(L, s, 2) : NULL;
  if (!f) return no_field(L, s, 2);
  struct value v = field_value(L, 3, layout_of(s), f);
  lcell_lock(L, s);
  store_field(s->data, f, &v);
  lcell_unlock(s);
  return 0;
}

/* The element of the record at 1 that argument 2 names. */
static struct lspot spot(lua_State *L) {
  struct lcell *s = self(L);
  luaL_checktype(L, 2, LUA_TSTRING);
  const struct mp_field *f = shape(s) == 0 ? find(L, s, 2) : NULL;
  if (!f) no_field(L, s, 2);
  else if (f->cap > 0)
    luaL_argerror(L, 2, lua_pushfstring(L, "field '%s' is a string: take the lock and set it",
                                        lua_tostring(L, 2)));
  else return spot_of(s, f);
  return (struct lspot){.s = s};
}

/*** A record, or an array of records.  The fields of a record are fields of it; a field that has
 * the name of a method hides that.
 * @type Record */

/*** Adds to a field in one step.
 * @function Record:add
 * @tparam string field its name
 * @tparam number n what is added
 * @treturn number the sum
 * @raise a sum that does not fit; nothing has changed then */
static int struct_add(lua_State *L) {
  struct lspot p = spot(L);
  return lcell_add(L, &p, 3);
}

/*** Replaces a field by what a function makes of it (see `Value:update`).
 * @function Record:update
 * @tparam string field its name
 * @tparam function f gets the value, returns the new one
 * @return the new value */
static int struct_update(lua_State *L) {
  struct lspot p = spot(L);
  return lcell_update(L, &p, 3);
}

/*** Replaces a field if it is what one expects.
 * @function Record:compare_exchange
 * @tparam string field its name
 * @param old what is expected
 * @param new what it becomes then
 * @treturn boolean whether it was what was expected */
static int struct_compare_exchange(lua_State *L) {
  struct lspot p = spot(L);
  return lcell_exchange(L, &p, 3);
}

static int struct_len(lua_State *L) {
  struct lcell *s = self(L);
  if (shape(s) != MP_CELL_MANY)
    return luaL_error(L, "mp.Struct: only an array of records has a length");
  lua_pushinteger(L, (lua_Integer)s->n);
  return 1;
}

static void push_table(lua_State *L, const struct mp_layout *l, const void *record) {
  lua_createtable(L, 0, (int)l->nfields);
  for (unsigned k = 0; k < l->nfields; k++) {
    const struct mp_field *f = &l->fields[k];
    lua_pushlstring(L, mp_field_name(l, f), f->len);
    push_private(L, f, record);
    lua_rawset(L, -3);
  }
}

/*** The fields of a record as a table; of an array of records a list of such tables.
 * @function Record:totable
 * @treturn table as it was at one time, if there is a lock */
static int struct_totable(lua_State *L) {
  struct lcell *s = self(L);
  const struct mp_layout *l = layout_of(s);
  size_t stride = s->c->stride;
  if (shape(s) == MP_CELL_TYPE) return luaL_error(L, "mp.Struct: a record type holds no data");
  if (shape(s) == 0) {
    push_table(L, l, snapshot(L, s, s->data));
    return 1;
  }
  if (s->n >= INT_MAX)
    return luaL_error(L, "%I records are too many for a list", (LUAI_UACINT)s->n);
  char *image = private_records(L, s, s->n);
  lcell_lock(L, s);
  for (uint64_t k = 0; k < s->n; k++)
    mp_record_load(l, image + k * stride, s->data + k * stride);
  lcell_unlock(s);
  lua_createtable(L, (int)s->n, 0);
  for (uint64_t k = 0; k < s->n; k++) {
    push_table(L, l, image + k * stride);
    lua_rawseti(L, -2, (lua_Integer)k + 1);
  }
  return 1;
}

/*** The lock that all operations on a record or an array of records take.
 * @function Record:get_lock
 * @treturn RLock
 * @raise when the type was made with lock = false */
static int struct_get_lock(lua_State *L) {
  struct lcell *s = self(L);
  if (shape(s) == MP_CELL_TYPE)
    return luaL_error(L, "mp.Struct: a record type has no lock, its records have");
  return lcell_get_lock(L, s);
}

/*** Gives this handle up; calls of it, and of records taken out of it, are errors.
 * @function Record:close */
static int struct_close(lua_State *L) { return lcell_close(L, KIND); }

static int struct_gc(lua_State *L) {
  struct lcell *s = lmp_test(L, 1, KIND);
  if (s && s->root != s) s->h.obj = 0;
  else if (s) lmp_release(L, &s->h);
  return 0;
}

/* Two handles of one record are equal. */
static int struct_eq(lua_State *L) {
  struct lcell *a = lmp_test(L, 1, KIND), *b = lmp_test(L, 2, KIND);
  lua_pushboolean(L, a && b && a->h.obj != 0 && a->h.obj == b->h.obj &&
                         a->h.part == b->h.part);
  return 1;
}

/* ---- tostring ---- */

/* "x d, name c 16" */
static void show_layout(luaL_Buffer *b, lua_State *L, const struct mp_layout *l) {
  for (unsigned k = 0; k < l->nfields; k++) {
    const struct mp_field *f = &l->fields[k];
    if (k > 0) luaL_addstring(b, ", ");
    luaL_addlstring(b, mp_field_name(l, f), f->len);
    luaL_addchar(b, ' ');
    luaL_addchar(b, (char)f->code);
    if (f->cap > 0) {
      lua_pushfstring(L, " %I", (LUAI_UACINT)f->cap);
      luaL_addvalue(b);
    }
  }
}

/* The beginning of the string on top, in quotes; takes it. */
static void show_text(lua_State *L) {
  size_t len;
  const char *s = lua_tolstring(L, -1, &len);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addchar(&b, '"');
  for (size_t k = 0; k < len && k < SHOWN_MAX; k++) {
    unsigned char c = (unsigned char)s[k];
    if (c == '"' || c == '\\') luaL_addchar(&b, '\\');
    if (c >= ' ' && c != 127) {
      luaL_addchar(&b, (char)c);
    } else {
      lua_pushfstring(L, "\\%d%d%d", c / 100, c / 10 % 10, c % 10);
      luaL_addvalue(&b);
    }
  }
  luaL_addstring(&b, len > SHOWN_MAX ? "\"..." : "\"");
  luaL_pushresult(&b);
  lua_replace(L, -2);
}

/* "x=1.0, name=\"abc\"" of a private record */
static void show_record(lua_State *L, const struct mp_layout *l, const void *record) {
  int first = lua_gettop(L) + 1;
  lua_pushliteral(L, "");
  for (unsigned k = 0; k < l->nfields; k++) {
    const struct mp_field *f = &l->fields[k];
    if (k > 0) lua_pushliteral(L, ", ");
    else lua_pushliteral(L, "");
    lua_pushlstring(L, mp_field_name(l, f), f->len);
    lua_pushliteral(L, "=");
    push_private(L, f, record);
    if (f->code == 'c') show_text(L);
    lua_concat(L, lua_gettop(L) - first + 1);
  }
}

/* Reads without the lock: every field is whole. */
static int struct_tostring(lua_State *L) {
  struct lcell *s;
  if (lcell_show(L, KIND, &s)) return 1;
  const struct mp_layout *l = layout_of(s);
  if (shape(s) == 0) {
    char *image = private_records(L, s, 1);
    mp_record_load(l, image, s->data);
    show_record(L, l, image);
    lua_remove(L, -2);
  } else {
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    if (shape(s) == MP_CELL_TYPE) {
      luaL_addstring(&b, "type: ");
    } else {
      lua_pushfstring(L, "%I record%s of ", (LUAI_UACINT)s->n, s->n == 1 ? "" : "s");
      luaL_addvalue(&b);
    }
    show_layout(&b, L, l);
    luaL_pushresult(&b);
  }
  lua_pushfstring(L, "(%s)", lua_tostring(L, -1));
  lua_remove(L, -2);
  lua_concat(L, 2);
  return 1;
}

/* ---- record types ---- */

static int bad_field(lua_State *L, size_t k, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const char *why = lua_pushvfstring(L, format, args);
  va_end(args);
  return luaL_argerror(L, 1, lua_pushfstring(L, "field %I: %s", (LUAI_UACINT)k + 1, why));
}

/* The third thing in the declaration at `idx`: room for a text; 0 when it is not there. */
static uint32_t field_cap(lua_State *L, int idx, size_t k, char code) {
  int ok;
  if (lua_rawgeti(L, idx, 3) == LUA_TNIL) return 0;
  if (code != 'c') bad_field(L, k, "only typecode 'c' has a length");
  lua_Integer cap = lua_tointegerx(L, -1, &ok);
  if (lua_type(L, -1) != LUA_TNUMBER || !ok || cap < 1 || cap > (lua_Integer)MP_TEXT_MAX)
    bad_field(L, k, "a length is an integer from 1 to %d", (int)MP_TEXT_MAX);
  return (uint32_t)cap;
}

/* Reads the declaration of field k, a table on top; keeps its name in the table `names`. */
static void read_field(lua_State *L, int names, size_t k, struct mp_field_def *d) {
  int idx = lua_gettop(L);
  size_t len;
  if (!lua_istable(L, idx))
    bad_field(L, k, "{name, typecode} expected, got %s", luaL_typename(L, idx));
  if (lua_rawgeti(L, idx, 1) != LUA_TSTRING)
    bad_field(L, k, "a name is a string, got %s", luaL_typename(L, -1));
  d->name = lua_tolstring(L, -1, &d->len);
  if (d->len == 0 || d->len > MP_FIELD_NAME_MAX)
    bad_field(L, k, "a name has 1 to %d bytes", MP_FIELD_NAME_MAX);
  lua_pushvalue(L, -1);
  lua_rawseti(L, names, (lua_Integer)k + 1);
  if (lua_rawgeti(L, idx, 2) != LUA_TSTRING)
    bad_field(L, k, "a typecode is a string, got %s", luaL_typename(L, -1));
  const char *code = lua_tolstring(L, -1, &len);
  if (len != 1 || mp_elem_of(*code) < 0)
    bad_field(L, k, "unknown typecode '%s' (known: " MP_TYPECODES ")", code);
  d->code = *code;
  d->cap = field_cap(L, idx, k, d->code);
  lua_settop(L, idx);
}

/* The layout that the table at 1 declares, in private memory that is pushed (among
 * other things). */
static struct mp_layout *read_layout(lua_State *L, uint32_t *stride) {
  size_t n = lua_rawlen(L, 1);
  unsigned culprit;
  luaL_argcheck(L, n >= 1, 1, "a record has at least one field");
  if (n > MP_FIELDS_MAX)
    luaL_argerror(L, 1, lua_pushfstring(L, "a record has at most %d fields", MP_FIELDS_MAX));
  struct mp_field_def *defs = lcell_scratch(L, n * sizeof *defs);
  lua_createtable(L, (int)n, 0);
  int names = lua_gettop(L);
  for (size_t k = 0; k < n; k++) {
    lua_rawgeti(L, 1, (lua_Integer)k + 1);
    read_field(L, names, k, &defs[k]);
    lua_pop(L, 1);
  }
  uint32_t size = mp_layout_size(defs, (unsigned)n);
  struct mp_layout *l = lcell_scratch(L, size);
  memset(l, 0, size);
  int err = mp_layout_make(l, defs, (unsigned)n, stride, &culprit);
  if (err == EEXIST)
    bad_field(L, culprit, "there is another field '%s'", defs[culprit].name);
  if (err != 0) bad_field(L, culprit, "a record with it is too large");
  return l;
}

/*** @section end */

/*** Makes a record type.  Record types, records and arrays of records are shared objects.
 * @function mp.Struct
 * @tparam table fields a list of `{name, typecode}`, or `{name, "c", n}` for a string of up to n
 *   bytes of any value
 * @tparam[opt] table options
 * @tparam[opt=true] boolean options.lock false makes records without a lock
 * @treturn RecordType call it to make a record
 * @python `multiprocessing.Value` with a `ctypes.Structure`
 * @usage local Point = mp.Struct { { "x", "d" }, { "y", "d" }, { "name", "c", 16 } }
 * local points = Point:array(100)
 * points[7].name = "seven"
 * print(#points, points[7].name, points[7].x) --> 100	seven	0.0 */
static int struct_new(lua_State *L) {
  uint32_t stride;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  uint8_t flags = lcell_options(L, 2);
  struct mp_cell_plan plan = {.layout = read_layout(L, &stride)};
  plan.flags = (uint8_t)(flags | MP_CELL_TYPE);
  plan.stride = stride;
  lcell_make(L, KIND, &plan);
  return 1;
}

static const luaL_Reg methods[] = {{"array", struct_array},
                                   {"add", struct_add},
                                   {"update", struct_update},
                                   {"compare_exchange", struct_compare_exchange},
                                   {"totable", struct_totable},
                                   {"get_lock", struct_get_lock},
                                   {"close", struct_close},
                                   {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__newindex", struct_newindex},
                                       {"__call", struct_call},
                                       {"__len", struct_len},
                                       {"__eq", struct_eq},
                                       {"__tostring", struct_tostring},
                                       {"__gc", struct_gc},
                                       {"__close", struct_close},
                                       {NULL, NULL}};
static const luaL_Reg functions[] = {{"Struct", struct_new}, {NULL, NULL}};

void lcell_open_struct(lua_State *L) {
  struct lmp_opener o = {sizeof(struct lcell), 2, lcell_opened};
  lmp_opener_set(KIND, &o);
  lmp_type(L, KIND, "Struct", methods, metamethods, struct_index);
  luaL_setfuncs(L, functions, 0);
}
