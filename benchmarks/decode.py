"""Writing answers: against transformers' own generation, with a padded cache and batches that wait for their longest.

One picture and 128 tokens; 8 prompts of unequal length; 8 long ones of 1 to 5 tiles (P11). 16 answers of 8 to 128
tokens, which leave when they are done and make room for others, against batches of 8 (P12). Both in the machine's
number format, after the answers were compared in float32. Then one linear layer of Phi-3 mini with as many rows as
there are answers in a batch, against torch's. `python benchmarks/decode.py`. Exit code 1 if a bar is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import measure  # first: it sets the number of threads
import torch
from prompts import Models, Numbers, by_transformers, chunk, prompt
from torch import nn

from xgenmm.inference.decoding import Decoder, Request
from xgenmm.inference.reading import Reader
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.onednn import use_ordered_weights
from xgenmm.types import Example

ROUNDS = 2
BATCH = 8


class Task:
    """Prompts, and how long each answer is."""

    def __init__(self, models: Models, prompts: list[Example], lengths: list[int]) -> None:
        self.models, self.prompts, self.lengths = models, prompts, lengths

    def peer(self) -> list[list[int]]:
        """Batches in which all rows are written to the longest one's end."""
        answers = []
        for start in range(0, len(self.prompts), BATCH):
            lengths = self.lengths[start : start + BATCH]
            config = GenerationConfig(max_new_tokens=max(lengths))
            rows = by_transformers(self.models.peer, self.prompts[start : start + BATCH], config, BATCH)
            answers += [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return answers

    def ours(self) -> list[list[int]]:
        decoder = Decoder(Reader(self.models.ours), Numbers(self.models.ours))
        waiting = [
            Request(prompt=one, config=GenerationConfig(max_new_tokens=length))
            for one, length in zip(self.prompts, self.lengths, strict=True)
        ]
        answers = []
        while waiting or decoder.writing:
            free = BATCH - len(decoder.writing)
            if waiting and free:
                answers += decoder.admit(waiting[:free])
                waiting = waiting[free:]
            else:
                decoder.step()
        return [answer.ids for answer in answers]


def tasks(models: Models) -> dict[str, tuple[Task, float]]:
    """By name, with the ratio to reach."""
    model = models.ours
    unequal = (8, 16, 24, 40, 64, 96, 160, 256)
    spread = [8, 16, 24, 32, 48, 64, 96, 128] * 2
    spread[8:] = spread[:7:-1]
    return {
        "1 picture, 128 tokens": (Task(models, [prompt(model, [chunk(model, 20, 0)])], [128]), 1.10),
        "8 unequal prompts, 32 tokens": (
            Task(models, [prompt(model, [chunk(model, words, words)]) for words in unequal], [32] * 8),
            1.20,
        ),
        "8 prompts of 1 to 5 tiles, 32 tokens": (
            Task(models, [prompt(model, [chunk(model, 200, tiles, tiles)]) for tiles in (1, 3, 4, 5) * 2], [32] * 8),
            1.30,
        ),
        "16 answers of 8 to 128 tokens": (
            Task(models, [prompt(model, [chunk(model, 20, seed)]) for seed in range(16)], spread),
            2.0,
        ),
    }


def seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="XS", choices=("S", "XS"))
    torch.set_num_threads(1)
    models = Models(parser.parse_args().size)
    for name, (task, _) in tasks(models).items():
        assert task.peer() == task.ours(), f"{name}: other answers"
    print("all answers equal (float32)")
    models.convert()
    missed = 0
    for name, (task, bar) in tasks(models).items():
        pairs = [(seconds(task.peer), seconds(task.ours)) for _ in range(ROUNDS)]
        ratio = statistics.median(peer / ours for peer, ours in pairs)
        missed += ratio < bar
        peer, ours = (statistics.median(one[at] for one in pairs) for at in (0, 1))
        print(f"{name}: peer {peer:.2f} s, ours {ours:.2f} s CPU: {ratio:.2f}x (bar {bar}x)")
    print(f"a layer of 3,072 to 9,216 numbers, {BATCH} rows, {measure.number_format()}: {one_layer()}")
    return int(missed > 0)


@torch.inference_mode()
def one_layer() -> measure.Ratio:
    """Ten products as torch makes them, and with the weight in the order in which it is read."""
    dtype = getattr(torch, measure.number_format())
    with torch.inference_mode(False):
        usual, ordered = (nn.Linear(3072, 9216, bias=False, dtype=dtype) for _ in range(2))
        ordered.load_state_dict(usual.state_dict())
    use_ordered_weights(ordered)
    inputs = torch.randn(BATCH, 3072).to(dtype)
    torch.testing.assert_close(ordered(inputs), usual(inputs))

    def ten_products(module: nn.Module) -> None:
        for _ in range(10):
            module(inputs)

    return measure.pairwise(partial(ten_products, usual), partial(ten_products, ordered), pairs=5)


if __name__ == "__main__":
    sys.exit(main())
