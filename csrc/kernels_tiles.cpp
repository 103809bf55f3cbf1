// The tile code of kernels_amx.cpp on tiles in plain memory: slow, and there so that it is tested on every processor.
#include "kernels.hpp"

#pragma GCC diagnostic ignored "-Wpsabi"  // nothing with such vectors leaves this file

#define NAME tiles
#define LANES 16  // the compiler makes do with shorter ones
#define DEPTH 32

namespace pk {
namespace NAME {
namespace {

struct Tiles {
  static thread_local float sums[4][16][16];
  static thread_local uint16_t pairs[8][16][32];
  template <int T>
  void zero() const {
    __builtin_memset(sums[T], 0, sizeof sums[T]);
  }
  template <int T>
  void load(const void *from, int64_t row_bytes) const {
    char *to = T < 4 ? reinterpret_cast<char *>(sums[T % 4]) : reinterpret_cast<char *>(pairs[T]);
    for (int r = 0; r < 16; ++r) __builtin_memcpy(to + 64 * r, static_cast<const char *>(from) + r * row_bytes, 64);
  }
  template <int T>
  void store(void *to, int64_t row_bytes) const {
    for (int r = 0; r < 16; ++r) __builtin_memcpy(static_cast<char *>(to) + r * row_bytes, sums[T][r], 64);
  }
  template <int C, int A, int B>
  void dot() const {
    for (int r = 0; r < 16; ++r)
      for (int k = 0; k < 32; ++k)
        for (int v = 0; v < 16; ++v) sums[C][r][v] += number(pairs[A][r][k]) * number(pairs[B][k / 2][2 * v + k % 2]);
  }
  static float number(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
  }
};
thread_local float Tiles::sums[4][16][16];
thread_local uint16_t Tiles::pairs[8][16][32];

#include "tiles.inl"

}  // namespace
}  // namespace NAME
}  // namespace pk

#include "attention_pairs.inl"

PK_PAIRS_TABLE(tiles_kernels, "tiles", portable_kernels)
