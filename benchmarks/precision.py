"""Number formats on this machine: speed and error of matrix products, and what `precision: auto` takes (P19).

python benchmarks/precision.py
"""

import time

import measure  # first: it sets the number of threads
import torch

from xgenmm.training.precision import multiplying, probe

ROWS, INNER, OUTER = 2048, 1024, 1024
TOLERABLE = 1e-5


def main() -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(ROWS, INNER), torch.randn(OUTER, INNER)
    rounded = inputs.bfloat16(), weight.bfloat16()
    exact = inputs.double() @ weight.double().mT

    def default() -> torch.Tensor:
        return torch.nn.functional.linear(inputs, weight)

    def other() -> torch.Tensor:
        with multiplying("medium"):
            return torch.nn.functional.linear(inputs, weight)

    def bfloat16() -> torch.Tensor:
        return torch.nn.functional.linear(*rounded)

    work = 2 * ROWS * INNER * OUTER / 1e9
    for name, product in (("float32, torch's default", default), ("float32, oneDNN", other), ("bfloat16", bfloat16)):
        worst = ((product() - exact).abs().max() / exact.abs().max()).item()
        print(
            f"{name}: {work / measure.best_cpu_seconds(product):.0f} GFLOP/s, largest error {worst:.1e} of the largest"
        )
        if product is other and worst > TOLERABLE:
            print("  which is not float32: not taken")
    print(f"P19 float32 product: {measure.pairwise(default, other, pairs=9)}")
    began = time.perf_counter()
    found = probe(torch.device("cpu"))
    print(
        f"P19 the probe at the start of a run, {time.perf_counter() - began:.1f} s: bfloat16 {found.speed_up:.1f}x, "
        f"error {found.error:.1e}; float32 by oneDNN {found.float32_speed_up:.1f}x, error {found.float32_error:.1e}; "
        f'taken: {found.choice}, and for float32 "{found.float32}"'
    )


if __name__ == "__main__":
    main()
