"""Attention with the columns of a few tokens, in Triton: one launch forward, two backward.

    O = softmax(Q K^T * scale) V          columns_k = P[:, token_k], for each head

All T <= 256 keys of a row are on chip at once, so softmax is a single pass: no online rescaling, no log-sum-exp to
store, and the probabilities never reach memory. Backward (DisenDiff's losses pull on the columns themselves):

    dP = dO V^T + dColumns at the tracked tokens;   dS = P o (dP - rowsum(P o dP))
    dQ = scale dS K;   dK = scale dS^T Q;   dV = P^T dO

It runs as two kernels, because one that also holds dK and dV spills registers at D = 160: the first, over blocks of
queries, writes dQ and leaves P and dS (in the inputs' type) in scratch memory; the second, over slices of the width,
sums dK and dV. No atomics, so results repeat bit by bit.

The width is walked through in chunks of 32 or 16 columns, so nothing is padded to a power of two (160 stays 160) and
no more than a chunk of each operand is in registers. Good up to 16 tracked tokens; more would want a product with
one-hot columns instead of masked sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops import rows_like

WARPS = 8  # with 4, the first backward kernel spills registers
# Queries per program, and how many steps of a loop are in memory at once. Of values of four bytes it is one: with 256
# keys three steps would need 288 KB of shared memory, which no GPU has.
_BLOCK, _STAGES = 64, 3
_BLOCK_FLOAT32, _STAGES_FLOAT32 = 32, 1
_LOG2_E = 1.4426950408889634


@triton.jit
def _chunk(pointer, rows, row_stride, row_ok, start, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """Load ``[rows, CHUNK]`` from column ``start`` on; columns from WIDTH on are zero."""
    columns = start + tl.arange(0, CHUNK)
    return tl.load(
        pointer + rows[:, None] * row_stride + columns[None, :], mask=row_ok[:, None] & (columns < WIDTH), other=0.0
    )


@triton.jit
def _store_chunk(pointer, value, rows, row_stride, row_ok, start, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    columns = start + tl.arange(0, CHUNK)
    tl.store(
        pointer + rows[:, None] * row_stride + columns[None, :],
        value.to(pointer.dtype.element_ty),
        mask=row_ok[:, None] & (columns < WIDTH),
    )


@triton.jit
def _probabilities(scores, scale_log2, keys, KEYS: tl.constexpr):
    """Softmax over the last dimension of raw scores ``[rows, KEYS]``; keys from ``keys`` on get nothing."""
    position = tl.arange(0, KEYS)
    scores = tl.where(position[None, :] < keys, scores * scale_log2, float("-inf"))
    scores = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return scores / tl.sum(scores, 1)[:, None]


@triton.jit
def forward_kernel(
    query, key, value, tokens, out, columns,
    query_b, query_h, query_n, key_b, key_h, key_t, value_b, value_h, value_t, out_b, out_h, out_n,
    scale_log2, heads, queries, keys,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, KEYS: tl.constexpr, TRACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head: out ``[BLOCK, WIDTH]`` and columns ``[TRACKED, BLOCK]``."""
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixels, positions = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, KEYS)
    pixel_ok, key_ok = pixels < queries, positions < keys
    query += row * query_b + head * query_h
    key += row * key_b + head * key_h
    value += row * value_b + head * value_h
    out += row * out_b + head * out_h
    scores = tl.zeros((BLOCK, KEYS), tl.float32)
    for start in tl.range(0, WIDTH, CHUNK):
        query_part = _chunk(query, pixels, query_n, pixel_ok, start, CHUNK, WIDTH)
        key_part = _chunk(key, positions, key_t, key_ok, start, CHUNK, WIDTH)
        scores = tl.dot(query_part, tl.trans(key_part), scores, input_precision="ieee")
    weights = _probabilities(scores, scale_log2, keys, KEYS)
    for k in tl.static_range(TRACKED):
        token = tl.load(tokens + row * TRACKED + k)
        column = tl.sum(tl.where(positions[None, :] == token, weights, 0.0), 1)
        tl.store(columns + ((row * heads + head) * TRACKED + k) * queries + pixels, column, mask=pixel_ok)
    low_weights = weights.to(value.dtype.element_ty)
    for start in tl.range(0, WIDTH, CHUNK):
        value_part = _chunk(value, positions, value_t, key_ok, start, CHUNK, WIDTH)
        result = tl.dot(low_weights, value_part, input_precision="ieee")
        _store_chunk(out, result, pixels, out_n, pixel_ok, start, CHUNK, WIDTH)


@triton.jit
def backward_rows_kernel(
    query, key, value, tokens, grad_out, grad_columns, grad_query, weights_out, grad_scores_out,
    query_b, query_h, query_n, key_b, key_h, key_t, value_b, value_h, value_t, grad_b, grad_h, grad_n,
    column_b, column_h, column_k, column_n, dq_b, dq_h, dq_n,
    scale, scale_log2, heads, queries, keys,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, KEYS: tl.constexpr, TRACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head: dQ, and P and dS ``[BLOCK, KEYS]`` for :func:`backward_keys_kernel`."""
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixels, positions = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, KEYS)
    pixel_ok, key_ok = pixels < queries, positions < keys
    query += row * query_b + head * query_h
    key += row * key_b + head * key_h
    value += row * value_b + head * value_h
    grad_out += row * grad_b + head * grad_h
    grad_query += row * dq_b + head * dq_h
    scores = tl.zeros((BLOCK, KEYS), tl.float32)
    for start in tl.range(0, WIDTH, CHUNK):
        query_part = _chunk(query, pixels, query_n, pixel_ok, start, CHUNK, WIDTH)
        key_part = _chunk(key, positions, key_t, key_ok, start, CHUNK, WIDTH)
        scores = tl.dot(query_part, tl.trans(key_part), scores, input_precision="ieee")
    grads = tl.zeros((BLOCK, KEYS), tl.float32)
    for start in tl.range(0, WIDTH, CHUNK):
        grad_part = _chunk(grad_out, pixels, grad_n, pixel_ok, start, CHUNK, WIDTH)
        value_part = _chunk(value, positions, value_t, key_ok, start, CHUNK, WIDTH)
        grads = tl.dot(grad_part, tl.trans(value_part), grads, input_precision="ieee")
    weights = _probabilities(scores, scale_log2, keys, KEYS)
    for k in tl.static_range(TRACKED):
        token = tl.load(tokens + row * TRACKED + k)
        column = tl.load(
            grad_columns + row * column_b + head * column_h + k * column_k + pixels * column_n, mask=pixel_ok, other=0.0
        )
        grads += tl.where(positions[None, :] == token, column[:, None], 0.0)
    grads = weights * (grads - tl.sum(weights * grads, 1)[:, None])
    scratch = ((row * heads + head) * queries + pixels[:, None]) * KEYS + positions[None, :]
    tl.store(weights_out + scratch, weights.to(weights_out.dtype.element_ty), mask=pixel_ok[:, None])
    tl.store(grad_scores_out + scratch, grads.to(grad_scores_out.dtype.element_ty), mask=pixel_ok[:, None])
    low_grads = grads.to(key.dtype.element_ty)
    for start in tl.range(0, WIDTH, CHUNK):
        key_part = _chunk(key, positions, key_t, key_ok, start, CHUNK, WIDTH)
        result = tl.dot(low_grads, key_part, input_precision="ieee") * scale
        _store_chunk(grad_query, result, pixels, dq_n, pixel_ok, start, CHUNK, WIDTH)


@triton.jit
def backward_keys_kernel(
    query, grad_out, weights_in, grad_scores_in, grad_key, grad_value,
    query_b, query_h, query_n, grad_b, grad_h, grad_n, dk_b, dk_h, dk_t, dv_b, dv_h, dv_t,
    scale, heads, queries, keys, first_key,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One slice of the width of one head: dK and dV ``[KEYS, CHUNK]``. Keys before ``first_key`` get zero."""
    part, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    positions, columns = tl.arange(0, KEYS), part * CHUNK + tl.arange(0, CHUNK)
    column_ok = columns < WIDTH
    query += row * query_b + head * query_h
    grad_out += row * grad_b + head * grad_h
    scratch = (row * heads + head) * queries
    sum_key = tl.zeros((KEYS, CHUNK), tl.float32)
    sum_value = tl.zeros((KEYS, CHUNK), tl.float32)
    for start in range(0, queries, BLOCK):
        pixels = start + tl.arange(0, BLOCK)
        pixel_ok = pixels < queries
        at = (scratch + pixels[:, None]) * KEYS + positions[None, :]
        ok = pixel_ok[:, None] & column_ok[None, :]
        weights = tl.load(weights_in + at, mask=pixel_ok[:, None], other=0.0)
        grads = tl.load(grad_out + pixels[:, None] * grad_n + columns[None, :], mask=ok, other=0.0)
        sum_value = tl.dot(tl.trans(weights), grads, sum_value, input_precision="ieee")
        grad_scores = tl.load(grad_scores_in + at, mask=pixel_ok[:, None], other=0.0)
        queries_part = tl.load(query + pixels[:, None] * query_n + columns[None, :], mask=ok, other=0.0)
        sum_key = tl.dot(tl.trans(grad_scores), queries_part, sum_key, input_precision="ieee")
    passed = (positions >= first_key)[:, None]
    ok = (positions < keys)[:, None] & column_ok[None, :]
    at_key = row * dk_b + head * dk_h + positions[:, None] * dk_t + columns[None, :]
    at_value = row * dv_b + head * dv_h + positions[:, None] * dv_t + columns[None, :]
    tl.store(grad_key + at_key, tl.where(passed, sum_key * scale, 0.0).to(grad_key.dtype.element_ty), mask=ok)
    tl.store(grad_value + at_value, tl.where(passed, sum_value, 0.0).to(grad_value.dtype.element_ty), mask=ok)


def chunk_of(width: int) -> int:
    """Return how many columns are worked on at a time."""
    return 32 if width % 32 == 0 else 16


def sizes(width: int, keys: int, tracked: int, item_bytes: int) -> dict[str, int]:
    """Return the compile-time sizes of the row kernels for values of so many bytes."""
    key_block = max(16, triton.next_power_of_2(keys))
    block = _BLOCK_FLOAT32 if item_bytes == 4 else _BLOCK
    return {"WIDTH": width, "CHUNK": chunk_of(width), "KEYS": key_block, "TRACKED": tracked, "BLOCK": block}


def options(item_bytes: int) -> dict[str, int]:
    """Return what the compiler is told for values of so many bytes."""
    return {"num_warps": WARPS, "num_stages": _STAGES_FLOAT32 if item_bytes == 4 else _STAGES}


def launch_forward(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return out ``[B, H, N, D]`` and columns ``[B, H, K, N]`` float32; the last dimension of inputs is contiguous."""
    batch, heads, queries, width = query.shape
    out = rows_like(query)
    columns = query.new_empty(batch, heads, tokens.shape[1], queries, dtype=torch.float32)
    constants = sizes(width, key.shape[2], tokens.shape[1], query.itemsize)
    forward_kernel[(triton.cdiv(queries, constants["BLOCK"]), heads, batch)](
        query, key, value, tokens, out, columns,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *out.stride()[:3],
        scale * _LOG2_E, heads, queries, key.shape[2], **constants, **options(query.itemsize),
    )  # fmt: skip
    return out, columns


def launch_backward(
    grad_out: Tensor,
    grad_columns: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tensor,
    scale: float,
    first_key: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dQ, dK and dV; ``grad_columns`` ``[B, H, K, N]`` may have any strides, also zero ones."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    constants = sizes(width, keys, tokens.shape[1], query.itemsize)
    grad_query, grad_key, grad_value = rows_like(query), rows_like(key), rows_like(value)
    weights, grad_scores = (query.new_empty(batch, heads, queries, constants["KEYS"]) for _ in range(2))
    backward_rows_kernel[(triton.cdiv(queries, constants["BLOCK"]), heads, batch)](
        query, key, value, tokens, grad_out, grad_columns, grad_query, weights, grad_scores,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad_out.stride()[:3],
        *grad_columns.stride(), *grad_query.stride()[:3],
        scale, scale * _LOG2_E, heads, queries, keys, **constants, **options(query.itemsize),
    )  # fmt: skip
    part = {name: constants[name] for name in ("WIDTH", "CHUNK", "KEYS", "BLOCK")}
    backward_keys_kernel[(triton.cdiv(width, constants["CHUNK"]), heads, batch)](
        query, grad_out, weights, grad_scores, grad_key, grad_value,
        *query.stride()[:3], *grad_out.stride()[:3], *grad_key.stride()[:3], *grad_value.stride()[:3],
        scale, heads, queries, keys, first_key,
        **part, **options(query.itemsize),
    )  # fmt: skip
    return grad_query, grad_key, grad_value
