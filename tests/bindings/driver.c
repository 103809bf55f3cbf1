/* Calls every function of the C interface on every instruction set, with awkward shapes. Built by the sanitizer test. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "personalizer_kernels.h"

static void *filled(int64_t count, pk_type type, unsigned seed) {
  void *memory = malloc((size_t)count * (type == PK_FLOAT32 ? 4 : 2));
  srand(seed);
  for (int64_t i = 0; i < count; ++i) {
    const float value = (float)rand() / (float)RAND_MAX - 0.5f;
    if (type == PK_FLOAT32) {
      ((float *)memory)[i] = value;
    } else {
      uint32_t bits;
      memcpy(&bits, &value, sizeof bits);
      ((uint16_t *)memory)[i] = (uint16_t)(bits >> 16);
    }
  }
  return memory;
}

static pk_array dense(void *data, int64_t heads, int64_t rows, int64_t width) {
  const pk_array array = {data, heads * rows * width, rows * width, width};
  return array;
}

static void expect(int condition, const char *what) {
  if (!condition) {
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
  }
}

static void attention(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t width, int64_t tracked,
                      pk_type type) {
  int64_t *tokens = malloc((size_t)(batch * tracked + 1) * sizeof *tokens);
  for (int64_t i = 0; i < batch * tracked; ++i) tokens[i] = i % (keys + 1) - 1;
  const pk_attention shape = {batch, heads, queries, keys, width, tracked, tokens, 0.3f, type};
  const int64_t long_side = batch * heads * queries * width, short_side = batch * heads * keys * width;
  void *query = filled(long_side, type, 1), *key = filled(short_side, type, 2), *value = filled(short_side, type, 3);
  void *out = filled(long_side, type, 4), *grad_query = filled(long_side, type, 5);
  void *grad_key = filled(short_side, type, 6), *grad_value = filled(short_side, type, 7);
  float *maps = filled(batch * tracked * queries, PK_FLOAT32, 8);
  const pk_runner runner = pk_threads(3);
  const pk_array q = dense(query, heads, queries, width), k = dense(key, heads, keys, width);
  const pk_array v = dense(value, heads, keys, width), o = dense(out, heads, queries, width);
  expect(pk_attention_forward(&shape, q, k, v, o, maps, &runner) == PK_OK, "forward");
  for (int64_t i = 0; i < batch * tracked * queries; ++i) expect(maps[i] >= 0 && maps[i] <= 1.001f, "probabilities");
  expect(pk_attention_backward(&shape, q, k, v, o, maps, dense(grad_query, heads, queries, width),
                               dense(grad_key, heads, keys, width), dense(grad_value, heads, keys, width),
                               &runner) == PK_OK,
         "backward");
  expect(pk_attention_backward(&shape, q, k, v, o, NULL, dense(grad_query, heads, queries, width),
                               dense(grad_key, heads, keys, width), dense(grad_value, heads, keys, width),
                               NULL) == PK_OK,
         "backward without maps");
  if (type == PK_FLOAT32)
    for (int64_t i = 0; i < short_side; ++i) expect(isfinite(((float *)grad_key)[i]), "finite gradients");
  free(tokens), free(query), free(key), free(value), free(out), free(grad_query), free(grad_key), free(grad_value);
  free(maps);
}

/* The gradient over many keys; `there`: whether this instruction set has it. */
static void long_attention(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t width, int there) {
  const pk_attention shape = {batch, heads, queries, keys, width, 0, NULL, 0.3f, PK_BFLOAT16};
  const int64_t long_side = batch * heads * queries * width, short_side = batch * heads * keys * width;
  void *long_ones[4], *short_ones[4];
  for (unsigned i = 0; i < 4; ++i) long_ones[i] = filled(long_side, PK_BFLOAT16, i);
  for (unsigned i = 0; i < 4; ++i) short_ones[i] = filled(short_side, PK_BFLOAT16, 4 + i);
  float *logsums = filled(batch * heads * queries, PK_FLOAT32, 9);
  const pk_runner runner = pk_threads(3);
  const pk_status wanted = there && queries % 32 == 0 && keys % 32 == 0 ? PK_OK : PK_BAD_OPTION;
  expect(pk_attention_long_backward(&shape, dense(long_ones[0], heads, queries, width),
                                    dense(short_ones[0], heads, keys, width), dense(short_ones[1], heads, keys, width),
                                    dense(long_ones[1], heads, queries, width), logsums,
                                    dense(long_ones[2], heads, queries, width),
                                    dense(long_ones[3], heads, queries, width), dense(short_ones[2], heads, keys, width),
                                    dense(short_ones[3], heads, keys, width), &runner) == wanted,
         "the gradient over many keys");
  for (int i = 0; i < 4; ++i) free(long_ones[i]), free(short_ones[i]);
  free(logsums);
}

/* Another library's loops: one that works, and one that cannot. */
static int32_t halves(int64_t first, int64_t last, int64_t grain, pk_body body, void *argument) {
  const int64_t middle = (first + last) / 2;
  expect(grain == 1, "a task is a head or a row");
  if (middle > first) body(first, middle, argument);
  if (last > middle) body(middle, last, argument);
  return 0;
}
static int32_t refuses(int64_t first, int64_t last, int64_t grain, pk_body body, void *argument) {
  (void)first, (void)last, (void)grain, (void)body, (void)argument;
  return 1;
}

static void calibration(int64_t batch, int64_t concepts, int64_t height, int64_t width) {
  const int64_t count = batch * 2 * concepts * height * width;
  const pk_calibration options = {batch, concepts, height, width, 1, 0.7, 1, 1.0, 1.0, 1.0};
  float *maps = filled(count, PK_FLOAT32, 1), *grad = filled(count, PK_FLOAT32, 2), *loss = filled(batch, PK_FLOAT32, 3);
  const pk_runner runner = pk_threads(2);
  expect(pk_calibration_loss(&options, maps, loss, grad, &runner) == PK_OK, "loss");
  expect(pk_calibration_loss(&options, maps, loss, NULL, NULL) == PK_OK, "loss without gradient");
  for (int64_t i = 0; i < batch; ++i) expect(isfinite(loss[i]), "finite loss");
  float *again = filled(batch, PK_FLOAT32, 4);
  const pk_loop loops[] = {halves, refuses};
  for (int i = 0; i < 2; ++i) {
    const pk_runner other = pk_threads_of(loops[i]);
    memset(again, 0, (size_t)batch * sizeof *again);
    expect(pk_calibration_loss(&options, maps, again, NULL, &other) == PK_OK, "loss on other threads");
    expect(memcmp(again, loss, (size_t)batch * sizeof *loss) == 0, "the same loss on other threads");
  }
  free(again);
  free(maps), free(grad), free(loss);
}

int main(void) {
  static const char *const sets[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx", "tiles"};
  static const int64_t shapes[][6] = {{1, 1, 1, 1, 1, 1},    {2, 3, 65, 77, 40, 4}, {1, 2, 63, 17, 33, 3},
                                      {1, 1, 130, 256, 5, 2}, {2, 1, 7, 3, 160, 0}, {1, 1, 64, 16, 16, 16}};
  for (size_t set = 0; set < sizeof sets / sizeof *sets; ++set) {
    if (pk_use_instruction_set(sets[set]) != PK_OK) continue;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i)
      for (int type = PK_FLOAT32; type <= PK_BFLOAT16; ++type) {
        const int64_t *s = shapes[i];
        attention(s[0], s[1], s[2], s[3], s[4], s[5], (pk_type)type);
      }
    static const int64_t longer[][5] = {{1, 2, 32, 32, 1},    {2, 3, 96, 544, 40}, {1, 1, 160, 288, 80},
                                        {1, 1, 128, 256, 33}, {1, 1, 40, 64, 8},   {1, 1, 64, 40, 8}};
    const int there = set >= 3;
    for (size_t i = 0; i < sizeof longer / sizeof *longer; ++i) {
      const int64_t *s = longer[i];
      long_attention(s[0], s[1], s[2], s[3], s[4], there);
    }
    printf("%s\n", pk_instruction_set());
  }
  calibration(3, 2, 16, 16);
  calibration(1, 1, 2, 3);
  calibration(2, 4, 5, 31);
  const int64_t wrong = 5;
  pk_attention bad = {1, 1, 1, 1, 1, 1, &wrong, 1.0f, PK_FLOAT32};
  float one = 1;
  const pk_array array = dense(&one, 1, 1, 1);
  expect(pk_attention_forward(&bad, array, array, array, array, &one, NULL) == PK_BAD_TOKEN, "a wrong token");
  bad.heads = 0;
  expect(pk_attention_forward(&bad, array, array, array, array, &one, NULL) == PK_BAD_SHAPE, "a wrong shape");
  expect(pk_use_instruction_set("mmx") == PK_BAD_OPTION, "an unknown instruction set");
  expect(strlen(pk_message(PK_BAD_TOKEN)) > 0, "a message");
  return 0;
}
