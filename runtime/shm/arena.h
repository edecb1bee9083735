/* The arena: one sparse memfd, mapped by every process of the family at the same
 * place, and the allocator of what lies in it.  Blocks are named by offset.
 */
#ifndef MP_SHM_ARENA_H
#define MP_SHM_ARENA_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A block's place: its offset in the arena in units of 16 bytes; 0 is none. */
typedef uint32_t mp_ref;

/* Kinds of blocks.  Objects are what a handle can name: they are counted, and
 * live while a process or a message refers to them.  The others belong to one
 * object or one process. */
enum mp_kind {
  MP_KIND_NONE,
  MP_KIND_QUEUE, /* first of the objects */
  MP_KIND_LIFO,
  MP_KIND_PRIORITY,
  MP_KIND_LOCK,
  MP_KIND_RLOCK,
  MP_KIND_SEMAPHORE,
  MP_KIND_BOUNDED,
  MP_KIND_CONDITION,
  MP_KIND_EVENT,
  MP_KIND_BARRIER,
  MP_KIND_VALUE,
  MP_KIND_ARRAY,
  MP_KIND_STRUCT,
  MP_KIND_PIPE,
  MP_KIND_POOL,
  MP_KIND_FUNCTION, /* what a pool calls, marshalled */
  MP_KIND_OBJECTS, /* objects are below this */
  MP_KIND_CHUNK,   /* a piece of a queue's stream */
  MP_KIND_RUN,     /* one large message */
  MP_KIND_ITEM,    /* an item of a LIFO or priority queue */
  MP_KIND_HEAP,    /* the index of a priority queue */
  MP_KIND_TICKET,  /* the references of a message in a pipe */
  MP_KIND_WATCH,   /* a process that is to be rung when a queue fills */
  MP_KIND_TABLE,   /* part of a process's reference set */
  MP_KINDS
};

/* The head of every block.
 * word: the truth about the block, one store; bits 0-1 state, 2-7 kind, 32-63 `hand` (state NEW: the lock word of the process that has the
 *   block in hand) or `owner` (state LIVE of a kind that is no object: the mp_ref
 *   of the object that it belongs to).  Written by the process that has it in
 *   hand, and by the collector.
 * count: references to an object, under the family lock; never below the truth,
 *   above it only after a kill, until the collector counts anew.
 * mark: the collector's.
 */
struct mp_block {
  _Atomic uint64_t word;
  _Atomic uint32_t count;
  uint32_t mark;
};

/* The head of every object.  serial: unique in the family, never changes.  link:
 * the next object to trace or destroy, under the family lock. */
struct mp_object {
  struct mp_block block;
  uint64_t serial;
  mp_ref link;
  uint32_t unused;
};

enum mp_state { MP_FREE, MP_NEW, MP_LIVE };

static inline enum mp_state mp_block_state(const struct mp_block *b) {
  return (enum mp_state)(atomic_load_explicit(&b->word, memory_order_acquire) & 3);
}
static inline enum mp_kind mp_block_kind(const struct mp_block *b) {
  return (enum mp_kind)(atomic_load_explicit(&b->word, memory_order_acquire) >> 2 & 63);
}

/* Where the arena is mapped in this process; NULL before mp_arena_open. */
extern char *mp_arena_base;

static inline void *mp_at(mp_ref r) { return mp_arena_base + (size_t)r * 16; }
static inline mp_ref mp_ref_of(const void *p) {
  return (mp_ref)((size_t)((const char *)p - mp_arena_base) / 16);
}

/* Maps the arena (once a process; forked children inherit it).  0 or errno. */
int mp_arena_open(void);
int mp_arena_fd(void);

/* The fixed places of the arena: one page for the family, the slots behind it. */
void *mp_arena_family(void);
void *mp_arena_slots(void);
/* Gives memory to the place of slot i.  0 or errno. */
int mp_arena_slot_room(uint32_t i);
#define MP_ARENA_SLOT_BYTES (4096 * 128)

/* `r` is the place of a block that is not free (for numbers from outside). */
bool mp_block_valid(mp_ref r);

/* A block of at least `size` bytes, its head included, in state NEW in the hand of
 * `me` (a lock word).  Alignment: 64, or 32 below 64 bytes.  With `zero` all bytes
 * behind the head are 0, else they are anything.  0 or ENOMEM (nothing changed).
 * Takes the arena's lock; the caller may hold any other lock.  Does not collect:
 * see mp_alloc_hard. */
int mp_alloc(size_t size, enum mp_kind kind, bool zero, uint32_t me, mp_ref *out);

/* Frees a block and empties *r; accepts 0.  Any process may free what it has in
 * hand. */
void mp_free(mp_ref *r, uint32_t me);

/* The bytes that a block really has, head included. */
size_t mp_block_size(mp_ref r);

/* NEW -> LIVE, as a part of `owner` (0 for an object). */
void mp_publish(mp_ref r, mp_ref owner);
/* LIVE -> NEW: takes a part into the hand of `me`, before it is unlinked. */
void mp_adopt(mp_ref r, uint32_t me);

struct mp_arena_stats {
  size_t cap;      /* bytes that the arena may use */
  size_t used;     /* bytes of all blocks in use */
  size_t resident; /* bytes of pages that the kernel holds for it */
  size_t blocks[MP_KINDS];
  size_t bytes[MP_KINDS];
};
void mp_arena_stats(struct mp_arena_stats *out, uint32_t me);

/* More than three quarters are in use.  A hint: takes no lock. */
bool mp_arena_scarce(void);

/* Calls fn on every block that is not free; the arena's lock is held while it
 * runs; fn returns true to have the block freed. */
void mp_arena_each(bool (*fn)(mp_ref r, void *arg), void *arg, uint32_t me);

#endif
