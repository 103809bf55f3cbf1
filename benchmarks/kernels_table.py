"""What do the kernels cost? Prints the tables of docs/kernels.md from the recorded measurements.

Usage: python -m benchmarks.kernels_table [--results benchmarks/results]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]
B8, B32, XL = "SD1.5 16x16 B=8", "SD1.5 16x16 B=32", "SDXL 32x32 B=8"


def last_of_each(rows: Iterable[Row], keys: tuple[str, ...]) -> list[Row]:
    """Keep the latest measurement of each combination of ``keys``, in the order of first appearance."""
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def groups(rows: list[Row], keys: tuple[str, ...]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def is_ours(row: Row) -> bool:
    return row["provider"].startswith("ours")


def cpu_table(rows: list[Row]) -> str:
    """One table a machine: a row a provider, a pair of columns a type."""
    machine = ("processor", "instructions", "threads", "torch")
    lines = []
    rows = last_of_each(rows, (*machine, "dtype", "provider"))
    for (processor, instructions, threads, torch), mine in groups(rows, machine).items():
        types = list(dict.fromkeys(row["dtype"] for row in mine))
        lines += [f"{processor} ({instructions}), {threads} threads, torch {torch}:", ""]
        lines.append("| " + "".join(f"| {name}, ms | x ours " for name in types) + "|")
        lines.append("|---" * (1 + 2 * len(types)) + "|")
        ours = {row["dtype"]: float(row["median_ms"]) for row in mine if is_ours(row)}
        for (provider,), times in groups(mine, ("provider",)).items():
            by_type = {row["dtype"]: float(row["median_ms"]) for row in times}
            cells = [f"{by_type[name]:.1f} | {by_type[name] / ours[name]:.2f}" for name in types]
            lines.append(f"| {provider} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def gpu_table(rows: list[Row]) -> str:
    """One table a machine, size and part."""
    lines = []
    for (device, torch, triton), mine in groups(rows, ("device", "torch", "triton")).items():
        lines += [f"{device}, torch {torch}, Triton {triton}:", ""]
        for (size, dtype, part), times in groups(mine, ("size", "dtype", "part")).items():
            lines += [f"| {size}, {part}, {dtype} | cold us | warm us | of the bound |", "|---|---|---|---|"]
            for row in times:
                share = float(row["bound_us"]) / float(row["cold_us"])
                lines.append(f"| {row['provider']} | {row['cold_us']} | {row['warm_us']} | {share:.0%} |")
            lines.append("")
    return "\n".join(lines)


def goals(rows: list[Row]) -> str:
    """The goals for one GPU, each met or missed by its figure; "not measured" where a figure is absent."""
    rows = [row for row in rows if row["dtype"] == "bf16"]
    cold = {(row["size"], row["part"], row["provider"]): float(row["cold_us"]) for row in rows}
    bound = {(row["size"], row["part"]): float(row["bound_us"]) for row in rows}
    ours = "ours (triton)"

    def share(size: str, part: str) -> float | None:
        return bound[size, part] / cold[size, part, ours] if (size, part, ours) in cold else None

    def against(provider: str) -> float | None:
        rival, mine = cold.get((B8, "all", provider)), cold.get((B8, "all", ours))
        return rival / mine if rival and mine else None

    price = against("SDPA without maps")
    figures: list[tuple[str, str, float | None, float]] = [
        ("K1", f"forward, {B8}, of the bound", share(B8, "forward"), 0.50),
        ("K2", f"forward, {B32}, of the bound", share(B32, "forward"), 0.70),
        ("K2", f"forward, {XL}, of the bound", share(XL, "forward"), 0.70),
        ("K3", f"backward, {B8}, of the bound", share(B8, "backward"), 0.35),
        ("K3", f"backward, {XL}, of the bound", share(XL, "backward"), 0.55),
        ("K4", "SDPA without maps over ours (1 / 1.15)", price, 1 / 1.15),
        ("K5", "augmented V over ours", against("augmented V"), 1.3),
        ("K6", "vectorised eager over ours", against("vectorised eager"), 6.0),
        ("K6", "torch.compile max-autotune over ours", against("torch.compile max-autotune"), 2.0),
    ]
    lines = ["| goal | figure | measured | at least | |", "|---|---|---|---|---|"]
    for name, what, value, least in figures:
        measured = "not measured" if value is None else f"{value:.2f}"
        mark = "" if value is None else "met" if value >= least else "missed"
        lines.append(f"| {name} | {what} | {measured} | {least:.2f} | {mark} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args().results
    print(cpu_table(read(folder / "kernels_cpu.csv")))
    rows = last_of_each(
        read(folder / "kernels_gpu.csv"), ("device", "torch", "triton", "size", "dtype", "part", "provider")
    )
    if rows:
        print(gpu_table(rows))
    for (device,), mine in (groups(rows, ("device",)) or {("a GPU",): []}).items():
        print(f"Goals on {device}:\n\n{goals(mine)}\n")


if __name__ == "__main__":
    main()
