"""The data of a recipe's stages, looked at without a model: `xgenmm data check`, `replay` and `view` of a recipe."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, nearest
from xgenmm.data.audit import StageAudit, Stock, audit
from xgenmm.data.audit_report import audit_text, write_data_report
from xgenmm.data.loader import Loader, document_limits
from xgenmm.data.plan import Slot
from xgenmm.data.prepare import Preparer
from xgenmm.data.quarantine import DataError
from xgenmm.data.source import Source, index_folder
from xgenmm.data.view.catalogue import Catalogue, Shelf, indexed, listed
from xgenmm.data.view.packed import Plans
from xgenmm.recipe.checks import check
from xgenmm.recipe.parts import make_loader, stage_processor
from xgenmm.recipe.settings import Recipe, StageConfig

log = logging.getLogger(__name__)

MOST_STEPS = 1000
"""Steps of a stage that are planned for its audit, unless somebody asks for more."""
REPORT = "data_report.html"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found."""

    stages: tuple[StageAudit, ...]
    report: Path

    @property
    def faults(self) -> list[str]:
        """Why training would not begin, by stage."""
        return [f"{stage.name}: {fault}" for stage in self.stages for fault in stage.faults]

    def text(self) -> str:
        """For the terminal."""
        return "\n\n\n".join(map(audit_text, self.stages))


def check_data(recipe: Recipe, *, steps: int | None = None, output: Path | None = None) -> Checked:
    """Audit the data of all stages, and write the report.

    Args:
        recipe: The recipe.
        steps: To be planned of each stage; by default all of them, but at most a thousand.
        output: Folder of the report; by default the run's.

    Raises:
        ConfigError: The recipe is wrong.
    """
    if steps is not None and steps < 1:
        raise ConfigError("--steps must be at least 1")
    check(recipe)
    stages = tuple(_audit(recipe, stage, steps) for stage in recipe.stages)
    report = (output or recipe.folder) / REPORT
    write_data_report(report, recipe.name, stages)
    return Checked(stages=stages, report=report)


def replay(recipe: Recipe, to_step: int, stage: str | None = None) -> str:
    """Where a stage's plan stands before a step, and the rows of that step, as JSON.

    Args:
        recipe: The recipe.
        to_step: The step, counted from 0.
        stage: The stage's name; by default the first one's.

    Raises:
        ConfigError: There is no such stage, or the plan ends before that step.
        DataError: As `Loader`.
    """
    check(recipe)
    chosen = find_stage(recipe, stage)
    loader = make_loader(recipe, chosen, stage_processor(recipe, chosen))
    if to_step < 0:
        raise ConfigError(f"--to-step {to_step}: steps are counted from 0")
    loader.planner.replay(to_step)
    state = loader.planner.state()
    step = next(loader.planner, None)
    if step is None:
        raise ConfigError(f"the plan of {chosen.name} ends after {to_step} steps: it has no step {to_step}")
    rows = [
        {"tokens": row.tokens, "tiles": row.tiles, "documents": [_document(loader, slot) for slot in row.slots]}
        for row in step.rows
    ]
    found = {"stage": chosen.name, "step": to_step, "digest": state["digest"], "rows": rows, "state": state}
    return json.dumps({**found, "digest_after": loader.planner.digest}, ensure_ascii=False)


def find_stage(recipe: Recipe, name: str | None) -> StageConfig:
    """A stage by its name, the first one without.

    Raises:
        ConfigError: There is none.
    """
    stages = {stage.name: stage for stage in recipe.stages}
    if name is not None and name not in stages:
        raise ConfigError(f'there is no stage "{name}"; {nearest(name, stages)}')
    return recipe.stages[0] if name is None else stages[name]


def catalogue_of(recipe: Recipe) -> tuple[Catalogue, dict[str, Plans]]:
    """The sources of all stages, and the packed rows of those whose plan can be made.

    What stands in the way of a plan or of a processor is logged; the records can be looked at all the same.
    """
    shelves: list[tuple[str, Callable[[], Shelf]]] = []
    plans: dict[str, Plans] = {}
    often = Counter(source.name for stage in recipe.stages for source in stage.data)
    for stage in recipe.stages:
        names = {one.name: one.name if often[one.name] == 1 else f"{stage.name}/{one.name}" for one in stage.data}
        preparers: dict[str, Preparer] = {}
        try:
            processor = stage_processor(recipe, stage)
            limits = document_limits(stage.batch, processor)
            preparers = {one.name: Preparer(processor, one.adapter, one.bind_adapter(), limits) for one in stage.data}
            loader = make_loader(recipe, stage, processor)
        except (ConfigError, DataError) as error:
            log.warning("%s: no packed rows to look at: %s", stage.name, error)
            shelves += [(names[one.name], partial(listed, one, preparers.get(one.name))) for one in stage.data]
            continue
        plans[stage.name] = Plans(loader, names, stage.steps)
        shelves += [(names[one.name], partial(indexed, one.config, one)) for one in loader.sources]
    return Catalogue(shelves), plans


def _document(loader: Loader, slot: Slot) -> dict[str, Any]:
    source = loader.sources[slot.source]
    located = source.locate(slot)
    return {"source": source.name, "id": source.row_id(located), **_without_source(slot), "tokens": located.tokens}


def _without_source(slot: Slot) -> dict[str, int]:
    return {name: value for name, value in slot._asdict().items() if name != "source"}


def _audit(recipe: Recipe, stage: StageConfig, steps: int | None) -> StageAudit:
    processor = stage_processor(recipe, stage)
    folder, limits = index_folder(recipe.reading.index), document_limits(stage.batch, processor)
    sources: list[Source | None] = []
    stocks: list[Stock] = []
    for config in stage.data:
        try:
            source = Source(config, processor, limits, folder)
        except DataError as error:
            sources.append(None)
            stocks.append(Stock(name=config.name, quarantined={}, fault=str(error)))
            continue
        index = source.index
        sources.append(source)
        stocks.append(Stock(name=config.name, records=index.records, quarantined=index.reasons, lengths=index.lengths))
    loader, problem = None, ""
    if all(sources):
        loader = make_loader(recipe, stage, processor)
        try:
            if stage.noised is None:
                loader.check()
            else:
                log.warning("%s: shown is what its preferences will be made of, when it begins", stage.name)
        except (DataError, ConfigError) as error:
            problem = str(error)
    of_steps = stage.steps
    if of_steps is None and loader is not None:
        of_steps = loader.planner.count_steps()
    return audit(
        stage.name,
        stocks,
        loader.planner if loader is not None else None,
        steps=steps or min(of_steps or MOST_STEPS, MOST_STEPS),
        of_steps=of_steps,
        unit=stage.mixture.unit,
        capacity=stage.batch.tokens or processor.config.max_tokens,
        tokens_per_tile=processor.config.tokens_per_tile,
        name_of=lambda slot: _name(sources, slot),
        problem=problem,
    )


def _name(sources: Sequence[Source | None], slot: Slot) -> str:
    source = sources[slot.source]
    return "" if source is None else source.row_id(source.locate(slot))
