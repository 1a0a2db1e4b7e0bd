/* The kernels of int8.c for one set of instructions. It includes this file once for each, and defines before:
 *
 *   FN(name)      the name of a function
 *   TARGET        the attribute that allows the instructions
 *   VECTOR        bytes of a vector, 64 or 32
 *   ACCUMULATORS  vectors of sums that a tile keeps in registers
 *   DOT(a, u, s)  adds to each int32 of a the products of its four bytes of u (unsigned) and s (signed)
 */

#define LANES (VECTOR / 4)
#define UNIT (16 / LANES) /* vectors of sums that 16 channels take */

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

#define LOAD_SCALE(p) V(loadu_ps)((const float *)(p))
#define ROUND(v, scale) V(cvtps_epi32)(V(mul_ps)(V(cvtepi32_ps)(v), scale)) /* half to even, which is the default */

/* Four vectors, saturated to bytes. Packing keeps to lanes of 128 bits: each has 4 bytes of a, of b, of c and of d. */
#define PACK(a, b, c, d) V(packus_epi16)(V(packs_epi32)(a, b), V(packs_epi32)(c, d))

/* Stores n vectors of consecutive channels as bytes. */
INLINE TARGET void FN(store_bytes)(uint8_t *out, const int n, const vec *v)
{
    const vec packed = PACK(v[0], v[n > 1 ? 1 : 0], v[n > 2 ? 2 : 0], v[n > 3 ? 3 : 0]);
#if VECTOR == 64
    const vec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

    _mm512_mask_storeu_epi32(out, (__mmask16)((1 << 4 * n) - 1), _mm512_permutexvar_epi32(order, packed));
#else
    const vec bytes = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));

    if (n == 4)
        STORE(out, bytes);
    else
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(bytes));
#endif
}

INLINE TARGET vec FN(load_stream)(const int16_t *p)
{
#if VECTOR == 64
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p));
#else
    return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p));
#endif
}

/* Stores int32 as int16, saturated, and returns what is stored as int32 again. */
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

/* The sums of M pixels of the convolution and N vectors of channels, M * N vectors. Each has a variable of its own,
 * a(pixel)(vector): GCC 12 leaves an array of them on the stack. Weights of a step stay in registers while the pixels
 * take turns, or the other way round, whichever are fewer. */
#define EACH_PIXEL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define BEGIN(p)                                           \
    vec a##p##0 = b0, a##p##1 = b1, a##p##2 = b2, a##p##3 = b3; \
    const uint8_t *const in##p = t->in[p < M ? p : 0];
#define INPUT(p) V(set1_epi32)(load_int(in##p + i))
#define STEP(p)                   \
    if (p < M) {                  \
        const vec u = INPUT(p);   \
        DOT(a##p##0, u, w0);      \
        if (N > 1)                \
            DOT(a##p##1, u, w1);  \
        if (N > 2)                \
            DOT(a##p##2, u, w2);  \
        if (N > 3)                \
            DOT(a##p##3, u, w3);  \
    }
#define STEP_OF_VECTOR(v)                       \
    if (v < N) {                                \
        const vec w = LOAD(weight + v * VECTOR); \
        DOT(a0##v, u0, w);                      \
        if (M > 1)                              \
            DOT(a1##v, u1, w);                  \
        if (M > 2)                              \
            DOT(a2##v, u2, w);                  \
    }
#define END(p)                         \
    if (p < M) {                       \
        sums[p * N] = a##p##0;         \
        if (N > 1)                     \
            sums[p * N + 1] = a##p##1; \
        if (N > 2)                     \
            sums[p * N + 2] = a##p##2; \
        if (N > 3)                     \
            sums[p * N + 3] = a##p##3; \
    }

INLINE TARGET void FN(sum_tile)(const int M, const int N, const struct layer *l, const struct tile *t,
                                const int8_t *ahead, vec *sums)
{
    const int8_t *bias = t->packed, *weight = bias + 3 * N * VECTOR;
    const vec b0 = LOAD(bias), b1 = N > 1 ? LOAD(bias + VECTOR) : b0;
    const vec b2 = N > 2 ? LOAD(bias + 2 * VECTOR) : b0, b3 = N > 3 ? LOAD(bias + 3 * VECTOR) : b0;
    EACH_PIXEL(BEGIN)

    for (int64_t row = 0; row < l->n_rows; row++) {
        const int64_t end = row * l->row_stride + l->row_bytes;

        for (int64_t i = row * l->row_stride; i < end; i += 4, weight += N * VECTOR, ahead += 64) {
            fetch_ahead(ahead);
            if (M < N && M <= 3) {
                const vec u0 = INPUT(0), u1 = M > 1 ? INPUT(1) : u0, u2 = M > 2 ? INPUT(2) : u0;
                STEP_OF_VECTOR(0) STEP_OF_VECTOR(1) STEP_OF_VECTOR(2) STEP_OF_VECTOR(3)
            } else {
                const vec w0 = LOAD(weight), w1 = N > 1 ? LOAD(weight + VECTOR) : w0;
                const vec w2 = N > 2 ? LOAD(weight + 2 * VECTOR) : w0, w3 = N > 3 ? LOAD(weight + 3 * VECTOR) : w0;
                EACH_PIXEL(STEP)
            }
        }
    }
    EACH_PIXEL(END)
}

/* A vector of the shortcut: of a pixel, or the mean of four. */
INLINE TARGET vec FN(load_shortcut)(const struct layer *l, const int16_t *p)
{
    const int64_t right = l->shortcut_pitch, below = 2 * l->out_side * right;
    vec sum = FN(load_stream)(p);

    if (l->shortcut_pool == 1)
        return sum;
    sum = V(add_epi32)(sum, FN(load_stream)(p + right));
    sum = V(add_epi32)(sum, FN(load_stream)(p + below));
    sum = V(add_epi32)(sum, FN(load_stream)(p + below + right));
    return ROUND(sum, V(set1_ps)(0.25f));
}

/* From sums to the stream, and from that to the output of the layer or, if it is the last one, to pooled sums. */
INLINE TARGET void FN(finish_stream)(const int N, const struct layer *l, const struct tile *t, const vec *sums,
                                     int32_t *pooled)
{
    const floats next_scale = V(set1_ps)(l->next_scale);
    const vec zero_point = V(set1_epi32)((int)l->zero_point);

    for (int64_t p = 0; p < t->n; p++) {
        vec bytes[4];

        for (int i = 0; i < N; i++) {
            const int64_t channel = t->channel + i * LANES;
            const int8_t *scale = t->packed + (N + i) * VECTOR, *offset = scale + N * VECTOR;
            const vec *s = sums + (l->max_pool ? 4 : 1) * p * N + i;
            vec v = s[0];

            if (4 * N <= ACCUMULATORS && l->max_pool)
                v = V(max_epi32)(V(max_epi32)(s[0], s[N]), V(max_epi32)(s[2 * N], s[3 * N]));
            if (l->relu)
                v = V(max_epi32)(v, ZERO);
            v = V(add_epi32)(ROUND(v, LOAD_SCALE(scale)), LOAD(offset));
            if (t->shortcut[p] && channel < l->shortcut_pitch)
                v = V(add_epi32)(v, FN(load_shortcut)(l, t->shortcut[p] + channel));
            v = FN(store_stream)(t->stream[p] + channel, v);
            if (l->is_last)
                STORE(pooled + channel, V(add_epi32)(LOAD(pooled + channel), v));
            bytes[i] = V(add_epi32)(ROUND(v, next_scale), zero_point);
        }
        if (!l->is_last)
            FN(store_bytes)(t->out[p] + t->channel, N, bytes);
    }
}

/* From sums to ReLU6, whose range is that of a byte. */
INLINE TARGET void FN(finish_bytes)(const int N, const struct layer *l, const struct tile *t, const vec *sums,
                                    int32_t *pooled)
{
    const int8_t *scale = t->packed + N * VECTOR;
    const floats m0 = LOAD_SCALE(scale), m1 = N > 1 ? LOAD_SCALE(scale + VECTOR) : m0;
    const floats m2 = N > 2 ? LOAD_SCALE(scale + 2 * VECTOR) : m0, m3 = N > 3 ? LOAD_SCALE(scale + 3 * VECTOR) : m0;
    const floats m[4] = {m0, m1, m2, m3};

    for (int64_t p = 0; p < t->n; p++, sums += N) {
        vec v[4];

        for (int i = 0; i < N; i++)
            v[i] = ROUND(sums[i], m[i]);
        if (!l->is_last) {
            FN(store_bytes)(t->out[p] + t->channel, N, v);
            continue;
        }
        for (int i = 0; i < N; i++) {
            int32_t *total = pooled + t->channel + i * LANES;

            v[i] = V(min_epi32)(V(max_epi32)(v[i], ZERO), V(set1_epi32)(255));
            STORE(total, V(add_epi32)(LOAD(total), v[i]));
        }
    }
}

#define TILES(N)                                              \
    TILE_OF(1, N) TILE_OF(2, N) TILE_OF(3, N) TILE_OF(4, N) \
    TILE_OF(5, N) TILE_OF(6, N) TILE_OF(7, N) TILE_OF(8, N)
#define TILE_OF(M, N)                                  \
    case TILE * N + M:                                 \
        if (M * N <= ACCUMULATORS)                     \
            FN(sum_tile)(M, N, l, t, ahead, sums);     \
        break;
#define FINISH(N)                                      \
    case N:                                            \
        if (l->writes_stream)                          \
            FN(finish_stream)(N, l, t, sums, pooled);  \
        else                                           \
            FN(finish_bytes)(N, l, t, sums, pooled);   \
        break;

static TARGET void FN(compute_tile)(const struct layer *l, const struct tile *t, int64_t m, int64_t n,
                                    const int8_t *ahead, int32_t *pooled)
{
    vec sums[ACCUMULATORS];

    switch (TILE * n + m) {
#if UNIT == 1
    TILES(1) TILES(3)
#endif
    TILES(2) TILES(4)
    }
    switch (n) {
#if UNIT == 1
    FINISH(1) FINISH(3)
#endif
    FINISH(2) FINISH(4)
    }
}

/* A convolution that sums over all channels. Blocks of channels and tiles of pixels are as even as they can be: of 49
 * pixels in tiles of 8 one would be left over, and take as long as 5. */
static TARGET void FN(dense)(const struct layer *l, const struct buffers *b)
{
    const int64_t n_units = l->out_pitch / 16, n_blocks = (n_units + l->block - 1) / l->block;
    const int64_t vectors = (n_units + n_blocks - 1) / n_blocks * UNIT, fit = ACCUMULATORS / vectors;
    const int64_t per_pixel = l->max_pool ? 4 : 1, most = (fit < TILE ? fit : TILE) / per_pixel;
    const int64_t n_pixels = l->out_side * l->out_side, n_tiles = (n_pixels + most - 1) / most;
    const struct shares units = divide(n_units, n_blocks), pixels = divide(n_pixels, n_tiles);
    const int64_t filter = l->n_rows * l->row_bytes, unit_bytes = 16 * (3 * 4 + filter);
    const int weights_fit = n_units * unit_bytes <= L1_WEIGHTS;
    const int64_t outer = weights_fit ? n_tiles : n_blocks, inner = weights_fit ? n_blocks : n_tiles;
    struct tile t = {0};

    for (int64_t i = 0; i < outer; i++)
        for (int64_t j = 0; j < inner; j++) {
            const int64_t tile = weights_fit ? i : j, block = weights_fit ? j : i;
            const int64_t first = share_start(pixels, tile), unit = share_start(units, block);
            const int64_t n = share_start(units, block + 1) - unit;
            const int64_t fetched = tile * filter * 16; /* by the tiles before: 64 bytes for each 4 of a filter */

            if (j == 0 || !weights_fit)
                place_tile(l, b, first, share_start(pixels, tile + 1) - first, &t);
            t.channel = 16 * unit;
            t.packed = l->packed + unit * unit_bytes;
            FN(compute_tile)(l, &t, t.n * per_pixel, n * UNIT,
                             t.packed + (fetched < n * unit_bytes ? n * unit_bytes + fetched : 0), b->pooled);
        }
}

/* Depthwise. Four rows of inputs are zipped: an int32 has four rows of one channel, and DOT adds four products.
 * Unpacking keeps to lanes of 128 bits: of four vectors, the j-th has channels 16 i + 4 j + 0..3 in lane i, and bias,
 * scale and weights are packed in this order. PACK restores that of the channels. */
INLINE TARGET void FN(zip)(const uint8_t *const *rows, const int n, vec *zipped)
{
    const vec r0 = LOAD(rows[0]), r1 = n > 1 ? LOAD(rows[1]) : ZERO;
    const vec r2 = n > 2 ? LOAD(rows[2]) : ZERO, r3 = n > 3 ? LOAD(rows[3]) : ZERO;
    const vec low01 = V(unpacklo_epi8)(r0, r1), high01 = V(unpackhi_epi8)(r0, r1);
    const vec low23 = n > 2 ? V(unpacklo_epi8)(r2, r3) : ZERO, high23 = n > 2 ? V(unpackhi_epi8)(r2, r3) : ZERO;

    zipped[0] = V(unpacklo_epi16)(low01, low23);
    zipped[1] = V(unpackhi_epi16)(low01, low23);
    zipped[2] = V(unpacklo_epi16)(high01, high23);
    zipped[3] = V(unpackhi_epi16)(high01, high23);
}

/* The inputs of R rows of outputs, column by column. */
INLINE TARGET void FN(zip_strip)(const int K, const int S, const int R, const struct layer *l, const struct buffers *b,
                                 const struct strip *strip, vec *zipped)
{
    const int n_rows = (R - 1) * S + K, G = (n_rows + 3) / 4;
    const int64_t top = strip->y * S - l->before, first = strip->x * S - l->before;
    const int64_t end = first + (strip->n - 1) * S + K;
    const uint8_t *rows[8];
    int64_t steps[8];

    for (int i = 0; i < n_rows; i++) {
        const int is_inside = top + i >= 0 && top + i < l->in_side;
        const int64_t pixel = (top + i) * l->in_side + (first > 0 ? first : 0);

        rows[i] = is_inside ? b->in + pixel * l->in_pitch + strip->channel : b->border;
        steps[i] = is_inside ? l->in_pitch : 0;
    }
    for (int64_t x = first; x < end; x++, zipped += 4 * G) {
        if (x < 0 || x >= l->in_side) {
            for (int i = 0; i < 4 * G; i++)
                zipped[i] = LOAD(b->border);
            continue;
        }
        FN(zip)(rows, n_rows, zipped);
        if (G > 1)
            FN(zip)(rows + 4, n_rows - 4, zipped + 4);
        for (int i = 0; i < n_rows; i++)
            rows[i] += steps[i];
    }
}

/* The sums of n outputs in each of R rows, for one of the four vectors after the other: so its weights, for T = K * G
 * taps of each row of outputs, stay in registers. */
#define EACH_TAP(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define LOAD_TAP(i)                                               \
    const vec v##i = LOAD(weight + (i < T ? i : 0) * VECTOR);     \
    const vec w##i = LOAD(weight + (i < T && R > 1 ? T + i : 0) * VECTOR);
#define TAP(i)                        \
    if (i < T) {                      \
        const vec u = z[4 * i];       \
        DOT(sum, u, v##i);            \
        if (R > 1)                    \
            DOT(next_sum, u, w##i);   \
    }

INLINE TARGET void FN(sum_strip)(const int K, const int S, const int R, const struct strip *strip, int64_t n,
                                 const vec *zipped, vec *sums)
{
    const int G = ((R - 1) * S + K + 3) / 4, T = K * G, rows_packed = K == 3 && S == 2 ? 1 : 2;

    for (int j = 0; j < 4; j++) {
        const int8_t *bias = strip->packed + j * (3 + rows_packed * T) * VECTOR, *weight = bias + 3 * VECTOR;
        const vec *z = zipped + j;
        EACH_TAP(LOAD_TAP)

        for (int64_t x = 0; x < n; x++, z += S * 4 * G) {
            vec sum = LOAD(bias), next_sum = sum;
            EACH_TAP(TAP)

            sums[4 * x + j] = sum;
            if (R > 1)
                sums[4 * (PIXELS + x) + j] = next_sum;
        }
    }
}

INLINE TARGET void FN(finish_strip)(const struct layer *l, const struct strip *strip, int64_t n, const vec *sums,
                                    uint8_t *out)
{
    const int64_t size = (3 + l->filter_vectors) * VECTOR, left = l->out_pitch - strip->channel;
    const int8_t *scale = strip->packed + VECTOR;
    const floats m0 = LOAD_SCALE(scale), m1 = LOAD_SCALE(scale + size);
    const floats m2 = LOAD_SCALE(scale + 2 * size), m3 = LOAD_SCALE(scale + 3 * size);

    for (int64_t x = 0; x < n; x++, sums += 4, out += l->out_pitch) {
        const vec bytes = PACK(ROUND(sums[0], m0), ROUND(sums[1], m1), ROUND(sums[2], m2), ROUND(sums[3], m3));
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

INLINE TARGET void FN(compute_strip)(const int K, const int S, const int R, const struct layer *l,
                                     const struct buffers *b, const struct strip *strip)
{
    const int G = ((R - 1) * S + K + 3) / 4;
    uint8_t *out = b->out + (strip->y * l->out_side + strip->x) * l->out_pitch + strip->channel;
    vec zipped[((STRIP - 1) * S + K) * 4 * G], sums[2 * 4 * PIXELS];

    FN(zip_strip)(K, S, R, l, b, strip, zipped);
    for (int64_t x = 0; x < strip->n; x += PIXELS, out += PIXELS * l->out_pitch) {
        const int64_t n = strip->n - x < PIXELS ? strip->n - x : PIXELS;

        FN(sum_strip)(K, S, R, strip, n, zipped + x * S * 4 * G, sums);
        FN(finish_strip)(l, strip, n, sums, out);
        if (R > 1)
            FN(finish_strip)(l, strip, n, sums + 4 * PIXELS, out + l->out_side * l->out_pitch);
    }
}

static TARGET void FN(depthwise)(const struct layer *l, const struct buffers *b)
{
    const int64_t side = l->out_side, n_strips = (side + STRIP - 1) / STRIP;
    const int64_t n_blocks = (l->out_pitch + VECTOR - 1) / VECTOR;
    const int64_t block_bytes = 4 * (3 + l->filter_vectors) * VECTOR;
    const int64_t R = l->kernel == 3 && l->stride == 2 ? 1 : 2; /* two such rows of outputs would need five of inputs */
    const struct shares columns = divide(side, n_strips);
    const int8_t *ahead = l->packed + n_blocks * block_bytes, *ahead_end = ahead + FIRST_BLOCK;

    for (int64_t y = 0; y < side; y += R)
        for (int64_t i = 0; i < n_blocks * n_strips; i++) {
            const int64_t block = i / n_strips, x = share_start(columns, i % n_strips);
            const struct strip strip = {y, x, share_start(columns, i % n_strips + 1) - x, block * VECTOR,
                                        l->packed + block * block_bytes};

            for (int f = 0; f < 16 && ahead < ahead_end; f++, ahead += 64)
                fetch_ahead(ahead);
            switch (l->kernel * 100 + l->stride * 10 + (y + R > side ? 1 : R)) {
            case 311: FN(compute_strip)(3, 1, 1, l, b, &strip); break;
            case 312: FN(compute_strip)(3, 1, 2, l, b, &strip); break;
            case 321: FN(compute_strip)(3, 2, 1, l, b, &strip); break;
            case 511: FN(compute_strip)(5, 1, 1, l, b, &strip); break;
            case 512: FN(compute_strip)(5, 1, 2, l, b, &strip); break;
            case 521: FN(compute_strip)(5, 2, 1, l, b, &strip); break;
            case 522: FN(compute_strip)(5, 2, 2, l, b, &strip); break;
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
