"""The loss behind the language model's head, 6,000 positions of 32,064 tokens, against all logits at once (P8).

python benchmarks/loss_head.py
"""

from functools import partial

import measure  # first: it sets the number of threads
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Phi3Config, Phi3ForCausalLM

from xgenmm.model.head import head_of, summed_nll, target_logps

POSITIONS, WIDTH, VOCABULARY = 6000, 384, 32064


class Case:
    """A head that trains, hidden states and targets."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        config = Phi3Config(
            hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=1, num_attention_heads=6, vocab_size=VOCABULARY
        )
        self.model = Phi3ForCausalLM(config)
        self.hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
        self.targets = torch.randint(0, VOCABULARY, (POSITIONS,))

    def loss(self, kind: str) -> torch.Tensor:
        with measure.computing():
            if kind == "all":
                logits = head_of(self.model)(self.hidden)
                return F.cross_entropy(logits.float(), self.targets, reduction="sum")
            if kind == "sum":
                return summed_nll(self.model, self.hidden, self.targets)[0]
            return -target_logps(self.model, self.hidden, self.targets).sum()

    def step(self, kind: str) -> tuple[torch.Tensor, ...]:
        """Loss, and gradients of hidden states and weights."""
        weight = head_of(self.model).weight
        self.hidden.grad = weight.grad = None
        loss = self.loss(kind)
        loss.backward()
        assert self.hidden.grad is not None
        assert weight.grad is not None
        return loss.detach(), self.hidden.grad, weight.grad


def prepare(kind: str) -> partial[tuple[torch.Tensor, ...]]:
    return partial(Case().step, kind)


def main() -> None:
    case = Case()
    assert isinstance(head_of(case.model), nn.Linear)
    peer = [tensor.clone() for tensor in case.step("all")]
    memory = {kind: measure.peak_memory_mb(partial(prepare, kind)) for kind in ("all", "sum", "each")}
    for kind, name in (("sum", "sum of losses (next token)"), ("each", "each loss (preferences)")):
        found = case.step(kind)
        errors = [((a - b).norm() / b.norm()).item() for a, b in zip(found, peer, strict=True)]
        assert errors[0] < 1e-4, errors
        assert max(errors) < 0.02, errors
        print(f"{name}: loss equal to {errors[0]:.0e}, gradients to {max(errors[1:]):.0e} ({measure.number_format()})")
        print(f"  time: {measure.pairwise(partial(case.step, 'all'), partial(case.step, kind))}")
        print(f"  memory: {memory['all']:.0f} against {memory[kind]:.0f} MB: {memory['all'] / memory[kind]:.1f}x less")


if __name__ == "__main__":
    main()
