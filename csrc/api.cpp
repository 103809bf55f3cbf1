// The C interface: checks, the choice of instruction set, memory and the division of work.
#include <atomic>
#include <cstring>
#include <initializer_list>
#include <new>

#include "calibration.hpp"
#include "checks.hpp"
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

// The first status that is not PK_OK.
pk_status first_of(std::initializer_list<pk_status> all) {
  for (const pk_status one : all)
    if (one != PK_OK) return one;
  return PK_OK;
}

// Zeros in an array of `rows` rows: what keys and values get where there is no query.
void clear(const pk_attention &s, int64_t rows, const pk_array &array) {
  const int64_t size = s.type == PK_FLOAT32 ? sizeof(float) : sizeof(uint16_t);
  for (int64_t row = 0; row < s.batch; ++row)
    for (int64_t head = 0; head < s.heads; ++head)
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = row * array.batch_stride + head * array.head_stride + r * array.row_stride;
        std::memset(static_cast<char *>(array.data) + at * size, 0, static_cast<size_t>(s.width * size));
      }
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
  pk_status status = pk::checked(shape);
  if (status != PK_OK) return status;
  const pk_attention &s = *shape;
  status = pk::first_of({pk::checked_input(s, s.queries, query), pk::checked_input(s, s.keys, key),
                         pk::checked_input(s, s.keys, value), pk::checked_output(s, s.queries, out),
                         pk::checked_memory(maps, s.batch * s.tracked * s.queries, sizeof *maps)});
  if (status != PK_OK || s.batch * s.queries == 0) return status;
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
      for (int64_t row = first; row < last; ++row) {
        const float *from = columns + row * s.heads * head_columns;
        float *map = maps + row * head_columns;
        std::memcpy(map, from, static_cast<size_t>(head_columns) * sizeof *map);
        for (int64_t head = 1; head < s.heads; ++head)
          for (int64_t i = 0; i < head_columns; ++i) map[i] += from[head * head_columns + i];
        for (int64_t i = 0; i < head_columns; ++i) map[i] *= share;
      }
    });
  delete[] columns;
  return done;
}

pk_status pk_attention_backward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                pk_array grad_out, const float *grad_maps, pk_array grad_query, pk_array grad_key,
                                pk_array grad_value, const pk_runner *runner) {
  pk_status status = pk::checked(shape);
  if (status != PK_OK) return status;
  const pk_attention &s = *shape;
  status = pk::first_of({pk::checked_input(s, s.queries, query), pk::checked_input(s, s.keys, key),
                         pk::checked_input(s, s.keys, value), pk::checked_input(s, s.queries, grad_out),
                         pk::checked_memory(grad_maps, grad_maps == nullptr ? 0 : s.batch * s.tracked * s.queries,
                                            sizeof *grad_maps),
                         pk::checked_output(s, s.queries, grad_query), pk::checked_output(s, s.keys, grad_key),
                         pk::checked_output(s, s.keys, grad_value)});
  if (status != PK_OK || s.batch == 0) return status;
  if (s.queries == 0) {
    pk::clear(s, s.keys, grad_key);
    pk::clear(s, s.keys, grad_value);
    return PK_OK;
  }
  const pk::Kernels &kernels = pk::kernels();
  const pk::Backward work = {shape,     query,      key,      value,     grad_out,
                             grad_maps, grad_query, grad_key, grad_value};
  return pk::for_each_head(s, kernels.backward_scratch(s), runner,
                           [&](int64_t row, int64_t head, float *scratch) {
                             kernels.backward_head(work, row, head, scratch);
                           });
}

pk_status pk_attention_long_backward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                     pk_array out, const float *logsums, pk_array grad_out, pk_array grad_query,
                                     pk_array grad_key, pk_array grad_value, const pk_runner *runner) {
  pk_status status = pk::checked(shape);
  if (status != PK_OK) return status;
  const pk_attention &s = *shape;
  status = pk::first_of(
      {pk::checked_input(s, s.queries, query), pk::checked_input(s, s.keys, key), pk::checked_input(s, s.keys, value),
       pk::checked_input(s, s.queries, out), pk::checked_input(s, s.queries, grad_out),
       pk::checked_memory(logsums, s.batch * s.heads * s.queries, sizeof *logsums),
       pk::checked_output(s, s.queries, grad_query), pk::checked_output(s, s.keys, grad_key),
       pk::checked_output(s, s.keys, grad_value)});
  if (status != PK_OK) return status;
  const pk::Kernels &kernels = pk::kernels();
  if (kernels.long_backward_head == nullptr || s.type != PK_BFLOAT16 || s.tracked > 0 || s.queries == 0 ||
      s.queries % 32 != 0 || s.keys % 32 != 0)
    return PK_BAD_OPTION;
  const pk::LongBackward work = {shape, query, key, value, out, logsums, grad_out, grad_query, grad_key, grad_value};
  return pk::for_each_head(s, kernels.long_scratch(s), runner, [&](int64_t row, int64_t head, float *scratch) {
    kernels.long_backward_head(work, row, head, scratch);
  });
}

pk_status pk_calibration_loss(const pk_calibration *options, const float *maps, float *loss, float *grad,
                              const pk_runner *runner) {
  pk_status status = pk::checked(options);
  if (status != PK_OK) return status;
  const pk_calibration &o = *options;
  const int64_t line = 2 * o.concepts * o.height * o.width;
  status = pk::first_of({pk::checked_memory(maps, o.batch * line, sizeof *maps),
                         pk::checked_memory(loss, o.batch, sizeof *loss),
                         pk::checked_memory(grad, grad == nullptr ? 0 : o.batch * line, sizeof *grad)});
  if (status != PK_OK || o.batch == 0) return status;
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
      return "a size is zero or negative where it must not be, or sizes multiply to more than can be counted";
    case PK_BAD_TOKEN:
      return "a token index is neither -1 nor a position among the keys";
    case PK_BAD_OPTION:
      return "an option, the scale or the type has no such value here";
    case PK_NO_MEMORY:
      return "not enough memory";
    case PK_BAD_STRIDE:
      return "a stride is negative, lets written rows overlap or leads too far, or an address is no multiple of its "
             "element's size";
    case PK_NULL:
      return "a pointer to something that is needed is null";
    default:
      return "no such status";
  }
}

}  // extern "C"
