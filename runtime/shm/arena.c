/* The arena's memory: pages, slabs of small blocks, runs of pages for large ones.
 *
 * The file is laid out as
 *   page 0         struct head (the allocator's own state)
 *   page 1         the family's state
 *   pages 2..129   the process slots
 *   then           the page map, one struct page for every page of the file
 *   then           data pages
 *
 * Truth is the page map's `word`s, read as a chain: the first data page has a word
 * with a type and a length, the next word that counts stands that many pages on,
 * and so on to the end; words in between mean nothing.  A run is split by writing
 * the second half's word first and then the first half's, and joined by one store
 * to the first: at every instant the chain is whole.  In a slab page the blocks'
 * own words tell which are free.  Everything else here is derived and is built anew
 * by `rebuild` when the arena's lock was taken from a dead owner.
 *
 * CLEAN free pages are holes of the file: they cost nothing and read as zeros.
 * They are given memory (fallocate, so that want of memory is an errno and never
 * SIGBUS) before they are used.  DIRTY free pages have memory and any content; they
 * are reused first, and punched out above DIRTY_MAX.
 */
#include "arena.h"
#include "../os/guard.h"
#include "../os/fd.h"
#include "lock.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096u
#define FIXED_PAGES (2 + MP_ARENA_SLOT_BYTES / PAGE)
#define FORMAT 0x6d700001u      /* "mp" and the layout's version */
#define CAP_MIN ((size_t)4 << 20)
#define CAP_MAX ((size_t)60 << 30) /* mp_ref counts 16 bytes in 32 bits */
#define GROW_PAGES 16           /* holes are filled 64 KiB at a time */
#define DIRTY_MAX 8192          /* 32 MiB of free pages keep their memory */
#define PUNCH_MIN 16            /* shorter runs are not worth the call */
#define RESERVE_STEP ((size_t)512 << 10)
#define FIT_TRIES 32            /* runs of the same magnitude looked at */
#define BINS 32

enum page_type { INTERIOR, CLEAN, DIRTY, SLAB, RUN, TAIL };

/* One page of the file.  word: type (bits 0-2), class of a slab (3-7), length in
 * pages (8-31).  TAIL marks the last page of a free run (derived).  slab: index of
 * the first free block (low half), blocks in use (high half), derived.  next, prev:
 * links of the bin or of the class's list, derived.  All under the arena's lock. */
struct page {
  _Atomic uint32_t word;
  uint32_t slab;
  uint32_t next, prev;
};

#define CLASSES 12
static const uint16_t class_size[CLASSES] = {32,  64,  128, 192,  256,  384,
                                             512, 640, 768, 1024, 1344, 2048};
#define NO_BLOCK 0xffffu

/* Page 0.  format, pages, first: set once.  lock: the arena's lock; the rest is
 * derived and under it. */
struct head {
  uint32_t format;
  uint32_t pages; /* pages of the file */
  uint32_t first; /* first data page */
  struct mp_lock lock;
  uint32_t map_filled; /* entries of the map that have memory behind them */
  uint32_t dirty;      /* DIRTY pages */
  uint32_t clean_bins[BINS], dirty_bins[BINS];
  uint32_t partial[CLASSES]; /* slabs with a free block */
  _Atomic uint64_t used;
};

char *mp_arena_base;
static int arena_fd = -1;
static struct head *head;
static struct page *map;

static uint32_t page_word(enum page_type t, uint32_t class, uint32_t n) {
  return (uint32_t)t | class << 3 | n << 8;
}
static uint32_t word_of(uint32_t i) {
  return atomic_load_explicit(&map[i].word, memory_order_acquire);
}
static void set_word(uint32_t i, uint32_t w) {
  atomic_store_explicit(&map[i].word, w, memory_order_release);
}
static enum page_type type_of(uint32_t i) { return (enum page_type)(word_of(i) & 7); }
static uint32_t class_of(uint32_t i) { return word_of(i) >> 3 & 31; }
static uint32_t length_of(uint32_t i) { return word_of(i) >> 8; }
static char *page_at(uint32_t i) { return mp_arena_base + (size_t)i * PAGE; }

/* ---- free runs -------------------------------------------------------------- */

static unsigned bin_of(uint32_t n) { return 31u - (unsigned)__builtin_clz(n); }

static uint32_t *bins_of(enum page_type t) {
  return t == CLEAN ? head->clean_bins : head->dirty_bins;
}

static void link_run(uint32_t i) {
  uint32_t n = length_of(i), *bin = &bins_of(type_of(i))[bin_of(n)];
  map[i].prev = 0;
  map[i].next = *bin;
  if (*bin) map[*bin].prev = i;
  *bin = i;
  if (n > 1) set_word(i + n - 1, page_word(TAIL, 0, n));
  if (type_of(i) == DIRTY) head->dirty += n;
}

static void unlink_run(uint32_t i) {
  uint32_t n = length_of(i), *bin = &bins_of(type_of(i))[bin_of(n)];
  if (map[i].prev) map[map[i].prev].next = map[i].next;
  else *bin = map[i].next;
  if (map[i].next) map[map[i].next].prev = map[i].prev;
  if (n > 1) set_word(i + n - 1, INTERIOR);
  if (type_of(i) == DIRTY) head->dirty -= n;
}

static uint32_t find_run(enum page_type t, uint32_t n) {
  uint32_t *bins = bins_of(t);
  unsigned b = bin_of(n), tries = FIT_TRIES;
  for (uint32_t i = bins[b]; i && tries > 0; i = map[i].next, tries--)
    if (length_of(i) >= n) return i;
  while (++b < BINS)
    if (bins[b]) return bins[b];
  return 0;
}

/* The free run of type `t` that ends just before page i, or 0. */
static uint32_t run_before(uint32_t i, enum page_type t) {
  if (i == head->first) return 0;
  uint32_t w = word_of(i - 1);
  if ((w & 7) == t && w >> 8 == 1) return i - 1;
  if ((w & 7) != TAIL) return 0;
  uint32_t h = i - (w >> 8);
  return type_of(h) == t ? h : 0;
}

/* Makes pages i..i+n-1 a free run of type t, joined with its neighbours of the same
 * type; returns its first page.  The store to the first page's word is the commit. */
static uint32_t give_run(uint32_t i, uint32_t n, enum page_type t) {
  uint32_t after = i + n, before = run_before(i, t), first = i;
  if (after < head->pages && type_of(after) == t) {
    uint32_t m = length_of(after);
    unlink_run(after);
    n += m;
  } else {
    after = 0;
  }
  if (before) {
    uint32_t m = length_of(before);
    unlink_run(before);
    first = before;
    n += m;
  }
  set_word(first, page_word(t, 0, n));
  if (first != i) set_word(i, INTERIOR);
  if (after) set_word(after, INTERIOR);
  link_run(first);
  return first;
}

/* ---- memory behind pages ------------------------------------------------------ */

/* In steps: a signal makes the kernel undo the call, and they may come often. */
static int reserve(size_t from, size_t bytes) {
  for (size_t n; bytes > 0; from += n, bytes -= n) {
    int r;
    n = bytes < RESERVE_STEP ? bytes : RESERVE_STEP;
    do r = fallocate(arena_fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)n);
    while (r != 0 && errno == EINTR);
    if (r != 0) return errno;
  }
  return 0;
}

/* Gives memory to pages i..i+n-1, and to the map's entries that they will need. */
static int populate(uint32_t i, uint32_t n) {
  uint32_t upto = i + n + 1;
  if (upto > head->pages) upto = head->pages;
  if (upto > head->map_filled) {
    size_t from = (size_t)((char *)&map[head->map_filled] - mp_arena_base) & ~(size_t)(PAGE - 1);
    size_t to = (size_t)((char *)&map[upto] - mp_arena_base);
    int e = reserve(from, to - from);
    if (e) return e;
    head->map_filled = upto;
  }
  return reserve((size_t)i * PAGE, (size_t)n * PAGE);
}

/* Punches a DIRTY run out, which makes it CLEAN.  The hole comes first: what is
 * called clean is zero. */
static uint32_t punch(uint32_t i) {
  uint32_t n = length_of(i);
  if (fallocate(arena_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)i * PAGE,
                (off_t)n * PAGE) != 0)
    return i;
  unlink_run(i);
  return give_run(i, n, CLEAN);
}

static void punch_all(void) {
  for (unsigned b = 0; b < BINS; b++)
    while (head->dirty_bins[b]) {
      uint32_t i = head->dirty_bins[b];
      punch(i);
      if (head->dirty_bins[b] == i) return; /* the kernel refused */
    }
}

/* ---- taking pages ------------------------------------------------------------- */

/* Takes n pages of a free run, which stays in the chain until the caller writes the
 * word of its first page; *clean tells whether they are zero.  0 when there are
 * none. */
static uint32_t take_from(enum page_type t, uint32_t n, bool *clean) {
  uint32_t i = find_run(t, n);
  if (!i) return 0;
  uint32_t total = length_of(i), filled = n;
  if (t == CLEAN) {
    filled = n < GROW_PAGES && total >= GROW_PAGES ? GROW_PAGES : n;
    if (populate(i, filled) != 0) {
      filled = n;
      if (populate(i, n) != 0) return 0;
    }
  }
  unlink_run(i);
  if (total > filled) {
    set_word(i + filled, page_word(t, 0, total - filled));
    link_run(i + filled);
  }
  if (filled > n) {
    set_word(i + n, page_word(DIRTY, 0, filled - n));
    link_run(i + n);
  }
  *clean = t == CLEAN;
  return i;
}

static uint32_t take_pages(uint32_t n, bool *clean) {
  uint32_t i = take_from(DIRTY, n, clean);
  if (!i) i = take_from(CLEAN, n, clean);
  if (!i && head->dirty > 0) {
    punch_all();
    i = take_from(CLEAN, n, clean);
  }
  return i;
}

static uint32_t give_pages(uint32_t i, uint32_t n) {
  uint32_t first = give_run(i, n, DIRTY);
  if (head->dirty > DIRTY_MAX && length_of(first) >= PUNCH_MIN) first = punch(first);
  return first;
}

/* ---- slabs --------------------------------------------------------------------- */

static uint32_t slab_blocks(uint32_t class) { return PAGE / class_size[class]; }
static struct mp_block *slab_block(uint32_t i, uint32_t k) {
  return (struct mp_block *)(void *)(page_at(i) + (size_t)k * class_size[class_of(i)]);
}
static void set_slab(uint32_t i, uint32_t first, uint32_t used) {
  map[i].slab = first | used << 16;
}

static void link_slab(uint32_t i, uint32_t class) {
  uint32_t old = head->partial[class];
  map[i].prev = 0;
  map[i].next = old;
  if (old) map[old].prev = i;
  head->partial[class] = i;
}

static void unlink_slab(uint32_t i, uint32_t class) {
  if (map[i].prev) map[map[i].prev].next = map[i].next;
  else head->partial[class] = map[i].next;
  if (map[i].next) map[map[i].next].prev = map[i].prev;
}

/* A free block's `count` is the index of the next free one (derived). */
static void free_into_slab(uint32_t i, uint32_t k) {
  atomic_store_explicit(&slab_block(i, k)->count, map[i].slab & 0xffff, memory_order_relaxed);
}

static uint32_t make_slab(uint32_t class) {
  bool clean;
  uint32_t i = take_pages(1, &clean), n = slab_blocks(class);
  if (!i) return 0;
  for (uint32_t k = 0; k < n; k++) {
    struct mp_block *b = (void *)(page_at(i) + (size_t)k * class_size[class]);
    atomic_store_explicit(&b->word, 0, memory_order_relaxed);
    atomic_store_explicit(&b->count, k + 1 < n ? k + 1 : NO_BLOCK, memory_order_relaxed);
    b->mark = 0;
  }
  set_word(i, page_word(SLAB, class, 1));
  set_slab(i, 0, 0);
  link_slab(i, class);
  return i;
}

/* Under the lock; others only read it (mp_arena_scarce). */
static void count_used(int64_t n) {
  uint64_t used = atomic_load_explicit(&head->used, memory_order_relaxed);
  atomic_store_explicit(&head->used, used + (uint64_t)n, memory_order_relaxed);
}

/* ---- repair --------------------------------------------------------------------- */

/* Returns the page behind it, or behind the free run that it became part of. */
static uint32_t rebuild_slab(uint32_t i) {
  uint32_t class = class_of(i), used = 0;
  set_slab(i, NO_BLOCK, 0);
  for (uint32_t k = slab_blocks(class); k-- > 0;) {
    if (mp_block_state(slab_block(i, k)) != MP_FREE) {
      used++;
      continue;
    }
    free_into_slab(i, k);
    set_slab(i, k, 0);
  }
  set_slab(i, map[i].slab & 0xffff, used);
  count_used((int64_t)used * class_size[class]);
  if (used == 0) {
    uint32_t first = give_run(i, 1, DIRTY);
    return first + length_of(first);
  }
  if (used < slab_blocks(class)) link_slab(i, class);
  return i + 1;
}

/* Joins free neighbours and wipes the words that mean nothing: a killed owner may
 * have written some that it never made part of the chain. */
static void rebuild_chain(void) {
  uint32_t end = head->pages, n, before = 0;
  for (uint32_t i = head->first; i < end; i += n) {
    n = length_of(i);
    enum page_type t = type_of(i);
    uint32_t written = i + n < head->map_filled ? i + n : head->map_filled;
    for (uint32_t j = i + 1; j < written; j++) set_word(j, INTERIOR);
    if (n > 1) set_word(i + n - 1, INTERIOR);
    if (before && type_of(before) == t && (t == CLEAN || t == DIRTY)) {
      set_word(before, page_word(t, 0, length_of(before) + n));
      set_word(i, INTERIOR);
    } else {
      before = i;
    }
  }
}

/* Everything derived from the chain of page words and the blocks' words.  DIRTY runs
 * are punched: a killed owner may have punched one that is not yet called clean. */
static void rebuild(void) {
  memset(head->clean_bins, 0, sizeof head->clean_bins);
  memset(head->dirty_bins, 0, sizeof head->dirty_bins);
  memset(head->partial, 0, sizeof head->partial);
  head->dirty = 0;
  head->used = 0;
  rebuild_chain();
  uint32_t end = head->pages;
  for (uint32_t i = head->first; i < end; i += length_of(i))
    if (type_of(i) == CLEAN || type_of(i) == DIRTY) link_run(i);
  for (uint32_t i = head->first; i < end;) {
    enum page_type t = type_of(i);
    if (t == RUN) count_used((int64_t)length_of(i) * PAGE);
    i = t == SLAB ? rebuild_slab(i) : i + length_of(i);
  }
  punch_all();
}

static void hold(uint32_t me) {
  if (mp_lock_hold(&head->lock, me)) rebuild();
}

/* ---- opening ---------------------------------------------------------------------- */

static size_t read_limit(const char *path) {
  char line[64] = "";
  FILE *f = fopen(path, "re");
  if (!f) return SIZE_MAX;
  char *got = fgets(line, sizeof line, f);
  fclose(f);
  if (!got || line[0] < '0' || line[0] > '9') return SIZE_MAX; /* "max" */
  return (size_t)strtoull(line, NULL, 10);
}

/* MPLUA_SHM: bytes, or with K, M, G behind the number.  0 when unset or no size. */
static size_t wished_cap(void) {
  const char *s = getenv("MPLUA_SHM");
  char *end;
  if (!s || !*s) return 0;
  unsigned long long n = strtoull(s, &end, 10);
  unsigned shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' || *end == 'm' ? 20
                 : *end == 'G' || *end == 'g' ? 30 : 0;
  return n > (ULLONG_MAX >> shift) ? CAP_MAX : (size_t)(n << shift);
}

static size_t choose_cap(void) {
  struct rlimit r;
  size_t cap = wished_cap();
  if (cap == 0) {
    size_t ram = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t v2 = read_limit("/sys/fs/cgroup/memory.max");
    size_t v1 = read_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    if (v2 < ram) ram = v2;
    if (v1 < ram) ram = v1;
    if (getrlimit(RLIMIT_AS, &r) == 0 && r.rlim_cur < ram) ram = (size_t)r.rlim_cur;
    cap = ram / 2; /* the other half is private memory */
  }
  /* growing a file past it kills with SIGXFSZ */
  if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY && r.rlim_cur < cap)
    cap = (size_t)r.rlim_cur;
  if (cap < CAP_MIN) cap = CAP_MIN;
  if (cap > CAP_MAX) cap = CAP_MAX;
  return cap & ~(size_t)(PAGE - 1);
}

/* Memory for the head, the family, the first slots and both ends of the page map;
 * then one clean run of everything. */
static int set_up(size_t cap) {
  size_t map_at = (size_t)FIXED_PAGES * PAGE, pages = cap / PAGE;
  size_t map_pages = (pages * sizeof(struct page) + PAGE - 1) / PAGE;
  int e = reserve(0, 3 * PAGE);
  if (!e) e = reserve(map_at + (FIXED_PAGES + map_pages) * sizeof(struct page) / PAGE * PAGE, PAGE);
  if (!e) e = reserve(map_at + (map_pages - 1) * PAGE, PAGE);
  if (e) return e;
  head = (struct head *)(void *)mp_arena_base;
  map = (struct page *)(void *)(mp_arena_base + map_at);
  head->pages = (uint32_t)pages;
  head->first = (uint32_t)(FIXED_PAGES + map_pages);
  head->map_filled = head->first + 1;
  set_word(head->first, page_word(CLEAN, 0, head->pages - head->first));
  link_run(head->first);
  head->format = FORMAT;
  return 0;
}

static int map_file(size_t *cap) {
  void *p = MAP_FAILED;
  for (; *cap >= CAP_MIN; *cap = *cap / 2 & ~(size_t)(PAGE - 1)) { /* ulimit -v */
    p = mmap(NULL, *cap, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, arena_fd, 0);
    if (p != MAP_FAILED) break;
  }
  if (p == MAP_FAILED) return ENOMEM;
  (void)madvise(p, *cap, MADV_DONTDUMP);
  mp_arena_base = p;
  return 0;
}

static int open_locked(void) {
  int e = 0;
  size_t cap = choose_cap();
  struct rlimit r;
  if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur < CAP_MIN) return EFBIG;
  arena_fd = mp_fd_high(memfd_create("mplua", MFD_CLOEXEC));
  if (arena_fd < 0) return errno;
  if (ftruncate(arena_fd, (off_t)cap) != 0) {
    e = errno;
    goto fail;
  }
  e = map_file(&cap);
  if (!e) e = set_up(cap);
  if (!e) return 0;
fail:
  if (mp_arena_base) munmap(mp_arena_base, cap);
  mp_arena_base = NULL;
  mp_fd_close(&arena_fd);
  return e;
}

static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
__attribute__((constructor)) static void guard(void) { mp_guard(MP_GUARD_ARENA, &once); }

int mp_arena_open(void) {
  pthread_mutex_lock(&once);
  int e = mp_arena_base ? 0 : open_locked();
  pthread_mutex_unlock(&once);
  return e;
}

int mp_arena_fd(void) { return arena_fd; }
void *mp_arena_family(void) { return mp_arena_base + PAGE; }
void *mp_arena_slots(void) { return mp_arena_base + 2 * PAGE; }
int mp_arena_slot_room(uint32_t i) {
  static _Thread_local uint32_t reserved = 1; /* pages of slots, as far as we know */
  uint32_t page = i * 128 / PAGE;
  if (page < reserved) return 0;
  int e = reserve((2 + (size_t)page) * PAGE, PAGE);
  if (!e) reserved = page + 1;
  return e;
}

/* ---- blocks -------------------------------------------------------------------------- */

static uint32_t page_of(mp_ref r) { return (uint32_t)((size_t)r * 16 / PAGE); }

static uint64_t block_word(enum mp_state s, enum mp_kind kind, uint32_t high) {
  return (uint64_t)s | (uint64_t)kind << 2 | (uint64_t)high << 32;
}

static struct mp_block *take_block(uint32_t class, enum mp_kind kind, uint32_t me) {
  uint32_t i = head->partial[class];
  if (!i && !(i = make_slab(class))) return NULL;
  uint32_t k = map[i].slab & 0xffff, used = (map[i].slab >> 16) + 1;
  struct mp_block *b = slab_block(i, k);
  set_slab(i, atomic_load_explicit(&b->count, memory_order_relaxed), used);
  if ((map[i].slab & 0xffff) == NO_BLOCK) unlink_slab(i, class);
  count_used(class_size[class]);
  b->mark = 0;
  atomic_store_explicit(&b->count, 0, memory_order_relaxed);
  atomic_store_explicit(&b->word, block_word(MP_NEW, kind, me), memory_order_release);
  return b;
}

static struct mp_block *take_run(uint32_t n, enum mp_kind kind, uint32_t me, bool *clean) {
  uint32_t i = take_pages(n, clean);
  if (!i) return NULL;
  struct mp_block *b = (struct mp_block *)(void *)page_at(i);
  b->mark = 0;
  atomic_store_explicit(&b->count, 0, memory_order_relaxed);
  atomic_store_explicit(&b->word, block_word(MP_NEW, kind, me), memory_order_release);
  set_word(i, page_word(RUN, 0, n));
  count_used((int64_t)n * PAGE);
  return b;
}

int mp_alloc(size_t size, enum mp_kind kind, bool zero, uint32_t me, mp_ref *out) {
  bool clean = false;
  struct mp_block *b;
  if (size > (size_t)head->pages * PAGE) return ENOMEM;
  uint32_t class = 0;
  while (class < CLASSES && class_size[class] < size) class++;
  hold(me);
  b = class < CLASSES ? take_block(class, kind, me)
                      : take_run((uint32_t)((size + PAGE - 1) / PAGE), kind, me, &clean);
  mp_lock_release(&head->lock);
  if (!b) return ENOMEM;
  if (zero && !clean) memset(b + 1, 0, size - sizeof *b);
  *out = mp_ref_of(b);
  return 0;
}

/* Frees the block; returns the page at which a walk through the chain goes on when
 * its page or run is gone, else 0. */
static uint32_t free_locked(mp_ref r) {
  uint32_t i = page_of(r), class = class_of(i), n = length_of(i);
  struct mp_block *b = mp_at(r);
  if (type_of(i) == RUN) {
    count_used(-(int64_t)n * PAGE);
    uint32_t first = give_pages(i, n);
    return first + length_of(first);
  }
  uint32_t k = (uint32_t)((size_t)r * 16 % PAGE / class_size[class]);
  uint32_t used = (map[i].slab >> 16) - 1;
  atomic_store_explicit(&b->word, 0, memory_order_release);
  count_used(-(int64_t)class_size[class]);
  if ((map[i].slab & 0xffff) == NO_BLOCK) link_slab(i, class);
  free_into_slab(i, k);
  set_slab(i, k, used);
  if (used > 0) return 0;
  unlink_slab(i, class);
  uint32_t first = give_pages(i, 1);
  return first + length_of(first);
}

void mp_free(mp_ref *r, uint32_t me) {
  if (!*r) return;
  hold(me);
  free_locked(*r);
  mp_lock_release(&head->lock);
  *r = 0;
}

size_t mp_block_size(mp_ref r) {
  uint32_t i = page_of(r);
  return type_of(i) == RUN ? (size_t)length_of(i) * PAGE : class_size[class_of(i)];
}

bool mp_block_valid(mp_ref r) {
  uint32_t i = page_of(r);
  if (i < head->first || i >= head->pages) return false;
  size_t off = (size_t)r * 16 % PAGE;
  if (type_of(i) == RUN && off != 0) return false;
  if (type_of(i) == SLAB && off % class_size[class_of(i)] != 0) return false;
  if (type_of(i) != RUN && type_of(i) != SLAB) return false;
  return mp_block_state(mp_at(r)) != MP_FREE;
}

void mp_publish(mp_ref r, mp_ref owner) {
  struct mp_block *b = mp_at(r);
  atomic_store_explicit(&b->word, block_word(MP_LIVE, mp_block_kind(b), owner),
                        memory_order_release);
}

void mp_adopt(mp_ref r, uint32_t me) {
  struct mp_block *b = mp_at(r);
  atomic_store_explicit(&b->word, block_word(MP_NEW, mp_block_kind(b), me),
                        memory_order_release);
}

/* ---- walks ----------------------------------------------------------------------------- */

static uint32_t each_in_slab(uint32_t i, bool (*fn)(mp_ref, void *), void *arg) {
  for (uint32_t k = 0, n = slab_blocks(class_of(i)); k < n; k++) {
    struct mp_block *b = slab_block(i, k);
    if (mp_block_state(b) == MP_FREE || !fn(mp_ref_of(b), arg)) continue;
    uint32_t next = free_locked(mp_ref_of(b));
    if (next) return next;
  }
  return i + 1;
}

static uint32_t each_run(uint32_t i, bool (*fn)(mp_ref, void *), void *arg) {
  mp_ref r = mp_ref_of(page_at(i));
  uint32_t next = i + length_of(i);
  return fn(r, arg) ? free_locked(r) : next;
}

void mp_arena_each(bool (*fn)(mp_ref r, void *arg), void *arg, uint32_t me) {
  hold(me);
  for (uint32_t i = head->first; i < head->pages;) {
    enum page_type t = type_of(i);
    i = t == SLAB ? each_in_slab(i, fn, arg)
      : t == RUN  ? each_run(i, fn, arg)
                  : i + length_of(i);
  }
  mp_lock_release(&head->lock);
}

static bool count_block(mp_ref r, void *arg) {
  struct mp_arena_stats *s = arg;
  enum mp_kind k = mp_block_kind(mp_at(r));
  if (k < MP_KINDS) {
    s->blocks[k]++;
    s->bytes[k] += mp_block_size(r);
  }
  s->used += mp_block_size(r);
  return false;
}

void mp_arena_stats(struct mp_arena_stats *out, uint32_t me) {
  memset(out, 0, sizeof *out);
  out->cap = (size_t)(head->pages - head->first) * PAGE;
  mp_arena_each(count_block, out, me);
  hold(me);
  out->resident = (size_t)head->dirty * PAGE;
  for (uint32_t i = head->first; i < head->pages; i += length_of(i))
    if (type_of(i) == SLAB || type_of(i) == RUN) out->resident += (size_t)length_of(i) * PAGE;
  mp_lock_release(&head->lock);
}

bool mp_arena_scarce(void) {
  uint64_t used = atomic_load_explicit(&head->used, memory_order_relaxed);
  return used > (uint64_t)(head->pages - head->first) * PAGE / 4 * 3;
}
