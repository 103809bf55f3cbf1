// Whatever the compiler's baseline is: SSE2 on x86-64, NEON on arm64.
#define NAME portable
#define LANES 4
#define ROWS 4
#define COLUMNS 3
#include "attention.inl"

namespace pk {
const Kernels portable_kernels = {"portable", portable::forward_scratch, portable::backward_scratch,
                                  portable::forward_head, portable::backward_head};
}
