"""What a fit needs, counted without memory: within the budgets of the cards that people have."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from benchmarks.fit_memory import beside
from sdk import FitConfig, Personalizer
from sdk.commands.main import main
from sdk.errors import InputError, OutputError
from sdk.families import configurations
from sdk.fit import fit_memory, learned_numbers
from sdk.fit.need.choose import need_of, within_memory
from sdk.memory.budget import LIBRARIES
from sdk.memory.passes import decoding_peak, rough_step
from sdk.model.latents import Coding, coding_for, decoded, encoded
from sdk.sampling.at_once import pictures_at_once


@pytest.mark.parametrize(
    ("family", "parts", "card", "rows", "checkpointing"),
    [
        ("sd1", configurations.SD1, 6, 4, True),
        ("sd2", configurations.SD2, 6, 1, True),
        ("sdxl", configurations.SDXL, 12, 4, True),
    ],
)
def test_a_fit_fits_on_a_card(family, parts, card, rows, checkpointing):
    need = fit_memory(
        parts["unet"], family, dtype=torch.float16, rows=rows, checkpointing=checkpointing, **beside(parts)
    )
    print(f"{family}, {rows} rows, checkpointing {checkpointing}: {need.total / 1e9:.1f} GB of {card}")
    assert need.total < card * 1e9


def test_less_at_once_takes_less(loaded):
    numbers = {"dtype": torch.float32, "beside": 0}
    needs = [
        fit_memory(loaded("sd1").pipe.unet.config, "sd1", rows=rows, checkpointing=checkpointing, **numbers).step
        for rows, checkpointing in ((8, False), (2, False), (2, True), (1, True))
    ]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > 3.5 * needs[1]
    assert needs[1] > 2 * needs[2]


def test_what_is_learned_counts():
    unet = configurations.SDXL["unet"]
    assert 14e6 < learned_numbers(unet, 32) < 15e6
    assert 340e6 < learned_numbers(unet, 0) < 342e6
    whole = fit_memory(
        configurations.SD1["unet"], "sd1", dtype=torch.float16, rows=1, checkpointing=True, beside=0, whole=True
    )
    assert whole.trained > 15e9


GB = 1e9


@pytest.mark.parametrize(
    ("free", "rows", "again"),
    # What is free beside the weights: all 8 rows of this model take 0.050 GB, and computed again 0.019.
    [(3.0, 0, False), (0.06, 0, False), (0.03, 4, False), (0.015, 2, False), (0.007, 1, False), (0.005, 2, True)],
)
def test_a_budget_chooses(loaded, picture, monkeypatch, free, rows, again):
    """Fewer rows first, then activations computed again; the step is the same but for rounding."""
    base = loaded("sd1")
    monkeypatch.setattr(base, "_memory", (base.held + LIBRARIES["cpu"]) / GB + free)
    chosen = within_memory(base, FitConfig().for_method("disendiff"), "disendiff")
    assert (chosen.rows_at_once, chosen.gradient_checkpointing) == (rows, again)


def test_what_a_user_chose_stays(loaded, monkeypatch):
    base = loaded("sd1")
    monkeypatch.setattr(base, "_memory", (base.held + LIBRARIES["cpu"]) / GB + 0.02)
    config = FitConfig(rows_at_once=3).for_method("disendiff")
    assert within_memory(base, config, "disendiff") is config
    before = {"rows_at_once": 2, "gradient_checkpointing": False}
    begun = within_memory(base, FitConfig().for_method("disendiff"), "disendiff", before)
    assert (begun.rows_at_once, begun.gradient_checkpointing) == (2, False)


def test_a_fit_goes_on_as_it_was_begun(model_folder, picture, tmp_path):
    """Less memory is free now than then: the same rows at once all the same, so that the bits are the same."""
    base = Personalizer.from_pretrained(model_folder("sd1"), device="cpu", memory=0.755)
    config = FitConfig(steps=3, batch_size=4, target_pool=1, prior="none", checkpoint_every=1)
    assert base.memory == 0.755
    fit = partial(base.fit, picture, ["cat"], config=config)

    def stop(report):
        if report.step == 2:
            raise ConnectionError

    whole = fit(output_dir=tmp_path / "whole")
    rows = whole.settings["rows_at_once"]
    with pytest.raises(ConnectionError):
        fit(output_dir=tmp_path / "cut", callback=stop)
    base.memory = "auto"
    again = fit(output_dir=tmp_path / "cut", resume=True)
    assert again.content_hash() == whole.content_hash()
    assert (
        again.settings["rows_at_once"] == rows == fit(output_dir=tmp_path / "cut", resume=True).settings["rows_at_once"]
    )
    assert fit().settings["rows_at_once"] == 0 != rows


@pytest.mark.parametrize("memory", [0, -1, "much", float("nan"), True, None, 1e300])
def test_budgets_are_numbers(model_folder, memory):
    with pytest.raises(InputError, match="memory must be"):
        Personalizer.from_pretrained(model_folder("sd1"), device="cpu", memory=memory)


def test_too_little_is_one_line(loaded, picture, monkeypatch):
    """Before anything is computed, with the number that is needed."""
    base = loaded("sd1")
    monkeypatch.setattr(base, "_memory", 0.7)
    with pytest.raises(InputError, match=r"a fit needs 0\.74 GB at least, more than memory=0\.7"):
        base.fit(picture, ["cat"], config=FitConfig(steps=1, prior="none"))
    with pytest.raises(InputError, match=r"a picture of 2048 x 2048 needs"):
        base.generate("a cat", height=2048, width=2048)


def test_pictures_are_drawn_as_memory_has_room(loaded, monkeypatch):
    """Fewer at once, and decoded in tiles; each picture as it would be."""
    base = loaded("sd1")
    usual = {"num_images": 2, "seed": 1, "num_inference_steps": 1, "height": 128, "width": 128}
    plain = base.generate("a cat", **usual).images
    assert pictures_at_once(base, (256, 256), guided=True) == 16
    assert base.coding((256, 256)).tile is None
    monkeypatch.setattr(base, "_memory", (base.held + LIBRARIES["cpu"]) / GB + 0.01)
    assert base.coding((256, 256)).tile == 128
    monkeypatch.setattr(base, "_memory", (base.held + LIBRARIES["cpu"]) / GB + 0.03)
    assert pictures_at_once(base, (256, 256), guided=True) == 1
    assert pictures_at_once(base, (256, 256), guided=False) == 2
    monkeypatch.setattr(base, "coding", lambda *_: Coding(tile=64))
    drawn = base.generate("a cat", **usual)
    apart = [
        np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in zip(plain, drawn.images, strict=True)
    ]
    assert 0 < max(apart) < 4  # tiles are normalised by themselves
    assert "decoded in tiles of 64 pixels" in drawn.notes[0]
    assert not base.pipe.vae.use_tiling


@pytest.mark.parametrize("size", [(576, 576), (704, 832), (1152, 896)])
def test_tiles_lie_edge_to_edge(size):
    """Of an autoencoder with a factor of eight, whatever the size."""
    small = {"block_out_channels": [4] * 4, "norm_num_groups": 2}
    vae = AutoencoderKL.from_config(configurations.SD1["vae"] | small).eval()
    latents = torch.zeros(1, 4, size[0] // 8, size[1] // 8)
    assert coding_for(vae, size, False, 1 << 34).tile is None
    for left in (1 << 24, 1 << 22, 1):
        how = coding_for(vae, size, False, left)
        assert how.tile % 32 == 0
        assert how.tile < max(size)
        assert decoded(vae, latents, how).shape == (1, 3, *size)
        assert encoded(vae, torch.zeros(1, 3, *size), how)[0].shape == latents.shape


def test_what_is_decoded_together_is_counted():
    vae = AutoencoderKL.from_config(configurations.SD1["vae"])
    need = 1.5 * decoding_peak(vae.config, (64, 64), torch.float32)
    assert coding_for(vae, (512, 512), False, int(3.5 * need)).at_once == 3


def test_what_a_user_asks_for_otherwise_is_refused_by_name(model_folder, picture, tmp_path):
    base = Personalizer.from_pretrained(model_folder("sd1"), device="cpu")
    config = FitConfig(steps=2, batch_size=2, target_pool=1, prior="none", checkpoint_every=1)

    def stop(report):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        base.fit(picture, ["cat"], config=config, output_dir=tmp_path / "p", callback=stop)
    for change in ({"gradient_checkpointing": True}, {"rows_at_once": 1}):
        with pytest.raises(OutputError, match=next(iter(change))):
            base.fit(picture, ["cat"], config=config.with_changes(**change), output_dir=tmp_path / "p", resume=True)


def test_a_size_is_counted_once(loaded, monkeypatch):
    """Every drawing asks, and counting takes a second at full size."""
    base = loaded("sd1")
    monkeypatch.setattr(base, "_memory", (base.held + LIBRARIES["cpu"]) / GB + 0.5)
    size = (1000 // 8 * 8, 1000 // 8 * 8)
    first = (pictures_at_once(base, size, guided=True), base.coding(size))
    monkeypatch.setattr("sdk.memory.passes.on_meta", None)
    assert (pictures_at_once(base, size, guided=True), base.coding(size)) == first
    with pytest.raises(TypeError):
        pictures_at_once(base, (992, 992), guided=True)


def test_precision_counts(loaded):
    base = loaded("sd1")
    whole, half = (need_of(base, FitConfig(precision=p), "disendiff", 8, False).step for p in ("fp32", "bf16"))
    assert 0.45 * whole < half < 0.6 * whole


def test_what_need_not_be_counted_is_small(loaded):
    """The rule of thumb lies above what is counted, for every kind of UNet."""
    config = configurations.SDXL["unet"]
    need = fit_memory(config, "sdxl", dtype=torch.float16, rows=1, checkpointing=False, beside=0)
    assert need.step < rough_step(config, 1, (128, 128), torch.float16)
    for name in ("sd1", "sdxl", "inpainting"):
        base = loaded(name)
        need = need_of(base, FitConfig(), "disendiff", 8, False)
        assert need.step < rough_step(base.pipe.unet.config, 8, (32, 32), torch.float32)


def test_doctor_says_what_a_model_needs(model_folder, capsys):
    assert main(["doctor", "--model", str(model_folder("sd1"))]) == 0
    out = capsys.readouterr().out
    assert "Stable Diffusion 1.x, 64 pixels, float32" in out
    assert "rows_at_once                  1      2      4      8" in out
    assert "a fit takes by itself: rows_at_once = 8\n" in out
    assert "s a step of eight rows" in out
