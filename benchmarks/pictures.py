"""From tiles to vision tokens and back: the frozen encoder against transformers' own call, the resampler against one
with torch's own attention and GELU.

python benchmarks/pictures.py [S]
"""

import sys
from collections.abc import Callable

import measure  # first: it sets the number of threads
import torch
from torch import Tensor
from torch.nn import functional as F
from workloads import interleaved, trainable, usual_layers

from xgenmm.data.memory import keep_freed_memory


def main(size: str) -> None:
    """Both, on the 23 tiles of P1."""
    model, usual = trainable(size), trainable(size)
    tiles = torch.cat([one.pixel_values for one in interleaved(model.config.image_token_id)])
    encoder, resampler = usual.vision_encoder, usual.vision_tokenizer

    @torch.no_grad()
    def theirs(dtype: torch.dtype = torch.bfloat16) -> Tensor:
        vars(encoder)["use_head"] = False
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return encoder(pixel_values=tiles).last_hidden_state

    def ours(dtype: torch.dtype = torch.bfloat16) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model.encode(tiles)

    exact = theirs(torch.float32)
    assert torch.allclose(ours(torch.float32), exact, atol=1e-4), "the features differ"
    errors = [((found() - exact).norm() / exact.norm()).item() for found in (theirs, ours)]
    print(f"equal: features in float32; in bfloat16 theirs are {errors[0]:.1e} from them, ours {errors[1]:.1e}")
    print(f"{size} bfloat16, frozen encoder, {len(tiles)} tiles: {measure.pairwise(theirs, ours, pairs=5)}")

    features = exact.bfloat16()
    weights = torch.randn(model.vision_tokenizer(features[:1]).shape)

    def step(module: torch.nn.Module, dtype: torch.dtype = torch.bfloat16) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            module.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                (module(features) * weights).sum().backward()
            return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]

        return run

    def usual_step(dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
        with usual_layers(F.scaled_dot_product_attention):
            return step(resampler, dtype)()

    pairs = zip(usual_step(torch.float32), step(model.vision_tokenizer, torch.float32)(), strict=True)
    worst = max(((a - b).norm() / a.norm()).item() for a, b in pairs)
    assert worst < 1e-4, f"a gradient differs by {worst}"
    print(f"equal: gradients of the resampler to {worst:.0e} in float32")
    found = measure.pairwise(usual_step, step(model.vision_tokenizer), pairs=5)
    print(f"{size} bfloat16, resampler, forward and backward: {found}")


if __name__ == "__main__":
    keep_freed_memory()  # as training does
    main("S" if "S" in sys.argv[1:] else "XS")
