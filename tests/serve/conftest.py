"""Packs in both forms, and an exported model that draws."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def packs(tiny_model, tmp_path_factory):
    """Two packs far from each other: folders and adapters."""
    import torch

    from sdk import Concept, ConceptPack, Personalizer
    from sdk.families.layers import cross_attention_layers

    base = Personalizer.from_pretrained(tiny_model, device="cpu")
    folder = tmp_path_factory.mktemp("packs")
    for index, nouns in enumerate((("cat", "dog"), ("car", "house"))):
        generator = torch.Generator().manual_seed(index)
        key_value = {
            name: tuple(
                (w.weight.detach() + 0.5 * w.weight.std() * torch.randn(w.weight.shape, generator=generator)).half()
                for w in (layer.to_k, layer.to_v)
            )
            for name, layer in cross_attention_layers(base.pipe.unet).items()
        }
        concepts = [Concept(noun, f"<new{i}>") for i, noun in enumerate(nouns, start=1)]
        pack = ConceptPack(concepts, base.base, key_value, torch.randn(2, 32, generator=generator).half())
        pack.save_pretrained(folder / str(index))
        pack.export_adapter(folder / f"{index}.onnx_adapter")
    return folder


@pytest.fixture(scope="module")
def painter(shared_export):
    from sdk.serve import ExportedPainter

    return ExportedPainter(shared_export, "onnxruntime")


@pytest.fixture
def client(painter, packs, tmp_path):
    """A client of a server that has both packs."""
    from sdk.library import Library
    from sdk.serve import create_app
    from tests.serve.running import LIMITS, running

    with Library(tmp_path) as library, running(create_app(library, painter, limits=LIMITS)) as client:
        for index, name in enumerate(("pets", "things")):
            kept = client.put(f"/v1/models/{name}", content=(packs / f"{index}.onnx_adapter").read_bytes())
            assert kept.status_code == 200, kept.text
        yield client
