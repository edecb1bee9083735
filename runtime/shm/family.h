/* The family: who lives, what they refer to, and burying the dead.
 *
 * A member is one Lua state (or host thread) of one process; it has a slot in the
 * arena and a set of references there.  A member is used by one thread at a time.
 *
 * Lock order: family lock -> an object's locks -> the arena's lock.
 */
#ifndef MP_SHM_FAMILY_H
#define MP_SHM_FAMILY_H
#include "arena.h"
#include "lock.h"
#include <sys/types.h>

#define MP_SLOTS 4096 /* slot 0 is nobody */
#define MP_NAME_MAX 32

/* What a process waits for, for whoever looks at night. */
enum mp_label {
  MP_WAIT_NONE, MP_WAIT_GET, MP_WAIT_PUT, MP_WAIT_QUEUE_JOIN, MP_WAIT_LOCK,
  MP_WAIT_SEMAPHORE, MP_WAIT_CONDITION, MP_WAIT_EVENT, MP_WAIT_BARRIER,
  MP_WAIT_CONNECTION, MP_WAIT_PROCESS, MP_WAIT_MANY, MP_WAIT_SLEEP, MP_WAITS
};

/* A process slot, in the arena (128 bytes).
 * word: state (bits 0-2) and generation (bits 3-21): the truth about the slot.
 *   FREE; BORN: filled by the parent, the child has not confirmed; LIVE; DONE: the
 *   process ended in order and gave everything back; DEAD: being buried.
 * pid, start: the process and when it confirmed, in CLOCK_BOOTTIME ns.
 * parent: lock word of the parent.   exit: exit code, valid in DONE.
 * refs: first TABLE of its reference set; the set's entries are written by the
 *   member, under the family lock.
 * busy: not 0 while the member has blocks in hand; a death then wants a collection.
 * wait_on, wait_label: object and reason of the wait in progress; the member's own.
 * wait_next, wait_state: the member's place in a list of waiters (sync.c), under
 *   the lock of the object that holds the list.
 */
struct mp_slot {
  _Atomic uint32_t word;
  _Atomic int32_t pid;
  _Atomic int64_t start;
  _Atomic uint32_t parent;
  _Atomic int32_t exit;
  _Atomic uint32_t refs;
  _Atomic uint32_t busy;
  _Atomic uint32_t wait_on;
  _Atomic uint32_t wait_label;
  _Atomic uint32_t wait_next;
  _Atomic uint32_t wait_state;
  uint32_t spare[8];
  char name[MP_NAME_MAX];
};

/* An entry of a reference set: an object and what the member holds of it: gets
 * that were not marked done (queues), permits that come back (semaphores). */
struct mp_entry {
  _Atomic uint32_t obj;
  _Atomic int32_t held;
};

/* This process was forked by other means than mp_member_fork, after it had joined a family. */
bool mp_forked_by_others(void);

/* A member: private to its process.  word: the lock word, what locks are taken
 * with.  stranger: this process was forked by other means than mp_member_fork, or
 * the member belongs to a thread that the fork left behind. */
struct mp_member {
  uint32_t word;
  struct mp_slot *slot;
  pid_t pid;
  bool stranger;
  struct mp_entry **tables; /* one pointer a TABLE of the set, in order */
  uint32_t *live;           /* entries in use in each table */
  uint32_t ntables;
  uint32_t *spare;          /* entries given back */
  uint32_t nspare, capspare, fresh;
  struct mp_member *next;   /* the members of this process */
};

static inline uint32_t mp_word_slot(uint32_t word) { return word & 0xfff; }

/* Joins the family (maps the arena when this is the first); from any thread.  0, ENOMEM, EAGAIN
 * (4,095 processes live already) or another errno. */
int mp_member_open(struct mp_member *m, const char *name);
/* Gives back all references and the slot.  `exit`: the exit code to leave for the
 * parent, or -1 when the slot can be used again at once.  Idempotent. */
void mp_member_close(struct mp_member *m, int exit);

/* fork(2) into the family: as `fork`, and the child has a slot of its own with
 * the same references.  `m` becomes the child's member in the child.  `*word`: the
 * child's lock word, in the parent; 0 when the family has no slot (EAGAIN) or no shared memory
 * (ENOMEM) for it, something else when it is the kernel that refuses.  All signals must be blocked.  In the child
 * returns 0 in *pid; if the family does not know it any more it exits. */
int mp_member_fork(struct mp_member *m, const char *name, pid_t *pid, uint32_t *word);

/* The process behind a lock word lives.  Does not trust a parent to reap: a zombie
 * is dead.  Cheap (170 ns) when it lives. */
bool mp_alive(uint32_t word);

/* The process has given everything back and said how it ends, but is there still. */
bool mp_leaving(uint32_t word);
/* Buries one that died: wakes who waits for it, gives back its references.  Takes
 * the family lock; no lock may be held.  `exit`: filled with the code that it left
 * or -1.  Nothing happens when it lives or was buried before. */
void mp_bury(uint32_t word, struct mp_member *me, int *exit);
/* Looks at some slots in turn and buries the dead among them.  Called by those who
 * wait, once a slice.  No lock may be held. */
void mp_look_around(struct mp_member *me);
#define MP_LOOK_AROUND 8 /* so many slots a call */
/* How many members died without closing; grows.  */
uint32_t mp_deaths(void);

/* The family lock; the second form of taking collects when its owner died. */
void mp_family_lock(struct mp_member *me);
void mp_family_unlock(void);
/* Counts references anew from live slots through messages, frees what nobody
 * refers to.  Takes the family lock; no lock may be held. */
void mp_collect(struct mp_member *me);
/* As mp_alloc; when memory is short collects and tries again.  No lock held. */
int mp_alloc_hard(size_t size, enum mp_kind kind, bool zero, struct mp_member *me,
                  mp_ref *out);

/* Makes an object: a zeroed block of `size` bytes with its first reference.
 * `init(p, arg)` (may be NULL) fills it before it is published; it runs under the
 * family lock, so it is short and takes no lock but the arena's.  No lock may be held
 * by the caller.  0 or ENOMEM. */
int mp_object_make(size_t size, enum mp_kind kind, struct mp_member *me,
                   void (*init)(void *p, void *arg), void *arg, uint32_t *entry,
                   mp_ref *out);

/* Registers one more reference of `me` to `obj`, which must be referred to by
 * something that cannot go meanwhile.  0 or ENOMEM. */
int mp_refer(mp_ref obj, struct mp_member *me, uint32_t *entry);
int mp_refer_locked(mp_ref obj, struct mp_member *me, uint32_t *entry);
/* The same for a string that names an object by serial: ESTALE when it is gone. */
int mp_refer_serial(mp_ref obj, uint64_t serial, struct mp_member *me, uint32_t *entry);
/* How many references there are to `obj`, or more; 1 is never too few.  No lock held. */
uint32_t mp_references(mp_ref obj, struct mp_member *me);
/* Drops a reference; the last one destroys the object.  No lock held. */
void mp_drop(uint32_t entry, struct mp_member *me);
void mp_drop_locked(uint32_t entry, struct mp_member *me);
struct mp_entry *mp_entry_at(struct mp_member *me, uint32_t entry);
/* Sums `held` of all live members but `but` for `obj`.  The caller holds the family
 * lock, and the object's lock under which `held` is written. */
int64_t mp_held_sum(mp_ref obj, uint32_t but);

/* Counts that messages and objects hold.  Under the family lock. */
void mp_count_up(mp_ref obj);
void mp_count_down(mp_ref obj, struct mp_member *me); /* may destroy */

/* While a member has blocks in hand (between mp_alloc and mp_publish, or
 * mp_adopt and mp_free) it is busy.  Nests. */
static inline void mp_busy(struct mp_member *me) {
  uint32_t n = atomic_load_explicit(&me->slot->busy, memory_order_relaxed);
  atomic_store_explicit(&me->slot->busy, n + 1, memory_order_release);
}
static inline void mp_idle(struct mp_member *me) {
  uint32_t n = atomic_load_explicit(&me->slot->busy, memory_order_relaxed);
  atomic_store_explicit(&me->slot->busy, n - 1, memory_order_release);
}

/* Says what the member waits for; mp_unlabel when it does not any more. */
static inline void mp_label(struct mp_member *me, mp_ref on, enum mp_label what) {
  atomic_store_explicit(&me->slot->wait_on, on, memory_order_relaxed);
  atomic_store_explicit(&me->slot->wait_label, what, memory_order_relaxed);
}
static inline void mp_unlabel(struct mp_member *me) { mp_label(me, 0, MP_WAIT_NONE); }

/* What the collector and the last drop need to know of a kind of object.  Called
 * under the family lock.
 * trace: repairs what a dead holder left, then calls mp_mark_part for every block
 *   that belongs to `obj` and mp_mark_object for every object that it refers to.
 * destroy: frees its parts, mp_count_down for what it refers to; not `obj` itself.
 * died: the member `word` that referred to `obj` by `entry` died, or gives the
 *   reference back while it holds something (entry->held is not 0).  May be called
 *   again for the same entry when the one who called it was killed: what it gives back
 *   it must take out of entry->held in the same step.
 * unhand: nobody refers to `obj`, it is about to be swept: mp_publish for the parts that
 *   it names although they are in a process's hand.
 */
struct mp_kind_ops {
  void (*trace)(mp_ref obj, struct mp_member *me);
  void (*destroy)(mp_ref obj, struct mp_member *me);
  void (*died)(mp_ref obj, uint32_t word, struct mp_entry *entry, struct mp_member *me);
  void (*unhand)(mp_ref obj);
};
void mp_kind_set(enum mp_kind kind, const struct mp_kind_ops *ops);
void mp_mark_part(mp_ref part, mp_ref owner);
void mp_mark_object(mp_ref obj);

/* The family's nonce: 16 random bytes, for names of sockets and for code. */
const unsigned char *mp_nonce(void);
const struct mp_slot *mp_slot_at(uint32_t slot);
uint32_t mp_slots_used(void); /* slots below this number may be in use */

#endif
