/* Which packed codes are nearer to queries than a bound, by Hamming distance.
 *
 * Called by ctypes from drhn_cli/search/scan.py (NativeScanner), so it knows nothing of Python. The rows lie end to end
 * wherever the file has them, so every load is unaligned; and because the file may be mapped, nothing beyond the rows is
 * ever read. A block of rows that fits the L1 cache is compared with each query in turn.
 *
 * Queries and mask come "spread": a code of up to 8, 16 or 32 bytes is padded to that size and repeated up to 64 bytes; a
 * longer one is padded to a multiple of 64. So a vector holds one or more codes, and its first words are one code.
 *
 * The bound falls with the counts of each distance, as in faiss (HCounterState).
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define VERSION 2 /* of the library's functions and structures; drhn_cli/native ignores one of another version */
#define LEAST_CAPACITY 1024
#define BLOCK_BYTES 16384
#define AHEAD 2048
#define MAX_WORDS 64 /* of 8 bytes, for 4096 bits */

#define INLINE static inline __attribute__((always_inline))

enum kernel { PORTABLE, POPCNT, AVX512 };

struct search {
    uint64_t kernel;
    uint64_t size;          /* of a row in bytes, 1 to 512 */
    uint64_t n_queries;
    uint64_t n_distances;   /* no bound is larger */
    uint64_t top_k;         /* hits that each query needs */
    uint64_t capacity;      /* hits of each query that there is room for, LEAST_CAPACITY or more */
    const uint8_t *mask;    /* spread: the bits that count */
    const uint8_t *queries; /* spread, one after another, and masked */
    uint64_t *bounds;       /* (n_queries): only rows nearer than this are hits; falls as hits are found */
    uint64_t *n_hits;       /* (n_queries): hits found, in order of rows: */
    int64_t *rows;          /* (n_queries, capacity) */
    uint16_t *distances;    /* (n_queries, capacity) */
    uint64_t *n_near;       /* (n_queries), scratch: hits nearer than the bound */
    uint64_t *counts;       /* (n_queries, n_distances), scratch: hits at each distance */
    uint8_t places[64];     /* scratch: which byte of the rows each byte of a vector is */
};

/* Compares n rows, the first of which has number `first`, with one query. */
typedef void scan_block(const struct search *search, uint64_t query, const uint8_t *codes, uint64_t first, uint64_t n);

static size_t spread_size(const struct search *search)
{
    return (search->size + 63) / 64 * 64;
}

static void keep(const struct search *search, uint64_t query, uint64_t row, uint64_t distance)
{
    uint64_t *counts = search->counts + query * search->n_distances;
    uint64_t place = query * search->capacity + search->n_hits[query]++;

    search->rows[place] = (int64_t)row;
    search->distances[place] = (uint16_t)distance;
    counts[distance]++;
    search->n_near[query]++;
    /* A later row at the same distance loses the tie, so the distance of the last of top_k rows is the new bound. */
    while (search->n_near[query] >= search->top_k)
        search->n_near[query] -= counts[--search->bounds[query]];
}

/* Hardware prefetching comes too late and stops at page boundaries. Prefetching an invalid address is harmless. */
INLINE void fetch_ahead(const uint8_t *code, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        __builtin_prefetch((const void *)((uintptr_t)code + AHEAD + i));
}

/* Words of 8 bytes. */

INLINE void scan_words(const struct search *search, uint64_t query, const uint8_t *codes, uint64_t first, uint64_t n,
                       const size_t n_words)
{
    const size_t size = search->size, last = 8 * (n_words - 1), n_bytes = n * size;
    const size_t n_whole = n_bytes < last + 8 ? 0 : (n_bytes - last - 8) / size + 1; /* whose last word ends within the rows */
    uint64_t wanted[MAX_WORDS], padded[MAX_WORDS] = {0}, mask;
    uint64_t bound = search->bounds[query];

    memcpy(wanted, search->queries + query * spread_size(search), last + 8);
    memcpy(&mask, search->mask + last, 8);
    for (uint64_t row = 0; row < n; row++) {
        const uint8_t *code = codes + row * size;
        uint64_t word, distance = 0;

        fetch_ahead(code, size);
        if (row >= n_whole)
            code = memcpy(padded, code, size);
        for (size_t i = 0; i + 1 < n_words; i++) {
            memcpy(&word, code + 8 * i, 8);
            distance += (uint64_t)__builtin_popcountll(word ^ wanted[i]);
        }
        memcpy(&word, code + last, 8);
        distance += (uint64_t)__builtin_popcountll((word ^ wanted[n_words - 1]) & mask);
        if (distance < bound) {
            keep(search, query, first + row, distance);
            bound = search->bounds[query];
        }
    }
}

INLINE void scan_portable(const struct search *search, uint64_t query, const uint8_t *codes, uint64_t first, uint64_t n)
{
    const size_t n_words = (search->size + 7) / 8;

    switch (n_words) {
    case 1: scan_words(search, query, codes, first, n, 1); break;
    case 2: scan_words(search, query, codes, first, n, 2); break;
    case 4: scan_words(search, query, codes, first, n, 4); break;
    default: scan_words(search, query, codes, first, n, n_words);
    }
}

#if !defined(__x86_64__)

static scan_block *const KERNELS[] = {[PORTABLE] = scan_portable};

#else

__attribute__((target("popcnt"))) static void scan_popcnt(const struct search *search, uint64_t query,
                                                          const uint8_t *codes, uint64_t first, uint64_t n)
{
    scan_portable(search, query, codes, first, n);
}

/* Eight rows at a time, in vectors of 64 bytes. */

#define VECTORS __attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vpopcntdq")))

/* Each adds pairs of words within rows, and packs the sums of two vectors into one. */
INLINE VECTORS __m512i add_neighbours(__m512i a, __m512i b)
{
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

INLINE VECTORS __m512i add_pairs(__m512i a, __m512i b)
{
    return _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}

/* Sums of the words of each of 8 rows, which n = 1, 2, 4 or 8 vectors hold in order. */
INLINE VECTORS __m512i sum_rows(__m512i *v, const int n)
{
    for (int i = 0; i + 1 < n; i += 2)
        v[i / 2] = add_neighbours(v[i], v[i + 1]);
    for (int left = n / 2; left > 1; left /= 2)
        for (int i = 0; i + 1 < left; i += 2)
            v[i / 2] = add_pairs(v[i], v[i + 1]);
    return v[0];
}

/* Which word of sum_rows() belongs to each row, by the number of vectors. */
static const uint8_t ROW_ORDER[][8] = {
    [1] = {0, 1, 2, 3, 4, 5, 6, 7},
    [2] = {0, 2, 4, 6, 1, 3, 5, 7},
    [4] = {0, 2, 1, 3, 4, 6, 5, 7},
    [8] = {0, 1, 2, 3, 4, 5, 6, 7},
};

/* Not inlined: hits are rare. */
static __attribute__((noinline)) VECTORS void keep_rows(const struct search *search, uint64_t query, uint64_t first,
                                                        uint64_t n, __m512i sums, const uint8_t *order)
{
    uint64_t distances[8];

    _mm512_storeu_si512(distances, sums);
    for (uint64_t i = 0; i < n; i++)
        if (distances[order[i]] < search->bounds[query])
            keep(search, query, first + i, distances[order[i]]);
}

/* Each vector holds 8 / n_vectors rows, and the bytes between them are masked. Of a row of more than 64 bytes, which
 * takes several vectors, it holds the last bytes: `whole` bytes come before. */
INLINE VECTORS void scan_vectors(const struct search *search, uint64_t query, const uint8_t *codes, uint64_t first,
                                 uint64_t n, const int n_vectors)
{
    const size_t size = search->size, step = (size_t)(8 / n_vectors) * size;
    const size_t whole = n_vectors == 8 ? (size - 1) / 64 * 64 : 0;
    const uint8_t *wanted = search->queries + query * spread_size(search);
    const __m512i last_wanted = _mm512_loadu_si512(wanted + whole), mask = _mm512_loadu_si512(search->mask + whole);
    const __m512i places = _mm512_loadu_si512(search->places);
    const __mmask64 loaded = ~UINT64_C(0) >> (64 - (step - whole)); /* the first step - whole bytes: 1 to 64 */
    __m512i bound = _mm512_set1_epi64((long long)search->bounds[query]);
    uint8_t padded[8 * 8 * MAX_WORDS];

    for (uint64_t row = 0; row < n; row += 8) {
        const uint64_t left = n - row < 8 ? n - row : 8;
        const uint8_t *code = codes + row * size;
        __m512i counts[8];

        fetch_ahead(code, 8 * size);
        if (left < 8) {
            memset(padded, 0, sizeof padded);
            code = memcpy(padded, code, left * size);
        }
        for (int i = 0; i < n_vectors; i++, code += step) {
            __m512i bits = _mm512_maskz_loadu_epi8(loaded, code + whole);

            if (n_vectors < 8)
                bits = _mm512_permutexvar_epi8(places, bits);
            /* (bits ^ last_wanted) & mask */
            counts[i] = _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(bits, last_wanted, mask, 0x28));
            for (size_t j = 0; j < whole; j += 64) {
                bits = _mm512_xor_si512(_mm512_loadu_si512(code + j), _mm512_loadu_si512(wanted + j));
                counts[i] = _mm512_add_epi64(counts[i], _mm512_popcnt_epi64(bits));
            }
        }
        __m512i sums = sum_rows(counts, n_vectors);
        if (_mm512_cmplt_epu64_mask(sums, bound)) {
            keep_rows(search, query, first + row, left, sums, ROW_ORDER[n_vectors]);
            bound = _mm512_set1_epi64((long long)search->bounds[query]);
        }
    }
}

static VECTORS void scan_avx512(const struct search *search, uint64_t query, const uint8_t *codes, uint64_t first,
                                uint64_t n)
{
    if (search->size <= 8)
        scan_vectors(search, query, codes, first, n, 1);
    else if (search->size <= 16)
        scan_vectors(search, query, codes, first, n, 2);
    else if (search->size <= 32)
        scan_vectors(search, query, codes, first, n, 4);
    else
        scan_vectors(search, query, codes, first, n, 8);
}

static scan_block *const KERNELS[] = {[PORTABLE] = scan_portable, [POPCNT] = scan_popcnt, [AVX512] = scan_avx512};

#endif

int drhn_version(void)
{
    return VERSION;
}

/* The best kernel that this machine can run. It can run the ones before it, too. */
int drhn_best_kernel(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vpopcntdq"))
        return AVX512;
    if (__builtin_cpu_supports("popcnt"))
        return POPCNT;
#endif
    return PORTABLE;
}

/* Compares n rows with all queries. Returns the number of rows compared: fewer than n when a query is out of room. */
uint64_t drhn_scan(struct search *search, const uint8_t *codes, uint64_t n)
{
    scan_block *scan = KERNELS[search->kernel];
    const size_t size = search->size, room = size <= 8 ? 8 : size <= 16 ? 16 : 32;
    uint64_t block = BLOCK_BYTES / size / 8 * 8; /* 32 rows or more */

    for (size_t i = 0; i < sizeof search->places; i++)
        search->places[i] = (uint8_t)((i / room * size + i % room) % sizeof search->places);
    if (block > LEAST_CAPACITY)
        block = LEAST_CAPACITY;
    for (uint64_t query = 0; query < search->n_queries; query++) {
        search->n_hits[query] = search->n_near[query] = 0;
        memset(search->counts + query * search->n_distances, 0, search->bounds[query] * sizeof *search->counts);
    }
    for (uint64_t row = 0; row < n; row += block) {
        uint64_t left = n - row < block ? n - row : block;
        int open = 0;

        for (uint64_t query = 0; query < search->n_queries; query++) {
            open |= search->bounds[query] > 0;
            if (search->capacity - search->n_hits[query] < left)
                return row;
        }
        if (!open) /* every query has top_k codes at distance 0 */
            break;
        for (uint64_t query = 0; query < search->n_queries; query++)
            if (search->bounds[query])
                scan(search, query, codes + row * size, row, left);
    }
    return n;
}
