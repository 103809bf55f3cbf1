"""The main job on the bundled model: fit one picture, draw the concepts apart and together, measure it.

Usage: python examples/demo.py [FOLDER]     (default out/demo; takes minutes on two CPU cores)
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import sdk

sdk.quiet()  # before the rest is imported: none of the libraries' banners
from sdk import Personalizer, evaluate  # noqa: E402
from sdk.eval import save_report  # noqa: E402
from sdk.miniworld import demo_picture  # noqa: E402
from sdk.runtime import keep_memory  # noqa: E402


def main(folder: Path) -> None:
    keep_memory()
    begin = time.monotonic()
    shutil.rmtree(folder / "pack", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    demo_picture().save(folder / "picture.png")

    personalizer = Personalizer.from_pretrained("bundled")
    print("fitting a cat and a dog from one picture (prior pictures are drawn first, once) ...", file=sys.stderr)
    with sdk.progress() as bar:
        pack = personalizer.fit(folder / "picture.png", ["cat", "dog"], output_dir=folder / "pack", progress=bar)
    print("drawing and judging pictures with the pack and without it ...", file=sys.stderr)
    report = evaluate(personalizer, pack)
    save_report(report, folder)

    print(report.table())
    print(f"gallery         {folder / 'gallery.png'}")
    print(f"attention maps  {folder / 'pack' / 'attention.png'}")
    print(f"report          {folder / 'report.html'}")
    print(f"{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("out/demo"))
