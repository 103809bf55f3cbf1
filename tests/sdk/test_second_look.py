"""What was found by looking a second time: work that could be lost, and answers that said nothing."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import ConceptPack, FitConfig, compare
from sdk.commands.main import main
from sdk.errors import ImageError, InputError, MissingFileError, NotFiniteError, OutputError
from sdk.eval import evaluate
from sdk.exports import load_format
from sdk.images.image_io import load_image, load_mask
from sdk.runtime import Cancelled


@pytest.fixture
def small(quick):
    return quick.with_changes(prior="none", steps=2)


@pytest.fixture
def pack(personalizer, picture, small):
    return personalizer.fit(picture, ["cat", "dog"], config=small)


# Exports


@pytest.mark.parametrize(("name", "options"), [("lora", {}), ("diffusers", {}), ("webui", {"name": "new1"})])
def test_an_export_leaves_packs_and_files_of_others_alone(personalizer, pack, tmp_path, name, options):
    export = load_format(name).export
    folder = pack.save_pretrained(tmp_path / "pack")
    with pytest.raises(OutputError, match="holds a pack"):
        export(pack, personalizer, folder, **options)
    assert ConceptPack.from_pretrained(folder).content_hash() == pack.content_hash()
    for file in export(pack, personalizer, tmp_path / "first", **options).paths:
        own = tmp_path / f"own-{file.name}"
        own.mkdir()
        (own / file.name).write_bytes(b"hours of somebody's training")
        with pytest.raises(OutputError, match="no file of an earlier export"):
            export(pack, personalizer, own, **options)
        assert [p.read_bytes() for p in own.iterdir()] == [b"hours of somebody's training"]
    before = {p.name: p.read_bytes() for p in (tmp_path / "first").iterdir()}
    export(pack, personalizer, tmp_path / "first", **options)  # its own are replaced
    assert {p.name: p.read_bytes() for p in (tmp_path / "first").iterdir()} == before


def test_merging_replaces_no_fit(personalizer, pack, tiny_model, tmp_path, capsys):
    packs = [str(pack.save_pretrained(tmp_path / name)) for name in ("a", "b", "fitted")]
    assert main(["merge", *packs[:2], "--output", packs[2], "--model", str(tiny_model)]) == 2
    assert "holds a pack that was fitted" in capsys.readouterr().err
    both = str(tmp_path / "both")
    for _ in range(2):
        assert main(["merge", *packs[:2], "--output", both, "--model", str(tiny_model)]) == 0


# Masks


def test_transparent_masks_mean_one_thing_or_are_refused():
    alpha = Image.new("L", (32, 32))
    alpha.paste(255, (0, 0, 16, 32))
    white = Image.merge("RGBA", [Image.new("L", (32, 32), 255)] * 3 + [alpha])
    assert np.array_equal(np.asarray(load_mask(white))[..., 0], np.asarray(alpha))
    opaque = Image.merge("RGBA", [alpha] * 3 + [Image.new("L", (32, 32), 255)])
    assert np.array_equal(np.asarray(load_mask(opaque))[..., 0], np.asarray(alpha))
    cut_out = Image.merge("RGBA", [Image.new("L", (32, 32), 90)] * 3 + [alpha])
    with pytest.raises(ImageError, match="without transparency"):
        load_mask(cut_out)


def test_masks_that_say_nothing_are_remarked(personalizer, picture, small, caplog):
    half = Image.new("L", picture.size)
    half.paste(255, (0, 0, 32, 64))
    with caplog.at_level(logging.WARNING):
        personalizer.fit(picture, ["cat", "dog"], config=small, masks=[half, half])
        personalizer.fit(picture, ["cat", "dog"], config=small, masks=[Image.new("L", picture.size, 255), half])
    assert "two concepts have the same mask" in caplog.text
    assert "mask 1 covers the whole picture" in caplog.text


def test_a_huge_array_is_refused_before_it_is_copied():
    with pytest.raises(ImageError, match="megapixels"):
        load_image(np.broadcast_to(np.uint8(0), (10**6, 10**6)))


# Modes of torch


def test_a_fit_learns_whatever_mode_the_caller_is_in(personalizer, picture, small, pack):
    with torch.no_grad():
        assert personalizer.fit(picture, ["cat", "dog"], config=small).content_hash() == pack.content_hash()
    with torch.inference_mode():
        assert personalizer.fit(picture, ["cat", "dog"], config=small).content_hash() == pack.content_hash()


def test_packs_are_read_and_written_in_inference_mode(personalizer, pack, tmp_path):
    with torch.inference_mode():
        read = ConceptPack.from_pretrained(pack.save_pretrained(tmp_path / "a"))
        personalizer.load_pack(tmp_path / "a")
        again = read.save_pretrained(tmp_path / "b")
    assert ConceptPack.from_pretrained(again).content_hash() == pack.content_hash()


def test_packs_are_compared_without_an_error(pack, tmp_path):
    other = ConceptPack.from_pretrained(pack.save_pretrained(tmp_path / "a"))
    assert pack == pack
    assert pack != other
    assert len({pack, other}) == 2


# Drawing


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (5, "may answer nothing"),
        ({"latents": [1]}, "latents of shape"),
        ({"latents": torch.zeros(1, 4, 2, 2)}, "latents of shape"),
        ({"prompt_embeds": 1}, "may answer nothing"),
    ],
)
def test_a_callback_that_answers_something_else(personalizer, answer, message):
    with pytest.raises(InputError, match=message):
        personalizer.generate("a cat", num_inference_steps=2, callback_on_step_end=lambda *_: answer)


def test_a_callback_that_answers_latents(personalizer):
    def zeros(pipe, step, timestep, values):
        return {"latents": torch.zeros_like(values["latents"]).half()}

    drawn = personalizer.generate(["a cat", "a dog"], num_inference_steps=2, callback_on_step_end=zeros).images
    assert drawn[0].tobytes() == drawn[1].tobytes()
    with pytest.raises(NotFiniteError, match="callback_on_step_end answered"):
        personalizer.generate(
            "a cat",
            num_inference_steps=2,
            callback_on_step_end=lambda *given: {"latents": given[3]["latents"] * float("nan")},
        )


def test_a_call_that_is_cancelled_hands_over_what_was_done(personalizer):
    import threading

    stop, whole = threading.Event(), personalizer.generate("a cat", num_images=18, num_inference_steps=2, seed=1)

    def cancel(event):
        if event.done == 3:  # in the second batch
            stop.set()

    with pytest.raises(Cancelled) as stopped:
        personalizer.generate("a cat", num_images=18, num_inference_steps=2, seed=1, progress=cancel, cancel=stop)
    finished = stopped.value.finished
    assert sorted(finished) == list(range(16))
    assert all(finished[i].tobytes() == whole.images[i].tobytes() for i in finished)
    assert finished[3].info["personalizer"] == whole.images[3].info["personalizer"]


def test_prompts_that_would_load_loras_or_weigh_less_are_remarked(personalizer):
    notes = personalizer.generate("a cat <lora:foo:0.8> (red:-1)", num_inference_steps=1).notes
    assert any("<lora:foo:0.8> loads nothing here" in note for note in notes)
    assert any("(red:-1)" in note for note in notes)


def test_an_output_that_stays_empty_goes_again(pack, tiny_model, tmp_path, capsys):
    folder = str(pack.save_pretrained(tmp_path / "pack"))
    refused = ["generate", folder, "--prompt", "a <new9> cat", "--output", str(tmp_path / "pictures")]
    assert main([*refused, "--model", str(tiny_model)]) == 2
    assert not (tmp_path / "pictures").exists()
    (tmp_path / "pictures").mkdir()
    assert main([*refused, "--model", str(tiny_model)]) == 2
    assert (tmp_path / "pictures").is_dir()


# Arguments


@pytest.mark.parametrize(
    "wrong",
    [{"prompts": "2"}, {"seed": "x"}, {"masks": 5}, {"settings": [1]}, {"methods": [1]}, {"seed": -1}, {"progress": 1}],
)
def test_wrong_arguments_of_a_comparison(personalizer, picture, wrong):
    with pytest.raises(InputError):
        compare(personalizer, picture, ["cat", "dog"], **wrong)


@pytest.mark.parametrize("wrong", [{"prompts": "a"}, {"prompts": -1}, {"seed": -1}, {"seed": "7"}, {"scorer": 3}])
def test_wrong_arguments_of_an_evaluation(personalizer, pack, wrong):
    with pytest.raises(InputError):
        evaluate(personalizer, pack, **wrong)
    with pytest.raises(InputError):
        evaluate(personalizer, "pack")


def test_one_method_by_its_name_is_one(personalizer, picture):
    with pytest.raises(InputError, match="no method 'disendif'|disendif"):
        compare(personalizer, picture, ["cat", "dog"], methods="disendif")


def test_settings_without_effect_are_remarked(personalizer, picture, quick, small, tmp_path, caplog):
    with pytest.raises(InputError, match=r"\{all\} and \{each\}"):
        FitConfig(prior_prompts=("a {foo}",))
    with pytest.raises(InputError, match="give output_dir"):
        personalizer.fit(picture, ["cat"], config=small, resume=True)
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat " * 60)
    (tmp_path / "b.txt").write_text("of no picture")
    config = quick.with_changes(prior=str(tmp_path), steps=1, prior_steps=3, patience=2)
    with caplog.at_level(logging.WARNING):
        personalizer.fit(picture, ["cat"], config=config)
    assert "patience has no effect without validate_every" in caplog.text
    assert "of drawn priors, without effect" in caplog.text
    assert "b.txt" in caplog.text
    assert "longer than the 32 tokens" in caplog.text


def test_words_that_tokens_cannot_start_from_are_named(bundled_words, caplog):
    personalizer, picture = bundled_words
    config = personalizer.default_config(steps=1, prior="none", initializers=("giraffe",))
    with caplog.at_level(logging.WARNING):
        personalizer.fit(picture, ["cat"], config=config)
    assert "does not know 'giraffe'" in caplog.text


@pytest.fixture
def bundled_words(picture):
    from sdk import Personalizer

    return Personalizer.from_pretrained("bundled", device="cpu"), picture


def test_a_pack_that_is_not_finite_is_not_loaded(personalizer, pack):
    pack.embeddings[0, 0] = float("nan")
    with pytest.raises(NotFiniteError):
        personalizer.load_pack(pack)


def test_a_lora_that_is_not_there(personalizer, tmp_path):
    with pytest.raises(MissingFileError, match="there is no LoRA"):
        personalizer.load_lora_weights(str(tmp_path / "lora.safetensors"))


def test_options_that_no_loader_has(tiny_model):
    from sdk import Personalizer

    with pytest.raises(InputError, match="no option 'foo'"):
        Personalizer.from_pretrained(tiny_model, foo=1)


# What is said


def test_a_foreign_packs_card_holds_no_terminal_codes(pack, tmp_path):
    folder = pack.save_pretrained(tmp_path / "pack")
    about = json.loads((folder / "personalizer.json").read_text())
    evil = "\x1b]0;pwned\x07\u202e"
    about["provenance"] |= {"seed": evil, "file": evil, "libraries": {f"{evil}{i}": evil for i in range(9000)}}
    about["settings"]["steps"] = evil
    (folder / "personalizer.json").write_text(json.dumps(about))
    card = (ConceptPack.from_pretrained(folder).save_pretrained(tmp_path / "again") / "README.md").read_text()
    assert not set(card) & {"\x1b", "\x07", "\u202e"}
    assert len(card) < 20_000


def test_large_files_that_a_pack_lists_and_nobody_uses_are_not_read(pack, tmp_path, monkeypatch):
    from sdk.disk.files import sha256_file
    from sdk.pack import manifest

    folder = pack.save_pretrained(tmp_path / "pack")
    (folder / "extra.bin").write_bytes(b"x" * 1000)
    about = json.loads((folder / "personalizer.json").read_text())
    about["files"]["extra.bin"] = sha256_file(folder / "extra.bin")
    (folder / "personalizer.json").write_text(json.dumps(about))
    read, own = [], manifest.read_bytes
    monkeypatch.setattr(manifest, "read_bytes", lambda path, **how: read.append(path.name) or own(path, **how))
    ConceptPack.from_pretrained(folder)
    assert "new1.safetensors" in read
    assert "extra.bin" not in read
    (folder / "extra.bin").write_bytes(b"y" * 1000)
    from sdk.errors import PackError

    with pytest.raises(PackError, match=r"extra\.bin is damaged"):
        ConceptPack.from_pretrained(folder)


@pytest.mark.parametrize("command", [["generate", ""], ["verify", ""], ["masks", ""]])
def test_an_empty_path_is_no_folder(command, capsys, tmp_path):
    rest = {
        "generate": ["--prompt", "a", "--output", str(tmp_path / "x")],
        "masks": ["--concept", "cat", "--output", "x"],
    }
    assert main([*command, *rest.get(command[0], [])]) == 2
    assert "empty" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_no_success(pack, tmp_path, monkeypatch, capsys):
    from sdk.commands import common

    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def flush(self):
            pass

        def reconfigure(self, **how):
            pass

    folder = pack.save_pretrained(tmp_path / "pack")
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr(common, "_lost", [])
    monkeypatch.setattr("sys.stdout", Full())
    assert main(["doctor"]) == 1
    assert "could not be written" in capsys.readouterr().err
    monkeypatch.setattr(common, "_lost", [])
    monkeypatch.setattr("sys.stdout", None)
    assert main(["doctor"]) == 0


def test_byte_order_marks_are_no_part_of_a_caption(tmp_path):
    from sdk.images.captions import read_caption

    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" * 2 + b"a cat")
    assert read_caption(tmp_path / "a.txt") == "a cat"
