/* Flushing before a fork, forgetting after it.
 *
 * fflush(NULL) waits for every file that somebody uses: in a host where a thread reads
 * stdin it would not come back.  With threads glibc's own walk over the open files is
 * taken, which its library exports and its headers do not declare; files that are busy
 * are passed over, and what they hold is forgotten by the child.
 */
#include "stdio.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <sys/single_threaded.h>

typedef FILE *file_iterator;
extern file_iterator _IO_iter_begin(void), _IO_iter_end(void);
extern file_iterator _IO_iter_next(file_iterator), _IO_iter_file(file_iterator);
extern void _IO_list_lock(void), _IO_list_unlock(void);

static _Thread_local bool left; /* some files may hold something of the parent's */

static void flush_idle_files(void) {
  _IO_list_lock();
  for (file_iterator i = _IO_iter_begin(); i != _IO_iter_end(); i = _IO_iter_next(i)) {
    FILE *f = _IO_iter_file(i);
    if (ftrylockfile(f) != 0) continue;
    if (__fpending(f)) (void)fflush_unlocked(f);
    funlockfile(f);
  }
  _IO_list_unlock();
}

void mp_stdio_flush(void) {
  left = !__libc_single_threaded; /* others may write between this and the fork */
  if (left) flush_idle_files();
  else (void)fflush(NULL);
}

/* The fork has made the locks of all files new.  A stream that was not used is not
 * touched: that would copy its page. */
void mp_stdio_forget(void) {
  if (__fbufsize(stdin)) __fpurge(stdin);
  if (feof(stdin) || ferror(stdin)) clearerr(stdin);
  if (__fpending(stdout)) __fpurge(stdout);
  if (__fpending(stderr)) __fpurge(stderr);
  if (!left) return;
  for (file_iterator i = _IO_iter_begin(); i != _IO_iter_end(); i = _IO_iter_next(i))
    if (__fpending(_IO_iter_file(i))) __fpurge(_IO_iter_file(i));
  left = false;
}
