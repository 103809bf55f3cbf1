"""Packs in other tools' formats: what those tools compute with them is what the pack computes."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from sdk import ConceptPack
from sdk.concepts import Concept
from sdk.errors import InputError, MissingFileError, PackError
from sdk.exports import diffusers_layout, lora, webui
from sdk.exports.authors import compvis_to_diffusers, import_pack
from sdk.exports.changes import relative_error, smallest_rank
from sdk.exports.diffusers_layout import BINARY, load_into
from sdk.exports.lora import FILE
from sdk.families.layers import cross_attention_layers


@pytest.fixture
def pack(personalizer):
    """A pack far from its base model, exact in float16."""
    generator = torch.Generator().manual_seed(0)
    key_value = {}
    for name, layer in cross_attention_layers(personalizer.pipe.unet).items():
        pair = [w.weight.detach() for w in (layer.to_k, layer.to_v)]
        key_value[name] = tuple((w + 0.5 * w.std() * torch.randn(w.shape, generator=generator)).half() for w in pair)
    width = personalizer.pipe.text_encoder.config.hidden_size
    rows = torch.randn(2, width, generator=generator)
    concepts = [Concept("cat", "<new1>"), Concept("dog", "<new2>")]
    return ConceptPack(concepts, personalizer.base, key_value, rows)


def denoised(unet):
    """The UNet's answer to fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, unet.config.in_channels, 16, 16, generator=generator)
    states = torch.randn(1, 8, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet(sample, 10, states).sample


def folded(tiny_model, pack):
    """The UNet with the pack's weights written into it."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    layers = cross_attention_layers(pipe.unet)
    with torch.no_grad():
        for name, (key, value) in pack.key_value.items():
            layers[name].to_k.weight.copy_(key)
            layers[name].to_v.weight.copy_(value)
    return pipe


@pytest.mark.parametrize("dialect", ["peft", "kohya"])
def test_a_lora_of_full_rank_is_the_pack_in_diffusers(personalizer, tiny_model, pack, tmp_path, dialect):
    written = lora.export(pack, personalizer, tmp_path, dialect=dialect, error=0.0, half=False)
    assert written.figures["error"] == 0
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    before = denoised(pipe.unet)
    pipe.load_lora_weights(str(tmp_path), weight_name=FILE)
    got, want = denoised(pipe.unet), denoised(folded(tiny_model, pack).unet)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    assert (got - before).abs().max() > 100 * (got - want).abs().max()


def test_the_rank_follows_from_the_error(personalizer, pack, tmp_path):
    spectra = [torch.tensor([4.0, 2.0, 1.0]), torch.tensor([3.0, 1.0])]
    assert relative_error(spectra, 3) == 0
    assert relative_error(spectra, 1) == pytest.approx((6 / 31) ** 0.5)
    assert smallest_rank(spectra, 0.5) == 1
    assert smallest_rank(spectra, 0.2) == 2
    assert smallest_rank(spectra, 0.0) == 3
    small = lora.export(pack, personalizer, tmp_path / "a", error=0.5)
    large = lora.export(pack, personalizer, tmp_path / "b", error=0.1)
    assert small.figures["rank"] < large.figures["rank"]
    assert large.figures["error"] <= 0.1 < small.figures["error"] <= 0.5
    tensors = load_file(small.paths[0])
    assert all(t.shape[0] == small.figures["rank"] for name, t in tensors.items() if "lora_A" in name)
    # The error that is stated is the error that is made.
    rebuilt = lost = total = 0.0
    layers = cross_attention_layers(personalizer.pipe.unet)
    for name, (key, value) in pack.key_value.items():
        for which, weight, module in (("k", key, layers[name].to_k), ("v", value, layers[name].to_v)):
            rebuilt = (
                tensors[f"unet.{name}.to_{which}.lora_B.weight"].float()
                @ tensors[f"unet.{name}.to_{which}.lora_A.weight"].float()
            )
            delta = weight.float() - module.weight.detach()
            lost += (delta - rebuilt).square().sum().item()
            total += delta.square().sum().item()
    assert (lost / total) ** 0.5 == pytest.approx(small.figures["error"], rel=1e-2)
    with pytest.raises(InputError, match="no LoRA dialect"):
        lora.export(pack, personalizer, tmp_path, dialect="other")
    with pytest.raises(InputError, match="at least 1"):
        lora.export(pack, personalizer, tmp_path, rank=0)


def test_files_carry_what_model_managers_read(personalizer, pack, tmp_path):
    written = lora.export(pack, personalizer, tmp_path, rank=2)
    with safe_open(written.paths[0], "pt") as opened:
        about = opened.metadata()
    assert about["modelspec.sai_model_spec"] == "1.0.1"
    assert about["modelspec.trigger_phrase"] == pack.prompt
    assert about["modelspec.architecture"].endswith("/lora")


def test_the_binary_layout_loads_in_diffusers(personalizer, tiny_model, pack, tmp_path):
    diffusers_layout.export(pack, personalizer, tmp_path, pickle=True)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipe.unet.load_attn_procs(str(tmp_path), weight_name=BINARY, _pipeline=pipe)
    want = denoised(folded(tiny_model, pack).unet)
    torch.testing.assert_close(denoised(pipe.unet), want, atol=1e-5, rtol=1e-4)


def test_our_loader_makes_a_plain_pipeline_draw_the_concepts(personalizer, tiny_model, pack):
    import numpy as np

    pipe = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipe.scheduler = personalizer.sampling_scheduler()
    load_into(pipe, pack)
    prompt = "a <new1> cat and a <new2> dog"
    arguments = {"num_inference_steps": 3, "guidance_scale": 4.0, "eta": 1.0}
    generator = torch.Generator().manual_seed(5)
    got = pipe(prompt, generator=[generator], **arguments).images[0]
    want = personalizer.generate(prompt, concepts=pack, seed=5, **arguments).images[0]
    assert np.abs(np.asarray(got).astype(int) - np.asarray(want).astype(int)).max() <= 3
    with pytest.raises(InputError, match="already knows"):
        load_into(pipe, pack)


def test_keys_of_the_user_interfaces(personalizer, pack, tmp_path):
    """The keys that A1111, ComfyUI, InvokeAI and stable-diffusion.cpp look for, one by one."""
    written = webui.export(pack, personalizer, tmp_path, name="pets")
    tensors = load_file(tmp_path / "pets.safetensors")
    layers = cross_attention_layers(personalizer.pipe.unet)
    expected = {f"lora_unet_{name.replace('.', '_')}_to_{w}.diff" for name in layers for w in "kv"}
    expected |= {f"bundle_emb.pets-new{i}.string_to_param.*" for i in (1, 2)}
    assert set(tensors) == expected
    for name, layer in layers.items():
        delta = tensors[f"lora_unet_{name.replace('.', '_')}_to_k.diff"].float()
        want = pack.key_value[name][0].float()
        torch.testing.assert_close(layer.to_k.weight.detach() + delta, want, atol=2e-3, rtol=1e-2)
    assert sum(key.endswith(".diff") for key in tensors) == 2 * len(layers)
    for i, row in enumerate(pack.embeddings, start=1):
        (token,) = load_file(tmp_path / f"pets-new{i}.safetensors").items()
        assert token[0] == "emb_params"
        assert token[1].shape == (1, len(row))
        assert torch.equal(token[1][0], row)
    assert written.prompts["A1111, Forge"] == "photo of a pets-new1 cat and a pets-new2 dog <lora:pets:1>"
    assert written.prompts["ComfyUI"] == "photo of a embedding:pets-new1 cat and a embedding:pets-new2 dog"
    with pytest.raises(InputError, match="letters, digits"):
        webui.export(pack, personalizer, tmp_path, name="my pets/1")


def test_packs_that_a_format_cannot_hold(personalizer, pack, tmp_path):
    whole = ConceptPack(
        pack.concepts,
        pack.base,
        pack.key_value,
        pack.embeddings,
        unet={"conv_in.weight": personalizer.pipe.unet.conv_in.weight},
    )
    tokens = ConceptPack(pack.concepts, pack.base, {}, pack.embeddings, method="textual_inversion")
    for wrong, match in ((whole, "whole UNet"), (tokens, "tokens alone")):
        with pytest.raises(InputError, match=match):
            lora.export(wrong, personalizer, tmp_path)
        with pytest.raises(InputError):
            diffusers_layout.export(wrong, personalizer, tmp_path)


def same(a: ConceptPack, b: ConceptPack) -> None:
    assert a.tokens == b.tokens
    torch.testing.assert_close(a.embeddings, b.embeddings)
    for name, pair in a.key_value.items():
        for x, y in zip(pair, b.key_value[name], strict=True):
            torch.testing.assert_close(x, y, atol=2e-3, rtol=2e-3)


def test_authors_files_come_back(personalizer, pack, tmp_path):
    nouns = ["cat", "dog"]
    rows = {c.token: row.float() for c, row in zip(pack.concepts, pack.embeddings, strict=True)}
    plain = {f"{n}.to_{w}.weight": m.float() for n, p in pack.key_value.items() for w, m in zip("kv", p, strict=True)}
    torch.save({"unet": plain, "modifier_token": rows}, tmp_path / "delta.bin")
    with pytest.raises(InputError, match="is a pickle"):
        import_pack(tmp_path / "delta.bin", nouns, personalizer)
    same(import_pack(tmp_path / "delta.bin", nouns, personalizer, allow_pickle=True), pack)

    factors = {}
    for key, weight in plain.items():
        base = personalizer.pipe.unet.get_parameter(key).detach()
        u, s, v = torch.linalg.svd(weight - base, full_matrices=False)
        factors[key] = {"u": u * s, "v": v}
    torch.save({"unet": factors, "modifier_token": rows}, tmp_path / "delta_compressed.bin")
    same(import_pack(tmp_path / "delta_compressed.bin", nouns, personalizer, allow_pickle=True), pack)

    diffusers_layout.export(pack, personalizer, tmp_path / "layout", pickle=True)
    same(import_pack(tmp_path / "layout", nouns, personalizer), pack)
    (tmp_path / "layout" / "pytorch_custom_diffusion_weights.safetensors").unlink()
    same(import_pack(tmp_path / "layout", nouns, personalizer, allow_pickle=True), pack)

    with pytest.raises(InputError, match="holds 2 tokens"):
        import_pack(tmp_path / "delta.bin", ["cat"], personalizer, allow_pickle=True)
    with pytest.raises(MissingFileError):
        import_pack(tmp_path / "none.bin", nouns, personalizer, allow_pickle=True)


def test_compvis_names():
    names = {
        "input_blocks.1.1": "down_blocks.0.attentions.0",
        "input_blocks.5.1": "down_blocks.1.attentions.1",
        "input_blocks.8.1": "down_blocks.2.attentions.1",
        "middle_block.1": "mid_block.attentions.0",
        "output_blocks.3.1": "up_blocks.1.attentions.0",
        "output_blocks.11.1": "up_blocks.3.attentions.2",
    }
    assert {name: compvis_to_diffusers(name) for name in names} == names


def test_a_disendiff_checkpoint_comes_back_without_its_queries(personalizer, tmp_path, monkeypatch):
    """CompVis names exist for SD's own block plan alone; here one layer's name stands for the tiny model's."""
    layers = list(cross_attention_layers(personalizer.pipe.unet))
    block = "output_blocks.3.1"
    monkeypatch.setattr(
        "sdk.exports.authors.compvis_to_diffusers", lambda name: layers[0].removesuffix(".transformer_blocks.0.attn2")
    )
    module = personalizer.pipe.unet.get_submodule(layers[0])
    state = {
        f"model.diffusion_model.{block}.transformer_blocks.0.attn2.to_{w}.weight": torch.ones_like(p.weight)
        for w, p in (("k", module.to_k), ("v", module.to_v), ("q", module.to_q))
    }
    width = personalizer.pipe.text_encoder.config.hidden_size
    torch.save({"state_dict": state | {"embed": torch.randn(2, width)}}, tmp_path / "delta_epoch=4.ckpt")
    pack = import_pack(tmp_path / "delta_epoch=4.ckpt", ["cat", "dog"], personalizer, allow_pickle=True)
    assert list(pack.key_value) == [layers[0]]
    assert pack.tokens == ["<new1>", "<new2>"]


def test_a_harmful_or_foreign_file_is_refused(personalizer, tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return (print, ("ran",))

    (tmp_path / "harm.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(PackError, match="more than weights"):
        import_pack(tmp_path / "harm.bin", ["cat"], personalizer, allow_pickle=True)
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.bin")
    with pytest.raises(PackError, match="none of the authors' formats"):
        import_pack(tmp_path / "other.bin", ["cat"], personalizer, allow_pickle=True)
    layer = next(iter(cross_attention_layers(personalizer.pipe.unet)))
    wrong = {f"{layer}.to_{w}.weight": torch.ones(3, 3) for w in "kv"}
    torch.save({"unet": wrong, "modifier_token": {"<new1>": torch.ones(3)}}, tmp_path / "size.bin")
    with pytest.raises(PackError, match="another base model"):
        import_pack(tmp_path / "size.bin", ["cat"], personalizer, allow_pickle=True)
