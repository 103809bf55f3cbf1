// The C interface: checks, the choice of instruction set, memory and the division of work.
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "calibration.hpp"
#include "kernels.hpp"

namespace pk {
namespace {

std::atomic<const Kernels *> chosen{nullptr};

const Kernels &kernels() {
  const Kernels *current = chosen.load();
  if (current == nullptr) {
    int count = 0;
    chosen.store(current = usable_kernels(&count)[0]);
  }
  return *current;
}

// Adapts a callable to the C task type.
template <typename Body>
void call(void *argument, int64_t first, int64_t last) {
  (*static_cast<Body *>(argument))(first, last);
}

template <typename Body>
void run(const pk_runner *runner, int64_t count, Body body) {
  if (runner == nullptr || runner->parallel_for == nullptr)
    body(0, count);
  else
    runner->parallel_for(runner->context, count, &call<Body>, &body);
}

pk_status checked(const pk_attention &s) {
  if (s.batch < 0 || s.heads < 1 || s.queries < 0 || s.keys < 1 || s.width < 1 || s.tracked < 0) return PK_BAD_SHAPE;
  if ((s.type != PK_FLOAT32 && s.type != PK_BFLOAT16) || !(s.scale > 0)) return PK_BAD_OPTION;
  for (int64_t i = 0; i < s.batch * s.tracked; ++i)
    if (s.tokens[i] < -1 || s.tokens[i] >= s.keys) return PK_BAD_TOKEN;
  return PK_OK;
}

// Runs `body(row, head, scratch)` for every head of every row, each range of heads with memory of its own.
template <typename Body>
pk_status for_each_head(const pk_attention &s, int64_t scratch_floats, const pk_runner *runner, Body body) {
  std::atomic<bool> failed{false};
  run(runner, s.batch * s.heads, [&](int64_t first, int64_t last) {
    // 64 bytes, a cache line, so that no vector crosses one.
    float *scratch = static_cast<float *>(::operator new(static_cast<size_t>(scratch_floats) * sizeof(float),
                                                         std::align_val_t(64), std::nothrow));
    if (scratch == nullptr) {
      failed = true;
      return;
    }
    for (int64_t index = first; index < last; ++index) body(index / s.heads, index % s.heads, scratch);
    ::operator delete(scratch, std::align_val_t(64));
  });
  return failed ? PK_NO_MEMORY : PK_OK;
}

}  // namespace
}  // namespace pk

extern "C" {

pk_status pk_attention_forward(const pk_attention *shape, pk_array query, pk_array key, pk_array value, pk_array out,
                               float *maps, const pk_runner *runner) {
  const pk_attention &s = *shape;
  const pk_status status = pk::checked(s);
  if (status != PK_OK) return status;
  float *columns = nullptr;
  const int64_t head_columns = s.tracked * s.queries;
  if (s.batch * head_columns > 0) {
    columns = new (std::nothrow) float[static_cast<size_t>(s.batch * s.heads * head_columns)];
    if (columns == nullptr) return PK_NO_MEMORY;
  }
  const pk::Kernels &kernels = pk::kernels();
  const pk::Forward work = {shape, query, key, value, out, columns};
  const pk_status done =
      pk::for_each_head(s, kernels.forward_scratch(s), runner, [&](int64_t row, int64_t head, float *scratch) {
        kernels.forward_head(work, row, head, scratch);
      });
  // The mean over heads, always summed in the same order.
  if (done == PK_OK && columns != nullptr)
    pk::run(runner, s.batch, [&](int64_t first, int64_t last) {
      const float share = 1.0f / static_cast<float>(s.heads);
      for (int64_t row = first; row < last; ++row)
        for (int64_t i = 0; i < head_columns; ++i) {
          float sum = 0;
          for (int64_t head = 0; head < s.heads; ++head) sum += columns[(row * s.heads + head) * head_columns + i];
          maps[row * head_columns + i] = sum * share;
        }
    });
  delete[] columns;
  return done;
}

pk_status pk_attention_backward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                pk_array grad_out, const float *grad_maps, pk_array grad_query, pk_array grad_key,
                                pk_array grad_value, const pk_runner *runner) {
  const pk_status status = pk::checked(*shape);
  if (status != PK_OK) return status;
  const pk::Kernels &kernels = pk::kernels();
  const pk::Backward work = {shape,     query,      key,      value,     grad_out,
                             grad_maps, grad_query, grad_key, grad_value};
  return pk::for_each_head(*shape, kernels.backward_scratch(*shape), runner,
                           [&](int64_t row, int64_t head, float *scratch) {
                             kernels.backward_head(work, row, head, scratch);
                           });
}

pk_status pk_calibration_loss(const pk_calibration *options, const float *maps, float *loss, float *grad,
                              const pk_runner *runner) {
  const pk_calibration &o = *options;
  if (o.batch < 0 || o.concepts < 1 || o.height < 1 || o.width < 1) return PK_BAD_SHAPE;
  if (!(o.sigma >= 0) || o.suppress < 0 || (o.sigma > 0 && (o.height < 2 || o.width < 2))) return PK_BAD_OPTION;
  const int64_t line = 2 * o.concepts * o.height * o.width;
  std::atomic<bool> failed{false};
  pk::run(runner, o.batch, [&](int64_t first, int64_t last) {
    double *scratch = new (std::nothrow) double[static_cast<size_t>(pk::calibration_scratch(o))];
    if (scratch == nullptr) {
      failed = true;
      return;
    }
    for (int64_t row = first; row < last; ++row)
      pk::calibration_row(o, maps + row * line, loss + row, grad == nullptr ? nullptr : grad + row * line, scratch);
    delete[] scratch;
  });
  return failed ? PK_NO_MEMORY : PK_OK;
}

const char *pk_instruction_set(void) { return pk::kernels().name; }

pk_status pk_use_instruction_set(const char *name) {
  int count = 0;
  const pk::Kernels *const *usable = pk::usable_kernels(&count);
  for (int i = 0; i < count; ++i)
    if (name == nullptr || std::strcmp(usable[i]->name, name) == 0) {
      pk::chosen.store(usable[i]);
      return PK_OK;
    }
  return PK_BAD_OPTION;
}

const char *pk_message(pk_status status) {
  switch (status) {
    case PK_OK:
      return "done";
    case PK_BAD_SHAPE:
      return "a size is zero or negative where it must not be";
    case PK_BAD_TOKEN:
      return "a token index is neither -1 nor a position among the keys";
    case PK_BAD_OPTION:
      return "an option has no such value here";
    default:
      return "not enough memory";
  }
}

}  // extern "C"
