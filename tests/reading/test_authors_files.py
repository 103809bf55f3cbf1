"""Authors' files that are damaged or foreign: an import is whole and finite, or refused in one sentence."""

from __future__ import annotations

import io
import logging
import random
import zipfile

import pytest
import torch
from safetensors.torch import save

from sdk.errors import InputError, NotFiniteError, PackError
from sdk.exports.authors import compvis_to_diffusers, import_pack
from tests.reading.mutations import OTHERS, changed_bytes, changed_tensors, is_whole, read_or_refused

NOUNS = ["cat", "dog"]


@pytest.fixture
def weights(pack):
    return {f"{n}.to_{w}.weight": m.float() for n, p in pack.key_value.items() for w, m in zip("kv", p, strict=True)}


@pytest.fixture
def rows(pack):
    return {token: row.float() for token, row in zip(pack.tokens, pack.embeddings, strict=True)}


def imported(content, base, path, nouns=NOUNS):
    torch.save(content, path)
    return import_pack(path, nouns, base, allow_pickle=True)


def other_value(rng):
    """Anything that a pickle of weights may hold besides weights."""
    return rng.choice(
        (
            *OTHERS,
            *(torch.zeros(2, 3).to_sparse(), torch.zeros(3, dtype=torch.int32), torch.zeros(()), torch.zeros(0)),
            *(torch.zeros(1).expand(50_000, 50_000), torch.zeros(2, device="meta"), torch.ones(4) * 1j, {}),
            *({"u": torch.zeros(2, 3), "v": 5}, {"u": torch.zeros(2, 3), "v": torch.zeros(2, 3)}, [torch.zeros(3)]),
        )
    )


def test_changed_tables(weights, rows, shared_personalizer, tmp_path):
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        content = {"unet": dict(weights), "modifier_token": dict(rows)}
        owner = rng.choice((content, content["unet"], content["modifier_token"]))
        name = rng.choice(list(owner))
        if rng.random() < 0.6:
            owner[name] = other_value(rng)
        else:
            owner[rng.choice((5, None, "", "x" * 500, "<../../x>", f"{name}x"))] = owner.pop(name)
        found = read_or_refused(lambda: imported(content, shared_personalizer, tmp_path / "a.bin"))  # noqa: B023
        assert found is None or is_whole(found)
        refused += found is None
    assert refused > 75


def test_changed_tensors(weights, rows, shared_personalizer, tmp_path):
    rng = random.Random(1)
    refused = 0
    for turn in range(150):
        content = {"unet": weights, "modifier_token": rows}
        part = ("unet", "modifier_token")[turn % 2]
        content[part] = changed_tensors(content[part], rng)
        found = read_or_refused(lambda: imported(content, shared_personalizer, tmp_path / "a.bin"))  # noqa: B023
        assert found is None or is_whole(found)
        refused += found is None
    assert refused > 75


def test_changed_bytes(weights, rows, shared_personalizer, tmp_path):
    rng = random.Random(2)
    content = io.BytesIO()
    torch.save({"unet": weights, "modifier_token": rows}, content)
    tables = {"a.bin": content.getvalue(), "a.safetensors": save(weights)}
    for turn in range(150):
        name = ("a.bin", "a.safetensors")[turn % 2]
        (tmp_path / name).write_bytes(changed_bytes(tables[name], rng))
        found = read_or_refused(
            lambda: import_pack(tmp_path / name, NOUNS, shared_personalizer, allow_pickle=True)  # noqa: B023
        )
        assert found is None or is_whole(found)


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        (["<../../evil>", "<new1>"], ["<new2>", "<new1>"]),
        (["<CON.txt>", "plain"], ["<new1>", "<new2>"]),
        (["<new1>", "<NEW1>"], ["<new1>", "<new2>"]),
        (["<unet>", "<a-b_c>"], ["<unet>", "<a-b_c>"]),
        (["<a\x1b[31m>", "<" + "x" * 80 + ">"], ["<new1>", "<new2>"]),
    ],
)
def test_tokens_of_a_file_are_no_names(weights, rows, shared_personalizer, tmp_path, caplog, tokens, want):
    content = {"unet": weights, "modifier_token": dict(zip(tokens, rows.values(), strict=True))}
    with caplog.at_level(logging.WARNING, logger="sdk"):
        pack = imported(content, shared_personalizer, tmp_path / "delta.bin")
    assert pack.tokens == want
    assert len(caplog.records) == sum(token not in want for token in tokens)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    folder = pack.save_pretrained(tmp_path / "pack")
    assert {p.name for p in folder.iterdir() if "new" in p.name} == {"new1.safetensors", "new2.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == {"delta.bin", "pack"}


@pytest.mark.parametrize("block", ["input_blocks.3.1", "input_blocks.99.1", "output_blocks.2.1", "output_blocks.12.1"])
def test_blocks_that_no_model_has(shared_personalizer, tmp_path, block):
    assert compvis_to_diffusers(block) is None
    state = {f"model.diffusion_model.{block}.transformer_blocks.0.attn2.to_k.weight": torch.ones(3, 3)}
    with pytest.raises(PackError, match="no Stable Diffusion"):
        imported({"state_dict": state}, shared_personalizer, tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w, n: w | {n: torch.full_like(w[n], float("nan"))}, NotFiniteError, "no numbers"),
        (lambda w, n: w | {n: torch.full_like(w[n], 1e6)}, NotFiniteError, "overflow float16"),
        (lambda w, n: w | {n: w[n].int()}, PackError, "floating-point"),
        (lambda w, n: w | {n: w[n].flatten()}, PackError, "no matrices"),
        (lambda w, n: w | {n: {"u": torch.ones(4, 2), "v": torch.ones(3, 4)}}, PackError, "do not multiply"),
        (lambda w, n: w | {n: {"u": torch.ones(4, 2)}}, PackError, "nor their factors"),
        (lambda w, n: w | {n.replace("attn2.to_k", "attn2.processor.to_k_custom_diffusion"): w[n]}, PackError, "twice"),
        (lambda w, n: {"x." + n: w[n]}, PackError, "that the base model lacks"),
        (lambda w, n: {n: w[n]}, PackError, "lacks K or V"),
        (lambda w, n: {}, PackError, "none of the authors' formats"),
    ],
)
def test_weights_that_are_none(weights, rows, shared_personalizer, tmp_path, change, error, message):
    name = next(n for n in weights if "to_k" in n)
    with pytest.raises(error, match=message):
        imported({"unet": change(weights, name), "modifier_token": rows}, shared_personalizer, tmp_path / "a.bin")


def test_archives_that_grow(weights, rows, shared_personalizer, tmp_path):
    content = io.BytesIO()
    torch.save({"unet": weights, "modifier_token": rows}, content)
    with zipfile.ZipFile(content) as stored, zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    with pytest.raises(PackError, match="was not read"):
        import_pack(tmp_path / "a.bin", NOUNS, shared_personalizer, allow_pickle=True)


def test_folders(weights, rows, shared_personalizer, tmp_path):
    keys = {
        n.replace(".to_", ".processor.to_").replace(".weight", "_custom_diffusion.weight"): w
        for n, w in weights.items()
    }
    (tmp_path / "pytorch_custom_diffusion_weights.safetensors").write_bytes(save(keys))
    for name, token in (("a", "<new1>"), ("b", "<new2>")):
        (tmp_path / f"{name}.safetensors").write_bytes(save({token: rows[token]}))
    assert import_pack(tmp_path, NOUNS, shared_personalizer).tokens == ["<new1>", "<new2>"]
    (tmp_path / "c.safetensors").write_bytes(save({"<new1>": rows["<new1>"]}))
    with pytest.raises(PackError, match=r"a token twice, the second time in c\.safetensors"):
        import_pack(tmp_path, NOUNS, shared_personalizer)
    (tmp_path / "c.safetensors").unlink()
    torch.save({"<new3>": 5}, tmp_path / "c.bin")
    with pytest.raises(InputError, match="is a pickle"):
        import_pack(tmp_path, NOUNS, shared_personalizer)
    with pytest.raises(PackError, match="no tensor"):
        import_pack(tmp_path, [*NOUNS, "bird"], shared_personalizer, allow_pickle=True)
