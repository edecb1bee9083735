/* Drives cells without Lua: what fits where, sums at the edges, layouts, and elements and
 * texts under threads that write them at once and writers that are killed after every
 * instruction. */
#include "ipc/cell.h"
#include "check.h"
#include <math.h>
#include <pthread.h>

static const char codes[] = "cbBhHiIlLqQfd";

static enum mp_elem elem(char code) { return (enum mp_elem)mp_elem_of(code); }
static struct mp_num whole(int64_t i) { return (struct mp_num){false, {.i = i}}; }
static struct mp_num real(double d) { return (struct mp_num){true, {.d = d}}; }

/* ---- what fits ---- */

static void check_range(char code, int64_t low, int64_t high) {
  enum mp_elem e = elem(code);
  uint64_t bits = 77;
  CHECK(mp_elem_from_int(e, low, &bits) == 0 && mp_elem_num(e, bits).i == low);
  CHECK(mp_elem_sum(e, bits, whole(-1), &bits) == ERANGE);
  CHECK(mp_elem_num(e, bits).i == low);
  CHECK(mp_elem_from_int(e, high, &bits) == 0 && mp_elem_num(e, bits).i == high);
  CHECK(mp_elem_sum(e, bits, whole(1), &bits) == ERANGE);
  CHECK(mp_elem_sum(e, bits, real(1), &bits) == ERANGE);
  CHECK(mp_elem_num(e, bits).i == high);
  CHECK(mp_elem_sum(e, bits, whole(-1), &bits) == 0 && mp_elem_num(e, bits).i == high - 1);
  CHECK(mp_elem_sum(e, bits, whole(INT64_MAX), &bits) == ERANGE);
  if (low > INT64_MIN) CHECK(mp_elem_from_int(e, low - 1, &bits) == ERANGE);
  if (high < INT64_MAX) CHECK(mp_elem_from_int(e, high + 1, &bits) == ERANGE);
  CHECK(mp_elem_from_float(e, 1.5, &bits) == EDOM);
  CHECK(mp_elem_from_float(e, NAN, &bits) == EDOM);
  CHECK(mp_elem_from_float(e, INFINITY, &bits) == EDOM);
  CHECK(mp_elem_from_float(e, 1e300, &bits) == ERANGE);
  CHECK(mp_elem_from_float(e, -1e300, &bits) == ERANGE);
  CHECK(mp_elem_sum(e, bits, real(0.5), &bits) == EDOM);
  CHECK(mp_elem_sum(e, bits, real(1e300), &bits) == ERANGE);
  CHECK(mp_elem_from_float(e, 100, &bits) == 0 && mp_elem_num(e, bits).i == 100);
}

static void check_large_unsigned(void) {
  uint64_t bits = 0;
  CHECK(mp_elem_from_int(MP_U64, INT64_MAX, &bits) == 0);
  CHECK(mp_elem_from_int(MP_U64, -1, &bits) == ERANGE);
  CHECK(mp_elem_from_float(MP_U64, 0x1p63, &bits) == 0 && bits == UINT64_C(1) << 63);
  CHECK(mp_elem_num(MP_U64, bits).is_float && mp_elem_num(MP_U64, bits).d == 0x1p63);
  CHECK(mp_elem_from_float(MP_U64, 0x1p64, &bits) == ERANGE);
  CHECK(mp_elem_sum(MP_U64, bits, whole(-1), &bits) == 0 && bits == INT64_MAX);
  CHECK(mp_elem_sum(MP_U64, bits, real(0x1p63), &bits) == 0 && bits == UINT64_MAX);
  CHECK(mp_elem_sum(MP_U64, bits, whole(1), &bits) == ERANGE && bits == UINT64_MAX);
  CHECK(mp_elem_sum(MP_U64, bits, real(-0x1p63), &bits) == 0 && bits == INT64_MAX);
  CHECK(mp_elem_sum(MP_U64, 5, whole(-6), &bits) == ERANGE);
  CHECK(mp_elem_equal(MP_U64, UINT64_MAX, UINT64_MAX - 1)); /* one float for both */
  CHECK(!mp_elem_equal(MP_U64, 1, 2));
}

static void check_floats(void) {
  uint64_t a = 0, b = 0;
  CHECK(mp_elem_from_float(MP_F32, 1e39, &a) == ERANGE);
  CHECK(mp_elem_from_float(MP_F32, INFINITY, &a) == 0 && isinf(mp_elem_num(MP_F32, a).d));
  CHECK(mp_elem_from_float(MP_F32, NAN, &a) == 0 && isnan(mp_elem_num(MP_F32, a).d));
  CHECK(!mp_elem_equal(MP_F32, a, a));
  CHECK(mp_elem_from_float(MP_F32, 0.1, &a) == 0 && mp_elem_num(MP_F32, a).d == (double)0.1f);
  CHECK(mp_elem_from_float(MP_F32, 3e38, &a) == 0);
  CHECK(mp_elem_sum(MP_F32, a, real(3e38), &a) == ERANGE);
  CHECK(mp_elem_from_float(MP_F64, 0.0, &a) == 0 && mp_elem_from_float(MP_F64, -0.0, &b) == 0);
  CHECK(a != b && mp_elem_equal(MP_F64, a, b));
  CHECK(mp_elem_sum(MP_F64, a, whole(2), &b) == 0 && mp_elem_num(MP_F64, b).d == 2);
}

static void check_numbers(void) {
  check_range('b', INT8_MIN, INT8_MAX);
  check_range('B', 0, UINT8_MAX);
  check_range('h', INT16_MIN, INT16_MAX);
  check_range('H', 0, UINT16_MAX);
  check_range('i', INT32_MIN, INT32_MAX);
  check_range('I', 0, UINT32_MAX);
  check_range('l', INT64_MIN, INT64_MAX);
  check_range('q', INT64_MIN, INT64_MAX);
  check_large_unsigned();
  check_floats();
  CHECK(mp_elem_of('z') == -1 && mp_elem_of(0) == -1 && mp_elem_of('u') == -1);
}

/* Every element beside every other stays as it was. */
static void check_stores(void) {
  uint64_t words[4];
  for (const char *c = codes; *c; c++) {
    unsigned width = mp_elem_width(elem(*c));
    uint64_t all = width == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * width) - 1, old = all;
    for (unsigned k = 0; k < sizeof words / width; k++) {
      char *at = (char *)words + k * width;
      memset(words, 0x5a, sizeof words);
      mp_elem_store(at, width, all);
      CHECK(mp_elem_load(at, width) == all);
      CHECK(mp_elem_swap(at, width, &old, 3) && mp_elem_load(at, width) == 3);
      CHECK(!mp_elem_swap(at, width, &old, 4) && old == 3);
      old = all;
      size_t kept = 0;
      for (size_t i = 0; i < sizeof words; i++) kept += ((char *)words)[i] == 0x5a;
      CHECK(kept == sizeof words - width);
    }
  }
}

static void check_copies(void) {
  char from[80] __attribute__((aligned(8))), to[80] __attribute__((aligned(8)));
  for (int i = 0; i < 80; i++) from[i] = (char)(i + 1);
  for (unsigned width = 1; width <= 8; width *= 2)
    for (size_t i = 0; i < 24; i += width)
      for (size_t j = 0; j < 24; j += width)
        for (size_t n = 0; n <= 48; n += width) {
          memset(to, 0, sizeof to);
          mp_cell_copy(to + j, from + i, n, width);
          CHECK(memcmp(to + j, from + i, n) == 0);
          CHECK(to[j + n] == 0 && (j == 0 || to[j - 1] == 0));
        }
}

/* ---- layouts ---- */

static void check_layouts(void) {
  struct mp_field_def defs[] = {{"b", 1, 0, 'b'}, {"x", 1, 0, 'd'},  {"name", 4, 5, 'c'},
                                {"h", 1, 0, 'h'}, {"a", 1, 0, 'c'}};
  uint64_t room[64];
  struct mp_layout *l = (void *)room;
  uint32_t stride;
  unsigned culprit;
  CHECK(mp_layout_size(defs, 5) <= sizeof room);
  CHECK(mp_layout_make(l, defs, 5, &stride, &culprit) == 0);
  CHECK(l->nfields == 5 && l->size % 8 == 0);
  for (unsigned k = 0; k < 5; k++) {
    const struct mp_field *f = mp_layout_find(l, defs[k].name, defs[k].len);
    CHECK(f == &l->fields[k] && f->code == defs[k].code && f->cap == defs[k].cap);
  }
  CHECK(!mp_layout_find(l, "nam", 3) && !mp_layout_find(l, "names", 5));
  CHECK(!mp_layout_find(l, "", 0) && !mp_layout_find(l, "zz", 2));
  CHECK(l->fields[1].at == 8 && l->fields[2].at == 16 && l->fields[3].at == 40);
  CHECK(l->fields[4].at == 42 && stride == 48);
  defs[4].name = "x";
  CHECK(mp_layout_make(l, defs, 5, &stride, &culprit) == EEXIST && culprit == 4);
  struct mp_cell_plan p = {.code = 'd', .stride = 8, .n = UINT64_MAX / 8};
  CHECK(mp_cell_size(&p) == 0);
  p.n = 3;
  CHECK(mp_cell_size(&p) == sizeof(struct mp_cell) + 24);
}

/* ---- threads ---- */

#define TURNS 20000
#define TEXT 37

static struct {
  uint64_t elems[sizeof codes];
  uint64_t text[1 + 2 * 5];
  _Atomic int done;
} shared;

static void *add_all(void *arg) {
  uint64_t sum;
  for (int k = 0; k < TURNS; k++)
    for (int i = 1; codes[i]; i++) /* up and down, so that small ones never overflow */
      if (mp_elem_add(&shared.elems[i], elem(codes[i]), whole(1), &sum) != 0 ||
          mp_elem_add(&shared.elems[i], elem(codes[i]), whole(-1), &sum) != 0)
        return arg;
  return NULL;
}

static void *exchange_all(void *arg) {
  for (int k = 0; k < TURNS; k++)
    for (;;) {
      uint64_t old = mp_elem_load(&shared.elems[0], 8);
      if (mp_elem_exchange(&shared.elems[0], MP_I64, old, old + 1)) break;
    }
  return arg;
}

/* Writes "aaaa", "bbb..." of lengths that change. */
static void *write_texts(void *arg) {
  char s[TEXT];
  for (int k = 0; k < TURNS; k++) {
    uint32_t len = (uint32_t)k % (TEXT + 1);
    memset(s, 'a' + (int)len % 26, len);
    mp_text_store((void *)shared.text, TEXT, s, len);
  }
  atomic_store(&shared.done, 1);
  return arg;
}

static long torn_text(const struct mp_text *t) {
  uint64_t buf[5];
  uint32_t len = mp_text_load(t, TEXT, buf);
  if (len > TEXT) return 1;
  for (uint32_t k = 0; k < len; k++)
    if (((char *)buf)[k] != 'a' + (int)len % 26) return 1;
  return 0;
}

static void *read_texts(void *arg) {
  long torn = 0;
  while (!atomic_load(&shared.done)) torn += torn_text((void *)shared.text);
  return torn ? arg : NULL;
}

static void run_both(void *(*one)(void *), void *(*other)(void *)) {
  pthread_t a, b;
  void *ra, *rb;
  pthread_create(&a, NULL, one, &shared);
  pthread_create(&b, NULL, other, &shared);
  pthread_join(a, &ra);
  pthread_join(b, &rb);
  if (one != write_texts && one != exchange_all) CHECK(ra == NULL);
  if (other != exchange_all) CHECK(rb == NULL);
}

static void *add_wide(void *arg) {
  static const char wide[] = "iIlLqQfd";
  uint64_t sum;
  for (int k = 0; k < TURNS; k++)
    for (int i = 0; wide[i]; i++)
      if (mp_elem_add(&shared.elems[i + 1], elem(wide[i]), whole(1), &sum) != 0) return arg;
  return NULL;
}

static void check_threads(void) {
  static const char wide[] = "iIlLqQfd";
  run_both(exchange_all, exchange_all);
  CHECK(shared.elems[0] == 2 * TURNS);
  run_both(add_wide, add_wide);
  for (int i = 0; wide[i]; i++) {
    struct mp_num n = mp_elem_num(elem(wide[i]), shared.elems[i + 1]);
    CHECK(n.is_float ? n.d == 2.0 * TURNS : n.i == 2 * TURNS);
  }
  memset(shared.elems, 0, sizeof shared.elems);
  run_both(add_all, add_all);
  for (int i = 1; codes[i]; i++) CHECK(shared.elems[i] == 0);
  run_both(write_texts, read_texts);
}

/* ---- kill points ---- */

#define TAKE(c)                                                                            \
  __extension__({                                                                          \
    int e_;                                                                                \
    while ((e_ = mp_rlock_take(&(c)->rlock, me.word, MP_FOREVER)) == EINTR) {}             \
    e_;                                                                                    \
  })

static mp_ref record;
static struct mp_layout *layout;
static uint64_t image_a[16], image_b[16];
static const struct mp_field *fx, *fn;

static struct mp_cell *cell(void) { return mp_at(record); }
static char *place(const struct mp_field *f) { return (char *)mp_cell_data(cell()) + f->at; }

static void make_image(void *image, double x, const char *name) {
  uint64_t bits;
  mp_elem_from_float(MP_F64, x, &bits);
  mp_elem_store((char *)image + fx->at, 8, bits);
  mp_text_store((void *)((char *)image + fn->at), TEXT, name, (uint32_t)strlen(name));
}

static void prepare(void) {
  int e = TAKE(cell());
  CHECK(e == 0 || e == EOWNERDEAD);
  mp_record_store(layout, mp_cell_data(cell()), image_a);
  CHECK(mp_rlock_release(&cell()->rlock, me.word) == 0);
}

static void replace(void) {
  TAKE(cell());
  mp_record_store(layout, mp_cell_data(cell()), image_b);
  mp_rlock_release(&cell()->rlock, me.word);
}

static void add_often(void) {
  uint64_t sum;
  for (int k = 0; k < 3; k++) {
    TAKE(cell());
    TAKE(cell());
    mp_elem_add_locked(place(fx), MP_F64, whole(1), &sum);
    mp_rlock_release(&cell()->rlock, me.word);
    mp_rlock_release(&cell()->rlock, me.word);
  }
}

static double x_now(void) { return mp_elem_num(MP_F64, mp_elem_load(place(fx), 8)).d; }

/* Both fields are one or the other, and the lock can be had. */
static void check_replaced(void) {
  char name[TEXT + 8] __attribute__((aligned(8)));
  int e = TAKE(cell());
  CHECK(e == 0 || e == EOWNERDEAD);
  CHECK(cell()->rlock.count == 1);
  uint32_t len = mp_text_load((void *)place(fn), TEXT, name);
  CHECK((len == 5 && memcmp(name, "first", 5) == 0) ||
        (len == 30 && memcmp(name, "the second, a longer one......", 30) == 0));
  CHECK(x_now() == 1 || x_now() == 2);
  CHECK(mp_rlock_release(&cell()->rlock, me.word) == 0);
}

static void check_added(void) {
  int e = TAKE(cell());
  CHECK(e == 0 || e == EOWNERDEAD);
  CHECK(x_now() >= 1 && x_now() <= 4 && floor(x_now()) == x_now());
  CHECK(mp_rlock_release(&cell()->rlock, me.word) == 0);
}

/* A cell that is being made belongs to nobody when its maker dies. */
static void make_one(void) {
  uint32_t entry;
  mp_ref r;
  struct mp_cell_plan p = {.code = 'd', .stride = 8, .n = 1000};
  mp_object_make(mp_cell_size(&p), MP_KIND_ARRAY, &me, mp_cell_init, &p, &entry, &r);
  mp_drop(entry, &me);
}

static size_t used_before;
static void remember(void) {
  mp_look_around(&me);
  mp_collect(&me);
  used_before = arena_used();
}
static void check_swept(void) {
  for (uint32_t i = 0; i < mp_slots_used(); i += 8) mp_look_around(&me);
  mp_collect(&me);
  CHECK(arena_used() <= used_before);
}

static void check_kills(void) {
  struct mp_field_def defs[] = {{"x", 1, 0, 'd'}, {"name", 4, TEXT, 'c'}};
  uint64_t room[32];
  unsigned culprit;
  uint32_t entry, stride;
  layout = (void *)room;
  CHECK(mp_layout_make(layout, defs, 2, &stride, &culprit) == 0);
  CHECK(stride <= sizeof image_a);
  fx = &layout->fields[0];
  fn = &layout->fields[1];
  make_image(image_a, 1, "first");
  make_image(image_b, 2, "the second, a longer one......");
  struct mp_cell_plan p = {.stride = stride, .n = 1, .layout = layout};
  CHECK(mp_object_make(mp_cell_size(&p), MP_KIND_STRUCT, &me, mp_cell_init, &p, &entry,
                       &record) == 0);
  CHECK(cell()->stride == stride && cell()->n == 1);
  crash_all("replace a record", prepare, replace, check_replaced);
  crash_all("add", prepare, add_often, check_added);
  crash_all("make", remember, make_one, check_swept);
  mp_drop(entry, &me);
}

int main(void) {
  check_numbers();
  check_stores();
  check_copies();
  check_layouts();
  check_threads();
  if (mp_member_open(&me, "cell_check") != 0) return 1;
  make_one(); /* the first table of references stays */
  size_t used = arena_used();
  check_kills();
  mp_collect(&me);
  CHECK(arena_used() <= used);
  mp_member_close(&me, -1);
  return report("cell_check");
}
