"""What a fit needs, counted without memory: within the budgets of the cards that people have."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fit_memory import beside
from sdk.commands.main import main
from sdk.families import configurations
from sdk.fit import fit_memory


@pytest.mark.parametrize(
    ("family", "parts", "card", "rows", "checkpointing"),
    [
        ("sd1", configurations.SD1, 6, 1, False),
        ("sd1", configurations.SD1, 6, 8, True),
        ("sd2", configurations.SD2_BASE, 6, 1, False),
        ("sd2", configurations.SD2, 6, 1, False),
        ("sd2", configurations.SD2, 6, 4, True),
        ("sdxl", configurations.SDXL, 12, 1, True),
        ("sdxl", configurations.SDXL, 12, 4, True),
    ],
)
def test_a_fit_fits_on_a_card(family, parts, card, rows, checkpointing):
    need = fit_memory(
        parts["unet"], family, dtype=torch.float16, rows=rows, checkpointing=checkpointing, beside=beside(parts)
    )
    print(f"{family}, {rows} rows, checkpointing {checkpointing}: {need.total / 1e9:.1f} GB of {card}")
    assert need.total < card * 1e9


def test_less_at_once_takes_less():
    numbers = {"dtype": torch.float16, "beside": 0}
    needs = [
        fit_memory(configurations.SD1["unet"], "sd1", rows=rows, checkpointing=checkpointing, **numbers).step
        for rows, checkpointing in ((8, False), (2, False), (2, True), (1, True))
    ]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > 3.5 * needs[1]
    assert needs[1] > 3 * needs[2]


def test_what_is_learned_counts():
    numbers = {"dtype": torch.float16, "rows": 1, "checkpointing": True, "beside": 0}
    low, full = (fit_memory(configurations.SDXL["unet"], "sdxl", kv_rank=rank, **numbers) for rank in (32, 0))
    assert 200e6 < low.trained < 300e6  # 14.5 million numbers
    assert full.trained > 6e9  # 341 million
    whole = fit_memory(configurations.SD1["unet"], "sd1", whole=True, **numbers)
    assert whole.trained > 15e9


def test_doctor_says_what_a_model_needs(model_folder, capsys):
    assert main(["doctor", "--model", str(model_folder("sd1"))]) == 0
    out = capsys.readouterr().out
    assert "Stable Diffusion 1.x, 64 pixels, float32" in out
    assert "rows_at_once                  1      2      4      8" in out
    assert "set: rows_at_once = 8" in out
    assert "s a step of eight rows" in out
