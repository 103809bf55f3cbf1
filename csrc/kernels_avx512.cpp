#if defined(PK_X86)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#define NAME avx512
#define LANES 16
#define ROWS 5
#define COLUMNS 5  // 25 sums, 5 of the right side and 1 of the left: 31 of 32 registers
#include "attention.inl"

namespace pk {
const Kernels avx512_kernels = {"avx512", avx512::forward_scratch, avx512::backward_scratch, avx512::forward_head,
                                avx512::backward_head};
}
#endif
