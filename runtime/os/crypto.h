/* Digests for the handshake, from OpenSSL's libcrypto, which is loaded when it is needed
 * first: linking it costs each start 3 ms. */
#ifndef MP_OS_CRYPTO_H
#define MP_OS_CRYPTO_H
#include <stdbool.h>
#include <stddef.h>

#define MP_DIGEST 64 /* the longest, in bytes */

/* The HMAC of a message.  name: md5, sha256, sha384, sha3_256, sha3_384.  *n: its
 * length.  0; ENOSYS: there is no libcrypto; EINVAL: it does not have that digest. */
int mp_hmac(const char *name, const void *key, size_t nkey, const void *message, size_t len,
            unsigned char out[MP_DIGEST], size_t *n);

/* Whether n bytes are equal, in a time that does not tell where they differ. */
bool mp_same(const void *a, const void *b, size_t n);

/* n bytes from the kernel's generator.  0 or errno. */
int mp_random(void *out, size_t n);

#endif
