/* A state's stay in a process: what the parts of the process binding share.
 *
 * A program is one Lua state in one process: the main program, or a child that was
 * started by mp.Process.  It ends once, by lmp_program_end, in the process and the
 * thread that it belongs to, whichever of the ways out comes first: mplua_shutdown,
 * lua_close, exit(3).
 */
#ifndef LMP_PROCESS_H
#define LMP_PROCESS_H
#include "../os/proc.h"
#include "lmp.h"
#include <limits.h>
#include <pthread.h>

/* In the registry, a userdata.  Coroutines are its user values.
 * end: what the end of the program runs on, which nothing else uses.
 * next_co, next_end: for the next child, which finds them in its copy of the state and
 *   uses them up: what it runs on, and its `end`.  NULL until they are needed.
 * member: of a child; NULL in a main program, which may not have joined.
 * pid, thread: where it belongs.
 * child: started by mp.Process.  parent, parent_word: of a child.
 * hidden: from exit(3).
 * over: its end has begun.   joined: it has had a start, hence a good sentinel.
 * sentinel: the newest object whose collection means that the state is closed. */
enum { LMP_END = 1, LMP_BASE, LMP_NEXT_CO, LMP_NEXT_END };
struct lmp_program {
  lua_State *end, *next_co, *next_end;
  struct mp_member *member;
  pid_t pid, parent;
  uint32_t parent_word;
  pthread_t thread;
  bool child, over, joined, hidden;
  const void *sentinel;
  struct lmp_program *next; /* the programs of this process */
};

struct lmp_program *lmp_program(lua_State *L);
void lmp_push_core(lua_State *L);
/* What has handlers in this process cannot be unloaded. */
void lmp_stay_loaded(void);
/* What the library makes and ends itself is not ended by exit(3), which another thread may
 * call. */
void lmp_program_hide(lua_State *L);
/* Makes the program of this state, `core` table on top; watches for exit(3). */
void lmp_program_open(lua_State *L);
/* Before a start, in a member of the family: makes next_co and next_end if there are
 * none, and for the first start a sentinel that is younger than the member.  Raises. */
void lmp_program_prepare(lua_State *L, struct lmp_program *p);
/* This process is `p`'s now, all other programs stayed behind; it runs on its next_co. */
void lmp_program_settle(struct lmp_program *p);
/* Runs core.shutdown(code), once; LMP_NO_CODE in a main program.  False when Ctrl-C
 * ended it in a child.  Raises nothing; other errors go to stderr. */
#define LMP_NO_CODE INT_MIN
bool lmp_program_end(struct lmp_program *p, int code);

/* What a child is to the library.  Ctrl-C is nothing to the last three.
 * LMP_NURSERY: forks the workers of a pool; its signals wait for it (lnursery.c).
 * LMP_WORKER: started by a nursery; its parent in the eyes of scripts is the nursery's.
 * LMP_SERVER: of a manager. */
enum lmp_role { LMP_PLAIN, LMP_NURSERY, LMP_WORKER, LMP_SERVER };

/* What a child needs to begin.  L runs the call that forked; co, the program's next_co:
 * [L, handler, function, arguments]: it keeps L alive, on whose C frame the child lives. */
struct lmp_start {
  lua_State *L, *co;
  struct lmp_program *program;
  struct mp_member *member;
  struct mp_birth birth;
  const char *name;
  int nargs;
  bool told;     /* the parent waits to hear of trouble */
  enum lmp_role role;
  int trouble[2];
  pid_t parent;
  uint32_t parent_word;
  sigset_t mask; /* to be restored */
};

/* The message handler of a child's coroutine. */
int lmp_child_error(lua_State *L);
/* In the child, all signals blocked: its whole life. */
void lmp_child_run(struct lmp_start *s) __attribute__((noreturn));
/* Ends a child: the end of its program, flush, _exit. */
void lmp_child_exit(struct lmp_program *p, int code) __attribute__((noreturn));
/* `message` is what Ctrl-C raised. */
bool lmp_child_interrupted(const char *message);

/* core.renew_sentinel(): what the script has now is there still when the closing of the
 * state ends the program. */
int lmp_renew_sentinel(lua_State *L);

/* The core's `exit`: os.exit without closing the state. */
int lmp_exit(lua_State *L);

/* Nonzero when this process was forked by mp, so that the state must not be closed.
 * Else ends the program of L first, when it has one. */
int lmp_closing(lua_State *L);

/* Fills the core table on top with sleep, poll, monotonic. */
void lmp_open_wait(lua_State *L);
void lmp_open_inspect(lua_State *L);

/* In a new nursery or worker, all signals blocked.  mask: the signal mask of its parent;
 * what its own is to be. */
void lmp_nursery_signals(enum lmp_role role, sigset_t *mask);
/* Fills the core table on top with nursery_wait, nursery_ended. */
void lmp_open_nursery(lua_State *L);

#endif
