// How the operands of products of bfloat16 pairs lie in memory, and the ways there from tensors and from float32.
//
// Included by attention_pairs.inl after vectors.inl; DEPTH, LEFT_BY_PAIRS and HARDWARE_ROUNDING are described there.

typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t Doubled __attribute__((vector_size(4 * LANES)));  // as many bytes as a Vector: 2 * LANES values
// The same, at any address.
typedef uint16_t LooseHalves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint16_t LooseDoubled __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

constexpr int64_t UNIT = 16;  // rows and columns of a tile
static_assert(LANES == UNIT, "lines of probabilities are padded alike by both");

inline int64_t tiles(int64_t count) { return (count + UNIT - 1) / UNIT * UNIT; }
inline int64_t deep(int64_t count) { return (count + DEPTH - 1) / DEPTH * DEPTH; }

// Room for a line of bfloat16 values: whole vectors and whole depths.
inline int64_t roomy(int64_t count) { return DEPTH > UNIT ? deep(count) : tiles(count); }

// To bfloat16, the nearest, ties to even; NaN stays NaN. The processor's own instructions take what is below the
// smallest normal number for zero, but so do its products, whose operands and results are all that is rounded here.
#if defined(HARDWARE_ROUNDING)
inline Halves rounded(Vector value) { return (Halves)_mm512_cvtneps_pbh((__m512)value); }
// LANES values of one vector, then those of another.
inline Doubled rounded(Vector first, Vector second) {
  return (Doubled)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
// Words of two, the first vector's value in the low half.
inline Words rounded_pairs(Vector first, Vector second) {
  Doubled order;
  for (int i = 0; i < 2 * LANES; ++i) order[i] = i / 2 + LANES * (i % 2);
  return (Words)__builtin_shuffle(rounded(first, second), order);
}
#else
inline Words rounded_words(Vector value) {  // in the low half of each word
  const Words bits = (Words)value;
  const Words nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words nothing = (Words)(value != value);
  return (nothing & ((bits >> 16) | 0x40)) | (~nothing & nearest);
}
inline Halves rounded(Vector value) { return __builtin_convertvector(rounded_words(value), Halves); }
inline Doubled rounded(Vector first, Vector second) {
  union {
    Halves halves[2];
    Doubled both;
  } all = {{rounded(first), rounded(second)}};
  return all.both;
}
inline Words rounded_pairs(Vector first, Vector second) { return rounded_words(first) | (rounded_words(second) << 16); }
#endif

inline void store_rounded(uint16_t *at, Vector value) { *reinterpret_cast<LooseHalves *>(at) = rounded(value); }
inline void store_rounded(uint16_t *at, Vector first, Vector second) {
  *reinterpret_cast<LooseDoubled *>(at) = rounded(first, second);
}

// Rows as the left side: [tiles(rows), deep(width)], zero outside; as they lie where nothing is to be padded.
struct Left {
  const uint16_t *at;
  int64_t row;
};
Left left_rows(const uint16_t *from, int64_t stride, uint16_t *to, int64_t rows, int64_t width) {
  const int64_t line = deep(width), all = tiles(rows);
  if (rows == all && width == line) return {from, stride};
  for (int64_t r = 0; r < all; ++r) {
    const int64_t filled = r < rows ? width : 0;
    if (filled > 0) __builtin_memcpy(to + r * line, from + r * stride, filled * sizeof(uint16_t));
    for (int64_t i = filled; i < line; ++i) to[r * line + i] = 0;
  }
  return {to, line};
}

// A float32 block [rows, tiles(width)] as the left side, rounded: [tiles(rows), roomy(width)], zero outside.
//
// Two vectors at a time where there is room, so that a tile's rows are written in one piece each: a row that is loaded
// soon after can be taken from a pending write, but not from two.
void left_block(const float *from, uint16_t *to, int64_t rows, int64_t width) {
  const int64_t from_line = tiles(width), line = roomy(width), whole = line / (2 * LANES) * (2 * LANES);
  for (int64_t r = 0; r < rows; ++r, from += from_line, to += line) {
    for (int64_t i = 0; i < whole; i += 2 * LANES)
      store_rounded(to + i, load(from + i), i + LANES < from_line ? load(from + i + LANES) : Vector{});
    if (whole < line) store_rounded(to + whole, load(from + whole));
  }
  __builtin_memset(to, 0, (tiles(rows) - rows) * line * sizeof(uint16_t));
}

// The depth of a product over `rows` rows of a block: those that left_turned fills.
inline int64_t turned_depth(int64_t rows) { return (rows + 2 * UNIT - 1) / (2 * UNIT) * (2 * UNIT); }

// The same block transposed, the depth being the rows, in the layout that Products takes for it.
#if defined(LEFT_BY_PAIRS)
// Words of two rows each: [turned_depth(rows) / 2, tiles(width)].
void left_turned(const float *from, uint16_t *to, int64_t rows, int64_t width) {
  const int64_t line = tiles(width), depth = turned_depth(rows);
  for (int64_t r = 0; r < depth; r += 2)
    for (int64_t i = 0; i < line; i += LANES) {
      const Vector first = r < rows ? load(from + r * line + i) : Vector{};
      const Vector second = r + 1 < rows ? load(from + (r + 1) * line + i) : Vector{};
      store_words(to + r * line + 2 * i, rounded_pairs(first, second));
    }
}
#else
// [tiles(width), turned_depth(rows)], by squares of words of two rows each.
void left_turned(const float *from, uint16_t *to, int64_t rows, int64_t width) {
  const int64_t line = tiles(width), depth = turned_depth(rows);
  for (int64_t r = 0; r < depth; r += 2 * LANES)
    for (int64_t i = 0; i < line; i += LANES) {
      Words square[LANES];
#pragma GCC unroll 16
      for (int k = 0; k < LANES; ++k) {
        const int64_t at = r + 2 * k;
        const Vector first = at < rows ? load(from + at * line + i) : Vector{};
        const Vector second = at + 1 < rows ? load(from + (at + 1) * line + i) : Vector{};
        square[k] = rounded_pairs(first, second);
      }
      transpose_square(square);
#pragma GCC unroll 16
      for (int k = 0; k < LANES; ++k) store_words(to + (i + k) * depth + r, square[k]);
    }
}
#endif

// Rows as the right side with the width as depth: pairs [deep(width) / 2, tiles(rows), 2], zero outside.
void right_transposed(const uint16_t *from, int64_t stride, uint16_t *to, int64_t rows, int64_t width) {
  typedef uint32_t Pair __attribute__((aligned(2), may_alias));
  const int64_t line = tiles(rows), pairs = width / 2, depth = deep(width) / 2;
  Pair *words = reinterpret_cast<Pair *>(to);
  if (stride % 2 == 0) {
    transpose_words(reinterpret_cast<const Pair *>(from), stride / 2, words, rows, pairs);
  } else {
    for (int64_t i = 0; i < pairs; ++i) {
      const uint16_t *column = from + 2 * i;
      for (int64_t r = 0; r < rows; ++r) words[i * line + r] = *reinterpret_cast<const Pair *>(column + r * stride);
      for (int64_t r = rows; r < line; ++r) words[i * line + r] = 0;
    }
  }
  for (int64_t i = pairs; i < depth; ++i)  // an odd width leaves half a pair
    for (int64_t r = 0; r < line; ++r) words[i * line + r] = r < rows && 2 * i < width ? from[r * stride + 2 * i] : 0;
}

// Rows as the right side with the rows as depth: pairs [depth / 2, tiles(width), 2], zero outside; depth >= rows.
void right_rows(const uint16_t *from, int64_t stride, uint16_t *to, int64_t rows, int64_t width, int64_t depth) {
  const int64_t line = tiles(width), whole = width / (2 * LANES) * (2 * LANES), paired = rows / 2 * 2;
  Doubled left, right;  // how two rows interleave: the pairs of their first values and those of their last
  for (int i = 0; i < 2 * LANES; ++i) {
    left[i] = i / 2 + 2 * LANES * (i % 2);
    right[i] = LANES + left[i];
  }
  for (int64_t r = 0; r < paired; r += 2) {
    const uint16_t *above = from + r * stride, *below = above + stride;
    uint16_t *at = to + r * line;
    for (int64_t i = 0; i < whole; i += 2 * LANES) {
      const Doubled first = *reinterpret_cast<const LooseDoubled *>(above + i);
      const Doubled second = *reinterpret_cast<const LooseDoubled *>(below + i);
      *reinterpret_cast<LooseDoubled *>(at + 2 * i) = __builtin_shuffle(first, second, left);
      *reinterpret_cast<LooseDoubled *>(at + 2 * i + 2 * LANES) = __builtin_shuffle(first, second, right);
    }
    for (int64_t i = whole; i < line; ++i) {
      at[2 * i] = i < width ? above[i] : 0;
      at[2 * i + 1] = i < width ? below[i] : 0;
    }
  }
  __builtin_memset(to + paired * line, 0, (depth - paired) * line * sizeof(uint16_t));
  if (paired < rows)  // the last row of an odd number has none to be paired with
    for (int64_t i = 0; i < width; ++i) to[paired * line + 2 * i] = from[paired * stride + i];
}

// A float32 block to bfloat16 rows anywhere.
void pack(const float *from, int64_t line, uint16_t *to, int64_t stride, int64_t rows, int64_t width) {
  const int64_t whole = width / (2 * LANES) * (2 * LANES);
  for (int64_t r = 0; r < rows; ++r, from += line, to += stride) {
    for (int64_t i = 0; i < whole; i += 2 * LANES) store_rounded(to + i, load(from + i), load(from + i + LANES));
    for (int64_t i = whole; i < width; ++i) to[i] = rounded(from[i]);
  }
}
