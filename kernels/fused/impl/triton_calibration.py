"""DisenDiff's calibration loss in Triton: one launch for a whole batch, loss and gradient at once.

One program per row of the batch: mean over layers and heads, min-max, Gaussian, squared class maps, soft IoU (see
reference.py, the definition), then all of it backwards by hand. The gradient with respect to the mean maps is
ready when the loss is, so the loss's own backward is one multiplication. The 3x3 Gaussian with reflected borders is
``A X A^T`` with a banded matrix A: no neighbour has to be looked up in memory, and its adjoint is ``A^T X A``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..options import CalibrationOptions


@triton.jit
def _band(side, centre, edge, SIDE: tl.constexpr):
    """The blur along one axis as a matrix ``[SIDE, SIDE]``: reflected at 0 and at ``side - 1``, zero beyond."""
    i, j = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    before = tl.where(i == 0, 1, i - 1)
    after = tl.where(i == side - 1, side - 2, i + 1)
    band = tl.where(i == j, centre, 0.0) + tl.where(j == before, edge, 0.0) + tl.where(j == after, edge, 0.0)
    return tl.where((i < side) & (j < side), band, 0.0)


@triton.jit
def _sandwich(left, middle, right):
    product = tl.dot(left, middle, input_precision="ieee")
    return tl.dot(product, right, input_precision="ieee")


@triton.jit
def _total(x):
    return tl.sum(tl.sum(x, 1), 0)


@triton.jit
def _squared(x, TIMES: tl.constexpr):
    for _ in tl.static_range(TIMES):
        x = x * x
    return x


@triton.jit
def _slope(other, value, bottom):
    """Derivative of the soft IoU ``value`` with respect to one map where the other is ``other``."""
    return (other - value * (1.0 - other)) / bottom


@triton.jit
def calibration_kernel(
    columns, loss, grad, blurred,
    column_b, column_h, heads, height, width, centre, edge, smooth, bind, separate,
    CONCEPTS: tl.constexpr, SUPPRESS: tl.constexpr, NORMALIZE: tl.constexpr, BLUR: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row of the batch. ``columns``: a tuple of ``[B, H, 2S, height * width]``, one for each layer."""
    row = tl.program_id(0).to(tl.int64)
    y, x = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    ok = (y < height) & (x < width)
    cells = height * width
    at = y * width + x
    here = row * 2 * CONCEPTS * cells + at
    rows_band = _band(height, centre, edge, ROWS)
    columns_band = _band(width, centre, edge, COLUMNS)
    touched = 0
    for m in tl.static_range(2 * CONCEPTS):
        mean = tl.zeros((ROWS, COLUMNS), tl.float32)
        for layer in tl.static_range(len(columns)):
            for head in range(heads):
                mean += tl.load(columns[layer] + row * column_b + head * column_h + m * cells + at, mask=ok, other=0.0)
        mean = mean / (heads * len(columns))
        touched = tl.maximum(touched, tl.max(tl.max((mean != 0.0).to(tl.int32), 1), 0))  # NaN is not zero
        tl.store(grad + here + m * cells, mean, mask=ok)  # kept here until its gradient takes its place
        if NORMALIZE:
            low = tl.min(tl.min(tl.where(ok, mean, float("inf")), 1), 0)
            high = tl.max(tl.max(tl.where(ok, mean, float("-inf")), 1), 0)
            mean = tl.where(ok, (mean - low) / (high - low + 1e-8), 0.0)
        if BLUR:
            mean = _sandwich(rows_band, mean, tl.trans(columns_band))
        tl.store(blurred + here + m * cells, mean, mask=ok)
    tl.debug_barrier()  # other threads of this program read what was stored
    pair_weight = separate / (CONCEPTS * (CONCEPTS - 1) / 2) if CONCEPTS > 1 else 0.0
    total = 0.0
    for m in tl.static_range(2 * CONCEPTS):
        blurred_map = tl.load(blurred + here + m * cells, mask=ok, other=0.0)
        slope = tl.zeros((ROWS, COLUMNS), tl.float32)
        if m % 2 == 0:  # a modifier is bound to its class word, whose map is taken as given
            name = _squared(tl.load(blurred + here + (m + 1) * cells, mask=ok, other=0.0), SUPPRESS)
            both = _total(name * blurred_map)
            bottom = _total(name) + _total(blurred_map) - both + smooth
            value = (both + smooth) / bottom
            total += bind * (1.0 - value)
            slope = -bind * _slope(name, value, bottom)
        else:
            own = _squared(blurred_map, SUPPRESS)
            for other in tl.static_range(1, 2 * CONCEPTS, 2):
                if other != m:
                    name = _squared(tl.load(blurred + here + other * cells, mask=ok, other=0.0), SUPPRESS)
                    both = _total(name * own)
                    bottom = _total(name) + _total(own) - both + smooth
                    value = (both + smooth) / bottom
                    if other > m:
                        total += pair_weight * value
                    slope += pair_weight * _slope(name, value, bottom)
            if CONCEPTS > 1:  # else nothing pulls on the class map, and its slope stays zero whatever it holds
                power = blurred_map
                for _ in tl.static_range(SUPPRESS):  # derivative of x^(2^s): a product of 2 x^(2^k)
                    slope = slope * 2.0 * power
                    power = power * power
        slope = tl.where(ok, slope, 0.0)
        if BLUR:
            slope = _sandwich(tl.trans(rows_band), slope, columns_band)
        if NORMALIZE:
            mean = tl.load(grad + here + m * cells, mask=ok, other=0.0)
            low = tl.min(tl.min(tl.where(ok, mean, float("inf")), 1), 0)
            high = tl.max(tl.max(tl.where(ok, mean, float("-inf")), 1), 0)
            span = high - low + 1e-8
            slope = tl.where(ok, slope, 0.0)
            sum_all = _total(slope)
            weighted = _total(slope * (mean - low)) / span
            is_high, is_low = ok & (mean == high), ok & (mean == low)
            at_high = -weighted / span / _total(is_high.to(tl.float32))
            at_low = (weighted - sum_all) / span / _total(is_low.to(tl.float32))
            slope = slope / span + tl.where(is_high, at_high, 0.0) + tl.where(is_low, at_low, 0.0)
            nothing = _total(mean * 0.0)  # NaN where a cell is not finite: then there is no range, and no slope
            slope = tl.where(nothing == 0.0, slope, nothing)
        tl.debug_barrier()  # every thread has read its cells of the mean map: its gradient may replace it
        tl.store(grad + here + m * cells, tl.where(touched > 0, slope, 0.0), mask=ok)
    tl.store(loss + row, tl.where(touched > 0, total, 0.0))


def launch_calibration(
    columns: Sequence[Tensor], height: int, width: int, options: CalibrationOptions
) -> tuple[Tensor, Tensor]:
    """Return the loss ``[B]`` and its gradient with respect to the mean maps ``[B, 2S, height, width]``.

    Args:
        columns: ``[B, H, 2S, height * width]`` float32, contiguous, one of each layer.
        height: of the maps, 2 to 64 cells.
        width: likewise.
        options: what is computed.
    """
    batch, heads, count, cells = columns[0].shape
    loss = columns[0].new_empty(batch)
    grad, blurred = (columns[0].new_empty(batch, count, height, width) for _ in range(2))
    square = options.sigma * options.sigma  # 0 for the smallest of sigmas
    edge = math.exp(-0.5 / square) if square > 0 else 0.0  # beside a centre of 1; then normalised
    calibration_kernel[(batch,)](
        tuple(columns), loss, grad, blurred,
        heads * count * cells, count * cells, heads, height, width,
        1 / (1 + 2 * edge), edge / (1 + 2 * edge), options.smooth, options.bind, options.separate,
        CONCEPTS=count // 2, SUPPRESS=options.suppress, NORMALIZE=options.normalize, BLUR=options.sigma > 0,
        ROWS=max(16, triton.next_power_of_2(height)), COLUMNS=max(16, triton.next_power_of_2(width)),
        num_warps=4 if cells <= 256 else 8,
    )  # fmt: skip
    return loss, grad
