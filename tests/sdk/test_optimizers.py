"""Optimisers by name."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from sdk import FitConfig
from sdk.errors import InputError, PackError


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr("sdk.fit.optimizers.find_spec", lambda name: None)


def test_what_is_missing_is_said_before_anything_is_computed(personalizer, picture, quick, without):
    seen = []
    with pytest.raises(InputError, match=r"needs bitsandbytes; run: pip install 'personalizer-sdk\[8bit\]'"):
        personalizer.fit(
            picture,
            ["cat"],
            config=quick.with_changes(optimizer="adamw8bit"),
            progress=lambda event: seen.append(event),
        )
    assert not seen


def test_unknown_ones_are_named():
    with pytest.raises(InputError, match="optimizer must be one of adamw, adamw8bit, got 'sgd'"):
        FitConfig(optimizer="sgd")


def test_one_that_does_not_load_is_a_line(personalizer, picture, quick, monkeypatch, tmp_path):
    package = tmp_path / "bitsandbytes"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libcudart.so.99: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [each for each in sys.modules if each.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match="bitsandbytes does not load .libcudart.*; install one"):
        personalizer.fit(picture, ["cat"], config=quick.with_changes(optimizer="adamw8bit"))


@pytest.mark.parametrize("method", ["dreambooth", "disendiff"])
def test_eight_bits_are_resumed_to_the_bit(personalizer, picture, quick, tmp_path, method):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'personalizer-sdk[8bit]'")
    config = quick.with_changes(optimizer="adamw8bit")
    fit = partial(personalizer.fit, picture, ["cat", "dog"], method=method, config=config)

    def stop(report):
        if report.step == 2:
            raise ConnectionError

    whole = fit(output_dir=tmp_path / "whole")
    with pytest.raises(ConnectionError):
        fit(output_dir=tmp_path / "cut", callback=stop)
    file = tmp_path / "cut.partial" / "checkpoint.safetensors"
    content = file.read_bytes()
    assert b"state1/" in content
    assert fit(output_dir=tmp_path / "cut", resume=True).content_hash() == whole.content_hash()
    plain = personalizer.fit(picture, ["cat", "dog"], method=method, config=quick)
    if method == "dreambooth":  # small weights, as K and V are here, keep moments of 32 bits
        assert plain.content_hash() != whole.content_hash()
    near = [(a - b).abs().max() for a, b in zip(plain.embeddings, whole.embeddings, strict=True)]
    assert max(near) < 0.1


def test_of_another_optimiser_nothing_is_resumed(personalizer, picture, quick, tmp_path):
    """That is found out before the state, of other names, is looked at."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'personalizer-sdk[8bit]'")

    def stop(report):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "p", callback=stop)
    other = quick.with_changes(optimizer="adamw8bit")
    with pytest.raises((InputError, PackError, OSError), match="optimizer"):
        personalizer.fit(picture, ["cat"], config=other, output_dir=tmp_path / "p", resume=True)
