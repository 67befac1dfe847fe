"""Few-shot prompts whose demonstrations are read once, against prompts that are read whole each time (P13).

Sixteen questions behind the same 4 or 8 demonstrations, each a picture of one tile and a few words; ten new tokens,
eight questions at a time. The peer is transformers' own generation on left-padded whole prompts; both in the machine's
number format, after the answers were compared in float32. `python benchmarks/fewshot.py`; with `--beams 3` both
generate as OpenFlamingo does. Exit code 1 if a bar is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import measure  # noqa: F401  (sets the number of threads, before torch)
import torch
from prompts import Models, Numbers, by_transformers, chunk, prompt

from xgenmm.inference.generate import continuations
from xgenmm.inference.reading import Reader
from xgenmm.inference.sampling import GenerationConfig

QUERIES, BATCH, ROUNDS = 16, 8, 2
BARS = {4: (1.6, 2.6), 8: (1.6, 4.0)}
"""By shots: ratios to reach with pictures encoded once, and with demonstrations read once."""


class Task:
    """The questions behind so many demonstrations, asked in three ways."""

    def __init__(self, models: Models, shots: int, config: GenerationConfig) -> None:
        model = models.ours
        self.models, self.config, self.processor = models, config, Numbers(model)
        shown = [chunk(model, 12 + seed % 8, seed) for seed in range(shots)]
        asked = [chunk(model, 12 + seed % 8, 100 + seed) for seed in range(QUERIES)]
        self.demonstrations = prompt(model, shown)
        self.rests = [prompt(model, [one]) for one in asked]
        self.wholes = [prompt(model, [*shown, one]) for one in asked]

    def peer(self) -> list[str]:
        answers = by_transformers(self.models.peer, self.wholes, self.config, BATCH)
        return [self.processor.decode(ids) for ids in answers]

    def pictures_once(self) -> list[str]:
        """What demonstrations drawn anew for each question allow, too, once most have been drawn before."""
        return self._ours(Reader(self.models.ours), self.wholes)

    def beginning_once(self) -> list[str]:
        return self._ours(Reader(self.models.ours, beginning=self.demonstrations), self.rests)

    def _ours(self, reader: Reader, prompts: list) -> list[str]:
        found = continuations(reader, self.processor, prompts, self.config, batch_size=BATCH)
        return [text for _, text in sorted(found)]


def seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--size", default="XS", choices=("S", "XS"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = GenerationConfig(max_new_tokens=10, num_beams=options.beams, length_penalty=0.0)
    models = Models(options.size)
    check = Task(models, 4, config)
    expected = check.peer()
    assert check.pictures_once() == expected, "other answers with pictures encoded once"
    assert check.beginning_once() == expected, "other answers with demonstrations read once"
    print(f"{QUERIES} answers, {len(set(expected))} of them different, equal in all three ways (float32)")
    models.convert()
    missed = 0
    for shots, bars in BARS.items():
        task = Task(models, shots, config)
        calls = (task.peer, task.pictures_once, task.beginning_once)
        times = [[seconds(call) for call in calls] for _ in range(ROUNDS)]
        for place, (name, bar) in enumerate(zip(("pictures encoded", "demonstrations read"), bars, strict=True), 1):
            ratio = statistics.median(one[0] / one[place] for one in times)
            missed += ratio < bar
            peer, ours = (statistics.median(one[at] for one in times) for at in (0, place))
            print(f"{shots} shots, {name} once: peer {peer:.2f} s, ours {ours:.2f} s CPU: {ratio:.2f}x (bar {bar}x)")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
