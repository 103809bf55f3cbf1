"""What importing costs, and that the folder kernels/ is never taken for Hugging Face's package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *, cwd: Path = ROOT, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_importing_the_package_loads_nothing_heavy():
    done = python(
        "import sys, sdk; print([m for m in ('torch', 'diffusers', 'transformers', 'PIL') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_options_of_the_loss_need_no_torch():
    done = python(
        "import sys, sdk.kernels.options; print([m for m in ('torch', 'numpy', 'triton') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
    done = python(
        "import sys, sdk.kernels as k; k.CalibrationOptions(); "
        "print('torch' in sys.modules, dir(k) == sorted(k.__all__))"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_public_names():
    import sdk

    for name in sdk.__all__:
        assert getattr(sdk, name) is not None
    with pytest.raises(AttributeError):
        _ = sdk.nothing
    import sdk.kernels

    for name in sdk.kernels.__all__:
        assert callable(getattr(sdk.kernels, name))
    with pytest.raises(AttributeError, match="nothing"):
        _ = sdk.kernels.nothing


def test_help_and_doctor_need_no_model():
    done = python("import sys, sdk.commands.main as m; m.build_parser(); print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


USE = """
from transformers import CLIPTextModel
from diffusers import UNet2DConditionModel
import sdk.kernels
print("fine")
"""


def test_the_repository_root_is_a_safe_place_to_start_python():
    done = python(USE)
    assert done.stdout.strip() == "fine", done.stderr


def test_even_beside_hugging_faces_kernels_package(tmp_path):
    """A stand-in with that package's name and metadata; it must be found instead of our folder."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/__init__.py").write_text("class Theirs: pass\n__version__ = '0.18.3'\n")
    (tmp_path / "kernels-0.18.3.dist-info").mkdir()
    (tmp_path / "kernels-0.18.3.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.3\n"
    )
    done = python("import kernels; print(kernels.Theirs.__name__)", path=tmp_path)
    assert done.stdout.strip() == "Theirs", done.stderr
    done = python("import kernels, sdk.kernels; print(hasattr(kernels, 'calibration_loss'))", path=tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_there_is_no_package_named_kernels_in_the_repository():
    if not (ROOT / "kernels").is_dir():
        pytest.skip("needs a checkout: the folder kernels/ is not here")
    assert not (ROOT / "kernels/__init__.py").exists()
    done = python("import importlib.util as u; s = u.find_spec('kernels'); print(s is None or s.origin is None)")
    assert done.stdout.strip() == "True", done.stderr
