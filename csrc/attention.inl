// Attention in float32, written once for vectors of LANES floats and compiled once per instruction set.
//
// The includer defines NAME (the namespace), LANES, and ROWS and COLUMNS of the register block.
//
// One head is one unit of work. Keys and values are unpacked once, to float32 and to the layouts that the products
// want; then the queries go by in blocks whose probabilities stay in the cache. All 77 or so keys of a row fit, so
// softmax needs one pass, and backward recomputes the probabilities instead of storing them.

#include "kernels.hpp"

namespace pk {
namespace NAME {
namespace {

#include "vectors.inl"

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
  a += r * a_row, c += r * c_row;
  switch (rows - r) {  // fewer than ROWS are left, and ROWS is at most 5
    case 4: return register_block<4, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
    case 3: return register_block<3, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
    case 2: return register_block<2, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
    case 1: return register_block<1, C>(a, a_row, a_step, b, b_row, c, c_row, depth, accumulate);
  }
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

// Rows of any type to float32 [rows, padded(width)]; the padding is zero.
template <typename T>
void unpack(const T *from, int64_t stride, float *to, int64_t rows, int64_t width) {
  const int64_t line = padded(width);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) to[r * line + i] = read(from + r * stride + i);
    for (int64_t i = width; i < line; ++i) to[r * line + i] = 0;
  }
}

void unpack_transposed(const float *from, int64_t stride, float *to, int64_t rows, int64_t width) {
  transpose_words(from, stride, to, rows, width);
}

void unpack_transposed(const uint16_t *from, int64_t stride, float *to, int64_t rows, int64_t width) {
  const int64_t line = padded(rows);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t r = 0; r < rows; ++r) to[i * line + r] = read(from + r * stride + i);
    for (int64_t r = rows; r < line; ++r) to[i * line + r] = 0;
  }
}

// Rows as the left side of a product: as they lie if they are float32, else unpacked.
struct Left {
  const float *at;
  int64_t row;
};
Left left_side(const float *from, int64_t stride, float *, int64_t, int64_t) { return {from, stride}; }
Left left_side(const uint16_t *from, int64_t stride, float *memory, int64_t rows, int64_t width) {
  unpack(from, stride, memory, rows, width);
  return {memory, padded(width)};
}

// Where a product may be written: the result itself if it is float32 of whole vectors, else memory to be packed.
struct Target {
  float *at;
  int64_t row;
};
Target target_for(float *to, int64_t stride, float *memory, int64_t width) {
  return width % LANES == 0 ? Target{to, stride} : Target{memory, padded(width)};
}
Target target_for(uint16_t *, int64_t, float *memory, int64_t width) { return {memory, padded(width)}; }

template <typename T>
void pack(const float *from, int64_t line, T *to, int64_t stride, int64_t rows, int64_t width) {
  if (static_cast<const void *>(from) == to) return;  // it was written in place
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) write(to + r * stride + i, from[r * line + i]);
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
  unpack(rows_of<T>(work.value, row, head), work.value.row_stride, value, s.keys, s.width);
  float *columns = work.columns + (row * s.heads + head) * s.tracked * s.queries;
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t count = s.queries - first < BLOCK ? s.queries - first : BLOCK;
    const T *from = rows_of<T>(work.query, row, head) + first * work.query.row_stride;
    const Left left = left_side(from, work.query.row_stride, query, count, s.width);
    multiply(left.at, left.row, 1, key, keys_line, weights, keys_line, count, keys_line, s.width, false);
    softmax(weights, count, s.keys, s.scale);
    take_columns(s, row, weights, columns, first, count);
    T *to = rows_of<T>(work.out, row, head) + first * work.out.row_stride;
    const Target out = target_for(to, work.out.row_stride, result, s.width);
    multiply(weights, keys_line, 1, value, width_line, out.at, out.row, count, width_line, s.keys, false);
    pack(out.at, out.row, to, work.out.row_stride, count, s.width);
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
  unpack(rows_of<T>(work.key, row, head), work.key.row_stride, key, s.keys, s.width);
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t count = s.queries - first < BLOCK ? s.queries - first : BLOCK;
    const bool again = first > 0;
    const T *from = rows_of<T>(work.query, row, head) + first * work.query.row_stride;
    const T *grad_from = rows_of<T>(work.grad_out, row, head) + first * work.grad_out.row_stride;
    unpack(from, work.query.row_stride, query, count, s.width);
    unpack(grad_from, work.grad_out.row_stride, grad_out, count, s.width);
    multiply(query, width_line, 1, key_columns, keys_line, weights, keys_line, count, keys_line, s.width, false);
    softmax(weights, count, s.keys, s.scale);
    multiply(grad_out, width_line, 1, value_columns, keys_line, grad_weights, keys_line, count, keys_line, s.width,
             false);
    add_column_gradients(s, row, work.grad_maps, grad_weights, first, count);
    multiply(weights, 1, keys_line, grad_out, width_line, grad_value, width_line, s.keys, width_line, count, again);
    softmax_backward(weights, grad_weights, count, s.keys, s.scale);
    T *to = rows_of<T>(work.grad_query, row, head) + first * work.grad_query.row_stride;
    const Target out = target_for(to, work.grad_query.row_stride, grad_query, s.width);
    multiply(grad_weights, keys_line, 1, key, width_line, out.at, out.row, count, width_line, s.keys, false);
    pack(out.at, out.row, to, work.grad_query.row_stride, count, s.width);
    multiply(grad_weights, 1, keys_line, query, width_line, grad_key, width_line, s.keys, width_line, count, again);
  }
  pack(grad_key, width_line, rows_of<T>(work.grad_key, row, head), work.grad_key.row_stride, s.keys, s.width);
  pack(grad_value, width_line, rows_of<T>(work.grad_value, row, head), work.grad_value.row_stride, s.keys, s.width);
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
