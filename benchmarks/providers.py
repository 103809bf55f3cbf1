"""The ways to compute attention, token maps, the calibration loss and all gradients, side by side.

Each provider takes one layer or several ``(query, key, value)``, the tracked positions and the gradients of the
outputs, and returns the gradients of every input: what a step of a fit needs of these layers. Those called "without
maps" leave the maps and the loss out; they are the floor that stock libraries set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.kernels import available_backends, calibrated_attention

Layer = tuple[Tensor, Tensor, Tensor]
Provider = Callable[[Sequence[Layer], Tensor, Sequence[Tensor]], list[Tensor]]
# B, H, N, T, D, layers
SIZES = {
    "SD1.5 16x16 B=2": (2, 8, 256, 77, 160, 5),
    "SD1.5 16x16 B=8": (8, 8, 256, 77, 160, 5),
    "SD1.5 16x16 B=16": (16, 8, 256, 77, 160, 5),
    "SD1.5 16x16 B=32": (32, 8, 256, 77, 160, 5),
    "SDXL 32x32 B=1": (1, 20, 1024, 77, 64, 5),
    "SDXL 32x32 B=8": (8, 20, 1024, 77, 64, 5),
    "bundled B=8": (8, 3, 256, 32, 32, 3),
}


def make_inputs(size: str, dtype: torch.dtype, device: str, layers: int | None = None):
    """Return the layers, the positions of two concepts in every row, and the outputs' gradients."""
    batch, heads, pixels, tokens, width, count = SIZES[size]
    torch.manual_seed(0)

    def rows(number: int) -> Tensor:  # in memory as a projection writes it: [B, rows, H, D]
        return torch.randn(batch, number, heads, width, device=device, dtype=dtype).transpose(1, 2)

    made = [(rows(pixels), rows(tokens), rows(tokens)) for _ in range(layers or count)]
    made = [tuple(x.requires_grad_() for x in layer) for layer in made]
    indices = torch.tensor([[4, 5, 7, 8]], device=device).repeat(batch, 1)
    return made, indices, [torch.randn_like(layer[0]) for layer in made]


def _gradients(outs, loss, layers, grads) -> list[Tensor]:
    leaves = [x for layer in layers for x in layer]
    heads, seeds = list(outs), list(grads)
    if loss is not None:
        heads, seeds = [*heads, loss], [*seeds, torch.ones_like(loss)]
    return list(torch.autograd.grad(heads, leaves, seeds))


def ours(layers, indices, grads, *, backend: str) -> list[Tensor]:
    """One of this project's backends; ``reference`` is vectorised eager PyTorch."""
    outs, loss = calibrated_attention(*zip(*layers, strict=True), indices, backend=backend, reduction="mean")
    return _gradients(outs, loss, layers, grads)


def compiled(mode: str | None = None) -> Provider:
    """Vectorised eager PyTorch under ``torch.compile``."""

    def forward(queries, keys, values, indices):
        return calibrated_attention(queries, keys, values, indices, backend="reference", reduction="mean")

    fast = torch.compile(forward, mode=mode, dynamic=False)

    def run(layers, indices, grads):
        outs, loss = fast(*(list(x) for x in zip(*layers, strict=True)), indices)
        return _gradients(outs, loss, layers, grads)

    return run


def per_sample(layers, indices, grads) -> list[Tensor]:
    """As the method's authors wrote it: probabilities kept, then a loop over samples, tokens and pairs."""
    outs, kept = [], []
    for query, key, value in layers:
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32)
        kept.append(weights)
        outs.append(weights.to(value.dtype) @ value)
    tap = torch.exp(torch.tensor([-1.0, 0.0, -1.0], device=indices.device))
    tap = tap / tap.sum()
    kernel = torch.outer(tap, tap)[None, None]
    losses = []
    for row, positions in enumerate(indices.tolist()):
        maps = []
        for slot, token in enumerate(positions):
            mean = torch.stack([w[row, :, :, token] for w in kept]).mean((0, 1))
            side = round(mean.numel() ** 0.5)
            mean = (mean - mean.min()) / (mean.max() - mean.min() + 1e-8)
            smooth = F.conv2d(F.pad(mean.view(1, 1, side, side), (1, 1, 1, 1), mode="reflect"), kernel)[0, 0]
            maps.append(smooth * smooth if slot % 2 else smooth)

        def overlap(a: Tensor, b: Tensor) -> Tensor:
            both = (a * b).sum()
            return (both + 1) / (a.sum() + b.sum() - both + 1)

        loss = 1 - overlap(maps[1].detach(), maps[0]) + 1 - overlap(maps[3].detach(), maps[2])
        losses.append(loss + overlap(maps[1], maps[3]))
    return _gradients(outs, torch.stack(losses).mean(), layers, grads)


def sdpa(layers, indices, grads) -> list[Tensor]:
    """Stock fused attention, no maps, no loss."""
    return _gradients([F.scaled_dot_product_attention(*layer) for layer in layers], None, layers, grads)


def flex(layers, indices, grads) -> list[Tensor]:
    """FlexAttention under ``torch.compile``, no maps, no loss."""
    from torch.nn.attention.flex_attention import flex_attention

    fast = torch.compile(flex_attention, dynamic=False)
    return _gradients([fast(*layer) for layer in layers], None, layers, grads)


def xformers(layers, indices, grads) -> list[Tensor]:
    """xFormers' memory-efficient attention, no maps, no loss."""
    from xformers.ops import memory_efficient_attention

    swapped = [[x.transpose(1, 2) for x in layer] for layer in layers]
    outs = [memory_efficient_attention(*layer).transpose(1, 2) for layer in swapped]
    return _gradients(outs, None, layers, grads)


def providers(device: str) -> dict[str, Provider]:
    """Return what can run here, in the order of the tables."""
    ready = {name for name, status in available_backends().items() if status == "ready"}
    found: dict[str, Provider] = {
        "vectorised eager": partial(ours, backend="reference"),
        "per-sample eager": per_sample,
        "augmented V": partial(ours, backend="augmented_v"),
        "torch.compile": compiled(),
        "SDPA without maps": sdpa,
    }
    if device == "cuda":
        found["torch.compile max-autotune"] = compiled("max-autotune-no-cudagraphs")  # the benchmark captures the graph
        found["FlexAttention without maps"] = flex
        try:
            import xformers.ops

            found["xFormers without maps"] = xformers
        except ImportError:
            pass
    fastest = "triton" if device == "cuda" else "cpp"
    if fastest in ready:
        found[f"ours ({fastest})"] = partial(ours, backend=fastest)
    return found


def same_gradients(provider: Provider, reference: Provider, arguments) -> bool:
    """Whether a provider with maps computes what the float64 reference does, as closely as its type allows."""
    layers, indices, grads = arguments
    exact = [tuple(x.detach().double().requires_grad_() for x in layer) for layer in layers]
    want = reference(exact, indices, [g.double() for g in grads])
    plain = reference(layers, indices, grads)
    for got, stock, right in zip(provider(layers, indices, grads), plain, want, strict=True):
        step = torch.finfo(got.dtype).eps
        budget = 3 * ((stock.double() - right).abs().max() + step * right.abs().max())
        if not (got.double() - right).abs().max() <= budget:
            return False
    return True
