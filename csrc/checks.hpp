// What the C interface refuses before it reads or writes anything.
#pragma once

#include "include/personalizer_kernels.h"

namespace pk {

constexpr int MOST_SQUARINGS = 16;  // of pk_calibration: x^(2^16) is 0, 1 or infinite in any type

// Sizes whose products are countable, a scale and a type that exist, tokens among the keys.
pk_status checked(const pk_attention *shape);

// An array that is read, [batch, heads, rows, width] of a checked shape: rows may lie in each other, or be one and the
// same.
pk_status checked_input(const pk_attention &shape, int64_t rows, const pk_array &array);

// An array that is written: besides, no two elements share their place.
pk_status checked_output(const pk_attention &shape, int64_t rows, const pk_array &array);

// `count` elements of `size` bytes at an address: there, and where such elements may lie.
pk_status checked_memory(const void *at, int64_t count, int64_t size);

pk_status checked(const pk_calibration *options);

}  // namespace pk
