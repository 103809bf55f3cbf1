// Attention in bfloat16 with float32 sums, for matrix units that multiply pairs of neighbours along the depth.
//
// The includer defines NAME, LANES and DEPTH (the depth that one instruction takes; everything is padded to it), and
// before including, in namespace pk::NAME, a type Products:
//
//     Products();   // prepares the unit on this thread; its destructor gives it back
//     // c[rows, columns] (+)= a b. a: bfloat16 [rows, a_row >= depth]; b: pairs [depth / 2, b_row >= columns, 2].
//     // rows and columns are multiples of 16, depth of DEPTH.
//     void operator()(const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t b_row, float *c, int64_t c_row,
//                     int64_t rows, int64_t columns, int64_t depth, bool accumulate);
//     // The same with a as left_turned wrote it. With LEFT_BY_PAIRS defined that is in words of two rows, which spares
//     // a transposition; otherwise transposed, its rows `depth` apart.
//     void turned(const uint16_t *a, const uint16_t *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
//                 int64_t columns, int64_t depth, bool accumulate);
//     Ahead ahead;  // of ahead.inl: what products ask the memory for while they compute
//
// HARDWARE_ROUNDING is defined if AVX-512's instructions that round to bfloat16 are there. (Compilers have a macro of
// their own for these, but not all of them define it where a pragma asks for the instructions.)
//
// The steps are those of attention.inl; only the layouts differ. Like stock attention in bfloat16, probabilities and
// their gradients are rounded to bfloat16 before they are multiplied.

namespace pk {
namespace NAME {
namespace {

#include "vectors.inl"
// The layouts build on the vectors.
#include "pairs_layouts.inl"

// Hands out pieces of the scratch memory, each starting on a cache line; counts alone when there is none.
struct Pieces {
  char *memory;
  int64_t used = 0;
  template <typename T>
  T *take(int64_t count) {
    T *piece = memory == nullptr ? nullptr : reinterpret_cast<T *>(memory + used);
    used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
};

struct ForwardMemory {
  uint16_t *key, *value, *query, *weights;
  float *scores, *result;
  int64_t bytes;
  ForwardMemory(const pk_attention &s, char *memory) {
    Pieces pieces{memory};
    key = pieces.take<uint16_t>(deep(s.width) * tiles(s.keys));
    value = pieces.take<uint16_t>(deep(s.keys) * tiles(s.width));
    query = pieces.take<uint16_t>(BLOCK * deep(s.width));
    weights = pieces.take<uint16_t>(BLOCK * roomy(s.keys));
    scores = pieces.take<float>(BLOCK * tiles(s.keys));
    result = pieces.take<float>(BLOCK * tiles(s.width));
    bytes = pieces.used;
  }
};

struct BackwardMemory {
  uint16_t *key_columns, *value_columns, *key, *query, *query_pairs, *grad_out, *grad_pairs, *rows;
  uint16_t *turned_weights, *turned_grads;
  float *weights, *grads, *grad_query, *grad_key, *grad_value;
  int64_t bytes;
  BackwardMemory(const pk_attention &s, char *memory) {
    Pieces pieces{memory};
    key_columns = pieces.take<uint16_t>(deep(s.width) * tiles(s.keys));
    value_columns = pieces.take<uint16_t>(deep(s.width) * tiles(s.keys));
    key = pieces.take<uint16_t>(deep(s.keys) * tiles(s.width));
    query = pieces.take<uint16_t>(BLOCK * deep(s.width));
    query_pairs = pieces.take<uint16_t>(BLOCK * tiles(s.width));
    grad_out = pieces.take<uint16_t>(BLOCK * deep(s.width));
    grad_pairs = pieces.take<uint16_t>(BLOCK * tiles(s.width));
    rows = pieces.take<uint16_t>(BLOCK * roomy(s.keys));
    turned_weights = pieces.take<uint16_t>(tiles(s.keys) * BLOCK);
    turned_grads = pieces.take<uint16_t>(tiles(s.keys) * BLOCK);
    weights = pieces.take<float>(BLOCK * tiles(s.keys));
    grads = pieces.take<float>(BLOCK * tiles(s.keys));
    grad_query = pieces.take<float>(BLOCK * tiles(s.width));
    grad_key = pieces.take<float>(tiles(s.keys) * tiles(s.width));
    grad_value = pieces.take<float>(tiles(s.keys) * tiles(s.width));
    bytes = pieces.used;
  }
};

inline int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }

void forward_pairs(const Forward &work, int64_t row, int64_t head, float *scratch) {
  const pk_attention &s = *work.shape;
  const ForwardMemory m(s, reinterpret_cast<char *>(scratch));
  const int64_t keys = tiles(s.keys), width = tiles(s.width);
  Products multiply;
  right_transposed(rows_of<uint16_t>(work.key, row, head), work.key.row_stride, m.key, s.keys, s.width);
  right_rows(rows_of<uint16_t>(work.value, row, head), work.value.row_stride, m.value, s.keys, s.width, deep(s.keys));
  float *columns = work.columns + (row * s.heads + head) * s.tracked * s.queries;
  const uint16_t *queries = rows_of<uint16_t>(work.query, row, head);
  uint16_t *outs = rows_of<uint16_t>(work.out, row, head);
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t last = least(first + BLOCK, s.queries), next = least(last + BLOCK, s.queries);
    const int64_t count = last - first, rows = tiles(count);
    const uint16_t *from = queries + first * work.query.row_stride;
    const Left query = left_rows(from, work.query.row_stride, m.query, count, s.width);
    multiply.ahead.want(outs, work.out.row_stride, first, last, s.width);
    multiply(query.at, query.row, m.key, keys, m.scores, keys, rows, keys, deep(s.width), false);
    softmax(m.scores, count, s.keys, s.scale);
    take_columns(s, row, m.scores, columns, first, count);
    left_block(m.scores, m.weights, count, s.keys);
    multiply.ahead.want(queries, work.query.row_stride, last, next, s.width);
    multiply(m.weights, roomy(s.keys), m.value, width, m.result, width, rows, width, deep(s.keys), false);
    pack(m.result, width, outs + first * work.out.row_stride, work.out.row_stride, count, s.width);
  }
}

void backward_pairs(const Backward &work, int64_t row, int64_t head, float *scratch) {
  const pk_attention &s = *work.shape;
  const BackwardMemory m(s, reinterpret_cast<char *>(scratch));
  const int64_t keys = tiles(s.keys), width = tiles(s.width);
  Products multiply;
  right_transposed(rows_of<uint16_t>(work.key, row, head), work.key.row_stride, m.key_columns, s.keys, s.width);
  right_transposed(rows_of<uint16_t>(work.value, row, head), work.value.row_stride, m.value_columns, s.keys, s.width);
  right_rows(rows_of<uint16_t>(work.key, row, head), work.key.row_stride, m.key, s.keys, s.width, deep(s.keys));
  const uint16_t *queries = rows_of<uint16_t>(work.query, row, head);
  const uint16_t *grad_outs = rows_of<uint16_t>(work.grad_out, row, head);
  uint16_t *grad_queries = rows_of<uint16_t>(work.grad_query, row, head);
  for (int64_t first = 0; first < s.queries; first += BLOCK) {
    const int64_t last = least(first + BLOCK, s.queries), next = least(last + BLOCK, s.queries);
    const int64_t count = last - first, rows = tiles(count);
    const int64_t depth = turned_depth(count);
    const bool again = first > 0;
    const uint16_t *from = queries + first * work.query.row_stride;
    const uint16_t *grad_from = grad_outs + first * work.grad_out.row_stride;
    const Left query = left_rows(from, work.query.row_stride, m.query, count, s.width);
    right_rows(from, work.query.row_stride, m.query_pairs, count, s.width, depth);
    const Left grad_out = left_rows(grad_from, work.grad_out.row_stride, m.grad_out, count, s.width);
    right_rows(grad_from, work.grad_out.row_stride, m.grad_pairs, count, s.width, depth);
    multiply.ahead.want(grad_queries, work.grad_query.row_stride, first, last, s.width);
    multiply(query.at, query.row, m.key_columns, keys, m.weights, keys, rows, keys, deep(s.width), false);
    softmax(m.weights, count, s.keys, s.scale);
    multiply(grad_out.at, grad_out.row, m.value_columns, keys, m.grads, keys, rows, keys, deep(s.width), false);
    add_column_gradients(s, row, work.grad_maps, m.grads, first, count);
    left_turned(m.weights, m.turned_weights, count, s.keys);
    softmax_backward(m.weights, m.grads, count, s.keys, s.scale);
    left_block(m.grads, m.rows, count, s.keys);
    left_turned(m.grads, m.turned_grads, count, s.keys);
    multiply.ahead.want(queries, work.query.row_stride, last, next, s.width);
    multiply(m.rows, roomy(s.keys), m.key, width, m.grad_query, width, rows, width, deep(s.keys), false);
    uint16_t *to = grad_queries + first * work.grad_query.row_stride;
    pack(m.grad_query, width, to, work.grad_query.row_stride, count, s.width);
    multiply.ahead.want(grad_outs, work.grad_out.row_stride, last, next, s.width);
    multiply.turned(m.turned_weights, m.grad_pairs, width, m.grad_value, width, keys, width, depth, again);
    multiply.turned(m.turned_grads, m.query_pairs, width, m.grad_key, width, keys, width, depth, again);
  }
  pack(m.grad_key, width, rows_of<uint16_t>(work.grad_key, row, head), work.grad_key.row_stride, s.keys, s.width);
  pack(m.grad_value, width, rows_of<uint16_t>(work.grad_value, row, head), work.grad_value.row_stride, s.keys, s.width);
}

#include "attention_long.inl"

int64_t floats(int64_t bytes) { return (bytes + 3) / 4; }

}  // namespace
}  // namespace NAME
}  // namespace pk

// The table of an instruction set that multiplies pairs; float32 goes to BASE.
#define PK_PAIRS_TABLE(VARIABLE, TEXT, BASE)                                                            \
  namespace pk {                                                                                       \
  namespace NAME {                                                                                     \
  namespace {                                                                                          \
  int64_t forward_scratch(const pk_attention &s) {                                                     \
    return s.type == PK_FLOAT32 ? BASE.forward_scratch(s) : floats(ForwardMemory(s, nullptr).bytes);   \
  }                                                                                                    \
  int64_t backward_scratch(const pk_attention &s) {                                                    \
    return s.type == PK_FLOAT32 ? BASE.backward_scratch(s) : floats(BackwardMemory(s, nullptr).bytes); \
  }                                                                                                    \
  void forward_head(const Forward &work, int64_t row, int64_t head, float *scratch) {                  \
    (work.shape->type == PK_FLOAT32 ? BASE.forward_head : forward_pairs)(work, row, head, scratch);    \
  }                                                                                                    \
  void backward_head(const Backward &work, int64_t row, int64_t head, float *scratch) {                \
    (work.shape->type == PK_FLOAT32 ? BASE.backward_head : backward_pairs)(work, row, head, scratch);  \
  }                                                                                                    \
  int64_t long_scratch(const pk_attention &s) { return floats(LongMemory(s, nullptr).bytes); }         \
  }                                                                                                    \
  }                                                                                                    \
  const Kernels VARIABLE = {TEXT, NAME::forward_scratch, NAME::backward_scratch, NAME::forward_head,   \
                            NAME::backward_head, NAME::long_scratch, NAME::long_backward_pairs};       \
  }
