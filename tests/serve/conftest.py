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
