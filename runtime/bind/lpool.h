/* A pool's core as Lua holds it: what lpool.c (the owner) and lworker.c share.
 *
 * In a batch every task has its argument as a value of a stream (marshal_stream.h).  With
 * MP_BATCH_SPREAD it has a list of arguments: one byte, how many, then so many values; or
 * LMP_ARGS_TABLE, their number in 4 bytes, and one value, a table that has them.
 */
#ifndef LMP_POOL_H
#define LMP_POOL_H
#include "../ipc/pool.h"
#include "lmp.h"
#include "marshal_stream.h"

enum { LMP_ARGS_TABLE = 255 };

/* A function that the owner keeps.  obj: the FUNCTION, 0 for a free place; entry: the
 * owner's reference to it.  jobs: those that are open.  used: when it was last asked for. */
struct lmp_func {
  mp_ref obj;
  uint32_t entry;
  uint64_t serial, jobs, used;
  size_t bytes;
};

/* The number that a worker's next report has, if it is a new one, and how many of its
 * results were had early. */
struct lmp_seen {
  uint32_t life, seq, early;
};

/* Userdata "mp.PoolCore"; a fork's child has a copy with the same entries.  User values:
 * the prefix of the workers' names, the buffer that reports are taken into.
 * tag: lmp_pool_tag.  p: NULL once closed.  entry: of the pool, tasks, reports, as far as
 * `entries` says.  base: number of the worker before the first.  owner: the process that
 * made it; what comes after that is its only.
 * funcs: memory of its own.  bytes: of all functions together.  clock: counts asks for
 * functions.   batches: ids given.
 * lens, nmsg, imsg, off: messages in the buffer, the next one, its place.  in_use: what
 * was taken from the buffer is being decoded, so it must stay as it is. */
enum { LMP_POOL_PREFIX = 1, LMP_POOL_BUFFER };
enum { LMP_POOL_ENTRIES = 3, LMP_POOL_DRAIN = 64 };
struct lmp_pool {
  const char *tag;
  struct mp_member *me;
  struct mp_pool *p;
  struct mp_queue *tasks, *reports;
  uint32_t entry[LMP_POOL_ENTRIES];
  int entries;
  lua_Integer base;
  pid_t owner;
  struct lmp_func *funcs;
  uint32_t nfuncs;
  size_t bytes;
  uint64_t clock, batches;
  struct mp_look look;
  struct mp_watcher watcher;
  uint32_t lens[LMP_POOL_DRAIN], nmsg, imsg;
  size_t off;
  bool in_use;
  struct lmp_seen seen[];
};

/* The pool at argument 1; raises when it is none or closed. */
struct lmp_pool *lmp_pool_check(lua_State *L);
/* Number of a worker at `arg`: from 0 on. */
uint32_t lmp_pool_worker(lua_State *L, const struct lmp_pool *x, int arg);

/* Decodes what u is of, with its references, which this process has registered: those that
 * no handle took over are dropped.  Pushes the value or the error; LUA_OK or not. */
int lmp_pool_decode(lua_State *L, struct lmp_unpack *u, struct mp_member *me);

/* Two numbers for math.randomseed, mixed from the job's seed and the task's number. */
void lmp_task_seed(uint64_t seed, uint64_t task, lua_Integer out[2]);

/* Adds the worker's functions to the table on top. */
void lmp_open_worker(lua_State *L);

#endif
