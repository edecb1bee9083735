/*** Queues between any processes of a family: many producers, many consumers.
 *
 * An item is in the queue when `put` returns; it survives its producer.  A process that is
 * killed, at whatever instruction, loses no item that a `put` had returned for, delivers none
 * twice and blocks nobody.  Queues can be made before or after a fork, and be sent through
 * process arguments, queues, pipes, pool tasks and managers: what arrives is the same queue.
 * @module queue */
#include "../ipc/queue.h"
#include "lmp.h"
#include "marshal_stream.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BATCH 64 /* messages that go through a lock together */

/* q: the queue in the arena.  abandoned: how many lost items `join` has told of. */
struct lqueue {
  struct lmp_handle h;
  struct mp_queue *q;
  struct mp_look getting, putting;
  struct mp_watcher watcher;
  uint64_t abandoned;
};

static void opened(lua_State *L, struct lmp_handle *h) {
  struct lqueue *x = (struct lqueue *)(void *)h;
  (void)L;
  x->q = mp_at(h->obj);
  x->watcher.fd = -1;
}

/* The queue at argument 1, of any of the three kinds. */
static struct lqueue *check(lua_State *L) {
  struct lqueue *x = lmp_test(L, 1, MP_KIND_QUEUE);
  if (x && lmp_here(&x->h)) return x;
  int kind = lmp_kind(L, 1);
  if (kind != MP_KIND_LIFO && kind != MP_KIND_PRIORITY) kind = MP_KIND_QUEUE;
  return lmp_check(L, 1, kind);
}

/*** What `mp.Queue` and its kin make.
 * @type Queue */

/* ---- putting --------------------------------------------------------------------- */

static void check_item(lua_State *L, int arg) {
  if (lua_isnoneornil(L, arg)) luaL_argerror(L, arg, "nil cannot be put (mp.null can)");
}

#define SHORT_STRING 255 /* copied twice rather than encoded with all that belongs to it */
#define SMALL (2 + SHORT_STRING > LMP_SMALL ? 2 + SHORT_STRING : LMP_SMALL)

/* Writes the item to `to` (SMALL bytes) when it is a small scalar; its length, else 0. */
static inline size_t small_item(lua_State *L, int arg, unsigned char *to) {
  size_t n;
  if (lua_type(L, arg) != LUA_TSTRING) return lmp_small_to(L, arg, to);
  const char *s = lua_tolstring(L, arg, &n);
  if (n > SHORT_STRING) return 0;
  size_t head = lmp_head_of_string(to, n);
  memcpy(to + head, s, n);
  return head + n;
}

/* A large string is copied from where Lua has it. */
static struct mp_message pack_item(lua_State *L, int arg, unsigned char *head) {
  struct mp_message m = {0};
  if (lua_type(L, arg) == LUA_TSTRING && lua_rawlen(L, arg) > MP_INLINE_MAX) {
    m.data = lua_tolstring(L, arg, &m.len);
    m.head = head;
    m.nhead = lmp_string_head(head, m.len);
    return m;
  }
  struct lmp_pack *p = lmp_pack(L);
  lmp_encode(L, arg, p, LMP_FAMILY);
  m.data = p->data;
  m.len = p->len;
  m.refs = p->refs;
  m.nrefs = p->nrefs;
  return m;
}

/* 0, EAGAIN, EPIPE, ENOMEM; EINTR when Lua code ran meanwhile, which may have used the
 * pack that the message lies in. */
static int put_message(lua_State *L, struct lqueue *x, const struct mp_message *m,
                       mp_time deadline) {
  int e;
  do e = mp_queue_put(x->q, m, x->h.me, deadline, &x->putting);
  while (e == EINTR && !lmp_pause(L, x->h.me));
  if (e == EINTR) check(L); /* it may have closed the queue */
  return e;
}

/* Puts the value at `arg`: 0, EAGAIN or EPIPE. */
static int put_value(lua_State *L, struct lqueue *x, int arg, double priority, mp_time deadline) {
  unsigned char head[SMALL];
  size_t small = small_item(L, arg, head);
  for (bool collected = false;;) {
    struct mp_message m = {.data = head, .len = small};
    if (small == 0) m = pack_item(L, arg, head);
    m.priority = priority;
    int e = put_message(L, x, &m, deadline);
    if (e != ENOMEM && e != EINTR) return e;
    if (e == EINTR) continue;
    if (collected) lmp_full(L);
    lua_gc(L, LUA_GCCOLLECT); /* handles that Lua has dropped may hold the memory */
    collected = true;
  }
}

static int push_put(lua_State *L, int e) {
  if (e) return lmp_code(L, e == EPIPE ? "closed" : "full");
  lua_pushboolean(L, 1);
  return 1;
}

static double check_priority(lua_State *L) {
  lua_Number priority = luaL_checknumber(L, 3);
  luaL_argcheck(L, !isnan(priority), 3, "a priority must not be NaN");
  return priority;
}

/*** Puts an item.  When the call returns true the item is in the queue.
 * @function Queue:put
 * @param item any value that can be marshalled, of any size; not nil (`mp.null` can be put)
 * @tparam[opt] number timeout seconds to wait for room; nil waits for ever, 0 does not wait
 * @treturn boolean|nil true; nil when the item was not put
 * @treturn string "full" (a bounded queue, and the time is over) or "closed" (somebody called
 *   `shutdown`)
 * @raise an item that cannot cross, named by its path; the shared memory is full.  The queue is as
 *   it was then.
 * @python `multiprocessing.Queue.put(item, block, timeout)`; returns a code where Python raises
 *   `queue.Full`.  Python's returns before the item is in the pipe. */
static int l_put(lua_State *L) {
  struct lqueue *x = check(L);
  bool ordered = x->h.tag == &lmp_tags[MP_KIND_PRIORITY];
  check_item(L, 2);
  double priority = ordered ? check_priority(L) : 0;
  mp_time deadline = lmp_deadline(L, ordered ? 4 : 3);
  return push_put(L, put_value(L, x, 2, priority, deadline));
}

/*** Puts an item if there is room: `put(item, 0)`.
 * @function Queue:put_nowait
 * @param item as in `Queue:put`
 * @treturn boolean|nil true; nil when the item was not put
 * @treturn string "full" or "closed" */
static int l_put_nowait(lua_State *L) {
  struct lqueue *x = check(L);
  check_item(L, 2);
  double priority = x->h.tag == &lmp_tags[MP_KIND_PRIORITY] ? check_priority(L) : 0;
  return push_put(L, put_value(L, x, 2, priority, MP_NEVER));
}

/* An item of put_many: where its bytes are; none when it is put by itself, because it
 * is large or carries references. */
struct packed {
  size_t at, len;
};

/* Encodes all items of the list at 2, so that one that cannot cross raises before any
 * is put.  Pushes the bytes and the places, returns both. */
static const unsigned char *pack_list(lua_State *L, lua_Integer n, struct packed **out) {
  struct packed *items = lua_newuserdatauv(L, (size_t)n * sizeof *items + 1, 0);
  struct lmp_pack *p = lmp_pack(L);
  for (lua_Integer i = 0; i < n; i++) {
    size_t at = p->len;
    if (lua_rawgeti(L, 2, i + 1) == LUA_TNIL)
      luaL_argerror(L, 2, lua_pushfstring(L, "item %I is nil (mp.null can be put)", i + 1));
    p->nrefs = 0;
    p->item = i + 1;
    unsigned char *to = lmp_room(L, p, LMP_SMALL);
    size_t small = lmp_small_to(L, -1, to);
    if (small) p->len += small;
    else lmp_encode(L, lua_gettop(L), p, LMP_FAMILY);
    lua_pop(L, 1);
    bool alone = p->nrefs > 0 || p->len - at > MP_INLINE_MAX;
    items[i].at = at;
    items[i].len = alone ? 0 : p->len - at;
    if (alone) p->len = at;
  }
  size_t len = p->len;
  unsigned char *copy = lua_newuserdatauv(L, len + 1, 0);
  if (len) memcpy(copy, p->data, len);
  p->len = 0;
  *out = items;
  return copy;
}

/* Puts items from i on that lie in `bytes`, as many as go in at once; waits when none
 * does.  Returns how many. */
static uint32_t put_some(lua_State *L, struct lqueue *x, const unsigned char *bytes,
                         const struct packed *items, lua_Integer left, mp_time deadline, int *e) {
  struct mp_message m[BATCH];
  uint32_t n = 0, done = 0;
  memset(m, 0, sizeof m);
  for (; n < BATCH && n < left && items[n].len > 0; n++) {
    m[n].data = bytes + items[n].at;
    m[n].len = items[n].len;
  }
  *e = mp_queue_put_batch(x->q, m, n, x->h.me, &done);
  if (done > 0 && *e == ENOMEM) *e = 0; /* the next call raises it, if it stays so */
  if (done > 0 || *e == EPIPE) return done;
  for (bool collected = false;; collected = true) {
    do *e = put_message(L, x, m, deadline);
    while (*e == EINTR);
    if (*e != ENOMEM) return *e ? 0 : 1;
    if (collected) lmp_full(L);
    lua_gc(L, LUA_GCCOLLECT); /* as in put_value */
  }
}

/*** Puts the items of a list, in their order; much cheaper than as many calls of `put`.
 * Items of other producers may come between them.  All are encoded first: when one cannot cross,
 * none is put.  A PriorityQueue does not have it.
 * @function Queue:put_many
 * @tparam table list items, none of them nil
 * @tparam[opt] number timeout seconds for all of them; nil waits for ever, 0 does not wait
 * @treturn integer how many of the list's front went in
 * @treturn string|nil "full" or "closed" when these are not all
 * @raise as `Queue:put` */
static int l_put_many(lua_State *L) {
  struct lqueue *x = check(L);
  struct packed *items;
  luaL_checktype(L, 2, LUA_TTABLE);
  if (x->h.tag == &lmp_tags[MP_KIND_PRIORITY])
    return luaL_error(L, "a PriorityQueue has no put_many: every item needs a priority");
  mp_time deadline = lmp_deadline(L, 3);
  lua_Integer n = (lua_Integer)lua_rawlen(L, 2), i = 0;
  bool list = x->h.tag == &lmp_tags[MP_KIND_LIFO];
  const unsigned char *bytes = pack_list(L, n, &items);
  for (int e = 0; i < n && !e;) {
    if (items[i].len > 0 && !list) {
      i += put_some(L, x, bytes, items + i, n - i, deadline, &e);
    } else {
      lua_rawgeti(L, 2, i + 1);
      e = put_value(L, x, lua_gettop(L), 0, deadline);
      lua_pop(L, 1);
      if (!e) i++;
    }
    if (!e) continue;
    lua_pushinteger(L, i);
    lua_pushstring(L, e == EPIPE ? "closed" : "full");
    return 2;
  }
  lua_pushinteger(L, i);
  return 1;
}

/* ---- getting ------------------------------------------------------------------------ */

static uint64_t count(struct lqueue *x) {
  uint64_t n = mp_queue_count(x->q, x->h.me);
  if (n == 0) mp_queue_calm(x->q, x->h.me, &x->watcher);
  return n;
}

/* After a get: the descriptor of a queue that it emptied is readable no more. */
static void note_got(struct lqueue *x) {
  if (x->watcher.fd >= 0) (void)count(x);
}

static int decode(lua_State *L) {
  lmp_decode(L, lua_touserdata(L, 1));
  return 1;
}

/* Decodes a message that has a block or references: they are given back whether it
 * fails or not. */
static void decode_special(lua_State *L, struct lqueue *x, struct mp_got *got,
                           struct lmp_unpack *u) {
  lua_pushcfunction(L, decode);
  lua_pushlightuserdata(L, u);
  int status = lua_pcall(L, 1, 1, 0);
  mp_got_done(got, x->h.me);
  for (uint32_t i = 0; i < u->nrefs; i++)
    if (u->entries[i] != UINT32_MAX) mp_drop(u->entries[i], x->h.me);
  if (status != LUA_OK) lua_error(L);
}

/* Takes a message with `room` references at most, pushes its value.  EAGAIN when the
 * next message is another one now. */
static int get_refs(lua_State *L, struct lqueue *x, void *buf, uint32_t room) {
  struct mp_got got;
  struct lmp_unpack u = {0};
  mp_ref *refs = lua_newuserdatauv(L, (size_t)room * 2 * sizeof *refs, 0);
  u.refs = refs;
  u.entries = refs + room;
  int e = mp_queue_get_refs(x->q, x->h.me, x->h.entry, buf, &got, refs, u.entries, room, &u.nrefs);
  if (e) {
    lua_pop(L, 1);
    return e;
  }
  note_got(x);
  u.data = got.data;
  u.len = got.len;
  decode_special(L, x, &got, &u);
  lua_remove(L, -2);
  return 0;
}

static void push_item(lua_State *L, struct lqueue *x, struct mp_got *got) {
  struct lmp_unpack u = {.data = got->data, .len = got->len};
  if (got->block) decode_special(L, x, got, &u);
  else lmp_decode(L, &u);
}

/* Gets an item and pushes it: 0, EAGAIN or EPIPE. */
static int get_value(lua_State *L, struct lqueue *x, mp_time deadline) {
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t nrefs;
  for (;;) {
    int e = mp_queue_get(x->q, x->h.me, x->h.entry, deadline, &x->getting, buf, &got, &nrefs);
    if (e == 0) {
      note_got(x);
      push_item(L, x, &got);
      return 0;
    }
    if (e == EINTR) {
      if (lmp_pause(L, x->h.me)) check(L);
      continue;
    }
    if (e == EBADMSG) {
      e = get_refs(L, x, buf, nrefs);
      if (e == 0) return 0;
      if (e == ENOMEM) lmp_full(L);
      continue;
    }
    if (e == EAGAIN) mp_queue_calm(x->q, x->h.me, &x->watcher);
    return e;
  }
}

static int push_got(lua_State *L, int e) {
  return e ? lmp_code(L, e == EPIPE ? "closed" : "empty") : 1;
}

/*** Takes the next item out.
 * @function Queue:get
 * @tparam[opt] number timeout seconds to wait for one; nil waits for ever, 0 does not wait
 * @return the item; nil when there is none
 * @treturn string|nil "empty" (the time is over) or "closed" (shut down, and no item is left)
 * @raise an item that cannot be decoded here, for example because a module that it names is
 *   missing; it has been taken out
 * @python `multiprocessing.Queue.get(block, timeout)`; returns a code where Python raises
 *   `queue.Empty` */
static int l_get(lua_State *L) {
  struct lqueue *x = check(L);
  mp_time deadline = lmp_deadline(L, 2);
  return push_got(L, get_value(L, x, deadline));
}

/*** Takes the next item out if there is one: `get(0)`.
 * @function Queue:get_nowait
 * @return the item; nil when there is none
 * @treturn string|nil "empty" or "closed" */
static int l_get_nowait(lua_State *L) { return push_got(L, get_value(L, check(L), MP_NEVER)); }

/* Appends small items that are there to the list on top, from `n` on. */
static lua_Integer append_batch(lua_State *L, struct lqueue *x, lua_Integer n, lua_Integer max) {
  unsigned char buf[2 * MP_INLINE_MAX];
  uint32_t lens[BATCH], room = max - n < BATCH ? (uint32_t)(max - n) : BATCH;
  uint32_t k = mp_queue_get_batch(x->q, x->h.me, x->h.entry, buf, sizeof buf, lens, room);
  const unsigned char *at = buf;
  note_got(x);
  for (uint32_t i = 0; i < k; at += lens[i++]) {
    if (lmp_small_push(L, at, lens[i]) != lens[i]) {
      struct lmp_unpack u = {.data = at, .len = lens[i]};
      lmp_decode(L, &u);
    }
    lua_rawseti(L, -2, ++n);
  }
  return n;
}

/*** Takes several items out at once: waits for the first one only, and gives what is there.
 * Much cheaper than as many calls of `get`.
 * @function Queue:get_many
 * @tparam integer max how many at most, at least 1
 * @tparam[opt] number timeout seconds to wait for the first item
 * @treturn table|nil a list of 1 to `max` items
 * @treturn string|nil "empty" or "closed", as for `Queue:get` */
static int l_get_many(lua_State *L) {
  struct lqueue *x = check(L);
  lua_Integer max = luaL_checkinteger(L, 2), n = 1;
  luaL_argcheck(L, max >= 1, 2, "at least 1 item must be asked for");
  mp_time deadline = lmp_deadline(L, 3);
  lua_createtable(L, max < BATCH ? (int)max : BATCH, 0);
  int e = get_value(L, x, deadline);
  if (e) return push_got(L, e);
  lua_rawseti(L, -2, 1);
  while (n < max) {
    lua_Integer before = n;
    n = append_batch(L, x, n, max);
    if (n != before) continue;
    if (get_value(L, x, MP_NEVER) != 0) break;
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int next_item(lua_State *L) {
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(1));
  return push_got(L, get_value(L, check(L), MP_FOREVER));
}

/*** Iterates over the items, waiting for each; ends when the queue is shut down and empty.
 * @function Queue:items
 * @treturn function an iterator
 * @usage local q = mp.Queue()
 * q:put_many { "a", "b" }
 * q:shutdown()
 * for item in q:items() do print(item) end
 * --> a
 * --> b */
static int l_items(lua_State *L) {
  check(L);
  lua_settop(L, 1);
  lua_pushcclosure(L, next_item, 1);
  return 1;
}

/* ---- the rest --------------------------------------------------------------------------- */

/*** How many items are in the queue, exactly.
 * @function Queue:qsize
 * @treturn integer
 * @python `multiprocessing.Queue.qsize`, which is approximate there */
static int l_qsize(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)count(check(L)));
  return 1;
}

/*** Whether no item is in the queue.  Others may put one at any time.
 * @function Queue:empty
 * @treturn boolean */
static int l_empty(lua_State *L) {
  lua_pushboolean(L, count(check(L)) == 0);
  return 1;
}

/*** Whether a bounded queue has no room; false for others.
 * @function Queue:full
 * @treturn boolean */
static int l_full(lua_State *L) {
  struct lqueue *x = check(L);
  uint32_t max = mp_queue_maxsize(x->q);
  lua_pushboolean(L, max != 0 && mp_queue_count(x->q, x->h.me) >= max);
  return 1;
}

/*** Marks an item that was taken as done, for those who wait in `Queue:join`.
 * @function Queue:task_done
 * @raise when it was called more often than items were put
 * @python `multiprocessing.JoinableQueue.task_done` */
static int l_task_done(lua_State *L) {
  struct lqueue *x = check(L);
  if (mp_queue_task_done(x->q, x->h.me, x->h.entry) != 0)
    return luaL_error(L, "task_done was called more often than items were put");
  return 0;
}

/*** Waits until every item that was put has been taken and marked done.
 * An item that a process had taken and not marked done when it died counts as done.
 * @function Queue:join
 * @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
 * @treturn boolean whether all are done
 * @treturn string|nil "abandoned" when processes died with items that they had not marked done
 * @python `multiprocessing.JoinableQueue.join`, which has no time-out and waits for ever for the
 *   dead */
static int l_join(lua_State *L) {
  struct lqueue *x = check(L);
  mp_time deadline = lmp_deadline(L, 2);
  uint64_t abandoned;
  int e;
  while ((e = mp_queue_join(x->q, x->h.me, deadline, &abandoned)) == EINTR)
    if (lmp_pause(L, x->h.me)) check(L);
  lua_pushboolean(L, e == 0);
  if (e || abandoned == x->abandoned) return 1;
  x->abandoned = abandoned;
  lua_pushliteral(L, "abandoned");
  return 2;
}

/*** Ends the queue for everybody: no more puts; getters take what is left, then get "closed".
 * Idempotent.
 * @function Queue:shutdown
 * @python `queue.Queue.shutdown` of Python 3.13; `multiprocessing` has none */
static int l_shutdown(lua_State *L) {
  struct lqueue *x = check(L);
  mp_queue_shut(x->q, x->h.me);
  return 0;
}

/*** A descriptor that polls readable while items wait, for an event loop.  It may be readable in
 * vain when another consumer was faster: `get(0)` says "empty" then.  It stays the queue's.
 * @function Queue:fileno
 * @treturn integer
 * @raise when no descriptor can be made */
static int l_fileno(lua_State *L) {
  struct lqueue *x = check(L);
  int e = mp_queue_watch(x->q, x->h.me, &x->watcher);
  if (lmp_collect_fds(L, e)) {
    x = check(L);
    e = mp_queue_watch(x->q, x->h.me, &x->watcher);
  }
  if (e == ENOMEM) lmp_full(L);
  if (e) return lmp_fail(L, e, "make a descriptor for a queue");
  lua_pushinteger(L, x->watcher.fd);
  return 1;
}

/* close, __close, __gc: this handle only. */
/*** Gives this handle up.  The queue goes on for others; it is freed when nobody has it any more.
 * Calls of a closed handle are errors.  `<close>` does the same.
 * @function Queue:close
 * @python `multiprocessing.Queue.close`; there is no `join_thread`, for there is no thread */
static int l_close(lua_State *L) {
  int kind = lmp_kind(L, 1);
  struct lqueue *x = lua_touserdata(L, 1);
  if (kind < MP_KIND_QUEUE || kind > MP_KIND_PRIORITY) return 0;
  if (x->h.obj && !x->h.me->stranger && x->h.me->slot)
    mp_queue_unwatch(x->q, x->h.me, &x->watcher);
  lmp_release(L, &x->h);
  return 0;
}

static int close_checked(lua_State *L) {
  struct lqueue *x = lua_touserdata(L, 1);
  if (!x || lmp_kind(L, 1) < 0 || x->h.obj) check(L);
  return l_close(L);
}

static int l_tostring(lua_State *L) {
  int kind = lmp_kind(L, 1);
  struct lqueue *x = lua_touserdata(L, 1);
  if (kind < 0 || !x->h.obj || x->h.me->stranger) {
    lua_pushfstring(L, "%s (closed)", lmp_kind_name(kind < 0 ? MP_KIND_QUEUE : kind));
    return 1;
  }
  char text[96];
  unsigned long long n = (unsigned long long)mp_queue_count(x->q, x->h.me);
  snprintf(text, sizeof text, "%s: 0x%zx (%llu item%s%s)", lmp_kind_name(kind),
           (size_t)x->h.obj * 16, n, n == 1 ? "" : "s",
           mp_queue_is_shut(x->q) ? ", shut down" : "");
  lua_pushstring(L, text);
  return 1;
}

static int make(lua_State *L, int kind) {
  uint32_t maxsize = 0;
  if (!lua_isnoneornil(L, 1)) {
    luaL_checktype(L, 1, LUA_TNUMBER);
    lua_Integer n = luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 0 && n <= UINT32_MAX / 2, 1,
                  "maxsize must be 0 (no bound) or a number of items");
    maxsize = (uint32_t)n;
  }
  lmp_make(L, kind, mp_queue_size((enum mp_kind)kind), sizeof(struct lqueue), mp_queue_init,
           &maxsize);
  return 1;
}

/*** @section end */

/*** Makes a queue, first in, first out over all producers.
 * @function mp.Queue
 * @tparam[opt=0] integer maxsize how many items it holds at most; 0: as many as memory does
 * @treturn Queue
 * @raise a maxsize that is negative or no integer; the shared memory is full
 * @python `multiprocessing.Queue`
 * @usage local q = mp.Queue()
 * local p = mp.Process(function() q:put { answer = 42 } end)
 * p:start()
 * print(q:get().answer) --> 42
 * print(q:get(0)) --> nil	empty */

/*** `mp.Queue` under the name that ported code uses: every queue has `task_done` and `join`.
 * @function mp.JoinableQueue
 * @tparam[opt=0] integer maxsize
 * @treturn Queue
 * @python `multiprocessing.JoinableQueue` */

/*** `mp.Queue` under the name that ported code uses.
 * @function mp.SimpleQueue
 * @tparam[opt=0] integer maxsize
 * @treturn Queue
 * @python `multiprocessing.SimpleQueue` */

/*** Makes a queue that gives the item first that was put last.
 * @function mp.LifoQueue
 * @tparam[opt=0] integer maxsize
 * @treturn Queue with the same methods
 * @python `queue.LifoQueue`, which is for threads */

/*** Makes a queue that gives the item with the lowest priority number first, and of equals the one
 * that was put first.
 * @function mp.PriorityQueue
 * @tparam[opt=0] integer maxsize
 * @treturn PriorityQueue
 * @python `queue.PriorityQueue`, where the items themselves are compared
 * @usage local q = mp.PriorityQueue()
 * q:put("later", 10)
 * q:put("now", 1)
 * print(q:get()) --> now */

/*** What `mp.PriorityQueue` makes: all methods of a Queue but `put_many`; `put` takes a priority.
 * @type PriorityQueue */

/*** Puts an item.
 * @function PriorityQueue:put
 * @param item as in `Queue:put`
 * @tparam number priority the lowest number is taken first
 * @tparam[opt] number timeout seconds to wait for room
 * @treturn boolean|nil true; nil when the item was not put
 * @treturn string "full" or "closed" */

/*** Puts an item if there is room.
 * @function PriorityQueue:put_nowait
 * @param item as in `Queue:put`
 * @tparam number priority the lowest number is taken first
 * @treturn boolean|nil true; nil when the item was not put
 * @treturn string "full" or "closed" */
/* Three functions, not one under three names: messages find a name by the address. */
int lmp_new_queue(lua_State *L) { return make(L, MP_KIND_QUEUE); }
static int l_joinable(lua_State *L) { return make(L, MP_KIND_QUEUE); }
static int l_simple(lua_State *L) { return make(L, MP_KIND_QUEUE); }
static int l_lifo(lua_State *L) { return make(L, MP_KIND_LIFO); }
static int l_priority(lua_State *L) { return make(L, MP_KIND_PRIORITY); }

static const luaL_Reg methods[] = {
    {"put", l_put},           {"put_nowait", l_put_nowait}, {"get", l_get},
    {"get_nowait", l_get_nowait}, {"qsize", l_qsize},       {"empty", l_empty},
    {"full", l_full},         {"task_done", l_task_done},   {"join", l_join},
    {"items", l_items},       {"put_many", l_put_many},     {"get_many", l_get_many},
    {"shutdown", l_shutdown}, {"close", close_checked},     {"fileno", l_fileno},
    {NULL, NULL}};

static const luaL_Reg ordered_methods[] = {
    {"put", l_put},           {"put_nowait", l_put_nowait}, {"get", l_get},
    {"get_nowait", l_get_nowait}, {"qsize", l_qsize},       {"empty", l_empty},
    {"full", l_full},         {"task_done", l_task_done},   {"join", l_join},
    {"items", l_items},       {"get_many", l_get_many},     {"shutdown", l_shutdown},
    {"close", close_checked}, {"fileno", l_fileno},         {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", l_close}, {"__close", l_close}, {"__tostring", l_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"Queue", lmp_new_queue},   {"JoinableQueue", l_joinable},    {"SimpleQueue", l_simple},
    {"LifoQueue", l_lifo},      {"PriorityQueue", l_priority}, {NULL, NULL}};

void lmp_open_queue(lua_State *L) {
  static const struct lmp_opener opener = {sizeof(struct lqueue), 0, opened};
  for (int kind = MP_KIND_QUEUE; kind <= MP_KIND_PRIORITY; kind++) {
    lmp_opener_set(kind, &opener);
    lmp_type(L, kind, lmp_kind_name(kind), kind == MP_KIND_PRIORITY ? ordered_methods : methods,
             metamethods, NULL);
  }
  mp_queue_kinds();
  luaL_setfuncs(L, functions, 0);
}
