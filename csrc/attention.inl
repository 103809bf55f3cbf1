// The attention kernels, written once for vectors of LANES floats and compiled once per instruction set.
//
// The includer defines NAME (the namespace), LANES, and ROWS and COLUMNS of the register block. This file must not
// include headers with inline functions: compiled for a newer processor, the linker could keep that copy for all.
//
// One head is one unit of work. Keys and values are unpacked once, to float32 and to the layouts that the products
// want; then the queries go by in blocks whose probabilities stay in the cache. All 77 or so keys of a row fit, so
// softmax needs one pass, and backward recomputes the probabilities instead of storing them.

#include "kernels.hpp"

namespace pk {
namespace NAME {
namespace {

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
// The same, at any address.
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr int64_t BLOCK = 64;  // queries at a time
constexpr float NOTHING = -1e30f;

inline int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }
inline Vector load(const float *at) { return *reinterpret_cast<const Loose *>(at); }
inline void store(float *at, Vector value) { *reinterpret_cast<Loose *>(at) = value; }
inline float read(const float *at) { return *at; }
inline float read(const uint16_t *at) {
  union {
    uint32_t bits;
    float number;
  } word = {static_cast<uint32_t>(*at) << 16};
  return word.number;
}
inline void write(float *at, float value) { *at = value; }
inline void write(uint16_t *at, float value) {  // bfloat16, to nearest even
  union {
    float number;
    uint32_t bits;
  } word = {value};
  if (value != value) {
    *at = static_cast<uint16_t>((word.bits >> 16) | 0x40);
    return;
  }
  *at = static_cast<uint16_t>((word.bits + 0x7fff + ((word.bits >> 16) & 1)) >> 16);
}

template <typename T>
inline T *rows_of(const pk_array &array, int64_t row, int64_t head) {
  return static_cast<T *>(array.data) + row * array.batch_stride + head * array.head_stride;
}

// exp(x) for x <= 0, to about one unit in the last place (range reduction by powers of two, polynomial of degree 6).
inline Vector exponential(Vector x) {
  const Vector low = Vector{} - 87.0f;
  x = x > low ? x : low;
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Vector turns = x * 1.44269504f + shifter;
  turns = turns - shifter;
  Vector rest = x - turns * 0.693359375f;
  rest = rest + turns * 2.12194440e-4f;
  Vector sum = rest * 1.38888889e-3f + 8.33333333e-3f;
  sum = sum * rest + 4.16666667e-2f;
  sum = sum * rest + 1.66666667e-1f;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  const Integers power = (__builtin_convertvector(turns, Integers) + 127) << 23;
  return sum * (Vector)power;  // the same bits
}

// c[R, C * LANES] (+)= a[R, depth] b[depth, C * LANES] with all of c in registers.
template <int R, int C>
inline void register_block(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row, float *c,
                           int64_t c_row, int64_t depth, bool accumulate) {
  Vector sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) sums[r][v] = accumulate ? load(c + r * c_row + v * LANES) : Vector{};
  for (int64_t step = 0; step < depth; ++step) {
    Vector right[C];
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) right[v] = load(b + step * b_row + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float left = a[r * a_row + step * a_step];
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) store(c + r * c_row + v * LANES, sums[r][v]);
}

template <int C>
inline void row_loop(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row, float *c,
                     int64_t c_row, int64_t rows, int64_t depth, bool accumulate) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS)
    register_block<ROWS, C>(a + r * a_row, a_row, a_step, b, b_row, c + r * c_row, c_row, depth, accumulate);
  for (; r < rows; ++r)
    register_block<1, C>(a + r * a_row, a_row, a_step, b, b_row, c + r * c_row, c_row, depth, accumulate);
}

// c[rows, columns] (+)= a b, with a[r, k] at a[r * a_row + k * a_step] and `columns` a multiple of LANES.
void multiply(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row, float *c, int64_t c_row,
              int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
  int64_t left = columns / LANES;
  while (left > 0) {
    const int64_t at = columns - left * LANES;
    if (left >= COLUMNS) {
      row_loop<COLUMNS>(a, a_row, a_step, b + at, b_row, c + at, c_row, rows, depth, accumulate);
      left -= COLUMNS;
    } else if (left >= 2) {
      row_loop<2>(a, a_row, a_step, b + at, b_row, c + at, c_row, rows, depth, accumulate);
      left -= 2;
    } else {
      row_loop<1>(a, a_row, a_step, b + at, b_row, c + at, c_row, rows, depth, accumulate);
      left -= 1;
    }
  }
}

// Rows of any type to float32 [rows, padded(width)], times a factor; the padding is zero.
template <typename T>
void unpack(const T *from, int64_t stride, float *to, int64_t rows, int64_t width, float factor) {
  const int64_t line = padded(width);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) to[r * line + i] = read(from + r * stride + i) * factor;
    for (int64_t i = width; i < line; ++i) to[r * line + i] = 0;
  }
}

template <typename T>
void unpack_transposed(const T *from, int64_t stride, float *to, int64_t rows, int64_t width) {
  const int64_t line = padded(rows);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t r = 0; r < rows; ++r) to[i * line + r] = read(from + r * stride + i);
    for (int64_t r = rows; r < line; ++r) to[i * line + r] = 0;
  }
}

template <typename T>
void pack(const float *from, int64_t line, T *to, int64_t stride, int64_t rows, int64_t width, float factor) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) write(to + r * stride + i, from[r * line + i] * factor);
}

// Logits [rows, padded(keys)] to probabilities, in place.
void softmax(float *logits, int64_t rows, int64_t keys) {
  const int64_t line = padded(keys);
  for (int64_t r = 0; r < rows; ++r) {
    float *row = logits + r * line;
    for (int64_t t = keys; t < line; ++t) row[t] = NOTHING;
    Vector highest = load(row);
    for (int64_t t = LANES; t < line; t += LANES) {
      const Vector next = load(row + t);
      highest = next > highest ? next : highest;
    }
    float top = highest[0];
    for (int i = 1; i < LANES; ++i) top = highest[i] > top ? highest[i] : top;
    Vector sums = {};
    for (int64_t t = 0; t < line; t += LANES) {
      const Vector value = exponential(load(row + t) - top);
      store(row + t, value);
      sums += value;
    }
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += sums[i];
    // The padding contributed exp(-87) each, far below the last place of a sum that is at least 1.
    const float inverse = 1.0f / total;
    for (int64_t t = 0; t < line; t += LANES) store(row + t, load(row + t) * inverse);
    for (int64_t t = keys; t < line; ++t) row[t] = 0;
  }
}

template <typename T>
void forward_typed(const Forward &work, int64_t row, int64_t head, float *scratch) {
  const pk_attention &s = *work.shape;
  const int64_t keys_line = padded(s.keys), width_line = padded(s.width);
  float *key = scratch;                          // [width, keys_line]
  float *value = key + s.width * keys_line;      // [keys, width_line]
  float *query = value + s.keys * width_line;    // [BLOCK, width_line]
  float *weights = query + BLOCK * width_line;   // [BLOCK, keys_line]
  float *result = weights + BLOCK * keys_line;   // [BLOCK, width_line]
  unpack_transposed(rows_of<T>(work.key, row, head), work.key.row_stride, key, s.keys, s.width);
  unpack(rows_of<T>(work.value, row, head), work.value.row_stride, value, s.keys, s.width, 1.0f);
  float *columns = work.columns + (row * s.heads + head) * s.tracked * s.queries;
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t count = s.queries - first < BLOCK ? s.queries - first : BLOCK;
    const T *from = rows_of<T>(work.query, row, head) + first * work.query.row_stride;
    unpack(from, work.query.row_stride, query, count, s.width, s.scale);
    multiply(query, width_line, 1, key, keys_line, weights, keys_line, count, keys_line, s.width, false);
    softmax(weights, count, s.keys);
    for (int64_t k = 0; k < s.tracked; ++k) {
      const int64_t token = s.tokens[row * s.tracked + k];
      float *column = columns + k * s.queries + first;
      for (int64_t n = 0; n < count; ++n) column[n] = token < 0 ? 0.0f : weights[n * keys_line + token];
    }
    multiply(weights, keys_line, 1, value, width_line, result, width_line, count, width_line, s.keys, false);
    T *to = rows_of<T>(work.out, row, head) + first * work.out.row_stride;
    pack(result, width_line, to, work.out.row_stride, count, s.width, 1.0f);
  }
}

template <typename T>
void backward_typed(const Backward &work, int64_t row, int64_t head, float *scratch) {
  const pk_attention &s = *work.shape;
  const int64_t keys_line = padded(s.keys), width_line = padded(s.width);
  float *key_columns = scratch;                             // [width, keys_line]
  float *value_columns = key_columns + s.width * keys_line; // [width, keys_line]
  float *key = value_columns + s.width * keys_line;         // [keys, width_line]
  float *grad_key = key + s.keys * width_line;              // [keys, width_line]
  float *grad_value = grad_key + s.keys * width_line;       // [keys, width_line]
  float *query = grad_value + s.keys * width_line;          // [BLOCK, width_line]
  float *grad_out = query + BLOCK * width_line;             // [BLOCK, width_line]
  float *grad_query = grad_out + BLOCK * width_line;        // [BLOCK, width_line]
  float *weights = grad_query + BLOCK * width_line;         // [BLOCK, keys_line]
  float *grad_weights = weights + BLOCK * keys_line;        // [BLOCK, keys_line]
  unpack_transposed(rows_of<T>(work.key, row, head), work.key.row_stride, key_columns, s.keys, s.width);
  unpack_transposed(rows_of<T>(work.value, row, head), work.value.row_stride, value_columns, s.keys, s.width);
  unpack(rows_of<T>(work.key, row, head), work.key.row_stride, key, s.keys, s.width, 1.0f);
  const float share = 1.0f / static_cast<float>(s.heads);
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t count = s.queries - first < BLOCK ? s.queries - first : BLOCK;
    const bool again = first > 0;
    const T *from = rows_of<T>(work.query, row, head) + first * work.query.row_stride;
    const T *grad_from = rows_of<T>(work.grad_out, row, head) + first * work.grad_out.row_stride;
    unpack(from, work.query.row_stride, query, count, s.width, s.scale);
    unpack(grad_from, work.grad_out.row_stride, grad_out, count, s.width, 1.0f);
    multiply(query, width_line, 1, key_columns, keys_line, weights, keys_line, count, keys_line, s.width, false);
    softmax(weights, count, s.keys);
    multiply(grad_out, width_line, 1, value_columns, keys_line, grad_weights, keys_line, count, keys_line, s.width,
             false);
    if (work.grad_maps != nullptr)
      for (int64_t k = 0; k < s.tracked; ++k) {
        const int64_t token = s.tokens[row * s.tracked + k];
        const float *grad_map = work.grad_maps + (row * s.tracked + k) * s.queries + first;
        if (token >= 0)
          for (int64_t n = 0; n < count; ++n) grad_weights[n * keys_line + token] += grad_map[n] * share;
      }
    multiply(weights, 1, keys_line, grad_out, width_line, grad_value, width_line, s.keys, width_line, count, again);
    for (int64_t n = 0; n < count; ++n) {  // dS = P * (dP - sum(P * dP)), in place of dP
      float *weight = weights + n * keys_line, *grad = grad_weights + n * keys_line;
      Vector sums = {};
      for (int64_t t = 0; t < keys_line; t += LANES) sums += load(weight + t) * load(grad + t);
      float total = 0;
      for (int i = 0; i < LANES; ++i) total += sums[i];
      for (int64_t t = 0; t < keys_line; t += LANES) store(grad + t, load(weight + t) * (load(grad + t) - total));
    }
    multiply(grad_weights, keys_line, 1, key, width_line, grad_query, width_line, count, width_line, s.keys, false);
    multiply(grad_weights, 1, keys_line, query, width_line, grad_key, width_line, s.keys, width_line, count, again);
    T *to = rows_of<T>(work.grad_query, row, head) + first * work.grad_query.row_stride;
    pack(grad_query, width_line, to, work.grad_query.row_stride, count, s.width, s.scale);
  }
  pack(grad_key, width_line, rows_of<T>(work.grad_key, row, head), work.grad_key.row_stride, s.keys, s.width, 1.0f);
  pack(grad_value, width_line, rows_of<T>(work.grad_value, row, head), work.grad_value.row_stride, s.keys, s.width,
       1.0f);
}

int64_t forward_scratch(const pk_attention &s) {
  const int64_t keys_line = padded(s.keys), width_line = padded(s.width);
  return s.width * keys_line + s.keys * width_line + BLOCK * (2 * width_line + keys_line);
}

int64_t backward_scratch(const pk_attention &s) {
  const int64_t keys_line = padded(s.keys), width_line = padded(s.width);
  return 2 * s.width * keys_line + 3 * s.keys * width_line + BLOCK * (3 * width_line + 2 * keys_line);
}

void forward_head(const Forward &work, int64_t row, int64_t head, float *scratch) {
  if (work.shape->type == PK_FLOAT32)
    forward_typed<float>(work, row, head, scratch);
  else
    forward_typed<uint16_t>(work, row, head, scratch);
}

void backward_head(const Backward &work, int64_t row, int64_t head, float *scratch) {
  if (work.shape->type == PK_FLOAT32)
    backward_typed<float>(work, row, head, scratch);
  else
    backward_typed<uint16_t>(work, row, head, scratch);
}

}  // namespace
}  // namespace NAME
}  // namespace pk
