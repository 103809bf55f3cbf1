"""Checkpoints that were damaged: one sentence that names the file, and nothing is touched."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdk import FitConfig, Personalizer
from sdk.errors import PackError
from sdk.fit.early_stopping import Best
from sdk.fit.kept.checkpoint import CHECKPOINT, Checkpoints, _hash
from sdk.fit.kept.metrics import METRICS
from sdk.fit.request import FitRequest
from sdk.methods import method_class
from tests.reading.mutations import changed_bytes, changed_tensors, read_or_refused

STEPS = 8
ASKED = FitRequest([], [], "disendiff", FitConfig(steps=STEPS), 0, None, {"seed": 0})


def learner(personalizer):
    """A method that could be trained, and its optimiser."""
    from sdk.concepts import resolve_concepts

    config = FitConfig(steps=STEPS).for_method("disendiff")
    method = method_class("disendiff")(personalizer, resolve_concepts(["cat", "dog"]), config)
    side = 16
    masks = torch.zeros(2, side, side)
    masks[0, :, :8], masks[1, :, 8:] = 1, 1
    method.use_masks([masks], [torch.zeros(1, 4, side, side)])
    return method, torch.optim.AdamW(method.parameter_groups())


@pytest.fixture(scope="module")
def written(tiny_model, tmp_path_factory):
    """A checkpoint after two steps, with best weights."""
    method, optimizer = learner(Personalizer.from_pretrained(tiny_model, device="cpu"))
    best = Best(patience=3)
    for step in range(2):
        for parameter in method.parameters().values():
            parameter.requires_grad_(True)
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        best.see(0.1 * step, step + 1, method.parameters())
    folder = tmp_path_factory.mktemp("work")
    Checkpoints(folder, ASKED).save(2, method, optimizer, 5, best)
    (folder / METRICS).write_text("0123456789")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "work")


@pytest.fixture(scope="module")
def resumed(tiny_model):
    return learner(Personalizer.from_pretrained(tiny_model, device="cpu"))


def load(folder, resumed):
    """The steps done by a checkpoint, or ``None``: then it was refused, and nothing changed."""
    method, optimizer = resumed
    before = {name: p.detach().clone() for name, p in method.parameters().items()}
    state, masks, best = len(optimizer.state), [m.clone() for m in method.masks], Best(patience=3)
    why: list[str] = []

    def refusing():
        try:
            return Checkpoints(folder, ASKED).load(method, optimizer, best)
        except PackError as error:
            why.append(str(error))
            raise

    done = read_or_refused(refusing)
    if done is None:
        assert str(folder / CHECKPOINT) in why[0]
        assert "remove it to start anew" in why[0]
        assert all(torch.equal(p, before[name]) for name, p in method.parameters().items())
        assert all(torch.equal(m, old) for m, old in zip(method.masks, masks, strict=True))
        assert (len(optimizer.state), best, (folder / METRICS).read_text()) == (state, Best(patience=3), "0123456789")
    return done


def rewrite(file, tensors, about):
    """Write a checkpoint with a hash that fits: whoever made it wanted it so."""
    about = {name: text for name, text in about.items() if name != "hash"}
    save_file(tensors, file, metadata=about | {"hash": _hash(tensors, about)})


def test_a_whole_checkpoint(folder, resumed):
    assert load(folder, resumed) == 2
    assert (folder / METRICS).read_text() == "01234"


def test_changed_tensors(folder, resumed):
    rng = random.Random(0)
    file = folder / CHECKPOINT
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    refused = 0
    for _ in range(150):
        rewrite(file, changed_tensors(tensors, rng), about)
        (folder / METRICS).write_text("0123456789")
        refused += load(folder, resumed) is None
        assert all(p.isfinite().all() for p in resumed[0].parameters().values())
    assert refused > 100


@pytest.mark.parametrize("harm", ["a number", "the step", "the optimiser's state", "a mask", "no hash"])
def test_what_nobody_would_notice(folder, resumed, harm):
    """Values that could be right, which only the hash tells from those that were written."""
    file = folder / CHECKPOINT
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    if harm == "a number":
        tensors["parameter/embeddings"][0, 0] += 1
    elif harm == "the step":
        about["step"] = "3"
    elif harm == "the optimiser's state":
        tensors = {name: t for name, t in tensors.items() if not name.startswith(("step/", "exp_avg"))}
    elif harm == "a mask":
        tensors["masks/0"] = 1 - tensors["masks/0"]
    else:
        del about["hash"]
    save_file(tensors, file, metadata=about)
    assert load(folder, resumed) is None


def test_changed_bytes(folder, resumed):
    rng = random.Random(1)
    content = (folder / CHECKPOINT).read_bytes()
    for _ in range(100):
        (folder / CHECKPOINT).write_bytes(changed_bytes(content, rng))
        (folder / METRICS).write_text("0123456789")
        load(folder, resumed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("step", text) for text in ("-3", "99", "1.5", "", "x", "²", "9" * 5000, None)),
        *(("metrics_bytes", text) for text in ("-1", "x", None)),
        *(("best", text) for text in ("", "[]", "[1, 2]", "[NaN, 1, 1]", '["a", 1, 1]', "[1, 99, 0]", "[1, true, 0]")),
        *(("best", text) for text in ("[-Infinity, 1, 0]", "[Infinity, 1, 0]", "5", "[" * 100_000, None)),
        *(("depends_on", text) for text in ("", "[]", "5", "[" * 100_000)),
    ],
)
def test_what_it_says_of_itself(folder, resumed, name, value):
    tensors = load_file(folder / CHECKPOINT)
    with safe_open(folder / CHECKPOINT, "pt") as opened:
        about = opened.metadata()
    about.pop(name)
    rewrite(folder / CHECKPOINT, tensors, about | ({} if value is None else {name: value}))
    assert load(folder, resumed) is None


def test_before_the_first_validation_there_is_no_best(folder, resumed):
    tensors = {n: t for n, t in load_file(folder / CHECKPOINT).items() if not n.startswith("best/")}
    with safe_open(folder / CHECKPOINT, "pt") as opened:
        about = opened.metadata() | {"best": json.dumps([float("-inf"), 0, 0])}
    rewrite(folder / CHECKPOINT, tensors, about)
    assert load(folder, resumed) == 2


def test_a_folder_in_its_place(folder, resumed):
    (folder / CHECKPOINT).unlink()
    (folder / CHECKPOINT).mkdir()
    with pytest.raises(PackError, match="is a folder"):
        Checkpoints(folder, ASKED).load(*resumed, Best(patience=3))
