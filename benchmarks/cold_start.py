"""From nothing to the end of the first step, in a new process: import, build, train on one page (P22).

The page has 256 tokens of text and a picture.

python benchmarks/cold_start.py
"""

import os
import subprocess
import sys
from pathlib import Path

from measure import number_format

PROGRAM = """
import sys, time
began = time.process_time()
import measure
import torch
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


def main() -> None:
    times = []
    command, folder = [sys.executable, "-c", PROGRAM, number_format()], Path(__file__).parent
    for _ in range(3):
        done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, check=True)
        times.append([float(word) for word in done.stdout.split()])
    best = min(times, key=sum)
    parts = f"import {best[0]:.1f}, build {best[1]:.1f}, first step {best[2]:.1f}"
    print(
        f"P22 XS, CPU time: {sum(best[:3]):.1f} s to the end of the first step ({parts}); the second: {best[3]:.1f} s"
    )


if __name__ == "__main__":
    main()
