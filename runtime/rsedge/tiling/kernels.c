/* The loops that numpy is too slow for; see kernels.py. Built with -ffp-contract=off and without fast-math, so
   that they add and multiply the same float32 numbers in the same order as the numpy code beside their callers. */

#include <stddef.h>
#include <stdint.h>

enum {
    MOST_WIDTH = 8192, /* as in blend.py */
    CHUNK = 32         /* pixels whose best class so far stays in registers */
};

#define INLINE static inline __attribute__((always_inline))

/* Part of a row of a tile: the same pixels of every class, `stride` numbers apart. */
struct scores {
    const float *at;
    int64_t stride, classes;
};

/* Bits of a float without its sign: from 0x7F800000 on, infinities and NaN. */
INLINE int32_t magnitude(float value)
{
    union { float value; int32_t bits; } pun = { .value = value };
    return pun.bits & 0x7FFFFFFF;
}

/* Class of the highest sum of `count` pixels, the first among equals. `before` may be NULL. */
INLINE void best_of(struct scores s, const float *weight, const float *before, int64_t before_stride,
                    uint8_t *mask, int count, int32_t *worst)
{
    float best[CHUNK];
    int32_t index[CHUNK], most[CHUNK];
    for (int i = 0; i < count; i++) {
        float sum = s.at[i] * weight[i];
        best[i] = before ? sum + before[i] : sum;
        index[i] = 0;
        most[i] = magnitude(s.at[i]);
    }
    for (int64_t k = 1; k < s.classes; k++) {
        const float *at = s.at + k * s.stride, *old = before ? before + k * before_stride : NULL;
        for (int i = 0; i < count; i++) {
            float sum = at[i] * weight[i];
            sum = before ? sum + old[i] : sum;
            int higher = sum > best[i];
            index[i] = higher ? (int32_t)k : index[i];
            best[i] = higher ? sum : best[i];
            int32_t size = magnitude(at[i]);
            most[i] = size > most[i] ? size : most[i];
        }
    }
    for (int i = 0; i < count; i++) {
        mask[i] = (uint8_t)index[i];
        worst[i] = most[i] > worst[i] ? most[i] : worst[i];
    }
}

static void classify(struct scores s, const float *weight, const float *before, int64_t before_stride,
                     uint8_t *mask, int64_t count, int32_t *worst)
{
    int64_t x = 0;
    for (; x + CHUNK <= count; x += CHUNK) {
        struct scores here = { s.at + x, s.stride, s.classes };
        if (before)
            best_of(here, weight + x, before + x, before_stride, mask + x, CHUNK, worst);
        else
            best_of(here, weight + x, NULL, 0, mask + x, CHUNK, worst);
    }
    if (x < count) {
        struct scores here = { s.at + x, s.stride, s.classes };
        best_of(here, weight + x, before ? before + x : NULL, before_stride, mask + x, (int)(count - x), worst);
    }
}

/* Sums of `count` pixels, kept for the tiles that still add to them. `kept` may be `before` or lie left of it. */
static void carry(struct scores s, const float *weight, const float *before, int64_t before_stride, float *kept,
                  int64_t kept_stride, int64_t count, int32_t *worst)
{
    for (int64_t k = 0; k < s.classes; k++) {
        const float *at = s.at + k * s.stride, *old = before ? before + k * before_stride : NULL;
        float *to = kept + k * kept_stride;
        int32_t most = 0;
        for (int64_t x = 0; x < count; x++) {
            int32_t size = magnitude(at[x]);
            most = size > most ? size : most;
        }
        worst[0] = most > worst[0] ? most : worst[0];
        if (old)
            for (int64_t x = 0; x < count; x++)
                to[x] = at[x] * weight[x] + old[x];
        else
            for (int64_t x = 0; x < count; x++)
                to[x] = at[x] * weight[x];
    }
}

/* blend.RollingBand._add in one pass over the tile. scores (classes, tile, tile); rows (capacity, classes,
   across), a ring; left (height, classes, left_width); mask (done, across). Returns whether every score was
   finite. A row falls into at most three pieces: pixels that have sums from the left (x < prior), and pixels that
   a tile to the right adds to (x >= ready). */
int rsedge_add_tile(const float *scores, const float *down, const float *across_weights, float *rows,
                    float *left, uint8_t *mask, int64_t classes, int64_t tile, int64_t height, int64_t width,
                    int64_t across, int64_t capacity, int64_t left_width, int64_t first, int64_t top,
                    int64_t kept, int64_t done, int64_t prior, int64_t ready)
{
    float weight[MOST_WIDTH];
    int32_t worst[CHUNK] = { 0 };
    int64_t low = prior < ready ? prior : ready, high = prior < ready ? ready : prior;
    int64_t ends[3] = { low, high, width };
    for (int64_t y = 0; y < height; y++) {
        float *ring = rows + (top + y) % capacity * classes * across + first;
        float *beside = left + y * classes * left_width;
        for (int64_t x = 0; x < width; x++)
            weight[x] = down[y] * across_weights[x];
        for (int64_t piece = 0, x = 0; piece < 3; x = ends[piece++]) {
            int64_t count = ends[piece] - x;
            if (count <= 0)
                continue;
            struct scores here = { scores + y * tile + x, tile * tile, classes };
            const float *before = x < prior ? beside + x : y < kept ? ring + x : NULL;
            int64_t before_stride = x < prior ? left_width : across;
            if (x >= ready)
                carry(here, weight + x, before, before_stride, beside + x - ready, left_width, count, worst);
            else if (y >= done)
                carry(here, weight + x, before, before_stride, ring + x, across, count, worst);
            else
                classify(here, weight + x, before, before_stride, mask + y * across + first + x, count, worst);
        }
    }
    int32_t most = 0;
    for (int i = 0; i < CHUNK; i++)
        most = worst[i] > most ? worst[i] : most;
    return most < 0x7F800000;
}

/* overviews.halve: of each 2 x 2 pixels the most frequent, of equals the first. fine (2 * height, 2 * width). */
void rsedge_halve(const uint8_t *restrict fine, uint8_t *restrict coarse, int64_t height, int64_t width)
{
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *upper = fine + 4 * y * width, *lower = upper + 2 * width;
        for (int64_t x = 0; x < width; x++) {
            uint8_t a = upper[2 * x], b = upper[2 * x + 1], c = lower[2 * x], d = lower[2 * x + 1];
            uint8_t rest = ((b == c) | (b == d)) ? b : (c == d) ? c : a;
            coarse[y * width + x] = ((a == b) | (a == c) | (a == d)) ? a : rest;
        }
    }
}
