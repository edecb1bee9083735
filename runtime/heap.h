/* The allocator of the command's Lua state: malloc, in huge pages once the heap is
 * large. */
#ifndef MP_HEAP_H
#define MP_HEAP_H
#include <stddef.h>

/* A lua_Alloc.  Blocks come from malloc; one state a process may use it. */
void *mp_heap_alloc(void *ud, void *p, size_t osize, size_t nsize);

#endif
