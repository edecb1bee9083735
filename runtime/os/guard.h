/* The process's own mutexes and fork: none of them may be held by a thread that a child does
 * not have. */
#ifndef MP_OS_GUARD_H
#define MP_OS_GUARD_H
#include <pthread.h>

/* In the order in which they are taken, should one be taken inside another. */
enum mp_guard { MP_GUARD_PROGRAMS, MP_GUARD_MEMBERS, MP_GUARD_ARENA, MP_GUARD_OPENERS, MP_GUARDS };

/* Every fork, by whomever, takes the mutex before and gives it back after, in parent and
 * child.  Called before it is used first: from a constructor. */
void mp_guard(enum mp_guard which, pthread_mutex_t *mutex);

#endif
