/* Attention that also returns the probability maps of a few tokens, and the calibration loss on such maps, for CPUs.
 *
 * Plain C interface: no torch, no Python, no global state but the choice of instruction set. Arrays are borrowed for
 * the length of a call. All functions return PK_OK or say what was wrong; pk_message() puts it into words.
 */
#ifndef PERSONALIZER_KERNELS_H
#define PERSONALIZER_KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define PK_API __declspec(dllexport)
#else
#define PK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  PK_OK = 0,
  PK_BAD_SHAPE = 1,  /* a size below what it may be, or sizes whose product cannot be counted */
  PK_BAD_TOKEN = 2,  /* a token that is neither -1 nor a position among the keys */
  PK_BAD_OPTION = 3, /* an option, the scale or the type */
  PK_NO_MEMORY = 4,
  PK_BAD_STRIDE = 5, /* a negative stride, one that leads too far, outputs that overlap, misaligned addresses */
  PK_NULL = 6        /* a null pointer where there must be something */
} pk_status;
typedef enum { PK_FLOAT32 = 0, PK_BFLOAT16 = 1 } pk_type;

/* One [batch, heads, rows, width] array: strides in elements, none negative; the width is contiguous. The address is a
 * multiple of the element's size. Of what is read, elements may share their place (a stride of zero repeats a row); of
 * what is written none may. The data of an empty array may be null, the stride of a dimension of one is not looked at. */
typedef struct {
  void *data;
  int64_t batch_stride, head_stride, row_stride;
} pk_array;

typedef struct {
  int64_t batch, heads, queries, keys, width; /* batch and queries may be 0 */
  int64_t tracked;       /* K: tokens whose maps are wanted, 0 for none */
  const int64_t *tokens; /* [batch, tracked], positions in 0..keys-1; -1 tracks nothing */
  float scale;           /* factor on the logits, above zero and finite */
  pk_type type;          /* of query, key, value and everything of their shape */
} pk_attention;

/* Runs task(argument, first, last) over ranges that cover 0..count-1 once, on as many threads as it likes, and returns
 * when all are done. NULL runs everything on the calling thread. */
typedef void (*pk_task)(void *argument, int64_t first, int64_t last);
typedef struct {
  void (*parallel_for)(void *context, int64_t count, pk_task task, void *argument);
  void *context;
} pk_runner;

/* A runner that starts `count` threads for each call and joins them, at most 256 and never more than there is work for;
 * 1 or less runs on the calling thread, and so does what the system gives no thread for. Products with threads of
 * their own pass their own runner instead. */
PK_API pk_runner pk_threads(int count);

/* A runner on another library's threads, through its loop: loop(first, last, grain, body, argument) runs
 * body(from, to, argument) over parts of first..last-1 of at least `grain` each, and returns 0, or anything else if it could
 * not (the calling thread then does all of it). LibTorch's torch_parallel_for is one. NULL runs on the calling thread.
 * A forked process has lost the other library's threads: there, use another runner. */
typedef void (*pk_body)(int64_t first, int64_t last, void *argument);
typedef int32_t (*pk_loop)(int64_t first, int64_t last, int64_t grain, pk_body body, void *argument);
PK_API pk_runner pk_threads_of(pk_loop loop);

/* out = softmax(query key^T * scale) value; maps [batch, tracked, queries]: probability of each token, mean over heads.
 * query and out have `queries` rows, key and value have `keys` rows. The map of token -1 is zero.
 * NaN and infinities go where IEEE arithmetic on the formula sends them: a query with a logit that is NaN or
 * +infinity, or with all of them -infinity, has no probabilities, only NaN. */
PK_API pk_status pk_attention_forward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                      pk_array out, float *maps, const pk_runner *runner);

/* Gradients from those of out and of maps (NULL: the maps were not used). Recomputes the probabilities. What pulls on
 * the map of token -1 is ignored. */
PK_API pk_status pk_attention_backward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                       pk_array grad_out, const float *grad_maps, pk_array grad_query,
                                       pk_array grad_key, pk_array grad_value, const pk_runner *runner);

/* Gradients of attention over many keys that was computed elsewhere, from its result and, in logsums [batch, heads,
 * queries], the logarithm of the sum of exp(logits) of every query. For bfloat16 on instruction sets that multiply pairs
 * of it ("amx", "avx512_bf16", "tiles"), queries and keys in multiples of 32, tracked 0; else PK_BAD_OPTION. */
PK_API pk_status pk_attention_long_backward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                            pk_array out, const float *logsums, pk_array grad_out,
                                            pk_array grad_query, pk_array grad_key, pk_array grad_value,
                                            const pk_runner *runner);

typedef struct {
  int64_t batch, concepts, height, width; /* maps are [batch, 2 * concepts, height, width] */
  int normalize;                          /* min-max every map first */
  double sigma;                           /* of the 3x3 Gaussian in cells, 0 or more; 0 leaves it out */
  int suppress;                           /* how many times class maps are squared, 0 to 16 */
  double smooth;                          /* added to both sides of the IoU's fraction, 0 or more */
  double bind, separate;                  /* weights of the two kinds of terms, finite */
} pk_calibration;

/* Loss [batch] of the maps in the order modifier_1, class_1, modifier_2, ..., and its gradient with respect to the maps
 * (NULL: not wanted). Rows whose maps are all zero have no loss and no gradient; the loss of a row with a NaN or an
 * infinity is NaN. */
PK_API pk_status pk_calibration_loss(const pk_calibration *options, const float *maps, float *loss, float *grad,
                                     const pk_runner *runner);

/* What pk_attention_* run on: "amx", "avx512_bf16", "avx512", "avx2" or "portable"; and "tiles", the code for amx on plain
 * memory, which is slow and there for tests. */
PK_API const char *pk_instruction_set(void);

/* Choose another one; PK_BAD_OPTION if this processor or this build lacks it. NULL chooses the best. Not thread-safe. */
PK_API pk_status pk_use_instruction_set(const char *name);

PK_API const char *pk_message(pk_status status);

#ifdef __cplusplus
}
#endif
#endif
