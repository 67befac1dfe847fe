"""An optimizer step against torch's AdamW as it is by default, on 60 million parameters (P18).

python benchmarks/optimizer.py
"""

import torch
from measure import pairwise
from torch import nn

from xgenmm.training.optim import OptimConfig, build_optimizer

BLOCKS = 13
"""Of a language model of width 576 with 49,152 tokens: 28 million parameters, and 2.4 million a block."""


class Part(nn.Module):
    """Nothing but parameters of a language model's shapes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        matrices = [(49152, 576), *[(576, 576), (576, 576), (1536, 576), (576, 1536)] * BLOCKS]
        shapes = [*matrices[:1], *(shape for matrix in matrices[1:] for shape in (matrix, (matrix[1],)))]
        self.weights = nn.ParameterList(0.02 * torch.randn(shape, generator=generator) for shape in shapes)
        for weight in self.weights:
            weight.grad = torch.randn(weight.shape, generator=generator)


def main() -> None:
    theirs, ours = nn.ModuleDict({"part": Part()}), nn.ModuleDict({"part": Part()})
    settings = {"lr": 1e-3, "weight_decay": 0.01}
    default = torch.optim.AdamW(theirs.parameters(), **settings)
    fused = build_optimizer(OptimConfig(**settings), ours, {"language": "part"})
    for optimizer in (default, fused) * 3:
        optimizer.step()
    pairs = list(zip(theirs.parameters(), ours.parameters(), strict=True))
    difference = max(((one - other).abs().max() / one.abs().max()).item() for one, other in pairs)
    assert difference < 1e-5, f"the two optimizers disagree by {difference}"
    num_parameters = sum(one.numel() for one, _ in pairs)
    print(f"{num_parameters / 1e6:.0f} M parameters, equal to {difference:.0e} after 3 steps")
    print(f"AdamW step: {pairwise(default.step, fused.step, pairs=9)}")


if __name__ == "__main__":
    main()
