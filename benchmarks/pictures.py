"""From tiles to vision tokens and back: the frozen encoder against transformers' own call, the resampler against one
with torch's own attention and GELU.

python benchmarks/pictures.py [S]
"""

import sys
from collections.abc import Callable

import torch
from measure import computing, number_format, pairwise  # first: it sets the number of threads
from torch import Tensor
from torch.nn import functional as F
from workloads import interleaved, trainable, usual_layers

from xgenmm.data.memory import keep_freed_memory
from xgenmm.training.precision import Precision


def main(size: str) -> None:
    """Both, on the 23 tiles of P1."""
    model, usual = trainable(size), trainable(size)
    tiles = torch.cat([one.pixel_values for one in interleaved(model.config.image_token_id)])
    encoder, resampler = usual.vision_encoder, usual.vision_tokenizer

    @torch.no_grad()
    def theirs(precision: Precision | None = None) -> Tensor:
        vars(encoder)["use_head"] = False
        with computing(precision):
            return encoder(pixel_values=tiles).last_hidden_state

    def ours(precision: Precision | None = None) -> Tensor:
        with computing(precision):
            return model.encode(tiles)

    exact = theirs("float32")
    assert torch.allclose(ours("float32"), exact, atol=1e-4), "the features differ"
    errors = [((found() - exact).norm() / exact.norm()).item() for found in (theirs, ours)]
    print(
        f"equal: features in float32; in {number_format()} theirs are {errors[0]:.1e} from them, ours {errors[1]:.1e}"
    )
    print(f"{size} {number_format()}, frozen encoder, {len(tiles)} tiles: {pairwise(theirs, ours, pairs=5)}")

    features = exact.to(getattr(torch, number_format()))
    weights = torch.randn(model.vision_tokenizer(features[:1]).shape)

    def step(module: torch.nn.Module, precision: Precision | None = None) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            module.zero_grad()
            with computing(precision):
                (module(features) * weights).sum().backward()
            return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]

        return run

    def usual_step(precision: Precision | None = None) -> list[Tensor]:
        with usual_layers(F.scaled_dot_product_attention):
            return step(resampler, precision)()

    pairs = zip(usual_step("float32"), step(model.vision_tokenizer, "float32")(), strict=True)
    worst = max(((a - b).norm() / a.norm()).item() for a, b in pairs)
    assert worst < 1e-4, f"a gradient differs by {worst}"
    print(f"equal: gradients of the resampler to {worst:.0e} in float32")
    found = pairwise(usual_step, step(model.vision_tokenizer), pairs=5)
    print(f"{size} {number_format()}, resampler, forward and backward: {found}")


if __name__ == "__main__":
    keep_freed_memory()  # as training does
    main("S" if "S" in sys.argv[1:] else "XS")
