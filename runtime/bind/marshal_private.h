/* What the parts of marshal share: the format, the state, names.
 *
 * The format.  A value is a tag byte and what the tag says; all numbers are little
 * endian; a varint has seven bits a byte, lowest first.  Outside the family
 * (STRING and NETWORK) the bytes begin with TAG_MAGIC.  "Offset" is the distance of
 * a tag from the first byte of the message.
 *
 *   00-7f        that integer
 *   80-bf        a string of 0 to 63 bytes, which follow
 *   U1 U2 U4     the unsigned integer that follows; N1 N2 N4 its complement
 *   I8 F8        integer; float
 *   STR1 STR4 STR8   length, bytes
 *   SREF k       a string that was written before: the last one of those whose
 *                number is k modulo 256, among the last 256.  Strings are numbered
 *                as they are written, empty ones and a lone string excepted
 *   REF off      the object whose tag is at `off`: its tag has the bit SHARED, which
 *                is set when the first reference to it is written
 *   LIST n       n elements of the array part follow
 *   REC c        records follow: key, value.  c <= 191: so many.  Else END comes
 *                after them, and 1 << (c - 192) is the size to reserve for them
 *   MIXED n c    elements, records
 *                LIST, REC, MIXED with the bit META: the metatable comes last
 *   RUN* k       among elements only: k + 1 of them.  RUNS: integers 0 to 255, a
 *                byte each.  RUN1 RUN2 RUN4: a base (varint, lowest bit is the
 *                sign), then unsigned differences to it.  RUN8: integers.  RUNF:
 *                floats
 *   FUNC         nonce of the family (16 bytes), length (4), what string.dump gives,
 *                number of upvalues (1), the values.  UPREF off n in place of a
 *                value: the very variable that is upvalue n of the function at off
 *   NAMED s      a module, or "module\0field"; REG s: a registered class
 *   GLOBALS      the globals table of whoever reads it
 *   HANDLE i part    object i of those that the message refers to; HANDLE_U: and
 *                a user value follows
 *   SERIAL       nonce (16), kind (1), place (4), serial (8), part (1): an object
 *                that nothing keeps alive; SERIAL_U: and a user value follows
 *   CONN i flags descriptor i of the message
 *
 * What a pool's batches and reports carry is a stream of values, one behind the other
 * (marshal_stream.h).  Two more bytes, which begin no value by itself, stand there only:
 *   SIZED n      n (4 bytes): the length of the value that follows, offsets in which
 *                count from its own tag.  Before all values but lone scalars
 *   FAILED       an error: two values of the stream follow, what was raised and where
 *
 * Every element and every key takes a byte at least: what a reader reserves for
 * tables is bounded by the bytes of the message, all tables taken together.
 */
#ifndef LMP_MARSHAL_PRIVATE_H
#define LMP_MARSHAL_PRIVATE_H
#include "marshal.h"
#include <endian.h>
#include <stdbool.h>
#include <string.h>

enum {
  TAG_STR = 0x80,
  TAG_NIL = 0xc0, TAG_FALSE, TAG_TRUE, TAG_NULL,
  TAG_U1, TAG_N1, TAG_U2, TAG_N2, TAG_U4, TAG_N4, TAG_I8, TAG_F8,
  TAG_STR1, TAG_STR4, TAG_STR8, TAG_SREF,
  TAG_LIST = 0xd0, TAG_REC = 0xd4, TAG_MIXED = 0xd8, /* + META + SHARED */
  TAG_FUNC = 0xdc, TAG_NAMED = 0xde, TAG_REG = 0xe0, /* + SHARED, and below */
  TAG_HANDLE = 0xe2, TAG_HANDLE_U = 0xe4,
  TAG_SERIAL = 0xe6, TAG_SERIAL_U = 0xe8, TAG_CONN = 0xea,
  TAG_UPREF = 0xec, TAG_REF, TAG_GLOBALS, TAG_END,
  TAG_RUNS = 0xf0, TAG_RUN1, TAG_RUN2, TAG_RUN4, TAG_RUN8, TAG_RUNF,
  TAG_SIZED = 0xf8, TAG_FAILED, /* in streams only */
  TAG_MAGIC = 0xfa,
  BIT_SHARED = 1, BIT_META = 2
};

enum {
  STR_INLINE = 63,   /* longest string whose length is in the tag */
  WINDOW = 256,      /* strings that SREF reaches */
  RUN_MAX = 256,     /* elements of a run */
  REC_EXACT = 191,   /* most records that are counted exactly */
  NONCE = 16,
  /* Containers in progress hold two slots of the Lua stack each; beyond twice this
   * many the lower half moves to a table.  Large enough that real data never gets
   * there, small enough for any stack. */
  LEVELS = 100,
  /* Outside the family: far beyond what anybody nests, and bounds what a reader
   * spends on a message of opening brackets only. */
  DEPTH_MAX = 4 << 20
};

/* Little-endian stores and loads, unaligned. */
static inline void put16(unsigned char *p, uint16_t v) {
  v = htole16(v);
  memcpy(p, &v, sizeof v);
}
static inline void put32(unsigned char *p, uint32_t v) {
  v = htole32(v);
  memcpy(p, &v, sizeof v);
}
static inline void put64(unsigned char *p, uint64_t v) {
  v = htole64(v);
  memcpy(p, &v, sizeof v);
}
static inline void put_float(unsigned char *p, lua_Number v) {
  uint64_t u;
  _Static_assert(sizeof v == sizeof u, "lua_Number is a double");
  memcpy(&u, &v, sizeof u);
  put64(p, u);
}
static inline uint16_t get16(const unsigned char *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return le16toh(v);
}
static inline uint32_t get32(const unsigned char *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return le32toh(v);
}
static inline uint64_t get64(const unsigned char *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return le64toh(v);
}
static inline lua_Number get_float(const unsigned char *p) {
  uint64_t u = get64(p);
  lua_Number v;
  memcpy(&v, &u, sizeof v);
  return v;
}

/* An object that was written: its place in the message, for an upvalue the place of
 * its function and which one (from 1; 0 for objects).  Valid when gen is that of
 * the message. */
struct seen {
  const void *p;
  size_t at;
  uint32_t gen;
  uint32_t sub;
};

/* A string that was written, by address; an entry may be lost to another string,
 * which only costs bytes. */
struct seen_str {
  const char *s;
  uint32_t gen;
  uint32_t number;
};

/* A container that is being written.  at: of its tag.  count_at: where the number
 * of records goes, 0 for none.  i, n: element or upvalue reached, and the last.
 * skip: the walk through the records meets the elements again.  first: the first
 * record is on the stack already.  begun: its companion
 * (metatable, user value) was written. */
struct enc_frame {
  uint64_t i, n;
  size_t at, count_at;
  uint64_t count;
  unsigned char phase, has_meta, skip, first, begun;
};

enum { SEEN_STR_BITS = 9 };

/* Bytes of a pack that are put aside while names are searched. */
struct aside {
  struct lmp_pack pack;
  struct aside *next;
};

/* What marshal keeps for a Lua state: a userdata in the registry.  User values:
 * MARSHAL_SPILL, a table for containers in progress that do not fit the stack;
 * MARSHAL_NAMES, object -> name, keys weak; MARSHAL_CLASSES, name -> registered
 * class; MARSHAL_CLASS_NAMES, the reverse.
 *
 * The C memory belongs to the userdata, so no error can leak it.  Encoding runs no
 * Lua code and no finalizer (it calls nothing that steps the collector), so one set
 * is enough; a search for names, which does both, is done between two attempts.
 *
 * aside: packs of those who search names (a finalizer may encode too).  named: the addresses of
 * named objects, an open-addressing set that says "perhaps"; the weak table knows.
 * loaded: what package.loaded looked like when names were searched.
 * peek: tables can be looked into (marshal_table.h).  large: something may be there to
 * give back. */
struct marshal {
  struct lmp_pack pack; /* first: lmp_encode is given its address */
  struct aside *aside;
  struct enc_frame *frames;
  size_t capframes;
  struct seen *seen;
  size_t nseen, capseen;
  const void **named;
  size_t nnamed, capnamed;
  uint64_t loaded;
  uint32_t gen;
  bool searched, peek, spill_used, large;
  struct seen_str strings[1 << SEEN_STR_BITS];
};

enum { MARSHAL_SPILL = 1, MARSHAL_NAMES, MARSHAL_CLASSES, MARSHAL_CLASS_NAMES };

/* The state's marshal; made at the first call (may raise). */
struct marshal *lmp_marshal(lua_State *L);
/* Pushes its userdata, or one of its user values. */
void lmp_marshal_push(lua_State *L, int uservalue);

void lmp_pack_free(struct lmp_pack *p);

/* Writes an integer, at most 9 bytes; how many. */
static inline size_t lmp_integer_to(unsigned char *p, lua_Integer v) {
  if (v >= 0 && v < TAG_STR) {
    p[0] = (unsigned char)v;
    return 1;
  }
  uint64_t u = v < 0 ? ~(uint64_t)v : (uint64_t)v;
  int neg = v < 0;
  if (u <= UINT8_MAX) {
    p[0] = (unsigned char)(TAG_U1 + neg);
    p[1] = (unsigned char)u;
    return 2;
  }
  if (u <= UINT16_MAX) {
    p[0] = (unsigned char)(TAG_U2 + neg);
    put16(p + 1, (uint16_t)u);
    return 3;
  }
  if (u <= UINT32_MAX) {
    p[0] = (unsigned char)(TAG_U4 + neg);
    put32(p + 1, (uint32_t)u);
    return 5;
  }
  p[0] = TAG_I8;
  put64(p + 1, (uint64_t)v);
  return 9;
}

/* Writes tag and length of a string of n bytes, at most 9 bytes; how many. */
static inline size_t lmp_head_of_string(unsigned char *p, size_t n) {
  if (n <= STR_INLINE) {
    p[0] = (unsigned char)(TAG_STR + n);
    return 1;
  }
  if (n <= UINT8_MAX) {
    p[0] = TAG_STR1;
    p[1] = (unsigned char)n;
    return 2;
  }
  if (n <= UINT32_MAX) {
    p[0] = TAG_STR4;
    put32(p + 1, (uint32_t)n);
    return 5;
  }
  p[0] = TAG_STR8;
  put64(p + 1, n);
  return 9;
}

/* Moves the lowest LEVELS levels of `base` and up (two slots each) to the table at
 * `tab`; they are those from `level` on.  And back: `extra` values on top stay on
 * top, nothing else is above base. */
void lmp_spill(lua_State *L, int tab, int base, size_t level);
void lmp_unspill(lua_State *L, int tab, int base, size_t level, int extra);

/* Fibonacci hashing: the high bits of the product are well mixed. */
static inline uint64_t hash_ptr(const void *p) {
  return (uint64_t)((uintptr_t)p >> 3) * 0x9e3779b97f4a7c15u;
}

/* --- names: marshal_names.c --- */

/* The address may be that of a named object. */
static inline bool lmp_perhaps_named(const struct marshal *m, const void *p) {
  if (m->capnamed == 0) return false;
  for (size_t i = hash_ptr(p) >> 32 & (m->capnamed - 1);; i = (i + 1) & (m->capnamed - 1)) {
    if (m->named[i] == p) return true;
    if (m->named[i] == NULL) return false;
  }
}

/* What a name is good for. */
enum lmp_name {
  LMP_NAME_NONE,
  LMP_NAME_REG,    /* a registered class */
  LMP_NAME_VALUE,  /* a module, a function or a class in one */
  LMP_NAME_META    /* another table in a module: by name only as a metatable */
};

/* Pushes the name of the object at `idx`, which *name and *len give, and returns what
 * it is good for; pushes nothing and returns LMP_NAME_NONE when it has none, or when
 * the module holds something else under that name by now.  Steps no collector. */
enum lmp_name lmp_name_of(lua_State *L, int idx, const char **name, size_t *len);

/* Changes when package.loaded does.  Steps no collector. */
uint64_t lmp_names_loaded(lua_State *L);
/* Searches for names.  May run finalizers; raises. */
void lmp_names_search(lua_State *L, struct marshal *m);

/* Pushes what "module\0field" names.  `load`: modules that are not there are
 * required and fields may be computed.  Raises. */
void lmp_name_find(lua_State *L, const char *name, size_t len, bool load);

/* mp.marshal.register(name, class) */
int lmp_marshal_register(lua_State *L);

#endif
