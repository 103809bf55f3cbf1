"""What ComfyUI's loader looks for in a LoRA, as a table: every key that is exported for it is one, and none is missing.

Its map has, for each weight of the UNet by CompVis' name, the path that diffusers has for it: ``lora_unet_`` and that
path with underscores, or ``unet.`` and that path with ``.processor.`` before the projection. Others it leaves alone.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from sdk import Concept, ConceptPack, Personalizer
from sdk.exports import load_format
from sdk.families.layers import cross_attention_layers
from tests.families import tiny

# Diffusers' blocks of attention, CompVis' behind ``model.diffusion_model.``, and transformer blocks in each.
SD = {
    "down_blocks.0.attentions.0": ("input_blocks.1.1", 1),
    "down_blocks.0.attentions.1": ("input_blocks.2.1", 1),
    "down_blocks.1.attentions.0": ("input_blocks.4.1", 1),
    "down_blocks.1.attentions.1": ("input_blocks.5.1", 1),
    "down_blocks.2.attentions.0": ("input_blocks.7.1", 1),
    "down_blocks.2.attentions.1": ("input_blocks.8.1", 1),
    "mid_block.attentions.0": ("middle_block.1", 1),
    "up_blocks.1.attentions.0": ("output_blocks.3.1", 1),
    "up_blocks.1.attentions.1": ("output_blocks.4.1", 1),
    "up_blocks.1.attentions.2": ("output_blocks.5.1", 1),
    "up_blocks.2.attentions.0": ("output_blocks.6.1", 1),
    "up_blocks.2.attentions.1": ("output_blocks.7.1", 1),
    "up_blocks.2.attentions.2": ("output_blocks.8.1", 1),
    "up_blocks.3.attentions.0": ("output_blocks.9.1", 1),
    "up_blocks.3.attentions.1": ("output_blocks.10.1", 1),
    "up_blocks.3.attentions.2": ("output_blocks.11.1", 1),
}
SDXL = {
    "down_blocks.1.attentions.0": ("input_blocks.4.1", 2),
    "down_blocks.1.attentions.1": ("input_blocks.5.1", 2),
    "down_blocks.2.attentions.0": ("input_blocks.7.1", 10),
    "down_blocks.2.attentions.1": ("input_blocks.8.1", 10),
    "mid_block.attentions.0": ("middle_block.1", 10),
    "up_blocks.0.attentions.0": ("output_blocks.0.1", 10),
    "up_blocks.0.attentions.1": ("output_blocks.1.1", 10),
    "up_blocks.0.attentions.2": ("output_blocks.2.1", 10),
    "up_blocks.1.attentions.0": ("output_blocks.3.1", 2),
    "up_blocks.1.attentions.1": ("output_blocks.4.1", 2),
    "up_blocks.1.attentions.2": ("output_blocks.5.1", 2),
}
TABLES = {"sd1": SD, "sd2": SD, "sdxl": SDXL}
MODELS = {
    "sd1": lambda: tiny.sd1(layers_per_block=2),
    "sd2": lambda: tiny.sd2(layers_per_block=2),
    "sdxl": lambda: tiny.sdxl(layers_per_block=2, transformer_layers_per_block=[1, 2, 10]),
}


def projections(table):
    """Of K and V by diffusers' path: the weight's name in ComfyUI."""
    return {
        f"{ours}.transformer_blocks.{block}.attn2.to_{which}": (
            f"diffusion_model.{theirs}.transformer_blocks.{block}.attn2.to_{which}.weight"
        )
        for ours, (theirs, blocks) in table.items()
        for block in range(blocks)
        for which in "kv"
    }


def key_map(table):
    """ComfyUI's: name in a file to the weight that it changes."""
    found = {}
    for ours, weight in projections(table).items():
        found["lora_unet_" + ours.replace(".", "_")] = weight
        found["unet." + ours.replace(".to_", ".processor.to_")] = weight
    return found


@pytest.fixture(scope="module", params=MODELS)
def made(request):
    """A model with all the layers of its family, and a pack of it."""
    torch.manual_seed(0)
    base = Personalizer(MODELS[request.param](), "tiny")
    layers = cross_attention_layers(base.pipe.unet)
    pairs = {
        name: tuple((w.weight + 0.1 * torch.randn_like(w.weight)).half() for w in (layer.to_k, layer.to_v))
        for name, layer in layers.items()
    }
    rows = torch.randn(2, base.base.context).half()
    pack = ConceptPack([Concept("cat", "<new1>"), Concept("dog", "<new2>")], base.base, pairs, rows)
    return request.param, base, pack


def test_the_table_names_every_layer(made):
    name, base, _ = made
    layers = {f"{layer}.to_{which}" for layer in cross_attention_layers(base.pipe.unet) for which in "kv"}
    assert layers == projections(TABLES[name]).keys()
    assert set(projections(TABLES[name]).values()) == set(key_map(TABLES[name]).values())


@pytest.mark.parametrize(
    ("kind", "options", "file", "suffixes"),
    [
        ("webui", {"name": "pets"}, "pets.safetensors", (".diff",)),
        (
            "lora",
            {"dialect": "kohya", "error": 0.0},
            "pytorch_lora_weights.safetensors",
            (".lora_up.weight", ".lora_down.weight", ".alpha"),
        ),
    ],
)
def test_it_finds_every_key_that_is_exported_for_it(made, tmp_path, kind, options, file, suffixes):
    name, base, pack = made
    load_format(kind).export(pack, base, tmp_path, **options)
    weights = {key: tensor for key, tensor in load_file(tmp_path / file).items() if not key.startswith("bundle_emb.")}
    known, unet = key_map(TABLES[name]), base.pipe.unet
    patched = set()
    for key, tensor in weights.items():
        suffix = next(each for each in suffixes if key.endswith(each))
        patched.add(known[key.removesuffix(suffix)])
        if suffix == ".diff":
            path = next(p for p in projections(TABLES[name]) if key == f"lora_unet_{p.replace('.', '_')}.diff")
            assert tensor.shape == unet.get_submodule(path).weight.shape
    assert patched == set(projections(TABLES[name]).values())
    assert len(weights) == len(patched) * len(suffixes)


def test_it_finds_nothing_of_the_other_dialect_which_the_export_says(made, tmp_path):
    name, base, pack = made
    written = load_format("lora").export(pack, base, tmp_path, dialect="peft")
    known = key_map(TABLES[name])
    for key in load_file(tmp_path / "pytorch_lora_weights.safetensors"):
        assert not any(key.startswith(f"{each}.") for each in known)
    assert any("ComfyUI reads none" in line for line in written.usage)


def test_its_embeddings_are_one_file_a_token(made, tmp_path):
    """``embedding:NAME`` reads ``clip_l`` and ``clip_g``, or the only tensor that a file holds."""
    name, base, pack = made
    load_format("webui").export(pack, base, tmp_path, name="pets")
    for index in (1, 2):
        held = load_file(tmp_path / f"pets-new{index}.safetensors")
        assert set(held) == ({"clip_l", "clip_g"} if name == "sdxl" else {"emb_params"})
        assert sum(tensor.shape[-1] for tensor in held.values()) == base.base.context
