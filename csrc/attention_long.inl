// The gradient of attention over many keys, from what a forward pass elsewhere left: its result and, for each query, the
// logarithm of the sum of its exponentials. Probabilities then need no pass of their own, and keys can be taken a piece at
// a time, which stays in the cache together with what is computed of it (Dao et al., FlashAttention, 2022, algorithm 4).
//
// Included by attention_pairs.inl, whose layouts and products it uses.

constexpr int64_t PIECE = 256;  // keys at a time

struct LongMemory {
  uint16_t *query, *query_pairs, *grad_out, *grad_pairs, *key_columns, *value_columns, *key, *rows;
  uint16_t *turned_weights, *turned_grads;
  float *weights, *grads, *grad_query, *grad_key, *grad_value, *shares;
  int64_t bytes;
  LongMemory(const pk_attention &s, char *memory) {
    Pieces pieces{memory};
    query = pieces.take<uint16_t>(s.queries * deep(s.width));
    query_pairs = pieces.take<uint16_t>(s.queries * tiles(s.width));
    grad_out = pieces.take<uint16_t>(s.queries * deep(s.width));
    grad_pairs = pieces.take<uint16_t>(s.queries * tiles(s.width));
    key_columns = pieces.take<uint16_t>(deep(s.width) * PIECE);
    value_columns = pieces.take<uint16_t>(deep(s.width) * PIECE);
    key = pieces.take<uint16_t>(PIECE * tiles(s.width));
    rows = pieces.take<uint16_t>(BLOCK * PIECE);
    turned_weights = pieces.take<uint16_t>(PIECE * BLOCK);
    turned_grads = pieces.take<uint16_t>(PIECE * BLOCK);
    weights = pieces.take<float>(BLOCK * PIECE);
    grads = pieces.take<float>(BLOCK * PIECE);
    grad_query = pieces.take<float>(s.queries * tiles(s.width));
    grad_key = pieces.take<float>(PIECE * tiles(s.width));
    grad_value = pieces.take<float>(PIECE * tiles(s.width));
    shares = pieces.take<float>(s.queries);
    bytes = pieces.used;
  }
};

// sum(grad_out * out) of every query, which is sum(P * dP).
void long_shares(const uint16_t *grad_out, int64_t grad_row, const uint16_t *out, int64_t out_row, float *shares,
                 int64_t queries, int64_t width) {
  for (int64_t n = 0; n < queries; ++n) {
    float sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += read(grad_out + n * grad_row + i) * read(out + n * out_row + i);
    shares[n] = sum;
  }
}

// Logits to probabilities, and dP to dS = P * (dP - share) * factor, both in place; [rows, keys].
void long_gradients(float *weights, float *grads, const float *logsums, const float *shares, int64_t rows, int64_t keys,
                    float factor) {
  for (int64_t r = 0; r < rows; ++r, weights += keys, grads += keys)
    for (int64_t t = 0; t < keys; t += LANES) {
      const Vector weight = exponential(load(weights + t) * factor - logsums[r]);
      store(weights + t, weight);
      store(grads + t, weight * (load(grads + t) - shares[r]) * factor);
    }
}

void long_backward_pairs(const LongBackward &work, int64_t row, int64_t head, float *scratch) {
  const pk_attention &s = *work.shape;
  const LongMemory m(s, reinterpret_cast<char *>(scratch));
  const int64_t width = tiles(s.width), wide = deep(s.width);
  Products multiply;
  const uint16_t *queries = rows_of<uint16_t>(work.query, row, head);
  const uint16_t *grad_outs = rows_of<uint16_t>(work.grad_out, row, head);
  const float *logsums = work.logsums + (row * s.heads + head) * s.queries;
  long_shares(grad_outs, work.grad_out.row_stride, rows_of<uint16_t>(work.out, row, head), work.out.row_stride, m.shares,
              s.queries, s.width);
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t count = least(BLOCK, s.queries - first);
    const uint16_t *from = queries + first * work.query.row_stride;
    const uint16_t *grad_from = grad_outs + first * work.grad_out.row_stride;
    right_rows(from, work.query.row_stride, m.query_pairs + first * width, count, s.width, turned_depth(count));
    right_rows(grad_from, work.grad_out.row_stride, m.grad_pairs + first * width, count, s.width, turned_depth(count));
  }
  const Left query = left_rows(queries, work.query.row_stride, m.query, s.queries, s.width);
  const Left grad_out = left_rows(grad_outs, work.grad_out.row_stride, m.grad_out, s.queries, s.width);
  for (int64_t at = 0; at < s.keys; at += PIECE) {
    const int64_t keys = least(PIECE, s.keys - at);
    const uint16_t *piece = rows_of<uint16_t>(work.key, row, head) + at * work.key.row_stride;
    const uint16_t *values = rows_of<uint16_t>(work.value, row, head) + at * work.value.row_stride;
    right_transposed(piece, work.key.row_stride, m.key_columns, keys, s.width);
    right_transposed(values, work.value.row_stride, m.value_columns, keys, s.width);
    right_rows(piece, work.key.row_stride, m.key, keys, s.width, keys);
    for (int64_t first = 0; first < s.queries; first += BLOCK) {
      const int64_t rows = least(BLOCK, s.queries - first), depth = turned_depth(rows);
      multiply(query.at + first * query.row, query.row, m.key_columns, keys, m.weights, keys, rows, keys, wide, false);
      multiply(grad_out.at + first * grad_out.row, grad_out.row, m.value_columns, keys, m.grads, keys, rows, keys, wide,
               false);
      long_gradients(m.weights, m.grads, logsums + first, m.shares + first, rows, keys, s.scale);
      left_block(m.grads, m.rows, rows, keys);
      left_turned(m.weights, m.turned_weights, rows, keys);
      left_turned(m.grads, m.turned_grads, rows, keys);
      multiply(m.rows, keys, m.key, width, m.grad_query + first * width, width, rows, width, keys, at > 0);
      multiply.turned(m.turned_weights, m.grad_pairs + first * width, width, m.grad_value, width, keys, width, depth,
                      first > 0);
      multiply.turned(m.turned_grads, m.query_pairs + first * width, width, m.grad_key, width, keys, width, depth,
                      first > 0);
    }
    uint16_t *grad_key = rows_of<uint16_t>(work.grad_key, row, head) + at * work.grad_key.row_stride;
    uint16_t *grad_value = rows_of<uint16_t>(work.grad_value, row, head) + at * work.grad_value.row_stride;
    pack(m.grad_key, width, grad_key, work.grad_key.row_stride, keys, s.width);
    pack(m.grad_value, width, grad_value, work.grad_value.row_stride, keys, s.width);
  }
  pack(m.grad_query, width, rows_of<uint16_t>(work.grad_query, row, head), work.grad_query.row_stride, s.queries, s.width);
}
