/* The loops that numpy is too slow for; see kernels.py. Built with -ffp-contract=off and without fast-math, so
   that they add and multiply the same float32 numbers in the same order as the numpy code beside their callers. */

#include <stdint.h>

enum { MOST_WIDTH = 8192 };

/* blend.RollingBand._add in one pass over the tile, a row at a time, so that sums stay in the first cache.
   scores (classes, tile, tile); rows (capacity, classes, across), a ring; left (height, classes, left_width);
   totals (classes, height, width) or NULL; mask (done, across). Returns whether every score was finite. */
int rsedge_add_tile(const float *restrict scores, const float *restrict down, const float *restrict weights,
                    float *restrict rows, float *restrict left, float *restrict totals, uint8_t *restrict mask,
                    int64_t classes, int64_t tile, int64_t height, int64_t width, int64_t across,
                    int64_t capacity, int64_t left_width, int64_t first, int64_t top, int64_t kept,
                    int64_t done, int64_t prior, int64_t ready)
{
    static _Thread_local float weight[MOST_WIDTH], sums[MOST_WIDTH], best[MOST_WIDTH];
    static _Thread_local int32_t index[MOST_WIDTH];
    int32_t worst = 0;
    for (int64_t y = 0; y < height; y++) {
        float *ring = rows + (top + y) % capacity * classes * across + first;
        for (int64_t x = 0; x < width; x++)
            weight[x] = down[y] * weights[x];
        for (int64_t k = 0; k < classes; k++) {
            const float *source = scores + (k * tile + y) * tile;
            float *carry = left + (y * classes + k) * left_width, *above = ring + k * across;
            for (int64_t x = 0; x < width; x++) {
                union { float value; int32_t bits; } pun = { .value = source[x] };
                int32_t size = pun.bits & 0x7FFFFFFF;
                worst = size > worst ? size : worst;
                sums[x] = source[x] * weight[x];
            }
            for (int64_t x = 0; x < prior; x++)
                sums[x] += carry[x];
            if (y < kept)
                for (int64_t x = prior; x < width; x++)
                    sums[x] += above[x];
            if (y >= done)
                for (int64_t x = 0; x < ready; x++)
                    above[x] = sums[x];
            else if (k == 0)
                for (int64_t x = 0; x < ready; x++) {
                    best[x] = sums[x];
                    index[x] = 0;
                }
            else
                for (int64_t x = 0; x < ready; x++) {
                    int higher = sums[x] > best[x];
                    index[x] = higher ? (int32_t)k : index[x];
                    best[x] = higher ? sums[x] : best[x];
                }
            for (int64_t x = ready; x < width; x++)
                carry[x - ready] = sums[x];
            if (totals)
                for (int64_t x = 0; x < width; x++)
                    totals[(k * height + y) * width + x] = sums[x];
        }
        if (y < done)
            for (int64_t x = 0; x < ready; x++)
                mask[y * across + first + x] = (uint8_t)index[x];
    }
    return worst < 0x7F800000; /* a float's bits, sign off, from here on are infinities and NaN */
}

/* overviews.halve: of each 2 x 2 pixels the most frequent, of equals the first. fine (2 * height, 2 * width). */
void rsedge_halve(const uint8_t *restrict fine, uint8_t *restrict coarse, int64_t height, int64_t width)
{
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *upper = fine + 4 * y * width, *lower = upper + 2 * width;
        for (int64_t x = 0; x < width; x++) {
            uint8_t a = upper[2 * x], b = upper[2 * x + 1], c = lower[2 * x], d = lower[2 * x + 1];
            uint8_t rest = (b == c) | (b == d) ? b : c == d ? c : a;
            coarse[y * width + x] = (a == b) | (a == c) | (a == d) ? a : rest;
        }
    }
}
