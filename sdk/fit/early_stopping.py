"""When to stop a fit, and which weights to keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Best:
    """The best weights so far.

    Attributes:
        patience: validations without a rise after which to stop; 0: never.
        score: of the best.
        step: at which it was reached.
        waited: validations since.
        weights: by name, copies on the CPU.
    """

    patience: int
    score: float = float("-inf")
    step: int = 0
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def see(self, score: float, step: int, weights: dict[str, Tensor]) -> bool:
        """Take note of a validation; whether to stop."""
        if score > self.score:
            self.score, self.step, self.waited = score, step, 0
            self.weights = {name: w.detach().cpu().clone() for name, w in weights.items()}
        else:
            self.waited += 1
        return bool(self.patience) and self.waited >= self.patience
