"""A DPO step on four pairs about pictures against the usual way to make one (P14, P15).

The usual way: each answer a row of its own behind its own copy of prompt and picture, padded to the longest; all
logits; a second model as the reference at every step. Ours: both answers behind one prompt, nothing padded, logits at
answers only, the reference written down beforehand. P15 charges the writing down to a single epoch.

python benchmarks/dpo.py [S]     a larger model takes four times as long
"""

import copy
import functools
import sys
from collections.abc import Callable

import torch
from measure import computing, cpu_seconds, pairwise, peak_memory_mb
from models import SIDE, build_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xgenmm.objectives.dpo import Dpo, DpoConfig, dpo_loss
from xgenmm.objectives.reference import asked, by_document, cached_reference
from xgenmm.processor.branching import branch
from xgenmm.processor.collate import collate
from xgenmm.processor.packing import pack
from xgenmm.training.precision import Precision
from xgenmm.types import IGNORE_INDEX, Batch, Example, PaddedBatch

GRIDS = ((0, 0), (1, 2), (1, 3), (2, 2))
"""1, 3, 4 and 5 tiles."""
PROMPT = 40
ANSWERS = ((60, 90), (110, 140), (160, 75), (210, 180))
"""Tokens of the preferred answer and of the other one."""
CONFIG = DpoConfig(beta=0.1, reference="cached")


def examples(image_token: int) -> list[Example]:
    """Four pairs, the preferred answer before the other one."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number, (grid, lengths) in enumerate(zip(GRIDS, ANSWERS, strict=True)):
        tiles = 1 + grid[0] * grid[1]
        pixels = torch.rand(tiles, 3, SIDE, SIDE, generator=generator) * 2 - 1
        prompt = torch.randint(1, image_token, (PROMPT,), generator=generator)
        beginning = torch.cat([prompt[:8], torch.full((128 * tiles,), image_token), prompt[8:]])
        for length in lengths:
            answer = torch.randint(1, image_token, (length,), generator=generator)
            ids = torch.cat([beginning, answer])
            labels = torch.full_like(ids, IGNORE_INDEX)
            labels[len(beginning) - 1 : -1] = answer
            layout = torch.tensor([[*grid, 480, 640]])
            made.append(
                Example(id=f"{number}", input_ids=ids, labels=labels, pixel_values=pixels, image_layouts=layout)
            )
    return made


def padded_logps(model: torch.nn.Module, batch: PaddedBatch, labels: Tensor) -> Tensor:
    """Log-probability of each row's answer, by all logits of all rows."""
    names = ("input_ids", "attention_mask", "pixel_values", "image_layouts")
    logits = model(**{name: getattr(batch, name) for name in names}).logits.float()
    supervised = labels != IGNORE_INDEX
    logps = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (logps * supervised).sum(dim=1)


class Usual:
    """The peer."""

    def __init__(self, size: str, precision: Precision | None = None) -> None:
        self.model = trainable(size)
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        answers = examples(self.model.config.image_token_id)
        self.batch = collate(answers, pad_id=0, side="right")
        self.labels = pad_sequence([one.labels for one in answers], batch_first=True, padding_value=IGNORE_INDEX)
        self.precision = precision

    def step(self) -> float:
        """Forward and backward; the loss."""
        self.model.zero_grad()
        with computing(self.precision):
            policy = padded_logps(self.model, self.batch, self.labels)
            with torch.no_grad():
                reference = padded_logps(self.reference, self.batch, self.labels)
            loss = dpo_loss(
                CONFIG,
                chosen=policy[0::2],
                rejected=policy[1::2],
                reference_chosen=reference[0::2],
                reference_rejected=reference[1::2],
            ).mean()
        loss.backward()
        return loss.item()


class Ours:
    """Packed, behind shared beginnings, with a reference that was asked before."""

    def __init__(self, size: str, precision: Precision | None = None) -> None:
        self.model = trainable(size)
        apart = examples(self.model.config.image_token_id)
        joined = [branch(apart[first : first + 2], self.model.config.image_token_id) for first in range(0, 8, 2)]
        self.batch: Batch = pack([one for one in joined if one is not None], pad_id=0)
        self.precision = precision
        self.live = asked(self.model)
        self.objective = Dpo(CONFIG, cached_reference(self.write_down()))

    def write_down(self) -> dict[str, Tensor]:
        """Ask the reference for these pairs, as it is done once before training."""
        with computing(self.precision):
            return by_document(self.batch, self.live(self.batch))

    def step(self) -> float:
        """Forward and backward; the loss."""
        self.model.zero_grad()
        with computing(self.precision):
            output = self.objective(self.model, self.batch)
            loss = output.loss / output.count
        loss.backward()
        return loss.item()


def trainable(size: str) -> torch.nn.Module:
    """The model with resampler and language model in training, as in most stages."""
    model = build_model(size)
    model.set_trainable(vision=False, resampler=True, language=True)
    return model


def check_equal() -> None:
    """Both ways give the same loss, and the same gradient for every weight, in float32 at the smaller size.

    The reference is moved first: at the first step all margins are 0 and would hide a mistake.
    """
    usual, ours = Usual("XS", "float32"), Ours("XS", "float32")
    with torch.no_grad():
        for one, other in zip(usual.model.parameters(), ours.model.parameters(), strict=True):
            if one.requires_grad:
                one.mul_(1.1)
                other.mul_(1.1)
    losses = usual.step(), ours.step()
    gradients = [
        ((one.grad - other.grad).norm() / one.grad.norm()).item()
        for one, other in zip(usual.model.parameters(), ours.model.parameters(), strict=True)
        if one.grad is not None and other.grad is not None
    ]
    relative = abs(losses[0] - losses[1]) / losses[0]
    # an answer's log-probability is a sum of some -1,500, of which float32 keeps four digits behind the point
    assert relative < 1e-4, f"the losses are {losses}"
    assert max(gradients) < 1e-3, f"a gradient differs by {max(gradients)}"
    print(f"equal: loss {losses[1]:.6f} to {relative:.0e}, {len(gradients)} gradients to {max(gradients):.0e}")


def usual_step(size: str) -> Callable[[], float]:
    """For the process whose memory is measured."""
    return Usual(size).step


def our_step(size: str) -> Callable[[], float]:
    """For the process whose memory is measured."""
    return Ours(size).step


def main(size: str = "XS") -> None:
    check_equal()
    usual, ours = Usual(size), Ours(size)
    print(f"{size}: {usual.batch.input_ids.numel()} positions the usual way, {len(ours.batch.input_ids)} ours")
    step = pairwise(usual.step, ours.step, pairs=3 if size == "XS" else 1)
    writing = cpu_seconds(ours.write_down)
    print(f"P14 step: {step}")
    print(f"P15 with {writing:.3f} s for the reference, once: {step.peer / (step.ours + writing):.2f}x")
    peer, own = (peak_memory_mb(functools.partial(prepare, size)) for prepare in (usual_step, our_step))
    print(f"P14 peak memory of a step: peer {peer:,.0f} MB, ours {own:,.0f} MB: {peer / own:.1f}x less")


if __name__ == "__main__":
    main(*sys.argv[1:])
