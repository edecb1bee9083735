/* Small blocks of the command's Lua heap, which are nearly all of them.
 *
 * A script's objects lie close together, without heads and apart from what C libraries
 * ask malloc for: a fork then copies few pages.  malloc makes the first larger request
 * after a fork sort what was freed before it, and that is a write to nearly every page
 * of a small heap, each of which is copied; here nothing is ever sorted.
 *
 * The blocks lie in spans of one page; a span has blocks of one size, its head counts
 * them, and an empty span may get another size.  In a child the first blocks come, of
 * whatever size, one behind the other from new pages (NURSERY spans, in which nothing is
 * used again): the pages that it shares with its parent stay shared.
 *
 * The address space is reserved at once, without a right to it, so that it counts for no
 * limit; memory comes in steps.  Where there is no room there are no small blocks.
 */
#include "small.h"
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum {
  SPAN = 4096,
  UNIT = 16,
  CLASSES = MP_SMALL_MAX / UNIT + 1, /* class: size in units; 0 for a nursery */
  NURSERY_SPANS = 8,                 /* what a child uses before it takes from old spans */
  FIRST_STEP = 256 << 10,
  LAST_STEP = 4 << 20,               /* whole huge pages */
  HUGE_PAGE = 2 << 20
};
#define RESERVED ((size_t)32 << 30)

/* The sanitizers look at malloc's blocks only. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

/* free: blocks that were given back.  fresh: where blocks begin that were never used.
 * used: blocks in use.  next, prev: in the list of its class, while some block is free;
 * next: in the list of empty spans. */
struct span {
  void *free;
  struct span *next, *prev;
  uint16_t fresh, used, class;
};

struct mp_small_place mp_small;
static struct span *partial[CLASSES];
static struct span *empty;
static uintptr_t unused; /* spans were made up to here */
static struct span *nursery;
static int nurseries;    /* spans that it may have still, this one included */
static size_t step = FIRST_STEP;

static size_t bytes_of(unsigned class) { return (size_t)class * UNIT; }
static bool is_full(const struct span *s) {
  return !s->free && s->fresh + bytes_of(s->class) > SPAN;
}

/* Whether blocks come from a nursery.  */
static bool nursing(void) { return __builtin_expect(nurseries != 0, false); }

/* In a child: the spans that are its parent's too are left alone for a while. */
static void forked(void) {
  nurseries = NURSERY_SPANS + 1;
  nursery = NULL;
}

static bool reserve(void) {
  static bool tried;
  struct rlimit r;
  if (tried || SANITIZED) return false;
  tried = true;
  if (getrlimit(RLIMIT_AS, &r) != 0 || r.rlim_cur != RLIM_INFINITY) return false;
  char *all = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return false;
  mp_small.base = ((uintptr_t)all + HUGE_PAGE - 1) & -(uintptr_t)HUGE_PAGE;
  mp_small.end = (uintptr_t)all + RESERVED;
  mp_small.top = unused = mp_small.base;
  (void)pthread_atfork(NULL, NULL, forked);
  return true;
}

/* More memory.  The steps grow with what is there. */
static bool grow(void) {
  if (mp_small.base == 0 && !reserve()) return false;
  if (mp_small.end - mp_small.top < step) return false;
  if (mprotect((void *)mp_small.top, step, PROT_READ | PROT_WRITE) != 0) return false;
  mp_small.top += step;
  step = mp_small.top - mp_small.base;
  if (step > LAST_STEP) step = LAST_STEP;
  return true;
}

static struct span *new_span(unsigned class) {
  struct span *s = empty;
  if (s && class != 0) {
    empty = s->next;
  } else {
    if (unused == mp_small.top && !grow()) return NULL;
    s = (struct span *)unused;
    unused += SPAN;
  }
  s->free = NULL;
  s->next = s->prev = NULL;
  s->fresh = sizeof *s;
  s->used = 0;
  s->class = (uint16_t)class;
  return s;
}

static void link_span(struct span *s) {
  s->prev = NULL;
  s->next = partial[s->class];
  if (s->next) s->next->prev = s;
  partial[s->class] = s;
}

static void unlink_span(struct span *s) {
  if (s->prev) s->prev->next = s->next;
  else partial[s->class] = s->next;
  if (s->next) s->next->prev = s->prev;
}

static void *take_fresh(struct span *s, size_t bytes) {
  void *p = (char *)s + s->fresh;
  s->fresh = (uint16_t)(s->fresh + bytes);
  return p;
}

/* NULL: the nursery is over. */
static void *alloc_in_nursery(size_t bytes) {
  if (!nursery || nursery->fresh + bytes > SPAN) {
    nursery = --nurseries > 0 ? new_span(0) : NULL;
    if (!nursery) {
      nurseries = 0;
      return NULL;
    }
  }
  return take_fresh(nursery, bytes);
}

void *mp_small_alloc(size_t size) {
  unsigned class = (unsigned)((size + UNIT - 1) / UNIT);
  if (nursing()) {
    void *p = alloc_in_nursery(bytes_of(class));
    if (p) return p;
  }
  struct span *s = partial[class];
  if (!s) {
    if (!(s = new_span(class))) return NULL;
    link_span(s);
  }
  void *p = s->free;
  if (p) memcpy(&s->free, p, sizeof s->free);
  else p = take_fresh(s, bytes_of(class));
  s->used++;
  if (is_full(s)) unlink_span(s);
  return p;
}

/* A class keeps its last span, though empty. */
static void span_emptied(struct span *s) {
  if (partial[s->class] == s && !s->next) return;
  unlink_span(s);
  s->next = empty;
  empty = s;
}

void mp_small_free(void *p) {
  struct span *s = (struct span *)((uintptr_t)p & -(uintptr_t)SPAN);
  if (s->class == 0) return;
  if (is_full(s)) link_span(s);
  memcpy(p, &s->free, sizeof s->free);
  s->free = p;
  if (--s->used == 0) span_emptied(s);
}
