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

typedef enum { PK_OK = 0, PK_BAD_SHAPE = 1, PK_BAD_TOKEN = 2, PK_BAD_OPTION = 3, PK_NO_MEMORY = 4 } pk_status;
typedef enum { PK_FLOAT32 = 0, PK_BFLOAT16 = 1 } pk_type;

/* One [batch, heads, rows, width] array: strides in elements; the width is contiguous. */
typedef struct {
  void *data;
  int64_t batch_stride, head_stride, row_stride;
} pk_array;

typedef struct {
  int64_t batch, heads, queries, keys, width;
  int64_t tracked;       /* K: tokens whose maps are wanted, 0 for none */
  const int64_t *tokens; /* [batch, tracked], positions in 0..keys-1; -1 tracks nothing */
  float scale;           /* factor on the logits, above zero */
  pk_type type;          /* of query, key, value and everything of their shape */
} pk_attention;

/* Runs task(argument, first, last) over ranges that cover 0..count-1 once, on as many threads as it likes, and returns
 * when all are done. NULL runs everything on the calling thread. */
typedef void (*pk_task)(void *argument, int64_t first, int64_t last);
typedef struct {
  void (*parallel_for)(void *context, int64_t count, pk_task task, void *argument);
  void *context;
} pk_runner;

/* A runner that starts `count` threads for each call and joins them; 1 or less runs on the calling thread. Products with
 * threads of their own pass their own runner instead. */
PK_API pk_runner pk_threads(int count);

/* A runner on another library's threads, through its loop: loop(first, last, grain, body, argument) runs
 * body(from, to, argument) over parts of first..last-1 of at least `grain` each, and returns 0, or anything else if it could
 * not (the calling thread then does all of it). LibTorch's torch_parallel_for is one. */
typedef void (*pk_body)(int64_t first, int64_t last, void *argument);
typedef int32_t (*pk_loop)(int64_t first, int64_t last, int64_t grain, pk_body body, void *argument);
PK_API pk_runner pk_threads_of(pk_loop loop);

/* out = softmax(query key^T * scale) value; maps [batch, tracked, queries]: probability of each token, mean over heads.
 * query and out have `queries` rows, key and value have `keys` rows. */
PK_API pk_status pk_attention_forward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                      pk_array out, float *maps, const pk_runner *runner);

/* Gradients from those of out and of maps (NULL: the maps were not used). Recomputes the probabilities. */
PK_API pk_status pk_attention_backward(const pk_attention *shape, pk_array query, pk_array key, pk_array value,
                                       pk_array grad_out, const float *grad_maps, pk_array grad_query,
                                       pk_array grad_key, pk_array grad_value, const pk_runner *runner);

typedef struct {
  int64_t batch, concepts, height, width; /* maps are [batch, 2 * concepts, height, width] */
  int normalize;                          /* min-max every map first */
  double sigma;                           /* of the 3x3 Gaussian in cells; 0 leaves it out */
  int suppress;                           /* how many times class maps are squared */
  double smooth;                          /* added to both sides of the IoU's fraction */
  double bind, separate;                  /* weights of the two kinds of terms */
} pk_calibration;

/* Loss [batch] of the maps in the order modifier_1, class_1, modifier_2, ..., and its gradient with respect to the maps
 * (NULL: not wanted). Rows whose maps are all zero have no loss and no gradient. */
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
