"""Packs that were fitted apart, in one prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdk import ConceptPack, Personalizer
from sdk.combine.merging import merge
from sdk.combine.routing import route, token_owners, with_own_tokens
from sdk.concepts import Concept
from sdk.errors import BaseModelError, InputError, OutputError
from sdk.families.layers import cross_attention_layers
from sdk.sampling.sampler import Sampler


@pytest.fixture
def packs(personalizer):
    """Two packs of one concept each, far from the base model and from each other."""
    made = []
    for seed, noun in enumerate(("cat", "dog")):
        generator = torch.Generator().manual_seed(seed)
        table = personalizer.pipe.text_encoder.get_input_embeddings().weight
        key_value = {}
        for name, layer in cross_attention_layers(personalizer.pipe.unet).items():
            pair = [w.weight.detach() for w in (layer.to_k, layer.to_v)]
            key_value[name] = tuple(w + 0.3 * w.std() * torch.randn(w.shape, generator=generator) for w in pair)
        rows = table.std() * torch.randn(1, table.shape[1], generator=generator)
        made.append(ConceptPack([Concept(noun, "<new1>")], personalizer.base, key_value, rows))
    return made


def pictures(personalizer, prompts, pack):
    drawn = personalizer.generate(prompts, concepts=[pack] * len(prompts), seed=0, num_inference_steps=3).images
    return [np.asarray(image).astype(int) for image in drawn]


def test_tokens_that_clash_are_renamed(packs):
    own = with_own_tokens([*packs, packs[0]])
    assert [pack.tokens for pack in own] == [["<new1>"], ["<new2>"], ["<new3>"]]
    assert packs[1].tokens == ["<new1>"]
    with pytest.raises(InputError, match="at least two"):
        with_own_tokens(packs[:1])
    packs[1].unet = {"conv_in.weight": torch.zeros(1)}
    with pytest.raises(InputError, match="cannot be combined"):
        with_own_tokens(packs)


def test_a_routed_pack_draws_one_concept_as_its_own_pack_would_word_by_word(personalizer, packs):
    """K and V of the concept's words are its pack's, of all other words the base model's."""
    both = route(packs)
    prompt = "a <new1> cat and a <new2> dog"
    conditioner = personalizer.conditioner(both.tokens)
    assert token_owners(both, conditioner, prompt) == [[2, 3], [6, 7]]
    text, processors = Sampler(personalizer)._condition([(both, prompt)])
    states = text.states
    for name, layer in cross_attention_layers(personalizer.pipe.unet).items():
        for which, (got, module) in enumerate(
            ((processors[name].key, layer.to_k), (processors[name].value, layer.to_v))
        ):
            want = module(states[0])
            for pack, where in ((packs[0], [2, 3]), (packs[1], [6, 7])):
                want[where] = states[0, where] @ pack.key_value[name][which].float().T
            torch.testing.assert_close(got[0], want)
    (plain,) = pictures(personalizer, ["a cat"], None)
    (routed,) = pictures(personalizer, ["a cat"], both)
    assert abs(plain - routed).max() <= 1  # no word of theirs, nothing of theirs
    with pytest.raises(OutputError, match="save each of 2"):
        both.save_pretrained("anywhere")


def test_a_merged_pack_keeps_each_concept_and_the_ordinary_words(personalizer, packs, tmp_path):
    merged = merge(personalizer, packs)
    assert merged.tokens == ["<new1>", "<new2>"]
    sampler = Sampler(personalizer)
    separate = with_own_tokens(packs)
    for pack, prompt in zip(separate, ("photo of a <new1> cat", "photo of a <new2> dog"), strict=True):
        (own, _), (joint, _) = (sampler._condition([(p, prompt)]) for p in (pack, merged))
        torch.testing.assert_close(own.states, joint.states, atol=2e-3, rtol=1e-2)  # the same words, so the same states
        own, joint = (sampler._condition([(p, prompt)])[1] for p in (pack, merged))
        for name in own:
            error = (own[name].key[0, 4:7] - joint[name].key[0, 4:7]).abs().max()
            assert error < 0.02 * own[name].key[0, 4:7].abs().max()
    # Words of ordinary captions change far less than the packs would change them.
    plain = sampler._condition([(None, "a red cat")])[1]
    with_merged, with_first = (sampler._condition([(p, "a red cat")])[1] for p in (merged, packs[0]))
    changes = [
        torch.stack([(p[n].value - plain[n].value)[0, 1:4].norm() for n in plain]).mean()
        for p in (with_merged, with_first)
    ]
    assert changes[0] < 0.5 * changes[1]
    merged.save_pretrained(tmp_path / "merged")
    assert ConceptPack.from_pretrained(tmp_path / "merged").content_hash() == merged.content_hash()


def test_packs_of_another_base_are_not_merged(personalizer, packs):
    with torch.no_grad():
        next(iter(cross_attention_layers(personalizer.pipe.unet).values())).to_k.weight.mul_(1.01)
    with pytest.raises(BaseModelError, match="load that model"):
        merge(Personalizer(personalizer.pipe, "other"), packs)


def test_packs_of_some_layers_are_merged_whole(personalizer, picture, quick):
    """What one of them did not learn is the base model's."""
    import dataclasses

    from sdk.combine import merge, route

    config = quick.with_changes(steps=1, prior="none", target_share=1.0)
    full, other = (personalizer.fit(picture, [noun], config=config) for noun in ("cat", "dog"))
    layer = next(iter(other.key_value))
    few = dataclasses.replace(other, key_value={layer: other.key_value[layer]})
    for packs in ((few, full), (full, few)):
        assert merge(personalizer, packs).key_value.keys() == full.key_value.keys()
    changed = dataclasses.replace(full, key_value={k: (a * 2, b) for k, (a, b) in full.key_value.items()})
    assert route([full, other]).content_hash() != route([changed, other]).content_hash()


def test_a_hash_follows_what_is_changed_in_place(personalizer, picture, quick):
    pack = personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1))
    first = pack.content_hash()
    assert pack.content_hash() == first
    pack.embeddings += 1
    assert pack.content_hash() != first
