"""Exports of a fitted pack in environments of their own: without torch, in Optimum, in Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NPM = shutil.which("npm")
PROMPT = "photo of a <new1> cat and a <new2> dog"

WITHOUT_TORCH = """
import importlib.util, sys
for name in ("torch", "diffusers", "transformers"):
    assert importlib.util.find_spec(name) is None, name
from sdk.deploy import OnnxPersonalizer
merged, base, adapter, out = sys.argv[1:5]
asked = dict(seed=0, num_inference_steps=10)
alone = OnnxPersonalizer.from_pretrained(merged, engine="onnxruntime")
alone.generate(sys.argv[5], **asked).images[0].save(out + "/merged.png")
shared = OnnxPersonalizer.from_pretrained(base, engine="onnxruntime")
shared.add_pack("mine", adapter)
shared.generate(sys.argv[5], packs="mine", **asked).images[0].save(out + "/shared.png")
"""

IN_OPTIMUM = """
import sys, torch
from optimum.onnxruntime import ORTStableDiffusionPipeline
pipe = ORTStableDiffusionPipeline.from_pretrained(sys.argv[1], provider="CPUExecutionProvider")
seeded = torch.Generator().manual_seed(0)
picture = pipe(sys.argv[3], num_inference_steps=10, guidance_scale=4.0, eta=1.0, generator=seeded).images[0]
picture.save(sys.argv[2] + "/optimum.png")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, picture):
    """Folder with a merged and a shared export of a short fit, an adapter, and the torch path's picture."""
    from sdk import Personalizer

    folder = tmp_path_factory.mktemp("exported")
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    pack = personalizer.fit(picture, ["cat", "dog"], config=personalizer.default_config(steps=60))
    pack.save_pretrained(folder / "pack")
    for extra in ([], ["--shared"]):
        name = "shared" if extra else "merged"
        command = ["export", folder / "pack", "--format", "onnx", "--output", folder / name, *extra]
        subprocess.run([sys.executable, "-m", "sdk.commands.main", *command], check=True, cwd=folder)
    asked = {"seed": 0, "num_inference_steps": 10}
    personalizer.generate(PROMPT, concepts=pack, **asked).images[0].save(folder / "torch.png")
    return folder


def environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment with these packages; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *requirements], check=True, env=os.environ | {"PERSONALIZER_BUILD": "0"})
    return python


def psnr(one: Path, other: Path) -> float:
    a, b = (np.asarray(Image.open(path).convert("RGB"), float) for path in (one, other))
    error = np.square(a - b).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def test_without_torch(exported, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "out", "*.so", "*.egg-info"))
    python = environment(tmp_path / "bare", f"{source}[deploy]")
    base, adapter = exported / "shared" / "base", exported / "shared" / "pack.onnx_adapter"
    command = [python, "-c", WITHOUT_TORCH, exported / "merged", base, adapter, tmp_path, PROMPT]
    subprocess.run(command, check=True, cwd=tmp_path)
    for name in ("merged", "shared"):
        found = psnr(tmp_path / f"{name}.png", exported / "torch.png")
        print(f"{name} without torch: PSNR {found:.1f} dB to the torch path")
        assert found >= 40


def test_in_optimum(exported, tmp_path):
    python = environment(tmp_path / "optimum", "-r", str(Path(__file__).with_name("optimum.txt")))
    subprocess.run([python, "-c", IN_OPTIMUM, exported / "merged", tmp_path, PROMPT], check=True, cwd=tmp_path)
    found = psnr(tmp_path / "optimum.png", exported / "torch.png")
    print(f"Optimum: PSNR {found:.1f} dB to the torch path")
    assert found >= 40


@pytest.mark.skipif(NPM is None, reason="npm (Node 20 or later) is not installed")
def test_in_node(exported, tmp_path):
    folder = tmp_path / "node"
    shutil.copytree(ROOT / "bindings" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run([NPM, "install", "--no-audit", "--no-fund"], check=True, cwd=folder)
    drawn = tmp_path / "node.png"
    subprocess.run(["node", "draw.mjs", exported / "merged", PROMPT, drawn, "--steps", "10"], check=True, cwd=folder)
    found = psnr(drawn, exported / "torch.png")
    print(f"Node: PSNR {found:.1f} dB to the torch path")
    assert found >= 40
    wrong = subprocess.run(["node", "draw.mjs", tmp_path, PROMPT, drawn], capture_output=True, text=True, cwd=folder)
    assert wrong.returncode == 2
    assert "export_onnx" in wrong.stderr
