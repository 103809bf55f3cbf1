// A yardstick: the operators of kernels/fused/impl/cpp.py as a C++ extension of torch, through LibTorch's stable ABI, over
// the same compiled library. call_overhead.py compiles it, defines the schemas and compares.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "../csrc/include/personalizer_kernels.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check(pk_status status) { STD_TORCH_CHECK(status == PK_OK, pk_message(status)); }

// torch's threads; a range of tasks for each.
void on_torch_threads(void *, int64_t count, pk_task task, void *argument) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) { task(argument, first, last); });
}
const pk_runner runner = {on_torch_threads, nullptr};

// [B, H, rows, D] whose memory is [B, rows, H, D], as attention layers want it back.
Tensor empty_rows(const Tensor &like, int64_t batch, int64_t heads, int64_t rows, int64_t width) {
  Tensor memory = torch::stable::new_empty(like, {batch, rows, heads, width});
  return torch::stable::transpose(memory, 1, 2);
}

Tensor with_dense_rows(const Tensor &tensor) {
  return tensor.strides()[3] == 1 || tensor.sizes()[3] == 1 ? tensor : torch::stable::contiguous(tensor);
}

pk_array array(const Tensor &tensor) {
  return {tensor.data_ptr(), tensor.strides()[0], tensor.strides()[1], tensor.strides()[2]};
}

pk_attention described(const Tensor &query, const Tensor &key, const Tensor &tokens, double scale) {
  const ScalarType type = query.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, "query must be float32 or bfloat16");
  return {query.sizes()[0],
          query.sizes()[1],
          query.sizes()[2],
          key.sizes()[2],
          query.sizes()[3],
          tokens.sizes()[1],
          static_cast<const int64_t *>(tokens.data_ptr()),
          static_cast<float>(scale),
          type == ScalarType::Float ? PK_FLOAT32 : PK_BFLOAT16};
}

std::tuple<Tensor, Tensor> attention_forward(const Tensor &query_any, const Tensor &key_any, const Tensor &value_any,
                                             const Tensor &tokens_any, double scale) {
  const Tensor query = with_dense_rows(query_any), key = with_dense_rows(key_any), value = with_dense_rows(value_any);
  const Tensor tokens = torch::stable::contiguous(tokens_any);
  const pk_attention shape = described(query, key, tokens, scale);
  Tensor out = empty_rows(query, shape.batch, shape.heads, shape.queries, shape.width);
  Tensor maps = torch::stable::new_empty(query, {shape.batch, shape.tracked, shape.queries}, ScalarType::Float);
  check(pk_attention_forward(&shape, array(query), array(key), array(value), array(out),
                             static_cast<float *>(maps.data_ptr()), &runner));
  return {out, maps};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor &grad_out_any, const Tensor &grad_maps_any,
                                                      const Tensor &query_any, const Tensor &key_any,
                                                      const Tensor &value_any, const Tensor &tokens_any, double scale) {
  const Tensor query = with_dense_rows(query_any), key = with_dense_rows(key_any), value = with_dense_rows(value_any);
  const Tensor grad_out = with_dense_rows(grad_out_any);
  const Tensor grad_maps = torch::stable::contiguous(grad_maps_any);
  const Tensor tokens = torch::stable::contiguous(tokens_any);
  const pk_attention shape = described(query, key, tokens, scale);
  Tensor grad_query = empty_rows(query, shape.batch, shape.heads, shape.queries, shape.width);
  Tensor grad_key = empty_rows(query, shape.batch, shape.heads, shape.keys, shape.width);
  Tensor grad_value = empty_rows(query, shape.batch, shape.heads, shape.keys, shape.width);
  check(pk_attention_backward(&shape, array(query), array(key), array(value), array(grad_out),
                              static_cast<const float *>(grad_maps.data_ptr()), array(grad_query), array(grad_key),
                              array(grad_value), &runner));
  return {grad_query, grad_key, grad_value};
}

std::tuple<Tensor, Tensor> calibration_loss(const Tensor &maps_any, bool normalize, double sigma, int64_t suppress,
                                            double smooth, double bind, double separate) {
  const Tensor maps = torch::stable::contiguous(maps_any);
  const pk_calibration options = {maps.sizes()[0],
                                  maps.sizes()[1] / 2,
                                  maps.sizes()[2],
                                  maps.sizes()[3],
                                  normalize ? 1 : 0,
                                  sigma,
                                  static_cast<int>(suppress),
                                  smooth,
                                  bind,
                                  separate};
  Tensor loss = torch::stable::new_empty(maps, {options.batch});
  Tensor grad = torch::stable::empty_like(maps);
  check(pk_calibration_loss(&options, static_cast<const float *>(maps.data_ptr()),
                            static_cast<float *>(loss.data_ptr()), static_cast<float *>(grad.data_ptr()), &runner));
  return {loss, grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(personalizer_extension, CPU, library) {
  library.impl("attention", TORCH_BOX(&attention_forward));
  library.impl("attention_backward", TORCH_BOX(&attention_backward));
  library.impl("calibration", TORCH_BOX(&calibration_loss));
}
