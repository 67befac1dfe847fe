"""What it costs to tell a step's numbers: the clock, counting, records, their files. Must be below 1 % of a step.

python benchmarks/telling.py
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from measure import computing, cpu_seconds, number_format  # first: it sets the number of threads
from workloads import interleaved, trainable

from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained
from xgenmm.data.loader import Step
from xgenmm.objectives.next_token import next_token
from xgenmm.phases import Clock, phase
from xgenmm.processor.packing import pack
from xgenmm.training.effort import Effort
from xgenmm.training.metrics import Speed, StepRecord
from xgenmm.training.records import open_records
from xgenmm.training.sums import Sums, add_up

TIMES = 300


def main() -> None:
    model = trainable("XS")
    batch = pack(interleaved(model.config.image_token_id), pad_id=0)
    step = Step(number=0, batches=(batch,), sources={}, faults=(), wait=0.0, tallies={}, plan={})
    clock = Clock(torch.device("cpu"))

    def train() -> None:
        with clock.step(0.0):
            with phase("lm_forward"), computing():
                output = next_token(model, batch)
            with phase("backward"):
                output.loss.backward()

    train()
    one = cpu_seconds(train)
    print(f"a training step of {len(batch.input_ids):,} tokens (XS, {number_format()}): {one:.2f} s of a core")
    spent = sum(clock.phases.values())
    assert abs(spent - clock.seconds) < 0.01 * clock.seconds, "the phases do not add up to the step"
    print(f"its phases add up to {spent / clock.seconds:.2%} of it")

    config = model.config
    shape = model_shape(
        config.vision_config.to_dict(), config.text_config.to_dict(), dataclasses.asdict(config.resampler_config)
    )
    effort = Effort(shape=shape, trained=Trained(), peak=1e12)
    work = add_up(step, Sums()).work
    with tempfile.TemporaryDirectory() as folder:
        records, numbers = open_records(Path(folder), "numbers", 0, 10**9, ()), count()
        parts = {
            "clock (20 phases)": each(lambda: tick(clock)),
            "what went through the model": each(lambda: add_up(step, Sums())),
            "utilisation": each(lambda: effort.utilisation(work, 1.0)),
            "record, JSON lines, TensorBoard, line": each(
                lambda: records.write(record(next(numbers), clock, effort, work), ())
            ),
        }
        began = time.process_time()
        records.close()
        page = time.process_time() - began
    for name, seconds in parts.items():
        print(f"{name:40} {1000 * seconds:7.3f} ms {seconds / one:8.3%} of the step")
    share = sum(parts.values()) / one
    print(f"{'together':40} {1000 * sum(parts.values()):7.3f} ms {share:8.3%}")
    print(f"the page of {TIMES} steps: {page:.2f} s, once a minute at most, and seldom enough to cost less than 0.5 %")
    assert share < 0.01, "telling numbers costs more than 1 % of a step"


def each(call: Callable[[], Any]) -> float:
    """CPU seconds of one of many calls."""
    began = time.process_time()
    for _ in range(TIMES):
        call()
    return (time.process_time() - began) / TIMES


def tick(clock: Clock) -> None:
    with clock.step(0.0):
        for _ in range(20):
            with phase("lm_forward"):
                pass


def record(number: int, clock: Clock, effort: Effort, work: Any) -> StepRecord:
    speed = Speed(
        seconds=1.0,
        phases=clock.phases,
        tokens_per_second=1.0,
        text_tokens_per_second=1.0,
        vision_tokens_per_second=1.0,
        supervised_tokens_per_second=1.0,
        samples_per_second=1.0,
        wait_share=0.0,
        utilisation=effort.utilisation(work, 1.0),
        memory_mb=1.0,
        save_seconds=0.0,
    )
    return StepRecord(
        step=number,
        loss=1.0,
        lr={"resampler": 1.0, "language": 1.0},
        grad_norm=1.0,
        samples=1,
        dropped=0,
        tokens=1,
        vision_tokens=1,
        supervised_tokens=1,
        fill=1.0,
        targets=1,
        source_loss={f"source {number}": 1.0 for number in range(8)},
        figures={},
        incident=None,
        speed=speed,
    )


if __name__ == "__main__":
    main()
