// Products out of 16x16 tiles, two by two, over a Tiles type with AMX's operations (load, dot, store of numbered tiles).
// Tiles 0 to 3 hold sums, 4 and 5 the left side, 6 and 7 the right side.

#include "ahead.inl"

struct Products {
  Tiles unit;
  Ahead ahead;

  template <int R, int C>
  inline void block(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
                    int64_t depth, bool accumulate) const {
    each<R, C>([&](auto r, auto v) {
      if (accumulate)
        unit.template load<2 * r + v>(c + 16 * r * c_row + 16 * v, 4 * c_row);
      else
        unit.template zero<2 * r + v>();
    });
    for (int64_t step = 0; step < depth; step += 32) {
      each<R, 1>([&](auto r, auto) { unit.template load<4 + r>(a + 16 * r * a_row + step, 2 * a_row); });
      each<1, C>([&](auto, auto v) { unit.template load<6 + v>(b + (step / 2 * b_row + 16 * v) * 2, 4 * b_row); });
      each<R, C>([&](auto r, auto v) { unit.template dot<2 * r + v, 4 + r, 6 + v>(); });
    }
    each<R, C>([&](auto r, auto v) { unit.template store<2 * r + v>(c + 16 * r * c_row + 16 * v, 4 * c_row); });
  }

  void operator()(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
                  int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
    // Rows outside: the left side may lie far apart in a tensor, while the right side is packed and stays near.
    for (int64_t r = 0; r < rows; r += 32)
      for (int64_t v = 0; v < columns; v += 32) {
        ahead.ask();
        const bool tall = r + 32 <= rows, wide = v + 32 <= columns;
        const uint16_t *left = a + r * a_row, *right = b + 2 * v;
        float *to = c + r * c_row + v;
        if (tall && wide)
          block<2, 2>(left, a_row, right, b_row, to, c_row, depth, accumulate);
        else if (tall)
          block<2, 1>(left, a_row, right, b_row, to, c_row, depth, accumulate);
        else if (wide)
          block<1, 2>(left, a_row, right, b_row, to, c_row, depth, accumulate);
        else
          block<1, 1>(left, a_row, right, b_row, to, c_row, depth, accumulate);
      }
  }

  void turned(const uint16_t *a, const uint16_t *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
              int64_t columns, int64_t depth, bool accumulate) {
    (*this)(a, depth, b, b_row, c, c_row, rows, columns, depth, accumulate);
  }

 private:
  template <int N>
  struct Number {
    constexpr operator int() const { return N; }
  };
  // Calls the body with the numbers of a small grid known at compile time, which tile instructions need.
  template <int R, int C, typename Body>
  static inline void each(Body body) {
    body(Number<0>{}, Number<0>{});
    if constexpr (C > 1) body(Number<0>{}, Number<1>{});
    if constexpr (R > 1) body(Number<1>{}, Number<0>{});
    if constexpr (R > 1 && C > 1) body(Number<1>{}, Number<1>{});
  }
};
