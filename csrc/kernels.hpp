// What an instruction set provides. Each kernels_*.cpp fills in one table from attention.inl.
#pragma once

#include "include/personalizer_kernels.h"

namespace pk {

struct Forward {
  const pk_attention *shape;
  pk_array query, key, value, out;
  float *columns;  // [batch, heads, tracked, queries]
};

struct Backward {
  const pk_attention *shape;
  pk_array query, key, value, grad_out;
  const float *grad_maps;  // [batch, tracked, queries] or null
  pk_array grad_query, grad_key, grad_value;
};

struct LongBackward {
  const pk_attention *shape;
  pk_array query, key, value, out;
  const float *logsums;  // [batch, heads, queries]
  pk_array grad_out, grad_query, grad_key, grad_value;
};

struct Kernels {
  const char *name;
  // Floats of scratch memory that one head needs, forward and backward.
  int64_t (*forward_scratch)(const pk_attention &shape);
  int64_t (*backward_scratch)(const pk_attention &shape);
  // One head of one row of the batch.
  void (*forward_head)(const Forward &work, int64_t row, int64_t head, float *scratch);
  void (*backward_head)(const Backward &work, int64_t row, int64_t head, float *scratch);
  // The gradient over many keys in bfloat16, or null.
  int64_t (*long_scratch)(const pk_attention &shape);
  void (*long_backward_head)(const LongBackward &work, int64_t row, int64_t head, float *scratch);
};

extern const Kernels portable_kernels;
extern const Kernels tiles_kernels;
#if defined(PK_X86)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512_bf16_kernels;
extern const Kernels amx_kernels;
#endif

// The instruction sets that this processor and this build have, best first.
const Kernels *const *usable_kernels(int *count);

}  // namespace pk
