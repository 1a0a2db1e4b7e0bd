/* The trunk of a network in 8-bit integers: pixels -> pooled sums.
 *
 * Called by ctypes from drhn_cli/network/native_backend.py, which packs the weights as the kernels read them. A layer
 * is int32 sums with a bias, one float multiplication, rounding half to even and saturation. Sums are exact and the
 * rest is defined to the last bit, so each set of instructions, and numpy, give the same bits. AVX2 adds two products
 * in 16 bits; weights are made so that these do not overflow (drhn_cli/network/quantize.py).
 *
 * Activations are uint8, channels last, each pixel padded to a multiple of 16 channels. Patches are not copied: a row
 * of a patch is contiguous, so a 3x3 convolution runs the loop of a 1x1 convolution three times. What it reads has a
 * border of the value that stands for zero.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define L1_WEIGHTS 32768 /* layers with more bytes of weights than the L1 cache keeps go block by block */
#define STRIP 32         /* columns of outputs that a depthwise convolution zips inputs for at a time */
#define PIXELS 8         /* and how many of them it sums up before they are rounded */
#define FIRST_BLOCK 98304 /* bytes of the next layer that a depthwise convolution fetches ahead */
#define TILE 8           /* pixels of a tile, at most */

#ifndef BEFORE_LAYER
#define BEFORE_LAYER(i) /* tests/benchmarks/integer.py looks at the clock here */
#endif

#define INLINE static inline __attribute__((always_inline))

struct layer {
    int64_t depthwise, kernel, stride;
    int64_t before;                        /* rows of padding above the input, and columns to its left */
    int64_t in_side, in_width;             /* of the input in pixels, without and with the border in memory */
    int64_t in_pitch, out_pitch;           /* channels in memory: 3 of the picture, else a multiple of 16 */
    int64_t out_side;                      /* after pooling */
    int64_t out_before, out_width;         /* border above, and width with border, that the next layer needs */
    int64_t n_rows, row_bytes, row_stride; /* of a patch: rows, bytes of each, bytes from one to the next */
    int64_t block;                         /* units of 16 output channels that a tile has, at most */
    int64_t filter_vectors;                /* depthwise: vectors of weights for each vector of channels */
    int64_t max_pool, relu, writes_stream, closes_block, is_last;
    int64_t shortcut_pool, shortcut_pitch;
    int64_t zero_point; /* of the output */
    const uint8_t *pad; /* the border of the input: three colors of the picture, else one value */
    const int8_t *packed;
    float next_scale; /* from the stream to the output */
};

struct network {
    int64_t kernel; /* 0 to drhn_int8_best_kernel() */
    int64_t n_layers, n_features;
    int64_t picture_size, activations_size, stream_size; /* bytes of buffers, multiples of 64 */
    const struct layer *layers;
};

/* What a layer reads and writes. */
struct buffers {
    const uint8_t *in, *border; /* the border has the value of `pad`, 64 times */
    uint8_t *out;
    const int16_t *shortcut;
    int16_t *stream;
    int32_t *pooled;
};

/* Pixels and a block of output channels. With max pooling a pixel of the output has four of the convolution. */
struct tile {
    int64_t n;            /* pixels of the output */
    int64_t y, x;         /* of the pixel after them */
    int64_t channel;      /* the first one of the block */
    const int8_t *packed; /* what the block has: bias, scale and offset of each channel, then weights */
    const uint8_t *in[TILE];
    uint8_t *out[TILE];
    int16_t *stream[TILE];
    const int16_t *shortcut[TILE];
};

/* Of the outputs of a depthwise convolution: n columns of a row, or of that and the next. */
struct strip {
    int64_t y, x, n;
    int64_t channel;      /* the first one of the block, which has as many as a vector has bytes */
    const int8_t *packed; /* for each of its four vectors of sums: bias, scale and offset, then weights */
};

/* n things in shares that differ by one at most. */
struct shares {
    int64_t each, n_larger;
};

INLINE struct shares divide(int64_t n, int64_t n_shares)
{
    return (struct shares){n / n_shares, n % n_shares};
}

INLINE int64_t share_start(struct shares shares, int64_t i)
{
    return i * shares.each + (i < shares.n_larger ? i : shares.n_larger);
}

/* Finds the pixels from `first` on; unless that is 0, they follow those that the tile has had. */
static void place_tile(const struct layer *l, const struct buffers *b, int64_t first, int64_t n, struct tile *t)
{
    const int64_t right = l->stride * l->in_pitch, below = right * l->in_width, pool = l->max_pool ? 2 : 1;
    int64_t y = first ? t->y : 0, x = first ? t->x : 0;

    t->n = n;
    for (int64_t p = 0; p < n; p++) {
        const uint8_t *in = b->in + pool * (y * below + x * right);
        const int64_t shortcut = (y * l->shortcut_pool * l->out_side + x) * l->shortcut_pool;

        t->in[p * pool * pool] = in;
        if (l->max_pool) {
            t->in[4 * p + 1] = in + right;
            t->in[4 * p + 2] = in + below;
            t->in[4 * p + 3] = in + below + right;
        }
        t->out[p] = b->out + ((y + l->out_before) * l->out_width + x + l->out_before) * l->out_pitch;
        t->stream[p] = b->stream + (first + p) * l->out_pitch;
        t->shortcut[p] = l->closes_block ? b->shortcut + shortcut * l->shortcut_pitch : NULL;
        if (++x == l->out_side) {
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

    memcpy(&v, p, sizeof v);
    return v;
}

/* Brings what is packed next into the L2 cache: weights of a whole network do not stay there, and the hardware fetches
 * them too late. Prefetching an invalid address is harmless. */
INLINE void fetch_ahead(const int8_t *p)
{
    __builtin_prefetch((const void *)(uintptr_t)p, 0, 2);
}

typedef void compute_layer(const struct layer *l, const struct buffers *b);

#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11) /* older compilers do not know AVX-VNNI */

#include <cpuid.h>
#include <immintrin.h>

#define FN(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#define VECTOR 32
#define ACCUMULATORS 12 /* the compiler spills some of 16 registers, and 8 sums are slower nevertheless */
#define DOT(a, u, s) \
    a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)))
#include "int8_kernels.h"

#define FN(name) name##_avxvnni
#define TARGET __attribute__((target("avx2,avxvnni")))
#define VECTOR 32
#define ACCUMULATORS 12
#define DOT(a, u, s) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(a) : "x"(u), "x"(s))
#include "int8_kernels.h"

#define FN(name) name##_avx512vnni
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define VECTOR 64
#define ACCUMULATORS 24
#define DOT(a, u, s) __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(u), "v"(s))
#include "int8_kernels.h"

enum kernel { AVX2, AVX_VNNI, AVX512_VNNI };

static compute_layer *const KERNELS[][2] = {
    [AVX2] = {dense_avx2, depthwise_avx2},
    [AVX_VNNI] = {dense_avxvnni, depthwise_avxvnni},
    [AVX512_VNNI] = {dense_avx512vnni, depthwise_avx512vnni},
};

static int has_avx_vnni(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax >> 4 & 1;
}

/* The best kernel that this machine can run, or -1. */
int drhn_int8_best_kernel(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return AVX512_VNNI;
    if (__builtin_cpu_supports("avx2"))
        return has_avx_vnni() ? AVX_VNNI : AVX2;
    return -1;
}

/* Whether this machine can run a kernel: not every one with AVX512-VNNI has AVX-VNNI. */
int drhn_int8_can_run(int kernel)
{
    return kernel >= 0 && kernel <= drhn_int8_best_kernel() && (kernel != AVX_VNNI || has_avx_vnni());
}

#else

static compute_layer *const KERNELS[1][2];

int drhn_int8_best_kernel(void)
{
    return -1;
}

int drhn_int8_can_run(int kernel)
{
    (void)kernel;
    return 0;
}

#endif

static void fill_pixels(const uint8_t *color, int64_t n, uint8_t *out)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(out + 3 * i, color, 3);
}

static void copy_picture(const struct layer *l, const uint8_t *pixels, uint8_t *picture)
{
    const int64_t side = l->in_side, width = l->in_width, above = l->before, below = width - above - side;

    fill_pixels(l->pad, above * width, picture);
    fill_pixels(l->pad, below * width, picture + 3 * (above + side) * width);
    for (int64_t y = 0; y < side; y++) {
        uint8_t *row = picture + 3 * (above + y) * width;

        fill_pixels(l->pad, above, row);
        memcpy(row + 3 * above, pixels + 3 * y * side, (size_t)(3 * side));
        fill_pixels(l->pad, below, row + 3 * (above + side));
    }
}

static void fill_border(const struct layer *l, int value, uint8_t *out)
{
    const int64_t above = l->out_before, below = l->out_width - above - l->out_side;
    const int64_t row = l->out_width * l->out_pitch;
    const size_t left = (size_t)(above * l->out_pitch), right = (size_t)(below * l->out_pitch);

    memset(out, value, (size_t)(above * row));
    memset(out + (l->out_width - below) * row, value, (size_t)(below * row));
    for (int64_t y = above; y < above + l->out_side; y++) {
        memset(out + y * row, value, left);
        memset(out + (y + 1) * row - right, value, right);
    }
}

/* Writes the pooled sums, (n_pictures, n_features), of pixels, (n_pictures, side, side, 3). The workspace has room for
 * a border, a picture, activations and a stream twice, and sums of the last layer's channels. */
void drhn_int8_pooled_sums(const struct network *network, const uint8_t *pixels, int64_t n_pictures, uint8_t *workspace,
                           int32_t *sums)
{
    const struct layer *first = network->layers, *last = first + network->n_layers - 1;
    uint8_t *border = workspace, *picture = border + 64, *activations[2];
    int16_t *stream, *other_stream;
    int32_t *pooled;

    activations[0] = picture + network->picture_size;
    activations[1] = activations[0] + network->activations_size;
    stream = (int16_t *)(activations[1] + network->activations_size);
    other_stream = stream + network->stream_size / 2;
    pooled = (int32_t *)(other_stream + network->stream_size / 2);
    for (int64_t i = 0; i < n_pictures; i++) {
        const uint8_t *in = picture;

        BEFORE_LAYER(0);
        copy_picture(first, pixels + i * first->in_side * first->in_side * 3, picture);
        memset(pooled, 0, (size_t)last->out_pitch * sizeof *pooled);
        for (const struct layer *l = first; l <= last; l++) {
            uint8_t *out = activations[in == activations[0]];
            const struct buffers buffers = {in, border, out, stream, other_stream, pooled};

            memset(border, l->pad[0], 64);
            if (l < last)
                fill_border(l, l[1].pad[0], out);
            KERNELS[network->kernel][l->depthwise](l, &buffers);
            BEFORE_LAYER(l - first + 1);
            in = out;
            if (l->writes_stream) {
                other_stream = stream;
                stream = buffers.stream;
            }
        }
        memcpy(sums + i * network->n_features, pooled, (size_t)network->n_features * sizeof *sums);
    }
}
