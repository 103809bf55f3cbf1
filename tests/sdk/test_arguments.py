"""What users may give by mistake: one sentence of ours, whatever it is."""

from __future__ import annotations

import threading
from itertools import repeat

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Concept, ConceptPack, FitConfig, Personalizer
from sdk.combine import merge, route
from sdk.errors import BaseModelError, InputError, NotFiniteError, SdkError
from sdk.families.layers import cross_attention_layers

ONCE = {"num_inference_steps": 1, "seed": 1}
SHORT = FitConfig(steps=1, batch_size=1, target_pool=1, prior="none", target_share=1.0)


class Strange:
    """Says nothing about itself."""

    def __repr__(self):
        raise RuntimeError("no words")


ANYTHING = [5, -1, 2**64, 1.5, float("nan"), True, "", "\0", "x" * 10**6, b"x", {}, {"a"}, object(), Strange(), 1j]
ANYTHING += [np.int64(3), np.array([1.0, 2.0]), np.array(3), torch.tensor([1.0, 2.0]), Image.new("L", (20, 20)), None]
ANYTHING += [threading.Event(), repeat("a"), torch.Generator(), [None], [Strange()], ((),)]


@pytest.fixture(scope="module")
def shared_personalizer(tiny_model):
    return Personalizer.from_pretrained(tiny_model, device="cpu")


@pytest.mark.parametrize(
    "name",
    ["prompt", "concepts", "num_images", "seed", "num_inference_steps", "guidance_scale", "eta", "negative_prompt"]
    + ["height", "width", "generator", "progress", "cancel", "callback_on_step_end"],
)
def test_a_drawing_works_or_says_what_is_wrong(shared_personalizer, name):
    said = []
    for value in ANYTHING:
        try:
            shared_personalizer.generate(**{"prompt": "a cat", **ONCE, name: value})
        except SdkError as error:
            said.append(str(error))
    assert len(said) >= 14, "most of these mean nothing here"
    assert max(map(len, said)) < 600


@pytest.mark.parametrize("name", ["config", "progress", "cancel"])
def test_looking_for_masks_likewise(shared_personalizer, picture, name):
    for value in [value for value in ANYTHING if value is not None]:
        if name == "cancel" and hasattr(value, "is_set"):
            continue
        with pytest.raises(InputError, match=f"{name} must be"):
            shared_personalizer.find_masks(picture, ["cat"], **{name: value})


@pytest.mark.parametrize("name", ["method", "seed", "output_dir", "resume", "callback", "progress", "cancel", "masks"])
def test_a_fit_likewise(shared_personalizer, picture, name):
    for value in (5.5, b"x", object(), Strange(), {"a": 1}, np.array([1.0, 2.0])):
        with pytest.raises(InputError, match=f"{name} must be"):
            shared_personalizer.fit(picture, ["cat"], **{"config": SHORT, name: value})
    with pytest.raises(InputError, match="at least one reference"):
        shared_personalizer.fit([], ["cat"], config=SHORT)
    for config in (0, {}, "best"):
        with pytest.raises(InputError, match="must be a FitConfig"):
            shared_personalizer.fit(picture, ["cat"], config=config)


def test_a_path_in_place_of_a_pack_is_answered_with_how_to_read_it(shared_personalizer):
    with pytest.raises(InputError, match=r"give ConceptPack\.from_pretrained\('my-pets'\)"):
        shared_personalizer.generate("a cat", concepts="my-pets")
    for value in (5, b"x", None, "\0", "x" * 300, "a/" * 3000):
        with pytest.raises(InputError, match="pack"):
            shared_personalizer.load_pack(value)
    assert shared_personalizer.pack is None


def test_generators(shared_personalizer):
    draw = shared_personalizer.generate
    with pytest.raises(InputError, match="list of them"):
        draw("a cat", generator=[5])
    pair = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
    listed = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    first, second = (draw("a cat", num_images=2, generator=g, num_inference_steps=1).images for g in (pair, listed))
    assert [i.tobytes() for i in first] == [i.tobytes() for i in second]
    assert first[0].tobytes() != first[1].tobytes()
    noted = draw("a cat", generator=torch.Generator(), **ONCE).notes
    assert noted == ["seed has no effect beside generator"]


@pytest.mark.parametrize("device", ["nope", 5, "meta", b"nope", "cuda:99", 2**70])
def test_devices_that_are_not_here(tiny_model, device):
    with pytest.raises(InputError, match="device must be one that"):
        Personalizer.from_pretrained(tiny_model, device=device)


def test_models_and_dtypes_of_other_types(tiny_model):
    for model in (5, None, b"x", "\0", "x" * 300):
        with pytest.raises(InputError, match="model"):
            Personalizer.from_pretrained(model)
        with pytest.raises(InputError, match="pipeline is needed"):
            Personalizer(model)
    for dtype in ("fp16", 16, torch.int64, np.float32):
        with pytest.raises(InputError, match="dtype must be"):
            Personalizer.from_pretrained(tiny_model, dtype=dtype)


def test_packs_to_combine(shared_personalizer):
    for packs in (5, "ab", [5, 5], ["a", "b"], repeat(None)):
        for combine in (route, lambda given: merge(shared_personalizer, given)):
            with pytest.raises(InputError, match="packs must be"):
                combine(packs)


def test_exports(shared_personalizer, tmp_path):
    cancel = threading.Event()
    cancel.set()
    for arguments in ({"concepts": "pack"}, {"dtype": "fp16"}, {"shared": 2}, {"progress": 5}, {"cancel": 5}):
        with pytest.raises(InputError, match="must be"):
            shared_personalizer.export_onnx(tmp_path / "onnx", **arguments)
    with pytest.raises(InputError, match="folder must be a path"):
        shared_personalizer.export_onnx(5)
    from sdk.runtime import Cancelled

    with pytest.raises(Cancelled):
        shared_personalizer.export_onnx(tmp_path / "onnx", cancel=cancel)
    assert not (tmp_path / "onnx").exists()


def test_packs_made_in_memory_that_do_not_fit(shared_personalizer):
    base = shared_personalizer.base
    layers = cross_attention_layers(shared_personalizer.pipe.unet)
    name, layer = next(iter(layers.items()))
    pair = (layer.to_k.weight, layer.to_v.weight)
    row = torch.zeros(1, base.context)
    cat = [Concept("cat", "<new1>")]
    for pack, message in (
        (ConceptPack(cat, base, {"nowhere.attn2": pair}, row), "nowhere.attn2"),
        (ConceptPack(cat, base, {name: (pair[0][:2], pair[1])}, row), f"{name}.to_k"),
        (ConceptPack(cat, base, {name: pair}, row[:, :3]), "embeddings of shape"),
        (ConceptPack(cat, base, {name: pair}, row[:0]), "embeddings of shape"),
        (ConceptPack(cat, base, {}, row, unet={"conv_in.weight": torch.zeros(2)}), "conv_in.weight"),
    ):
        with pytest.raises(BaseModelError, match=message):
            shared_personalizer.generate("a <new1> cat", concepts=pack, **ONCE)
    nothing = ConceptPack([], base, {name: pair}, row[:0])
    want = shared_personalizer.generate("a cat", **ONCE)
    got = shared_personalizer.generate("a cat", concepts=nothing, **ONCE)
    assert got.images[0].tobytes() == want.images[0].tobytes()
    assert got.notes == []


def lora_file(personalizer, folder, name="lora.safetensors", fill=1.0, layer=None):
    from safetensors.torch import save_file

    layer = layer or next(iter(cross_attention_layers(personalizer.pipe.unet))).replace("attn2", "attn1.to_v")
    weights = {"A": fill * torch.linspace(-1, 1, 32).square().view(2, 16), "B": torch.full((16, 2), fill)}
    save_file({f"unet.{layer}.lora_{which}.weight": weight for which, weight in weights.items()}, folder / name)
    return {"pretrained_model_name_or_path_or_dict": str(folder), "weight_name": name}


def test_a_lora_is_loaded_whole_or_not_at_all(personalizer, tmp_path):
    kinds = [(name, type(m)) for name, m in personalizer.pipe.unet.named_modules()]
    plain = personalizer.generate("a cat", **ONCE).images[0].tobytes()
    whole = lora_file(personalizer, tmp_path)
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "lora.safetensors").read_bytes()[:-9])
    (tmp_path / "text.safetensors").write_text("not weights")
    wrong = [
        ({**whole, "weight_name": "broken.safetensors"}, InputError, "cannot load the LoRA"),
        ({**whole, "weight_name": "text.safetensors"}, InputError, "cannot load the LoRA"),
        ({**whole, "weight_name": "none.safetensors", "local_files_only": True}, InputError, "cannot load the LoRA"),
        (lora_file(personalizer, tmp_path, "nan.safetensors", float("nan")), NotFiniteError, "NaN or infinite"),
        (lora_file(personalizer, tmp_path, "no.safetensors", layer="nowhere.to_q"), InputError, "LoRA"),
        (lora_file(personalizer, tmp_path, "big.safetensors", layer="conv_in"), InputError, "LoRA"),
        ({"pretrained_model_name_or_path_or_dict": 5}, InputError, "a LoRA is a file"),
        ({"pretrained_model_name_or_path_or_dict": {}}, InputError, "LoRA"),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            personalizer.load_lora_weights(**arguments)
        assert [(name, type(m)) for name, m in personalizer.pipe.unet.named_modules()] == kinds
        assert personalizer.generate("a cat", **ONCE).images[0].tobytes() == plain
    personalizer.load_lora_weights(**whole, adapter_name="mine")
    with_lora = personalizer.generate("a cat", **ONCE).images[0].tobytes()
    assert with_lora != plain
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            personalizer.load_lora_weights(**arguments)
        assert personalizer.generate("a cat", **ONCE).images[0].tobytes() == with_lora
    personalizer.unload_lora_weights()
    assert personalizer.generate("a cat", **ONCE).images[0].tobytes() == plain
