// AVX-512 with its dot product of bfloat16 pairs.
#if defined(PK_X86)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#include <immintrin.h>

#include "kernels.hpp"

#define NAME avx512_bf16
#define LANES 16
#define DEPTH 2
#define LEFT_BY_PAIRS
#define HARDWARE_ROUNDING

namespace pk {
namespace NAME {
namespace {

typedef int32_t Pair __attribute__((aligned(2), may_alias));
constexpr int ROWS = 5, COLUMNS = 5;  // 25 sums, 5 of the right side and 1 of the left: 31 of 32 registers

#include "ahead.inl"

struct Products {
  Ahead ahead;

  // c[R, 16 C] (+)= a b, the pair of row r and step k of a at word a[r * a_row + k * a_step].
  template <int R, int C>
  static inline void block(const Pair *a, int64_t a_row, int64_t a_step, const uint16_t *b, int64_t b_row, float *c,
                           int64_t c_row, int64_t depth, bool accumulate) {
    __m512 sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v)
        sums[r][v] = accumulate ? _mm512_loadu_ps(c + r * c_row + 16 * v) : _mm512_setzero_ps();
    for (int64_t step = 0; step < depth / 2; ++step) {
      __m512i right[C];
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) right[v] = _mm512_loadu_si512(b + (step * b_row + 16 * v) * 2);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512bh left = (__m512bh)_mm512_set1_epi32(a[r * a_row + step * a_step]);
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
  inline void panel(const Pair *a, int64_t a_row, int64_t a_step, const uint16_t *b, int64_t b_row, float *c,
                    int64_t c_row, int64_t rows, int64_t depth, bool accumulate) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) {
      ahead.ask();
      block<ROWS, C>(a + r * a_row, a_row, a_step, b, b_row, c + r * c_row, c_row, depth, accumulate);
    }
    a += r * a_row, c += r * c_row;
    switch (rows - r) {
      case 4: return block<4, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
      case 3: return block<3, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
      case 2: return block<2, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
      case 1: return block<1, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
    }
  }

  void product(const Pair *a, int64_t a_row, int64_t a_step, const uint16_t *b, int64_t b_row, float *c,
               int64_t c_row, int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
    int64_t at = 0;
    for (; at + 16 * COLUMNS <= columns; at += 16 * COLUMNS)
      panel<COLUMNS>(a, a_row, a_step, b + 2 * at, b_row, c + at, c_row, rows, depth, accumulate);
    for (; at + 32 <= columns; at += 32)
      panel<2>(a, a_row, a_step, b + 2 * at, b_row, c + at, c_row, rows, depth, accumulate);
    for (; at < columns; at += 16)
      panel<1>(a, a_row, a_step, b + 2 * at, b_row, c + at, c_row, rows, depth, accumulate);
  }

  void operator()(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
                  int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
    // Rows an odd number of values apart: every other one starts inside a word, so one row at a time.
    if (a_row % 2 == 0)
      product(words(a), a_row / 2, 1, b, b_row, c, c_row, rows, columns, depth, accumulate);
    else
      for (int64_t r = 0; r < rows; ++r)
        product(words(a + r * a_row), 0, 1, b, b_row, c + r * c_row, c_row, 1, columns, depth, accumulate);
  }

  void turned(const uint16_t *a, const uint16_t *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
              int64_t columns, int64_t depth, bool accumulate) {
    product(words(a), 1, rows, b, b_row, c, c_row, rows, columns, depth, accumulate);
  }

 private:
  static const Pair *words(const uint16_t *a) { return reinterpret_cast<const Pair *>(a); }
};

}  // namespace
}  // namespace NAME
}  // namespace pk

#include "attention_pairs.inl"

PK_PAIRS_TABLE(avx512_bf16_kernels, "avx512_bf16", avx512_kernels)
#endif
