/* Cells: elements, texts and the layout of records. */
#include "cell.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

_Static_assert(offsetof(struct mp_cell, rlock) == sizeof(struct mp_object),
               "part 1 of a cell is the lock behind its head");
_Static_assert(sizeof(struct mp_cell) == 56, "a Value fills one cache line");

#define TWO_63 9223372036854775808.0
#define TWO_64 (2 * TWO_63)

static const struct {
  unsigned char width;
  const char *range;
} elems[MP_ELEMS] = {
  [MP_CHAR] = {1, "one byte"},
  [MP_I8] = {1, "-128..127"},
  [MP_U8] = {1, "0..255"},
  [MP_I16] = {2, "-32768..32767"},
  [MP_U16] = {2, "0..65535"},
  [MP_I32] = {4, "-2147483648..2147483647"},
  [MP_U32] = {4, "0..4294967295"},
  [MP_I64] = {8, "-9223372036854775808..9223372036854775807"},
  [MP_U64] = {8, "0..18446744073709551615"},
  [MP_F32] = {4, "-3.4028234663852886e+38..3.4028234663852886e+38"},
  [MP_F64] = {8, "any number"},
};

int mp_elem_of(char code) {
  switch (code) {
    case 'c': return MP_CHAR;
    case 'b': return MP_I8;
    case 'B': return MP_U8;
    case 'h': return MP_I16;
    case 'H': return MP_U16;
    case 'i': return MP_I32;
    case 'I': return MP_U32;
    case 'l': case 'q': return MP_I64;
    case 'L': case 'Q': return MP_U64;
    case 'f': return MP_F32;
    case 'd': return MP_F64;
    default: return -1;
  }
}

unsigned mp_elem_width(enum mp_elem e) { return elems[e].width; }
const char *mp_elem_range(enum mp_elem e) { return elems[e].range; }

static uint64_t bits_of_double(double d) {
  uint64_t bits;
  memcpy(&bits, &d, sizeof bits);
  return bits;
}

static double double_of_bits(uint64_t bits) {
  double d;
  memcpy(&d, &bits, sizeof d);
  return d;
}

static uint64_t bits_of_float(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

static float float_of_bits(uint64_t bits) {
  uint32_t low = (uint32_t)bits;
  float f;
  memcpy(&f, &low, sizeof f);
  return f;
}

/* A finite number must stay one: what would be rounded to infinity does not fit. */
static int single(double d, uint64_t *bits) {
  float f = (float)d;
  if (isinf(f) && !isinf(d)) return ERANGE;
  *bits = bits_of_float(f);
  return 0;
}

static int within(int64_t i, int64_t low, int64_t high, uint64_t mask, uint64_t *bits) {
  if (i < low || i > high) return ERANGE;
  *bits = (uint64_t)i & mask;
  return 0;
}

int mp_elem_from_int(enum mp_elem e, int64_t i, uint64_t *bits) {
  switch (e) {
    case MP_CHAR:
    case MP_U8: return within(i, 0, UINT8_MAX, UINT8_MAX, bits);
    case MP_I8: return within(i, INT8_MIN, INT8_MAX, UINT8_MAX, bits);
    case MP_I16: return within(i, INT16_MIN, INT16_MAX, UINT16_MAX, bits);
    case MP_U16: return within(i, 0, UINT16_MAX, UINT16_MAX, bits);
    case MP_I32: return within(i, INT32_MIN, INT32_MAX, UINT32_MAX, bits);
    case MP_U32: return within(i, 0, UINT32_MAX, UINT32_MAX, bits);
    case MP_I64: *bits = (uint64_t)i; return 0;
    case MP_U64: return within(i, 0, INT64_MAX, UINT64_MAX, bits);
    case MP_F32: return single((double)i, bits);
    default: *bits = bits_of_double((double)i); return 0;
  }
}

int mp_elem_from_float(enum mp_elem e, double d, uint64_t *bits) {
  if (e == MP_F64) {
    *bits = bits_of_double(d);
    return 0;
  }
  if (e == MP_F32) return single(d, bits);
  if (!(floor(d) == d) || isinf(d)) return EDOM;
  if (d >= -TWO_63 && d < TWO_63) return mp_elem_from_int(e, (int64_t)d, bits);
  if (e != MP_U64 || d < 0 || d >= TWO_64) return ERANGE;
  *bits = (uint64_t)d;
  return 0;
}

static struct mp_num integer(int64_t i) { return (struct mp_num){false, {.i = i}}; }
static struct mp_num real(double d) { return (struct mp_num){true, {.d = d}}; }

struct mp_num mp_elem_num(enum mp_elem e, uint64_t bits) {
  switch (e) {
    case MP_I8: return integer((int8_t)bits);
    case MP_I16: return integer((int16_t)bits);
    case MP_I32: return integer((int32_t)bits);
    case MP_F32: return real((double)float_of_bits(bits));
    case MP_F64: return real(double_of_bits(bits));
    case MP_U64: if (bits > INT64_MAX) return real((double)bits); /* fallthrough */
    default: return integer((int64_t)bits);
  }
}

bool mp_elem_equal(enum mp_elem e, uint64_t a, uint64_t b) {
  if (e == MP_F64) return double_of_bits(a) == double_of_bits(b);
  if (e == MP_F32) return float_of_bits(a) == float_of_bits(b);
  /* Beyond INT64_MAX Lua sees only the nearest float of either. */
  if (e == MP_U64 && a > INT64_MAX && b > INT64_MAX) return (double)a == (double)b;
  return a == b;
}

/* cur + i in the type of `var`, with the carry of the exact sum noticed. */
#define SUM(type, bits, i, sum)                                                      \
  do {                                                                               \
    type sum_;                                                                       \
    if (__builtin_add_overflow((type)(bits), i, &sum_)) return ERANGE;               \
    *(sum) = (uint64_t)sum_;                                                         \
  } while (0)

static int sum_int(enum mp_elem e, uint64_t bits, int64_t i, uint64_t *sum) {
  switch (e) {
    case MP_I8: SUM(int8_t, bits, i, sum); *sum &= UINT8_MAX; return 0;
    case MP_U8: SUM(uint8_t, bits, i, sum); return 0;
    case MP_I16: SUM(int16_t, bits, i, sum); *sum &= UINT16_MAX; return 0;
    case MP_U16: SUM(uint16_t, bits, i, sum); return 0;
    case MP_I32: SUM(int32_t, bits, i, sum); *sum &= UINT32_MAX; return 0;
    case MP_U32: SUM(uint32_t, bits, i, sum); return 0;
    case MP_I64: SUM(int64_t, bits, i, sum); return 0;
    case MP_U64: SUM(uint64_t, bits, i, sum); return 0;
    default: return EDOM;
  }
}

/* A float that is an integer, too large for int64_t: matters to MP_U64 alone. */
static int sum_large(enum mp_elem e, uint64_t bits, double d, uint64_t *sum) {
  if (e != MP_U64 || fabs(d) >= TWO_64) return ERANGE;
  uint64_t size = (uint64_t)fabs(d);
  bool carry = d < 0 ? __builtin_sub_overflow(bits, size, sum)
                     : __builtin_add_overflow(bits, size, sum);
  return carry ? ERANGE : 0;
}

static inline double as_double(struct mp_num n) { return n.is_float ? n.d : (double)n.i; }

int mp_elem_sum(enum mp_elem e, uint64_t bits, struct mp_num n, uint64_t *sum) {
  uint64_t out;
  int err;
  if (e == MP_F64) {
    *sum = bits_of_double(double_of_bits(bits) + as_double(n));
    return 0;
  }
  if (e == MP_F32) {
    double d = (double)float_of_bits(bits) + as_double(n);
    return single(d, sum);
  }
  if (!n.is_float) err = sum_int(e, bits, n.i, &out);
  else if (!(floor(n.d) == n.d) || isinf(n.d)) return EDOM;
  else if (n.d >= -TWO_63 && n.d < TWO_63) err = sum_int(e, bits, (int64_t)n.d, &out);
  else err = sum_large(e, bits, n.d, &out);
  if (err == 0) *sum = out;
  return err;
}

#define SWAP(type, p, old, bits)                                                     \
  do {                                                                               \
    type seen_ = (type)*(old);                                                       \
    bool done_ = __atomic_compare_exchange_n((type *)(p), &seen_, (type)(bits),      \
                                             false, __ATOMIC_SEQ_CST,                \
                                             __ATOMIC_SEQ_CST);                      \
    *(old) = seen_;                                                                  \
    return done_;                                                                    \
  } while (0)

bool mp_elem_swap(void *p, unsigned width, uint64_t *old, uint64_t bits) {
  switch (width) {
    case 1: SWAP(uint8_t, p, old, bits);
    case 2: SWAP(uint16_t, p, old, bits);
    case 4: SWAP(uint32_t, p, old, bits);
    default: SWAP(uint64_t, p, old, bits);
  }
}

int mp_elem_add(void *p, enum mp_elem e, struct mp_num n, uint64_t *sum) {
  unsigned width = elems[e].width;
  uint64_t old = mp_elem_load(p, width), fresh;
  do {
    int err = mp_elem_sum(e, old, n, &fresh);
    if (err != 0) {
      *sum = old;
      return err;
    }
  } while (!mp_elem_swap(p, width, &old, fresh));
  *sum = fresh;
  return 0;
}

int mp_elem_add_locked(void *p, enum mp_elem e, struct mp_num n, uint64_t *sum) {
  unsigned width = elems[e].width;
  uint64_t old = mp_elem_load(p, width), fresh;
  int err = mp_elem_sum(e, old, n, &fresh);
  if (err == 0) mp_elem_store(p, width, fresh);
  *sum = err == 0 ? fresh : old;
  return err;
}

bool mp_elem_exchange(void *p, enum mp_elem e, uint64_t old, uint64_t bits) {
  unsigned width = elems[e].width;
  uint64_t seen = mp_elem_load(p, width);
  do
    if (!mp_elem_equal(e, seen, old)) return false;
  while (!mp_elem_swap(p, width, &seen, bits));
  return true;
}

bool mp_elem_exchange_locked(void *p, enum mp_elem e, uint64_t old, uint64_t bits) {
  unsigned width = elems[e].width;
  if (!mp_elem_equal(e, mp_elem_load(p, width), old)) return false;
  mp_elem_store(p, width, bits);
  return true;
}

void mp_elem_fill(void *p, unsigned width, size_t n, uint64_t bits) {
  char *at = p;
  for (size_t k = 0; k < n; k++) mp_elem_store(at + k * width, width, bits);
}

/* Words of 8 where both sides allow it (an element lies in one of them), else elements
 * one by one. */
void mp_cell_copy(void *dst, const void *src, size_t n, unsigned width) {
  char *d = dst;
  const char *s = src;
  size_t k = 0;
  unsigned ahead = (unsigned)(-(uintptr_t)d & 7);
  if ((((uintptr_t)d ^ (uintptr_t)s) & 7) == 0 && ahead <= n) {
    for (; k < ahead; k += width) mp_elem_store(d + k, width, mp_elem_load(s + k, width));
    for (; k + 8 <= n; k += 8) {
      uint64_t word = __atomic_load_n((const uint64_t *)(const void *)(s + k),
                                      __ATOMIC_RELAXED);
      __atomic_store_n((uint64_t *)(void *)(d + k), word, __ATOMIC_RELAXED);
    }
  }
  for (; k < n; k += width) mp_elem_store(d + k, width, mp_elem_load(s + k, width));
}

/* ---- cells ---- */

size_t mp_cell_size(const struct mp_cell_plan *p) {
  size_t bytes, head = sizeof(struct mp_cell) + (p->layout ? p->layout->size : 0);
  if (__builtin_mul_overflow((size_t)p->stride, p->n, &bytes) ||
      __builtin_add_overflow(bytes, head, &bytes))
    return 0;
  return bytes;
}

void mp_cell_init(void *cell, void *plan) {
  struct mp_cell *c = cell;
  const struct mp_cell_plan *p = plan;
  c->code = (uint8_t)p->code;
  c->flags = p->flags;
  c->stride = p->stride;
  c->n = p->n;
  if (p->layout) memcpy(c + 1, p->layout, p->layout->size);
}

/* ---- layouts ---- */

static int compare_names(const char *a, size_t alen, const char *b, size_t blen) {
  int order = memcmp(a, b, alen < blen ? alen : blen);
  return order != 0 ? order : (alen > blen) - (alen < blen);
}

uint32_t mp_layout_size(const struct mp_field_def *defs, unsigned n) {
  size_t bytes = sizeof(struct mp_layout) + n * (sizeof(struct mp_field) + sizeof(uint16_t));
  for (unsigned k = 0; k < n; k++) bytes += defs[k].len;
  return (uint32_t)((bytes + 7) & ~(size_t)7);
}

/* Inserts field k, found by name, into the sorted `order` of the k fields before it. */
static bool insert_name(uint16_t *order, const struct mp_field_def *defs, unsigned k) {
  unsigned low = 0, high = k;
  while (low < high) {
    unsigned mid = (low + high) / 2;
    const struct mp_field_def *d = &defs[order[mid]];
    int side = compare_names(defs[k].name, defs[k].len, d->name, d->len);
    if (side == 0) return false;
    if (side < 0) high = mid;
    else low = mid + 1;
  }
  memmove(order + low + 1, order + low, (k - low) * sizeof *order);
  order[low] = (uint16_t)k;
  return true;
}

int mp_layout_make(struct mp_layout *out, const struct mp_field_def *defs, unsigned n,
                   uint32_t *stride, unsigned *culprit) {
  struct mp_field *fields = out->fields;
  uint16_t *order = (uint16_t *)(void *)(fields + n);
  char *names = (char *)(order + n);
  uint64_t at = 0;
  uint32_t widest = 1;
  out->size = mp_layout_size(defs, n);
  out->nfields = n;
  for (unsigned k = 0; k < n; k++) {
    const struct mp_field_def *d = &defs[k];
    uint32_t align = d->cap ? 8 : elems[mp_elem_of(d->code)].width;
    at = (at + align - 1) & ~(uint64_t)(align - 1);
    fields[k] = (struct mp_field){.at = (uint32_t)at, .cap = d->cap, .len = (uint16_t)d->len,
                                  .name = (uint32_t)(names - (char *)out),
                                  .code = (uint8_t)d->code};
    memcpy(names, d->name, d->len);
    names += d->len;
    at += d->cap ? mp_text_size(d->cap) : align;
    if (align > widest) widest = align;
    *culprit = k;
    if (at > MP_RECORD_MAX) return EOVERFLOW;
    if (!insert_name(order, defs, k)) return EEXIST;
  }
  *stride = (uint32_t)((at + widest - 1) & ~(uint64_t)(widest - 1));
  return 0;
}

const struct mp_field *mp_layout_find(const struct mp_layout *l, const char *name,
                                      size_t len) {
  const uint16_t *order = (const uint16_t *)(const void *)(l->fields + l->nfields);
  unsigned low = 0, high = l->nfields;
  while (low < high) {
    unsigned mid = (low + high) / 2;
    const struct mp_field *f = &l->fields[order[mid]];
    int side = compare_names(name, len, mp_field_name(l, f), f->len);
    if (side == 0) return f;
    if (side < 0) high = mid;
    else low = mid + 1;
  }
  return NULL;
}

/* ---- texts ---- */

/* The half that holds the text of `word`. */
static size_t half_of(uint64_t word, uint32_t cap) {
  return (word >> 32 & 1) * (mp_text_half(cap) / 8);
}

void mp_text_store(struct mp_text *t, uint32_t cap, const char *s, uint32_t len) {
  uint64_t word = atomic_load_explicit(&t->word, memory_order_relaxed);
  uint64_t fresh = ((word >> 32) + 1) << 32 | len;
  _Atomic uint64_t *to = t->data + half_of(fresh, cap);
  /* Whoever reads one of the new words has to see the version that made the other
   * half current; pairs with the fence in mp_text_load. */
  atomic_thread_fence(memory_order_release);
  for (uint32_t k = 0; k < len; k += 8) {
    uint64_t piece = 0;
    memcpy(&piece, s + k, len - k < 8 ? len - k : 8);
    atomic_store_explicit(to + k / 8, piece, memory_order_relaxed);
  }
  /* Pairs with the first load in mp_text_load. */
  atomic_store_explicit(&t->word, fresh, memory_order_release);
}

uint32_t mp_text_load(const struct mp_text *t, uint32_t cap, void *buf) {
  for (;;) {
    uint64_t word = atomic_load_explicit(&t->word, memory_order_acquire);
    const _Atomic uint64_t *from = t->data + half_of(word, cap);
    uint32_t len = (uint32_t)word;
    for (uint32_t k = 0; k < len; k += 8) {
      uint64_t piece = atomic_load_explicit(from + k / 8, memory_order_relaxed);
      memcpy((char *)buf + k, &piece, sizeof piece);
    }
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&t->word, memory_order_relaxed) == word) return len;
  }
}

/* ---- records ---- */

static void copy_element(void *dst, const void *src, const struct mp_field *f) {
  unsigned width = elems[mp_elem_of((char)f->code)].width;
  mp_elem_store((char *)dst + f->at, width, mp_elem_load((const char *)src + f->at, width));
}

void mp_record_load(const struct mp_layout *l, void *dst, const void *src) {
  const struct mp_field *f = l->fields;
  for (unsigned k = 0; k < l->nfields; k++, f++) {
    if (f->cap == 0) {
      copy_element(dst, src, f);
      continue;
    }
    struct mp_text *to = (void *)((char *)dst + f->at);
    const void *from = (const char *)src + f->at;
    to->word = mp_text_load(from, f->cap, (void *)to->data);
  }
}

void mp_record_store(const struct mp_layout *l, void *dst, const void *src) {
  const struct mp_field *f = l->fields;
  for (unsigned k = 0; k < l->nfields; k++, f++) {
    if (f->cap == 0) {
      copy_element(dst, src, f);
      continue;
    }
    const struct mp_text *from = (const void *)((const char *)src + f->at);
    mp_text_store((void *)((char *)dst + f->at), f->cap, mp_text_in(from, f->cap),
                  (uint32_t)from->word);
  }
}
