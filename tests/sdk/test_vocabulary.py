"""Learned tokens have ids of their own, whatever a base model's tokenizer numbers and knows."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sdk import Concept, ConceptPack, FitConfig, Personalizer, vocabulary
from sdk.errors import InputError
from sdk.families.layers import cross_attention_layers
from sdk.vocabulary import Vocabulary, vocabulary_of

SHORT = FitConfig(steps=2, batch_size=2, target_pool=2, prior="none", target_share=1.0)


def as_it_is(pipe):
    """The vocabulary and the table are of one size."""


def shorter(pipe):
    """A table with rows that no word has, some of them named like our fillers."""
    size = len(pipe.tokenizer)
    pipe.tokenizer.add_tokens([f"<unused{size + 3}>", f"<unused{size + 4}>"])
    pipe.text_encoder.resize_token_embeddings(size + 8, mean_resizing=False)


def longer(pipe):
    """Words without rows."""
    pipe.tokenizer.add_tokens(["<style>", "<mood>"])


def knowing(pipe):
    """A textual inversion that a user loaded has our token's name."""
    pipe.tokenizer.add_tokens(["<new1>", "<other>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)


def knowing_without_rows(pipe):
    """Both at once."""
    pipe.tokenizer.add_tokens(["<other>", "<new1>"])


KINDS = (as_it_is, shorter, longer, knowing, knowing_without_rows)


def pack_of(personalizer):
    layers = cross_attention_layers(personalizer.pipe.unet)
    key_value = {name: (layer.to_k.weight, layer.to_v.weight) for name, layer in layers.items()}
    rows = torch.randn(2, personalizer.base.context, generator=torch.Generator().manual_seed(0))
    return ConceptPack([Concept("cat", "<new1>"), Concept("dog", "<new2>")], personalizer.base, key_value, rows)


@pytest.mark.parametrize("change", KINDS)
def test_a_pack_draws_the_same_on_every_tokenizer(tiny_model, change):
    """The rows are the pack's own, none of the base model's, and none of another concept's."""
    prompt = "a <new2> dog and a <new1> cat"

    def drawn(change):
        personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
        change(personalizer.pipe)
        draw = personalizer.generate(prompt, concepts=pack_of(personalizer), num_inference_steps=2, seed=1)
        assert draw.notes == []
        return draw.images[0].tobytes()

    assert drawn(change) == drawn(as_it_is)


@pytest.mark.parametrize("change", KINDS)
def test_a_fit_learns_the_same_on_every_tokenizer(tiny_model, picture, change):
    def learned(change):
        personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
        change(personalizer.pipe)
        return personalizer.fit(picture, ["cat", "dog"], config=SHORT).embeddings

    assert torch.equal(learned(change), learned(as_it_is))


@pytest.mark.parametrize("change", KINDS)
def test_ids_of_learned_tokens_lie_behind_the_table_in_their_order(personalizer, change):
    change(personalizer.pipe)
    pipe = personalizer.pipe
    plain = pipe.tokenizer("a cat", add_special_tokens=False).input_ids
    tokens = ["<new2>", "<new1>"]
    conditioner = personalizer.conditioner(tokens)
    size = pipe.text_encoder.get_input_embeddings().num_embeddings
    assert conditioner.table_size == size
    for slot, token in enumerate(tokens):
        assert conditioner.pieces(token) == [size + slot]
        ids = conditioner.tokenize([f"a {token} cat"])[0].tolist()
        assert ids[1:4] == [plain[0], size + slot, plain[1]]
    assert conditioner.pieces("a cat") == plain
    rows = torch.randn(2, personalizer.base.context)
    states = conditioner.encode(["a <new1> cat"], rows).states
    assert not torch.allclose(states, conditioner.encode(["a <new2> cat"], rows).states)


def test_a_word_without_a_row_is_named(personalizer):
    longer(personalizer.pipe)
    conditioner = personalizer.conditioner(["<new1>"])
    for call in (conditioner.tokenize, lambda texts: conditioner.pieces(texts[0])):
        with pytest.raises(InputError, match="the base model has no embedding of '<mood>'"):
            call(["a <mood> cat"])
    assert conditioner.pieces("a <new1> cat")[1] == conditioner.table_size


def test_an_added_token_is_no_word_to_start_from(personalizer):
    conditioner = personalizer.conditioner(["<new1>"])
    for words in ("<new1>", "a <new1> cat", "", " "):
        with pytest.raises(InputError, match="is no word of the base model"):
            conditioner.embedding_of(words)


def test_few_vocabularies_are_kept(personalizer):
    """And none beyond the tokenizer that it was made of, if others came since."""
    pipe = personalizer.pipe
    size = pipe.text_encoder.get_input_embeddings().num_embeddings
    first = vocabulary_of(pipe.tokenizer, size, ["<first>"])
    assert vocabulary_of(pipe.tokenizer, size, ["<first>"]) is first
    gone = weakref.ref(first)
    del first
    for number in range(30):
        vocabulary_of(pipe.tokenizer, size, [f"<token{number}>"])
    gc.collect()
    assert gone() is None
    assert len(vocabulary._vocabularies) == vocabulary._KEPT


def test_words_that_a_user_adds_later_are_seen(personalizer):
    """A vocabulary is kept for the tokenizer as it was."""
    pipe = personalizer.pipe
    before = personalizer.generate("a cat", num_inference_steps=1, seed=1).images[0].tobytes()
    pipe.tokenizer.add_tokens(["zebra"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    conditioner = personalizer.conditioner()
    assert conditioner.pieces("zebra") == [len(pipe.tokenizer) - 1]
    assert personalizer.generate("a cat", num_inference_steps=1, seed=1).images[0].tobytes() == before


def test_threads_share_a_vocabulary(personalizer):
    """A tokenizer pads and cuts by settings that every call sets: without turns it says that it is borrowed."""
    pipe = personalizer.pipe
    words = Vocabulary(pipe.tokenizer, pipe.text_encoder.get_input_embeddings().num_embeddings, ["<new1>"])

    def work(number):
        text = "a <new1> cat " + "and a dog " * (number % 12)
        return words.ids([text]).tolist(), words.pieces(text), words.truncated(text), words.unknown_words(text)

    alone = [work(number) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == alone


def test_unknown_words_are_those_of_a_closed_vocabulary():
    from transformers import CLIPTokenizer

    from sdk.miniworld.tokenizer import build_tokenizer

    closed = Vocabulary(build_tokenizer(), 10_000, ["<new1>"])
    assert closed.unknown_words("a photo of a <new1> cat on the beach, 2 dogs?") == ["dogs"]
    assert closed.unknown_words("teddy bear, café, Giraffe giraffe") == ["teddy", "bear", "café", "Giraffe", "giraffe"]
    letters = [chr(code) for code in range(33, 127)] + [chr(code) for code in range(161, 324)]
    pieces = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    opened = CLIPTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>", model_max_length=32)
    assert len(Vocabulary(opened, 10_000, []).pieces("giraffe")) == 7
    assert Vocabulary(opened, 10_000, []).unknown_words("a giraffe, café") == []
