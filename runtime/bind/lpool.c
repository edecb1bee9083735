/* A pool's owner: sends functions and batches of tasks, takes reports.
 *
 * Nothing here waits but taking.  Values are encoded and decoded under pcall, a whole batch
 * or report at a time: what cannot cross is the affair of its task, and a report is acted
 * on to its end.  Decoding runs finalizers, which may use the pool: the buffer that a
 * report lies in stays as it is meanwhile, and no state is kept over a decode but the
 * report's own.
 */
#include "lpool.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POOL "mp.PoolCore"
#define JOB "mp.PoolJob"

/* Tunables.
 * GROUP, GROUP_BYTES: batches that are encoded and put together: one lock for many, yet
 *   workers can begin while the rest is encoded.
 * BUFFER: reports that are taken at once, more than what a worker sends in one.
 * KEEP_FUNCS, KEEP_BYTES: functions that no job uses go when there are more.
 * FULL_WAIT: between two tries while memory is short.  FULL_TRIES: so often the owner
 *   tries to bury: if it is what reports hold that is missing, only it can help. */
enum {
  GROUP = LMP_POOL_DRAIN, GROUP_BYTES = 48 << 10, BUFFER = 32 << 10,
  KEEP_FUNCS = 64, KEEP_BYTES = 16 << 20,
  FULL_WAIT_NS = 10 * 1000 * 1000, FULL_TRIES = 10
};
_Static_assert(BUFFER >= MP_INLINE_MAX, "a get takes messages of this size");

static const char pool_tag[1], job_tag[1];

/* Userdata; user value 1: the pool.  open: it holds its function, funcs[place]. */
struct job {
  const char *tag;
  struct lmp_pool *pool;
  struct mp_batch batch; /* what all of its batches have in common */
  uint32_t place;
  bool open;
};

/* ---- handles ------------------------------------------------------------------------ */

static struct lmp_pool *to_pool(lua_State *L, int arg) {
  struct lmp_pool *x = lua_touserdata(L, arg);
  if (x && lua_rawlen(L, arg) >= sizeof *x && x->tag == pool_tag) return x;
  luaL_typeerror(L, arg, POOL);
  return NULL;
}

struct lmp_pool *lmp_pool_check(lua_State *L) {
  struct lmp_pool *x = to_pool(L, 1);
  if (x->me->stranger)
    luaL_error(L, "this process was forked by other means than mp: mp cannot be used in it");
  luaL_argcheck(L, x->p, 1, "the pool is closed");
  return x;
}

static struct lmp_pool *check_owner(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  luaL_argcheck(L, x->owner == x->me->pid, 1, "the pool belongs to another process");
  return x;
}

static struct job *check_job(lua_State *L, int arg) {
  struct job *j = lua_touserdata(L, arg);
  if (!j || lua_rawlen(L, arg) != sizeof *j || j->tag != job_tag) luaL_typeerror(L, arg, JOB);
  return j;
}

uint32_t lmp_pool_worker(lua_State *L, const struct lmp_pool *x, int arg) {
  lua_Integer i = luaL_checkinteger(L, arg);
  luaL_argcheck(L, i >= 0 && i < (lua_Integer)x->p->n, arg, "no worker has this number");
  return (uint32_t)i;
}

/* The name of worker i. */
static void push_name(lua_State *L, const struct lmp_pool *x, uint32_t i) {
  lua_getiuservalue(L, 1, LMP_POOL_PREFIX);
  lua_pushinteger(L, x->base + (lua_Integer)i + 1);
  lua_concat(L, 2);
}

/* Seconds at index `field` of the options at `arg`, in ns; 0 when there are none.  What is
 * given is 1 at least: 0 means none. */
static int64_t check_ns(lua_State *L, int arg, const char *field) {
  if (lua_getfield(L, arg, field) == LUA_TNIL) {
    lua_pop(L, 1);
    return 0;
  }
  if (!lua_isnumber(L, -1))
    luaL_argerror(L, arg, lua_pushfstring(L, "%s is not a number", field));
  lua_Number s = lua_tonumber(L, -1);
  lua_pop(L, 1);
  if (!(s * 1e9 >= 1)) return 1;
  return s * 1e9 < 4e18 ? (int64_t)(s * 1e9) : (int64_t)4e18;
}

/* ---- making and closing ------------------------------------------------------------- */

/* An object and its entry; EAGAIN: memory is short, Lua may have some to give. */
static mp_ref make_object(lua_State *L, struct lmp_pool *x, enum mp_kind kind, size_t size,
                          void (*init)(void *, void *), void *arg) {
  mp_ref obj;
  uint32_t entry;
  int e = mp_object_make(size, kind, x->me, init, arg, &entry, &obj);
  if (e == ENOMEM) {
    lua_gc(L, LUA_GCCOLLECT);
    mp_collect(x->me);
    e = mp_object_make(size, kind, x->me, init, arg, &entry, &obj);
  }
  if (e == ENOMEM) lmp_full(L);
  if (e) lmp_fail(L, e, "make a pool");
  x->entry[x->entries++] = entry;
  return obj;
}

/* core.pool(n, prefix, base) -> pool */
static int new_pool(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1), base = luaL_optinteger(L, 3, 0);
  uint32_t maxsize = 0;
  luaL_argcheck(L, n >= 1 && n <= MP_POOL_WORKERS_MAX, 1,
                "a pool cannot have so many workers");
  luaL_checkstring(L, 2);
  struct mp_member *me = lmp_member(L);
  size_t size = sizeof(struct lmp_pool) + (size_t)n * sizeof(struct lmp_seen);
  struct lmp_pool *x = lua_newuserdatauv(L, size, LMP_POOL_BUFFER);
  memset(x, 0, size);
  x->me = me;
  x->base = base;
  x->owner = me->pid;
  x->watcher.fd = -1;
  x->tag = pool_tag;
  luaL_setmetatable(L, POOL);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, LMP_POOL_PREFIX);
  struct mp_pool_make make = {.n = (uint32_t)n};
  size_t qsize = mp_queue_size(MP_KIND_QUEUE);
  make.tasks = make_object(L, x, MP_KIND_QUEUE, qsize, mp_queue_init, &maxsize);
  make.reports = make_object(L, x, MP_KIND_QUEUE, qsize, mp_queue_init, &maxsize);
  mp_ref pool = make_object(L, x, MP_KIND_POOL, mp_pool_size(make.n), mp_pool_init, &make);
  x->tasks = mp_at(make.tasks);
  x->reports = mp_at(make.reports);
  x->p = mp_at(pool);
  return 1;
}

/* close and __gc: gives this process's references back. */
static int close_pool(lua_State *L) {
  struct lmp_pool *x = to_pool(L, 1);
  bool here = x->me && !x->me->stranger && x->me->slot;
  if (here && x->reports) mp_queue_unwatch(x->reports, x->me, &x->watcher);
  x->p = NULL;
  x->tasks = x->reports = NULL;
  while (x->entries > 0) {
    x->entries--;
    if (here) mp_drop(x->entry[x->entries], x->me);
  }
  for (uint32_t k = 0; k < x->nfuncs; k++)
    if (here && x->funcs[k].obj) mp_drop(x->funcs[k].entry, x->me);
  free(x->funcs);
  x->funcs = NULL;
  x->nfuncs = x->nmsg = x->imsg = 0;
  return 0;
}

static int pool_tostring(lua_State *L) {
  const struct lmp_pool *x = to_pool(L, 1);
  if (x->p) lua_pushfstring(L, "%s: %p", POOL, (const void *)x->p);
  else lua_pushliteral(L, POOL " (closed)");
  return 1;
}

/* ---- functions ---------------------------------------------------------------------- */

static void evict(struct lmp_pool *x, uint32_t k) {
  struct lmp_func *f = &x->funcs[k];
  mp_drop(f->entry, x->me);
  x->bytes -= f->bytes;
  f->obj = 0;
}

/* Evicts what no job uses, oldest first, until there is room for `bytes` more. */
static void make_room(struct lmp_pool *x, size_t bytes) {
  for (;;) {
    uint32_t n = 0, oldest = UINT32_MAX;
    for (uint32_t k = 0; k < x->nfuncs; k++) {
      const struct lmp_func *f = &x->funcs[k];
      if (!f->obj) continue;
      n++;
      if (!f->jobs && (oldest == UINT32_MAX || f->used < x->funcs[oldest].used)) oldest = k;
    }
    if (oldest == UINT32_MAX || (n < KEEP_FUNCS && x->bytes + bytes <= KEEP_BYTES)) return;
    evict(x, oldest);
  }
}

static bool same_function(const struct lmp_func *f, const struct lmp_pack *p) {
  if (!f->obj || f->bytes != p->len) return false;
  const struct mp_function *o = mp_at(f->obj);
  if (o->nrefs != p->nrefs) return false;
  if (p->nrefs && memcmp(o->refs, p->refs, p->nrefs * sizeof *p->refs) != 0) return false;
  return memcmp(o->refs + o->nrefs, p->data, p->len) == 0;
}

/* A free place; grows the array.  UINT32_MAX: no memory. */
static uint32_t free_place(struct lmp_pool *x) {
  uint32_t k = 0;
  while (k < x->nfuncs && x->funcs[k].obj) k++;
  if (k < x->nfuncs) return k;
  uint32_t n = k ? 2 * k : 4;
  struct lmp_func *f = realloc(x->funcs, n * sizeof *f);
  if (!f) return UINT32_MAX;
  memset(f + k, 0, (n - k) * sizeof *f);
  x->funcs = f;
  x->nfuncs = n;
  return k;
}

/* The place of the function in `p`, which is made if it is not kept yet.  The pool refers
 * to the newest one only; this process's own references keep all of them.  0 or ENOMEM. */
static int keep_function(struct lmp_pool *x, const struct lmp_pack *p, uint32_t *place) {
  struct mp_message m = {.data = p->data, .len = p->len, .refs = p->refs, .nrefs = p->nrefs};
  uint32_t k = 0;
  while (k < x->nfuncs && !same_function(&x->funcs[k], p)) k++;
  if (k == x->nfuncs) {
    struct lmp_func f = {.bytes = p->len};
    make_room(x, p->len);
    if ((k = free_place(x)) == UINT32_MAX) return ENOMEM;
    int e = mp_pool_keep(x->p, 0, &m, x->me, &f.obj, &f.serial);
    if (!e) e = mp_refer(f.obj, x->me, &f.entry);
    if (e) return e;
    x->bytes += f.bytes;
    x->funcs[k] = f;
  }
  x->funcs[k].jobs++;
  x->funcs[k].used = ++x->clock;
  *place = k;
  return 0;
}

/* Encodes and keeps the function at `arg`. */
static uint32_t open_function(lua_State *L, struct lmp_pool *x, int arg) {
  uint32_t place;
  for (bool collected = false;; collected = true) {
    struct lmp_pack *p = lmp_pack(L);
    lmp_encode(L, arg, p, LMP_FAMILY);
    int e = keep_function(x, p, &place);
    if (e == 0) return place;
    if (e != ENOMEM) lmp_fail(L, e, "keep a function of a pool");
    if (collected) lmp_full(L);
    make_room(x, KEEP_BYTES);
    lua_gc(L, LUA_GCCOLLECT);
    luaL_argcheck(L, x->p, 1, "the pool is closed");
  }
}

static void release_job(struct job *j) {
  struct lmp_pool *x = j->pool;
  if (!j->open) return;
  j->open = false;
  if (x->p && j->place < x->nfuncs) x->funcs[j->place].jobs--;
}

/* pool_open(pool, f, opts) -> job */
static int pool_open(lua_State *L) {
  struct lmp_pool *x = check_owner(L);
  struct mp_batch b = {0};
  luaL_checkany(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  lua_getfield(L, 3, "id");
  b.job = (uint64_t)luaL_checkinteger(L, -1);
  lua_getfield(L, 3, "spread");
  if (lua_toboolean(L, -1)) b.flags |= MP_BATCH_SPREAD;
  if (lua_getfield(L, 3, "seed") != LUA_TNIL) {
    b.flags |= MP_BATCH_SEEDED;
    b.seed = (uint64_t)luaL_checkinteger(L, -1);
  }
  b.timeout = check_ns(L, 3, "timeout");
  b.grace = check_ns(L, 3, "grace");
  struct job *j = lua_newuserdatauv(L, sizeof *j, 1);
  memset(j, 0, sizeof *j);
  luaL_setmetatable(L, JOB);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  j->pool = x;
  j->tag = job_tag;
  j->place = open_function(L, x, 2);
  j->open = true;
  b.func = x->funcs[j->place].obj;
  b.serial = x->funcs[j->place].serial;
  j->batch = b;
  return 1;
}

static int job_gc(lua_State *L) {
  struct job *j = lua_touserdata(L, 1);
  if (j->tag == job_tag) release_job(j);
  return 0;
}

/* pool_done(job): its function may go */
static int pool_done(lua_State *L) {
  release_job(check_job(L, 1));
  return 0;
}

/* pool_cancel(pool, job): workers drop what they have of it */
static int pool_cancel(lua_State *L) {
  struct lmp_pool *x = check_owner(L);
  mp_pool_cancel(x->p, check_job(L, 2)->batch.job);
  return 0;
}

/* ---- submitting --------------------------------------------------------------------- */

/* Batches that were encoded, and where.  at, len: bytes in the pack.  count: tasks. */
struct packed {
  size_t at, len;
  uint64_t first;
  uint32_t count, nrefs;
};

/* A call of submit.  k: the next item, last: the last one.  whole: lists of arguments are
 * encoded as one value.  n: batches of this group.  pack: their bytes and references. */
struct submit {
  struct lmp_pool *x;
  const struct job *job;
  lua_Integer k, last, chunk;
  bool whole;
  uint32_t n;
  struct lmp_pack *pack;
  struct packed batch[GROUP];
};

/* How many arguments the list on top has. */
static size_t count_arguments(lua_State *L, int list) {
  lua_pushliteral(L, "n");
  lua_rawget(L, list);
  lua_Integer n = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : -1;
  lua_pop(L, 1);
  if (n < 0) n = (lua_Integer)lua_rawlen(L, list);
  return (size_t)n;
}

/* One by one, when all but one of them are scalars: no table may be in two of them. */
static bool put_arguments(lua_State *L, int list, size_t n, struct lmp_pack *p) {
  unsigned objects = 0;
  *lmp_room(L, p, 1) = (unsigned char)n;
  p->len++;
  for (size_t i = 1; i <= n; i++) {
    int type = lua_rawgeti(L, list, (lua_Integer)i);
    if (type >= LUA_TTABLE && ++objects > 1) {
      lua_pop(L, 1);
      return false;
    }
    lmp_stream_put(L, list + 1, p);
    lua_pop(L, 1);
  }
  return true;
}

/* The list of arguments on top. */
static void put_list(lua_State *L, struct submit *s) {
  struct lmp_pack *p = s->pack;
  size_t at = p->len;
  uint32_t nrefs = p->nrefs;
  int list = lua_gettop(L);
  if (!lua_istable(L, list))
    luaL_error(L, "a list of arguments expected, got a %s value", luaL_typename(L, list));
  size_t n = count_arguments(L, list);
  if (n < LMP_ARGS_TABLE && !s->whole && put_arguments(L, list, n, p)) return;
  p->len = at;
  p->nrefs = nrefs;
  if (n > UINT32_MAX) luaL_error(L, "too many arguments");
  unsigned char *to = lmp_room(L, p, 5);
  to[0] = LMP_ARGS_TABLE;
  put32(to + 1, (uint32_t)n);
  p->len += 5;
  lmp_stream_put(L, list, p);
}

/* One batch; true when another may follow in the same group. */
static bool encode_batch(lua_State *L, struct submit *s) {
  struct lmp_pack *p = s->pack;
  struct packed *b = &s->batch[s->n];
  bool spread = s->job->batch.flags & MP_BATCH_SPREAD;
  b->at = p->len;
  b->len = 0;
  b->first = (uint64_t)s->k;
  b->count = b->nrefs = 0;
  s->n++;
  for (lua_Integer c = 0; c < s->chunk && s->k <= s->last; c++) {
    lua_rawgeti(L, 2, s->k);
    if (spread) put_list(L, s);
    else lmp_stream_put(L, 3, p);
    lua_settop(L, 2);
    b->len = p->len - b->at;
    b->nrefs = p->nrefs;
    b->count++;
    s->k++;
  }
  return b->nrefs == 0 && b->len + sizeof(struct mp_batch) <= MP_INLINE_MAX;
}

/* [submit, items]: encodes batches.  One with references or a large one is the last of
 * its group.  After an error s->n batches are there, the last of them cut short. */
static int encode_group(lua_State *L) {
  struct submit *s = lua_touserdata(L, 1);
  luaL_checkstack(L, 8, NULL);
  s->pack = lmp_pack(L);
  while (s->n < GROUP && s->k <= s->last && s->pack->len < GROUP_BYTES && encode_batch(L, s))
    ;
  return 0;
}

static bool is_plain(const struct packed *b) {
  return b->nrefs == 0 && b->len + sizeof(struct mp_batch) <= MP_INLINE_MAX;
}

/* Memory is nearly used up, and tasks wait: their results will need what is left. */
static bool is_full(const struct lmp_pool *x) {
  return mp_arena_scarce() && mp_queue_count(x->tasks, x->me) > 0;
}

/* Puts the group; *tasks grows by those that went in.  0, ENOMEM, EPIPE. */
static int put_group(struct submit *s, lua_Integer *tasks) {
  struct lmp_pool *x = s->x;
  struct mp_batch head[GROUP];
  struct mp_message m[GROUP];
  uint32_t done = 0, n = s->n;
  int e = 0;
  if (n > 0 && is_full(x)) return ENOMEM;
  for (uint32_t i = 0; i < n; i++) {
    const struct packed *b = &s->batch[i];
    head[i] = s->job->batch;
    head[i].id = ++x->batches;
    head[i].first = b->first;
    head[i].count = b->count;
    m[i] = (struct mp_message){.head = &head[i], .nhead = sizeof head[i],
                               .data = s->pack->data + b->at, .len = b->len,
                               .refs = s->pack->refs, .nrefs = b->nrefs};
  }
  uint32_t plain = n > 0 && !is_plain(&s->batch[n - 1]) ? n - 1 : n;
  if (plain > 1) e = mp_queue_put_batch(x->tasks, m, plain, x->me, &done);
  for (; done < n && e != EPIPE; done++) /* one by one: after a collection if need be */
    if ((e = mp_queue_put(x->tasks, &m[done], x->me, MP_FOREVER, NULL)) != 0) break;
  for (uint32_t i = 0; i < done; i++) *tasks += s->batch[i].count;
  return e;
}

/* The error on top is of item s->k: an argument list that was encoded piece by piece is
 * encoded as a whole, once, for the sake of the path in the message. */
static bool failed_for_good(lua_State *L, struct submit *s) {
  if (s->whole || !(s->job->batch.flags & MP_BATCH_SPREAD)) return true;
  s->whole = true;
  lua_pop(L, 1);
  return false;
}

/* What was encoded before the error in the middle of a group. */
static void keep_encoded(struct submit *s, size_t have) {
  const struct packed *b = s->n ? &s->batch[s->n - 1] : NULL;
  if (b && have < b->at + b->len) s->n = 0; /* it is gone: memory was short */
  else if (b && b->count == 0) s->n--;
}

/* Submits items from s->k on: how many went in.  Leaves the error of an item on top when
 * *bad. */
static lua_Integer submit_all(lua_State *L, struct submit *s, bool *bad, int *err) {
  lua_Integer tasks = 0, before;
  *bad = false;
  *err = 0;
  while (s->k <= s->last && !*bad && !*err) {
    before = tasks;
    lua_Integer from = s->k;
    s->n = 0;
    lua_pushcfunction(L, encode_group);
    lua_pushlightuserdata(L, s);
    lua_pushvalue(L, 3);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
      keep_encoded(s, s->pack ? s->pack->len : 0);
      *bad = true;
    }
    *err = put_group(s, &tasks);
    s->k = from + (tasks - before);
    if (*err && *bad) {
      lua_pop(L, 1);
      *bad = false;
    }
    if (*bad && !failed_for_good(L, s)) *bad = false;
  }
  return tasks;
}

/* The items from first to last in a plain table: what a proxy gives for them. */
static void copy_items(lua_State *L, lua_Integer first, lua_Integer last) {
  lua_newtable(L);
  for (lua_Integer k = first; k <= last; k++) {
    lua_geti(L, 3, k);
    lua_rawseti(L, -2, k);
  }
  lua_replace(L, 3);
}

/* Nothing is in work that could give memory back.  In this order: a task is in the queue,
 * claimed, or told of. */
static bool is_at_rest(struct lmp_pool *x) {
  if (x->imsg < x->nmsg || mp_queue_count(x->tasks, x->me) > 0) return false;
  for (uint32_t i = 0; i < x->p->n; i++)
    if (atomic_load_explicit(&x->p->worker[i].claim, memory_order_acquire)) return false;
  return mp_queue_count(x->reports, x->me) == 0;
}

static int raise_full(lua_State *L) { return lmp_full(L); }

/* pool_submit(pool, job, items, first, last, chunk) -> n [, "full" | "bad", message].  Full:
 * try again when reports were taken.  An item for which there is no memory although the
 * pool does nothing is a bad one. */
static int pool_submit(lua_State *L) {
  struct submit s = {.x = check_owner(L), .job = check_job(L, 2)};
  bool bad;
  int e;
  lua_Integer first = luaL_checkinteger(L, 4);
  s.k = first;
  s.last = luaL_checkinteger(L, 5);
  s.chunk = luaL_checkinteger(L, 6);
  luaL_argcheck(L, s.job->open && s.job->pool == s.x, 2, "the job is over");
  luaL_argcheck(L, first >= 1, 4, "tasks are numbered from 1 on");
  luaL_argcheck(L, s.chunk >= 1 && s.chunk <= UINT32_MAX / 2, 6, "1 task at least");
  if (luaL_getmetafield(L, 3, "__index") != LUA_TNIL) {
    lua_pop(L, 1);
    copy_items(L, first, s.last);
    luaL_argcheck(L, s.x->p, 1, "the pool is closed");
  } else
    luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  lua_Integer n = submit_all(L, &s, &bad, &e);
  if (e == ENOMEM && n == 0 && is_at_rest(s.x)) {
    lua_gc(L, LUA_GCCOLLECT); /* handles that Lua has dropped may hold the memory */
    luaL_argcheck(L, s.x->p && s.job->open, 1, "the pool is closed");
    n = submit_all(L, &s, &bad, &e);
    if (e == ENOMEM && n == 0) {
      lua_pushcfunction(L, raise_full);
      (void)lua_pcall(L, 0, 0, 0);
      bad = true;
      e = 0;
    }
  }
  if (e == EPIPE) return luaL_error(L, "the pool takes no more tasks");
  if (e && e != ENOMEM) return lmp_fail(L, e, "submit tasks");
  lua_pushinteger(L, n);
  if (!bad && !e) return 1;
  if (bad) lua_pushliteral(L, "bad");
  else lua_pushliteral(L, "full");
  if (!bad) return 2;
  lua_pushvalue(L, 4);
  return 3;
}

/* ---- taking reports ----------------------------------------------------------------- */

/* A report that was taken; `got.block` and the references are to be given back.  k: the
 * result reached; start: where it begins. */
struct report {
  struct lmp_pool *x;
  struct mp_report head;
  struct mp_got got;
  struct lmp_stream in;
  const unsigned char *start;
  uint32_t k, nerrors;
};

/* The buffer, pushed; another one when the old one is in use. */
static unsigned char *push_buffer(lua_State *L, struct lmp_pool *x) {
  if (!x->in_use && lua_getiuservalue(L, 1, LMP_POOL_BUFFER) == LUA_TUSERDATA)
    return lua_touserdata(L, -1);
  if (!x->in_use) lua_pop(L, 1);
  unsigned char *buf = lua_newuserdatauv(L, BUFFER, 0);
  luaL_argcheck(L, x->p, 1, "the pool is closed"); /* by a finalizer */
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 1, LMP_POOL_BUFFER);
  x->in_use = false;
  return buf;
}

/* A report with references; leaves a userdata of them on the stack. */
static int take_refs(lua_State *L, struct report *r, unsigned char *buf, uint32_t room) {
  struct lmp_pool *x = r->x;
  struct lmp_unpack *u = &r->in.u;
  mp_ref *refs = lua_newuserdatauv(L, (size_t)room * 2 * sizeof *refs, 0);
  luaL_argcheck(L, x->p, 1, "the pool is closed"); /* by a finalizer */
  u->refs = refs;
  u->entries = refs + room;
  return mp_queue_get_refs(x->reports, x->me, x->entry[1], buf, &r->got, refs, u->entries,
                           room, &u->nrefs);
}

/* Takes messages: as many as are there, or waits for one. */
static int refill(lua_State *L, struct report *r, mp_time *until) {
  struct lmp_pool *x = r->x;
  uint32_t nrefs;
  if (*until < 0) *until = lmp_deadline(L, 3);
  unsigned char *buf = push_buffer(L, x);
  x->imsg = 0;
  x->off = 0;
  x->nmsg = mp_queue_get_batch(x->reports, x->me, x->entry[1], buf, BUFFER, x->lens,
                               LMP_POOL_DRAIN);
  if (x->nmsg > 0) return 0;
  int e = mp_queue_get(x->reports, x->me, x->entry[1], *until, &x->look, buf, &r->got, &nrefs);
  if (e == EBADMSG) e = take_refs(L, r, buf, nrefs) == 0 ? 0 : EBADMSG;
  if (e) return e;
  if (r->got.block || r->in.u.nrefs) return 0;
  x->nmsg = 1;
  x->lens[0] = (uint32_t)r->got.len;
  return 0;
}

/* The next report, which lies in the userdata that it leaves on the stack, or in a block:
 * 0, EAGAIN, EINTR, EPIPE.  EBADMSG: look again.  *until: the deadline, below 0 as long as
 * nobody needed it. */
static int next_report(lua_State *L, struct report *r, mp_time *until) {
  struct lmp_pool *x = r->x;
  int e = 0;
  memset(&r->got, 0, sizeof r->got);
  memset(&r->in, 0, sizeof r->in);
  if (x->imsg < x->nmsg) lua_getiuservalue(L, 1, LMP_POOL_BUFFER);
  else e = refill(L, r, until);
  if (e) return e;
  const unsigned char *data = r->got.data;
  size_t len = r->got.len;
  if (x->imsg < x->nmsg) {
    data = (const unsigned char *)lua_touserdata(L, -1) + x->off;
    len = x->lens[x->imsg++];
    x->off += len;
  }
  memcpy(&r->head, data, sizeof r->head);
  r->in.at = data + sizeof r->head;
  r->in.end = data + len;
  return 0;
}

/* Passes over the results that were had early. */
static void skip(struct report *r, uint32_t n) {
  if (n > r->head.count) n = r->head.count;
  for (uint32_t i = 0; i < n; i++) lmp_stream_skip(&r->in);
  r->head.first += n;
  r->head.count -= n;
  r->head.ns = 0; /* says nothing of those that are left */
}

/* Its number was not seen before. */
static bool is_new(struct report *r) {
  struct lmp_pool *x = r->x;
  const struct mp_report *h = &r->head;
  if (!x->p || h->worker >= x->p->n) return false;
  struct lmp_seen *s = &x->seen[h->worker];
  if (h->life < s->life || (h->life == s->life && h->seq < s->seq)) return false;
  if (s->early && h->life == s->life && h->seq == s->seq && h->kind == MP_REPORT_RESULTS)
    skip(r, s->early);
  s->life = h->life;
  s->seq = h->seq + 1;
  s->early = 0;
  return true;
}

/* What worker i has done of a batch in which it is at a long task. */
static bool glance_at(struct report *r, uint32_t i, unsigned char *buf) {
  struct lmp_seen *s = &r->x->seen[i];
  size_t len;
  if (!mp_pool_glance(r->x->p, i, &r->head, buf, &len)) return false;
  if (r->head.life < s->life) return false;
  if (r->head.life > s->life) *s = (struct lmp_seen){r->head.life, 0, 0};
  if (r->head.seq != s->seq || r->head.count <= s->early) return false;
  uint32_t count = r->head.count, early = s->early;
  memset(&r->got, 0, sizeof r->got);
  memset(&r->in, 0, sizeof r->in);
  r->in.at = buf;
  r->in.end = buf + len;
  skip(r, early);
  r->head.ns = 0;
  s->early = count;
  return true;
}

/* No report came for a while: results that workers have not sent yet, if there are some;
 * they lie in the userdata that it leaves on the stack. */
static bool glance(lua_State *L, struct report *r) {
  struct lmp_pool *x = r->x;
  unsigned char *buf = NULL;
  for (uint32_t i = 0; x->p && i < x->p->n; i++) {
    if (mp_worker_waiting(&x->p->worker[i]) <= x->seen[i].early) continue;
    if (!buf) {
      buf = lua_newuserdatauv(L, MP_POOL_OUT, 0);
      if (!x->p) return false; /* closed by a finalizer */
    }
    if (glance_at(r, i, buf)) return true;
  }
  return false;
}

static void give_back(struct report *r) {
  struct mp_member *me = r->x->me;
  mp_got_done(&r->got, me);
  for (uint32_t i = 0; i < r->in.u.nrefs; i++)
    if (r->in.u.entries[i] != UINT32_MAX) mp_drop(r->in.u.entries[i], me);
}

/* Pushes {message =, traceback =, process =, pid =}: the message is on top. */
static void make_error(lua_State *L, const struct report *r) {
  lua_createtable(L, 0, 4);
  lua_insert(L, -2);
  lua_setfield(L, -2, "message");
  push_name(L, r->x, r->head.worker);
  lua_setfield(L, -2, "process");
  lua_pushinteger(L, r->head.pid);
  lua_setfield(L, -2, "pid");
}

/* Pushes the error that comes next. */
static void push_error(lua_State *L, struct report *r) {
  r->in.at++;
  lmp_stream_push(L, &r->in);
  make_error(L, r);
  lmp_stream_push(L, &r->in);
  lua_setfield(L, -2, "traceback");
}

/* errors[task] = what is on top */
static void store_error(lua_State *L, const struct report *r, int job) {
  lua_pushliteral(L, "errors");
  lua_rawget(L, job);
  luaL_checktype(L, -1, LUA_TTABLE);
  lua_insert(L, -2);
  lua_rawseti(L, -2, (lua_Integer)(r->head.first + r->k));
  lua_pop(L, 1);
}

/* [pool, report, jobs]: stores results from r->k on. */
static int store_results(lua_State *L) {
  struct report *r = lua_touserdata(L, 2);
  uint32_t count = r->head.count;
  lua_Integer first = (lua_Integer)r->head.first;
  if (lua_rawgeti(L, 3, (lua_Integer)r->head.job) != LUA_TTABLE) return 0;
  lua_pushliteral(L, "out");
  lua_rawget(L, 4);
  luaL_checktype(L, 5, LUA_TTABLE);
  for (; r->k < count; r->k++) {
    r->start = r->in.at;
    if (lmp_stream_failed(&r->in)) {
      r->nerrors++;
      push_error(L, r);
      store_error(L, r, 4);
      continue;
    }
    lmp_stream_push(L, &r->in);
    if (lua_isnil(L, -1)) lua_pop(L, 1);
    else lua_rawseti(L, 5, first + (lua_Integer)r->k);
  }
  return 0;
}

/* [pool, report, jobs, message]: the result at r->k could not be had. */
static int store_failure(lua_State *L) {
  struct report *r = lua_touserdata(L, 2);
  lua_rawgeti(L, 3, (lua_Integer)r->head.job);
  lua_insert(L, 4);
  make_error(L, r);
  store_error(L, r, 4);
  return 0;
}

/* [pool, report]: pushes why the worker failed, or nil. */
static int push_failure(lua_State *L) {
  struct report *r = lua_touserdata(L, 2);
  if (lmp_stream_failed(&r->in)) push_error(L, r);
  else lua_pushnil(L);
  return 1;
}

/* f(pool, report, jobs [, the error on top, which it takes]) */
static int call(lua_State *L, lua_CFunction f, struct report *r, bool error, int results) {
  int top = lua_gettop(L);
  lua_pushcfunction(L, f);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, r);
  lua_pushvalue(L, 2);
  if (error) lua_rotate(L, top, -1);
  return lua_pcall(L, error ? 4 : 3, results, 0);
}

/* Stores all results; LUA_OK, or an error is on top: not even errors can be stored. */
static int decode_results(lua_State *L, struct report *r) {
  int status = LUA_OK;
  while (status == LUA_OK && r->k < r->head.count) {
    if (call(L, store_results, r, false, 0) == LUA_OK) break;
    r->in.at = r->start;
    lmp_stream_skip(&r->in);
    r->nerrors++;
    status = call(L, store_failure, r, true, 0);
    r->k++;
  }
  return status;
}

/* Decodes what it holds; the buffer stays in use meanwhile.  A FAILED leaves its error on
 * top. */
static void decode_report(lua_State *L, struct report *r) {
  struct lmp_pool *x = r->x;
  bool before = x->in_use;
  int status = LUA_OK;
  r->k = r->nerrors = 0;
  r->start = r->in.at;
  x->in_use = true;
  if (r->head.kind == MP_REPORT_RESULTS) status = decode_results(L, r);
  else if (call(L, push_failure, r, false, 1) != LUA_OK) {
    lua_pushfstring(L, "%s", luaL_tolstring(L, -1, NULL));
    lua_remove(L, -2);
  }
  x->in_use = before;
  give_back(r);
  if (status != LUA_OK) lua_error(L);
}

static int push_results(lua_State *L, struct report *r) {
  const struct mp_report *h = &r->head;
  if (h->count > 0) decode_report(L, r);
  lua_pushliteral(L, "results");
  lua_pushinteger(L, (lua_Integer)h->job);
  lua_pushinteger(L, (lua_Integer)h->first);
  lua_pushinteger(L, h->count);
  lua_pushinteger(L, r->nerrors);
  lua_pushinteger(L, (lua_Integer)h->ns);
  lua_pushboolean(L, h->flags & MP_REPORT_LAST);
  return 7;
}

static int push_lost(lua_State *L, const struct report *r) {
  const struct mp_report *h = &r->head;
  if (h->kind == MP_REPORT_LOST) lua_pushliteral(L, "lost");
  else lua_pushliteral(L, "returned");
  lua_pushinteger(L, (lua_Integer)h->job);
  lua_pushinteger(L, (lua_Integer)h->first);
  lua_pushinteger(L, h->count);
  if (h->kind != MP_REPORT_LOST) return 4;
  lua_pushinteger(L, h->status);
  lua_pushinteger(L, h->pid);
  push_name(L, r->x, h->worker);
  lua_pushboolean(L, h->flags & MP_REPORT_OVERDUE);
  return 8;
}

static int push_failed(lua_State *L, struct report *r) {
  int top = lua_gettop(L);
  decode_report(L, r);
  lua_insert(L, top + 1);
  lua_settop(L, top + 1);
  lua_pushliteral(L, "failed");
  lua_insert(L, -2);
  lua_pushinteger(L, r->head.status);
  lua_pushinteger(L, r->head.pid);
  push_name(L, r->x, r->head.worker);
  return 5;
}

/* pool_take(pool, jobs, timeout) -> kind, ... | false | nothing */
static int pool_take(lua_State *L) {
  struct report r = {.x = check_owner(L)};
  luaL_checktype(L, 2, LUA_TTABLE);
  mp_time until = -1;
  int e;
  do {
    lua_settop(L, 3);
    e = next_report(L, &r, &until);
    if (e == 0 && !is_new(&r)) {
      give_back(&r);
      e = EBADMSG;
    }
  } while (e == EBADMSG);
  if ((e == EINTR || (e == EAGAIN && until != MP_NEVER)) && glance(L, &r)) e = 0;
  if (e == EINTR) {
    lmp_pause(L, r.x->me);
    lua_pushboolean(L, 0);
    return 1;
  }
  if (e) return 0;
  switch (r.head.kind) {
  case MP_REPORT_RESULTS: return push_results(L, &r);
  case MP_REPORT_FAILED: return push_failed(L, &r);
  default: give_back(&r); return push_lost(L, &r);
  }
}

/* pool_fd(pool) -> a descriptor that polls readable while reports wait */
static int pool_fd(lua_State *L) {
  struct lmp_pool *x = check_owner(L);
  int e = mp_queue_watch(x->reports, x->me, &x->watcher);
  if (e == ENOMEM) lmp_full(L);
  if (e) return lmp_fail(L, e, "make a descriptor for a pool");
  lua_pushinteger(L, x->watcher.fd);
  return 1;
}

/* pool_calm(pool): no report waits, takes the ring back */
static int pool_calm(lua_State *L) {
  struct lmp_pool *x = check_owner(L);
  if (x->imsg == x->nmsg) mp_queue_calm(x->reports, x->me, &x->watcher);
  return 0;
}

/* pool_shut(pool): no more tasks */
static int pool_shut(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  mp_queue_shut(x->tasks, x->me);
  return 0;
}

/* pool_list(n) -> an empty table with room for n elements */
static int pool_list(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  lua_createtable(L, n < 0 ? 0 : n > 1 << 20 ? 1 << 20 : (int)n, 0);
  return 1;
}

/* ---- workers, from outside ---------------------------------------------------------- */

/* pool_expect(pool, i): before the fork of worker i */
static int pool_expect(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  mp_pool_expect(x->p, lmp_pool_worker(L, x, 2));
  return 0;
}

/* While memory is short: waits a little.  False when to wait is of no use: the owner has
 * to take reports first, the nursery is told to end. */
static bool wait_for_memory(const struct lmp_pool *x, int tries) {
  struct timespec t = {0, FULL_WAIT_NS};
  sigset_t pending;
  if (x->owner == x->me->pid && tries >= FULL_TRIES) return false;
  if (sigpending(&pending) == 0 && sigismember(&pending, SIGTERM) == 1) return false;
  (void)nanosleep(&t, NULL);
  return true;
}

/* pool_bury(pool, i, status) -> true; false: shared memory is full and stays so until the
 * owner has taken reports, or (the nursery) SIGTERM waits: not buried */
static int pool_bury(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  uint32_t i = lmp_pool_worker(L, x, 2);
  int status = (int)luaL_checkinteger(L, 3), e, tries = 0;
  while ((e = mp_pool_bury(x->p, i, status, x->me)) != 0) {
    if (e == ENOMEM && !wait_for_memory(x, tries++)) break;
    if (e != ENOMEM && e != EINTR) return lmp_fail(L, e, "bury a worker");
    if (lmp_pause(L, x->me)) lmp_pool_check(L);
  }
  lua_pushboolean(L, e == 0);
  return 1;
}

/* pool_word_alive(pool, i) -> the worker that has record i lives */
static int pool_word_alive(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  lua_pushboolean(L, mp_pool_worker_alive(x->p, lmp_pool_worker(L, x, 2)));
  return 1;
}

/* pool_broken(pool) -> a worker could not get ready: no more are to be forked */
static int pool_broken(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  lua_pushboolean(L, mp_pool_broken(x->p));
  return 1;
}

/* ---- seeds -------------------------------------------------------------------------- */

/* splitmix64: every bit of the input changes half of the output. */
static uint64_t mix(uint64_t x) {
  x += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
  return x ^ x >> 31;
}

void lmp_task_seed(uint64_t seed, uint64_t task, lua_Integer out[2]) {
  uint64_t a = mix(mix(seed) ^ task);
  out[0] = (lua_Integer)a;
  out[1] = (lua_Integer)mix(a ^ seed);
}

/* task_seed(seed, index) -> a, b */
static int task_seed(lua_State *L) {
  lua_Integer out[2];
  lmp_task_seed((uint64_t)luaL_checkinteger(L, 1), (uint64_t)luaL_checkinteger(L, 2), out);
  lua_pushinteger(L, out[0]);
  lua_pushinteger(L, out[1]);
  return 2;
}

static const luaL_Reg functions[] = {
  {"pool", new_pool}, {"pool_open", pool_open}, {"pool_done", pool_done},
  {"pool_submit", pool_submit}, {"pool_take", pool_take}, {"pool_cancel", pool_cancel},
  {"pool_shut", pool_shut}, {"pool_fd", pool_fd}, {"pool_calm", pool_calm},
  {"pool_close", close_pool}, {"pool_expect", pool_expect}, {"pool_bury", pool_bury},
  {"pool_word_alive", pool_word_alive}, {"pool_broken", pool_broken}, {"pool_list", pool_list},
  {"task_seed", task_seed}, {NULL, NULL}
};

static void new_type(lua_State *L, const char *name, const luaL_Reg *metamethods) {
  luaL_newmetatable(L, name);
  luaL_setfuncs(L, metamethods, 0);
  lua_pop(L, 1);
}

void lmp_open_pool(lua_State *L) {
  static const luaL_Reg pool[] = {
    {"__gc", close_pool}, {"__tostring", pool_tostring}, {NULL, NULL}};
  static const luaL_Reg job[] = {{"__gc", job_gc}, {NULL, NULL}};
  new_type(L, POOL, pool);
  new_type(L, JOB, job);
  mp_pool_kinds();
  luaL_setfuncs(L, functions, 0);
  lmp_open_worker(L);
}
