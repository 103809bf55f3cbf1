// AVX-512 with its dot product of bfloat16 pairs.
#if defined(PK_X86)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#include <immintrin.h>

#include "kernels.hpp"

#define NAME avx512_bf16
#define LANES 16
#define DEPTH 2

namespace pk {
namespace NAME {
namespace {

constexpr int ROWS = 5, COLUMNS = 5;  // 25 sums, 5 of the right side and 1 of the left: 31 of 32 registers

struct Products {
  template <int R, int C>
  static inline void block(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
                           int64_t depth, bool accumulate) {
    __m512 sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v)
        sums[r][v] = accumulate ? _mm512_loadu_ps(c + r * c_row + 16 * v) : _mm512_setzero_ps();
    for (int64_t step = 0; step < depth; step += 2) {
      __m512i right[C];
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) right[v] = _mm512_loadu_si512(b + (step / 2 * b_row + 16 * v) * 2);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, a + r * a_row + step, sizeof pair);
        const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
        for (int v = 0; v < C; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, (__m512bh)right[v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) _mm512_storeu_ps(c + r * c_row + 16 * v, sums[r][v]);
  }

  template <int C>
  static inline void panel(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
                           int64_t rows, int64_t depth, bool accumulate) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
      block<ROWS, C>(a + r * a_row, a_row, b, b_row, c + r * c_row, c_row, depth, accumulate);
    for (; r < rows; ++r) block<1, C>(a + r * a_row, a_row, b, b_row, c + r * c_row, c_row, depth, accumulate);
  }

  void operator()(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
                  int64_t rows, int64_t columns, int64_t depth, bool accumulate) const {
    int64_t at = 0;
    for (; at + 16 * COLUMNS <= columns; at += 16 * COLUMNS)
      panel<COLUMNS>(a, a_row, b + 2 * at, b_row, c + at, c_row, rows, depth, accumulate);
    for (; at + 32 <= columns; at += 32) panel<2>(a, a_row, b + 2 * at, b_row, c + at, c_row, rows, depth, accumulate);
    for (; at < columns; at += 16) panel<1>(a, a_row, b + 2 * at, b_row, c + at, c_row, rows, depth, accumulate);
  }
};

}  // namespace
}  // namespace NAME
}  // namespace pk

#include "attention_pairs.inl"

PK_PAIRS_TABLE(avx512_bf16_kernels, "avx512_bf16", avx512_kernels)
#endif
