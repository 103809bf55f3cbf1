#if defined(PK_X86)
#pragma GCC target("avx2,fma")
#define NAME avx2
#define LANES 8
#define ROWS 4
#define COLUMNS 3  // 12 sums, 3 of the right side and 1 of the left: all 16 registers
#include "attention.inl"

namespace pk {
const Kernels avx2_kernels = {"avx2", avx2::forward_scratch, avx2::backward_scratch, avx2::forward_head,
                              avx2::backward_head};
}
#endif
