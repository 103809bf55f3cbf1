"""A fit that draws and scores a sheet now and then, keeps its best weights and knows when to stop."""

from __future__ import annotations

import json

import pytest
import torch

from sdk.errors import InputError
from sdk.fit.early_stopping import Best
from sdk.miniworld.scorer import JudgeScorer


def test_the_best_weights_are_kept_and_patience_ends():
    best = Best(patience=2)
    weights = {"w": torch.zeros(1)}
    stops = []
    for step, score in enumerate((0.1, 0.4, 0.3, 0.4), start=1):
        weights["w"].fill_(step)
        stops.append(best.see(score, step, weights))
    assert stops == [False, False, False, True]  # an equal score is no rise
    assert (best.step, best.score, best.weights["w"].item()) == (2, 0.4, 2.0)
    endless = Best(patience=0)
    assert not any(endless.see(-step, step, weights) for step in range(5))


@pytest.fixture
def scripted(monkeypatch):
    """Validation scores that rise once and then fall."""
    from sdk.fit.validation import Validator

    scores = iter([0.2, 0.6, 0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(Validator, "__call__", lambda self: {"fidelity": 0.0, "leakage": 0.0, "score": next(scores)})


def test_a_fit_ends_with_its_best_weights(personalizer, picture, quick, tmp_path, scripted):
    config = quick.with_changes(steps=8, validate_every=2, patience=2, checkpoint_every=0)
    packs = {}
    pack = personalizer.fit(
        picture, ["cat", "dog"], config=config, output_dir=tmp_path / "pack",
        callback=lambda report: packs.setdefault("steps", []).append(report.step),
    )  # fmt: skip
    assert packs["steps"] == list(range(1, 9))  # two falls after step 4: the last at step 8
    lines = [json.loads(line) for line in (tmp_path / "pack" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation" in line] == [2, 4, 6, 8]
    plain = personalizer.fit(picture, ["cat", "dog"], config=config.with_changes(validate_every=0, steps=4))
    assert torch.equal(pack.embeddings, plain.embeddings)


def test_an_early_stop(personalizer, picture, quick, scripted):
    config = quick.with_changes(steps=20, validate_every=1, patience=1)
    steps = []
    personalizer.fit(picture, ["cat"], config=config, callback=lambda report: steps.append(report.step))
    assert steps == [1, 2, 3]


def test_an_interrupted_fit_remembers_its_best(personalizer, picture, quick, tmp_path, monkeypatch):
    from sdk.fit.validation import Validator

    class Stop(Exception):
        pass

    def run(folder, fail_at):
        scores = {2: 0.9, 4: 0.5, 6: 0.1}
        done = []
        monkeypatch.setattr(
            Validator, "__call__", lambda self: {"fidelity": 0.0, "leakage": 0.0, "score": scores[done[-1] + 1]}
        )

        def callback(report):
            done.append(report.step)
            if report.step == fail_at:
                raise Stop

        done.append(0)
        config = quick.with_changes(steps=6, validate_every=2, checkpoint_every=3)
        try:
            return personalizer.fit(
                picture, ["cat"], config=config, output_dir=folder, callback=callback, resume=fail_at is None
            )
        except Stop:
            done[:] = [5]  # the step that was done when the callback failed is kept
            callback_after = lambda report: done.append(report.step)  # noqa: E731
            return personalizer.fit(
                picture, ["cat"], config=config, output_dir=folder, callback=callback_after, resume=True
            )

    whole, resumed = run(tmp_path / "a", None), run(tmp_path / "b", 5)
    assert whole.content_hash() == resumed.content_hash()


def test_the_sheet_is_drawn_and_scored_for_real(personalizer, picture, quick, tmp_path):
    config = quick.with_changes(steps=2, validate_every=1, checkpoint_every=0)
    personalizer.fit(picture, ["cat", "dog"], config=config, output_dir=tmp_path / "pack")
    lines = [json.loads(line) for line in (tmp_path / "pack" / "metrics.jsonl").read_text().splitlines()]
    found = [line["validation"] for line in lines if "validation" in line]
    assert len(found) == 2
    assert all(v["score"] == pytest.approx(v["fidelity"] - v["leakage"]) for v in found)


def test_validation_needs_someone_who_knows_the_classes(picture):
    from sdk.concepts import resolve_concepts

    with pytest.raises(InputError, match="the judge does not know lamp"):
        JudgeScorer().look_at(picture, resolve_concepts(["lamp"]))


def test_the_score_is_the_scorers_fidelity_less_its_leakage(personalizer, picture, quick):
    """Of a sheet of two prompts a concept, two pictures each, fifteen steps, always with the same noise."""
    from sdk.concepts import resolve_concepts
    from sdk.eval import draw_for
    from sdk.fit.validation import Validator

    concepts = resolve_concepts(["cat", "dog"])
    pack = personalizer.fit(picture, concepts, config=quick.with_changes(steps=1))
    scorer = JudgeScorer()
    scorer.look_at(picture, concepts)
    drawn = draw_for(personalizer, scorer.prompts(concepts, 2), pack, num_images=2, num_inference_steps=15, seed=5000)
    scores = scorer.score(drawn)
    assert scores.leakage > 1e-4
    found = Validator(personalizer, scorer, lambda: pack)()
    assert found == {
        "fidelity": pytest.approx(scores.fidelity),
        "leakage": pytest.approx(scores.leakage),
        "score": pytest.approx(scores.fidelity - scores.leakage),
    }


def test_one_concept_alone_leaks_into_nothing(personalizer, picture, quick, tmp_path):
    config = quick.with_changes(steps=1, validate_every=1)
    personalizer.fit(picture, ["cat"], config=config, output_dir=tmp_path / "pack")
    lines = [json.loads(line) for line in (tmp_path / "pack" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [line["validation"] for line in lines if "validation" in line]
    assert found["leakage"] == 0
    assert found["score"] == found["fidelity"]


def test_a_fit_that_is_cancelled_while_it_validates_does_that_again(personalizer, picture, quick, tmp_path):
    """The step before is not lost, and the validation comes first when it goes on."""
    import threading

    from sdk.runtime import Cancelled

    config = quick.with_changes(steps=4, validate_every=2, checkpoint_every=0)
    whole = personalizer.fit(picture, ["cat"], config=config, output_dir=tmp_path / "whole")
    cancel, seen = threading.Event(), []

    def stop(event):
        seen.append((event.phase, event.done))
        if event.phase == "validate" and event.done == 3:
            cancel.set()

    with pytest.raises(Cancelled):
        personalizer.fit(picture, ["cat"], config=config, output_dir=tmp_path / "cut", progress=stop, cancel=cancel)
    seen.clear()
    resumed = personalizer.fit(
        picture, ["cat"], config=config, output_dir=tmp_path / "cut", progress=lambda e: seen.append((e.phase, e.done)),
        resume=True,
    )  # fmt: skip
    steps = [entry for entry in seen if entry[0] in ("fit", "validate")]
    assert steps[:3] == [("fit", 2), *[(p, d) for p, d in steps if p == "validate"][:2]]
    assert [d for p, d in steps if p == "fit"] == [2, 3, 4]
    assert resumed.content_hash() == whole.content_hash()
    logs = []
    for name in ("whole", "cut"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    assert logs[0] == logs[1]
