/* Cells: typed memory that processes share; what Value, Array and Struct are made of.
 *
 * An element is at most 8 bytes wide and lies at a multiple of its width, so it is
 * always loaded and stored by one instruction: a reader sees an old or a new
 * element, never half of one, whatever happens to the writer.  Between the core and
 * its callers an element travels as `bits`: its bytes, widened with zeros.
 */
#ifndef MP_IPC_CELL_H
#define MP_IPC_CELL_H
#include "sync.h"
#include <stddef.h>
#include <string.h>

/* What an element is; typecodes that mean the same here share one. */
enum mp_elem {
  MP_CHAR, MP_I8, MP_U8, MP_I16, MP_U16, MP_I32, MP_U32, MP_I64, MP_U64,
  MP_F32, MP_F64, MP_ELEMS
};

#define MP_TYPECODES "c b B h H i I l L q Q f d"

enum { MP_CELL_RAW = 1,  /* no lock: operations on elements are hardware atomics */
       MP_CELL_TYPE = 2, /* a record type: a layout without records */
       MP_CELL_MANY = 4  /* an array of records */ };

/* A Value, Array or Struct, in the arena; one block, 64 bytes for a Value: the lock
 * and what it guards are in one cache line.
 * rlock: the lock of all operations unless the cell is RAW, and what get_lock gives
 *   (part 1 of the object), hence its place right behind the head.
 * code (the typecode, 0 for a Struct), flags, stride (bytes from an element or record
 *   to the next), n (how many): never change after the cell was published.
 * Behind it: for a Struct its layout, then the data.  The data are written under
 *   rlock, or in a RAW cell by anyone, in whole elements.
 * A writer that dies leaves every element either old or new; the lock is taken over
 * by the next one who wants it.  There is nothing derived and nothing to repair.
 */
struct mp_cell {
  struct mp_object o;
  struct mp_rlock rlock;
  uint8_t code;
  uint8_t flags;
  uint16_t spare;
  uint32_t stride;
  uint64_t n;
};

/* A field of a layout.  at: where it begins in a record.  cap: 0 for an element, else the
 * most bytes of a text.  name, len: the field's name, from the start of the layout. */
struct mp_field {
  uint32_t at;
  uint32_t cap;
  uint32_t name;
  uint16_t len;
  uint8_t code;
  uint8_t spare;
};

/* What the records of a Struct look like; whoever gets a handle of one reads it here.
 * Never changes.  size: all of its bytes, a multiple of 8.  fields: nfields of them in
 * the order of declaration; behind them as many uint16_t that list them sorted by name,
 * then the names. */
struct mp_layout {
  uint32_t size;
  uint32_t nfields;
  struct mp_field fields[];
};

/* A text of up to `cap` bytes inside a record.
 * word: the truth: length (bits 0-31) and version (bits 32-63); the version's last bit
 *   says which of the two halves holds the text.  One store commits a new text.
 * data: two halves of `cap` bytes each, rounded up to 8.
 * A writer fills the half that is not in use and then stores `word`, so one killed
 * on the way has changed nothing.  Where no lock keeps readers out, a reader that
 * was overtaken sees another version behind its copy and reads again.  Two writers at
 * once without a lock may mix their texts.
 */
struct mp_text {
  _Atomic uint64_t word;
  _Atomic uint64_t data[];
};

/* A number as Lua has them. */
struct mp_num {
  bool is_float;
  union {
    int64_t i;
    double d;
  };
};

#define MP_FIELDS_MAX 1000
#define MP_FIELD_NAME_MAX 200
#define MP_TEXT_MAX (1u << 24)
#define MP_RECORD_MAX (1u << 30)

/* The element of a typecode, -1 when there is none. */
int mp_elem_of(char code);
/* Bytes of an element: 1, 2, 4 or 8. */
unsigned mp_elem_width(enum mp_elem e);
/* "-128..127"; for messages. */
const char *mp_elem_range(enum mp_elem e);

/* An integer or float as bits.  0; ERANGE: does not fit; EDOM: not an integer. */
int mp_elem_from_int(enum mp_elem e, int64_t i, uint64_t *bits);
int mp_elem_from_float(enum mp_elem e, double d, uint64_t *bits);
/* The number that bits stand for (MP_CHAR: 0..255).  Unsigned ones beyond INT64_MAX
 * come as the nearest float. */
struct mp_num mp_elem_num(enum mp_elem e, uint64_t bits);
/* bits + n.  0, ERANGE or EDOM. */
int mp_elem_sum(enum mp_elem e, uint64_t bits, struct mp_num n, uint64_t *sum);
/* Do both stand for the same number, in Lua's sense (0.0 == -0.0, NaN ~= NaN)? */
bool mp_elem_equal(enum mp_elem e, uint64_t a, uint64_t b);

static inline uint64_t mp_elem_load(const void *p, unsigned width) {
  switch (width) {
    case 1: return __atomic_load_n((const uint8_t *)p, __ATOMIC_ACQUIRE);
    case 2: return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
    case 4: return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE);
    default: return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
  }
}

static inline void mp_elem_store(void *p, unsigned width, uint64_t bits) {
  switch (width) {
    case 1: __atomic_store_n((uint8_t *)p, (uint8_t)bits, __ATOMIC_RELEASE); break;
    case 2: __atomic_store_n((uint16_t *)p, (uint16_t)bits, __ATOMIC_RELEASE); break;
    case 4: __atomic_store_n((uint32_t *)p, (uint32_t)bits, __ATOMIC_RELEASE); break;
    default: __atomic_store_n((uint64_t *)p, bits, __ATOMIC_RELEASE); break;
  }
}

/* Replaces *old by `bits`; false, and what is there in *old, when it was another.
 * Sequentially consistent. */
bool mp_elem_swap(void *p, unsigned width, uint64_t *old, uint64_t bits);

/* Adds n to the element at p, by one atomic step.  0 and the new bits in *sum; ERANGE
 * or EDOM with nothing changed, and in *sum the bits that n could not be added to. */
int mp_elem_add(void *p, enum mp_elem e, struct mp_num n, uint64_t *sum);
/* The same where a lock keeps others out. */
int mp_elem_add_locked(void *p, enum mp_elem e, struct mp_num n, uint64_t *sum);

/* Stores `bits` when the element equals `old` (mp_elem_equal); was it so? */
bool mp_elem_exchange(void *p, enum mp_elem e, uint64_t old, uint64_t bits);
bool mp_elem_exchange_locked(void *p, enum mp_elem e, uint64_t old, uint64_t bits);

/* Stores `bits` into n elements from p on. */
void mp_elem_fill(void *p, unsigned width, size_t n, uint64_t bits);
/* Copies n bytes between shared and private memory, elements of `width` in one piece
 * each; both sides lie at multiples of it. */
void mp_cell_copy(void *dst, const void *src, size_t n, unsigned width);

/* What a cell is to be; the argument of mp_cell_init.  layout: NULL without fields. */
struct mp_cell_plan {
  char code;
  uint8_t flags;
  uint32_t stride;
  uint64_t n;
  const struct mp_layout *layout;
};

/* The bytes of such a cell, or 0 when they are too many to be counted. */
size_t mp_cell_size(const struct mp_cell_plan *p);
/* Fills the zeroed block of a new cell; for mp_object_make. */
void mp_cell_init(void *cell, void *plan);

static inline const struct mp_layout *mp_cell_layout(const struct mp_cell *c) {
  return (const struct mp_layout *)(const void *)(c + 1);
}
/* The first element or record. */
static inline void *mp_cell_data(struct mp_cell *c) {
  return (char *)(c + 1) + (c->code ? 0 : mp_cell_layout(c)->size);
}

/* A field as it is declared. */
struct mp_field_def {
  const char *name;
  size_t len;
  uint32_t cap;
  char code;
};

/* The bytes of the layout of `n` fields, a multiple of 8. */
uint32_t mp_layout_size(const struct mp_field_def *defs, unsigned n);
/* Writes it to `out`.  0; EEXIST: a name comes twice, *culprit says which of the
 * definitions; EOVERFLOW: with that one a record is larger than MP_RECORD_MAX. */
int mp_layout_make(struct mp_layout *out, const struct mp_field_def *defs, unsigned n,
                   uint32_t *stride, unsigned *culprit);

static inline const char *mp_field_name(const struct mp_layout *l, const struct mp_field *f) {
  return (const char *)l + f->name;
}
/* The field of that name, NULL when there is none. */
const struct mp_field *mp_layout_find(const struct mp_layout *l, const char *name, size_t len);

/* The bytes of a text with room for `cap`, and of a buffer to load one into. */
static inline uint32_t mp_text_half(uint32_t cap) { return (cap + 7) & ~7u; }
static inline uint32_t mp_text_size(uint32_t cap) {
  return (uint32_t)sizeof(struct mp_text) + 2 * mp_text_half(cap);
}
/* Sets a text; len <= cap. */
void mp_text_store(struct mp_text *t, uint32_t cap, const char *s, uint32_t len);
/* Where the text begins that is there now; for one that nobody changes meanwhile. */
static inline const char *mp_text_in(const struct mp_text *t, uint32_t cap) {
  uint64_t word = atomic_load_explicit(&t->word, memory_order_relaxed);
  return (const char *)t->data + (word >> 32 & 1) * mp_text_half(cap);
}
/* Copies a text to `buf` (mp_text_half(cap) bytes, at a multiple of 8); its length. */
uint32_t mp_text_load(const struct mp_text *t, uint32_t cap, void *buf);

/* Copies a record out of a cell into private memory, and the other way.  Every field
 * is whole. */
void mp_record_load(const struct mp_layout *l, void *dst, const void *src);
void mp_record_store(const struct mp_layout *l, void *dst, const void *src);

#endif
