/* The allocator of the command's Lua state.
 *
 * fork copies a page table entry for each page in use: for a heap of 500 MB that is
 * 6.5 to 17 ms in pages of 4 KiB and 0.5 ms in pages of 2 MiB.  Small programs are
 * better off with small pages.  So once the Lua heap is large, huge pages are asked
 * for where it lies:
 *  - small blocks (small.c) lie in a part of the address space of their own;
 *  - others come from malloc, which takes them from the top of the brk heap; that part
 *    of the address space is given away bit by bit as it grows;
 *  - blocks from BIG_BLOCK on (the array or hash part of a big table, a long string)
 *    are mappings of their own that begin at a huge page's boundary.
 * Which of these a block is follows from where it lies or from its size, and Lua says
 * the size.
 * All of it is advice: where the kernel refuses, fork is slower and nothing else.
 */
#include "heap.h"
#include "small.h"
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum {
  HUGE_PAGE = 2 << 20,
  LARGE_HEAP = 16 << 20, /* bytes of Lua's at which huge pages begin */
  BIG_BLOCK = 16 << 20,  /* a power of two below MMAP_FROM */
  MMAP_FROM = 32 << 20,  /* malloc's own limit for mappings: the largest it accepts */
  TOP_PAD = 32 << 20,    /* what brk grows by then: whole huge pages, few calls */
  LOOK_EVERY = 4096
};

/* brk: where huge pages of the brk heap begin.  used: bytes that Lua holds.  small_advised: as advised, of the small blocks.  top: end of the brk heap when last seen; a block above
 * it says that the heap has grown.  advised: up to here huge pages are asked for (the
 * beginning of the heap at first).  left: calls until the top is looked at though
 * nothing lies above it: the heap may have shrunk and grown again. */
static struct {
  ptrdiff_t used;
  uintptr_t brk, top, advised, small_advised;
  int left;
  bool large;
} heap;

static uintptr_t round_down(uintptr_t x) { return x & -(uintptr_t)HUGE_PAGE; }
static uintptr_t round_up(uintptr_t x) { return round_down(x + HUGE_PAGE - 1); }

/* A collection while a child lives writes to every page that the two share, and the kernel
 * takes each huge page apart for it.  They do not come together again by themselves, so
 * what forks cost too much is added up, and when it has come to what gathering costs, that
 * is done before the next one.  In a child nothing is known of all that. */
#define GATHER_NS 250000 /* a huge page */
#define FORK_NS 1000000  /* a large heap in huge pages, at most */
static int64_t fork_began, fork_excess;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void gather(uintptr_t from, uintptr_t to) {
  from = round_up(from), to = round_down(to);
  if (from < to) madvise((void *)from, to - from, MADV_COLLAPSE);
}

static void before_fork(void) {
  int64_t pages = heap.used / HUGE_PAGE;
  if (fork_excess > pages * GATHER_NS) {
    fork_excess = 0;
    gather(mp_small.base, heap.small_advised);
    gather(heap.brk, heap.advised);
  }
  fork_began = now();
}

static void after_fork(void) {
  int64_t took = now() - fork_began;
  if (took > FORK_NS) fork_excess += took;
}

static void in_child(void) { fork_excess = 0; }

/* From now on blocks below BIG_BLOCK come from brk, which moves in large steps. */
static void become_large(void) {
  heap.large = true;
  (void)pthread_atfork(before_fork, after_fork, in_child);
  mallopt(M_MMAP_THRESHOLD, MMAP_FROM);
  mallopt(M_TOP_PAD, TOP_PAD);
  mallopt(M_TRIM_THRESHOLD, 2 * TOP_PAD);
}

/* Asks for huge pages from *advised to `to`, and gathers into such what is there in small
 * pages up to `touched` (0.25 ms each: once for the small heap, later for the first of
 * every step). */
static void advise(uintptr_t *advised, uintptr_t end, uintptr_t touched) {
  uintptr_t from = round_up(*advised), to = round_down(end);
  if (from >= to) return;
  madvise((void *)from, to - from, MADV_HUGEPAGE);
  *advised = to;
  if (touched > to) touched = to;
  if (touched > from) madvise((void *)from, round_up(touched) - from, MADV_COLLAPSE);
}

/* Takes notice of where the brk heap ends.  `touched`: about how far it is in use. */
static void look(uintptr_t touched) {
  heap.left = LOOK_EVERY;
  heap.top = (uintptr_t)sbrk(0);
  if (heap.advised == 0 || heap.advised > heap.top) heap.advised = heap.top;
  if (heap.brk == 0 || heap.brk > heap.top) heap.brk = heap.advised;
  if (!heap.large) {
    if (heap.used < LARGE_HEAP) return;
    become_large();
    touched = heap.top;
  }
  advise(&heap.advised, heap.top, touched);
}

/* Big blocks -------------------------------------------------------------------*/

/* `length` bytes of address space at a huge page's boundary; NULL when there are none.
 * length: whole huge pages. */
static char *reserve(size_t length) {
  char *all = mmap(NULL, length + HUGE_PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return NULL;
  char *block = (char *)round_up((uintptr_t)all);
  size_t before = (size_t)(block - all);
  if (before > 0) munmap(all, before);
  if (before < HUGE_PAGE) munmap(block + length, HUGE_PAGE - before);
  return block;
}

static void *big_alloc(size_t size) {
  if (size > PTRDIFF_MAX - 2 * HUGE_PAGE) return NULL;
  char *block = reserve(round_up(size));
  if (block != NULL) madvise(block, round_up(size), MADV_HUGEPAGE);
  return block;
}

static void big_free(void *p, size_t size) { munmap(p, round_up(size)); }

/* Moves page tables, not bytes: whole huge pages at a time, as both ends of the move
 * lie on their boundaries. */
static void *big_realloc(void *p, size_t osize, size_t nsize) {
  size_t old = round_up(osize), new = round_up(nsize);
  if (new == old) return p;
  void *block = mremap(p, old, new, 0);
  if (block != MAP_FAILED) return block;
  if (nsize > PTRDIFF_MAX - 2 * HUGE_PAGE) return NULL;
  char *to = reserve(new);
  if (to == NULL) return NULL;
  block = mremap(p, old, new, MREMAP_MAYMOVE | MREMAP_FIXED, to);
  if (block != MAP_FAILED) return block;
  munmap(to, new);
  return NULL;
}

/* Blocks of any size -------------------------------------------------------------*/

static void any_free(void *p, size_t size) {
  if (mp_is_small(p))
    mp_small_free(p);
  else if (size >= BIG_BLOCK)
    big_free(p, size);
  else
    free(p);
}

/* A small block, or NULL.  The part that they lie in is looked at when it has grown. */
static inline void *small_alloc(size_t size) {
  uintptr_t top = mp_small.top;
  void *p = mp_small_alloc(size);
  if (__builtin_expect(mp_small.top == top, true)) return p;
  if (heap.small_advised == 0) heap.small_advised = mp_small.base;
  if (heap.used >= LARGE_HEAP) advise(&heap.small_advised, mp_small.top, (uintptr_t)p);
  return p;
}

/* A block that is small before or after.  p may be NULL.  Lua relies on a block that
 * gets smaller: it stays where it is when there is no other. */
static void *resize_small(void *p, size_t osize, size_t nsize) {
  if (mp_is_small(p) && mp_small_room(osize) == mp_small_room(nsize)) return p;
  void *block = nsize <= MP_SMALL_MAX ? small_alloc(nsize) : NULL;
  if (!block) block = !p || mp_is_small(p) ? malloc(nsize) : realloc(p, nsize);
  if (!block) return osize >= nsize ? p : NULL;
  if (!p || (!mp_is_small(p) && !mp_is_small(block))) return block;
  memcpy(block, p, osize < nsize ? osize : nsize);
  any_free(p, osize);
  return block;
}

/* A block that is big before or after.  p may be NULL. */
static void *resize_big(void *p, size_t osize, size_t nsize) {
  if (osize >= BIG_BLOCK && nsize >= BIG_BLOCK) return big_realloc(p, osize, nsize);
  void *block = nsize >= BIG_BLOCK ? big_alloc(nsize) : malloc(nsize);
  if (block == NULL || p == NULL) return block;
  memcpy(block, p, osize < nsize ? osize : nsize);
  any_free(p, osize);
  return block;
}

void *mp_heap_alloc(void *ud, void *p, size_t osize, size_t nsize) {
  void *block;
  (void)ud;
  if (p == NULL) osize = 0; /* it is the kind of object then */
  if (nsize == 0) {
    heap.used -= (ptrdiff_t)osize;
    if (mp_is_small(p)) mp_small_free(p);
    else any_free(p, osize);
    return NULL;
  }
  if (p == NULL && nsize <= MP_SMALL_MAX && (block = small_alloc(nsize)) != NULL) {
    heap.used += (ptrdiff_t)nsize;
    return block;
  }
  if (nsize <= MP_SMALL_MAX || mp_is_small(p)) {
    block = osize < BIG_BLOCK && nsize < BIG_BLOCK ? resize_small(p, osize, nsize)
                                                   : resize_big(p, osize, nsize);
  } else if ((osize | nsize) < BIG_BLOCK) {
    block = realloc(p, nsize);
    if ((uintptr_t)block >= heap.top || --heap.left <= 0)
      look((uintptr_t)block + nsize);
  } else {
    block = resize_big(p, osize, nsize);
  }
  if (block != NULL) heap.used += (ptrdiff_t)nsize - (ptrdiff_t)osize;
  return block;
}
