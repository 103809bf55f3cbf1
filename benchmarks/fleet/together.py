"""Several fits in one forward pass: is a fit cheaper, and are its gradients the same?

Fits of one base model differ in the K and V of their cross attention alone. In one pass the rows of all fits go through
the UNet together, and K and V come of batched products, each row with its own fit's weights; apart, each fit has a pass
of its own. Rows are as many as a fit has by default, the loss is the plain one of denoising.

Usage: python -m benchmarks.fleet.together [--fits 2,4] [--rows 8] [--repeats 9] [--threads 1]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdk import Personalizer
from sdk.bindings.arrays import instruction_set
from sdk.runtime import keep_memory, quiet


class ForEachFit(nn.Module):
    """A linear layer with weights ``[F, out, in]``, of which each fit's rows ``[F * B, T, in]`` take their own."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([weight.detach() for weight in weights]))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[F * B, T, out]``."""
        fits = self.weight.shape[0]
        grouped = x.reshape(fits, -1, x.shape[-1])
        return torch.bmm(grouped, self.weight.transpose(1, 2)).reshape(*x.shape[:-1], -1)


def learned(unet: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where K and V of the cross attention are: modules, and the names of layers in them."""
    return [
        (module, name) for path, module in unet.named_modules() if path.endswith("attn2") for name in ("to_k", "to_v")
    ]


def passes(unet: Any, fits: int, rows: int) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
    """Return one step of so many fits, apart and in one pass; each returns gradients by layer, ``[F, ...]``."""
    unet.requires_grad_(False)
    torch.manual_seed(0)
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    noisy = torch.randn(fits * rows, unet.config.in_channels, size, size)
    steps = torch.randint(0, 1000, (fits * rows,))
    states = torch.randn(fits * rows, 77, width)
    goal = torch.randn(fits * rows, unet.config.out_channels, size, size)
    weights = [
        [getattr(module, name).weight + 0.01 * torch.randn(getattr(module, name).weight.shape) for _ in range(fits)]
        for module, name in learned(unet)
    ]

    def loss(model: Any, part: slice) -> Tensor:
        return (model(noisy[part], steps[part], states[part]).sample - goal[part]).square().mean((1, 2, 3)).sum() / rows

    own = []
    for fit in range(fits):  # copies of K and V alone; all else is shared
        shared = {id(p): p for p in unet.parameters()}
        model = copy.deepcopy(unet, shared)
        for (module, name), each in zip(learned(model), weights, strict=True):
            getattr(module, name).weight = nn.Parameter(each[fit].clone())
        own.append(model)
    shared = {id(p): p for p in unet.parameters()}
    one = copy.deepcopy(unet, shared)
    for (module, name), each in zip(learned(one), weights, strict=True):
        setattr(module, name, ForEachFit(each))

    def gradients(model: Any) -> list[Tensor]:
        found = []
        for module, name in learned(model):
            weight = getattr(module, name).weight
            found.append(weight.grad)
            weight.grad = None
        return found

    def apart() -> list[Tensor]:
        found = []
        for fit, model in enumerate(own):
            loss(model, slice(fit * rows, (fit + 1) * rows)).backward()
            found.append(gradients(model))
        return [torch.stack(each) for each in zip(*found, strict=True)]

    def together() -> list[Tensor]:
        loss(one, slice(None)).backward()
        return gradients(one)

    return apart, together


def operations(step: Callable[[], Any]) -> int:
    """How many operations of torch a step is made of: on a GPU each is a launch or more."""
    with torch.profiler.profile() as profile:
        step()
    return sum(event.count for event in profile.key_averages() if event.key.startswith("aten::"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", default="2,4")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    quiet()
    keep_memory()
    torch.set_num_threads(given.threads)
    unet = Personalizer.from_pretrained("bundled", device="cpu").pipe.unet
    print(f"{instruction_set()}, {given.threads} threads, {given.rows} rows a fit")
    print("| fits | apart, ms a fit | in one pass, ms a fit | ratio | operations | largest difference of a gradient |")
    print("|---|---|---|---|---|---|")
    for fits in map(int, given.fits.split(",")):
        apart, together = passes(unet, fits, given.rows)
        pairs = list(zip(apart(), together(), strict=True))
        worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
        taken: dict[str, list[float]] = {"apart": [], "together": []}
        for _ in range(given.repeats):  # one after the other, so that the machine's moods fall on both
            for name, step in (("apart", apart), ("together", together)):
                begin = time.perf_counter()
                step()
                taken[name].append((time.perf_counter() - begin) / fits)
        one, other = (statistics.median(each) * 1e3 for each in taken.values())
        ratio = statistics.median(a / b for a, b in zip(taken["apart"], taken["together"], strict=True))
        counts = f"{operations(apart)}, {operations(together)}"
        print(f"| {fits} | {one:.0f} | {other:.0f} | {ratio:.2f} | {counts} | {worst:.1e} |", flush=True)


if __name__ == "__main__":
    main()
