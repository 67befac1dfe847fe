"""Sources -> the batches of every optimizer step. Knows no model.

Which rows make up step N is a pure function of (settings, seed, N): a stopped run goes on at step N
without a memory of what it read before.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xgenmm.config import ConfigError, bind, nearest
from xgenmm.data.adapters import ADAPTERS, Adapter
from xgenmm.data.permutation import keyed
from xgenmm.data.quarantine import BadSample, DataError, Fault
from xgenmm.data.readers import open_reader
from xgenmm.data.report import Tally, count_reasons
from xgenmm.processor.branching import branch
from xgenmm.processor.images import ImageError
from xgenmm.processor.packing import pack
from xgenmm.processor.processor import PromptTooLong, XGenMMProcessor
from xgenmm.types import IGNORE_INDEX, Batch, Example, Preference, Sample

CHECKED_SAMPLES = 64
"""How many samples of a source may fail before step 1 until the source counts as broken."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set of a stage's mixture."""

    name: str
    """What logs, sample ids and the report call it."""
    adapter: str
    """How its rows are written down: a key of `data.adapters.ADAPTERS`."""
    path: str | tuple[str, ...]
    """Files or globs: `.tar` shards, `.json`, `.jsonl`, or folders of pictures."""
    images: str | None = None
    """Folder at which the picture names of JSON rows start; by default the JSON file's own."""
    weight: float | None = None
    """Share in the mixture, relative to the other sources; by default the number of samples."""
    samples: int | None = None
    """Train on so many rows, drawn once; more than there are repeats rows. By default all, each once an epoch."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the adapter."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """`path` as a list, whatever it was written as."""
        return (self.path,) if isinstance(self.path, str) else self.path

    def bind_adapter(self) -> Adapter:
        """The adapter with its options.

        Raises:
            ConfigError: There is no such adapter, or it has no such option.
        """
        where = f'data set "{self.name}"'
        if self.adapter not in ADAPTERS:
            raise ConfigError(f'{where}: unknown adapter "{self.adapter}"; {nearest(self.adapter, ADAPTERS)}')
        return bind(ADAPTERS[self.adapter], self.options, f"{where}: options")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What one optimizer step sees, and how it is cut for the machine."""

    size: int
    """Samples (pairs, for a preference objective) of one optimizer step."""
    micro: int | None = None
    """Samples of one forward pass; by default all of the step's. Changes memory and speed, not the result."""
    window: int = 1
    """Steps whose samples are sorted by length together, so that a step holds samples of like length; 1 mixes fully."""
    max_bad: float = 0.05
    """Share of unusable rows of one source above which the run stops."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.window < 1 or (self.micro is not None and self.micro < 1):
            raise ConfigError("batch: size, micro and window must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Step:
    """The data of one optimizer step."""

    number: int
    """Counted from 0."""
    batches: tuple[Batch, ...]
    """One for each forward pass; none, if every row of the step is unusable."""
    sources: Mapping[str, str]
    """Sample id -> name of its source."""
    faults: tuple[Fault, ...]
    wait: float
    """Seconds for which the consumer waited for this step."""
    tallies: Mapping[str, Tally]
    """What the step counts for, by source."""


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """The rows of a batch that one raw row gives: one, or several where its samples do not share their pictures."""

    source: str
    examples: tuple[Example, ...]

    @property
    def length(self) -> int:
        return max(len(example.input_ids) for example in self.examples)


class Loader:
    """Reads a mixture of sources as the batches of steps 0, 1, 2, …, decoding ahead in one thread."""

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        batch: BatchConfig,
        processor: XGenMMProcessor,
        *,
        pairs: bool,
        seed: int,
    ) -> None:
        """Open and index the sources.

        Args:
            sources: The mixture.
            batch: How a step is made up.
            processor: Turns samples into tokens and tiles.
            pairs: Whether the objective wants preferences or plain samples.
            seed: Of order, draws and choices.

        Raises:
            ConfigError: A path matches nothing, an adapter or an option is unknown, names stand twice, or only some
                sources have a weight.
        """
        names = [source.name for source in sources]
        if not sources or len(set(names)) < len(names):
            raise ConfigError(f"data: needs at least one source, and each its own name, but has {names}")
        self.batch = batch
        self.processor = processor
        self.pairs = pairs
        self.seed = seed
        self.sources = [_Source(source, seed) for source in sources]
        given = [source.weight is not None for source in sources]
        if any(given) and not all(given):
            raise ConfigError(
                f"data: either all sources have a weight or none (then sizes count), but given is {given}"
            )
        self.epoch_rows = None if any(given) else sum(source.size for source in self.sources)
        """Rows of one epoch; None where weights and not sizes say how often a source comes."""
        weights = [source.size if source.weight is None else source.weight for source in self.sources]
        if min(weights) <= 0:
            raise ConfigError(f"data: weights must be above 0, but are {weights}")
        self.shares = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
        """Wanted share of each source, in rows."""
        self._mixture = _Mixture(list(self.shares.values()))

    @property
    def shard_faults(self) -> list[Fault]:
        """What indexing found: damaged shards, and rows in them that nobody can count on."""
        return [fault for source in self.sources for fault in source.reader.faults]

    def check(self) -> None:
        """Make sure, before the first step, that every source gives samples, of the right kind, with supervised tokens.

        Raises:
            DataError: A source gives no usable sample among its first ones; the message lists the reasons.
            ConfigError: The objective wants preferences and the source has none, or the other way round.
        """
        for number, source in enumerate(self.sources):
            faults: list[Fault] = []
            for draw in range(min(CHECKED_SAMPLES, source.size)):
                outcome = self._load(number, draw)
                if isinstance(outcome, _Usable):
                    break
                faults.append(outcome)
            else:
                raise DataError(
                    f'data set "{source.name}" gives nothing to learn from: none of {len(faults)} rows that were tried '
                    f"is usable with supervised tokens ({count_reasons(fault.reason for fault in faults)}); "
                    f"first: {faults[0].id}: {faults[0].detail}"
                )

    def steps(self, start: int, stop: int) -> Generator[Step, None, None]:
        """The steps from `start` to before `stop`, decoded ahead by one window. Close the iterator to stop early."""
        if start >= stop:
            return
        window = self.batch.window
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:
            pending = pool.submit(self._window, start // window)
            for number in range(start // window, -(-stop // window)):
                began = time.perf_counter()
                steps = pending.result()
                wait = time.perf_counter() - began
                if (number + 1) * window < stop:
                    pending = pool.submit(self._window, number + 1)
                for place, (usable, faults) in enumerate(steps):
                    if start <= number * window + place < stop:
                        yield self._step(number * window + place, usable, faults, wait)
                        wait = 0.0

    def _step(self, number: int, usable: list[_Usable], faults: list[Fault], wait: float) -> Step:
        micro = self.batch.micro or self.batch.size
        batches = []
        for first in range(0, len(usable), micro):
            examples = [example for one in usable[first : first + micro] for example in one.examples]
            batches.append(pack(examples, self.processor.pad_token_id))
        return Step(
            number=number,
            batches=tuple(batches),
            sources={example.id: one.source for one in usable for example in one.examples},
            faults=tuple(faults),
            wait=wait,
            tallies=self._tallies(usable, faults),
        )

    def _tallies(self, usable: list[_Usable], faults: list[Fault]) -> dict[str, Tally]:
        tallies = {source.name: Tally() for source in self.sources}
        for fault in faults:
            tallies[fault.source].add(Tally(rows=1, dropped={fault.reason: 1}))
        for one in usable:
            tally = tallies[one.source]
            tally.add(Tally(rows=1, samples=1))
            for example in one.examples:
                tally.tokens += len(example.input_ids)
                tally.vision_tokens += len(example.pixel_values) * self.processor.config.tokens_per_tile
                tally.supervised_tokens += int((example.labels != IGNORE_INDEX).sum())
        return tallies

    def _window(self, window: int) -> list[tuple[list[_Usable], list[Fault]]]:
        """Of each step of a window, the usable samples and the faults. Samples of like length come into one step."""
        first = window * self.batch.window * self.batch.size
        outcomes = [
            self._load(*slot) for slot in self._mixture.slots(first, first + self.batch.window * self.batch.size)
        ]
        usable = [outcome for outcome in outcomes if isinstance(outcome, _Usable)]
        usable.sort(key=lambda one: one.length)  # stable: equal lengths keep the mixture's order
        # What is cut here are steps and not micro-batches: a step's samples must not depend on `micro`.
        cuts = np.array_split(np.arange(len(usable)), self.batch.window)
        order = np.random.Generator(np.random.Philox(key=keyed(self.seed, "window", window))).permutation(len(cuts))
        steps = []
        for place, cut in enumerate(order):
            slots = outcomes[place * self.batch.size : (place + 1) * self.batch.size]
            faults = [outcome for outcome in slots if isinstance(outcome, Fault)]
            steps.append(([usable[index] for index in cuts[cut]], faults))
        return steps

    def _load(self, number: int, draw: int) -> _Usable | Fault:
        """The sample that a source gives at its n-th draw, or why it gives none."""
        source = self.sources[number]
        index, epoch = source.place(draw)
        row_id = source.reader.row_id(index)
        try:
            key = keyed(self.seed, "choice", source.name, index, epoch)
            found = source.adapter(source.reader.read(index), lambda count: key % count)
            samples = found if isinstance(found, tuple) else (found,)
            if any(isinstance(sample, Preference) != self.pairs for sample in samples):
                wanted, given = ("preferences", "plain samples") if self.pairs else ("plain samples", "preferences")
                raise ConfigError(f'data set "{source.name}" gives {given}, but the objective wants {wanted}')
            examples = tuple(example for sample in samples for example in self._examples(sample))
            if not all((example.labels != IGNORE_INDEX).any() for example in examples):
                raise BadSample("no_target_tokens", "no token of it is supervised")
            if len(examples) > 1 and (joined := branch(examples, self.processor.image_token_id)):
                examples = (joined,)
        except BadSample as error:
            return Fault(source=source.name, id=row_id, reason=error.reason, detail=error.detail)
        except ImageError as error:
            return Fault(source=source.name, id=row_id, reason=f"image_{error.reason}", detail=str(error))
        except PromptTooLong as error:
            return Fault(
                source=source.name, id=row_id, reason="text_too_long", detail=str(error).removeprefix(f"{row_id}: ")
            )
        return _Usable(source=source.name, examples=examples)

    def _examples(self, sample: Sample) -> tuple[Example, ...]:
        return self.processor.pair(sample) if isinstance(sample, Preference) else (self.processor.example(sample),)


class _Source:
    """One data set: its rows, and which of them comes at its n-th draw."""

    def __init__(self, config: SourceConfig, seed: int) -> None:
        self.name = config.name
        self.weight = config.weight
        self.adapter = config.bind_adapter()
        self.reader = open_reader(config.name, config.patterns, Path(config.images) if config.images else None)
        if not len(self.reader):
            reasons = "; ".join(f"{fault.id}: {fault.detail}" for fault in self.reader.faults[:3])
            raise DataError(f'data set "{config.name}" holds no row at all. {reasons}')
        self.size = len(self.reader) if config.samples is None else config.samples
        if self.size < 1:
            raise ConfigError(f'data set "{config.name}": samples must be at least 1, but is {self.size}')
        self._seed = seed
        self._rows = np.arange(self.size)
        if config.samples is not None:
            self._rows = self._permutation(len(self.reader), "subset")[self._rows % len(self.reader)]
        self._epoch = -1
        self._order = self._rows

    def place(self, draw: int) -> tuple[int, int]:
        """Row and epoch of a draw: within an epoch every row comes once, in an order of that epoch's own."""
        epoch, position = divmod(draw, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._rows[self._permutation(self.size, epoch)]
        return int(self._order[position]), epoch

    def _permutation(self, size: int, purpose: int | str) -> np.ndarray:
        # keyed by name and not by number: another source in the mixture leaves this one's order alone
        key = keyed(self._seed, "order", self.name, purpose)
        return np.random.Generator(np.random.Philox(key=key)).permutation(size)


class _Mixture:
    """Which source fills slot n: always the one that is furthest behind its share, the first of them on a tie."""

    def __init__(self, shares: Sequence[float]) -> None:
        self._shares = shares
        self._slot = 0
        self._drawn = [0] * len(shares)

    def slots(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Source and draw of each slot. The counts are all the state that there is; going back starts from slot 0."""
        if start < self._slot:
            self._slot, self._drawn = 0, [0] * len(self._shares)
        slots = []
        while self._slot < stop:
            deficits = [
                share * (self._slot + 1) - drawn for share, drawn in zip(self._shares, self._drawn, strict=True)
            ]
            source = deficits.index(max(deficits))
            if self._slot >= start:
                slots.append((source, self._drawn[source]))
            self._drawn[source] += 1
            self._slot += 1
        return slots
