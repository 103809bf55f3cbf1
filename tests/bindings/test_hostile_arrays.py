"""Arrays as they come: any layout gives the same bits, and what makes no sense is an error in a sentence."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from sdk.bindings import arrays, capi
from sdk.kernels.options import CalibrationOptions

try:
    arrays.library()
except ImportError as error:
    pytest.skip(f"no compiled CPU library: {error}", allow_module_level=True)


def inputs(rng, batch=2, heads=2, pixels=6, tokens=5, width=4, tracked=3):
    query, grad_out = rng.normal(size=(2, batch, heads, pixels, width)).astype(np.float32)
    key, value = rng.normal(size=(2, batch, heads, tokens, width)).astype(np.float32)
    indices = rng.integers(-1, tokens, (batch, tracked))
    grad_maps = rng.normal(size=(batch, tracked, pixels)).astype(np.float32)
    return query, key, value, indices, grad_out, grad_maps


def everything(query, key, value, indices, grad_out, grad_maps, **options):
    out, maps = arrays.attention_with_maps(query, key, value, indices, **options)
    return [
        out,
        maps,
        *arrays.attention_with_maps_backward(grad_out, grad_maps, query, key, value, indices, **options),
    ]


def same(results, others):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results, others, strict=True))


def relaid(rng, array):
    """The same numbers in another layout, type or byte order."""
    kind = rng.integers(9)
    if kind == 0:  # a field of packed records: strides that are no multiple of the numbers' size, addresses neither
        records = np.zeros(array.shape, [("odd", "u1"), ("it", array.dtype), ("end", "u1", int(rng.integers(1, 4)))])
        records["it"] = array
        return records["it"]
    if kind == 1:  # off by a byte
        memory = np.zeros(array.nbytes + 1, np.uint8)
        shifted = memory[1:].view(array.dtype).reshape(array.shape)
        shifted[...] = array
        return shifted
    if kind == 2:
        return np.flip(np.ascontiguousarray(np.flip(array, int(axis := rng.integers(array.ndim)))), int(axis))
    if kind == 3:  # any order of dimensions, not the last one last
        order = rng.permutation(array.ndim)
        return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    if kind == 4:  # every other one along each dimension
        wide = np.zeros([2 * n for n in array.shape], array.dtype)
        wide[(slice(None, None, 2),) * array.ndim] = array
        return wide[(slice(None, None, 2),) * array.ndim]
    if kind == 5:
        return array.astype(array.dtype.newbyteorder())
    if kind == 6:
        return array.astype(np.float64 if array.dtype.kind == "f" else rng.choice(["i1", "i2", "i4", ">i4"]))
    if kind == 7:
        array = array.copy()
        array.flags.writeable = False
        return array
    return array.tolist()


def test_any_layout_gives_the_same_bits():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = [int(n) for n in rng.integers(1, (3, 4, 9, 9, 20, 5))]
        given = inputs(rng, *sizes)
        want = everything(*given)
        assert same(want, everything(*(relaid(rng, x) for x in given)))
        maps = rng.random((sizes[0], 4, 3, 5)).astype(np.float32)
        assert same(arrays.calibration_loss(maps), arrays.calibration_loss(relaid(rng, maps)))


def test_arrays_that_repeat_themselves_are_read_as_they_are():
    rng = np.random.default_rng(0)
    line = rng.normal(size=200).astype(np.float32)
    sliding = np.lib.stride_tricks.as_strided(line, (2, 2, 6, 4), (8, 0, 4, 4))
    same_rows = np.broadcast_to(line[:4], (2, 2, 5, 4))
    indices = np.broadcast_to(np.array([1, 4]), (2, 2))
    grad_maps = np.broadcast_to(line[:6], (2, 2, 6))
    given = (sliding, same_rows, same_rows, indices, sliding, grad_maps)
    assert same(everything(*given), everything(*(x.copy() for x in given)))


@pytest.mark.parametrize(
    "sizes", [{"batch": 0}, {"pixels": 0}, {"tracked": 0}, {"batch": 0, "pixels": 0, "tracked": 0}]
)
def test_nothing_to_compute_gives_nothing(sizes):
    given = inputs(np.random.default_rng(0), **sizes)
    for _ in range(20):
        np.full((2, 2, 5, 4), np.nan, np.float32)  # freed at once, and often handed out again
        out, maps, *grads = everything(*given)
        assert out.shape == given[0].shape
        assert maps.shape == given[5].shape
        assert [grad.shape for grad in grads] == [x.shape for x in given[:3]]
        if "pixels" in sizes:
            assert not any(grad.any() for grad in grads)
    loss, grad = arrays.calibration_loss(np.zeros((0, 2, 3, 3)))
    assert loss.shape == (0,)
    assert grad.shape == (0, 2, 3, 3)


SHAPES = {"query": 0, "key": 1, "value": 2, "token_indices": 3, "grad_out": 4, "grad_maps": 5}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_checked(name):
    given = list(inputs(np.random.default_rng(0)))
    good = given[SHAPES[name]]
    for axis in range(good.ndim):
        for wrong in (np.concatenate([good, good.take([0], axis)], axis), good.take(range(good.shape[axis] - 1), axis)):
            given[SHAPES[name]] = wrong
            with pytest.raises(ValueError, match="must be"):
                everything(*given)
    for wrong in (good[0], good[None], good[..., None], np.float32(0)):
        given[SHAPES[name]] = wrong
        with pytest.raises(ValueError, match="must be"):
            everything(*given)
    for wrong in (good.astype(bool), good.astype(complex), good.astype(object), good.astype(str), None):
        if name == "grad_maps" and wrong is None:
            continue
        given[SHAPES[name]] = wrong
        with pytest.raises((TypeError, ValueError), match=f"{name} must"):
            everything(*given)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_heads_keys_and_columns_must_be_there(axis):
    query, key, value, indices, *_ = inputs(np.random.default_rng(0))
    if axis != 2:
        query = query.take([], axis)
    with pytest.raises(ValueError, match="at least one head, key and column"):
        arrays.attention_with_maps(query, key.take([], axis), value.take([], axis), np.full_like(indices, -1))


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (np.array([[2**64 - 1]], np.uint64), ValueError),  # -1 if it wraps
        (np.array([[2**32]], np.int64), ValueError),
        (np.array([[5]], np.uint8), ValueError),
        (np.array([[-2]], np.int8), ValueError),
        ([[2**70]], TypeError),
        (np.array([[1.9]]), TypeError),
        (np.array([[1.0]]), TypeError),
        (np.array([[True]]), TypeError),
        (np.array([["1"]]), TypeError),
        (np.array([[1]], "m8[s]"), TypeError),
    ],
)
def test_token_indices_are_integers_among_the_keys(wrong, kind):
    query, key, value, _, grad_out, _ = inputs(np.random.default_rng(0), 1, 1)
    with pytest.raises(
        kind, match="token index must be -1 or a position in 0..4" if kind is ValueError else "integers"
    ):
        arrays.attention_with_maps(query, key, value, wrong)
    with pytest.raises(kind, match="token"):
        arrays.attention_with_maps_backward(grad_out, None, query, key, value, wrong)


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, -math.inf, 1e300, 10**400, 1e-60, -(10**400)])
def test_scales_that_make_no_sense(scale):
    query, key, value, indices, *_ = inputs(np.random.default_rng(0))
    with pytest.raises(ValueError, match="scale must be above zero and finite in float32"):
        arrays.attention_with_maps(query, key, value, indices, scale=scale)


def test_numbers_of_any_kind_are_numbers():
    given = inputs(np.random.default_rng(0))
    for scale in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert same(everything(*given, scale=scale), everything(*given, scale=0.5))
    assert same(everything(*given, threads=np.int8(2)), everything(*given, threads=1))
    options = CalibrationOptions(suppress=np.int64(2), sigma=np.float32(0.5), bind=1)
    assert type(options.suppress) is int
    assert type(options.sigma) is float
    maps = np.random.default_rng(0).random((1, 2, 4, 4))
    assert same(arrays.calibration_loss(maps, options), arrays.calibration_loss(maps, suppress=2, sigma=0.5))


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"threads": -3}, ValueError, "threads must be at least 1"),
        ({"threads": 1.5}, TypeError, "threads must be a whole number"),
        ({"threads": True}, TypeError, "threads must be a whole number"),
        ({"threads": "2"}, TypeError, "threads must be a whole number"),
        ({"scale": "1"}, TypeError, "scale must be a number"),
        ({"scale": True}, TypeError, "scale must be a number"),
        ({"scale": 1j}, TypeError, "scale must be a number"),
    ],
)
def test_arguments_of_another_type(arguments, kind, match):
    query, key, value, indices, grad_out, grad_maps = inputs(np.random.default_rng(0))
    with pytest.raises(kind, match=match):
        arrays.attention_with_maps(query, key, value, indices, **arguments)
    with pytest.raises(kind, match=match):
        arrays.attention_with_maps_backward(grad_out, grad_maps, query, key, value, indices, **arguments)


@pytest.mark.parametrize("threads", [256, 257, 100_000, 2**31, 2**32 + 1, 2**70])
def test_any_number_of_threads_works(threads):
    given = inputs(np.random.default_rng(0), batch=40, heads=10)
    assert same(everything(*given, threads=threads), everything(*given, threads=1))


def test_without_threads_the_calling_one_does_the_work():
    """The system refuses to start any: seen by a process that may have no more than it has."""
    code = (
        "import resource, threading, numpy as np\n"
        "from sdk.bindings import arrays\n"
        "rng = np.random.default_rng(0)\n"
        "given = [*rng.random((3, 4, 8, 6, 4)), np.zeros((4, 1), int)]\n"
        "want = arrays.attention_with_maps(*given, threads=1)[0]\n"
        # A thread's stack is reserved as a whole: with less room than that left for addresses none starts.
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    threading.Thread(target=int).start()\n"
        "except RuntimeError:\n"
        "    assert (arrays.attention_with_maps(*given, threads=32)[0] == want).all()\n"
        "    print('none started')\n"
    )
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("reads what is used from /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "none started\n"


@pytest.mark.parametrize(
    ("maps", "options", "kind", "match"),
    [
        (np.zeros((1, 2, 4)), {}, ValueError, "S >= 1"),
        (np.zeros((1, 0, 4, 4)), {}, ValueError, "S >= 1"),
        (np.zeros((1, 2, 0, 4)), {}, ValueError, "at least one cell"),
        (np.zeros((1, 2, 1, 4)), {}, ValueError, "no neighbours to blur with"),
        (np.zeros((1, 2, 4, 4), bool), {}, TypeError, "maps must hold real numbers"),
        (np.zeros((1, 2, 4, 4), complex), {}, TypeError, "maps must hold real numbers"),
        (np.zeros((1, 2, 4, 4)), {"suppress": 10**9}, ValueError, "suppress must be at most 16"),
        (np.zeros((1, 2, 4, 4)), {"suppress": 1.5}, TypeError, "suppress must be a whole number"),
        (np.zeros((1, 2, 4, 4)), {"sigma": math.inf}, ValueError, "sigma must be finite"),
        (np.zeros((1, 2, 4, 4)), {"options": {"sigma": 1}}, TypeError, "options must be CalibrationOptions or None"),
        (np.zeros((1, 2, 4, 4)), {"threads": 0}, ValueError, "threads"),
    ],
)
def test_losses_that_make_no_sense(maps, options, kind, match):
    with pytest.raises(kind, match=match):
        arrays.calibration_loss(maps, **options)


def test_names_of_instruction_sets_are_text():
    for name, kind in ((7, TypeError), (b"amx", TypeError), ("", ValueError), ("portable\0", ValueError)):
        with pytest.raises(kind):
            arrays.use_instruction_set(name)


def test_too_little_memory_is_a_memory_error():
    with pytest.raises(MemoryError, match="not enough memory"):
        capi.check(capi.NO_MEMORY)
