"""What some steps of a stage took on this machine, beside what was foretold of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xgenmm.budget.text import table


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One stage on one process of this machine."""

    name: str
    precision: str
    tokens: float
    """Of a step, as all that follows: the mean of those that count."""
    seconds: float
    """The median; without waiting for data."""
    foretold_seconds: float
    """What the machine's peak makes expect: on a GPU with the recipe's `plan.mfu`, on a CPU as `costs.speed` says."""
    phases: Mapping[str, float]
    """Where it went, as means."""
    flops: float
    """Made, those that are made twice included, by arithmetic."""
    peak: float
    """FLOP/s that a large matrix product reaches here."""
    memory: float
    """Bytes by which the process grew at most, model and optimizer included."""
    foretold_memory: float
    """What `costs.memory` says of it."""

    @property
    def utilisation(self) -> float:
        """Share of the peak that was reached."""
        return self.flops / self.seconds / self.peak


def measured_text(stages: Sequence[Measured]) -> str:
    """What was measured on this machine, beside what was foretold of the same steps."""
    title = "Measured on this machine, one process"
    body = []
    for stage in stages:
        body.append(
            (
                stage.name,
                stage.precision,
                f"{stage.tokens:,.0f}",
                f"{stage.flops / 1e9:,.1f}",
                f"{stage.peak / 1e9:,.0f}",
                f"{stage.foretold_seconds:.3f}",
                f"{stage.seconds:.3f}",
                f"{stage.utilisation:.0%}",
                f"{stage.foretold_memory / 1e6:,.0f}",
                f"{stage.memory / 1e6:,.0f}",
            )
        )
    head = ("stage", "computes in", "tokens a step", "GFLOP", "peak GFLOP/s", "s foretold", "s measured")
    lines = [title, "=" * len(title), "", *table((*head, "of the peak", "MB foretold", "MB measured"), body), ""]
    for stage in stages:
        whole = sum(stage.phases.values())
        shares = (f"{name.replace('_', ' ')} {value / whole:.0%}" for name, value in stage.phases.items() if value)
        lines.append(f"{stage.name}: {', '.join(shares)}.")
    return "\n".join(lines)
