/* Texts of errno, without the lock that strerror takes: another thread may have held it when
 * this process was forked. */
#ifndef MP_OS_ERROR_H
#define MP_OS_ERROR_H
#include <string.h>

static inline const char *mp_error_text(int err) {
  const char *text = strerrordesc_np(err);
  return text ? text : "unknown error";
}

#endif
