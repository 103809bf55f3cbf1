// Memory that a later step reads or writes, asked for a little at a time while products are computed. The rows of one
// head lie too far apart for the processor to guess which comes next, and waiting for them takes longer than softmax.

struct Ahead {
  // Rows `first` to `last` - 1 are wanted; what was wanted before and not asked for yet is forgotten.
  void want(const uint16_t *from, int64_t row_stride, int64_t first, int64_t last, int64_t row_width) {
    rows = last - first, width = row_width, stride = row_stride, at = 0;
    if (rows > 0) row = from + first * stride;
  }

  // To be called between blocks of a product.
  void ask() {
    constexpr int LINES = 24;  // about as many as a processor can wait for at once
    constexpr int64_t LINE = 64 / sizeof(uint16_t);
    for (int i = 0; i < LINES && rows > 0; ++i) {
      __builtin_prefetch(row + at);
      at += LINE;
      if (at < width) continue;
      at = 0;
      if (--rows > 0) row += stride;  // after the last row there may be no next, and the stride of one row be anything
    }
  }

 private:
  const uint16_t *row = nullptr;
  int64_t rows = 0, width = 0, stride = 0, at = 0;
};
