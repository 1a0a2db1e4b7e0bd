/* Included before int8.c: the time stamp counter of the processor before each layer of a network, and at the end. */

#include <immintrin.h>
#include <stdint.h>

uint64_t ticks[256];

#define BEFORE_LAYER(i) ticks[i] = __rdtsc()
