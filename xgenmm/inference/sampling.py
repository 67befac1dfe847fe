"""How the next token is chosen. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.001, 100.0
"""Below, logits overflow; above, every token is as likely as any other."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the next token is chosen, and how many there may be."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from the model's own distribution."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws, of which every answer has its own; the surrounding program's random state is left alone."""
    num_beams: int = 1
    """Beam search over so many; needs temperature 0."""
    length_penalty: float = 1.0
    """Beams are compared by log-probability / length ** length_penalty: 0 prefers short answers."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: A setting is out of its range.
        """
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise ValueError(
                f"temperature must be 0 (the likeliest token) or from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE}, "
                f"not {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.num_beams < 1 or (self.num_beams > 1 and self.temperature > 0):
            raise ValueError(
                f"num_beams must be at least 1, and 1 when sampling: not {self.num_beams} with temperature "
                f"{self.temperature}"
            )


class Chooser:
    """Chooses the tokens of one answer: the same ones whoever else is answered meanwhile."""

    def __init__(self, config: GenerationConfig, number: int) -> None:
        """Begin an answer.

        Args:
            config: Its settings.
            number: Of the answer among those of one call, so that equal prompts are not drawn alike.
        """
        self.config = config
        self.generator = torch.Generator().manual_seed((config.seed * 1_000_003 + number) % 2**63)

    def draw(self) -> float:
        """A number from 0 to 1."""
        return torch.rand(1, generator=self.generator, dtype=torch.float64).item()


def choose(logits: Float[Tensor, "B vocabulary"], choosers: Sequence[Chooser]) -> Int[Tensor, " B"]:
    """The next token of every row."""
    best = logits.max(dim=-1).indices  # the first of equal ones, as of argmax, which is slow in bfloat16
    drawn = [row for row, chooser in enumerate(choosers) if chooser.config.temperature > 0]
    if not drawn:
        return best
    settings = [choosers[row].config for row in drawn]
    numbers = [[choosers[row].draw()] for row in drawn]
    temperature = logits.new_tensor([[one.temperature] for one in settings], dtype=torch.float32)
    top_p = torch.tensor([[one.top_p] for one in settings], dtype=torch.float64, device=logits.device)
    likely, order = (logits[drawn].float() / temperature).sort(dim=-1, descending=True, stable=True)
    shares = likely.double().softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares
    shares = shares * (before < top_p)  # the likeliest token always stays: before it there is nothing
    reached = shares.cumsum(dim=-1)
    target = torch.tensor(numbers, dtype=torch.float64, device=logits.device) * reached[:, -1:]
    place = (reached <= target).sum(dim=-1, keepdim=True).clamp(max=shares.shape[1] - 1)
    best[drawn] = order.gather(1, place)[:, 0]
    return best
