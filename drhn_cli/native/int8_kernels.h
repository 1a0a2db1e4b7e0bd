/* The kernels of int8.c for one set of instructions. int8.c includes this file once for each, and defines before:
 *
 *   FN(name)      the name of a function here
 *   TARGET        the attribute that allows the instructions
 *   VECTOR        bytes of a vector: 64 or 32
 *   ACCUMULATORS  vectors of sums that stay in registers
 *   DOT(a, u, s)  adds to each int32 of a the products of its four bytes of u (unsigned) and s (signed)
 */

#define LANES (VECTOR / 4)
#define UNIT (16 / LANES) /* vectors of sums for the 16 channels that a block has or a multiple of it */

#if VECTOR == 64
#define vec __m512i
#define floats __m512
#define V(operation) _mm512_##operation
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define ZERO _mm512_setzero_si512()
#else
#define vec __m256i
#define floats __m256
#define V(operation) _mm256_##operation
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define ZERO _mm256_setzero_si256()
#endif

/* Rounding half to even, as the processor does it unless it is told otherwise. */
#define ROUND(v, scale) V(cvtps_epi32)(V(mul_ps)(V(cvtepi32_ps)(v), scale))

/* Saturates four vectors to bytes. Packing keeps to lanes of 128 bits, so 4 bytes of each vector take turns. */
#define PACK(a, b, c, d) V(packus_epi16)(V(packs_epi32)(a, b), V(packs_epi32)(c, d))

/* Stores the bytes of n vectors of consecutive channels. */
INLINE TARGET void FN(store_bytes)(uint8_t *y, const int n, const vec *v)
{
    const vec mixed = PACK(v[0], v[n > 1 ? 1 : 0], v[n > 2 ? 2 : 0], v[n > 3 ? 3 : 0]);
#if VECTOR == 64
    const vec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

    _mm512_mask_storeu_epi32(y, (__mmask16)((1 << 4 * n) - 1), _mm512_permutexvar_epi32(order, mixed));
#else
    const vec bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));

    if (n == 4)
        STORE(y, bytes);
    else
        _mm_storeu_si128((__m128i *)y, _mm256_castsi256_si128(bytes));
#endif
}

/* int16 in memory, as int32 in a vector. */
INLINE TARGET vec FN(load_stream)(const int16_t *p)
{
#if VECTOR == 64
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p));
#else
    return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p));
#endif
}

/* Saturates to int16, stores that, and returns it. */
INLINE TARGET vec FN(store_stream)(int16_t *p, vec v)
{
#if VECTOR == 64
    const __m256i half = _mm512_cvtsepi32_epi16(v);

    _mm256_storeu_si256((__m256i *)p, half);
    return _mm512_cvtepi16_epi32(half);
#else
    const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    _mm_storeu_si128((__m128i *)p, half);
    return _mm256_cvtepi16_epi32(half);
#endif
}

/* The sums of M pixels and N vectors of channels. Accumulators have names, because GCC 12 leaves an array of them, or
 * what an intrinsic adds to, on the stack. Of weights and activations the fewer are kept in registers. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define BEGIN(p) vec a##p##0 = b0, a##p##1 = b1, a##p##2 = b2, a##p##3 = b3; const uint8_t *x##p = in[p < M ? p : 0];
#define BROADCAST(p) V(set1_epi32)(load_int(x##p + c))
#define PIXEL(p)                    \
    if (p < M) {                    \
        const vec u = BROADCAST(p); \
        DOT(a##p##0, u, w0);        \
        if (N > 1)                  \
            DOT(a##p##1, u, w1);    \
        if (N > 2)                  \
            DOT(a##p##2, u, w2);    \
        if (N > 3)                  \
            DOT(a##p##3, u, w3);    \
    }
#define ACTIVATION(p) const vec u##p = p < M ? BROADCAST(p) : ZERO;
#define COLUMN(n)                           \
    if (n < N) {                            \
        const vec w = LOAD(weight + n * VECTOR); \
        COLUMN_PIXEL(0, n)                  \
        COLUMN_PIXEL(1, n)                  \
        COLUMN_PIXEL(2, n)                  \
    }
#define COLUMN_PIXEL(p, n) \
    if (p < M)             \
        DOT(a##p##n, u##p, w);
#define END(p)                     \
    if (p < M) {                   \
        sums[p * N] = a##p##0;     \
        if (N > 1)                 \
            sums[p * N + 1] = a##p##1; \
        if (N > 2)                 \
            sums[p * N + 2] = a##p##2; \
        if (N > 3)                 \
            sums[p * N + 3] = a##p##3; \
    }

INLINE TARGET void FN(sum_tile)(const int M, const int N, const struct layer *l, const uint8_t *const *in,
                                const int8_t *bias, const int8_t *ahead, vec *sums)
{
    const int8_t *weight = bias + 3 * N * VECTOR;
    const vec b0 = LOAD(bias), b1 = N > 1 ? LOAD(bias + VECTOR) : b0;
    const vec b2 = N > 2 ? LOAD(bias + 2 * VECTOR) : b0, b3 = N > 3 ? LOAD(bias + 3 * VECTOR) : b0;
    EACH(BEGIN)

    for (int64_t row = 0; row < l->n_rows; row++) {
        const int64_t from = row * l->row_stride, to = from + l->row_bytes;

        for (int64_t c = from; c < to; c += 4, weight += N * VECTOR, ahead += 64) {
            FETCH(ahead);
            if (M < N && M <= 3) {
                ACTIVATION(0) ACTIVATION(1) ACTIVATION(2)
                COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3)
            } else {
                const vec w0 = LOAD(weight), w1 = N > 1 ? LOAD(weight + VECTOR) : w0;
                const vec w2 = N > 2 ? LOAD(weight + 2 * VECTOR) : w0, w3 = N > 3 ? LOAD(weight + 3 * VECTOR) : w0;
                EACH(PIXEL)
            }
        }
    }
    EACH(END)
}

#define SCALE(i) V(loadu_ps)((const float *)(block + (i) * VECTOR))

/* What follows the sums of m output pixels and N vectors of channels, from channel o on. */
INLINE TARGET void FN(finish_stream)(const int N, const struct layer *l, const struct tile *t, int64_t o,
                                     const int8_t *block, const vec *sums, int32_t *pooled)
{
    const floats next_scale = V(set1_ps)(l->next_scale), quarter = V(set1_ps)(0.25f);
    const vec zero_point = V(set1_epi32)(l->zero_point);

    for (int64_t p = 0; p < t->n; p++) {
        vec bytes[4];

        for (int i = 0; i < N; i++) {
            const int64_t c = o + i * LANES;
            vec v = sums[p * N + i];

            if (4 * N <= ACCUMULATORS && l->max_pool) {
                const vec *s = sums + 4 * p * N + i;
                v = V(max_epi32)(V(max_epi32)(s[0], s[N]), V(max_epi32)(s[2 * N], s[3 * N]));
            }
            if (l->relu)
                v = V(max_epi32)(v, ZERO);
            v = V(add_epi32)(ROUND(v, SCALE(N + i)), LOAD(block + (2 * N + i) * VECTOR));
            if (t->shortcut[p] && c < l->shortcut_pitch) {
                const int16_t *s = t->shortcut[p] + c;
                vec added = FN(load_stream)(s);

                if (l->shortcut_pool == 2) {
                    const int64_t right = l->shortcut_pitch, below = 2 * l->out_side * right;
                    added = V(add_epi32)(added, FN(load_stream)(s + right));
                    added = V(add_epi32)(added, FN(load_stream)(s + below));
                    added = ROUND(V(add_epi32)(added, FN(load_stream)(s + below + right)), quarter);
                }
                v = V(add_epi32)(v, added);
            }
            v = FN(store_stream)(t->stream[p] + c, v);
            if (pooled)
                STORE(pooled + c, V(add_epi32)(LOAD(pooled + c), v));
            bytes[i] = V(add_epi32)(ROUND(v, next_scale), zero_point);
        }
        if (!pooled)
            FN(store_bytes)(t->out[p] + o, N, bytes);
    }
}

INLINE TARGET void FN(finish)(const int N, const struct layer *l, const struct tile *t, int64_t o, const int8_t *block,
                              const vec *sums, int32_t *pooled)
{
    if (l->writes_stream) {
        FN(finish_stream)(N, l, t, o, block, sums, pooled);
        return;
    }
    const floats m0 = SCALE(N), m1 = N > 1 ? SCALE(N + 1) : m0, m2 = N > 2 ? SCALE(N + 2) : m0;
    const floats m[4] = {m0, m1, m2, N > 3 ? SCALE(N + 3) : m0};

    for (int64_t p = 0; p < t->n; p++, sums += N) {
        vec v[4];

        for (int i = 0; i < N; i++)
            v[i] = ROUND(sums[i], m[i]);
        if (!pooled) {
            FN(store_bytes)(t->out[p] + o, N, v);
            continue;
        }
        for (int i = 0; i < N; i++) {
            int32_t *total = pooled + o + i * LANES;
            v[i] = V(min_epi32)(V(max_epi32)(v[i], ZERO), V(set1_epi32)(255));
            STORE(total, V(add_epi32)(LOAD(total), v[i]));
        }
    }
}

#define CASES(n) CASE(n, 1) CASE(n, 2) CASE(n, 3) CASE(n, 4) CASE(n, 5) CASE(n, 6) CASE(n, 7) CASE(n, 8)
#define CASE(n, m)                                                       \
    case 8 * n + m - 1:                                                  \
        if (m * n <= ACCUMULATORS)                                       \
            FN(sum_tile)(m, n, l, t->in, block, ahead, sums);            \
        break;

static TARGET void FN(compute_tile)(const struct layer *l, const struct tile *t, int64_t o, int64_t n, int64_t m,
                                    const int8_t *block, const int8_t *ahead, int32_t *pooled)
{
    vec sums[ACCUMULATORS];

    switch (8 * n + m - 1) {
#if UNIT == 1
    CASES(1)
    CASES(3)
#endif
    CASES(2)
    CASES(4)
    }
    switch (n) {
#if UNIT == 1
    case 1: FN(finish)(1, l, t, o, block, sums, pooled); break;
    case 3: FN(finish)(3, l, t, o, block, sums, pooled); break;
#endif
    case 2: FN(finish)(2, l, t, o, block, sums, pooled); break;
    case 4: FN(finish)(4, l, t, o, block, sums, pooled); break;
    }
}

/* A convolution over all channels. Blocks of channels and tiles of pixels are as even as they can be: 49 pixels in tiles
 * of 6 would leave one for the last. */
static TARGET void FN(dense)(const struct layer *l, const struct buffers *b)
{
    const int64_t n_units = l->out_pitch / 16, n_blocks = (n_units + l->block - 1) / l->block;
    const int64_t n_pixels = l->out_side * l->out_side, per_pixel = l->max_pool ? 4 : 1;
    const int64_t room = ACCUMULATORS / ((n_units + n_blocks - 1) / n_blocks * UNIT), most = (room < 8 ? room : 8) / per_pixel;
    const int64_t n_tiles = (n_pixels + most - 1) / most;
    const int64_t filter = l->n_rows * l->row_bytes, unit_bytes = 16 * (12 + filter); /* bias, scale, offset; weights */
    const struct shares units = {n_units / n_blocks, n_units % n_blocks}, pixels = {n_pixels / n_tiles, n_pixels % n_tiles};
    const int weights_fit = n_units * unit_bytes <= L1_WEIGHTS;
    const int64_t outer = weights_fit ? n_tiles : n_blocks, inner = weights_fit ? n_blocks : n_tiles;
    struct tile t;

    for (int64_t i = 0; i < outer; i++)
        for (int64_t j = 0; j < inner; j++) {
            const int64_t tile = weights_fit ? i : j, block = weights_fit ? j : i;
            const int64_t unit = share_start(units, block), n = share_start(units, block + 1) - unit;
            const int8_t *packed = l->packed + unit * unit_bytes;
            const int64_t fetched = tile * filter * 16;
            const int8_t *ahead = fetched < n * unit_bytes ? packed + n * unit_bytes + fetched : packed;

            if (j == 0 || !weights_fit)
                place_tile(l, b, share_start(pixels, tile), share_start(pixels, tile + 1) - share_start(pixels, tile), &t);
            FN(compute_tile)(l, &t, 16 * unit, n * UNIT, t.n * per_pixel, packed, ahead, l->is_last ? b->pooled : NULL);
        }
}

/* Depthwise. Four rows of pixels are zipped, so that an int32 holds four rows of one channel and a multiplication adds
 * four products. Unpacking keeps to lanes of 128 bits, so vector j of four has the channels 16 i + 4 j + 0..3 in lane i,
 * and weights, bias and scale come in this order; packing to bytes restores that of the channels.
 *
 * A column of zipped rows is used by K pixels, so a strip of columns is zipped first. Then one of the four vectors after
 * the other is multiplied for some pixels, with its weights in registers. */
INLINE TARGET void FN(zip)(const uint8_t *const *rows, const int n, int64_t at, vec *zipped)
{
    const vec r0 = LOAD(rows[0] + at), r1 = n > 1 ? LOAD(rows[1] + at) : ZERO;
    const vec r2 = n > 2 ? LOAD(rows[2] + at) : ZERO, r3 = n > 3 ? LOAD(rows[3] + at) : ZERO;
    const vec low = V(unpacklo_epi8)(r0, r1), high = V(unpackhi_epi8)(r0, r1);
    const vec low2 = n > 2 ? V(unpacklo_epi8)(r2, r3) : ZERO, high2 = n > 2 ? V(unpackhi_epi8)(r2, r3) : ZERO;

    zipped[0] = V(unpacklo_epi16)(low, low2);
    zipped[1] = V(unpackhi_epi16)(low, low2);
    zipped[2] = V(unpacklo_epi16)(high, high2);
    zipped[3] = V(unpackhi_epi16)(high, high2);
}

#define TAPS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define WEIGHTS(i) const vec v##i = LOAD(weight + (i < T ? i : 0) * VECTOR), w##i = LOAD(weight + (R > 1 && i < T ? T + i : 0) * VECTOR);
#define TAP(i)                       \
    if (i < T) {                     \
        const vec u = z[4 * i];      \
        DOT(sum0, u, v##i);          \
        if (R > 1)                   \
            DOT(sum1, u, w##i);      \
    }

/* R rows of outputs, the columns first to end, and the channels of a block. */
INLINE TARGET void FN(strip)(const int K, const int S, const int R, const struct layer *l, const struct buffers *b,
                             int64_t block, int64_t y0, int64_t first, int64_t end)
{
    const int n_rows = (R - 1) * S + K, G = (n_rows + 3) / 4, T = K * G; /* vectors of weights for each row of outputs */
    const int64_t pitch = l->in_pitch, side = l->in_side, o = block * VECTOR, left = pitch - o;
    const int64_t size = (3 + l->filter_vectors) * VECTOR; /* of bias, scale, offset and weights of a vector of channels */
    const int8_t *packed = l->packed + 4 * block * size;
    vec zipped[((STRIP - 1) * 2 + 5) * 2 * 4], sums[PIXELS * 2 * 4];
    const uint8_t *rows[8];
    const vec border = V(set1_epi8)((char)l->pad[0]);

    for (int i = 0; i < n_rows; i++) {
        const int64_t y = y0 * S - l->before + i;
        rows[i] = y < 0 || y >= side ? NULL : b->in + y * side * pitch + o;
    }
    for (int64_t c = first * S - l->before, z = 0; c <= (end - 1) * S - l->before + K - 1; c++, z += 4 * G) {
        const uint8_t *r[8];
        if (c < 0 || c >= side) {
            for (int i = 0; i < 4 * G; i++)
                zipped[z + i] = border;
            continue;
        }
        for (int i = 0; i < n_rows; i++)
            r[i] = rows[i] ? rows[i] + c * pitch : b->border;
        FN(zip)(r, n_rows, 0, zipped + z);
        if (G > 1)
            FN(zip)(r + 4, n_rows - 4, 0, zipped + z + 4);
    }
    for (int64_t x0 = first; x0 < end; x0 += PIXELS) {
        const int64_t n = end - x0 < PIXELS ? end - x0 : PIXELS;

        for (int j = 0; j < 4; j++) {
            const int8_t *weight = packed + j * size + 3 * VECTOR;
            const vec bias = LOAD(packed + j * size), *z = zipped + (x0 - first) * S * 4 * G + j;
            TAPS(WEIGHTS)

            for (int64_t x = 0; x < n; x++, z += S * 4 * G) {
                vec sum0 = bias, sum1 = bias;
                TAPS(TAP)
                sums[x * 4 + j] = sum0;
                if (R > 1)
                    sums[(PIXELS + x) * 4 + j] = sum1;
            }
        }
        for (int r = 0; r < R; r++) {
            uint8_t *out = b->out + ((y0 + r) * l->out_side + x0) * pitch + o;
            const float *m = (const float *)(packed + VECTOR);
            const floats m0 = V(loadu_ps)(m), m1 = V(loadu_ps)(m + size / 4);
            const floats m2 = V(loadu_ps)(m + 2 * size / 4), m3 = V(loadu_ps)(m + 3 * size / 4);

            for (int64_t x = 0; x < n; x++, out += pitch) {
                const vec *s = sums + (r * PIXELS + x) * 4;
                const vec bytes = PACK(ROUND(s[0], m0), ROUND(s[1], m1), ROUND(s[2], m2), ROUND(s[3], m3));
#if VECTOR == 64
                _mm512_mask_storeu_epi8(out, left < 64 ? (UINT64_C(1) << left) - 1 : ~UINT64_C(0), bytes);
#else
                if (left < 32)
                    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(bytes));
                else
                    STORE(out, bytes);
#endif
            }
        }
    }
}

static TARGET void FN(depthwise)(const struct layer *l, const struct buffers *b)
{
    const int64_t side = l->out_side, n_blocks = (l->in_pitch + VECTOR - 1) / VECTOR;
    const int64_t n_strips = (side + STRIP - 1) / STRIP;
    const int R = l->kernel == 3 && l->stride == 2 ? 1 : 2; /* two would need a fifth row */

    for (int64_t y = 0; y < side; y += R)
        for (int64_t block = 0; block < n_blocks; block++)
            for (int64_t i = 0; i < n_strips; i++) {
                const int64_t first = side * i / n_strips, end = side * (i + 1) / n_strips;
                const int one = R == 1 || y + 1 == side;
                const int64_t fetched = (y / R * n_blocks + block) * 1024;

                if (i == 0 && fetched < 98304)
                    for (int f = 0; f < 1024; f += 64)
                        FETCH(l->packed + 4 * n_blocks * (3 + l->filter_vectors) * VECTOR + fetched + f);

                switch (l->kernel * 100 + l->stride * 10 + (one ? 1 : 2)) {
                case 311: FN(strip)(3, 1, 1, l, b, block, y, first, end); break;
                case 312: FN(strip)(3, 1, 2, l, b, block, y, first, end); break;
                case 321: FN(strip)(3, 2, 1, l, b, block, y, first, end); break;
                case 511: FN(strip)(5, 1, 1, l, b, block, y, first, end); break;
                case 512: FN(strip)(5, 1, 2, l, b, block, y, first, end); break;
                case 521: FN(strip)(5, 2, 1, l, b, block, y, first, end); break;
                case 522: FN(strip)(5, 2, 2, l, b, block, y, first, end); break;
                }
            }
}

#undef FN
#undef TARGET
#undef VECTOR
#undef ACCUMULATORS
#undef DOT
#undef LANES
#undef UNIT
#undef vec
#undef floats
#undef V
#undef LOAD
#undef STORE
#undef ZERO
