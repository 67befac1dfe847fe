"""How long a processor takes for a step, from the speed of its matrix products."""

from collections.abc import Mapping

from xgenmm.costs.flops import Flops
from xgenmm.costs.shapes import Amount

REACHED: Mapping[str, float] = {"bfloat16": 0.5, "float32": 0.73}
"""Share of the fastest matrix product's speed that a packed step of a small model reaches on a CPU, by format. The
faster products are, the more of a step is everything else: norms, activations, softmax, copies. `python
benchmarks/plan.py time` compares with steps of several sizes and lengths."""


def step_seconds(flops: Flops, peak: Amount, precision: str) -> Amount:
    """Seconds of one process.

    Args:
        flops: Of the step.
        peak: FLOP/s of a large matrix product in the same format, on the same cores.
        precision: `bfloat16` or `float32`.
    """
    return flops.sum.total / (peak * REACHED[precision])
