"""Telling base models apart: by norms for packs, whatever the precision, and to the bit for what must be the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sdk import ConceptPack, FitConfig, Personalizer
from sdk.concepts import resolve_concepts
from sdk.fit.identity import depends_on
from sdk.fit.whole import major_version, whole_identity
from sdk.model.fingerprint import BaseIdentity


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_is_the_same_in_another_precision(personalizer, tiny_model, dtype):
    other = Personalizer.from_pretrained(tiny_model, device="cpu", dtype=dtype)
    assert other.base.difference(personalizer.base) is None
    assert other.base.remark(personalizer.base) is None
    assert set(personalizer.base.norms) == {"unet", "text_encoder", "vae"}
    assert all(personalizer.base.norms.values())
    assert whole_identity(other)["unet"] != whole_identity(personalizer)["unet"]


def test_weights_beside_k_and_v_are_remarked(personalizer, tiny_model, picture, quick, tmp_path, caplog):
    pack = personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1), output_dir=tmp_path / "p")
    pack = ConceptPack.from_pretrained(tmp_path / "p")
    assert pack.base == personalizer.base
    pipe = Personalizer.from_pretrained(tiny_model, device="cpu").pipe
    with torch.no_grad():
        max(pipe.vae.parameters(), key=torch.numel).mul_(1.01)
    other = Personalizer(pipe)
    drawn = other.generate("a <new1> cat", concepts=pack, num_inference_steps=2)
    assert any("other weights than K and V are different here (vae)" in note for note in drawn.notes)
    assert personalizer.generate("a <new1> cat", concepts=pack, num_inference_steps=2).notes == []
    old = dataclasses.replace(pack.base, norms={})  # of an earlier version's pack
    assert other.base.remark(old) is None
    assert BaseIdentity.from_dict(old.to_dict()) == old
    assert BaseIdentity.from_dict(pack.base.to_dict()) == pack.base


def test_every_number_counts(personalizer):
    """Also one of many, in a weight of any size and type, and one that comes and goes."""
    pipe = personalizer.pipe
    whole = whole_identity(personalizer)
    assert whole == whole_identity(personalizer)
    for part in ("unet", "vae", "text_encoder"):
        for parameter in (
            max(getattr(pipe, part).parameters(), key=torch.numel),
            *list(getattr(pipe, part).parameters())[:3],
        ):
            place = parameter.data.view(-1)
            kept = place[-1].clone()
            place[-1] = kept + 1e-3
            changed = whole_identity(personalizer)
            assert {name for name in whole if changed[name] != whole[name]} == {part}
            place[-1] = kept
    assert whole_identity(personalizer) == whole


def test_two_numbers_that_change_places_count():
    from sdk.fit.whole import _tensor_sums

    numbers = torch.arange(100_000, dtype=torch.float32).view(100, 1000)
    first = _tensor_sums(numbers)
    for a, b in ((0, 1), (0, 99_999), (5, 5 + 8192), (8192, 2 * 8192), (50_001, 50_000)):
        other = numbers.clone().view(-1)
        other[a], other[b] = numbers.view(-1)[b], numbers.view(-1)[a]
        assert _tensor_sums(other.view(100, 1000)) != first, (a, b)
    assert _tensor_sums(numbers.t().contiguous().t()) == first  # however it lies in memory
    assert _tensor_sums(numbers.half()) != _tensor_sums(numbers.bfloat16())


def test_schedulers_and_libraries_count(personalizer):
    whole = whole_identity(personalizer)
    assert whole["libraries"].startswith("torch ")
    personalizer.pipe.scheduler.register_to_config(beta_end=0.02)
    assert whole_identity(personalizer)["scheduler"] != whole["scheduler"]
    assert [major_version(v) for v in ("2.13.0+cpu", "0.42.1", "5.10")] == ["2", "0.42", "5"]


def test_how_the_parts_compute_counts(personalizer):
    """Equal weights and noise levels, other pictures."""
    from diffusers import EulerAncestralDiscreteScheduler

    pipe = personalizer.pipe
    whole = whole_identity(personalizer)
    for part, name, value in (
        ("vae", "scaling_factor", 0.5),
        ("unet", "norm_eps", 1e-3),
        ("text_encoder", "hidden_act", "relu"),
    ):
        config = getattr(pipe, part).config
        before = getattr(config, name)
        if part == "text_encoder":
            setattr(config, name, value)
        else:
            getattr(pipe, part).register_to_config(**{name: value})
        assert {k for k, v in whole_identity(personalizer).items() if v != whole[k]} == {part}
        if part == "text_encoder":
            setattr(config, name, before)
        else:
            getattr(pipe, part).register_to_config(**{name: before})
    assert whole_identity(personalizer) == whole
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    assert whole_identity(personalizer)["scheduler"] != whole["scheduler"]


def test_settings_that_came_later_count_where_they_are_used(personalizer, picture):
    """A fit that an earlier version began goes on: it names none of them, and they are off."""
    concepts = resolve_concepts(["cat", "dog"])

    def settings_of(**changes):
        config = FitConfig.preset("best", "disendiff", **changes)
        return depends_on(personalizer, concepts, "disendiff", config, 0, [picture], None)

    plain = settings_of()
    assert not {"mix", "mix_most", "mix_prompts", "kv_rank", "outside_noise"} & plain.keys()
    assert not {"calibration_until", "outside_weight", "divergence_weight"} & plain["disendiff"].keys()
    assert plain["disendiff"]["calibration_weight"] == 0.03
    assert plain["alone"] == 0.5
    mixed = settings_of(mix=0.3, disendiff={"outside_weight": 0.1})
    assert (mixed["mix"], mixed["disendiff"]["outside_weight"]) == (0.3, 0.1)
