/* One decoding step of the semantic GPT on a CPU: tokens in, logits out.
 *
 * The same arithmetic as gsv/models/gpt.py:SemanticGPT.decode, in one call instead of some three
 * hundred: at batch 1 a step should take as long as reading the weights once. Weights and cache are
 * read where PyTorch keeps them. Weights are float32, bfloat16, or int8 with a scale for each
 * output; whatever they are, everything else is float32.
 *
 * A row's numbers never depend on how many other rows there are: each dot product is summed in one
 * order, however rows and outputs are tiled. So a sentence decodes bit by bit the same alone and in
 * company.
 *
 * Written with GCC's vector extensions, which clang knows too: sixteen lanes are one AVX-512
 * register, two of AVX2, four of NEON.
 */

#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4") /* keeps arrays of registers in registers */
#define LANES 16
#define HEADS 4 /* heads attended by one thread in one go */
/* Weights and cache come from memory, which answers late: ask for them so many bytes and positions
 * before they are needed. Measured; asking beyond the end of an array does no harm. */
#define AHEAD 16384
#define POSITIONS_AHEAD 16

typedef float v16 __attribute__((vector_size(64)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef int8_t b16 __attribute__((vector_size(16)));

enum type { FLOAT32, BFLOAT16, INT8 };

typedef struct {
    const void *weight;  /* [outputs, inputs] */
    const float *scale;  /* [outputs], int8 only */
    const float *bias;   /* [outputs], or null */
} Linear;

typedef struct {
    Linear qkv, output, expand, contract;
    const float *attention_norm[2], *feed_forward_norm[2]; /* weight, bias */
} Layer;

typedef struct {
    int64_t layers, width, heads, vocabulary, weight_type, cache_type, threads;
    const Layer *layer;
    Linear head;
    const float *embedding; /* [vocabulary, width] */
    const float *positions; /* [steps, width], already times alpha */
    int64_t steps;
    char *cache;            /* [slots, 2 layers, positions, width] */
    int64_t row_stride, plane_stride; /* elements from row to row, from plane to plane */
} Model;

/* ---- numbers ---- */

#ifdef __AVX512F__ /* one instruction each, which GCC 12 doesn't find by itself */
#define widen(half) ((u16)_mm512_cvtepu16_epi32((__m256i)(half)))
#define widen_signed(bytes) ((i16)_mm512_cvtepi8_epi32((__m128i)(bytes)))
#else
#define widen(half) __builtin_convertvector(half, u16)
#define widen_signed(bytes) __builtin_convertvector(bytes, i16)
#endif

INLINE const char *address(const void *base, int64_t index, enum type type)
{
    return (const char *)base + index * (type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1);
}

INLINE v16 load(const void *base, int64_t index, enum type type)
{
    v16 out;
    if (type == FLOAT32) {
        memcpy(&out, (const float *)base + index, sizeof out);
    } else if (type == BFLOAT16) {
        h16 half;
        memcpy(&half, (const uint16_t *)base + index, sizeof half);
        u16 bits = widen(half) << 16;
        memcpy(&out, &bits, sizeof out);
    } else {
        b16 bytes;
        memcpy(&bytes, (const int8_t *)base + index, sizeof bytes);
        out = __builtin_convertvector(widen_signed(bytes), v16);
    }
    return out;
}

/* Round to nearest even, as PyTorch does. */
INLINE void store(void *base, int64_t index, v16 value, enum type type)
{
    if (type == FLOAT32) {
        memcpy((float *)base + index, &value, sizeof value);
    } else {
        u16 bits;
        memcpy(&bits, &value, sizeof bits);
        bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        h16 half = __builtin_convertvector(bits, h16);
        memcpy((uint16_t *)base + index, &half, sizeof half);
    }
}

INLINE v4 quarter(v16 value)
{
    v4 part[4];
    memcpy(part, &value, sizeof part);
    return (part[0] + part[1]) + (part[2] + part[3]);
}

INLINE float sum(v16 value)
{
    v4 part = quarter(value);
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* exp for x <= 0: 2^n times a polynomial of the rest (Cephes), error about 2e-7 of the value. */
INLINE v16 exponential(v16 x)
{
    i16 in_range = x > -87.0f; /* all bits or none; below, exp(-87) stands for nothing */
    i16 clipped;
    memcpy(&clipped, &x, sizeof x);
    v16 lowest = (v16){0} - 87.0f;
    i16 floor_bits;
    memcpy(&floor_bits, &lowest, sizeof lowest);
    clipped = (clipped & in_range) | (floor_bits & ~in_range);
    memcpy(&x, &clipped, sizeof x);
    i16 n = __builtin_convertvector(x * 1.44269504f - 0.5f, i16); /* x <= 0: rounds to nearest */
    v16 k = __builtin_convertvector(n, v16);
    x = x - k * 0.693359375f + k * 2.12194440e-4f;
    v16 p = x * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    i16 bits = (n + 127) << 23;
    v16 power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* ---- threads ---- */

typedef struct {
    atomic_int arrived, passed;
} Barrier;

/* Wait for all threads. A step has some 120 of these, a few microseconds apart, so waiting begins
 * with a short spin; if another thread has lost its processor to somebody else, spinning on would
 * only keep that processor from it. */
static void wait_for_all(Barrier *barrier, int threads)
{
    int round = atomic_load(&barrier->passed);
    if (atomic_fetch_add(&barrier->arrived, 1) == threads - 1) {
        atomic_store(&barrier->arrived, 0);
        atomic_store(&barrier->passed, round + 1);
        return;
    }
    for (int spins = 0; atomic_load(&barrier->passed) == round; spins++) {
        if (spins < 2000)
            PAUSE();
        else
            sched_yield();
    }
}

/* ---- parts of a layer ---- */

/* OUTPUTS x ROWS dot products; each is summed lane by lane along the inputs. */
INLINE void tile(const Linear *linear, enum type type, int64_t inputs, const float *x, float *y,
                 int64_t outputs, int64_t o, int tall, int wide, int relu)
{
    v16 total[4][4];
    UNROLL for (int a = 0; a < tall; a++)
        UNROLL for (int b = 0; b < wide; b++)
            total[a][b] = (v16){0};
    int line = 64 / (type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1); /* inputs in a cache line */
    for (int64_t start = 0; start < inputs; start += line) {
        UNROLL for (int a = 0; a < tall; a++)
            __builtin_prefetch(address(linear->weight, (o + a) * inputs + start, type) + AHEAD);
        UNROLL for (int64_t i = start; i < start + line; i += LANES) {
            v16 weight[4];
            UNROLL for (int a = 0; a < tall; a++)
                weight[a] = load(linear->weight, (o + a) * inputs + i, type);
            UNROLL for (int b = 0; b < wide; b++) {
                v16 value = load(x, b * inputs + i, FLOAT32);
                UNROLL for (int a = 0; a < tall; a++)
                    total[a][b] += weight[a] * value;
            }
        }
    }
    UNROLL for (int a = 0; a < tall; a++) {
        UNROLL for (int b = 0; b < wide; b++) {
            float out = sum(total[a][b]);
            if (type == INT8)
                out *= linear->scale[o + a];
            if (linear->bias)
                out += linear->bias[o + a];
            y[b * outputs + o + a] = relu && out < 0 ? 0 : out;
        }
    }
}

INLINE void tiles(const Linear *linear, enum type type, int64_t inputs, const float *x, float *y,
                  int64_t outputs, int64_t o, int tall, int64_t rows, int relu)
{
    int64_t b = 0;
    for (; b + 4 <= rows; b += 4)
        tile(linear, type, inputs, x + b * inputs, y + b * outputs, outputs, o, tall, 4, relu);
    x += b * inputs;
    y += b * outputs;
    if (rows - b == 3)
        tile(linear, type, inputs, x, y, outputs, o, tall, 3, relu);
    else if (rows - b == 2)
        tile(linear, type, inputs, x, y, outputs, o, tall, 2, relu);
    else if (rows - b == 1)
        tile(linear, type, inputs, x, y, outputs, o, tall, 1, relu);
}

INLINE void typed_linear(const Linear *linear, enum type type, int64_t inputs, const float *x,
                         float *y, int64_t outputs, int64_t from, int64_t to, int64_t rows,
                         int relu)
{
    int64_t o = from;
    for (; o + 4 <= to; o += 4)
        tiles(linear, type, inputs, x, y, outputs, o, 4, rows, relu);
    for (; o < to; o++)
        tiles(linear, type, inputs, x, y, outputs, o, 1, rows, relu);
}

/* This thread's share of y[rows, outputs] = x[rows, inputs] W' + bias. */
static void linear(const Linear *linear, int64_t type, int64_t inputs, const float *x, float *y,
                   int64_t outputs, int64_t rows, int relu)
{
    int64_t blocks = (outputs + 3) / 4, me = omp_get_thread_num(), all = omp_get_num_threads();
    int64_t from = blocks * me / all * 4, to = blocks * (me + 1) / all * 4;
    to = to < outputs ? to : outputs;
    if (type == FLOAT32)
        typed_linear(linear, FLOAT32, inputs, x, y, outputs, from, to, rows, relu);
    else if (type == BFLOAT16)
        typed_linear(linear, BFLOAT16, inputs, x, y, outputs, from, to, rows, relu);
    else
        typed_linear(linear, INT8, inputs, x, y, outputs, from, to, rows, relu);
}

/* x = norm(x + delta), eps 1e-5. */
static void add_and_norm(float *x, const float *delta, const float *const norm[2], int64_t rows,
                         int64_t width)
{
    for (int64_t row = 0; row < rows; row++, x += width, delta += width) {
        v16 total = {0}, squares = {0};
        for (int64_t i = 0; i < width; i += LANES) {
            v16 value = load(x, i, FLOAT32) + load(delta, i, FLOAT32);
            store(x, i, value, FLOAT32);
            total += value;
        }
        float mean = sum(total) / width;
        for (int64_t i = 0; i < width; i += LANES) {
            v16 value = load(x, i, FLOAT32) - mean;
            squares += value * value;
        }
        float scale = 1.0f / sqrtf(sum(squares) / width + 1e-5f);
        for (int64_t i = 0; i < width; i += LANES) {
            v16 value = (load(x, i, FLOAT32) - mean) * scale;
            value = value * load(norm[0], i, FLOAT32) + load(norm[1], i, FLOAT32);
            store(x, i, value, FLOAT32);
        }
    }
}

/* HEADS heads of one row over `length` positions; q, out: the first of these heads.
 * parts: registers that a head takes. scores: room for HEADS x (length + LANES). */
INLINE void attend(enum type type, int parts, const float *q, const char *keys, const char *values,
                   int64_t length, int64_t width, float *scores, float *out)
{
    int64_t span = (length + LANES - 1) / LANES * LANES;
    float scale = 1.0f / sqrtf((float)(parts * LANES));
    v16 query[HEADS][4], mixed[HEADS][4] = {{{0}}};
    float total[HEADS];
    UNROLL for (int h = 0; h < HEADS; h++)
        UNROLL for (int p = 0; p < parts; p++)
            query[h][p] = load(q, (h * parts + p) * LANES, FLOAT32) * scale;
    for (int64_t s = 0; s < length; s++) {
        UNROLL for (int h = 0; h < HEADS; h++) {
            int64_t head = h * parts * LANES;
            __builtin_prefetch(address(keys, (s + POSITIONS_AHEAD) * width + head, type));
            v16 dot = {0};
            UNROLL for (int p = 0; p < parts; p++)
                dot += query[h][p] * load(keys, s * width + head + p * LANES, type);
            scores[h * span + s] = sum(dot);
        }
    }
    for (int h = 0; h < HEADS; h++) {
        float *row = scores + h * span, highest = row[0];
        for (int64_t s = length; s < span; s++)
            row[s] = -INFINITY;
        for (int64_t s = 1; s < length; s++)
            highest = row[s] > highest ? row[s] : highest;
        v16 sums = {0};
        for (int64_t s = 0; s < span; s += LANES) {
            v16 weight = exponential(load(row, s, FLOAT32) - highest);
            store(row, s, weight, FLOAT32);
            sums += weight;
        }
        total[h] = sum(sums);
    }
    for (int64_t s = 0; s < length; s++) {
        UNROLL for (int h = 0; h < HEADS; h++) {
            int64_t head = h * parts * LANES;
            __builtin_prefetch(address(values, (s + POSITIONS_AHEAD) * width + head, type));
            float share = scores[h * span + s];
            UNROLL for (int p = 0; p < parts; p++)
                mixed[h][p] += share * load(values, s * width + head + p * LANES, type);
        }
    }
    UNROLL for (int h = 0; h < HEADS; h++)
        UNROLL for (int p = 0; p < parts; p++)
            store(out, (h * parts + p) * LANES, mixed[h][p] / total[h], FLOAT32);
}

INLINE void typed_attention(const Model *model, enum type type, int parts, int64_t layer,
                            int64_t rows, const int64_t *positions, const float *qkv, float *out,
                            float *scores)
{
    int64_t width = model->width, step = HEADS * parts * LANES, groups = width / step;
    int64_t size = type == FLOAT32 ? 4 : 2;
#pragma omp for schedule(dynamic, 1) collapse(2) nowait
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t group = 0; group < groups; group++) {
            const float *q = qkv + row * 3 * width + group * step;
            int64_t plane = row * model->row_stride + 2 * layer * model->plane_stride;
            char *keys = model->cache + (plane + group * step) * size;
            char *values = keys + model->plane_stride * size;
            for (int64_t i = 0; i < step; i += LANES) {
                store(keys, positions[row] * width + i, load(q, width + i, FLOAT32), type);
                store(values, positions[row] * width + i, load(q, 2 * width + i, FLOAT32), type);
            }
            attend(type, parts, q, keys, values, positions[row] + 1, width, scores,
                   out + row * width + group * step);
        }
    }
}

/* This thread's share of the rows' heads; writes the new key and value first. */
static void attention(const Model *model, int64_t layer, int64_t rows, const int64_t *positions,
                      const float *qkv, float *out, float *scores)
{
    int64_t parts = model->width / model->heads / LANES;
    if (model->cache_type == FLOAT32) {
        if (parts == 1)
            typed_attention(model, FLOAT32, 1, layer, rows, positions, qkv, out, scores);
        else if (parts == 2)
            typed_attention(model, FLOAT32, 2, layer, rows, positions, qkv, out, scores);
        else
            typed_attention(model, FLOAT32, 4, layer, rows, positions, qkv, out, scores);
    } else {
        if (parts == 1)
            typed_attention(model, BFLOAT16, 1, layer, rows, positions, qkv, out, scores);
        else if (parts == 2)
            typed_attention(model, BFLOAT16, 2, layer, rows, positions, qkv, out, scores);
        else
            typed_attention(model, BFLOAT16, 4, layer, rows, positions, qkv, out, scores);
    }
}

/* ---- the step ---- */

/* Floats of scratch that a step needs. */
int64_t gsv_scratch(const Model *model, int64_t rows, int64_t length)
{
    return rows * model->width * (3 + 1 + 1 + 4)
           + model->threads * (rows * model->width + HEADS * (length + LANES));
}

/* tokens, positions, text_lengths: [rows]; logits: [rows, vocabulary]; every position < length.
 * Returns 0, or -1 before anything is written when a number leads out of a table. */
int gsv_decode(const Model *model, int64_t rows, int64_t length, const int64_t *tokens,
               const int64_t *positions, const int64_t *text_lengths, float *scratch,
               float *logits)
{
    for (int64_t row = 0; row < rows; row++) {
        int64_t step = positions[row] - text_lengths[row];
        if (tokens[row] < 0 || tokens[row] >= model->vocabulary || positions[row] < 0
            || positions[row] >= length || step < 0 || step >= model->steps)
            return -1;
    }
    int64_t width = model->width, type = model->weight_type;
    float *qkv = scratch, *attended = qkv + rows * 3 * width, *delta = attended + rows * width;
    float *hidden = delta + rows * width, *own = hidden + rows * 4 * width;
    Barrier barrier = {0, 0};
#pragma omp parallel num_threads((int)model->threads)
    {
        int threads = omp_get_num_threads();
        /* Each thread has its own residual stream: norms are cheaper repeated than waited for. */
        float *x = own + omp_get_thread_num() * (rows * width + HEADS * (length + LANES));
        float *scores = x + rows * width;
        for (int64_t row = 0; row < rows; row++) {
            const float *token = model->embedding + tokens[row] * width;
            const float *place = model->positions + (positions[row] - text_lengths[row]) * width;
            for (int64_t i = 0; i < width; i++)
                x[row * width + i] = token[i] + place[i];
        }
        for (int64_t l = 0; l < model->layers; l++) {
            const Layer *layer = model->layer + l;
            linear(&layer->qkv, type, width, x, qkv, 3 * width, rows, 0);
            wait_for_all(&barrier, threads);
            attention(model, l, rows, positions, qkv, attended, scores);
            wait_for_all(&barrier, threads);
            linear(&layer->output, type, width, attended, delta, width, rows, 0);
            wait_for_all(&barrier, threads);
            add_and_norm(x, delta, layer->attention_norm, rows, width);
            linear(&layer->expand, type, width, x, hidden, 4 * width, rows, 1);
            wait_for_all(&barrier, threads);
            linear(&layer->contract, type, 4 * width, hidden, delta, width, rows, 0);
            wait_for_all(&barrier, threads);
            add_and_norm(x, delta, layer->feed_forward_norm, rows, width);
        }
        linear(&model->head, type, width, x, logits, model->vocabulary, rows, 0);
    }
    return 0;
}
