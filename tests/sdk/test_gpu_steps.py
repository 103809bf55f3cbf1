"""What makes a training step fit for GPUs, proved without one: nothing is read back, nothing compiled anew, and a step
that is recorded does what a step does."""

from __future__ import annotations

import json
import sys
import threading
import types

import pytest
import torch

from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.batch import Batch
from sdk.errors import InputError, NotFiniteError
from sdk.fit import loop
from sdk.fit.kept.checkpoint import read_about
from sdk.fit.optimizers import build_optimizer
from sdk.fit.step import accelerate
from sdk.fit.step.accelerate import check_accelerate, compiled_blocks, tensor_cores, unrecordable
from sdk.fit.step.graph import RecordedSteps
from sdk.fit.step.losses import PendingLosses
from sdk.fit.step.training import train_step
from sdk.fit.step.upcoming import UpcomingRows
from sdk.methods import method_class
from sdk.methods.disendiff import DisenDiff
from sdk.runtime import Cancelled
from tests.sdk.tape import NoReadBack, record

CAPTIONS = [
    ("photo of a <new1> cat and <new2> dog", (0, 1)),
    ("a far away photo of a <new2> dog and <new1> cat", (0, 1)),
    ("photo of a <new2> dog", (1,)),
    ("photo of a cat and a dog", ()),
]


def batch_of(step, rows=4, device="cpu", with_masks=False, nouns=("cat", "dog")):
    """Rows of a step: every step has others, in another order, and every fifth shows priors alone."""
    generator = torch.Generator().manual_seed(step)
    shown = [CAPTIONS[3 if step % 5 == 4 else (step + row) % 4] for row in range(rows)]
    masks = torch.ones(rows, 1, 16, 16)
    masks[0, :, : step % 3] = 0
    return Batch(
        latents=torch.randn(rows, 4, 16, 16, generator=generator),
        noise=torch.randn(rows, 4, 16, 16, generator=generator),
        timesteps=torch.randint(0, 1000, (rows,), generator=generator),
        captions=[caption.replace("cat", nouns[0]) for caption, _ in shown],
        masks=masks,
        named=[named for _, named in shown],
        concept_masks=torch.rand(rows, 3, 16, 16, generator=generator).round() if with_masks else None,
        sizes=torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * rows),
    ).to(torch.device(device))


def learner_on(personalizer, method="disendiff", nouns=("cat", "dog"), **changes):
    config = FitConfig.preset("reference", method, steps=20, **changes).for_method(method)
    return method_class(method)(personalizer, resolve_concepts(nouns), config)


def optimizer_of(learner, **how):
    return build_optimizer("adamw", learner.parameter_groups(), 0.01, **how)


def no_scaler():
    return torch.amp.GradScaler("cpu", enabled=False)


def elsewhere(personalizer):
    """The same model on a device without numbers, from which none can be read."""
    pipe = personalizer.pipe
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.to("meta")
    return personalizer


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("disendiff", {}),
        ("disendiff", {"rows_at_once": 3, "kv_rank": 2}),
        ("dreambooth", {}),
        ("textual_inversion", {}),
        ("break_a_scene", {"break_a_scene": {"token_share": 0.0}}),
        ("attencraft", {}),
    ],
    ids=str,
)
def test_a_step_reads_nothing_back(personalizer, method, changes):
    learner = learner_on(elsewhere(personalizer), method, **changes)
    optimizer = optimizer_of(learner)
    for step in (0, 4):
        batch = batch_of(step, device="meta", with_masks=True)
        with NoReadBack():
            losses = train_step(learner, batch, optimizer, no_scaler(), step)
        assert all(value.is_meta for value in losses.values())


def test_reading_back_is_noticed():
    there = torch.ones(3, device="meta")
    for read in (lambda: float(there[0]), lambda: bool(there.any()), lambda: there[there > 0], lambda: there.cpu()):
        with pytest.raises((AssertionError, RuntimeError)), NoReadBack():
            read()


def test_how_much_a_step_asks_for(personalizer):
    """Operations of a step of the tiny model: as Python asks for them, and what is left of a recorded one."""
    learner = learner_on(personalizer)
    optimizer = optimizer_of(learner, recorded=True)
    first, last = batch_of(0), batch_of(5)
    with NoReadBack() as eager:
        train_step(learner, first, optimizer, no_scaler(), 0)
    steps = RecordedSteps(learner, optimizer, no_scaler(), lambda body: (body(), lambda: None))
    for step in (0, 1, 2, 3):
        steps(batch_of(step), step)
    with NoReadBack() as recorded:
        steps(last, 5)
    assert eager.count <= 1450
    assert recorded.count <= 50  # captions to numbers, on the CPU; ten copies, two learning rates, one replay


@pytest.mark.parametrize("changes", [{}, {"nouns": ("xyz", "dog")}, {"rows_at_once": 3}, {"kv_rank": 2}], ids=str)
def test_a_recorded_step_does_what_a_step_does(personalizer, changes):
    """Whatever rows, captions and rates it was recorded with: a constant that Python left in it would show."""
    changes = {"decay": 0.8, "learning_rate": 1e-3} | changes
    nouns = changes.pop("nouns", ("cat", "dog"))
    learners = [learner_on(personalizer, nouns=nouns, **changes) for _ in range(2)]
    plain, recorded = (optimizer_of(each, recorded=True) for each in learners)
    steps = RecordedSteps(learners[1], recorded, no_scaler(), undone(learners[1], recorded))
    for step in range(9):
        batch = batch_of(step, nouns=nouns)
        expected = train_step(learners[0], batch, plain, no_scaler(), step)
        found = steps(batch, step)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} at step {step}")
    assert steps._play is not None
    for name, weight in learners[0].parameters().items():
        torch.testing.assert_close(learners[1].parameters()[name], weight, rtol=1e-3, atol=1e-5)


def undone(learner, optimizer):
    """Record by tape, and take back what the step did meanwhile: recording by CUDA does nothing."""

    def recording(body):
        held = [*learner.parameters().values()]
        held += [value for state in optimizer.state.values() for value in state.values()]
        before = [value.detach().clone() for value in held]
        found = record(body)
        with torch.no_grad():
            for value, old in zip(held, before, strict=True):
                value.copy_(old)
        return found

    return recording


def test_blocks_are_compiled_once_without_a_break_and_change_nothing(personalizer):
    """Twenty steps with other captions, windows and rows; once every kind of row was seen, nothing is compiled anew."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    learners = [learner_on(personalizer, precision="bf16") for _ in range(2)]
    plain, compiled = (optimizer_of(each) for each in learners)
    graphs = 0
    with compiled_blocks(learners[1], True, backend="aot_eager"):
        for step in range(20):
            batch = batch_of(step, rows=2)
            found = train_step(learners[1], batch, compiled, no_scaler(), step)
            if step < 6:  # the same weights, so the same losses
                expected = train_step(learners[0], batch, plain, no_scaler(), step)
                for name, value in expected.items():
                    torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=f"{name} at step {step}")
            if step == 4:  # which shows priors alone
                graphs = counters["stats"]["unique_graphs"]
    assert graphs
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    assert all(module._compiled_call_impl is None for module in learners[1].unet.modules())


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["ours", "the user's"])
def test_a_fit_compiles_its_blocks_finds_masks_and_may_compute_activations_again(
    personalizer, picture, quick, monkeypatch, whose
):
    counters = torch._dynamo.utils.counters
    monkeypatch.setattr(accelerate, "COMPILER", "aot_eager")
    again = whose == "ours"
    config = quick.with_changes(steps=2, batch_size=2, prior="none", target_share=1.0, gradient_checkpointing=again)
    eager = personalizer.fit(picture, ["cat"], config=config)
    torch._dynamo.reset()
    counters.clear()
    if whose == "ours":
        config = config.with_changes(accelerate="compile")
    else:
        personalizer.pipe.unet.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    compiled = personalizer.fit(picture, ["cat"], config=config)
    assert counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]
    torch.testing.assert_close(compiled.embeddings, eager.embeddings, rtol=1e-3, atol=1e-4)


def test_a_unet_that_its_user_compiled_is_fitted(personalizer):
    """Its blocks record maps or nothing, without a break."""
    batch = batch_of(0, rows=2)
    expected = train_step(plain := learner_on(personalizer), batch, optimizer_of(plain), no_scaler(), 0)
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    personalizer.pipe.unet.compile_repeated_blocks(backend="aot_eager", fullgraph=True, dynamic=False)
    learner = learner_on(personalizer)
    with pytest.raises(InputError, match="choose 'eager'"), compiled_blocks(learner, True):
        pass
    found = train_step(learner, batch, optimizer_of(learner), no_scaler(), 0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]


def test_losses_are_read_late_and_all_of_them(personalizer, picture, quick, monkeypatch):
    """In order, and the same as those that are read at once."""
    told = []
    for late in (0, 3):
        monkeypatch.setattr(loop, "LATE", {"cpu": late})
        told.append([])
        config = quick.with_changes(steps=6, batch_size=2, checkpoint_every=4)
        personalizer.fit(picture, ["cat"], config=config, callback=told[-1].append)
        assert [each.step for each in told[-1]] == list(range(1, 7))
    assert [each.losses for each in told[0]] == [each.losses for each in told[1]]


def test_late_losses_wait_for_their_turn():
    pending = PendingLosses(late=2)
    read = [pending.put(step, {"loss": torch.tensor(float(step))}, 0.1, 0.0) for step in (1, 2, 3, 4)]
    assert [[each.step for each in some] for some in read] == [[], [], [1], [2]]
    assert [each.values for each in pending.all()] == [{"loss": 3.0}, {"loss": 4.0}]
    assert pending.all() == []


def test_a_loss_that_is_no_number_is_found_late_and_keeps_the_checkpoint(personalizer, picture, tmp_path, monkeypatch):
    real, calls = DisenDiff.losses, []

    def losses(self, batch):
        calls.append(1)
        found = real(self, batch)
        return {**found, "denoise": found["denoise"] * float("nan")} if len(calls) == 3 else found

    monkeypatch.setattr(loop, "LATE", {"cpu": 3})
    monkeypatch.setattr(DisenDiff, "losses", losses)
    config = FitConfig(steps=8, batch_size=2, target_pool=2, prior="none", target_share=1.0, checkpoint_every=2)
    with pytest.raises(NotFiniteError, match=r"denoise is nan at step 3 .*last good checkpoint stays in"):
        personalizer.fit(picture, ["cat"], config=config, output_dir=tmp_path / "p")
    assert read_about(tmp_path / "p.partial").step == 2
    lines = (tmp_path / "p.partial" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("step") for line in lines] == [None, 1, 2]


def ahead(made):
    """Rows made ahead as on CUDA, but for methods that look at the weights before; notes whether any were."""
    real = UpcomingRows.prepare

    def prepare(self, step):
        self._ahead = UpcomingRows(self.method, self.rows, self.device, ahead=True)._ahead
        real(self, step)
        made.append(self._made is not None)

    return prepare


def test_rows_that_are_made_ahead_are_the_same(personalizer, picture, quick, monkeypatch):
    plain = personalizer.fit(picture, ["cat", "dog"], config=quick)
    made = []
    monkeypatch.setattr(UpcomingRows, "prepare", ahead(made))
    found = personalizer.fit(picture, ["cat", "dog"], config=quick)
    assert found.content_hash() == plain.content_hash()
    assert made == [True] * 3 + [False]


def test_masks_that_are_renewed_before_a_step_are_so_once(personalizer, picture, tmp_path, monkeypatch):
    """A checkpoint between two steps holds the masks of the first: their rows are not made ahead."""
    config = FitConfig.preset("reference", "attencraft", attencraft={"refresh_every": 2, "refresh_similarity": -1.0})
    config = config.with_changes(steps=5, batch_size=2, target_pool=4, prior="none", target_share=1.0)
    plain = personalizer.fit(picture, ["cat", "dog"], method="attencraft", config=config)
    made = []
    monkeypatch.setattr(UpcomingRows, "prepare", ahead(made))
    monkeypatch.setattr(loop, "LATE", {"cpu": 1})
    cancel = threading.Event()

    def stop(event):
        if event.phase == "fit" and event.done == 1:
            cancel.set()

    fit = {"method": "attencraft", "config": config, "output_dir": tmp_path / "p"}
    with pytest.raises(Cancelled):
        personalizer.fit(picture, ["cat", "dog"], **fit, progress=stop, cancel=cancel)
    assert read_about(tmp_path / "p.partial").step == 2
    found = personalizer.fit(picture, ["cat", "dog"], **fit, resume=True)
    assert found.content_hash() == plain.content_hash()
    assert not any(made)


def test_what_cannot_be_done_here_is_refused_in_a_line(personalizer, picture, quick):
    for changes, words in (
        ({"accelerate": "graph"}, "needs CUDA, and the model is on cpu; choose 'eager'"),
        ({"attention": "xformers"}, "needs xformers; run: pip install xformers"),
        ({"accelerate": "fast"}, "must be one of auto, eager, compile, graph"),
        ({"attention": "slow"}, "must be one of sdpa, xformers"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            personalizer.fit(picture, ["cat"], config=quick.with_changes(**changes))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("attencraft", {}, "each row shows"),
        ("disendiff", {"gradient_checkpointing": True}, "gradient_checkpointing"),
        ("disendiff", {"optimizer": "adamw8bit"}, "adamw8bit"),
        ("disendiff", {}, "precision='bf16'"),
    ],
    ids=str,
)
def test_what_cannot_be_recorded(method, changes, words):
    config = FitConfig.preset("reference", method, accelerate="graph", **changes)
    dtype = torch.float16 if "bf16" in words else torch.bfloat16
    with pytest.raises(InputError, match=words):
        check_accelerate(config, method_class(method), torch.device("cuda"), dtype)
    assert unrecordable(FitConfig(), method_class("disendiff"), torch.bfloat16) is None


def test_tensor_cores_multiply_what_is_left_in_float32_of_lower_types_alone():
    before = torch.get_float32_matmul_precision()
    inside = []
    for device, dtype in (("cuda", torch.bfloat16), ("cuda", torch.float32), ("cpu", torch.bfloat16)):
        with tensor_cores(torch.device(device), dtype):
            inside.append(torch.get_float32_matmul_precision())
    assert inside == ["high", before, before] != [before] * 3
    assert torch.get_float32_matmul_precision() == before


def test_xformers_gets_its_layout(personalizer, monkeypatch):
    """Its function takes [B, N, H, D]; a stand-in computes the definition in that layout."""
    asked = []

    def memory_efficient_attention(query, key, value, scale):
        asked.append(query.shape)
        logits = torch.einsum("bnhd,bthd->bhnt", query, key) * scale
        return torch.einsum("bhnt,bthd->bnhd", logits.softmax(-1), value)

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = memory_efficient_attention
    batch = batch_of(0)
    expected = None
    for attention in ("sdpa", "xformers"):
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)
        learner = learner_on(personalizer, attention=attention)
        with learner.installed():
            found = learner.losses(batch)["loss"]
        expected = found if expected is None else expected
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    plain = sum(name.endswith("attn1") for name, _ in learner.unet.named_modules())
    recorded = len(personalizer.family.map_layers(learner.unet))
    assert len(asked) == plain + len(learner.layers) - recorded
