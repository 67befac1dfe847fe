"""From nothing to the end of the first step, in a new process: import, build, train on one page (P22).

The page has 256 tokens of text and a picture. Beside it, on the same machine: how long transformers' Idefics2 of the
same size takes until it is built, without a step.

python benchmarks/cold_start.py
"""

import subprocess
import sys
from pathlib import Path

from measure import number_format

OURS = """
import sys, time
began = time.process_time()
import xgenmm.model.vlm  # first, as in `xgenmm train`: it brings torch and transformers
from workloads import our_step, page, trainable
imported = time.process_time()
model = trainable("XS")
step = our_step(model, [page(model.config.image_token_id, 256, [(0, 0)])], sys.argv[1])
built = time.process_time()
step()
first = time.process_time()
step()
print(imported - began, built - imported, first - built, time.process_time() - first)
"""
PEER = """
import time
began = time.process_time()
import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration
imported = time.process_time()
from idefics2 import build_peer
from workloads import trainable
ours = trainable("XS")
ready = time.process_time()
build_peer(ours)
print(imported - began, time.process_time() - ready)
"""


def main() -> None:
    turns = [(seconds_of(OURS, number_format()), seconds_of(PEER)) for _ in range(3)]
    ours, peer = (min(column, key=lambda parts: sum(parts[:3])) for column in zip(*turns, strict=True))
    parts = f"import {ours[0]:.1f}, build {ours[1]:.1f}, first step {ours[2]:.1f}"
    print(
        f"P22 XS, CPU time: {sum(ours[:3]):.1f} s to the end of the first step ({parts}); the second: {ours[3]:.1f} s"
    )
    print(f"transformers' Idefics2: {sum(peer):.1f} s until it is built (import {peer[0]:.1f}, build {peer[1]:.1f})")


def seconds_of(program: str, *arguments: str) -> list[float]:
    """What it prints, run in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True, text=True)
    return [float(word) for word in done.stdout.split()]


if __name__ == "__main__":
    main()
