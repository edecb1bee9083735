/* mplua: processes for Lua 5.4, in a C or C++ program.
 *
 * ## A Lua state with `require "mp"`
 *
 *     lua_State *L = luaL_newstate();
 *     luaL_openlibs(L);
 *     mplua_openlibs(L);
 *     luaL_dofile(L, "script.lua");
 *     mplua_shutdown(L);
 *     lua_close(L);
 *
 * ## Threads of the host and Lua workers, without a Lua state in the host's hands
 *
 *     mplua_pool *pool;
 *     mplua_value n = mplua_integer(30), *v;
 *     int ok;
 *     mplua_pool_options o = {sizeof o};
 *     o.processes = 4;
 *     o.setup = "function fib(n) return n < 2 and n or fib(n-1) + fib(n-2) end";
 *     if (mplua_pool_open(&pool, &o) != MPLUA_OK) fail(mplua_errmsg());
 *     mplua_pool_call(pool, "fib", &n, 1, NULL);
 *     mplua_pool_take(pool, NULL, &ok, &v, MPLUA_FOREVER);
 *     printf("%lld\n", v->as.integer);
 *     mplua_free(v);
 *     mplua_pool_close(&pool);
 *
 * and mplua_queue_* for queues that are shared with Lua processes.  Compile with
 * `$(pkg-config --cflags --libs mplua)`.
 *
 * ## What the library does to its host
 *
 * Nothing that a guest should not.  It installs no signal handler, does not look at
 * SIGCHLD (which may be ignored or handled), waits for no process that it did not start,
 * starts no thread, changes no locale, directory, or mask.  Descriptors are close-on-exec
 * from birth.  After mplua_shutdown and lua_close of the last state, and the closing of
 * queues and pools, there remain: one mapping of memory that other processes may use
 * still and its descriptor, a socket without a name, and an exit handler (so a library that
 * was loaded by dlopen stays loaded).  Under valgrind set MPLUA_SHM=16M in the environment:
 * its search for leaks reads all of the shared memory.
 *
 * ## Threads
 *
 * A Lua state is used by one thread at a time, as with Lua itself; several states may be
 * used side by side, opened and closed in any thread.  mplua_queue_* and mplua_pool_* may
 * be called from any thread at any time, except that nobody may be in a call with a
 * queue or pool while it is closed.  A thread that uses queues takes one of the 4,095
 * places in the family of processes, until it ends.  Do not cancel (pthread_cancel) a
 * thread inside the library, and do not call it from a signal handler: it may hold a lock
 * that others need.
 *
 * ## Processes, and what a child of a host with threads may do
 *
 * Processes are made by fork, also those of a pool: a child begins as a copy of the
 * thread that forks, and of no other one.  It runs Lua code and never returns into the
 * host's.  Memory allocation and stdio work in it, whatever other threads were doing (the
 * C library sees to that), and so does everything of Lua's own libraries and of mp, but:
 * a lock of the host, or of a library of the host's, that another thread held at that
 * moment stays locked in the child.  So Lua functions of yours that take locks must not
 * be called there, unless pthread_atfork keeps them in order.  os.date and os.time with
 * a table, os.setlocale, messages of io.open and the like, io.popen, names of hosts in
 * mp.Client, and require of C modules take locks of the C library itself: load modules in
 * a pool's setup, and start processes before threads that use these.
 *
 * In a child all pools, and all Lua states of other threads, are refused by an error
 * (MPLUA_EFORK; in Lua "this process was forked by other means than mp"); so is everything
 * in a process that the host has forked itself.  Queues can be used there.
 *
 * Children end with the process that started them, not with the thread that did, however
 * it ends.  (Only when the host leaves main by pthread_exit, the children that its first
 * thread had started end with that thread.)  Children of other threads learn of it by signal
 * SIGRTMAX-1: one that is stopped then (SIGSTOP) ends when it is continued.
 *
 * ## Errors
 *
 * Functions that return int return MPLUA_OK or one of the codes below; mplua_strerror gives
 * a text for the code, mplua_errmsg what went wrong last in the calling thread, in full.
 * On an error results are not touched.
 */
#ifndef MPLUA_H
#define MPLUA_H

#define MPLUA_VERSION "0.1.0"
#define MPLUA_VERSION_MAJOR 0
#define MPLUA_VERSION_MINOR 1
#define MPLUA_VERSION_PATCH 0
#define MPLUA_VERSION_NUM \
  (MPLUA_VERSION_MAJOR * 10000 + MPLUA_VERSION_MINOR * 100 + MPLUA_VERSION_PATCH)

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#if LUA_VERSION_NUM != 504
#error "mplua needs Lua 5.4"
#endif

#if defined(__GNUC__)
#define MPLUA_API __attribute__((visibility("default"))) extern
#else
#define MPLUA_API extern
#endif

/* The version of the library that runs, as MPLUA_VERSION_NUM is that of this header. */
MPLUA_API int mplua_version(void);

/* ---- Lua states ----------------------------------------------------------------- */

/* Makes `require "mp"` find the library in L.  Nothing is opened before a script
 * asks for it.  L needs the `package` library by then; the order does not matter.
 * Raises only what Lua raises when memory is short. */
MPLUA_API void mplua_openlibs(lua_State *L);

/* Ends what the script in L has started, as the end of a script does: flushes
 * stdout, terminates daemons, joins the other processes.  Blocks until they ended.
 * Raises nothing; an error on the way goes to lua_warning.  Does nothing when L
 * never required "mp", and in a process that mp did not start.  L can be used
 * afterwards; calling it again joins what was started since. */
MPLUA_API void mplua_shutdown(lua_State *L);

/* The `mplua` command: takes main's arguments, returns the exit status.  argv must
 * end with NULL.  While it runs chunks SIGINT raises "interrupted!" in them; its
 * disposition is the default one afterwards. */
MPLUA_API int mplua_main(int argc, char **argv);

/* What `require "mp"` calls: pushes the table of the library.  The first call in a
 * state makes it, later ones give the same. */
MPLUA_API int luaopen_mp(lua_State *L);

/* ---- errors --------------------------------------------------------------------- */

enum {
  MPLUA_OK = 0,
  MPLUA_ETIMEOUT,  /* the time is over: nothing to get, no room to put */
  MPLUA_ECLOSED,   /* the queue was shut down; or the pool, and nothing is left of it */
  MPLUA_EMEMORY,   /* memory, or shared memory, is full */
  MPLUA_EARGUMENT, /* an argument is not what it has to be */
  MPLUA_EVALUE,    /* an item cannot be made a value here: it needs a module, say */
  MPLUA_EFORK,     /* this process is a child of the one that made it */
  MPLUA_ELUA,      /* an error in Lua code: the setup of a pool */
  MPLUA_ESYSTEM    /* the system refused something: a process, a descriptor */
};

/* A short text for a code; static. */
MPLUA_API const char *mplua_strerror(int code);
/* What went wrong in the last call of this thread that failed; valid until the next one
 * that fails.  "" when none did. */
MPLUA_API const char *mplua_errmsg(void);

/* ---- values --------------------------------------------------------------------- */

/* A value of Lua's in C.  LIST: a table whose keys are 1..n; as.items are its n values.
 * TABLE: any other; as.items are n keys and values in turn, 2 n of them.  A string may
 * hold any bytes; those that come from the library have a zero byte behind them.  OPAQUE
 * is what only Lua can hold, and comes out of the library only: a function, a shared
 * object, a table inside itself; as.string names its type.  NIL stands in lists of
 * results and arguments; a queue does not take it by itself (it takes MPLUA_NULL, which is
 * mp.null).  Metatables do not come along. */
typedef enum mplua_type {
  MPLUA_NIL, MPLUA_NULL, MPLUA_BOOLEAN, MPLUA_INTEGER, MPLUA_NUMBER, MPLUA_STRING,
  MPLUA_LIST, MPLUA_TABLE, MPLUA_OPAQUE
} mplua_type;

typedef struct mplua_value {
  mplua_type type;
  size_t n; /* bytes, elements, or pairs */
  union {
    int boolean;
    long long integer;
    double number;
    const char *string;
    const struct mplua_value *items;
  } as;
} mplua_value;

/* Frees a value, all of it, that a function of the library has given.  NULL is fine. */
MPLUA_API void mplua_free(mplua_value *v);

/* The value of a key in a table, or NULL. */
MPLUA_API const mplua_value *mplua_field(const mplua_value *table, const char *key);

/* Values to put.  What they point to must be there until the call returns. */
static inline mplua_value mplua_null(void) {
  mplua_value v;
  v.type = MPLUA_NULL, v.n = 0, v.as.integer = 0;
  return v;
}
static inline mplua_value mplua_boolean(int b) {
  mplua_value v;
  v.type = MPLUA_BOOLEAN, v.n = 0, v.as.integer = 0, v.as.boolean = b;
  return v;
}
static inline mplua_value mplua_integer(long long i) {
  mplua_value v;
  v.type = MPLUA_INTEGER, v.n = 0, v.as.integer = i;
  return v;
}
static inline mplua_value mplua_number(double d) {
  mplua_value v;
  v.type = MPLUA_NUMBER, v.n = 0, v.as.number = d;
  return v;
}
static inline mplua_value mplua_bytes(const void *p, size_t n) {
  mplua_value v;
  v.type = MPLUA_STRING, v.n = n, v.as.string = (const char *)p;
  return v;
}
static inline mplua_value mplua_string(const char *s) {
  size_t n = 0;
  while (s[n]) n++;
  return mplua_bytes(s, n);
}
static inline mplua_value mplua_list(const mplua_value *items, size_t n) {
  mplua_value v;
  v.type = MPLUA_LIST, v.n = n, v.as.items = items;
  return v;
}
static inline mplua_value mplua_table(const mplua_value *pairs, size_t n) {
  mplua_value v;
  v.type = MPLUA_TABLE, v.n = n, v.as.items = pairs;
  return v;
}

/* Time-outs are seconds.  0 or less: do not wait. */
#define MPLUA_FOREVER HUGE_VAL

/* ---- queues --------------------------------------------------------------------- */

/* A queue of this process, its children, and theirs: mp.Queue.  An item is in it when
 * put returns, whatever becomes of who has put it. */
typedef struct mplua_queue mplua_queue;

/* Makes one.  maxsize: how many items it holds at most; 0: as many as memory. */
MPLUA_API int mplua_queue_open(mplua_queue **q, size_t maxsize);
/* That of the mp.Queue or mp.LifoQueue at an index of L's stack. */
MPLUA_API int mplua_queue_from(lua_State *L, int index, mplua_queue **q);
/* Pushes it as an mp.Queue: for a script, or an argument of a process or pool.  Raises as
 * Lua does. */
MPLUA_API void mplua_queue_push(lua_State *L, mplua_queue *q);
/* Closes this handle and sets *q NULL; the queue lives while anybody has another. */
MPLUA_API void mplua_queue_close(mplua_queue **q);

/* Puts a string of n bytes, or a value.  MPLUA_ETIMEOUT: still full; MPLUA_ECLOSED: shut
 * down; MPLUA_EMEMORY; MPLUA_EARGUMENT: nil, or nested more than 200 deep.  After any of
 * them the queue is as it was. */
MPLUA_API int mplua_queue_put(mplua_queue *q, const void *bytes, size_t n, double timeout);
MPLUA_API int mplua_queue_put_value(mplua_queue *q, const mplua_value *v, double timeout);
/* Takes the next item; the caller frees it with mplua_free.  MPLUA_ETIMEOUT: empty;
 * MPLUA_ECLOSED: shut down and empty; MPLUA_EVALUE: the item is gone. */
MPLUA_API int mplua_queue_get(mplua_queue *q, mplua_value **v, double timeout);

/* How many items are in it. */
MPLUA_API size_t mplua_queue_size(mplua_queue *q);
/* No more puts by anyone; getters drain it, then are told MPLUA_ECLOSED. */
MPLUA_API int mplua_queue_shutdown(mplua_queue *q);
/* One of the items that this thread has taken is done with.  MPLUA_EARGUMENT: more often
 * than items were put. */
MPLUA_API int mplua_queue_task_done(mplua_queue *q);
/* Waits until all items that were put are done with, or gone with processes that died. */
MPLUA_API int mplua_queue_join(mplua_queue *q, double timeout);
/* A descriptor that polls readable while items wait: for this thread, until it ends or the
 * queue is closed (take it out of your epoll before).  It may be readable in vain; get with
 * time-out 0 then says MPLUA_ETIMEOUT, and it is readable no more. */
MPLUA_API int mplua_queue_fileno(mplua_queue *q, int *fd);

/* ---- pools ---------------------------------------------------------------------- */

/* Worker processes that run Lua functions for any thread of the host. */
typedef struct mplua_pool mplua_pool;

/* size: sizeof (mplua_pool_options), so that later versions can tell.  All else may be 0.
 * processes: workers; 0: one for each processor.
 * retries: how often a task is tried again when its worker died.
 * task_timeout: seconds that a task may take, 0: any time.  maxtasksperchild: 0: no limit.
 * setup: Lua text that runs in the pool's own state before the workers are made, so that
 *   they all have what it defines.
 * open, arg: called before it, with that state, under lua_pcall: opens libraries of the
 *   host. */
typedef struct mplua_pool_options {
  size_t size;
  int processes;
  int retries;
  double task_timeout;
  int maxtasksperchild;
  const char *setup;
  void (*open)(lua_State *L, void *arg);
  void *arg;
} mplua_pool_options;

/* Starts the workers.  MPLUA_ELUA: the setup failed; MPLUA_ESYSTEM; MPLUA_EARGUMENT. */
MPLUA_API int mplua_pool_open(mplua_pool **pool, const mplua_pool_options *options);
/* Ends the workers at once, and sets *pool NULL.  What was not taken is gone. */
MPLUA_API void mplua_pool_close(mplua_pool **pool);

/* Submits a task, and does not wait.  call: a function by its name in the pool's state,
 * where dots lead into tables ("string.rep").  run: a chunk of Lua text, which gets the
 * arguments as `...` and returns its result.  args: `nargs` values.  *task (unless NULL)
 * becomes the number that its result will bear.  MPLUA_EARGUMENT: there is no such
 * function, the text does not compile. */
MPLUA_API int mplua_pool_call(mplua_pool *pool, const char *function, const mplua_value *args,
                              size_t nargs, uint64_t *task);
MPLUA_API int mplua_pool_run(mplua_pool *pool, const char *chunk, const mplua_value *args,
                             size_t nargs, uint64_t *task);

/* Takes one result, in the order in which they come: *task (unless NULL) its number, *ok
 * nonzero and *v the value that the function returned; or *ok zero and *v a string, what
 * was raised with its traceback, or what became of the worker.  The caller frees *v.
 * MPLUA_ETIMEOUT: nothing yet; MPLUA_ECLOSED: nothing is under way.  Every task has one
 * result. */
MPLUA_API int mplua_pool_take(mplua_pool *pool, uint64_t *task, int *ok, mplua_value **v,
                              double timeout);
/* A descriptor for poll, select or epoll that is readable when mplua_pool_take should be
 * called with time-out 0, until that says MPLUA_ETIMEOUT or MPLUA_ECLOSED.  The pool's, not
 * to be closed or read. */
MPLUA_API int mplua_pool_fileno(mplua_pool *pool);
/* Tasks whose results were not taken. */
MPLUA_API size_t mplua_pool_pending(mplua_pool *pool);

#ifdef __cplusplus
}
#endif

#endif
