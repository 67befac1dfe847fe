"""What a recipe's stages will really hold, where their data are indexed: lengths and tiles for `xgenmm plan`."""

import logging
import time
from typing import NamedTuple

from xgenmm.budget.plan import Drawn
from xgenmm.config import ConfigError
from xgenmm.costs.flops import Work
from xgenmm.data.loader import Loader, document_limits
from xgenmm.data.quarantine import DataError
from xgenmm.data.source import index_folder, is_indexed
from xgenmm.recipe.parts import make_loader, stage_processor
from xgenmm.recipe.settings import Recipe, StageConfig

log = logging.getLogger(__name__)

MOST_STEPS = 1000
MOST_SECONDS = 3.0
"""A plan looks at no more of a stage's steps than it can plan in this time."""
MOST_ROWS_COUNTED = 1_000_000
"""The steps of more rows than that are not counted, which would mean to plan all of them."""


def drawn_steps(recipe: Recipe) -> dict[str, Drawn]:
    """The first steps of every stage whose data are indexed. Nothing is indexed for it.

    A stage whose processor cannot be had yet, or whose data changed, is left out: it is for training to complain.
    """
    found = {}
    for stage in recipe.stages:
        try:
            loader = _indexed(recipe, stage)
        except (ConfigError, DataError) as error:
            log.info("%s: planned without its data: %s", stage.name, error)
            continue
        if loader is not None:
            found[stage.name] = _draw(loader, stage)
    return found


def _indexed(recipe: Recipe, stage: StageConfig) -> Loader | None:
    processor = stage_processor(recipe, stage)
    folder, limits = index_folder(recipe.reading.index), document_limits(stage.batch, processor)
    if stage.noised is not None or not all(is_indexed(one, processor, limits, folder) for one in stage.data):
        return None
    return make_loader(recipe, stage, processor)


class _Largest(NamedTuple):
    tiles: int = 0
    tokens: int = 0
    pairs: int = 0


def _draw(loader: Loader, stage: StageConfig) -> Drawn:
    planner, began = loader.planner, time.monotonic()
    of_steps = stage.steps
    rows = sum(source.config.samples or source.index.lengths.rows for source in loader.sources)
    if of_steps is None and rows * (stage.epochs or 1) <= MOST_ROWS_COUNTED:
        of_steps = planner.count_steps()
    steps = squares = 0
    largest = _Largest()
    while steps < min(MOST_STEPS, of_steps or MOST_STEPS) and (not steps or time.monotonic() < began + MOST_SECONDS):
        step = next(planner, None)
        if step is None:
            break
        steps += 1
        for row in step.rows:
            squares += row.squares
            pairs = (row.squares + row.tokens) // 2
            largest = _Largest(*map(max, largest, _Largest(row.tiles, row.tokens, pairs)))
    statistics = planner.statistics()
    counts = statistics.rows
    # What waits in open rows was drawn, and is in no step yet.
    drawn = sum(source.counts.tokens for source in statistics.sources.values())
    supervised = sum(source.counts.loss_tokens for source in statistics.sources.values()) * counts.tokens / drawn
    return Drawn(
        steps=steps,
        of_steps=of_steps,
        documents=counts.documents,
        rows=counts.rows,
        work=Work(tiles=counts.tiles, tokens=counts.tokens, pairs=(squares + counts.tokens) / 2, targets=supervised),
        largest=Work(**largest._asdict(), targets=supervised / counts.rows),
        fill=statistics.fill,
    )
