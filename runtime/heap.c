/* The allocator of the command's Lua state.
 *
 * fork copies a page table entry for each page in use: 6.5 ms for a heap of 500 MB in
 * pages of 4 KiB, 0.5 ms in pages of 2 MiB.  Small programs are better off with small
 * pages.  So blocks come from malloc, which takes them from the top of the brk heap,
 * and once the Lua heap is large that part of the address space is given to the
 * kernel as wanting huge pages, bit by bit as it grows.  All of it is advice: where
 * the kernel refuses, fork is slower and nothing else.
 */
#include "heap.h"
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  HUGE_PAGE = 2 << 20,
  LARGE_HEAP = 16 << 20,  /* bytes of Lua's at which huge pages begin */
  TOP_PAD = 32 << 20,     /* what brk grows by then: whole huge pages, few calls */
  MMAP_FROM = 32 << 20,   /* malloc's limit for blocks that it takes from brk */
  LOOK_EVERY = 4096       /* calls until the top is looked at though nothing passed it */
};

/* used: bytes that Lua holds.  top: end of the brk heap when last seen; a block above
 * it says that the heap has grown.  advised: up to here huge pages are asked for (the
 * beginning of the heap at first).  left: calls until the top is looked at though
 * nothing lies above it: the heap may have shrunk and grown again. */
static struct {
  ptrdiff_t used;
  uintptr_t top, advised;
  int left;
  bool large;
} heap;

static void want_huge_pages(uintptr_t from, uintptr_t to) {
  from = (from + HUGE_PAGE - 1) & -(uintptr_t)HUGE_PAGE;
  to &= -(uintptr_t)HUGE_PAGE;
  if (from < to) madvise((void *)from, to - from, MADV_HUGEPAGE);
}

/* From now on large blocks come from brk too, and brk moves in large steps. */
static void become_large(void) {
  heap.large = true;
  mallopt(M_MMAP_THRESHOLD, MMAP_FROM);
  mallopt(M_TOP_PAD, TOP_PAD);
  mallopt(M_TRIM_THRESHOLD, 2 * TOP_PAD);
}

/* Takes notice of the heap's top.  Called when `block` lies above the known one, and
 * now and then.  A large block far above it is a mapping of its own. */
static void look(uintptr_t block, size_t size) {
  heap.left = LOOK_EVERY;
  heap.top = (uintptr_t)sbrk(0);
  if (heap.advised == 0 || heap.advised > heap.top) heap.advised = heap.top;
  if (!heap.large && heap.used >= LARGE_HEAP) become_large();
  if (!heap.large) return;
  want_huge_pages(heap.advised, heap.top);
  heap.advised = heap.top & -(uintptr_t)HUGE_PAGE;
  if (block > heap.top && size >= 2 * HUGE_PAGE) want_huge_pages(block, block + size);
}

void *mp_heap_alloc(void *ud, void *p, size_t osize, size_t nsize) {
  (void)ud;
  if (p == NULL) osize = 0; /* it is the kind of object then */
  if (nsize == 0) {
    free(p);
    heap.used -= (ptrdiff_t)osize;
    return NULL;
  }
  void *block = realloc(p, nsize);
  if (block == NULL) return NULL;
  heap.used += (ptrdiff_t)nsize - (ptrdiff_t)osize;
  if ((uintptr_t)block >= heap.top || --heap.left <= 0) look((uintptr_t)block, nsize);
  return block;
}
