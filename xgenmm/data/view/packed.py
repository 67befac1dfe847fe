"""Packed rows as a plan has them, step by step. Reads a row's documents only when somebody looks at it."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from xgenmm.data.loader import Loader
from xgenmm.data.plan import Slot, StepPlan
from xgenmm.data.quarantine import BadSample
from xgenmm.data.source import Source
from xgenmm.data.source_index import Located
from xgenmm.data.view.tokens import Seen, see
from xgenmm.processor.images import ImageError

REMEMBERED = 256
"""Steps that are kept."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A document of a packed row."""

    source: str
    """As the catalogue calls it."""
    id: str
    slot: Slot
    start: int
    """Its first position in the row."""
    tokens: int
    vision_tokens: int
    loss_tokens: int
    piece: int | None
    seen: Seen | None = None
    """What a model sees of it; None where it was not asked for or could not be read."""
    fault: str = ""


class Plans:
    """The steps of one stage."""

    def __init__(self, loader: Loader, names: Mapping[str, str], steps: int | None = None) -> None:
        """Stand before step 0.

        Args:
            loader: The stage's.
            names: What the catalogue calls its sources.
            steps: Of the stage; None: until its mixture ends.
        """
        self._stop = steps
        self._loader = loader
        self._names = names
        self._begin = loader.planner.state()
        self._steps: OrderedDict[int, StepPlan] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def sources(self) -> list[str]:
        """As the catalogue calls them."""
        return [self._names[source.name] for source in self._loader.sources]

    @property
    def capacity(self) -> int:
        """Tokens of a row."""
        return self._loader.batch.tokens or self._loader.processor.config.max_tokens

    def step(self, number: int) -> StepPlan | None:
        """A step; None if the plan ends before."""
        planner = self._loader.planner
        if self._stop is not None and number >= self._stop:
            return None
        with self._lock:
            if number in self._steps:
                return self._steps[number]
            if number < planner.number:
                planner.restore(self._begin)
            for step in planner:
                self._steps[step.number] = step
                while len(self._steps) > REMEMBERED:
                    self._steps.popitem(last=False)
                if step.number == number:
                    return step
        return None

    def documents(self, step: StepPlan, row: int, *, seen: bool) -> list[Packed]:
        """The documents of a row.

        Args:
            step: A step.
            row: Number of one of its rows.
            seen: Also read them, for what a model sees.
        """
        start, found = 0, []
        for slot in step.rows[row].slots:
            source = self._loader.sources[slot.source]
            located = source.locate(slot)
            document = self._document(source, slot, located, start)
            found.append(_read(document, source, located, self._loader) if seen else document)
            start += document.tokens
        return found

    def _document(self, source: Source, slot: Slot, located: Located, start: int) -> Packed:
        lengths = source.index.lengths
        return Packed(
            source=self._names[source.name],
            id=source.row_id(located),
            slot=slot,
            start=start,
            tokens=located.tokens,
            vision_tokens=located.tiles * self._loader.processor.config.tokens_per_tile,
            loss_tokens=int(lengths.loss_tokens[lengths.place(slot.row, slot.variant, slot.piece)[0]]),
            piece=located.piece,
        )


def _read(document: Packed, source: Source, located: Located, loader: Loader) -> Packed:
    try:
        _, outline = source.begin(located)
    except (BadSample, ImageError, OSError) as error:
        return replace(document, fault=str(error))
    return replace(document, seen=see(outline, loader.processor))
