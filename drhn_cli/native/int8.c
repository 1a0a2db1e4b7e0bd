/* The trunk of a network in 8-bit integers: pixels -> pooled sums.
 *
 * Called by ctypes from drhn_cli/network/native_backend.py, where weights are packed as the kernels read them. A layer is
 * int32 sums with a bias, one float multiplication, rounding half to even, and saturation, so it is exact: every set of
 * instructions, and numpy, give the same bits. AVX2 relies on neighbouring weights that its 16-bit sums hold.
 *
 * Activations are uint8, channels last, and a pixel has a multiple of 16 channels. There is no copy of patches: of a
 * filter's patch each row lies contiguous in memory, so a 3x3 convolution is three times the loop of a 1x1 one. Buffers
 * that a 3x3 convolution reads have a border of the value that means zero.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define VERSION 1 /* of the functions and structures here; drhn_cli/native ignores a library of another version */
#define L1_WEIGHTS 32768 /* up to so many bytes of weights stay in the L1 cache from tile to tile */
#define STRIP 32         /* columns of outputs, at most, that a depthwise convolution zips at a time */
#define PIXELS 8         /* and how many of them it sums up before it rounds them */

#ifndef FETCH
#define FETCH(p) __builtin_prefetch(p, 0, 2)
#endif
#define INLINE static inline __attribute__((always_inline))

struct layer {
    int64_t depthwise, kernel, stride;
    int64_t before;                     /* rows of padding above the input, columns to its left */
    int64_t in_side, in_width;          /* of the input in pixels, and with its border */
    int64_t in_pitch, out_pitch;        /* channels of a pixel: of the picture 3, else a multiple of 16 */
    int64_t out_side;                   /* after pooling */
    int64_t out_before, out_width;      /* the border that the next layer needs, and the side with it */
    int64_t n_rows, row_bytes, row_stride; /* of a patch: rows, bytes of each that have weights, from one to the next */
    int64_t block;                      /* units of 16 channels that are computed together */
    int64_t filter_vectors;             /* depthwise: vectors of weights of each 16 or 8 channels */
    int64_t max_pool, relu, writes_stream, closes_block, is_last;
    int64_t shortcut_pool, shortcut_pitch;
    int64_t zero_point;                 /* of the output */
    const uint8_t *pad;                 /* what the border of the input has: for each colour of the picture, else one */
    const int8_t *packed;               /* bias, scale, offset and weights */
    float next_scale;                   /* from the stream to the output */
};

struct network {
    int64_t kernel; /* 0 to drhn_int8_best_kernel() */
    int64_t n_layers, n_features;
    int64_t picture_size, activations_size, stream_size; /* bytes of the buffers, each a multiple of 64 */
    const struct layer *layers;
};

/* What a layer reads and writes. */
struct buffers {
    const uint8_t *in, *border; /* 64 bytes of the value that means zero */
    uint8_t *out;
    const int16_t *shortcut;
    int16_t *stream;
    int32_t *pooled;
};

/* Where up to 8 pixels of the convolution, and the pixels of its output, lie. */
struct tile {
    int64_t n; /* pixels of the output */
    int64_t y, x; /* of the pixel that comes after them */
    const uint8_t *in[8];
    uint8_t *out[8];
    const int16_t *shortcut[8];
    int16_t *stream[8];
};

struct shares {
    int64_t each, more;
};

/* Where a share of n things begins that are divided into n_shares. */
static int64_t share_start(struct shares s, int64_t share)
{
    return share * s.each + (share < s.more ? share : s.more);
}

/* Of n pixels of the output, from `first` on. With pooling each has four of the convolution. */
static void place_tile(const struct layer *l, const struct buffers *b, int64_t first, int64_t n, struct tile *t)
{
    const int64_t right = l->stride * l->in_pitch, below = right * l->in_width, side = l->out_side;
    const int64_t pool = l->max_pool ? 2 : 1, short_pool = l->shortcut_pool;
    int64_t y = first ? t->y : 0, x = first ? t->x : 0;

    t->n = n;
    for (int64_t p = 0; p < n; p++) {
        const uint8_t *in = b->in + pool * (y * below + x * right);

        if (l->max_pool) {
            t->in[4 * p] = in;
            t->in[4 * p + 1] = in + right;
            t->in[4 * p + 2] = in + below;
            t->in[4 * p + 3] = in + below + right;
        } else
            t->in[p] = in;
        t->out[p] = b->out + ((y + l->out_before) * l->out_width + x + l->out_before) * l->out_pitch;
        t->stream[p] = b->stream + (first + p) * l->out_pitch;
        t->shortcut[p] = l->closes_block
            ? b->shortcut + short_pool * (y * short_pool * side + x) * l->shortcut_pitch : NULL;
        if (++x == side) {
            x = 0;
            y++;
        }
    }
    t->y = y;
    t->x = x;
}

INLINE int32_t load_int(const uint8_t *p)
{
    int32_t v;

    memcpy(&v, p, 4);
    return v;
}

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

#if defined(__x86_64__)

#define FN(name) JOIN(name, avx2)
#define TARGET __attribute__((target("avx2")))
#define VECTOR 32
#define ACCUMULATORS 8
#define DOT(a, u, s) \
    a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)))
#include "int8_kernels.h"

#define FN(name) JOIN(name, avxvnni)
#define TARGET __attribute__((target("avx2,avxvnni")))
#define VECTOR 32
#define ACCUMULATORS 12
#define DOT(a, u, s) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(a) : "x"(u), "x"(s))
#include "int8_kernels.h"

#define FN(name) JOIN(name, avx512vnni)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define VECTOR 64
#define ACCUMULATORS 24
#define DOT(a, u, s) __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(u), "v"(s))
#include "int8_kernels.h"

enum kernel { AVX2, AVXVNNI, AVX512VNNI };

typedef void compute_layer(const struct layer *l, const struct buffers *b);
static compute_layer *const KERNELS[][2] = {
    [AVX2] = {dense_avx2, depthwise_avx2},
    [AVXVNNI] = {dense_avxvnni, depthwise_avxvnni},
    [AVX512VNNI] = {dense_avx512vnni, depthwise_avx512vnni},
};

#endif

/* The picture with its border. */
static void copy_picture(const struct layer *l, const uint8_t *pixels, uint8_t *out)
{
    for (int64_t i = 0; i < l->in_width * l->in_width; i++)
        memcpy(out + 3 * i, l->pad, 3);
    for (int64_t y = 0; y < l->in_side; y++)
        memcpy(out + ((y + l->before) * l->in_width + l->before) * 3, pixels + y * l->in_side * 3, (size_t)l->in_side * 3);
}

static void fill_border(const struct layer *l, const struct layer *next, uint8_t *out)
{
    const int64_t row = l->out_width * l->out_pitch, above = l->out_before, below = l->out_width - above - l->out_side;
    const int value = next->pad[0];

    memset(out, value, (size_t)(above * row));
    memset(out + (l->out_width - below) * row, value, (size_t)(below * row));
    for (int64_t y = above; y < above + l->out_side; y++) {
        memset(out + y * row, value, (size_t)(above * l->out_pitch));
        memset(out + (y + 1) * row - below * l->out_pitch, value, (size_t)(below * l->out_pitch));
    }
}

int drhn_version(void)
{
    return VERSION;
}

/* The best kernel that this machine can run, or -1. */
int drhn_int8_best_kernel(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return AVX512VNNI;
    if (__builtin_cpu_supports("avx2"))
        return __builtin_cpu_supports("avxvnni") ? AVXVNNI : AVX2;
#endif
    return -1;
}

/* Pooled sums, (n_pictures, n_features), of pixels, (n_pictures, side, side, 3). The workspace has the three buffers,
 * activations and stream twice, and 64 bytes and the padded sums. */
void drhn_int8_run(const struct network *network, const uint8_t *pixels, int64_t n_pictures, uint8_t *workspace,
                   int32_t *sums)
{
    const struct layer *first = network->layers, *last = first + network->n_layers - 1;
    uint8_t *activations[2], *border = workspace, *picture = border + 64;
    int16_t *stream[2];
    int32_t *pooled;

    activations[0] = picture + network->picture_size;
    activations[1] = activations[0] + network->activations_size;
    stream[0] = (int16_t *)(activations[1] + network->activations_size);
    stream[1] = stream[0] + network->stream_size / 2;
    pooled = (int32_t *)(stream[1] + network->stream_size / 2);
    for (int64_t i = 0; i < n_pictures; i++) {
        const uint8_t *in = picture;

        copy_picture(first, pixels + i * first->in_side * first->in_side * 3, picture);
        memset(pooled, 0, (size_t)last->out_pitch * sizeof *pooled);
        for (const struct layer *l = first; l <= last; l++) {
            uint8_t *out = activations[in == activations[0]];
            const struct buffers b = {in, border, out, stream[0], stream[1], pooled};

            if (l < last && l->out_width > l->out_side)
                fill_border(l, l + 1, out);
            memset(border, l->pad[0], 64);
            KERNELS[network->kernel][l->depthwise](l, &b);
            in = out;
            if (l->writes_stream) {
                int16_t *written = stream[1];
                stream[1] = stream[0];
                stream[0] = written;
            }
        }
        memcpy(sums + i * network->n_features, pooled, (size_t)network->n_features * sizeof *sums);
    }
}
