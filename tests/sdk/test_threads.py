"""One object in many threads: every call gives what it gives alone, and the base model is what it was."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdk import Concept, ConceptPack, FitConfig, Personalizer, turns
from sdk.combine import merge
from sdk.families.layers import cross_attention_layers
from sdk.runtime import Cancelled

STEPS = {"num_inference_steps": 3}
FIT = FitConfig(steps=3, batch_size=2, target_pool=2, prior="none", target_share=1.0)


def pack_of(personalizer, seed, tokens=("<new1>", "<new2>"), whole=False):
    """A pack far from the base model, without a fit; with more of the UNet than K and V if that is wanted."""
    generator = torch.Generator().manual_seed(seed)

    def moved(weight):
        return weight.detach() + 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)

    layers = cross_attention_layers(personalizer.pipe.unet)
    key_value = {name: (moved(layer.to_k.weight), moved(layer.to_v.weight)) for name, layer in layers.items()}
    table = personalizer.pipe.text_encoder.get_input_embeddings().weight
    rows = table.std() * torch.randn(2, table.shape[1], generator=generator)
    named = personalizer.pipe.unet.named_parameters()
    unet = {name: moved(weight) for name, weight in named if whole and weight.ndim > 1}
    return ConceptPack(
        [Concept("cat", tokens[0]), Concept("dog", tokens[1])], personalizer.base, key_value, rows, unet=unet
    )


def state_of(personalizer):
    """Everything of the base model that a call could leave changed, and a picture that its pipeline draws by itself."""
    pipe = personalizer.pipe
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    tensors = {f"{part} {name}": t.clone() for part, m in parts.items() for name, t in m.state_dict().items()}
    modules = {f"{part} {name}": m for part, module in parts.items() for name, m in module.named_modules()}
    flags = {
        name: (
            type(m).__name__,
            m.training,
            getattr(m, "gradient_checkpointing", None),
            getattr(m, "processor", None),
            [p.requires_grad for p in m.parameters(recurse=False)],
        )
        for name, m in modules.items()
    }
    pipe.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    drawn = pipe("a cat", **asked).images
    return tensors, flags, len(pipe.tokenizer), drawn


def assert_unchanged(before, personalizer):
    after = state_of(personalizer)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


def jobs_on(personalizer, picture):
    """Calls by name, each with a result that can be compared in bits."""
    first, second, whole = (pack_of(personalizer, seed, whole=seed == 2) for seed in range(3))
    other = pack_of(personalizer, 3, ("<a>", "<b>"))
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 32, 64))

    def drawing(call, *arguments, **options):
        def run(seed):
            return [image.tobytes() for image in call(*arguments, seed=seed, **STEPS, **options).images]

        return run

    draw, again, redraw = personalizer.generate, personalizer.img2img, personalizer.inpaint
    return {
        "none": drawing(draw, "a cat", concepts=[None]),  # whatever a fit makes active
        "first": drawing(draw, "a <new1> cat", concepts=first, negative_prompt="a <new2> dog"),
        "second": drawing(draw, "a <new1> cat", concepts=second, num_images=2),
        "whole": drawing(draw, "a <new2> dog", concepts=whole),
        "mixed": drawing(draw, ["a <new1> cat", "a <b> dog", "a cat"], concepts=[first, other, None]),
        "img2img": drawing(again, picture, "a <new1> cat", concepts=second, strength=0.7),
        "inpaint": drawing(redraw, picture, mask, "a <a> cat", concepts=other),
        "masks": lambda seed: [mask.tobytes() for mask in personalizer.find_masks(picture, ["cat", "dog"])],
        "merge": lambda seed: merge(personalizer, [first, other]).content_hash(),
    }


def test_eight_threads_get_what_each_gets_alone(personalizer, picture):
    jobs = jobs_on(personalizer, picture)
    jobs["fit"] = lambda seed: personalizer.fit(picture, ["cat", "dog"], config=FIT, seed=seed).content_hash()
    before = state_of(personalizer)
    asked = [(name, seed) for name in jobs for seed in range(1 if name == "fit" else 3)] + [("none", s) for s in (7, 8)]
    alone = {(name, seed): jobs[name](seed) for name, seed in asked}
    assert len({repr(result) for result in alone.values()}) > 20  # else anything would do
    order = asked * 2
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: jobs[job[0]](job[1]), order))
    for job, result in zip(order, together, strict=True):
        assert result == alone[job], job
    assert_unchanged(before, personalizer)


class Stopped(Exception):
    """What a callback of ours raises."""


def test_calls_that_end_early_leave_nothing(personalizer, picture):
    """By an exception of a callback, by Ctrl-C in it, cancelled, each beside a call that goes on."""
    jobs = jobs_on(personalizer, picture)
    before = state_of(personalizer)
    want = jobs["first"](1)
    pack = pack_of(personalizer, 2, whole=True)
    cancel = threading.Event()

    def ending(kind):
        def at_the_second(event):
            if event.done == 2 and kind is Cancelled:
                cancel.set()
            elif event.done == 2:
                raise kind("stop")

        return {"progress": at_the_second, "cancel": cancel}

    calls = {
        "generate": lambda told: personalizer.generate("a <new1> cat", concepts=pack, **STEPS, **told),
        "inpaint": lambda told: personalizer.inpaint(picture, picture, "a <new1> cat", concepts=pack, **STEPS, **told),
        "find_masks": lambda told: personalizer.find_masks(picture, ["cat"], **told),
        "fit": lambda told: personalizer.fit(picture, ["cat"], config=FIT, method="dreambooth", **told),
        "recomputing": lambda told: personalizer.fit(
            picture, ["cat"], config=FIT.with_changes(gradient_checkpointing=True), **told
        ),
    }
    for name, call in calls.items():
        for kind in (Stopped, KeyboardInterrupt, Cancelled):
            cancel.clear()
            got = []
            beside = threading.Thread(target=lambda got=got: got.append(jobs["first"](1)))
            beside.start()
            with pytest.raises(kind):
                call(ending(kind))
            beside.join()
            assert got == [want], name
    assert personalizer.pack is None
    assert_unchanged(before, personalizer)


def test_training_beside_a_drawing_does_not_drop_out(personalizer, picture, tmp_path):
    """A LoRA with dropout is in evaluation mode in a fit that recomputes activations, as in every drawing."""
    from peft import LoraConfig

    personalizer.pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q"], lora_dropout=0.9, init_lora_weights=False)
    )
    personalizer.pipe.unet.eval()
    plain, recomputing = (FIT.with_changes(gradient_checkpointing=wanted) for wanted in (False, True))
    first, second, third = (
        personalizer.fit(picture, ["cat"], config=config).embeddings for config in (plain, recomputing, recomputing)
    )
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)
    assert torch.equal(second, third)


def test_what_is_changed_of_the_pipeline_counts_from_the_next_call_on(personalizer, tmp_path):
    """A LoRA, loaded in the middle of a drawing; a processor; hooks."""
    from diffusers.models.attention_processor import AttnProcessor
    from safetensors.torch import save_file

    layer = next(iter(cross_attention_layers(personalizer.pipe.unet)))
    width = personalizer.pipe.unet.get_submodule(layer).to_q.in_features
    lora = {
        f"unet.{layer}.to_q.lora_{which}.weight": torch.linspace(-1, 1, 2 * width).view(shape)
        for which, shape in (("A", (2, width)), ("B", (width, 2)))
    }
    save_file(lora, tmp_path / "lora.safetensors")

    def drawn(**options):
        return personalizer.generate("a cat", seed=1, **STEPS, **options).images[0].tobytes()

    def load(event):
        if event.done == 1:
            personalizer.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")

    def unload(event):
        if event.done == 1:
            personalizer.unload_lora_weights()

    plain = drawn()
    before = state_of(personalizer)
    assert drawn(progress=load) == plain
    with_lora = drawn()
    assert with_lora != plain
    assert drawn(progress=unload) == with_lora
    assert drawn() == plain
    assert_unchanged(before, personalizer)
    seen = []

    class Noting(AttnProcessor):
        def __call__(self, *arguments, **keywords):
            seen.append(1)
            return super().__call__(*arguments, **keywords)

    inner = layer.removesuffix("attn2") + "attn1"
    personalizer.pipe.unet.get_submodule(inner).set_processor(Noting())
    drawn()
    assert len(seen) == STEPS["num_inference_steps"]


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_where_there_is_no_view_calls_take_turns(personalizer, picture, part):
    """A module whose forward was exchanged, as accelerate does to offload it."""
    jobs = jobs_on(personalizer, picture)
    jobs["fit"] = lambda seed: personalizer.fit(picture, ["cat", "dog"], config=FIT, seed=seed).content_hash()
    alone = {name: job(1) for name, job in jobs.items()}
    module = getattr(personalizer.pipe, part)
    own, called = module.forward, []

    def redirected(*arguments, **keywords):
        called.append(1)
        return own(*arguments, **keywords)

    module.forward = redirected
    before = state_of(personalizer)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda name: jobs[name](1), [*jobs] * 2))
    for name, result in zip([*jobs] * 2, results, strict=True):
        assert result == alone[name], name
    assert called
    assert_unchanged(before, personalizer)


def test_a_view_takes_no_memory_and_shares_every_weight(personalizer):
    from sdk.views import private_view

    unet = personalizer.pipe.unet
    view = private_view(unet)
    for name, weight in unet.state_dict(keep_vars=True).items():
        assert view.state_dict(keep_vars=True)[name] is weight
    assert not {id(m) for m in unet.modules()} & {id(m) for m in view.modules()}


def test_an_export_runs_alone_and_is_waited_for():
    """Calls beside each other, an export after those that run and before those that begin; never in a callback."""
    from sdk.errors import InputError
    from sdk.turns import all_alone, beside_others

    order, inside, go_on = [], threading.Event(), threading.Event()

    @beside_others()
    def call(name, wait=False):
        with beside_others():  # a fit draws, too
            order.append(f"{name} begins")
            inside.set()
            assert go_on.wait(10) or not wait
            order.append(f"{name} ends")

    @all_alone()
    def export():
        order.append("export begins")
        with beside_others():
            order.append("export ends")

    threads = [threading.Thread(target=call, args=("first", True))]
    threads[0].start()
    assert inside.wait(10)
    threads.append(threading.Thread(target=export))
    threads[1].start()
    while not turns._waiting:
        pass
    threads.append(threading.Thread(target=call, args=("second",)))
    threads[2].start()
    threads[2].join(0.2)
    assert order == ["first begins"]
    go_on.set()
    for thread in threads:
        thread.join()
    assert order == ["first begins", "first ends", "export begins", "export ends", "second begins", "second ends"]
    with beside_others(), pytest.raises(InputError, match="not in its callback"):
        export()
    call("third")


@pytest.mark.parametrize("meanwhile", ["LoRAs", "another model"])
def test_what_is_loaded_meanwhile_disturbs_nobody(personalizer, tiny_model, picture, tmp_path, meanwhile):
    """PEFT and transformers turn switches of the whole process while they load."""
    layer = next(iter(cross_attention_layers(personalizer.pipe.unet)))
    query = personalizer.pipe.unet.get_submodule(layer).to_q
    shapes = {"A": (2, query.in_features), "B": (query.out_features, 2)}
    name = f"unet.{layer}.to_q.lora"
    lora = {f"{name}_{which}.weight": torch.zeros(shape) for which, shape in shapes.items()}  # changes no picture
    save_file(lora, tmp_path / "lora.safetensors")
    whole = pack_of(personalizer, 5, whole=True)

    def drawn():
        again = (
            personalizer.img2img(picture, "a cat", concepts=whole, seed=1, strength=0.5, **STEPS).images[0].tobytes()
        )
        pictures = [personalizer.generate("a <new1> cat", concepts=whole, seed=1, **STEPS).images[0].tobytes(), again]
        return [*pictures, personalizer.fit(picture, ["cat"], config=FIT).content_hash()]

    alone = drawn()
    stop = threading.Event()

    def load():
        while not stop.is_set():
            if meanwhile == "LoRAs":
                personalizer.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
                personalizer.unload_lora_weights()
            else:
                Personalizer.from_pretrained(tiny_model, device="cpu", dtype=torch.float16)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        try:
            found = [drawn() for _ in range(4)]
        finally:
            stop.set()
        loading.result()
    assert found == [alone] * 4
