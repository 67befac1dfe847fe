"""What `xgenmm plan` says of a step, against the step: operations, largest memory, time from the local peak (P20).

python benchmarks/plan.py [operations | memory | time]
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence

import torch
from flop_counting import flop_counter
from measure import cpu_seconds, number_format, peak_memory_mb  # first of ours: it sets the number of threads
from workloads import any_resolution, interleaved, our_step, page, trainable

from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained, Work, causal_pairs, step_flops
from xgenmm.costs.memory import step_memory
from xgenmm.costs.shapes import ModelShape
from xgenmm.costs.sharding import Mesh, ParallelConfig
from xgenmm.costs.speed import step_seconds
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.objectives.next_token import next_token
from xgenmm.processor.packing import pack
from xgenmm.training.precision import Precision
from xgenmm.types import IGNORE_INDEX, Example

TOLERABLE = {"operations": 0.001, "memory": 0.15, "time": 0.25}


def operations() -> list[float]:
    """A packed row against torch's own counter, with attention's calls counted by their shapes."""
    model = trainable("XS")
    errors = []
    for name, examples in (("pages", interleaved(image(model))), ("questions", any_resolution(image(model)))):
        with flop_counter() as counter:
            next_token(model, pack(examples, pad_id=0)).loss.backward()
        foretold, counted = (
            step_flops(shape_of(model), work_of(examples), Trained()).sum.total,
            counter.get_total_flops(),
        )
        errors.append(foretold / counted - 1)
        print(
            f"operations, {name}: foretold {foretold / 1e9:,.3f} GFLOP, counted {counted / 1e9:,.3f}: {errors[-1]:+.4%}"
        )
    return errors


def memory() -> list[float]:
    """The largest growth of a process while it makes gradients."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = (
        "65536"  # the C library keeps no pools of freed memory, so the peak is torch's
    )
    errors = []
    for size, precision in with_bfloat16(("XS", "float32"), ("XS", "bfloat16"), ("S", "float32")):
        model = trainable(size)
        examples = short_pages(image(model))
        every = step_memory(
            shape_of(model),
            Trained(),
            work_of(examples),
            parallel=ParallelConfig(),
            mesh=Mesh(replicas=1, shards=1),
            precision=precision,
            several=False,
            cpu=True,
        )
        foretold = (every.sum - every.weights - every.optimizer) / 1e6
        measured = peak_memory_mb(functools.partial(prepare, size, precision))
        errors.append(foretold / measured - 1)
        print(f"memory, {size} {precision}: foretold {foretold:,.0f} MB, measured {measured:,.0f}: {errors[-1]:+.1%}")
    return errors


def time() -> list[float]:
    """CPU time of a step, from the fastest matrix product in the same format."""
    errors = []
    for size, precision in with_bfloat16(("XS", "bfloat16"), ("XS", "float32"), ("S", "bfloat16")):
        model = trainable(size)
        cases = {"pages": short_pages(image(model)), "a long page": [page(image(model), 2048, [(0, 0)])]}
        for name, examples in cases.items():
            peak, step = matmul_peak(precision), our_step(model, examples, precision)
            step()
            flops = step_flops(shape_of(model), work_of(examples), Trained())
            foretold, measured = step_seconds(flops, peak, precision), cpu_seconds(step)
            errors.append(foretold / measured - 1)
            print(
                f"time, {size} {precision}, {name}: foretold {foretold:.2f} s of a core at {peak / 1e9:.0f} GFLOP/s, "
                f"measured {measured:.2f}: {errors[-1]:+.0%}"
            )
    return errors


def short_pages(image_token: int) -> list[Example]:
    """1,888 tokens in four documents, 8 tiles."""
    lengths = ((64, 1), (256, 2), (384, 3), (160, 2))
    return [page(image_token, text, [(0, 0)] * pictures, seed=text) for text, pictures in lengths]


def prepare(size: str, precision: Precision) -> Callable[[], float]:
    """In a process of its own: a model that has made one small step."""
    model = trainable(size)
    our_step(model, [page(image(model), 64, [(0, 0)])], precision)()
    model.zero_grad()
    return our_step(model, short_pages(image(model)), precision)


def image(model: XGenMMForConditionalGeneration) -> int:
    return model.config.image_token_id


def shape_of(model: XGenMMForConditionalGeneration) -> ModelShape:
    config = model.config
    resampler = dataclasses.asdict(config.resampler_config)
    return model_shape(config.vision_config.to_dict(), config.text_config.to_dict(), resampler)


def work_of(examples: Sequence[Example]) -> Work:
    lengths = [len(one.input_ids) for one in examples]
    return Work(
        tiles=sum(len(one.pixel_values) for one in examples),
        tokens=sum(lengths),
        pairs=causal_pairs(lengths),
        targets=sum(int((one.labels != IGNORE_INDEX).sum()) for one in examples),
    )


def with_bfloat16(*cases: tuple[str, Precision]) -> list[tuple[str, Precision]]:
    """Sizes and number formats, without those that take this machine a hundred times as long."""
    return [case for case in cases if case[1] in ("float32", number_format())]


def matmul_peak(precision: Precision) -> float:
    """FLOP/s of a matrix product of comfortable size, on one thread."""
    dtype = getattr(torch, precision)
    inputs, weight = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = min(cpu_seconds(lambda: torch.nn.functional.linear(inputs, weight)) for _ in range(10))
    return 2 * 2048 * 1024 * 1024 / best


CASES = {"operations": operations, "memory": memory, "time": time}

if __name__ == "__main__":
    missed = False
    for name in [argument for argument in sys.argv[1:] if argument in CASES] or list(CASES):
        worst = max(map(abs, CASES[name]()))
        missed |= worst > TOLERABLE[name]
        print(f"P20 {name}: off by at most {worst:.2%} (bar: {TOLERABLE[name]:.1%})\n")
    sys.exit(missed)
