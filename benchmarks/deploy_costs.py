"""What deployment costs: time beside PyTorch in turns, cold start, swapping packs, memory of many packs, sizes on disk.

Usage: python -m benchmarks.deploy_costs PACK [--packs 100]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLD = """
import sys, time
begin = time.perf_counter()
from sdk.deploy import OnnxPersonalizer
imported = time.perf_counter()
o = OnnxPersonalizer.from_pretrained(sys.argv[1], engine="onnxruntime")
loaded = time.perf_counter()
assert "torch" not in sys.modules
print(imported - begin, loaded - imported)
"""


def megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--packs", type=int, default=100)
    arguments = parser.parse_args()
    from sdk import ConceptPack, Personalizer, quiet
    from sdk.deploy import OnnxPersonalizer
    from sdk.runtime import keep_memory

    quiet()
    keep_memory()
    pack = ConceptPack.from_pretrained(arguments.pack)
    personalizer = Personalizer.from_pretrained(pack.base.name, device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begin = time.perf_counter()
        personalizer.export_onnx(folder / "merged", concepts=pack)
        merged_seconds = time.perf_counter() - begin
        personalizer.export_onnx(folder / "base", shared=True)
        adapter = pack.export_adapter(folder / "pack.onnx_adapter")
        starts = []
        for _ in range(5):
            done = subprocess.run(
                [sys.executable, "-c", COLD, folder / "base"], capture_output=True, text=True, check=True
            )
            starts.append([float(x) for x in done.stdout.split()])
        deployed = OnnxPersonalizer.from_pretrained(folder / "base", engine="onnxruntime")
        swaps = []
        for _ in range(20):
            begin = time.perf_counter()
            deployed.add_pack("mine", adapter)
            swaps.append(time.perf_counter() - begin)
        token = pack.concepts[0].phrase
        deployed.generate(f"a {token}", packs="mine", num_inference_steps=1)
        before = resident()
        for index in range(arguments.packs):
            deployed.add_pack(f"pack {index}", adapter)
        grown = resident() - before
        times = side_by_side(
            personalizer, pack, OnnxPersonalizer.from_pretrained(folder / "merged", engine="onnxruntime"), deployed
        )
        print("| four pictures, 20 steps | seconds |\n|---|---|")
        for name, seconds in times.items():
            print(f"| {name} | {seconds:.2f} |")
        print("\n| what | cost |\n|---|---|")
        print(f"| merged export, checked | {merged_seconds:.0f} s, {megabytes(folder / 'merged'):.1f} MB |")
        print(f"| shared base | {megabytes(folder / 'base'):.1f} MB |")
        print(f"| a pack's adapter | {megabytes(adapter):.2f} MB |")
        imports, loads = (1e3 * statistics.median(column) for column in zip(*starts, strict=True))
        print(f"| cold start: `import sdk.deploy`, open the base | {imports:.0f} ms, {loads:.0f} ms |")
        print(f"| adding or replacing a pack, nothing rebuilt | {1e3 * statistics.median(swaps):.1f} ms |")
        print(f"| memory of {arguments.packs} packs on one base | {grown / 1e6:.0f} MB |")


def side_by_side(personalizer, pack, merged, shared, rounds: int = 7) -> dict[str, float]:
    """Return the median seconds of each way to draw, measured in turns: the machine's pace then falls on all alike."""
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline(**personalizer.pipe.components, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    prompt, noun = f"a {pack.concepts[0].phrase}", f"a {pack.concepts[0].noun}"
    asked = {"num_images": 4, "seed": 0, "num_inference_steps": 20}
    scale = personalizer.sampling.guidance_scale
    ways = {
        "our torch path": lambda: personalizer.generate(prompt, concepts=pack, **asked),
        "plain diffusers, without the pack": lambda: plain([noun] * 4, num_inference_steps=20, guidance_scale=scale),
        "ONNX Runtime, merged": lambda: merged.generate(prompt, **asked),
        "ONNX Runtime, shared": lambda: shared.generate(prompt, packs="mine", **asked),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, draw in ways.items():
            begin = time.perf_counter()
            draw()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
