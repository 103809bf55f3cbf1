/* Calls the C interface at random: shapes, strides, types, tokens, runners and instruction sets, NaN and infinities,
 * and one thing wrong in every fourth call. Built by the sanitizer test.
 *
 * usage: random_driver CALLS SEED
 *
 * Every array has exactly the memory that its strides reach, so that one element too far is seen by the sanitizer, and
 * a mark in every gap between rows that are written. The same call on the portable instruction set says where NaN and
 * infinities belong. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "personalizer_kernels.h"

enum { MARK = 0x5a, ARRAYS = 8 };

static uint64_t state;
static int64_t call_number;

static int64_t below(int64_t bound) { /* 0..bound-1 */
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (int64_t)(state >> 11) % bound;
}
static int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }

static void expect(int condition, const char *what) {
  if (!condition) {
    fprintf(stderr, "call %lld: failed: %s\n", (long long)call_number, what);
    exit(1);
  }
}

static float number(int hostile) {
  static const float others[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 3e38f, -3e38f, 1e-40f, 100.0f};
  if (hostile && below(20) == 0) return others[below(hostile == 1 ? 3 : 9)];
  return (float)below(2001) / 500.0f - 2.0f;
}

static void put(void *memory, int64_t at, pk_type type, float value) {
  uint32_t bits;
  if (type == PK_FLOAT32) {
    ((float *)memory)[at] = value;
    return;
  }
  memcpy(&bits, &value, sizeof bits);
  ((uint16_t *)memory)[at] = (uint16_t)(bits >> 16 | (isnan(value) ? 0x40 : 0));
}

static float get(const void *memory, int64_t at, pk_type type) {
  float value;
  uint32_t bits;
  if (type == PK_FLOAT32) return ((const float *)memory)[at];
  bits = (uint32_t)((const uint16_t *)memory)[at] << 16;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static int kind(float value) { return isnan(value) ? 1 : isinf(value) ? (value > 0 ? 2 : 3) : 0; }

/* An array of [batch, heads, rows, width] and the memory that it reaches. */
typedef struct {
  pk_array view;
  int64_t sizes[4], reach, bytes;
  pk_type type;
} array;

static int64_t place(const array *a, const int64_t *at) {
  return at[0] * a->view.batch_stride + at[1] * a->view.head_stride + at[2] * a->view.row_stride + at[3];
}

/* Calls the body with every index of an array. */
#define EACH(a, at)                                          \
  for (int64_t at[4] = {0, 0, 0, 0}; at[0] < (a)->sizes[0]; ++at[0]) \
    for (at[1] = 0; at[1] < (a)->sizes[1]; ++at[1])          \
      for (at[2] = 0; at[2] < (a)->sizes[2]; ++at[2])        \
        for (at[3] = 0; at[3] < (a)->sizes[3]; ++at[3])

static array made(const int64_t *sizes, pk_type type, int written, int hostile) {
  array a = {{NULL, 0, 0, 0}, {sizes[0], sizes[1], sizes[2], sizes[3]}, sizes[3], 0, type};
  int64_t *const strides[3] = {&a.view.batch_stride, &a.view.head_stride, &a.view.row_stride};
  int order[3] = {0, 1, 2};
  for (int i = 2; i > 0; --i) {
    const int other = (int)below(i + 1), kept = order[i];
    order[i] = order[other], order[other] = kept;
  }
  for (int i = 0; i < 3; ++i) { /* the innermost first, each beyond what is inside it */
    const int dim = order[i];
    *strides[dim] = a.reach + (below(2) ? below(5) : 0);
    if (!written && below(6) == 0) *strides[dim] = below(a.reach + 1); /* rows that lie in each other, or are one */
    if (sizes[dim] > 1) a.reach += (sizes[dim] - 1) * *strides[dim];
    else if (below(4) == 0) *strides[dim] = below(2) ? INT64_MIN : INT64_MAX; /* never used */
  }
  if (sizes[0] * sizes[1] * sizes[2] * sizes[3] == 0) {
    a.reach = 0;
    if (below(2)) return a; /* an empty array may be nowhere */
  }
  a.bytes = a.reach * (type == PK_FLOAT32 ? 4 : 2);
  a.view.data = malloc((size_t)a.bytes + (a.bytes == 0));
  memset(a.view.data, MARK, (size_t)a.bytes);
  if (!written) EACH(&a, at) put(a.view.data, place(&a, at), type, number(hostile));
  return a;
}

/* Only what belongs to the array may have been written. */
static void expect_marks(const array *a) {
  if (a->bytes == 0) return;
  char *belongs = calloc((size_t)a->bytes, 1);
  const int64_t size = a->bytes / a->reach;
  EACH(a, at) memset(belongs + place(a, at) * size, 1, (size_t)size);
  for (int64_t i = 0; i < a->bytes; ++i)
    expect(belongs[i] || ((const unsigned char *)a->view.data)[i] == MARK, "nothing written between rows");
  free(belongs);
}

static void expect_untouched(const array *a) {
  for (int64_t i = 0; i < a->bytes; ++i)
    expect(((const unsigned char *)a->view.data)[i] == MARK, "nothing written by a call that is refused");
}

static int32_t halves(int64_t first, int64_t last, int64_t grain, pk_body body, void *argument) {
  const int64_t middle = (first + last) / 2;
  (void)grain;
  if (middle > first) body(first, middle, argument);
  if (last > middle) body(middle, last, argument);
  return 0;
}

static pk_runner runner(int64_t count) {
  if (count > 300) return pk_threads(100000); /* more work than there may be threads, and fewer than are wanted */
  switch (below(5)) {
    case 0: return pk_threads_of(halves);
    case 1: return pk_threads_of(NULL);
    case 2: return pk_threads(below(20) ? (int)between(-3, 1) : 100000);
    default: return pk_threads((int)between(1, 3));
  }
}

static const char *const SETS[] = {"avx2", "avx512", "avx512_bf16", "amx", "tiles", "portable"};
static int sets_used[6];

static void choose_set(void) {
  int set;
  do set = (int)below(6);
  while (pk_use_instruction_set(SETS[set]) != PK_OK);
  ++sets_used[set];
}

/* query, key, value, out, grad_query, grad_key, grad_value, grad_out */
static pk_status attend(const pk_attention *shape, const array *a, float *maps, const float *grad_maps, int backward) {
  const pk_runner threads = runner(0);
  const pk_runner *chosen = below(4) ? &threads : NULL;
  return backward ? pk_attention_backward(shape, a[0].view, a[1].view, a[2].view, a[7].view, grad_maps, a[4].view,
                                          a[5].view, a[6].view, chosen)
                  : pk_attention_forward(shape, a[0].view, a[1].view, a[2].view, a[3].view, maps, chosen);
}

static int uses(int index, int backward) { return index < 3 || (backward ? index > 3 : index == 3); }
static int writes(int index) { return index > 2 && index < 7; }

/* Makes one thing wrong; returns what is to be said of it, or PK_OK if it had nothing to spoil. */
static pk_status spoil(pk_attention *s, array *a, int64_t *tokens, float **maps, int backward) {
  static const float scales[] = {0.0f, -1.0f, NAN, INFINITY, -INFINITY};
  static const int64_t sizes[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX / 2, (int64_t)1 << 58};
  int64_t *const fields[] = {&s->batch, &s->heads, &s->queries, &s->keys, &s->width, &s->tracked};
  int index;
  do index = (int)below(ARRAYS);
  while (!uses(index, backward));
  int64_t *const strides[] = {&a[index].view.batch_stride, &a[index].view.head_stride, &a[index].view.row_stride};
  const int dim = (int)below(3);
  switch (below(8)) {
    case 0: return s->scale = scales[below(5)], PK_BAD_OPTION;
    case 1: return s->type = (pk_type)between(2, 9), PK_BAD_OPTION;
    case 2: return *fields[below(6)] = sizes[below(5)], PK_BAD_SHAPE;
    case 3: return *fields[(int[]){1, 3, 4}[below(3)]] = 0, PK_BAD_SHAPE;
    case 4:
      if (s->batch * s->tracked == 0) return PK_OK;
      if (below(4) == 0) return s->tokens = NULL, PK_NULL;
      tokens[below(s->batch * s->tracked)] = below(2) ? s->keys + below(1000) : -2 - below(1000);
      return PK_BAD_TOKEN;
    case 5:
      if (a[index].reach == 0) return PK_OK;
      if (below(2)) return a[index].view.data = NULL, PK_NULL;
      return a[index].view.data = (char *)a[index].view.data + 1, PK_BAD_STRIDE;
    case 6:
      if (a[index].reach == 0 || a[index].sizes[dim] < 2) return PK_OK;
      *strides[dim] = writes(index) && below(2) ? below(s->width) : below(2) ? -1 - below(100) : INT64_MAX / 2;
      return PK_BAD_STRIDE;
    default:
      if (backward || s->batch * s->tracked * s->queries == 0) return PK_OK;
      return *maps = NULL, PK_NULL;
  }
}

static void attention(void) {
  const pk_type type = (pk_type)below(2);
  const int large = below(40) == 0, wrong = below(4) == 0, backward = (int)below(2), hostile = (int)below(3);
  pk_attention s = {between(0, 3), between(1, 3), below(large ? 140 : 20), between(1, large ? 90 : 40),
                    between(1, large ? 70 : 36), below(4), NULL, 0.3f, type};
  if (below(8)) s.batch += s.batch == 0, s.queries += s.queries == 0;
  const int64_t count = s.batch * s.tracked, cells = count * s.queries;
  int64_t *tokens = malloc((size_t)count * sizeof *tokens + 1);
  for (int64_t i = 0; i < count; ++i) tokens[i] = between(-1, s.keys - 1);
  s.tokens = count || below(2) ? tokens : NULL;
  const int64_t long_sizes[4] = {s.batch, s.heads, s.queries, s.width};
  const int64_t short_sizes[4] = {s.batch, s.heads, s.keys, s.width};
  array a[ARRAYS];
  for (int i = 0; i < ARRAYS; ++i) {
    const int of_keys = i == 1 || i == 2 || i == 5 || i == 6;
    a[i] = made(of_keys ? short_sizes : long_sizes, type, writes(i), hostile);
  }
  float *maps = malloc((size_t)cells * sizeof *maps + 1), *again = malloc((size_t)cells * sizeof *maps + 1);
  float *pull = below(3) ? malloc((size_t)cells * sizeof *pull + 1) : NULL;
  for (int64_t i = 0; pull != NULL && i < cells; ++i) pull[i] = number(hostile);
  void *kept[ARRAYS];
  for (int i = 0; i < ARRAYS; ++i) kept[i] = a[i].view.data;
  choose_set();
  if (wrong) {
    float *target = maps;
    const pk_status said = spoil(&s, a, tokens, &target, backward), got = attend(&s, a, target, pull, backward);
    expect(got == said, "the status of a wrong call");
    for (int i = 0; i < ARRAYS; ++i) {
      a[i].view.data = kept[i];
      if (writes(i) && said != PK_OK) expect_untouched(&a[i]);
    }
  } else {
    expect(attend(&s, a, maps, pull, backward) == PK_OK, "a good call");
    array other[ARRAYS];
    memcpy(other, a, sizeof a);
    for (int i = 0; i < ARRAYS; ++i)
      if (writes(i) && uses(i, backward)) {
        expect_marks(&a[i]);
        other[i] = made(a[i].sizes, type, 1, 0);
      }
    expect(pk_use_instruction_set("portable") == PK_OK, "portable");
    expect(attend(&s, other, again, pull, backward) == PK_OK, "a good call once more");
    for (int i = 0; hostile < 2 && i < ARRAYS; ++i) /* near the largest number, sums in another order may overflow */
      if (writes(i) && uses(i, backward))
        EACH(&a[i], at) {
          const float ours = get(a[i].view.data, place(&a[i], at), type);
          const float theirs = get(other[i].view.data, place(&other[i], at), type);
          expect(kind(ours) == kind(theirs), "NaN and infinities where portable code has them");
          expect(hostile || isfinite(ours), "finite numbers from finite numbers");
          expect(s.queries > 0 || ours == 0, "no gradient without queries");
        }
    for (int64_t i = 0; hostile < 2 && !backward && i < cells; ++i) {
      expect(kind(maps[i]) == kind(again[i]), "NaN in maps where portable code has it");
      expect(tokens[i / s.queries] >= 0 || maps[i] == 0, "zeros of no token");
    }
    for (int i = 0; i < ARRAYS; ++i)
      if (writes(i) && uses(i, backward)) free(other[i].view.data);
  }
  for (int i = 0; i < ARRAYS; ++i) free(kept[i]);
  free(tokens), free(maps), free(again), free(pull);
}

static void calibration(void) {
  const int wrong = below(3) == 0, hostile = (int)below(3), blurred = (int)below(2);
  pk_calibration o = {between(0, 3), between(1, 4), between(1 + blurred, 9), between(1 + blurred, 9), (int)below(2),
                      blurred ? 0.7 : 0.0, (int)below(5), below(2) ? 1.0 : 0.1, 1.0, 1.0};
  if (below(100) == 0) o.batch = between(301, 400);
  const int64_t line = 2 * o.concepts * o.height * o.width, count = o.batch * line, batch = o.batch;
  float *maps = malloc((size_t)count * sizeof *maps + 1), *loss = malloc((size_t)batch * sizeof *loss + 1);
  float *grad = below(3) ? malloc((size_t)count * sizeof *grad + 1) : NULL, *given = maps;
  const int empty = below(4) == 0;
  int lost = 0;
  for (int64_t i = 0; i < count; ++i) maps[i] = empty && i < line ? 0.0f : fabsf(number(hostile));
  for (int64_t i = 0; i < line && i < count; ++i) lost |= kind(maps[i]) != 0;
  pk_status said = PK_OK;
  if (wrong) {
    static const double numbers[] = {NAN, INFINITY, -INFINITY, -1.0};
    switch (below(6)) {
      case 0: *(double *[]){&o.sigma, &o.smooth}[below(2)] = numbers[below(4)], said = PK_BAD_OPTION; break;
      case 1: *(double *[]){&o.bind, &o.separate}[below(2)] = numbers[below(3)], said = PK_BAD_OPTION; break;
      case 2: o.suppress = (int[]){-1, 17, 1000000000, INT32_MIN}[below(4)], said = PK_BAD_OPTION; break;
      case 3:
        *(int64_t *[]){&o.concepts, &o.height, &o.width}[below(3)] = below(2) ? 0 : INT64_MAX / 3;
        said = PK_BAD_SHAPE;
        break;
      case 4: o.batch = below(2) ? -1 : INT64_MAX, said = PK_BAD_SHAPE; break;
      default: if (count > 0) given = NULL, said = PK_NULL;
    }
  }
  const pk_runner threads = runner(batch);
  expect(pk_calibration_loss(&o, given, loss, grad, below(3) ? &threads : NULL) == said, "the status of a loss");
  if (said == PK_OK && count > 0) {
    expect(!(empty || !lost) || hostile > 1 || isfinite(loss[0]), "a finite loss of finite maps");
    expect(!lost || isnan(loss[0]), "a loss of NaN where a map has one");
    for (int64_t i = line / 2; grad != NULL && o.concepts == 1 && !o.normalize && i < line; ++i)
      expect(grad[i] == 0, "no gradient of a single class map");
    for (int64_t i = 0; empty && i < line; ++i)
      expect(loss[0] == 0 && (grad == NULL || grad[i] == 0), "nothing of zeros");
  }
  free(maps), free(loss), free(grad);
}

int main(int count, char **arguments) {
  expect(count == 3, "usage: random_driver CALLS SEED");
  const int64_t calls = atoll(arguments[1]);
  state = 0x9e3779b97f4a7c15u ^ (uint64_t)atoll(arguments[2]);
  const pk_array none = {NULL, 0, 0, 0};
  expect(pk_attention_forward(NULL, none, none, none, none, NULL, NULL) == PK_NULL, "no shape");
  expect(pk_attention_backward(NULL, none, none, none, none, NULL, none, none, none, NULL) == PK_NULL, "no shape");
  expect(pk_calibration_loss(NULL, NULL, NULL, NULL, NULL) == PK_NULL, "no options");
  for (int status = PK_OK; status <= PK_NULL; ++status) expect(strlen(pk_message((pk_status)status)) > 3, "a message");
  for (call_number = 0; call_number < calls; ++call_number)
    if (below(4)) attention();
    else calibration();
  for (int set = 0; set < 6; ++set) printf("%s %d\n", SETS[set], sets_used[set]);
  return 0;
}
