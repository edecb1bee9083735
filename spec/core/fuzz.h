/* For fuzzers that run by themselves: numbers that a seed determines. */
#ifndef FUZZ_H
#define FUZZ_H
#include <stdint.h>
#include <stdlib.h>

static uint64_t fuzz_state = 1;

/* Of the command line: [rounds [seed]]. Returns the rounds. */
static inline long fuzz_begin(int argc, char **argv) {
  if (argc > 2) fuzz_state = strtoull(argv[2], NULL, 10);
  if (fuzz_state == 0) fuzz_state = 1;
  return argc > 1 ? atol(argv[1]) : 2000;
}

/* 0 to n - 1 */
static inline uint64_t rnd(uint64_t n) {
  fuzz_state ^= fuzz_state << 13;
  fuzz_state ^= fuzz_state >> 7;
  fuzz_state ^= fuzz_state << 17;
  return fuzz_state % n;
}

/* A copy of its own size: reading beyond it is seen by the sanitizer. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);
  if (!copy) abort();
  for (size_t i = 0; i < size; i++) copy[i] = data[i];
  return copy;
}

#endif
