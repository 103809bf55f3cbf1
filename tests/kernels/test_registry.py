"""Backends: a new one is one file and one line, one asked for by name never falls back, options are one object."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import sdk.kernels
from sdk.kernels import (
    CalibrationOptions,
    attention_with_columns,
    attention_with_maps,
    available_backends,
    calibrated_attention,
    calibration_loss,
    columns_loss,
    fastest_backend,
)

PACKAGE = Path(sdk.kernels.__file__).parent
READY = [name for name, status in available_backends().items() if status == "ready"]
needs = {
    name: pytest.mark.skipif(name not in READY, reason=f"{name}: {available_backends()[name]}")
    for name in ("cpp", "triton")
}

TOY = '''
"""Twice the reference's maps and loss."""
from . import reference
from .backend import Backend

def attention(query, key, value, token_indices, scale, detach_first):
    out, columns = reference.attention(query, key, value, token_indices, scale, detach_first)
    return out, 2 * columns

def loss(columns, height, width, options):
    return 2 * reference.loss(columns, height, width, options)

BACKEND = Backend(attention=attention, loss=loss)
'''

USE_TOY = """
import torch, copied
assert list(copied.available_backends()) == ["reference", "augmented_v", "triton", "cpp", "toy"]
assert copied.available_backends()["toy"] == "ready"
query, key, value = (torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in range(3))
tokens = torch.tensor([[1, 2]])
plain, toy = (copied.attention_with_maps(query, key, value, tokens, backend=name) for name in ("reference", "toy"))
assert torch.equal(toy[0], plain[0]) and torch.equal(toy[1], 2 * plain[1])
maps = torch.rand(1, 4, 3, 3, dtype=torch.float64)
assert torch.equal(copied.calibration_loss(maps, backend="toy"), 2 * copied.calibration_loss(maps, backend="reference"))
outs, loss = copied.calibrated_attention([query], [key], [value], tokens, backend="toy", sigma=0.4)
assert torch.isfinite(loss).all()
assert copied.fastest_backend(query) != "toy"
"""


def test_a_new_backend_is_one_file_and_one_line(tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (copied / "impl" / "toy.py").write_text(TOY)
    registry = copied / "impl" / "registry.py"
    before = registry.read_text()
    registry.write_text(before.replace('    "cpp",\n', '    "cpp",\n    "toy",\n', 1))
    assert len(registry.read_text().splitlines()) == len(before.splitlines()) + 1
    done = subprocess.run([sys.executable, "-c", USE_TOY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_names_and_their_order():
    assert list(available_backends()) == ["reference", "augmented_v", "triton", "cpp"]
    assert available_backends()["reference"] == available_backends()["augmented_v"] == "ready"


@needs["cpp"]
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_compiled_loss_never_falls_back(dtype):
    maps = torch.rand(1, 2, 4, 4).to(dtype)
    with pytest.raises(ValueError, match=f"backend 'cpp' takes float32 maps on the CPU, these are {dtype}"):
        calibration_loss(maps, backend="cpp")
    with pytest.raises(ValueError, match="backend 'cpp' takes float32 maps"):
        columns_loss([maps.flatten(2)[:, None]], 4, 4, CalibrationOptions(), backend="cpp")


@needs["triton"]
def test_the_triton_loss_never_falls_back():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float64, torch.float16):
        with pytest.raises(ValueError, match=f"backend 'triton' takes float32 maps, these are {dtype}"):
            calibration_loss(torch.rand(1, 2, 4, 4, device=device).to(dtype), backend="triton")
    with pytest.raises(ValueError, match="2 to 64 cells a side, got 4 x 65"):
        calibration_loss(torch.rand(1, 2, 4, 65, device=device), backend="triton")
    columns = [torch.rand(1, heads, 2, 16, device=device) for heads in (2, 3)]
    with pytest.raises(ValueError, match=r"equally many heads, got \[2, 3\]"):
        columns_loss(columns, 4, 4, CalibrationOptions(), backend="triton")


def test_unasked_any_type_is_taken():
    maps = torch.rand(2, 4, 5, 5, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        loss = calibration_loss(maps.to(dtype))
        assert loss.dtype == dtype
        if dtype != torch.float32:
            assert torch.equal(loss, calibration_loss(maps.to(dtype), backend="reference"))
    assert fastest_backend(maps) == "reference"
    if "cpp" in READY:
        assert fastest_backend(maps.float()) == fastest_backend(maps.bfloat16()) == "cpp"
        assert torch.equal(calibration_loss(maps.float()), calibration_loss(maps.float(), backend="cpp"))


def test_augmented_v_has_the_plain_loss():
    maps = torch.rand(2, 4, 5, 5)
    assert torch.equal(calibration_loss(maps, backend="augmented_v"), calibration_loss(maps, backend="reference"))
    layer = [torch.randn(1, 2, 16, 8) for _ in range(3)]
    outs, loss = calibrated_attention(*([x] for x in layer), torch.tensor([[1, 2]]), backend="augmented_v")
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("backend", READY)
def test_the_first_key_can_be_detached(backend):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() and backend in ("triton", "augmented_v") else "cpu"
    query, key, value = (torch.randn(1, 2, 9, 16, device=device, requires_grad=True) for _ in range(3))
    tokens = torch.tensor([[0, 3]], device=device)
    out, columns = attention_with_columns(query, key, value, tokens, detach_first=True, backend=backend)
    (out.square().sum() + columns.square().sum()).backward()
    for tensor in (key, value):
        assert tensor.grad[:, :, 0].abs().max() == 0
        assert tensor.grad[:, :, 1:].abs().max() > 0


def test_options_are_one_object_or_keywords():
    maps = torch.rand(2, 4, 6, 6)
    options = CalibrationOptions(sigma=0.4, suppress=2)
    want = calibration_loss(maps, options)
    assert torch.equal(want, calibration_loss(maps, sigma=0.4, suppress=2))
    assert torch.equal(want, calibration_loss(maps, CalibrationOptions(sigma=0.4), suppress=2))
    assert not torch.equal(want, calibration_loss(maps))
    layer = [torch.randn(1, 2, 36, 8) for _ in range(3)]
    tokens = torch.tensor([[1, 2, 4, 5]])
    asked = [calibrated_attention(*([x] for x in layer), tokens, options, backend="reference")[1]]
    asked.append(calibrated_attention(*([x] for x in layer), tokens, sigma=0.4, suppress=2, backend="reference")[1])
    assert torch.equal(*asked)


def test_mistakes_in_options_are_named():
    maps = torch.rand(1, 2, 4, 4)
    for call in (
        lambda: calibration_loss(maps, blur=1.0),
        lambda: calibrated_attention([], [], [], maps, blur=1.0),
    ):
        with pytest.raises(
            TypeError, match="no option 'blur'; known options: normalize, sigma, suppress, smooth, bind"
        ):
            call()
    for name in ("sigma", "suppress", "smooth"):
        with pytest.raises(ValueError, match=f"{name} must not be negative"):
            CalibrationOptions(**{name: -1})
    with pytest.raises(ValueError, match="no neighbours to blur with"):
        calibration_loss(torch.rand(1, 2, 1, 4))
    assert torch.isfinite(calibration_loss(torch.rand(1, 2, 1, 4), sigma=0.0)).all()
    with pytest.raises(ValueError, match=r"columns must be \[B, G, 2S, 16\]"):
        columns_loss([torch.rand(1, 1, 2, 15)], 4, 4, CalibrationOptions())
    with pytest.raises(ValueError, match=r"columns must be \[B, G, 2S, 16\]"):
        columns_loss([], 4, 4, CalibrationOptions())


def test_options_are_documented():
    for option in fields(CalibrationOptions):
        assert len(option.metadata["help"]) > 20, option.name


def test_only_definition_reference_and_kernels_know_the_options():
    """One more option touches these files (and csrc/) alone."""
    knowing = {"options.py", "reference.py", "triton_calibration.py", "triton_static.py"}
    names = re.compile(r"\b(suppress|smooth|separate|normalize)\b")
    for file in PACKAGE.rglob("*.py"):
        if file.name not in knowing:
            assert not names.search(file.read_text(encoding="utf-8")), file


def test_operators_carry_every_option():
    names = [f.name for f in fields(CalibrationOptions)]
    found = [a.name for a in torch.ops.personalizer.cpp_calibration.default._schema.arguments]
    assert found == ["maps", *names]
    if "triton" in READY:
        attention_with_maps(*(torch.randn(1, 1, 4, 16) for _ in range(3)), torch.tensor([[0]]))  # loads the room
        from sdk.kernels.impl import triton_ops  # noqa: F401  defines the operators

        found = [a.name for a in torch.ops.personalizer.triton_calibration.default._schema.arguments]
        assert found == ["columns", "height", "width", *names]
