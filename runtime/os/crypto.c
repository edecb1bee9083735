/* Digests, from libcrypto. */
#include "crypto.h"
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/random.h>

typedef const void *(*find_digest)(const char *name);
typedef unsigned char *(*make_hmac)(const void *digest, const void *key, int nkey,
                                    const unsigned char *message, size_t len,
                                    unsigned char *out, unsigned *n);

static find_digest digest_by_name;
static make_hmac hmac;

static bool load(void) {
  static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.1.1"};
  void *lib = NULL;
  if (hmac) return true;
  for (size_t i = 0; lib == NULL && i < sizeof names / sizeof *names; i++)
    lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (lib == NULL) return false;
  *(void **)&digest_by_name = dlsym(lib, "EVP_get_digestbyname");
  *(void **)&hmac = digest_by_name ? dlsym(lib, "HMAC") : NULL;
  return hmac != NULL;
}

int mp_hmac(const char *name, const void *key, size_t nkey, const void *message, size_t len,
            unsigned char out[MP_DIGEST], size_t *n) {
  /* as CPython's handshake names them, and as libcrypto does */
  static const char *const names[][2] = {{"md5", "MD5"}, {"sha256", "SHA256"},
    {"sha384", "SHA384"}, {"sha3_256", "SHA3-256"}, {"sha3_384", "SHA3-384"}};
  const void *digest = NULL;
  unsigned got = 0;
  if (!load()) return ENOSYS;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i][0]) == 0) digest = digest_by_name(names[i][1]);
  if (digest == NULL || nkey > INT_MAX) return EINVAL;
  if (hmac(digest, key, (int)nkey, message, len, out, &got) == NULL) return EINVAL;
  *n = got;
  return 0;
}

bool mp_same(const void *a, const void *b, size_t n) {
  const volatile unsigned char *x = a, *y = b;
  unsigned char differ = 0;
  for (size_t i = 0; i < n; i++) differ |= x[i] ^ y[i];
  return differ == 0;
}

int mp_random(void *out, size_t n) {
  unsigned char *p = out;
  while (n > 0) {
    ssize_t got = getrandom(p, n, 0);
    if (got < 0 && errno != EINTR) return errno;
    if (got < 0) continue;
    p += got;
    n -= (size_t)got;
  }
  return 0;
}
