"""A pack that every test of reading starts from."""

from __future__ import annotations

import pytest
import torch

from sdk import Concept, ConceptPack
from sdk.families.layers import cross_attention_layers


@pytest.fixture(scope="session")
def shared_personalizer(tiny_model):
    """A personalizer that no test changes."""
    from sdk import Personalizer

    return Personalizer.from_pretrained(tiny_model, device="cpu")


@pytest.fixture
def pack(shared_personalizer):
    """A pack far from its base model, with weights beyond K and V and a picture."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    unet = shared_personalizer.pipe.unet
    key_value = {}
    for name, layer in cross_attention_layers(unet).items():
        pair = [m.weight.detach() for m in (layer.to_k, layer.to_v)]
        key_value[name] = tuple(w + 0.1 * torch.randn(w.shape, generator=generator) for w in pair)
    rows = torch.randn(2, shared_personalizer.base.context, generator=generator)
    concepts = [Concept("cat", "<new1>"), Concept("dog", "<new2>")]
    other = {"conv_in.bias": unet.conv_in.bias.detach()}
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    return ConceptPack(concepts, shared_personalizer.base, key_value, rows, unet=other, reference=picture)
