"""The server on Ray Serve under load while a replica is killed, and beside it a single server.

Clients ask for pictures of many packs; every answer is held against the same picture drawn alone. The last line is the
rate of ``personalizer serve`` with the same packs, requests and clients, in one process with as many threads as the
replicas have together.

Usage: python -m benchmarks.fleet.serving [--packs 50] [--replicas 2] [--clients 16] [--requests 400] [--kills 1]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.fleet.drawing import some_packs
from benchmarks.fleet.fits import kill_actor
from sdk import ConceptPack, Personalizer
from sdk.fleet import serve_app
from sdk.runtime import keep_memory, quiet

PROMPT, STEPS = "photo of a <new1> cat", 20
_CLOSE = 3  # levels of 255 by which a picture may differ that was drawn in another batch


def pixels(data: str) -> np.ndarray:
    """A picture out of base64, whole numbers."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)


def load(url: str, names: list[str], clients: int, requests: int, kills: list[int]) -> dict[str, Any]:
    """Ask for pictures, one request after the other in each client; kill a replica after some of them."""
    left, lock = iter(range(requests)), threading.Lock()
    statuses: Counter[str] = Counter()
    answers: dict[int, np.ndarray] = {}
    taken: list[float] = []

    def work() -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            while True:
                with lock:
                    number = next(left, None)
                    if kills and number == kills[0]:
                        kills.pop(0)
                        print("killed a replica" if kill_actor("Drawer") else "no replica to kill", flush=True)
                if number is None:
                    return
                body = {"prompt": PROMPT, "model": names[number % len(names)], "seed": number, "steps": STEPS}
                begin = time.perf_counter()
                try:
                    answer = client.post("/v1/images/generations", json=body)
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                    continue
                statuses[str(answer.status_code)] += 1
                taken.append(time.perf_counter() - begin)
                if answer.status_code == 200:
                    answers[number] = pixels(answer.json()["data"][0]["b64_json"])

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    p50, p95 = np.percentile(taken, [50, 95])
    return {"statuses": dict(statuses), "per second": requests / wall, "p50": p50, "p95": p95, "answers": answers}


def wrong(personalizer: Personalizer, packs: list[Path], answers: dict[int, np.ndarray], count: int) -> int:
    """How many of the first so many pictures are not what is drawn alone."""
    found = 0
    for number in sorted(answers)[:count]:
        pack = ConceptPack.from_pretrained(packs[number % len(packs)])
        drawn = personalizer.generate(PROMPT, concepts=pack, seed=number, num_inference_steps=STEPS).images[0]
        found += int(np.abs(np.asarray(drawn, int) - answers[number]).max() > _CLOSE)
    return found


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def on_ray(place: Path, names: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """Load on the application, with kills and without."""
    import ray
    from ray import serve

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=given.replicas + 2, log_to_driver=False, include_dashboard=False)
    port = free_port()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(serve_app(place, replicas=given.replicas, model=given.model, device="cpu"), route_prefix="/")
        url = f"http://127.0.0.1:{port}"
        load(url, names, given.clients, len(names) * 2, [])  # every pack was read
        calm = load(url, names, given.clients, given.requests, [])
        kills = [given.requests * (n + 1) // (given.kills + 2) for n in range(given.kills)]
        killed = load(url, names, given.clients, given.requests, kills)
    finally:
        serve.shutdown()
        ray.shutdown()
    return {"calm": calm, "killed": killed}


def alone(packs: list[Path], names: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """The same load on one server in a process of its own."""
    from sdk.client import Client

    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [sys.executable, "-m", "sdk.commands.main", "serve", folder, "--model", given.model]
        command += ["--device", "cpu", "--port", str(port), "--line", "1000"]
        environment = os.environ | {"OMP_NUM_THREADS": str(given.replicas)}
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            url = f"http://127.0.0.1:{port}"
            try:
                while True:
                    try:
                        httpx.get(f"{url}/readyz")
                        break
                    except httpx.HTTPError:
                        time.sleep(0.2)
                with Client(url) as client:
                    for name, pack in zip(names, packs, strict=True):
                        client.add_pack(name, pack)
                load(url, names, given.clients, len(names) * 2, [])
                return load(url, names, given.clients, given.requests, [])
            finally:
                process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=50)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("out/drawing/packs"), help="where the packs are fitted")
    parser.add_argument("--model", default="bundled")
    given = parser.parse_args()
    quiet()
    keep_memory()
    packs = some_packs(given.output.absolute(), given.packs, given.model)
    names = [pack.name for pack in packs]
    found = on_ray(packs[0].parent.parent, names, given)
    found["one server"] = alone(packs, names, given)
    personalizer = Personalizer.from_pretrained(given.model, device="cpu")
    for name, each in found.items():
        answers = each.pop("answers")
        each["wrong"] = wrong(personalizer, packs, answers, 100)
        print(f"{name:>10}  {json.dumps(each, default=lambda value: round(float(value), 3))}")
    print(f"{psutil.cpu_count()} cores")


if __name__ == "__main__":
    main()
