"""What does a fit cost with each method? Time and memory on the bundled model, each method in a process of its own.

Prior pictures are drawn beforehand; the memory is the highest the process reached, and by how much the fit raised it.

Usage: python -m benchmarks.method_cost [--threads 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from sdk.methods import METHODS


def measure(method: str, threads: int) -> dict[str, float]:
    """Fit the demo picture in this process; return seconds and megabytes."""
    import torch

    from sdk import Concept, Personalizer, quiet
    from sdk.fit import priors_for
    from sdk.miniworld import demo_picture
    from sdk.runtime import keep_memory, peak_memory

    quiet()
    keep_memory()
    torch.set_num_threads(threads)
    personalizer = Personalizer.from_pretrained("bundled")
    config = personalizer.default_config("reference", method)
    priors_for(personalizer, [Concept("cat"), Concept("dog")], config)
    begin = time.monotonic()
    with peak_memory(personalizer.device) as raised:
        pack = personalizer.fit(demo_picture(), ["cat", "dog"], method=method, config=config)
    seconds = time.monotonic() - begin
    trained = sum(w.numel() for pair in pack.key_value.values() for w in pair)
    trained += sum(w.numel() for w in pack.unet.values()) + pack.embeddings.numel()
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {
        "seconds": seconds,
        "raised": raised[0] / 1e6,
        "highest": highest,
        "trained": trained,
        "steps": config.steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=METHODS, help="measure this one here and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(arguments.rounds):  # in turns: a busy minute then falls on every method
        for method, rounds in found.items():
            command = [sys.executable, "-m", "benchmarks.method_cost", "--one", method]
            command += ["--threads", str(arguments.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
    print("| method | steps | trained values | seconds | MB raised | MB in all |\n|---|---|---|---|---|---|")
    for method, rounds in found.items():
        middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        print(
            f"| {method} | {middle['steps']:.0f} | {middle['trained']:,.0f} | {middle['seconds']:.0f} | "
            f"{middle['raised']:.0f} | {middle['highest']:.0f} |"
        )


if __name__ == "__main__":
    main()
