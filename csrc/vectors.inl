// What all attention kernels share, for vectors of LANES floats: exp, softmax and its gradient, columns, bfloat16.
//
// Included inside a namespace of its own by each instruction set, which defines LANES. No header with inline functions
// may be included here or beside it: compiled for a newer processor, the linker could keep that copy for all.

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
// The same, at any address.
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t LooseWords __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

constexpr int64_t BLOCK = 128;  // queries at a time, a multiple of every other unit
constexpr float NOTHING = -__builtin_inff();  // the logit of padding

inline int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }
inline Vector load(const float *at) { return *reinterpret_cast<const Loose *>(at); }
inline void store(float *at, Vector value) { *reinterpret_cast<Loose *>(at) = value; }
inline Words load_words(const void *at) { return *static_cast<const LooseWords *>(at); }
inline void store_words(void *at, Words value) { *static_cast<LooseWords *>(at) = value; }
inline float read(const float *at) { return *at; }
inline float read(const uint16_t *at) {
  union {
    uint32_t bits;
    float number;
  } word = {static_cast<uint32_t>(*at) << 16};
  return word.number;
}

// The vector with lane i holding what lane i ^ HALF held.
template <int HALF>
inline Vector swapped(Vector value) {
  Integers order;
  for (int i = 0; i < LANES; ++i) order[i] = i ^ HALF;
  return __builtin_shuffle(value, order);
}

// Sum and maximum of a vector's lanes, by halves.
template <int HALF = LANES / 2>
inline float sum_of(Vector value) {
  if constexpr (HALF == 0) return value[0];
  else return sum_of<HALF / 2>(value + swapped<HALF>(value));
}
template <int HALF = LANES / 2>
inline float highest_of(Vector value) {
  if constexpr (HALF == 0) return value[0];
  else {
    const Vector other = swapped<HALF>(value);
    return highest_of<HALF / 2>(other > value ? other : value);
  }
}

// A square of LANES x LANES words, transposed in registers: rows HALF apart exchange every other run of HALF lanes,
// first halves, then quarters, and so on down to single lanes.
template <int HALF = LANES / 2>
inline void transpose_square(Words *rows) {
  if constexpr (HALF > 0) {
    Words upper, lower;  // which lanes the new rows take; LANES and more are those of the second row
    for (int i = 0; i < LANES; ++i) {
      upper[i] = i & HALF ? LANES + i - HALF : i;
      lower[i] = i & HALF ? LANES + i : i + HALF;
    }
#pragma GCC unroll 16
    for (int r = 0; r < LANES; ++r)
      if ((r & HALF) == 0) {
        const Words first = rows[r], second = rows[r + HALF];
        rows[r] = __builtin_shuffle(first, second, upper);
        rows[r + HALF] = __builtin_shuffle(first, second, lower);
      }
    transpose_square<HALF / 2>(rows);
  }
}

// The transpose of rows of words, [rows, width] to [width, padded(rows)], zero in the padding.
template <typename T>
inline void transpose_words(const T *from, int64_t stride, T *to, int64_t rows, int64_t width) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  const int64_t line = padded(rows);
  for (int64_t r = 0; r < rows; r += LANES)
    for (int64_t i = 0; i < width; i += LANES) {
      const int64_t tall = rows - r < LANES ? rows - r : LANES, wide = width - i < LANES ? width - i : LANES;
      Words square[LANES];
      if (wide == LANES) {
#pragma GCC unroll 16
        for (int k = 0; k < LANES; ++k) square[k] = k < tall ? load_words(from + (r + k) * stride + i) : Words{};
      } else {
        __builtin_memset(square, 0, sizeof square);
        for (int64_t k = 0; k < tall; ++k) __builtin_memcpy(square + k, from + (r + k) * stride + i, wide * sizeof(T));
      }
      transpose_square(square);
      for (int64_t j = 0; j < wide; ++j) store_words(to + (i + j) * line + r, square[j]);
    }
}

inline void write(float *at, float value) { *at = value; }
inline uint16_t rounded(float value) {  // to bfloat16, the nearest, ties to even
  union {
    float number;
    uint32_t bits;
  } word = {value};
  const uint32_t nearest = (word.bits + 0x7fff + ((word.bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(value != value ? (word.bits >> 16) | 0x40 : nearest);
}
inline void write(uint16_t *at, float value) { *at = rounded(value); }

template <typename T>
inline T *rows_of(const pk_array &array, int64_t row, int64_t head) {
  return static_cast<T *>(array.data) + row * array.batch_stride + head * array.head_stride;
}

// exp(x) for x <= 0, to about one unit in the last place (range reduction by powers of two, polynomial of degree 6).
// Zero where the result would be no normal number, from -infinity too. NaN and +infinity give NaN.
inline Vector exponential(Vector x) {
  const Vector low = Vector{} - 88.0f;  // rounds to 2^-127, whose bits as computed below are those of zero
  x = low > x ? low : x;                // in this order: NaN stays
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vector shifted = x * 1.44269504f + shifter;
  const Vector turns = shifted - shifter;
  Vector rest = x - turns * 0.693359375f;
  rest = rest + turns * 2.12194440e-4f;
  Vector sum = rest * 1.38888889e-3f + 8.33333333e-3f;
  sum = sum * rest + 4.16666667e-2f;
  sum = sum * rest + 1.66666667e-1f;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  // The last bits of `shifted` are that integer, those of the shifter being zero: no conversion is needed.
  const Words power = ((Words)shifted << 23) + (127u << 23);
  return sum * (Vector)power;  // the same bits
}

// Logits [rows, padded(keys)], times a factor above zero, to probabilities, in place.
//
// As in torch, a row has no probabilities (all are NaN) if a logit times the factor is NaN or +infinity or if all are
// -infinity; a single -infinity gives exactly zero. The maximum may miss a NaN: the sum does not.
void softmax(float *logits, int64_t rows, int64_t keys, float factor) {
  const int64_t line = padded(keys), last = line - LANES;
  // Which lanes of a row's last vector are keys. The others are masked in registers: numbers stored one by one could
  // not be loaded as a vector before they have reached the cache, and every row would wait for that.
  Integers inside;
  for (int i = 0; i < LANES; ++i) inside[i] = last + i < keys ? -1 : 0;
  for (int64_t r = 0; r < rows; ++r) {
    float *row = logits + r * line;
    const Vector end = inside ? load(row + last) : Vector{} + NOTHING;
    Vector highest = end;
    for (int64_t t = 0; t < last; t += LANES) {
      const Vector next = load(row + t);
      highest = next > highest ? next : highest;
    }
    float top = highest_of(highest);
    const float scaled = top * factor;
    // What overflows only with the factor is infinite here as well. Rare: a jump, not a step before all the rest.
    if (__builtin_expect(scaled - scaled != 0, 0)) top = scaled;
    const Vector end_value = exponential((end - top) * factor);
    Vector sums = end_value;
    for (int64_t t = 0; t < last; t += LANES) {
      const Vector value = exponential((load(row + t) - top) * factor);
      store(row + t, value);
      sums += value;
    }
    const float inverse = 1.0f / sum_of(sums);
    for (int64_t t = 0; t < last; t += LANES) store(row + t, load(row + t) * inverse);
    store(row + last, inside ? end_value * inverse : Vector{});
  }
}

// dS = P * (dP - sum(P * dP)) * factor for every row, in place of dP. The padding stays zero, unless the sum is not
// finite: then dS has a NaN among the keys too, and whatever is multiplied with the row is NaN anyway.
void softmax_backward(const float *weights, float *grads, int64_t rows, int64_t keys, float factor) {
  const int64_t line = padded(keys);
  for (int64_t r = 0; r < rows; ++r) {
    const float *weight = weights + r * line;
    float *grad = grads + r * line;
    Vector sums = {};
    for (int64_t t = 0; t < line; t += LANES) sums += load(weight + t) * load(grad + t);
    const float total = sum_of(sums);
    for (int64_t t = 0; t < line; t += LANES) store(grad + t, load(weight + t) * (load(grad + t) - total) * factor);
  }
}

// The columns of the tracked tokens of one head out of a block's probabilities; zeros for none, always.
void take_columns(const pk_attention &s, int64_t row, const float *weights, float *columns, int64_t first,
                  int64_t count) {
  const int64_t line = padded(s.keys);
  for (int64_t k = 0; k < s.tracked; ++k) {
    const int64_t token = s.tokens[row * s.tracked + k];
    float *column = columns + k * s.queries + first;
    for (int64_t n = 0; n < count; ++n) column[n] = token < 0 ? 0.0f : weights[n * line + token];
  }
}

// What the maps' gradients add to dP: each head has its share of the mean.
void add_column_gradients(const pk_attention &s, int64_t row, const float *grad_maps, float *grads, int64_t first,
                          int64_t count) {
  if (grad_maps == nullptr) return;
  const int64_t line = padded(s.keys);
  const float share = 1.0f / static_cast<float>(s.heads);
  for (int64_t k = 0; k < s.tracked; ++k) {
    const int64_t token = s.tokens[row * s.tracked + k];
    const float *grad_map = grad_maps + (row * s.tracked + k) * s.queries + first;
    if (token >= 0)
      for (int64_t n = 0; n < count; ++n) grads[n * line + token] += grad_map[n] * share;
  }
}
