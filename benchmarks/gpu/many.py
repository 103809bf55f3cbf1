"""M: pictures of many packs in one batch, beside as many of one pack, and beside a batch for each pack."""

from __future__ import annotations

from collections.abc import Iterator

from sdk import ConceptPack, Personalizer

from .drawing import GUIDANCE, peers
from .fit import settings
from .goals import APART, APART_PLAIN, EAGER, ONE_PACK
from .models import CLASSES, PROMPT, masks_of, reference_picture, stable_diffusion
from .rows import Row, compared
from .sizes import Sizes
from .timing import Call, in_turns


def packs(personalizer: Personalizer, sizes: Sizes) -> list[ConceptPack]:
    """Learn packs of one step each, every one with a seed of its own."""
    picture = reference_picture(personalizer)
    once = settings(sizes, None, steps=1, target_pool=1, batch_size=1, rows_at_once=1, accelerate="eager")
    return [
        personalizer.fit(picture, CLASSES, masks=masks_of(picture), config=once, seed=seed)
        for seed in range(sizes.packs)
    ]


def measure(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of section M."""
    personalizer = stable_diffusion(sizes)
    different = packs(personalizer, sizes)
    count = len(different)
    plain = peers(personalizer, sizes)[EAGER]

    def draw(chosen: list[ConceptPack]) -> None:
        personalizer.generate(
            [PROMPT] * len(chosen),
            concepts=chosen,
            seed=0,
            num_inference_steps=sizes.draw_steps,
            guidance_scale=GUIDANCE,
            scheduler="ddim",
            eta=0.0,
        )

    together = f"{count} packs in one batch"
    calls: dict[str, Call] = {
        together: lambda: draw(different),
        ONE_PACK: lambda: draw([different[0]] * count),
        APART: lambda: [draw([pack]) for pack in different],
        APART_PLAIN: lambda: [plain(1) for _ in different],  # whoever serves one pack a batch is no faster than that
    }
    medians, _, failed = in_turns(calls, sizes.device, sizes.rounds)
    yield from compared("M", together, medians, together, failed)
