/* What a residual block does beside its convolution, in as few passes over memory as it takes. bfloat16, channels last;
   the channels divide 64. Rows are images times pixels; elements are rows times channels, a multiple of 64. */
#include <immintrin.h>
#include <stdint.h>

static inline __m512 load(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

static inline void store(uint16_t *p, __m512 v)
{
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}

static void fold(double *sums, const __m512 *part, int channels)
{
    float values[64];
    for (int g = 0; g < 4; g++) _mm512_storeu_ps(values + 16 * g, part[g]);
    for (int i = 0; i < 64; i++) sums[i % channels] += values[i];
}

/* Sums over rows of relu(c) and of its square. */
void relu_sums(const uint16_t *c, int64_t n, int channels, double *sums, double *squares)
{
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t start = 0; start < n; start += 16384) {
        int64_t end = start + 16384 < n ? start + 16384 : n;
        __m512 s[4] = {zero, zero, zero, zero}, q[4] = {zero, zero, zero, zero};
        for (int64_t i = start; i < end; i += 64)
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                __m512 r = _mm512_max_ps(load(c + i + 16 * g), zero);
                s[g] = _mm512_add_ps(s[g], r);
                q[g] = _mm512_fmadd_ps(r, r, q[g]);
            }
        fold(sums, s, channels);
        fold(squares, q, channels);
    }
}

/* y = x + relu(c) * scale + shift */
void add_scaled(const uint16_t *x, const uint16_t *c, int64_t n, int channels, const float *scale, const float *shift,
                uint16_t *y)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 a[4], b[4];
    for (int g = 0; g < 4; g++) {
        a[g] = _mm512_loadu_ps(scale + 16 * g % channels);
        b[g] = _mm512_loadu_ps(shift + 16 * g % channels);
    }
    for (int64_t i = 0; i < n; i += 64)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            __m512 r = _mm512_max_ps(load(c + i + 16 * g), zero);
            store(y + i + 16 * g, _mm512_add_ps(load(x + i + 16 * g), _mm512_fmadd_ps(r, a[g], b[g])));
        }
}

/* Sums over rows of dy and of dy * relu(c). */
void gradient_sums(const uint16_t *dy, const uint16_t *c, int64_t n, int channels, double *sums, double *products)
{
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t start = 0; start < n; start += 16384) {
        int64_t end = start + 16384 < n ? start + 16384 : n;
        __m512 s[4] = {zero, zero, zero, zero}, q[4] = {zero, zero, zero, zero};
        for (int64_t i = start; i < end; i += 64)
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                __m512 d = load(dy + i + 16 * g);
                s[g] = _mm512_add_ps(s[g], d);
                q[g] = _mm512_fmadd_ps(d, _mm512_max_ps(load(c + i + 16 * g), zero), q[g]);
            }
        fold(sums, s, channels);
        fold(products, q, channels);
    }
}

/* dc = c > 0 ? k1 * dy + k2 * c + k3 : 0 */
void gradient(const uint16_t *dy, const uint16_t *c, int64_t n, int channels, const float *k1, const float *k2,
              const float *k3, uint16_t *dc)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 a[4], b[4], d[4];
    for (int g = 0; g < 4; g++) {
        a[g] = _mm512_loadu_ps(k1 + 16 * g % channels);
        b[g] = _mm512_loadu_ps(k2 + 16 * g % channels);
        d[g] = _mm512_loadu_ps(k3 + 16 * g % channels);
    }
    for (int64_t i = 0; i < n; i += 64)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            __m512 r = load(c + i + 16 * g);
            __m512 v = _mm512_fmadd_ps(load(dy + i + 16 * g), a[g], _mm512_fmadd_ps(r, b[g], d[g]));
            store(dc + i + 16 * g, _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(r, zero, _CMP_GT_OQ), v));
        }
}

/* x += y */
void add(uint16_t *x, const uint16_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) store(x + i, _mm512_add_ps(load(x + i), load(y + i)));
}
