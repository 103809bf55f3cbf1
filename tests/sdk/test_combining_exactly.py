"""Packs combined, number by number: the closed form of merging, and which words belong to whom when routed."""

from __future__ import annotations

import pytest
import torch

from sdk import Concept, ConceptPack
from sdk.combine import merge, route, with_own_tokens
from sdk.combine.routing import token_owners
from sdk.errors import InputError


def pack_of(personalizer, *concepts, seed):
    """A pack far from the base model, without a fit."""
    generator = torch.Generator().manual_seed(seed)
    key_value = {}
    for name, module in personalizer.pipe.unet.named_modules():
        if name.endswith("attn2"):
            pair = [w.weight.detach() for w in (module.to_k, module.to_v)]
            key_value[name] = tuple(w + 0.3 * w.std() * torch.randn(w.shape, generator=generator) for w in pair)
    table = personalizer.pipe.text_encoder.get_input_embeddings().weight
    rows = table.std() * torch.randn(len(concepts), table.shape[1], generator=generator)
    return ConceptPack(list(concepts), personalizer.base, key_value, rows)


@pytest.fixture
def packs(personalizer):
    """Three concepts in two packs, one with a noun of several pieces."""
    return [
        pack_of(personalizer, Concept("cat", "<new1>"), Concept("xyz", "<new2>"), seed=0),
        pack_of(personalizer, Concept("dog", "<new1>"), seed=1),
    ]


def states_of(conditioner, prompt, rows=None):
    """Text states of a prompt's tokens up to the end token, and their ids."""
    ids = conditioner.tokenize([prompt])
    used = ids[0].tolist().index(conditioner.vocabulary.end) + 1
    with torch.no_grad():
        return conditioner.encode([prompt], rows).states[0, :used].double(), ids[0, :used].tolist()


def test_merged_matrices_make_of_each_concepts_words_what_its_own_pack_does(personalizer, packs):
    """Token, noun and end of text, K and V, in every layer: the equality constraint of the closed form."""
    merged = merge(personalizer, packs)
    assert [c.token for c in merged.concepts] == ["<new1>", "<new2>", "<new3>"]
    assert [c.noun for c in merged.concepts] == ["cat", "xyz", "dog"]
    assert torch.equal(merged.embeddings, torch.cat([pack.embeddings for pack in packs]))
    assert set(merged.key_value) == set(packs[0].key_value)
    conditioner = personalizer.conditioner(merged.tokens)
    for index, (concept, pack) in enumerate(zip(merged.concepts, [packs[0], *packs], strict=True)):
        states, ids = states_of(conditioner, f"photo of a {concept.phrase}", merged.embeddings.float())
        first = ids.index(conditioner.table_size + index)
        assert len(ids) - first == {"cat": 3, "xyz": 5, "dog": 3}[concept.noun]
        for name, pair in merged.key_value.items():
            for which, weight in enumerate(pair):
                wanted = states[first:] @ pack.key_value[name][which].double().T
                found = states[first:] @ weight.double().T
                assert (found - wanted).abs().max() < 5e-3 * wanted.abs().max(), (name, which, concept)


def test_of_all_such_matrices_the_merged_ones_change_ordinary_words_least(personalizer, packs):
    """The smallest change that meets the constraint, without regard to captions, changes captions far more."""
    merged = merge(personalizer, packs)
    conditioner = personalizer.conditioner(merged.tokens)
    owned, owners = [], []
    for concept, pack in zip(merged.concepts, [packs[0], *packs], strict=True):
        states, ids = states_of(conditioner, f"photo of a {concept.phrase}", merged.embeddings.float())
        own = states[ids.index(conditioner.pieces(concept.token)[0]) :]
        owned.append(own)
        owners += [pack] * len(own)
    own = torch.cat(owned)
    captions = ["a cat on the beach", "a dog in the snow", "a cat and a dog", "photo of a xyz", "a red dog at night"]
    words = torch.cat([states_of(conditioner, caption)[0] for caption in captions])
    ratios = []
    for name, pair in merged.key_value.items():
        module = personalizer.pipe.unet.get_submodule(name)
        for which, (weight, projection) in enumerate(zip(pair, (module.to_k, module.to_v), strict=True)):
            base = projection.weight.detach().double()
            wanted = torch.stack([p.key_value[name][which].double() @ c for p, c in zip(owners, own, strict=True)])
            smallest = torch.linalg.lstsq(own, wanted - own @ base.T, driver="gelsd").solution.T
            changed = (words @ (weight.double() - base).T).norm()
            ratios.append((changed / (words @ smallest.T).norm()).item())
    assert max(ratios) < 0.7


def test_a_merged_pack_says_what_it_was_made_of(personalizer, packs):
    merged = merge(personalizer, packs)
    assert merged.method == "merged"
    assert merged.base.difference(personalizer.base) is None
    assert merged.provenance == {"parts": [pack.content_hash() for pack in with_own_tokens(packs)]}
    assert merged.reference is None


def test_a_routed_pack_says_what_it_was_made_of(personalizer, packs):
    routed = route(packs)
    assert routed.method == "routed"
    assert routed.tokens == ["<new1>", "<new2>", "<new3>"]
    assert torch.equal(routed.embeddings, torch.cat([pack.embeddings for pack in packs]))
    assert routed.base.difference(personalizer.base) is None
    assert routed.provenance == {"parts": [pack.content_hash() for pack in routed.parts]}
    assert routed.key_value == {}


@pytest.mark.parametrize(
    ("prompt", "owned"),
    [
        ("a <new1> cat and a <new3> dog", [[2, 3], [6, 7]]),
        ("a <new3> dog", [[], [2, 3]]),
        ("a <new2> xyz and a <new1> cat", [[8, 9, 2, 3, 4, 5], []]),
        ("a <new3> big dog", [[], [2, 4]]),
        ("a dog and a cat", [[], []]),
    ],
)
def test_every_word_of_a_routed_prompt_has_its_owner(personalizer, packs, prompt, owned):
    routed = route(packs)
    conditioner = personalizer.conditioner(routed.tokens)
    assert token_owners(routed, conditioner, prompt) == owned


def test_tokens_take_the_next_free_number(personalizer):
    def one(token, seed=0):
        return pack_of(personalizer, Concept("cat", token), seed=seed)

    def tokens(*packs):
        return [pack.tokens for pack in with_own_tokens(packs)]

    assert tokens(one("<new1>"), one("<new2>"), one("<new1>")) == [["<new1>"], ["<new2>"], ["<new3>"]]
    assert tokens(one("<tom>"), one("<tom>"), one("<tom>")) == [["<tom>"], ["<new1>"], ["<new2>"]]
    assert tokens(one("<new2>"), one("<new2>")) == [["<new2>"], ["<new1>"]]
    twice = pack_of(personalizer, Concept("cat", "<a>"), Concept("dog", "<b>"), seed=0)
    assert tokens(twice, twice) == [["<a>", "<b>"], ["<new1>", "<new2>"]]
    with pytest.raises(InputError, match="too many"):
        with_own_tokens([twice] * 5)


def test_a_pack_without_key_and_value_weights_is_not_combined(personalizer, packs):
    empty = ConceptPack(packs[1].concepts, personalizer.base, {}, packs[1].embeddings, method="textual_inversion")
    with pytest.raises(InputError, match="a pack of textual_inversion cannot be combined"):
        route([packs[0], empty])
