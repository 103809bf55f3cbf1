"""Exported folders: the same pictures as the torch path, and errors that leave the session usable."""

from __future__ import annotations

import json
import re
import shutil
import threading
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from sdk import Concept, ConceptPack, Personalizer
from sdk.commands.main import main
from sdk.deploy import Cancelled, OnnxPersonalizer
from sdk.errors import BaseModelError, InputError, MissingFileError, OutputError, PackError
from sdk.families.layers import cross_attention_layers

STEPS = {"num_inference_steps": 4, "seed": 5}
PROMPT = "a <new1> cat and a <new2> dog on the beach"


@pytest.fixture(scope="module")
def torch_side(tiny_model):
    return Personalizer.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def packs(torch_side):
    """Two packs far from the base model and from each other, saved as packs are: in float16."""
    made = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        table = torch_side.pipe.text_encoder.get_input_embeddings().weight
        key_value = {}
        for name, layer in cross_attention_layers(torch_side.pipe.unet).items():
            pair = [w.weight.detach() for w in (layer.to_k, layer.to_v)]
            key_value[name] = tuple(
                (w + 0.5 * w.std() * torch.randn(w.shape, generator=generator)).half() for w in pair
            )
        rows = (table.std() * torch.randn(2, table.shape[1], generator=generator)).half()
        made.append(ConceptPack([Concept("cat", "<new1>"), Concept("dog", "<new2>")], torch_side.base, key_value, rows))
    return made


@pytest.fixture(scope="module")
def merged(tiny_model, packs, tmp_path_factory):
    """Exported by the command line."""
    folder = tmp_path_factory.mktemp("onnx") / "merged"
    pack = packs[0].save_pretrained(folder.parent / "my pets")
    command = ["export", str(pack), "--format", "onnx", "--output", str(folder), "--model", str(tiny_model)]
    with redirect_stdout(StringIO()) as said:
        assert main(command) == 0
    found = [float(error) for error in re.findall(r"differs from PyTorch by at most (\S+)", said.getvalue())]
    assert found
    assert max(found) < 1e-4
    return folder


@pytest.fixture(scope="module")
def shared(shared_export, packs, tmp_path_factory):
    """A copy, with the packs' adapters beside it."""
    folder = shutil.copytree(shared_export, tmp_path_factory.mktemp("onnx") / "shared")
    for index, pack in enumerate(packs):
        pack.export_adapter(folder.parent / f"{index}.onnx_adapter")
    return folder


@pytest.fixture
def runtime(shared):
    """The shared export with both packs."""
    loaded = OnnxPersonalizer.from_pretrained(shared, engine="onnxruntime")
    for index, name in enumerate(("first", "second")):
        loaded.add_pack(name, shared.parent / f"{index}.onnx_adapter")
    return loaded


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.square(np.asarray(one, float) - np.asarray(other, float)).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def least(ours, theirs) -> float:
    assert len(ours) == len(theirs)
    return min(psnr(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_merged_draws_what_torch_draws(torch_side, packs, merged, eta):
    asked = {"num_images": 2, "negative_prompt": "a car", "eta": eta, **STEPS}
    want = torch_side.generate(PROMPT, concepts=packs[0], **asked).images
    got = OnnxPersonalizer.from_pretrained(merged, engine="onnxruntime").generate(PROMPT, **asked).images
    assert least(got, want) > 45
    assert psnr(want[0], want[1]) < 30  # else every picture would do


def test_a_merged_folder_is_verified(merged, tmp_path, capsys):
    assert main(["verify", str(merged)]) == 0
    assert "a <new1> cat and a <new2> dog" in capsys.readouterr().out
    damaged = shutil.copytree(merged, tmp_path / "damaged")
    graph = damaged / "unet" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert main(["verify", str(damaged)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_shared_draws_what_torch_draws(torch_side, packs, runtime):
    for pack, name in zip(packs, ("first", "second"), strict=True):
        want = torch_side.generate(PROMPT, concepts=pack, **STEPS).images
        assert least(runtime.generate(PROMPT, packs=name, **STEPS).images, want) > 45
    assert psnr(want[0], runtime.generate(PROMPT, packs="first", **STEPS).images[0]) < 40


def test_a_batch_of_packs_and_the_base(runtime):
    prompts, names = [PROMPT, PROMPT, "a cat on the beach"], ["first", "second", None]
    together = runtime.generate(prompts, packs=names, **STEPS).images
    for index, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
        alone = runtime.generate(prompt, packs=name, num_inference_steps=4, seed=5 + index).images
        assert least([together[index]], alone) > 50


def test_a_pack_that_was_read_is_given_itself(runtime, shared, merged, tmp_path):
    pack = runtime.read_pack(shared.parent / "1.onnx_adapter")
    assert set(runtime.packs) == {"first", "second"}
    drawn = runtime.generate([PROMPT] * 3, concepts=(pack, "second", pack), **STEPS).images
    assert drawn[0].tobytes() == runtime.generate(PROMPT, concepts="second", **STEPS).images[0].tobytes()
    assert runtime.check_prompt(PROMPT, concepts=pack) == []
    with pytest.raises(InputError, match="<new1>, which was not learned"):
        runtime.check_prompt(PROMPT)
    other = OnnxPersonalizer.from_pretrained(merged, engine="onnxruntime")
    with pytest.raises(InputError, match="has its pack merged in"):
        other.generate(PROMPT, concepts=pack, **STEPS)


def test_a_removed_pack_leaves_the_base_as_it_was(shared):
    loaded = OnnxPersonalizer.from_pretrained(shared, engine="onnxruntime")
    before = loaded.generate("a cat", **STEPS).images[0]
    loaded.add_pack("first", shared.parent / "0.onnx_adapter")
    loaded.generate(PROMPT, packs="first", **STEPS)
    loaded.remove_pack("first")
    assert loaded.generate("a cat", **STEPS).images[0].tobytes() == before.tobytes()
    with pytest.raises(InputError, match="no pack 'first'"):
        loaded.generate(PROMPT, packs="first", **STEPS)


def test_threads_share_an_instance(runtime):
    want = {seed: runtime.generate(PROMPT, packs="first", num_inference_steps=3, seed=seed).images for seed in range(4)}
    got: dict[int, list] = {}

    def draw(seed):
        got[seed] = runtime.generate(PROMPT, packs="first", num_inference_steps=3, seed=seed).images

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(least(got[seed], want[seed]) > 50 for seed in want)


def test_inpainting_keeps_the_rest_and_draws_as_torch(torch_side, packs, runtime, picture):
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 32, 64))
    asked = {"negative_prompt": "a dog", **STEPS}
    want = torch_side.inpaint(picture, mask, "a <new1> cat", concepts=packs[0], **asked).images
    got = runtime.inpaint(picture, mask, "a <new1> cat", concepts="first", **asked).images
    assert least(got, want) > 45
    right = (16, 0, 32, 32)
    assert got[0].crop(right).tobytes() == picture.resize((32, 32), Image.Resampling.BICUBIC).crop(right).tobytes()


def test_a_picture_drawn_anew_is_drawn_as_torch_does(torch_side, packs, runtime, picture):
    asked = {"strength": 0.5, "num_images": 2, "seed": 3, "num_inference_steps": 6}
    want = torch_side.img2img(picture, "a <new1> cat", concepts=packs[0], **asked).images
    got = runtime.img2img(picture, "a <new1> cat", concepts="first", **asked).images
    assert least(got, want) > 45
    assert psnr(want[0], want[1]) < 40


def test_the_weaker_img2img_the_nearer_the_picture(runtime, picture):
    small = picture.resize((32, 32), Image.Resampling.BICUBIC)
    weak, strong = (
        runtime.img2img(picture, "a cat", strength=s, seed=0, num_inference_steps=10).images[0] for s in (0.1, 1.0)
    )
    back = runtime.img2img(picture, "a cat", strength=0.1, seed=0, num_inference_steps=10).images[0]
    assert weak.tobytes() == back.tobytes()
    assert psnr(weak, small) > psnr(strong, small)


def test_the_fast_scheduler_and_progress(runtime):
    seen = []
    result = runtime.generate(
        "a cat", scheduler="dpm++", progress=lambda event: seen.append((event.done, event.total)), **STEPS
    )
    assert len(result.images) == 1
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_cancelling_leaves_the_session_usable(runtime, picture):
    draws = (runtime.generate, partial(runtime.img2img, picture), partial(runtime.inpaint, picture, picture))
    for draw in draws:
        stop, seen = threading.Event(), []

        def after_a_step(event, stop=stop, seen=seen):
            seen.append(event.done)
            if event.done:
                stop.set()

        with pytest.raises(Cancelled):
            draw("a cat", progress=after_a_step, cancel=stop, **STEPS)
        assert seen == [0, 1]
    assert runtime.generate("a cat", **STEPS).images


def test_other_sizes(torch_side, packs, runtime):
    asked = {"height": 48, "width": 64, **STEPS}
    want = torch_side.generate(PROMPT, concepts=packs[0], **asked).images
    got = runtime.generate(PROMPT, packs="first", **asked).images
    assert got[0].size == (64, 48)
    assert least(got, want) > 45


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ("", {}, "empty"),
        ([], {}, "at least one prompt"),
        ("a <new3> cat", {"packs": "first"}, "not learned"),
        ("a <new1> cat", {}, "no pack is in use"),
        ("a <new1> dog", {"packs": "first"}, "noun must follow"),
        ("a cat", {"packs": "third"}, "no pack 'third'"),
        ("a cat", {"num_images": 0}, "num_images"),
        ("a cat", {"height": 33}, "multiple"),
        ("a cat", {"scheduler": "heun"}, "ddim, dpm"),
        ("a cat", {"num_inference_steps": 0}, "num_inference_steps"),
        ("a cat", {"num_inference_steps": 1000}, "num_inference_steps"),
        (["a cat", "a dog"], {"packs": ["first"]}, "one pack"),
        (["a cat", "a dog"], {"negative_prompt": ["x"]}, "one negative prompt"),
    ],
)
def test_bad_requests_are_refused(runtime, prompt, arguments, message):
    with pytest.raises(InputError, match=message):
        runtime.generate(prompt, **{**STEPS, **arguments})


def test_damaged_and_foreign_adapters(runtime, shared, packs, tmp_path):
    whole = (shared.parent / "0.onnx_adapter").read_bytes()
    want = runtime.generate(PROMPT, packs="first", **STEPS).images[0].tobytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "edited": whole[:2000] + bytes(16) + whole[2016:],
        "tail": whole[:-3000] + b"\xff" * 16 + whole[-2984:],
        "other": b"PK\x03\x04 something else",
        "empty": b"",
    }.items():
        file = tmp_path / f"{name}.onnx_adapter"
        file.write_bytes(content)
        with pytest.raises(PackError, match="write it again|write one by"):
            runtime.add_pack("first", file)
    with pytest.raises(MissingFileError, match="no adapter"):
        runtime.add_pack("first", tmp_path / "none.onnx_adapter")
    assert runtime.generate(PROMPT, packs="first", **STEPS).images[0].tobytes() == want


def test_a_pack_of_another_base_is_refused(runtime, packs, tmp_path):
    from dataclasses import replace

    pack = packs[0]
    foreign = replace(pack.base, fingerprint={k: [x * 1.01 for x in v] for k, v in pack.base.fingerprint.items()})
    file = ConceptPack(pack.concepts, foreign, pack.key_value, pack.embeddings).export_adapter(
        tmp_path / "f.onnx_adapter"
    )
    with pytest.raises(BaseModelError, match="another base model"):
        runtime.add_pack("foreign", file)
    assert set(runtime.packs) == {"first", "second"}


def test_damaged_folders(shared, merged, tmp_path):
    with pytest.raises(MissingFileError, match="give the folder"):
        OnnxPersonalizer.from_pretrained(tmp_path, engine="onnxruntime")
    for change, error, message in (
        (lambda f: (f / "unet" / "model.onnx").unlink(), MissingFileError, "export the model again"),
        (lambda f: (f / "unet" / "model.onnx").write_bytes(b"\x00\x01"), BaseModelError, "damaged"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").unlink(), MissingFileError, "tokenizer"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"), BaseModelError, "damaged"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), MissingFileError, "scheduler"),
        (lambda f: (f / "personalizer_onnx.json").write_text("{"), BaseModelError, "damaged"),
        (_other_version, BaseModelError, "format 99"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(merged, copy)
        change(copy)
        with pytest.raises(error, match=message):
            OnnxPersonalizer.from_pretrained(copy, engine="onnxruntime")
        shutil.rmtree(copy)
    with pytest.raises(InputError, match="merged in"):
        OnnxPersonalizer.from_pretrained(merged, engine="onnxruntime").add_pack(
            "first", shared.parent / "0.onnx_adapter"
        )
    with pytest.raises(InputError, match="no NoSuchProvider"):
        OnnxPersonalizer.from_pretrained(merged, providers=["NoSuchProvider"])


def _other_version(folder):
    file = folder / "personalizer_onnx.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))


def test_export_refuses_what_it_cannot_do(torch_side, packs, tmp_path):
    with pytest.raises(InputError, match="holds no pack"):
        torch_side.export_onnx(tmp_path / "x", concepts=packs[0], shared=True)
    with pytest.raises(InputError, match="float32 or float16"):
        torch_side.export_onnx(tmp_path / "x", dtype=torch.bfloat16)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="other files"):
        torch_side.export_onnx(tmp_path / "letters")
    assert [p.name for p in (tmp_path / "letters").iterdir()] == ["mine.txt"]


def test_an_export_that_computes_something_else_is_refused(torch_side, packs, tmp_path, monkeypatch):
    from sdk.exports import onnx_graphs

    monkeypatch.setattr(onnx_graphs.TextEncoderGraph, "forward", _drifting(onnx_graphs.TextEncoderGraph.forward))
    with pytest.raises(OutputError, match="text_encoder differs from PyTorch"):
        torch_side.export_onnx(tmp_path / "x", concepts=packs[0])
    assert not (tmp_path / "x").exists()


def _drifting(forward):
    """The forward, other when traced than when run."""

    def changed(self, input_ids, token_rows):
        result = forward(self, input_ids, token_rows)
        return tuple(1.1 * each for each in result) if torch.compiler.is_exporting() else result

    return changed


@pytest.mark.slow
def test_float16(torch_side, packs, tmp_path):
    torch_side.export_onnx(tmp_path / "half", concepts=packs[0], dtype=torch.float16)
    want = torch_side.generate(PROMPT, concepts=packs[0], **STEPS).images
    assert (
        least(
            OnnxPersonalizer.from_pretrained(tmp_path / "half", engine="onnxruntime").generate(PROMPT, **STEPS).images,
            want,
        )
        > 25
    )
