"""A training step on packed rows against the same model with padded rows, a mask and all logits (P1, P2, P4, P5, P21).

python benchmarks/model_step.py [mixed | any_resolution | alone | growth] [S]
"""

import dataclasses
import sys

import torch
from measure import best_cpu_seconds, number_format, pairwise  # first: it sets the number of threads
from workloads import PADDED, any_resolution, check_equal, interleaved, our_step, padded_step, page, trainable

from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained, Work, causal_pairs, step_flops
from xgenmm.data.memory import keep_freed_memory
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.types import IGNORE_INDEX, Example


def mixed(size: str) -> None:
    """P1, P5: eight pages of 192 to 1,664 tokens, all text supervised."""
    model = trainable(size)
    examples = interleaved(model.config.image_token_id)
    ours = our_step(model, examples)
    describe(examples)
    for like_xgenmm, padded in PADDED.items():
        check_equal("XS", interleaved, like_xgenmm=like_xgenmm)
        found = pairwise(padded_step(trainable(size), examples, like_xgenmm=like_xgenmm), ours, pairs=4)
        print(f"P1 {size} {number_format()}, step on pages, {padded}: {found}")
    useful, peak = useful_flops(model, examples), matmul_peak()
    speed = useful / found.ours
    print(
        f"P5 {size}: {useful / 1e9:.0f} useful GFLOP in {found.ours:.2f} s are {speed / 1e9:.0f} GFLOP/s, "
        f"{speed / peak:.0%} of the {peak / 1e9:.0f} that a matrix product reaches here"
    )


def any_resolution_step(size: str) -> None:
    """P2: eight questions about a picture of 1 to 5 tiles, the last 30 % of the text supervised."""
    model = trainable(size)
    examples = any_resolution(model.config.image_token_id)
    describe(examples)
    ours = our_step(model, examples)
    for like_xgenmm, padded in PADDED.items():
        check_equal("XS", any_resolution, like_xgenmm=like_xgenmm)
        found = pairwise(padded_step(trainable(size), examples, like_xgenmm=like_xgenmm), ours, pairs=3)
        print(f"P2 {size} {number_format()}, step on any-resolution questions, {padded}: {found}")


def alone(size: str) -> None:
    """P4: one page, nothing to pad."""
    model = trainable(size)
    for text, pictures in ((1024, 1), (256, 8)):
        examples = [page(model.config.image_token_id, text, [(0, 0)] * pictures)]
        found = pairwise(padded_step(trainable(size), examples), our_step(model, examples), pairs=9)
        print(f"P4 {size} {number_format()}, one page of {text} tokens of text and {pictures} pictures: {found}")


def growth(size: str) -> None:
    """P21: twice the documents, and one document twice as long."""
    model = trainable(size)
    once = [page(model.config.image_token_id, text, [(0, 0)], seed=text) for text in (200, 300, 400, 500)]
    longer = [*once[:3], page(model.config.image_token_id, 1000, [(0, 0)], seed=1)]
    for name, more in (("twice the documents", once * 2), ("one of four twice as long", longer)):
        found = pairwise(our_step(model, more), our_step(model, once), pairs=3)
        flops = useful_flops(model, more) / useful_flops(model, once)
        print(f"P21 {size}, {name}: {flops:.2f}x the useful FLOPs, {found.cpu:.2f}x the time: {found.cpu / flops:.2f}")


def describe(examples: list[Example]) -> None:
    lengths = [len(one.input_ids) for one in examples]
    padded = len(lengths) * max(lengths)
    supervised = sum(int((one.labels != IGNORE_INDEX).sum()) for one in examples)
    tiles = sum(len(one.pixel_values) for one in examples)
    print(
        f"{len(examples)} documents, {tiles} tiles, {sum(lengths):,} tokens ({supervised:,} supervised); padded "
        f"{padded:,}, {1 - sum(lengths) / padded:.0%} of them nothing"
    )


def useful_flops(model: XGenMMForConditionalGeneration, examples: list[Example]) -> float:
    """What a step needs: no padding, causal attention counted half, logits at supervised positions."""
    lengths = [len(one.input_ids) for one in examples]
    work = Work(
        tiles=sum(len(one.pixel_values) for one in examples),
        tokens=sum(lengths),
        pairs=causal_pairs(lengths),
        targets=sum(int((one.labels != IGNORE_INDEX).sum()) for one in examples),
    )
    config = model.config
    shape = model_shape(
        config.vision_config.to_dict(), config.text_config.to_dict(), dataclasses.asdict(config.resampler_config)
    )
    return float(step_flops(shape, work, Trained(vision=False, resampler=True, language=True)).sum.useful)


def matmul_peak() -> float:
    """FLOP/s of a matrix product of comfortable size, in the machine's number format, on one thread."""
    dtype = getattr(torch, number_format())
    inputs, weight = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = best_cpu_seconds(lambda: torch.nn.functional.linear(inputs, weight), runs=60)
    return 2 * 2048 * 1024 * 1024 / best


CASES = {"mixed": mixed, "any_resolution": any_resolution_step, "alone": alone, "growth": growth}

if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    arguments = sys.argv[1:]
    size = "S" if "S" in arguments else "XS"
    for name in [argument for argument in arguments if argument in CASES] or list(CASES):
        CASES[name](size)
