"""Which documents of which samples make up step N, before a byte of them is read. Knows lengths, and no files or ranks.

A plan is a pure function of settings, seed and the sources' lengths: not of ranks, threads, speed or restarts. What a
planner has to remember between two steps is a few counts and the rows that are not full yet.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from xgenmm.config import ConfigError, Count, Share, encode
from xgenmm.data.draws import Draw, Draws
from xgenmm.data.lengths import SourceLengths
from xgenmm.data.mixture import AtEnd, Mixture, MixtureConfig
from xgenmm.data.packing_plan import Item, Packer, pack_step, row_of
from xgenmm.data.plan import Row, Slot, StepPlan
from xgenmm.data.plan_statistics import PlanStatistics, RowCounts, SourceCounts, SourceStatistics, shares

PLAN_VERSION = 1
"""Raised with every change that plans other steps from the same settings; a test keeps a plan to compare with."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What one optimizer step sees, and how it is cut for the machine. Give `size` or `rows`."""

    size: Count | None = None
    """Samples (pairs, for a preference objective) of one optimizer step, packed among themselves."""
    rows: Count | None = None
    """Packed rows of one optimizer step, however many samples that is; documents wait until they fill a row."""
    tokens: Count | None = None
    """Positions of a row, text and vision; by default the processor's `max_tokens`."""
    tiles: Count | None = None
    """Most tiles of a row; by default no limit."""
    micro: Count = 1
    """Rows of one forward pass. Changes memory and speed, not the result."""
    max_bad: Share = 0.05
    """Share of unusable documents of one source above which the run stops."""
    warn_bad: Share = 0.001
    """Share above which it warns."""

    def __post_init__(self) -> None:
        if (self.size is None) == (self.rows is None):
            raise ConfigError("batch: give either size (samples of a step) or rows (packed rows of a step)")


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """One data set as the planner sees it."""

    lengths: SourceLengths
    weight: float | None = None
    samples: int | None = None
    """Take so many rows, drawn once, in place of all; more than there are repeats rows."""
    at_end: AtEnd | None = None
    """Where it is not the mixture's."""


class Planner(Iterator[StepPlan]):
    """The steps 0, 1, 2, … of a stage, in order; `state` and `restore` go to any step that was once reached.

    With `batch.rows`, a sample that is drawn for one step may come in a later one, when its row is full; when the
    mixture ends, rows leave as they are and the last step may be smaller. With `batch.size`, a step holds exactly so
    many samples, and only the last one of a mixture that ends may hold fewer. All pieces of a sample enter one after
    another.
    """

    def __init__(
        self,
        sources: Sequence[MixtureSource],
        mixture: MixtureConfig,
        batch: BatchConfig,
        *,
        seed: int,
        max_tokens: int,
        tokens_per_tile: int,
        epochs: float | None = None,
    ) -> None:
        """Stand before step 0.

        Args:
            sources: The mixture.
            mixture: How it is mixed.
            batch: What a step holds; `micro`, `max_bad` and `warn_bad` have no part in a plan.
            seed: Of order, choice and subsets.
            max_tokens: Positions of a row where `batch.tokens` says nothing.
            tokens_per_tile: Vision tokens of a tile, to tell text from vision in the statistics.
            epochs: Passes over all sources after which the plan ends; only without weights. None: no end.

        Raises:
            ConfigError: Settings contradict each other, or a document is larger than a row.
        """
        self._names = [source.lengths.name for source in sources]
        if not sources or len(set(self._names)) < len(sources):
            raise ConfigError(f"data: needs at least one source, and each its own name, but has {self._names}")
        self._batch = batch
        self._tokens = batch.tokens or max_tokens
        self._tiles = batch.tiles or 2**31
        for source in sources:
            _check_source(source, self._tokens, self._tiles)
        self._settings = _settings(
            sources, mixture, seed=seed, epochs=epochs, batch=(batch.size, batch.rows, self._tokens, batch.tiles)
        )
        self._tokens_per_tile = tokens_per_tile
        self._draws = [
            Draws(source.lengths, source.samples, seed=seed, mix_shards=mixture.mix_shards) for source in sources
        ]
        sizes = [draws.size for draws in self._draws]
        weights, at_ends = [source.weight for source in sources], [source.at_end for source in sources]
        self._mixture = Mixture(mixture, self._names, weights, sizes, epochs, at_ends)
        self._unit = mixture.unit
        self._packer = Packer(self._tokens, self._tiles)
        self._full: deque[list[Item]] = deque()
        self._counts = [SourceCounts() for _ in sources]
        self._rows = RowCounts()
        self.number = 0
        """The step that comes next."""
        self.digest = ""
        """Of all steps so far: equal digests are equal plans."""

    def __next__(self) -> StepPlan:
        """The next step; StopIteration when the mixture has ended."""
        self._mixture.begin_step(self.number)
        rows = tuple(map(row_of, self._fill_rows(self._batch.rows) if self._batch.rows else self._pack_samples()))
        if not rows:
            raise StopIteration
        for row in rows:
            self._rows.add(row, self._tokens, self._tiles)
        self.digest = _chain(self.digest, rows)
        self.number += 1
        return StepPlan(number=self.number - 1, rows=rows)

    def replay(self, to_step: int) -> None:
        """Plan all steps before this one: the way to it without a state.

        Raises:
            ConfigError: The plan ends before, or is past that step already.
        """
        if to_step < self.number:
            raise ConfigError(f"the plan stands before step {self.number} and cannot go back to {to_step}")
        while self.number < to_step:
            if next(self, None) is None:
                raise ConfigError(f"the plan ends after {self.number} steps: it has no step {to_step}")

    def count_steps(self) -> int:
        """Steps of the whole plan. It has to be planned for that, unless it is epochs of a fixed number of samples.

        Raises:
            ConfigError: The plan never ends.
        """
        if self._mixture.endless:
            raise ConfigError("this mixture never ends: give the number of steps")
        if self._batch.size and self._mixture.samples:
            return -(-self._mixture.samples // self._batch.size)
        before = self.state()
        for _ in self:
            pass
        steps = self.number
        self.restore(before)
        return steps

    def statistics(self) -> PlanStatistics:
        """Counts of everything so far."""
        targets = self._mixture.targets()
        sources = {
            name: SourceStatistics(
                counts=deepcopy(counts),
                text_tokens=counts.tokens - counts.tiles * self._tokens_per_tile,
                vision_tokens=counts.tiles * self._tokens_per_tile,
                epochs=counts.samples / draws.size,
                shares=shares(self._counts, number),
                target=targets[number] / max(sum(targets), 1),
            )
            for number, (name, counts, draws) in enumerate(zip(self._names, self._counts, self._draws, strict=True))
        }
        fill = self._rows.tokens / max(self._rows.rows * self._tokens, 1)
        return PlanStatistics(sources=sources, rows=deepcopy(self._rows), fill=fill)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as plain values for JSON: a few kB, the same on every rank."""
        return {
            "version": PLAN_VERSION,
            "settings": self._settings,
            "number": self.number,
            "digest": self.digest,
            "mixture": self._mixture.state(),
            "open": [[age, *self._references(items)] for age, items in self._packer.open_bins()],
            "full": [self._references(items) for items in self._full],
            "counts": [_values(counts) for counts in self._counts],
            "rows": _values(self._rows),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where a planner with the same settings stood, at once.

        Raises:
            ConfigError: The state is of other settings, other data or another version; the message says what differs.
        """
        _check_same(state, self._settings)
        self.number = state["number"]
        self.digest = state["digest"]
        self._mixture.restore(state["mixture"])
        self._counts = [SourceCounts(**counts) for counts in state["counts"]]
        self._rows = RowCounts(**state["rows"])
        bins = self._resolve([*(references for _, *references in state["open"]), *state["full"]])
        ages = [age for age, *_ in state["open"]]
        self._packer.restore(zip(ages, bins[: len(ages)], strict=True))
        self._full = deque(bins[len(ages) :])

    def _fill_rows(self, number: int) -> Iterable[list[Item]]:
        while len(self._full) < number:
            items = self._draw()
            if items is None:
                self._full.extend(self._packer.flush())
                break
            for item in items:
                self._full.extend(self._packer.put(item))
        return [self._full.popleft() for _ in range(min(number, len(self._full)))]

    def _pack_samples(self) -> Iterable[list[Item]]:
        items: list[Item] = []
        for _ in range(self._batch.size or 0):
            drawn = self._draw()
            if drawn is None:
                break
            items += drawn
        return pack_step(items, self._tokens, self._tiles)

    def _draw(self) -> list[Item] | None:
        """The pieces of the next sample; None when the mixture has ended."""
        source = self._mixture.pick()
        if source is None:
            return None
        number = self._mixture.drawn[source]
        draw = self._draws[source].at(number)
        amount = self._counts[source].add(draw, self._unit)
        self._mixture.count(source, amount)
        return _items(source, number, draw)

    def _references(self, items: Iterable[Item]) -> list[int]:
        """Documents by source, how many draws ago, and piece; all in one list, which is half of the state's size."""
        drawn = self._mixture.drawn
        return list(
            chain.from_iterable((slot.source, drawn[slot.source] - draw, slot.piece) for slot, draw, *_ in items)
        )

    def _resolve(self, bins: Sequence[Sequence[int]]) -> list[list[Item]]:
        """The documents of lists of references."""
        drawn = self._mixture.drawn
        places = [
            [(source, drawn[source] - back, piece) for source, back, piece in zip(*[iter(one)] * 3, strict=True)]
            for one in bins
        ]
        found: list[dict[int, list[Item]]] = []
        for source, draws in enumerate(self._draws):
            numbers = sorted({number for one in places for owner, number, _ in one if owner == source})
            looked_up = draws.look_up(numbers)
            found.append({number: _items(source, number, looked_up[number]) for number in numbers})
        return [[found[source][number][piece] for source, number, piece in one] for one in places]


def _items(source: int, number: int, draw: Draw) -> list[Item]:
    return [
        Item(Slot(source, draw.row, draw.epoch, draw.variant, piece), number, tokens, tiles)
        for piece, (tokens, tiles, _) in enumerate(draw.pieces)
    ]


def _chain(digest: str, rows: Iterable[Row]) -> str:
    """The digest of a step and, through the digest before it, of all steps up to it."""
    numbers = chain.from_iterable((len(row.slots), *chain.from_iterable(row.slots)) for row in rows)
    content = np.fromiter(numbers, dtype="<i8").tobytes()
    return hashlib.blake2b(bytes.fromhex(digest) + content, digest_size=16).hexdigest()


def _check_source(source: MixtureSource, tokens: int, tiles: int) -> None:
    lengths = source.lengths
    where = f'data set "{lengths.name}"'
    for what, largest, capacity in (("tokens", lengths.longest, tokens), ("tiles", lengths.most_tiles, tiles)):
        if largest > capacity:
            raise ConfigError(
                f"{where} has a document of {largest} {what}, and a row holds {capacity}: "
                f"raise batch.{what}, or lower processor.max_tokens so that it is cut"
            )


def _settings(
    sources: Sequence[MixtureSource],
    mixture: MixtureConfig,
    *,
    seed: int,
    epochs: float | None,
    batch: tuple[int | None, ...],
) -> dict[str, Any]:
    """Everything that a plan depends on, as it comes back from JSON."""
    settings = {
        "seed": seed,
        "epochs": epochs,
        "batch": dict(zip(("size", "rows", "tokens", "tiles"), batch, strict=True)),
        "mixture": encode(mixture),
        "sources": [source.lengths.name for source in sources],
        "data": {
            source.lengths.name: {
                "digest": source.lengths.digest,
                "rows": source.lengths.rows,
                "weight": source.weight,
                "samples": source.samples,
                "at_end": source.at_end,
            }
            for source in sources
        },
    }
    return json.loads(json.dumps(settings))


def _values(counts: SourceCounts | RowCounts) -> dict[str, Any]:
    """Its fields, as they are now: `asdict` copies number by number, and every step has a state."""
    return {name: [*value] if isinstance(value := getattr(counts, name), list) else value for name in counts.__slots__}


def _check_same(state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    if state["version"] != PLAN_VERSION:
        raise ConfigError(
            f"the state was planned by version {state['version']} of the planner, and this is version {PLAN_VERSION}: "
            "it would go on with other samples. Finish the run with the xgenmm that began it, or begin anew"
        )
    if found := list(_differences("", state["settings"], settings)):
        raise ConfigError(
            "the state belongs to another plan, so this run would not see the samples that are left of that one: "
            + "; ".join(found)
        )


def _differences(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(f"{where}.{key}".removeprefix("."), old.get(key), new.get(key))
    elif old != new:
        yield f"{where} was {json.dumps(old)} and is {json.dumps(new)}"
