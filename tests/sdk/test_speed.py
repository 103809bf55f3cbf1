"""Levels of speed: fewer steps, cheaper ones, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from PIL import Image

from sdk import Personalizer
from sdk.errors import InputError
from sdk.families.layers import cross_attention_layers
from sdk.images.record import record_of
from sdk.rules.speed import EXACT, Speed, check_speed
from sdk.unet.shallow import deep_width, keeping_deep, shallow
from sdk.unet.shortcuts import shortened
from sdk.views import private_view
from tests.families.tiny import MODELS

FAST, _ = check_speed("fast", 50)
PROMPTS = ["a cat on the beach", "a dog"]


@pytest.mark.parametrize("name", ["sd1", "sdxl", "inpainting"])
def test_deep_features_of_the_same_step_give_the_same_prediction(name):
    unet = MODELS[name]().unet
    torch.manual_seed(0)
    with torch.no_grad():
        sample = torch.randn(2, unet.config.in_channels, 16, 16)
        states = torch.randn(2, 7, unet.config.cross_attention_dim)
        further = None
        if name == "sdxl":
            sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, -1)
            width = unet.add_embedding.linear_1.in_features - 6 * unet.config.addition_time_embed_dim
            further = {"text_embeds": torch.randn(2, width), "time_ids": sizes}
        with keeping_deep(unet) as kept:
            whole = unet(sample, torch.tensor(400), states, added_cond_kwargs=further).sample
        assert kept.deep.shape == (2, deep_width(unet), 16, 16)
        again = shallow(unet, sample, torch.tensor(400), kept.deep, states, added_cond_kwargs=further)
        later = shallow(unet, sample + 1, torch.tensor(300), kept.deep, states, added_cond_kwargs=further)
        assert torch.equal(again, whole)
        exact = unet(sample + 1, torch.tensor(300), states, added_cond_kwargs=further).sample
    assert not torch.equal(later, exact)
    assert not torch.equal(later, whole)


@pytest.mark.parametrize(
    ("speed", "whole", "rows"),
    [(Speed("a", every=3), 7, [4] * 20), (Speed("b", guided_above=0.5), 20, [4] * 10 + [2] * 10)],
)
def test_what_a_step_computes(personalizer, speed, whole, rows):
    unet = private_view(personalizer.pipe.unet)
    seen = {"conv_in": [], "mid_block": []}
    for name, found in seen.items():
        getattr(personalizer.pipe.unet, name).register_forward_pre_hook(
            lambda m, a, found=found: found.append(len(a[0]))
        )
    with torch.no_grad(), shortened(unet, speed, True, 1000) as short:
        for timestep in range(975, 0, -50):
            (answer,) = short(torch.randn(4, 4, 16, 16), torch.tensor(timestep), torch.randn(4, 5, 32))
            assert answer.shape == (4, 4, 16, 16)
            if len(seen["conv_in"]) > len([r for r in rows if r == 4]):
                assert torch.equal(answer[:2], answer[2:])  # so that guidance changes nothing
    assert seen["conv_in"] == rows
    assert len(seen["mid_block"]) == whole
    assert type(personalizer.pipe.unet.up_blocks[-1].resnets[-1]).__name__ == "ResnetBlock2D"


def test_nothing_is_left_out_by_exact(personalizer):
    unet = private_view(personalizer.pipe.unet)
    with shortened(unet, EXACT, True, 1000) as same:
        assert same is unet


def test_balanced_is_what_can_be_asked_for_by_name(personalizer):
    balanced = personalizer.generate(PROMPTS, seed=1, speed="balanced")
    named = personalizer.generate(PROMPTS, seed=1, scheduler="dpm++", num_inference_steps=20)
    assert [a.tobytes() for a in balanced.images] == [b.tobytes() for b in named.images]
    record = record_of(balanced.images[0])
    assert (record.steps, record.scheduler, record.speed) == (20, "DPMSolverMultistepScheduler", "balanced")
    assert "Speed: balanced" in record.line()
    assert record_of(named.images[0]).speed == ""


def test_what_a_call_names_overrules_its_speed(personalizer):
    own = personalizer.generate("a cat", seed=1, speed="balanced", scheduler="euler", num_inference_steps=11).images[0]
    assert (record_of(own).steps, record_of(own).scheduler) == (11, "EulerDiscreteScheduler")
    personalizer.pipe.scheduler = EulerDiscreteScheduler.from_config(personalizer.pipe.scheduler.config)
    mine = personalizer.generate("a cat", seed=1, speed="fast").images[0]
    assert (record_of(mine).steps, record_of(mine).scheduler) == (20, "EulerDiscreteScheduler")


def test_fast_is_near_balanced_and_leaves_nothing_behind(personalizer):
    before = personalizer.generate("a cat", seed=1, num_inference_steps=3).images[0].tobytes()
    balanced, fast = (personalizer.generate("a cat", seed=1, speed=s).images[0] for s in ("balanced", "fast"))
    assert balanced.tobytes() != fast.tobytes()
    assert personalizer.generate("a cat", seed=1, num_inference_steps=3).images[0].tobytes() == before


def test_rows_of_different_packs_are_those_of_calls_alone(personalizer):
    from sdk import Concept, ConceptPack

    pairs = {
        name: (2 * layer.to_k.weight.detach(), layer.to_v.weight.detach())
        for name, layer in cross_attention_layers(personalizer.pipe.unet).items()
    }
    rows = personalizer.pipe.text_encoder.get_input_embeddings().weight[[7]].detach().clone()
    pack = ConceptPack([Concept("cat", "<new1>")], personalizer.base, pairs, rows)
    asked = {"speed": "fast", "guidance_scale": 3.0}
    together = personalizer.generate(["a <new1> cat", "a cat"], concepts=[pack, None], seed=4, **asked).images
    for index, (prompt, each) in enumerate((("a <new1> cat", pack), ("a cat", None))):
        alone = personalizer.generate(prompt, concepts=[each], seed=4 + index, **asked).images[0]
        difference = torch.tensor(list(alone.tobytes())) - torch.tensor(list(together[index].tobytes()))
        assert difference.abs().max() <= 1


def test_pictures_are_drawn_from_at_every_speed(personalizer, picture):
    hole = Image.new("L", picture.size)
    hole.paste(255, (0, 0, 32, 64))
    for speed in ("balanced", "fast"):
        assert personalizer.img2img(picture, "a cat", speed=speed, seed=1).images
        assert personalizer.inpaint(picture, hole, "a cat", speed=speed, seed=1).images


def test_few_steps_are_whole_steps(personalizer):
    asked = {"seed": 1, "num_inference_steps": 6, "scheduler": "dpm++"}
    few, plain = (personalizer.generate("a cat", speed=s, **asked).images[0] for s in ("fast", "exact"))
    assert few.tobytes() == plain.tobytes()
    assert FAST.of(9).every == 1
    assert FAST.of(10) is FAST


def test_a_distilled_model_draws_as_it_does():
    pipe = MODELS["lcm"]()
    assert isinstance(pipe.scheduler, LCMScheduler)
    base = Personalizer(pipe)
    drawn = base.generate("a cat", seed=1, speed="fast")
    assert "speed has no effect: this model draws in 4 steps as it is" in drawn.notes
    assert drawn.images[0].tobytes() == base.generate("a cat", seed=1).images[0].tobytes()


def test_a_compiled_unet_takes_fewer_steps_alone(personalizer):
    personalizer.pipe.unet.compile(backend="eager")
    drawn = personalizer.generate("a cat", seed=1, speed="fast")
    assert any("takes fewer steps alone, because the UNet is offloaded or compiled" in note for note in drawn.notes)
    assert record_of(drawn.images[0]).steps == 20


def test_another_speed_is_one_sentence(personalizer):
    with pytest.raises(InputError, match="speed must be one of exact, balanced, fast, got 'slow'"):
        personalizer.generate("a cat", speed="slow")
