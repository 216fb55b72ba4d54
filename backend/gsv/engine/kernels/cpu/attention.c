/* Scaled dot-product attention in bfloat16 with float32 scores and sums, for processors that
 * multiply pairs of bfloat16 numbers (AVX512-BF16).
 *
 * A dozen queries at a time go over the keys in chunks: scores, exponentials and weighted values of
 * a chunk stay in the first-level cache, so nothing of the size of all scores is ever in memory.
 * That is the order of FlashAttention (Dao et al., 2022) without its running maximum: a row's
 * largest score is only looked for where an overflow can't be excluded.
 */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 12") /* keeps arrays of registers in registers */
#define QUERIES 12 /* at a time: with two vectors of keys they fill 24 of 32 registers */
#define KEYS 32    /* two vectors of scores */
#define CHUNK 256  /* keys whose weights are kept at a time */
#define MAX_WIDTH 128
#define SAFE_EXPONENT 100.0f /* 2**100 times any number of keys stays below float32's 2**128 */
#define LOG2_E 1.44269504088896340736f

typedef uint16_t bf16;

typedef struct {
    int64_t rows, frames, heads, width; /* of [rows, frames, heads, width], width contiguous */
    int64_t row_stride, frame_stride, head_stride; /* of query, key and value, in numbers */
    const int64_t *lengths; /* [rows], or null when all rows are full */
    int64_t threads;
} Attention;

INLINE __m512bh pairs(const void *from) { return (__m512bh)_mm512_loadu_si512(from); }
INLINE __m512bh pair(const void *from)
{
    int32_t both;
    memcpy(&both, from, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* 2**x for x below 128; a polynomial of the fraction, exact to float32's rounding but two bits. */
INLINE __m512 exp2_of(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_set1_ps(1.3333558146e-3f);
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(9.6181291076e-3f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(5.5504108664e-2f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(2.4022650696e-1f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(6.9314718056e-1f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, whole);
}

/* Keys in blocks of KEYS, each block as pairs of channels: [block, width / 2, KEYS] pairs.
 * Values as pairs of keys: [keys / 2, width] pairs. Both end in zeros up to a whole chunk. */
static void pack(const Attention *all, const bf16 *key, const bf16 *value, int64_t size,
                 uint32_t *keys, bf16 *values)
{
    int64_t width = all->width, padded = (size + CHUNK - 1) / CHUNK * CHUNK;
    for (int64_t k = 0; k < padded; k++) {
        uint32_t *to = keys + k / KEYS * KEYS * (width / 2) + k % KEYS;
        const bf16 *from = key + k * all->frame_stride;
        for (int64_t c = 0; c < width / 2; c++) {
            uint32_t both = 0;
            if (k < size)
                memcpy(&both, from + 2 * c, 4);
            to[c * KEYS] = both;
        }
        bf16 *into = values + k / 2 * 2 * width + k % 2;
        for (int64_t c = 0; c < width; c++)
            into[2 * c] = k < size ? value[k * all->frame_stride + c] : 0;
    }
}

/* Scores of QUERIES queries and KEYS keys. */
INLINE void score(const bf16 *const *queries, const uint32_t *keys, int64_t width,
                  __m512 sums[QUERIES][2])
{
    UNROLL
    for (int i = 0; i < QUERIES; i++)
        sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (int64_t c = 0; c < width / 2; c++) {
        __m512bh low = pairs(keys + c * KEYS), high = pairs(keys + c * KEYS + KEYS / 2);
        UNROLL
        for (int i = 0; i < QUERIES; i++) {
            __m512bh own = pair(queries[i] + 2 * c);
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], own, low);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], own, high);
        }
    }
}

/* mixed[QUERIES, width] += weights[QUERIES, CHUNK] values[CHUNK, width] */
INLINE void mix(const bf16 *weights, const bf16 *values, int64_t width, int64_t count, float *mixed)
{
    for (int64_t c = 0; c < width; c += 32) {
        __m512 sums[QUERIES][2];
        UNROLL
        for (int i = 0; i < QUERIES; i++) {
            sums[i][0] = _mm512_loadu_ps(mixed + i * width + c);
            sums[i][1] = _mm512_loadu_ps(mixed + i * width + c + 16);
        }
        for (int64_t k = 0; k < count; k += 2) {
            __m512bh low = pairs(values + k * width + 2 * c);
            __m512bh high = pairs(values + k * width + 2 * c + 32);
            UNROLL
            for (int i = 0; i < QUERIES; i++) {
                __m512bh own = pair(weights + i * CHUNK + k);
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], own, low);
                sums[i][1] = _mm512_dpbf16_ps(sums[i][1], own, high);
            }
        }
        UNROLL
        for (int i = 0; i < QUERIES; i++) {
            _mm512_storeu_ps(mixed + i * width + c, sums[i][0]);
            _mm512_storeu_ps(mixed + i * width + c + 16, sums[i][1]);
        }
    }
}

static void largest(const bf16 *const *queries, const uint32_t *keys, int64_t width, int64_t size,
                    float scale, float *shift)
{
    for (int i = 0; i < QUERIES; i++)
        shift[i] = -INFINITY;
    for (int64_t k = 0; k < size; k += KEYS) {
        __m512 sums[QUERIES][2];
        score(queries, keys + k * (width / 2), width, sums);
        __mmask32 inside = size - k >= KEYS ? ~0u : (1u << (size - k)) - 1;
        for (int i = 0; i < QUERIES; i++) {
            float low = _mm512_mask_reduce_max_ps(inside & 0xffff, sums[i][0]);
            float high = inside >> 16 ? _mm512_mask_reduce_max_ps(inside >> 16, sums[i][1]) : low;
            float both = (low > high ? low : high) * scale;
            shift[i] = both > shift[i] ? both : shift[i];
        }
    }
}

/* Attention of QUERIES queries over all keys of one head. */
static void attend(const bf16 *const *queries, const uint32_t *keys, const bf16 *values,
                   int64_t width, int64_t size, float scale, int safe, float *mixed, float *total)
{
    bf16 weights[QUERIES * CHUNK] __attribute__((aligned(64)));
    float shift[QUERIES] = {0};
    __m512 totals[QUERIES];
    if (!safe)
        largest(queries, keys, width, size, scale, shift);
    for (int i = 0; i < QUERIES; i++)
        totals[i] = _mm512_setzero_ps();
    memset(mixed, 0, sizeof(float) * QUERIES * width);
    for (int64_t first = 0; first < size; first += CHUNK) {
        int64_t count = size - first < CHUNK ? (size - first + KEYS - 1) / KEYS * KEYS : CHUNK;
        for (int64_t k = 0; k < count; k += KEYS) {
            __m512 sums[QUERIES][2];
            score(queries, keys + (first + k) * (width / 2), width, sums);
            int64_t left = size - first - k;
            __mmask32 inside = left >= KEYS ? ~0u : (1u << left) - 1;
            UNROLL
            for (int i = 0; i < QUERIES; i++) {
                __m512 by = _mm512_set1_ps(scale), less = _mm512_set1_ps(shift[i]);
                __m512 low = exp2_of(_mm512_fmsub_ps(sums[i][0], by, less));
                __m512 high = exp2_of(_mm512_fmsub_ps(sums[i][1], by, less));
                low = _mm512_maskz_mov_ps(inside & 0xffff, low);
                high = _mm512_maskz_mov_ps(inside >> 16, high);
                totals[i] = _mm512_add_ps(totals[i], _mm512_add_ps(low, high));
                __m512bh both = _mm512_cvtne2ps_pbh(high, low);
                _mm512_storeu_si512(weights + i * CHUNK + k, (__m512i)both);
            }
        }
        mix(weights, values + first * width, width, count, mixed);
    }
    for (int i = 0; i < QUERIES; i++)
        total[i] = _mm512_reduce_add_ps(totals[i]);
}

INLINE float as_float(bf16 value)
{
    uint32_t bits = (uint32_t)value << 16;
    float made;
    memcpy(&made, &bits, 4);
    return made;
}

/* The largest norm of `size` vectors. */
static float largest_norm(const bf16 *from, int64_t stride, int64_t width, int64_t size)
{
    float most = 0;
    for (int64_t k = 0; k < size; k++) {
        float sum = 0;
        for (int64_t c = 0; c < width; c++)
            sum += as_float(from[k * stride + c]) * as_float(from[k * stride + c]);
        most = sum > most || sum != sum ? sum : most;
    }
    return sqrtf(most);
}

INLINE int64_t padded(int64_t frames) { return (frames + CHUNK - 1) / CHUNK * CHUNK; }

int gsv_supported(void) { return 1; }

/* Bytes of scratch memory that one thread needs. */
int64_t gsv_scratch(const Attention *all) { return 2 * sizeof(bf16) * padded(all->frames) * all->width; }

/* made is [rows, frames, heads, width], contiguous; zero beyond a row's length. Returns 0, or 1 for
 * a width that this can't do. */
int gsv_attend(const Attention *all, const bf16 *query, const bf16 *key, const bf16 *value,
               bf16 *made, char *scratch)
{
    int64_t width = all->width, heads = all->heads, frames = all->frames;
    if (width % 32 || width > MAX_WIDTH)
        return 1;
    float scale = LOG2_E / sqrtf((float)width);
    /* With more threads than heads, several share a head, and each packs it for itself. */
    int64_t parts = (all->threads + all->rows * heads - 1) / (all->rows * heads);
#pragma omp parallel for schedule(dynamic, 1) collapse(3) num_threads((int)all->threads)
    for (int64_t row = 0; row < all->rows; row++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t part = 0; part < parts; part++) {
                int64_t size = all->lengths ? all->lengths[row] : frames;
                int64_t offset = row * all->row_stride + head * all->head_stride;
                uint32_t *keys = (uint32_t *)(scratch + omp_get_thread_num() * gsv_scratch(all));
                bf16 *values = (bf16 *)(keys + padded(frames) * width / 2);
                bf16 *to = made + row * frames * heads * width + head * width;
                pack(all, key + offset, value + offset, size, keys, values);
                float limit = scale * largest_norm(query + offset, all->frame_stride, width, size)
                              * largest_norm(key + offset, all->frame_stride, width, size);
                int64_t blocks = (size + QUERIES - 1) / QUERIES;
                for (int64_t index = part; index < blocks; index += parts) {
                    const bf16 *queries[QUERIES];
                    float mixed[QUERIES * MAX_WIDTH], total[QUERIES];
                    int64_t first = index * QUERIES;
                    for (int i = 0; i < QUERIES; i++) {
                        int64_t own = first + i < size ? first + i : size - 1;
                        queries[i] = query + offset + own * all->frame_stride;
                    }
                    attend(queries, keys, values, width, size, scale, limit < SAFE_EXPONENT, mixed,
                           total);
                    for (int64_t i = 0; i < QUERIES && first + i < size; i++)
                        for (int64_t c = 0; c < width; c += 16) {
                            __m512 sum = _mm512_loadu_ps(mixed + i * width + c);
                            sum = _mm512_div_ps(sum, _mm512_set1_ps(total[i]));
                            _mm256_storeu_si256((void *)(to + (first + i) * heads * width + c),
                                                (__m256i)_mm512_cvtneps_pbh(sum));
                        }
                }
                for (int64_t frame = size; part == 0 && frame < frames; frame++)
                    memset(to + frame * heads * width, 0, sizeof(bf16) * width);
            }
    return 0;
}

#else

int gsv_supported(void) { return 0; }

#endif
