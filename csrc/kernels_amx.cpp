// Advanced Matrix Extensions: tiles of 16 rows by 32 bfloat16 values. What lies between products is AVX-512.
#if defined(PK_X86)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,amx-tile,amx-bf16")
#include <immintrin.h>

#include "kernels.hpp"

#define NAME amx
#define LANES 16
#define DEPTH 32
#define HARDWARE_ROUNDING

namespace pk {
namespace NAME {
namespace {

// GCC's tile intrinsics paste their tile numbers into assembly, so only literals will do.
#define FOR_TILE(CALL)               \
  if constexpr (T == 0) CALL(0);     \
  else if constexpr (T == 1) CALL(1); \
  else if constexpr (T == 2) CALL(2); \
  else if constexpr (T == 3) CALL(3); \
  else if constexpr (T == 4) CALL(4); \
  else if constexpr (T == 5) CALL(5); \
  else if constexpr (T == 6) CALL(6); \
  else CALL(7)

struct Tiles {
  Tiles() {
    // Constant: the compiler is told of the first bytes of it alone, and might leave out writing the others.
    alignas(64) static constexpr struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
  template <int T>
  void zero() const {
#define CALL(N) _tile_zero(N)
    FOR_TILE(CALL);
#undef CALL
  }
  template <int T>
  void load(const void *from, int64_t row_bytes) const {
    asm volatile("" ::: "memory");  // the compiler is not told that tiles are read from memory: all must be there now
#define CALL(N) _tile_loadd(N, from, row_bytes)
    FOR_TILE(CALL);
#undef CALL
  }
  template <int T>
  void store(void *to, int64_t row_bytes) const {
#define CALL(N) _tile_stored(N, to, row_bytes)
    FOR_TILE(CALL);
#undef CALL
  }
  template <int C, int A, int B>
  void dot() const {
    static_assert(A == 4 + C / 2 && B == 6 + C % 2, "the sums are a grid of two by two");
    if constexpr (C == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (C == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (C == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (C == 3) _tile_dpbf16ps(3, 5, 7);
  }
};

#include "tiles.inl"

}  // namespace
}  // namespace NAME
}  // namespace pk

#include "attention_pairs.inl"

PK_PAIRS_TABLE(amx_kernels, "amx", avx512_kernels)
#endif
