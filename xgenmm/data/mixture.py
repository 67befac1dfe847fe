"""Whose turn it is: the source that is furthest behind its share. Knows sizes and weights, no rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from xgenmm.config import ConfigError, Count, NotNegative, nearest

Unit = Literal["samples", "tokens", "loss_tokens"]
AtEnd = Literal["repeat", "stop", "renormalise"]


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How the sources of a stage share its steps. Without weights, an epoch goes through all rows of all sources."""

    unit: Unit = "samples"
    """What weights are shares of: samples, all tokens (text and vision), or supervised tokens."""
    normalise: bool = False
    """Take weights relative to each other, where they add up to neither 1 nor 100."""
    at_end: AtEnd | None = None
    """When a source with a weight has given all its rows: `repeat` it in another order, `stop` the stage, or let it go
    and `renormalise` the weights of the others until none is left. No default: with weights, this or each source's own
    `at_end` says it."""
    schedule: dict[Count, dict[str, NotNegative]] = field(default_factory=dict)
    """Weights that hold from a step on, {step: {source: weight}}; each names every source, and 0 rests one."""
    mix_shards: Count = 16
    """So many shards of a source are mixed at a time: more mixes better, fewer keep reading in one place."""


class Mixture:
    """A deficit scheduler in whole numbers: the same on every machine, and its state is a few counts.

    When weights change or a source leaves, counting starts anew: shares hold from then on, and what came before is not
    made up for.
    """

    def __init__(
        self,
        config: MixtureConfig,
        names: Sequence[str],
        weights: Sequence[float | None],
        sizes: Sequence[int],
        epochs: float | None = None,
        at_ends: Sequence[AtEnd | None] | None = None,
    ) -> None:
        """Check the settings.

        Args:
            config: The mixture's settings.
            names: Of the sources.
            weights: Of the sources: all have one, or none.
            sizes: Rows of an epoch of each source.
            at_ends: What happens at each source's end, where that is not the mixture's `at_end`.
            epochs: Passes over all sources after which the mixture ends; only without weights. None: no end.

        Raises:
            ConfigError: Only some sources have weights, they are negative or do not add up, or a setting needs weights
                and there are none, or the other way round.
        """
        self._sizes = sizes
        self._weighted = any(weight is not None for weight in weights)
        self._at_ends = [own or config.at_end for own in at_ends or [None] * len(names)]
        if self._weighted:
            self._phases = _phases(config, names, weights)
            if missing := [name for name, at_end in zip(names, self._at_ends, strict=True) if at_end is None]:
                raise ConfigError(
                    f"mixture.at_end is missing: weights do not say what happens when {', '.join(missing)} has given "
                    "all its rows; it can repeat, stop the stage, or leave and renormalise the others' weights"
                )
            if epochs is not None:
                raise ConfigError("with weights, sources have no common epoch; give steps")
        elif config.unit != "samples" or config.normalise or any(self._at_ends) or config.schedule:
            raise ConfigError(
                "mixture: unit, normalise, at_end and schedule are for sources with weights; none has one"
            )
        else:
            self._phases = {0: list(sizes)}
        self.drawn = [0] * len(sizes)
        """Samples drawn from each source."""
        self.endless = self._never_ends if self._weighted else epochs is None
        self.samples = None if epochs is None else math.ceil(epochs * sum(sizes))
        """Samples of the whole mixture, where that can be told beforehand."""
        self._phase = 0
        self._past_targets = [0.0] * len(sizes)
        self._given = 0
        self._gather()

    @property
    def _never_ends(self) -> bool:
        return "stop" not in self._at_ends and "repeat" in self._at_ends

    def begin_step(self, number: int) -> None:
        """Take the weights that hold from this step on."""
        phase = max(start for start in self._phases if start <= number)
        if phase != self._phase:
            self._settle()
            self._phase = phase
            self._gather()

    def pick(self) -> int | None:
        """The source of the next sample, the first of them on a tie. None: this mixture has come to its end."""
        if not self._members or self._total == self.samples:
            return None
        return self._members[self._behind.index(max(self._behind))]

    def count(self, source: int, amount: int) -> None:
        """Note that a sample of that size, in the mixture's unit, came from the source picked last."""
        amount = max(amount, 1)  # a source whose samples count for nothing would be drawn forever
        self.drawn[source] += 1
        self._total += 1
        self._given += amount
        self._behind = [behind + weight * amount for behind, weight in zip(self._behind, self._weights, strict=True)]
        self._behind[self._members.index(source)] -= self._total_weight * amount
        if self.drawn[source] >= self._ends[source]:
            self._settle()
            self._gather()

    def targets(self) -> list[float]:
        """What each source should have given so far, in the mixture's unit."""
        targets = list(self._past_targets)
        for source, weight in zip(self._members, self._weights, strict=True):
            targets[source] += weight * self._given / self._total_weight
        return targets

    def state(self) -> dict[str, Any]:
        """What `restore` takes; plain numbers."""
        return {
            "drawn": list(self.drawn),
            "phase": self._phase,
            "given": self._given,
            "behind": list(self._behind),
            "past_targets": list(self._past_targets),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a mixture with the same settings."""
        self.drawn = list(state["drawn"])
        self._phase = state["phase"]
        self._gather()
        self._given = state["given"]
        self._behind = list(state["behind"])
        self._past_targets = list(state["past_targets"])

    def _gather(self) -> None:
        """Begin to count anew, with the sources that have a weight and rows left."""
        if self._weighted:
            self._ends = [
                math.inf if at_end == "repeat" else size
                for at_end, size in zip(self._at_ends, self._sizes, strict=True)
            ]
        else:
            # all go through their rows equally often, and the first to finish wait for the others
            passes = min(drawn // size for drawn, size in zip(self.drawn, self._sizes, strict=True))
            self._ends = [(passes + 1) * size for size in self._sizes]
        weights = self._phases[self._phase]
        left = [drawn < end for drawn, end in zip(self.drawn, self._ends, strict=True)]
        self._members = [source for source, weight in enumerate(weights) if weight and left[source]]
        if any(at_end == "stop" and not some for at_end, some in zip(self._at_ends, left, strict=True)):
            self._members = []
        self._total = sum(self.drawn)
        self._weights = [weights[source] for source in self._members]
        self._total_weight = sum(self._weights)
        self._given = 0
        self._behind = list(self._weights)
        """How far each is behind its share of what has been given, as if one unit more were due; times total weight."""

    def _settle(self) -> None:
        self._past_targets = self.targets()


def _phases(config: MixtureConfig, names: Sequence[str], weights: Sequence[float | None]) -> dict[int, list[int]]:
    """Whole-numbered weights by the step from which they hold."""
    missing = [name for name, weight in zip(names, weights, strict=True) if weight is None]
    if missing:
        raise ConfigError(
            f"data: either all sources have a weight or none (then sizes count), but without is {', '.join(missing)}"
        )
    phases = {0: _whole(config, "data", [weight for weight in weights if weight is not None])}
    for step, named in config.schedule.items():
        where = f"mixture.schedule.{step}"
        for name in named:
            if name not in names:
                raise ConfigError(f'{where}: there is no source "{name}"; {nearest(name, names)}')
        if missing := [name for name in names if name not in named]:
            raise ConfigError(f"{where}: must name every source (0 rests one), but does not name {', '.join(missing)}")
        phases[step] = _whole(config, where, [named[name] for name in names])
    for number, name in enumerate(names):
        if not any(phase[number] for phase in phases.values()):
            raise ConfigError(f'data: the weight of "{name}" is always 0: leave it out')
    return phases


def _whole(config: MixtureConfig, where: str, weights: Sequence[float]) -> list[int]:
    if min(weights) < 0 or not any(weights) or not all(map(math.isfinite, weights)):
        raise ConfigError(f"{where}: weights must be 0 or more, and not all 0, but are {list(weights)}")
    exact = [Fraction(repr(weight)) for weight in weights]  # 0.1 means a tenth, not the binary fraction nearest to it
    total = sum(exact)
    if not config.normalise and min(abs(total - 1), abs(total / 100 - 1)) > Fraction(1, 10**6):
        raise ConfigError(
            f"{where}: weights add up to {float(total):g}, and not to 1 or 100; "
            "if they are meant relative to each other, say mixture.normalise: true"
        )
    scale = math.lcm(*(weight.denominator for weight in exact))
    return [int(weight * scale) for weight in exact]
