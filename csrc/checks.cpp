#include "checks.hpp"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <initializer_list>

namespace pk {
namespace {

// Elements of an array, with room for padding and for the bytes of the widest type.
constexpr int64_t MOST_ELEMENTS = PTRDIFF_MAX / 1024;

// Whether the product of the sizes is countable even where one of them is zero.
bool countable(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes)
    if (size > 0 && (__builtin_mul_overflow(product, size, &product) || product > MOST_ELEMENTS)) return false;
  return true;
}

// C callers may have stored any number in the enumeration, which C++ may not even read as one.
int number_of(const pk_type &type) {
  int number;
  static_assert(sizeof number == sizeof type);
  std::memcpy(&number, &type, sizeof number);
  return number;
}

int64_t bytes_of(pk_type type) { return type == PK_FLOAT32 ? 4 : 2; }

struct Dimension {
  int64_t size, stride;
};

// Whether the last element is within reach. The stride of a dimension of one is never used, so anything will do.
bool reachable(std::initializer_list<Dimension> dimensions, int64_t width) {
  int64_t reach = width;
  for (const Dimension &one : dimensions) {
    int64_t way = 0;
    if (one.size <= 1) continue;
    if (one.stride < 0 || __builtin_mul_overflow(one.size - 1, one.stride, &way)) return false;
    if (__builtin_add_overflow(reach, way, &reach) || reach > MOST_ELEMENTS) return false;
  }
  return true;
}

// Whether each dimension steps over everything that smaller strides reach: then no two elements share their place.
bool apart(Dimension (&by_stride)[3], int64_t width) {
  for (int i = 1; i < 3; ++i)
    for (int k = i; k > 0 && by_stride[k].stride < by_stride[k - 1].stride; --k) {
      const Dimension kept = by_stride[k];
      by_stride[k] = by_stride[k - 1];
      by_stride[k - 1] = kept;
    }
  int64_t reach = width;
  for (const Dimension &one : by_stride) {
    if (one.size <= 1) continue;
    if (one.stride < reach) return false;
    reach += (one.size - 1) * one.stride;
  }
  return true;
}

}  // namespace

pk_status checked_memory(const void *at, int64_t count, int64_t size) {
  if (count == 0) return PK_OK;
  if (at == nullptr) return PK_NULL;
  return reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(size) == 0 ? PK_OK : PK_BAD_STRIDE;
}

pk_status checked(const pk_attention *shape) {
  if (shape == nullptr) return PK_NULL;
  const pk_attention &s = *shape;
  if (s.batch < 0 || s.heads < 1 || s.queries < 0 || s.keys < 1 || s.width < 1 || s.tracked < 0) return PK_BAD_SHAPE;
  if (!countable({s.keys}) || !countable({s.width}) || !countable({s.keys + 64, s.width + 64}) ||
      !countable({s.batch, s.heads, s.queries, s.width}) || !countable({s.batch, s.heads, s.keys, s.width}) ||
      !countable({s.batch, s.heads, s.tracked, s.queries}))
    return PK_BAD_SHAPE;
  const int type = number_of(s.type);
  if ((type != PK_FLOAT32 && type != PK_BFLOAT16) || !(s.scale > 0) || !std::isfinite(s.scale)) return PK_BAD_OPTION;
  const int64_t tokens = s.batch * s.tracked;
  const pk_status status = checked_memory(s.tokens, tokens, sizeof *s.tokens);
  if (status != PK_OK) return status;
  for (int64_t i = 0; i < tokens; ++i)
    if (s.tokens[i] < -1 || s.tokens[i] >= s.keys) return PK_BAD_TOKEN;
  return PK_OK;
}

pk_status checked_input(const pk_attention &shape, int64_t rows, const pk_array &array) {
  const int64_t count = shape.batch * shape.heads * rows * shape.width;
  if (count == 0) return PK_OK;
  if (!reachable({{shape.batch, array.batch_stride}, {shape.heads, array.head_stride}, {rows, array.row_stride}},
                 shape.width))
    return PK_BAD_STRIDE;
  return checked_memory(array.data, count, bytes_of(shape.type));
}

pk_status checked_output(const pk_attention &shape, int64_t rows, const pk_array &array) {
  const pk_status status = checked_input(shape, rows, array);
  if (status != PK_OK || shape.batch * rows == 0) return status;
  Dimension dimensions[] = {
      {shape.batch, array.batch_stride}, {shape.heads, array.head_stride}, {rows, array.row_stride}};
  return apart(dimensions, shape.width) ? PK_OK : PK_BAD_STRIDE;
}

pk_status checked(const pk_calibration *options) {
  if (options == nullptr) return PK_NULL;
  const pk_calibration &o = *options;
  if (o.batch < 0 || o.concepts < 1 || o.height < 1 || o.width < 1) return PK_BAD_SHAPE;
  // Pairs of concepts are counted too, and scratch memory holds six doubles a cell.
  if (!countable({o.batch, o.concepts, o.height, o.width, 16}) || !countable({o.concepts, o.concepts}))
    return PK_BAD_SHAPE;
  if (!(o.sigma >= 0) || !(o.smooth >= 0) || !std::isfinite(o.sigma) || !std::isfinite(o.smooth) ||
      !std::isfinite(o.bind) || !std::isfinite(o.separate) || o.suppress < 0 || o.suppress > MOST_SQUARINGS)
    return PK_BAD_OPTION;
  return o.sigma > 0 && (o.height < 2 || o.width < 2) ? PK_BAD_OPTION : PK_OK;
}

}  // namespace pk
