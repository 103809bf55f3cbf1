"""What a server does under load: pictures a second, seconds a request, memory; packs together in batches and apart.

The server is a process of its own on this machine, clients are threads here: each asks for a picture of a pack, and for
the next when it has it. ``together`` lets rows of different packs share a batch, ``apart`` is the same server with
one pack a batch. Packs are copies of one, which the server does not know.

Usage: python -m benchmarks.serving [FOLDER PACK] [--clients 1,8,16,32] [--packs 1,16,1000] [--requests 64] [--csv FILE]
       python -m benchmarks.serving --soak 10 [FOLDER PACK]
FOLDER is a shared export, PACK one of its adapters; without them the bundled model is exported and a pack is made.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.kernels_cpu import processor
from sdk.client import Client

WAYS = ("together", "apart")
ASKED: dict[str, Any] = {"num_inference_steps": 20}  # and what --speed says
FIELDS = (
    "processor",
    "engine",
    "speed",
    "way",
    "clients",
    "packs",
    "requests",
    "per_second",
    "p50",
    "p95",
    "megabytes",
)
SERVER = """
import sys, uvicorn
from sdk.library import Library
from sdk.serve import ExportedPainter, Limits, create_app
folder, library, engine, across = sys.argv[1:]
painter = ExportedPainter(folder, engine)
with Library(library) as kept:
    app = create_app(kept, painter, limits=Limits(line=1000), across=across == "together")
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False)

    class Told(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], painter.model.model.computed, flush=True)

    Told(config).run()
"""


@contextmanager
def serving(folder: Path, library: Path, engine: str, way: str) -> Iterator[tuple[Client, psutil.Process, str]]:
    """A server, its process and what computes."""
    command = [sys.executable, "-c", SERVER, str(folder), str(library), engine, way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port, computed = process.stdout.readline().strip().split(" ", 1)
            with Client(f"http://127.0.0.1:{port}") as client:
                yield client, psutil.Process(process.pid), computed
        finally:
            process.terminate()


def bundled(scratch: Path) -> tuple[Path, Path]:
    """The bundled model exported, and a pack of it as a fit of one step leaves it."""
    from sdk import FitConfig, Personalizer, quiet
    from sdk.miniworld import reference_scene, render

    quiet()
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    personalizer.export_onnx(scratch / "base", shared=True)
    scene = reference_scene("test", 0, 2)
    config = FitConfig(steps=1, prior_count=2, prior_steps=2)
    pack = personalizer.fit(render(scene)[0], [item.noun for item in scene.objects], config=config)
    return scratch / "base", pack.export_adapter(scratch / "pack.onnx_adapter")


def load(client: Client, clients: int, names: list[str], prompt: str, requests: int) -> tuple[list[float], float]:
    """Seconds of each request, and of all together; every client has its next pack each time."""
    taken: list[float] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def work(number: int) -> None:
        while True:
            with lock:
                index = next(left, None)
            if index is None:
                return
            begin = time.perf_counter()
            client.generate(prompt, concepts=names[index % len(names)], seed=index, **ASKED)
            taken.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken, time.perf_counter() - begin


def measure(arguments: argparse.Namespace, folder: Path, pack: Path, scratch: Path) -> list[dict[str, Any]]:
    """Rows of the table; of two ways the runs take turns."""
    rows, most = [], max(arguments.packs)
    runs: dict[tuple[int, int, str], list[tuple[list[float], float]]] = {}
    told = {}
    with ExitStack() as stack:
        opened = [serving(folder, scratch / way, arguments.engine, way) for way in WAYS]
        servers = {way: stack.enter_context(each) for way, each in zip(WAYS, opened, strict=True)}
        for client, _, _ in servers.values():
            for index in range(most):
                client.add_pack(f"pack-{index}", pack)
            for count in (1, *arguments.clients):  # compiles the sizes of batches
                load(client, count, names_of(most)[:16], prompt_of(client), 2 * count)
        for clients in arguments.clients:
            for packs in arguments.packs:
                for _ in range(arguments.rounds):
                    for way, (client, process, computed) in servers.items():
                        found = load(client, clients, names_of(packs), prompt_of(client), arguments.requests)
                        runs.setdefault((clients, packs, way), []).append(found)
                        told[clients, packs, way] = computed, process.memory_info().rss / 1e6
    for (clients, packs, way), found in runs.items():
        computed, megabytes = told[clients, packs, way]
        seconds = [each for taken, _ in found for each in taken]
        rates = [len(taken) / whole for taken, whole in found]
        rows.append(
            {
                "processor": processor(),
                "engine": computed,
                "speed": arguments.speed,
                "way": way,
                "clients": clients,
                "packs": packs,
                "requests": len(seconds),
                "per_second": round(statistics.median(rates), 2),
                "p50": round(float(np.percentile(seconds, 50)), 3),
                "p95": round(float(np.percentile(seconds, 95)), 3),
                "megabytes": round(megabytes),
            }
        )
    return rows


def names_of(count: int) -> list[str]:
    """Of so many packs."""
    return [f"pack-{index}" for index in range(count)]


def prompt_of(client: Client) -> str:
    """One that the packs know."""
    return f"a {client.packs()['pack-0'][0]} on the beach"


def first_pictures(folder: Path, pack: Path, scratch: Path, engine: str, count: int) -> None:
    """Print how long a picture takes with a pack that was never used, and with one that was."""
    with serving(folder, scratch / "cold", engine, "together") as (client, process, computed):
        before = process.memory_info().rss
        begin = time.perf_counter()
        for index in range(count):
            client.add_pack(f"pack-{index}", pack)
        taken = time.perf_counter() - begin
        grown = process.memory_info().rss - before
        prompt = prompt_of(client)
        client.generate(prompt, concepts="pack-0", seed=0, **ASKED)
        cold, warm = [], []
        for index in range(1, min(count, 30)):
            for found in (cold, warm):
                begin = time.perf_counter()
                client.generate(prompt, concepts=f"pack-{index}", seed=0, **ASKED)
                found.append(time.perf_counter() - begin)
        print(
            f"{computed}, {count} packs: added in {taken:.1f} s, memory {grown / 1e6:+.0f} MB; a picture takes "
            f"{statistics.median(cold):.3f} s with a pack that is read for it, {statistics.median(warm):.3f} s with "
            f"one that was used; {process.memory_info().rss / 1e6:.0f} MB in all"
        )


def alone_and_together(folder: Path, pack: Path, scratch: Path) -> None:
    """Print how much 16 pictures of 16 packs that were asked for at once differ from each asked for alone."""
    with serving(folder, scratch / "equal", "onnxruntime", "together") as (client, _, computed):
        for name in names_of(16):
            client.add_pack(name, pack)
        prompt = prompt_of(client)

        def drawn(index: int) -> np.ndarray:
            return np.asarray(
                client.generate(prompt, concepts=names_of(16)[index], seed=index, **ASKED).images[0], float
            )

        alone = [drawn(index) for index in range(16)]
        with ThreadPoolExecutor(16) as clients:
            together = list(clients.map(drawn, range(16)))
    errors = [float(np.square(a - b).mean()) for a, b in zip(alone, together, strict=True)]
    print(f"{computed}, alone and together: PSNR at least {10 * np.log10(255**2 / max(*errors, 1e-9)):.1f} dB")


def soak(folder: Path, pack: Path, scratch: Path, engine: str, minutes: float) -> None:
    """Load of eight clients on 64 packs; memory every half minute."""
    with serving(folder, scratch / "soak", engine, "together") as (client, process, computed):
        for index in range(64):
            client.add_pack(f"pack-{index}", pack)
        prompt, until, drawn = prompt_of(client), time.monotonic() + 60 * minutes, 0
        print(f"{computed}\nminute pictures megabytes")
        begin = time.monotonic()
        while time.monotonic() < until:
            part = time.monotonic() + 30
            while time.monotonic() < min(part, until):
                taken, _ = load(client, 8, names_of(64), prompt, 64)
                drawn += len(taken)
            minute = (time.monotonic() - begin) / 60
            print(f"{minute:6.1f} {drawn:8d} {process.memory_info().rss / 1e6:9.0f}", flush=True)


def numbers(text: str) -> list[int]:
    """Of an option."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("pack", nargs="?", type=Path)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 16, 32])
    parser.add_argument("--packs", type=numbers, default=[1, 16, 1000])
    parser.add_argument("--requests", type=int, default=64, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--speed", default="exact")
    arguments = parser.parse_args()
    ASKED["speed"] = arguments.speed
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder, pack = (arguments.folder, arguments.pack) if arguments.pack else bundled(scratch)
        if arguments.soak:
            soak(folder, pack, scratch, arguments.engine, arguments.soak)
            return
        rows = measure(arguments, folder, pack, scratch)
        print(f"{processor()}, {os.cpu_count()} cores, {platform.machine()}\n")
        print("| " + " | ".join(FIELDS[1:]) + " |\n|" + "---|" * len(FIELDS[1:]))
        for row in rows:
            print("| " + " | ".join(str(row[name]) for name in FIELDS[1:]) + " |")
        first_pictures(folder, pack, scratch, arguments.engine, max(arguments.packs))
        alone_and_together(folder, pack, scratch)
        if arguments.csv:
            with arguments.csv.open("w", newline="") as opened:
                writer = csv.DictWriter(opened, FIELDS)
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
