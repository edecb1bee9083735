/* Mutexes that every fork takes. */
#include "guard.h"
#include <stddef.h>

static pthread_mutex_t *guarded[MP_GUARDS];

static void take(void) {
  for (int i = 0; i < MP_GUARDS; i++)
    if (guarded[i]) pthread_mutex_lock(guarded[i]);
}

static void give_back(void) {
  for (int i = MP_GUARDS; i-- > 0;)
    if (guarded[i]) pthread_mutex_unlock(guarded[i]);
}

void mp_guard(enum mp_guard which, pthread_mutex_t *mutex) {
  static int watched;
  if (!watched) watched = pthread_atfork(take, give_back, give_back) == 0;
  guarded[which] = mutex;
}
