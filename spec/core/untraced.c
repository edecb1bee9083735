/* Linked into the checks of a build for the thread sanitizer, in the place of ptrace:
 * an operation is many times as long there, and its kill points, which the plain build
 * has tried, would take hours.  The checks take the refusal as a machine without
 * tracing. */
#include <errno.h>

long __wrap_ptrace(int request, ...);

long __wrap_ptrace(int request, ...) {
  (void)request;
  errno = EPERM;
  return -1;
}
