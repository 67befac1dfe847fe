"""Memory of a training step on packed rows against padded rows, a mask and all logits (P6), and its growth (P7).

python benchmarks/model_memory.py
"""

from collections.abc import Callable
from functools import partial

import torch
from measure import number_format, peak_memory_mb  # first: it sets the number of threads
from workloads import PADDED, check_equal, interleaved, our_step, padded_step, page, trainable

from xgenmm.types import Example


def pages(make: Callable[..., Callable[[], float]]) -> Callable[[], float]:
    """For the process whose memory is measured: a step on eight pages."""
    torch.set_num_threads(1)
    model = trainable("XS")
    return make(model, interleaved(model.config.image_token_id))


def text(image_token: int, length: int) -> list[Example]:
    """One, without pictures."""
    return [page(image_token, length, [])]


def one_text(make: Callable[..., Callable[[], float]], length: int) -> Callable[[], float]:
    """For the process whose memory is measured: a step on one text, of the larger model."""
    torch.set_num_threads(1)
    model = trainable("S")
    return make(model, text(model.config.image_token_id, length))


def growth(make: Callable[..., Callable[[], float]]) -> float:
    """MB for each token more."""
    few, many = (peak_memory_mb(partial(one_text, make, length)) for length in (512, 2048))
    return (many - few) / 1536


def main() -> None:
    ours = peak_memory_mb(partial(pages, our_step))
    for like_xgenmm, padded in PADDED.items():
        check_equal("XS", interleaved, like_xgenmm=like_xgenmm)
        peak = peak_memory_mb(partial(pages, partial(padded_step, like_xgenmm=like_xgenmm)))
        ratio = f"{padded} {peak:,.0f} MB, ours {ours:,.0f}: {peak / ours:.1f}x less"
        print(f"P6 XS {number_format()}, step on pages: {ratio}")
    check_equal("XS", partial(text, length=512))
    mine = growth(our_step)
    usual = growth(padded_step)
    print(
        f"P7 S {number_format()}, one text of 512 and of 2,048 tokens: {mine:.3f} MB a token more, "
        f"{mine / usual:.2f} of the {usual:.3f} of the same row with a mask and all logits"
    )


if __name__ == "__main__":
    main()
