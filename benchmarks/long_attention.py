"""The gradient of self-attention over many keys in bfloat16 on a CPU: ours beside stock PyTorch's.

Sizes are those of Stable Diffusion 1.5 and XL. Both in one process, in turns, medians; errors are relative, to float32.

Usage: python -m benchmarks.long_attention [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels_cpu import processor
from sdk.bindings.arrays import instruction_set
from sdk.kernels import attention

SIZES = ((1, 8, 4096, 40), (2, 8, 4096, 40), (1, 8, 1024, 80), (1, 10, 4096, 64), (1, 20, 1024, 64))


def gradients(attend: Callable, query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> tuple[float, list[Tensor]]:
    """Seconds of the backward pass, and the gradients."""
    out = attend(query, key, value)
    begin = time.perf_counter()
    found = torch.autograd.grad(out, (query, key, value), grad)
    return time.perf_counter() - begin, list(found)


def error(found: list[Tensor], right: list[Tensor]) -> float:
    """The largest of the three."""
    return max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, right, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    ways = {"ours": attention, "stock": F.scaled_dot_product_attention}
    print(f"{processor()}, {instruction_set()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| batch, heads, tokens, width | ours, ms | stock, ms | ratio | our error | stock's |")
    print("|---|---|---|---|---|---|")
    for batch, heads, tokens, width in SIZES:
        torch.manual_seed(0)
        four = [torch.randn(batch, tokens, heads, width).bfloat16().transpose(1, 2) for _ in range(4)]
        leaves, grad = [each.requires_grad_() for each in four[:3]], four[3]
        taken: dict[str, list[float]] = {name: [] for name in ways}
        found = {}
        for turn in range(rounds + 1):
            for name, attend in ways.items():
                seconds, found[name] = gradients(attend, *leaves, grad)
                if turn:
                    taken[name].append(seconds)
        wide = [each.detach().float().requires_grad_() for each in leaves]
        _, right = gradients(F.scaled_dot_product_attention, *wide, grad.float())
        ours, stock = (1000 * statistics.median(taken[name]) for name in ways)
        errors = [f"{error(found[name], right):.1e}" for name in ways]
        cells = (f"{batch}, {heads}, {tokens}, {width}", f"{ours:.1f}", f"{stock:.1f}", f"{stock / ours:.2f}", *errors)
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
