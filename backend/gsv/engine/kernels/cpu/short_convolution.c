/* y = convolution(leaky_relu(x)) + bias (+ residual) over time, for many channels and few taps.
 *
 * A short convolution by minimal filtering (S. Winograd, 1980; A. Lavin and S. Gray, 2015): a tile
 * of inputs is transformed to `points` values, these are multiplied with transformed weights by
 * matrix products over the channels, and transformed back to TILE outputs. With the points used
 * here that is a third of the multiplications of the direct form, and everything stays float32.
 *
 * Taps may be more than one group of a tile's size: the groups of a tile's neighbours are summed.
 * A dilated convolution is that of every dilation-th sample, once for each phase.
 *
 * Values lie as [time, channels]. Written for AVX-512 and for AVX2 with FMA, which has half as many
 * registers of half the width; elsewhere `gsv_supported` says no.
 */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 24") /* keeps arrays of registers in registers */
#ifdef __AVX512F__
#define LANES 16
#define CACHED 6144 /* values of a block at one point: 12 points, before and after the products */
#else
#define LANES 8
#define CACHED 3072
#endif
#define STEP 16       /* channels are a multiple */
#define TILE 6        /* outputs of a tile */
#define MAX_POINTS 12
#define MAX_GROUPS 2
#define ROWS_STEP 24  /* tiles of a block are a multiple: a whole number of every product's rows */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t channels, taps, dilation, points, groups;
    float slope;           /* of the leaky ReLU before the convolution */
    const float *inward;   /* [points, points] */
    const float *outward;  /* [TILE, points] */
    const float *weight;   /* [points, channels / panel, groups, channels, panel] */
    const float *bias;     /* [channels] */
} Convolution;

int gsv_supported(void)
{
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
    return 1;
#else
    return 0;
#endif
}

INLINE vec load(const float *from) { return *(const uvec *)from; }
INLINE void store(float *to, vec values) { *(uvec *)to = values; }
INLINE vec spread(float value) { return value - (vec){}; }
INLINE vec rectified(vec values, float slope)
{
    vec low = values * slope; /* slope is between 0 and 1 */
    ivec above = values > low;
    return (vec)(((ivec)values & above) | ((ivec)low & ~above));
}

/* Outputs that are made at once; the weights are packed in panels of this width. */
INLINE int64_t panel_of(int64_t channels)
{
    if (LANES == 8)
        return 16;
    return channels % 64 == 0 ? 64 : channels % 32 == 0 ? 32 : 16;
}

int64_t gsv_panel(int64_t channels) { return panel_of(channels); }

/* Tiles of a block: its transformed values should stay in the second-level cache. */
INLINE int64_t block_of(int64_t channels)
{
    int64_t tiles = CACHED / channels / ROWS_STEP * ROWS_STEP;
    return tiles < ROWS_STEP ? ROWS_STEP : tiles;
}

/* made[ROWS, VECTORS * LANES] = sum over groups and channels of values[row + group, channel] times
 * weight[group, channel]. Both loops over arrays of registers are unrolled whole. */
INLINE void product(const float *values, const float *weight, float *made, int64_t channels,
                    int64_t groups, const int ROWS, const int VECTORS)
{
    vec sums[24];
    UNROLL
    for (int i = 0; i < ROWS * VECTORS; i++)
        sums[i] = (vec){};
    for (int64_t k = 0; k < groups * channels; k++, weight += VECTORS * LANES) {
        vec own[4];
        UNROLL
        for (int j = 0; j < VECTORS; j++)
            own[j] = load(weight + j * LANES);
        /* Rows follow each other, so the next group's channels are the next row's. */
        UNROLL
        for (int i = 0; i < ROWS; i++)
            UNROLL
            for (int j = 0; j < VECTORS; j++)
                sums[i * VECTORS + j] += values[i * channels + k] * own[j];
    }
    UNROLL
    for (int i = 0; i < ROWS; i++)
        UNROLL
        for (int j = 0; j < VECTORS; j++)
            store(made + i * channels + j * LANES, sums[i * VECTORS + j]);
}

static void products(const Convolution *conv, const float *values, float *made, int64_t tiles)
{
    int64_t channels = conv->channels, groups = conv->groups, panel = panel_of(channels);
    int64_t height = block_of(channels) + MAX_GROUPS;
    const float *weight = conv->weight;
    for (int64_t point = 0; point < conv->points; point++)
        for (int64_t first = 0; first < channels; first += panel) {
            const float *from = values + point * height * channels;
            float *to = made + point * height * channels + first;
            if (LANES == 8)
                for (int64_t row = 0; row < tiles; row += 6)
                    product(from + row * channels, weight, to + row * channels, channels, groups, 6, 2);
            else if (panel == 64)
                for (int64_t row = 0; row < tiles; row += 6)
                    product(from + row * channels, weight, to + row * channels, channels, groups, 6, 4);
            else if (panel == 32)
                for (int64_t row = 0; row < tiles; row += 12)
                    product(from + row * channels, weight, to + row * channels, channels, groups, 12, 2);
            else
                for (int64_t row = 0; row < tiles; row += 24)
                    product(from + row * channels, weight, to + row * channels, channels, groups, 24, 1);
            weight += groups * channels * panel;
        }
}

/* Transform the inputs of `tiles` tiles from `first` on, of one phase. */
INLINE void transform_in(const Convolution *conv, const float *x, int64_t length, int64_t phase,
                         int64_t first, int64_t tiles, float *values, const int POINTS)
{
    int64_t channels = conv->channels, plane = (block_of(channels) + MAX_GROUPS) * channels;
    int64_t reach = (conv->taps - 1) / 2;
    for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            vec inputs[MAX_POINTS];
            UNROLL
            for (int a = 0; a < POINTS; a++) {
                int64_t time = ((first + tile) * TILE + a - reach) * conv->dilation + phase;
                inputs[a] = time < 0 || time >= length
                                ? (vec){}
                                : rectified(load(x + time * channels + channel), conv->slope);
            }
            UNROLL
            for (int p = 0; p < POINTS; p++) {
                vec sum = inputs[0] * conv->inward[p * POINTS];
                UNROLL
                for (int a = 1; a < POINTS; a++)
                    sum += inputs[a] * conv->inward[p * POINTS + a];
                store(values + p * plane + tile * channels + channel, sum);
            }
        }
}

INLINE void transform_out(const Convolution *conv, const float *made, const float *residual,
                          int64_t length, int64_t phase, int64_t first, int64_t tiles, float *y,
                          const int POINTS)
{
    int64_t channels = conv->channels, plane = (block_of(channels) + MAX_GROUPS) * channels;
    for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            vec points[MAX_POINTS], bias = load(conv->bias + channel);
            UNROLL
            for (int p = 0; p < POINTS; p++)
                points[p] = load(made + p * plane + tile * channels + channel);
            UNROLL
            for (int a = 0; a < TILE; a++) {
                int64_t time = ((first + tile) * TILE + a) * conv->dilation + phase;
                if (time >= length)
                    break;
                vec sum = bias;
                if (residual)
                    sum += load(residual + time * channels + channel);
                UNROLL
                for (int p = 0; p < POINTS; p++)
                    sum += points[p] * conv->outward[a * POINTS + p];
                store(y + time * channels + channel, sum);
            }
        }
}

static void block(const Convolution *conv, const float *x, const float *residual, int64_t length,
                  int64_t phase, int64_t first, int64_t tiles, float *scratch, float *y)
{
    float *made = scratch + MAX_POINTS * (block_of(conv->channels) + MAX_GROUPS) * conv->channels;
    int64_t heard = tiles + conv->groups - 1; /* a tile's second group is its neighbour's first */
    switch (conv->points) { /* constants, so that the transforms are unrolled */
    case 8: transform_in(conv, x, length, phase, first, heard, scratch, 8); break;
    case 11: transform_in(conv, x, length, phase, first, heard, scratch, 11); break;
    case 12: transform_in(conv, x, length, phase, first, heard, scratch, 12); break;
    }
    products(conv, scratch, made, tiles);
    switch (conv->points) {
    case 8: transform_out(conv, made, residual, length, phase, first, tiles, y, 8); break;
    case 11: transform_out(conv, made, residual, length, phase, first, tiles, y, 11); break;
    case 12: transform_out(conv, made, residual, length, phase, first, tiles, y, 12); break;
    }
}

/* Floats of scratch memory that one thread needs. */
int64_t gsv_scratch(const Convolution *conv)
{
    return 2 * MAX_POINTS * (block_of(conv->channels) + MAX_GROUPS) * conv->channels;
}

/* x, residual (or null) and y are [length, channels]; scratch is gsv_scratch() for each thread and
 * holds finite numbers. Returns 0, or 1 for a convolution that this can't do. */
int gsv_convolve(const Convolution *conv, const float *x, const float *residual, float *y,
                 int64_t length, float *scratch, int64_t threads)
{
    if (conv->channels % STEP || conv->groups > MAX_GROUPS
        || !(conv->points == 8 || conv->points == 11 || conv->points == 12))
        return 1;
    int64_t size = block_of(conv->channels), own = gsv_scratch(conv);
    int64_t samples = (length + conv->dilation - 1) / conv->dilation; /* of the longest phase */
    int64_t tiles = (samples + TILE - 1) / TILE, blocks = (tiles + size - 1) / size;
#pragma omp parallel for schedule(dynamic, 1) collapse(2) num_threads((int)threads)
    for (int64_t phase = 0; phase < conv->dilation; phase++)
        for (int64_t index = 0; index < blocks; index++) {
            int64_t first = index * size, count = tiles - first < size ? tiles - first : size;
            block(conv, x, residual, length, phase, first, count,
                  scratch + omp_get_thread_num() * own, y);
        }
    return 0;
}
