"""A measured figure beside a peer's; rows in a CSV file, by device and versions."""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

PACKAGES = ("torch", "diffusers", "triton", "xformers", "onnxruntime-gpu", "personalizer-sdk")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        section: which part of the benchmark, such as ``"F"``.
        what: is measured.
        value: ours; ``None``: it could not be measured, and ``note`` says why.
        unit: ``"s"`` or ``"GB"``: less is better.
        peer: what it is compared with, or ``""``.
        peer_value: its figure.
        mfu: our share of the bfloat16 product that the same device computes in the same run.
        note: why there is no figure, or what to know of it.
    """

    section: str
    what: str
    value: float | None
    unit: str = "s"
    peer: str = ""
    peer_value: float | None = None
    mfu: float | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a figure of."""
        return self.section, self.what, self.peer

    @property
    def ratio(self) -> float | None:
        """How many times ours the peer takes."""
        return None if self.value is None or self.peer_value is None else self.peer_value / self.value


MACHINE = ("device", *PACKAGES)
FIELDS = (*MACHINE, *(field.name for field in fields(Row)), "ratio")


def machine(device: torch.device) -> dict[str, str]:
    """Return what figures belong to: the device and the versions of what computes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name} | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def compared(
    section: str, what: str, times: dict[str, float], ours: str, failed: dict[str, str], mfu: float | None = None
) -> Iterator[Row]:
    """Yield a row for ours beside each peer, and one for each that failed.

    Args:
        section: of the rows.
        what: is measured.
        times: seconds by name.
        ours: name of ours.
        failed: why there is no figure, by name.
        mfu: of ours.
    """
    if ours in failed or ours not in times:
        yield Row(section, what, None, note=failed.get(ours, "it was not measured"))
        return
    mine = times[ours]
    yield Row(section, what, mine, mfu=mfu, note=ours)
    for name, taken in times.items():
        if name != ours:
            yield Row(section, what, mine, peer=name, peer_value=taken, mfu=mfu)
    for name, reason in failed.items():
        yield Row(section, what, mine, peer=name, mfu=mfu, note=reason)


def append(file: Path, about: dict[str, str], rows: Iterable[Row]) -> None:
    """Append rows to a CSV file, which is made where there is none."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, FIELDS)
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow(about | asdict(row) | {"ratio": row.ratio})


def read(file: Path) -> dict[tuple[str, ...], list[Row]]:
    """Return the last rows of each key, by machine; none of a file that is not there."""
    found: dict[tuple[str, ...], dict[tuple[str, str, str], Row]] = {}
    if file.exists():
        with file.open(newline="", encoding="utf-8") as opened:
            for line in csv.DictReader(opened):
                numbers = {n: float(line[n]) if line[n] else None for n in ("value", "peer_value", "mfu")}
                words = {n: line[n] for n in ("section", "what", "unit", "peer", "note")}
                row = Row(**words, **numbers)
                found.setdefault(tuple(line[name] for name in MACHINE), {})[row.key] = row
    return {about: list(rows.values()) for about, rows in found.items()}
