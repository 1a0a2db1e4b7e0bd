/* The instructions that int8.c multiplies with, and nothing else: 12 sums that do not wait for each other. */

#include <immintrin.h>
#include <stdint.h>

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define SUM(i) vec a##i = zero;
#define MULTIPLY(i) DOT(a##i);
#define KEEP(i) __asm__ volatile("" : : "v"(a##i));
#define PEAK                                                      \
    vec u = zero, s = zero;                                       \
    EACH(SUM)                                                     \
    for (int64_t i = 0; i < n; i++) {                             \
        __asm__ volatile("" : "+v"(u), "+v"(s));                  \
        EACH(MULTIPLY)                                            \
    }                                                             \
    EACH(KEEP)

#define vec __m256i
#define DOT(a) a = _mm256_add_epi32(a, _mm256_madd_epi16(dot_pairs(u, s), ones))
/* Not once for all twelve sums, which have the same factors. */
#define dot_pairs(u, s) ({ vec x = u; __asm__ volatile("" : "+x"(x)); _mm256_maddubs_epi16(x, s); })

__attribute__((target("avx2"))) void peak_avx2(int64_t n)
{
    const vec zero = _mm256_setzero_si256(), ones = _mm256_set1_epi16(1);
    PEAK
}

#undef DOT
#define DOT(a) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(a) : "x"(u), "x"(s))

__attribute__((target("avx2,avxvnni"))) void peak_avxvnni(int64_t n)
{
    const vec zero = _mm256_setzero_si256();
    PEAK
}

#undef vec
#undef DOT
#define vec __m512i
#define DOT(a) __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(u), "v"(s))

__attribute__((target("avx512f,avx512vnni"))) void peak_avx512vnni(int64_t n)
{
    const vec zero = _mm512_setzero_si512();
    PEAK
}
