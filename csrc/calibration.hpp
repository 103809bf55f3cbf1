#pragma once

#include "include/personalizer_kernels.h"

namespace pk {

// Doubles of scratch memory that a row needs.
int64_t calibration_scratch(const pk_calibration &options);

// maps and grad [2S, height, width], loss one number; grad may be null.
void calibration_row(const pk_calibration &options, const float *maps, float *loss, float *grad, double *scratch);

}  // namespace pk
