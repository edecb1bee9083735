/* Tickets: see pipe.h. */
#include "pipe.h"
#include <errno.h>

/* A pipe, in the arena.  Everything here is read and written under the family lock.
 * tickets: the first ticket; truth.
 * made: tickets made so far; their numbers.
 *
 * And a ticket: the objects of one message under way.
 * next: the ticket left before it; truth.
 * n, number, refs: what never changes once it is linked.
 *
 * A ticket comes in by one store to `tickets` and goes by one store to whatever
 * names it.  Around these:
 *   - leave: block NEW in hand -> filled -> counts of its objects up -> store -> LIVE,
 *     the pipe's.  Killed before the store: the block is in a dead hand and is swept.
 *     After it: the ticket is linked, and marking makes it LIVE.  It stays, unread,
 *     until the pipe goes.
 *   - redeem: references registered, one after the other -> block into the hand ->
 *     store -> counts down -> freed.  Killed before the store: the ticket stays (its
 *     message went with the reader) and marking makes it LIVE again; burying the
 *     reader drops what it registered.  After it: swept.
 * Whoever takes the family lock from a dead owner collects before anything else, and
 * counts all references anew; until then a count is never below the truth, since what
 * the reader registers counts before the ticket's references stop.  A list is whole
 * at every instant and needs no repair.  The sender may die after it left a ticket:
 * the ticket is the pipe's, not its own.
 */
struct mp_pipe {
  struct mp_object object;
  _Atomic uint32_t tickets;
  uint32_t unused;
  uint64_t made;
};

struct mp_ticket {
  struct mp_block block;
  _Atomic uint32_t next;
  uint32_t n;
  uint64_t number;
  mp_ref refs[];
};

static uint32_t get(const _Atomic uint32_t *link) {
  return atomic_load_explicit(link, memory_order_acquire);
}
static void set(_Atomic uint32_t *link, uint32_t to) {
  atomic_store_explicit(link, to, memory_order_release);
}

/* The link that names the ticket, or NULL.  A number alone is not trusted. */
static _Atomic uint32_t *find(struct mp_pipe *p, const struct mp_claim *claim) {
  _Atomic uint32_t *link = &p->tickets;
  for (mp_ref r = get(link); r != 0; r = get(link)) {
    struct mp_ticket *t = mp_at(r);
    if (r == claim->ticket)
      return t->number == claim->number && t->n == claim->n ? link : NULL;
    link = &t->next;
  }
  return NULL;
}

/* Unlinks a ticket and frees it with what it refers to. */
static void take_away(_Atomic uint32_t *link, struct mp_member *me) {
  mp_ref r = get(link);
  struct mp_ticket *t = mp_at(r);
  mp_adopt(r, me->word);
  set(link, get(&t->next));
  for (uint32_t i = 0; i < t->n; i++) mp_count_down(t->refs[i], me);
  mp_free(&r, me->word);
}

int mp_pipe_make(struct mp_member *me, mp_ref *out, uint32_t entries[2]) {
  mp_ref pipe;
  int e = mp_object_make(sizeof(struct mp_pipe), MP_KIND_PIPE, me, NULL, NULL,
                         &entries[0], &pipe);
  if (e) return e;
  e = mp_refer(pipe, me, &entries[1]);
  if (e) {
    mp_drop(entries[0], me);
    return e;
  }
  *out = pipe;
  return 0;
}

int mp_pipe_leave(mp_ref pipe, const mp_ref *refs, uint32_t n, struct mp_member *me,
                  struct mp_claim *out) {
  struct mp_pipe *p = mp_at(pipe);
  size_t size = sizeof(struct mp_ticket) + (size_t)n * sizeof(mp_ref);
  mp_ref r;
  mp_busy(me);
  int e = mp_alloc_hard(size, MP_KIND_TICKET, false, me, &r);
  if (e) goto done;
  struct mp_ticket *t = mp_at(r);
  t->n = n;
  for (uint32_t i = 0; i < n; i++) t->refs[i] = refs[i];
  mp_family_lock(me);
  t->number = ++p->made;
  set(&t->next, get(&p->tickets));
  for (uint32_t i = 0; i < n; i++) mp_count_up(refs[i]);
  set(&p->tickets, r);
  mp_publish(r, pipe);
  mp_family_unlock();
  *out = (struct mp_claim){r, n, t->number};
done:
  mp_idle(me);
  return e;
}

static int register_all(const struct mp_ticket *t, struct mp_member *me, mp_ref *refs,
                        uint32_t *entries) {
  for (uint32_t i = 0; i < t->n; i++) {
    refs[i] = t->refs[i];
    int e = mp_refer_locked(refs[i], me, &entries[i]);
    if (e == 0) continue;
    while (i-- > 0) mp_drop_locked(entries[i], me);
    return e;
  }
  return 0;
}

static int redeem(mp_ref pipe, const struct mp_claim *claim, struct mp_member *me,
                  mp_ref *refs, uint32_t *entries) {
  mp_family_lock(me);
  _Atomic uint32_t *link = find(mp_at(pipe), claim);
  int e = link ? register_all(mp_at(claim->ticket), me, refs, entries) : ESTALE;
  if (e == 0) take_away(link, me);
  mp_family_unlock();
  return e;
}

int mp_pipe_redeem(mp_ref pipe, const struct mp_claim *claim, struct mp_member *me,
                   mp_ref *refs, uint32_t *entries) {
  mp_busy(me);
  int e = redeem(pipe, claim, me, refs, entries);
  if (e == ENOMEM) {
    mp_collect(me);
    e = redeem(pipe, claim, me, refs, entries);
  }
  mp_idle(me);
  return e;
}

void mp_pipe_withdraw(mp_ref pipe, const struct mp_claim *claim, struct mp_member *me) {
  mp_busy(me);
  mp_family_lock(me);
  _Atomic uint32_t *link = find(mp_at(pipe), claim);
  if (link) take_away(link, me);
  mp_family_unlock();
  mp_idle(me);
}

static void trace(mp_ref obj, struct mp_member *me) {
  (void)me;
  struct mp_pipe *p = mp_at(obj);
  for (mp_ref r = get(&p->tickets); r != 0;) {
    struct mp_ticket *t = mp_at(r);
    mp_mark_part(r, obj);
    for (uint32_t i = 0; i < t->n; i++) mp_mark_object(t->refs[i]);
    r = get(&t->next);
  }
}

static void destroy(mp_ref obj, struct mp_member *me) {
  struct mp_pipe *p = mp_at(obj);
  mp_busy(me);
  while (get(&p->tickets) != 0) take_away(&p->tickets, me);
  mp_idle(me);
}

/* `died` has nothing to do: the sockets tell who is gone. */
void mp_pipe_setup(void) {
  static const struct mp_kind_ops ops = {.trace = trace, .destroy = destroy};
  mp_kind_set(MP_KIND_PIPE, &ops);
}
