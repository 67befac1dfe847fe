"""The stages of a run in their order: finished ones are skipped, an unfinished one goes on.

It sees all parts and puts them together; it has no loop of its own and no defaults of parts.
"""

import dataclasses
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xgenmm.config import ConfigError, encode
from xgenmm.costs.flops import Trained
from xgenmm.data.loader import Loader
from xgenmm.data.memory import keep_freed_memory
from xgenmm.data.permutation import keyed
from xgenmm.data.source import SourceConfig
from xgenmm.engines.noised_preferences import make_noised_preferences
from xgenmm.evaluation.watch import Watch
from xgenmm.files import write_whole
from xgenmm.inference.load import load
from xgenmm.model.attention import attention_name
from xgenmm.model.feature_cache import fingerprint
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import save
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.objectives.reference import asked
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.recipe.checks import check
from xgenmm.recipe.parts import build, make_loader
from xgenmm.recipe.record import compare_settings, model_card, note_settings
from xgenmm.recipe.settings import Recipe, StageConfig
from xgenmm.training.effort import effort_of
from xgenmm.training.lock import hold
from xgenmm.training.metrics import peak_memory_mb
from xgenmm.training.optim import averaged
from xgenmm.training.parallel import asked_in_parts, computing, processes, spread
from xgenmm.training.precision import Float32, Precision, autocast, lost_in, multiplying, probe
from xgenmm.training.ranks import from_first, gather, rank
from xgenmm.training.reference_cache import ReferenceCache, prepare_reference
from xgenmm.training.trainer import Trainer, TrainerConfig, to_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """A stage that is done, or the model before the first one."""

    name: str
    """The stage's name, or `untrained`."""
    folder: Path
    """The stage's folder in the run."""
    precision: Precision
    """What the run computes in."""
    steps: int = 0
    seconds: float = 0.0
    """Time of training, over all interruptions."""
    peak_memory_mb: float = 0.0
    """Largest memory of the process up to the stage's end."""
    skipped: bool = False
    """It was done before this call."""
    load: Callable[[], tuple[XGenMMForConditionalGeneration, XGenMMProcessor]]
    """Gives model and processor, on the CPU, in float32, in evaluation mode: always as they are on disk."""


Hook = Callable[[StageResult], None]


def run(recipe: Recipe, *, before_first: Hook | None = None, after_stage: Hook | None = None) -> list[StageResult]:
    """Run the stages in order: finished ones are skipped, an unfinished one goes on from its newest checkpoint.

    Args:
        recipe: The whole run.
        before_first: Gets the model as it is before the first stage, under the name `untrained`.
        after_stage: Gets every stage when it is done, also those that were done before.

    Raises:
        ConfigError: Settings are wrong, or differ from those that the run's folder was begun with.
        LockError: Another process works in the run's folder.
        DataError, TrainingError, CheckpointError, WeightsError, Stopped, OSError: As the parts say.
    """
    with processes() as device:
        check(recipe)
        recipe.folder.mkdir(parents=True, exist_ok=True)
        if rank() != 0:
            logging.getLogger("xgenmm").setLevel(logging.WARNING)  # to be told once is enough
        with hold(recipe.folder) if rank() == 0 else nullcontext():
            precision, float32 = _settle_precision(recipe, device)
            with multiplying(float32):
                return _run_stages(recipe, precision, device, before_first, after_stage)


def _run_stages(
    recipe: Recipe, precision: Precision, device: torch.device, before_first: Hook | None, after_stage: Hook | None
) -> list[StageResult]:
    recipe = dataclasses.replace(recipe, precision=precision)
    if before_first is not None:
        folder = recipe.folder / "untrained"
        initial = StageResult(
            name="untrained", folder=folder, precision=precision, load=lambda: build(recipe, recipe.stages[0])
        )
        before_first(initial)
    results = []
    for number, stage in enumerate(recipe.stages):
        done = from_first(_is_done(recipe, number))
        result = _finished(recipe, number) if done else _train(recipe, number, precision, device)
        log.info("%s %s", stage.name, "is done already" if result.skipped else f"done: {result.folder / 'weights'}")
        results.append(result)
        if after_stage is not None:
            after_stage(result)
    return results


def _train(recipe: Recipe, number: int, precision: Precision, device: torch.device) -> StageResult:
    """Train a stage, and write its weights."""
    stage = recipe.stages[number]
    folder = recipe.folder / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        note_settings(recipe, number, folder)
    keep_freed_memory()
    prepared = prepare(recipe, stage, folder, precision, device)
    trainer = prepared.trainer
    progress = trainer.run()
    steps = trainer.config.steps
    figures = {"steps": steps, "seconds": progress.seconds, "peak_memory_mb": max(gather(peak_memory_mb(device)))}
    if rank() == 0:
        write_whole(folder / "result.json", json.dumps(figures, indent=1))
    with averaged(trainer.optimizer):
        path, card = folder / "weights", model_card(recipe, number)
        save(trainer.model, prepared.processor, path, card=card, instead=prepared.originals, writes=rank() == 0)
    from_first(None)  # nobody reads the weights before they are there
    return _result(recipe, number, **figures)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A stage that is ready to train."""

    trainer: Trainer
    processor: XGenMMProcessor
    originals: dict[str, torch.Tensor]
    """Frozen parameters that lost something in the format that is computed in; only the first process has them."""


def prepare(recipe: Recipe, stage: StageConfig, folder: Path, precision: Precision, device: torch.device) -> Prepared:
    """Put a stage's parts together: model, data, objective, trainer. What needs a reference gets it made."""
    model, processor = build(recipe, stage)
    objective_config = stage.objective_config()
    stage = dataclasses.replace(stage, data=_sources(recipe, stage, model, processor, precision, device))
    cached = isinstance(objective_config, DpoConfig) and objective_config.reference == "cached"
    loader = make_loader(recipe, stage, processor)
    loader.check()
    steps = loader.planner.count_steps() if stage.steps is None else stage.steps
    cache = recipe.feature_cache if stage.feature_cache is None else stage.feature_cache
    about = _about_reference(loader, model, processor, precision, features=cache) if cached else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed(recipe.seed, "lora", stage.name))
        model.set_trainable(**vars(stage.train), lora=stage.lora)
    dtype = getattr(torch, precision)
    originals = lost_in(model, dtype) if rank() == 0 else {}
    model.to_compute_dtype(dtype)
    spread(model, recipe.parallel, precision, device)
    model.use_feature_cache(recipe.folder / "features" if cache else None)
    reference = None
    if cached:
        batches = ([to_device(batch, device) for batch in step.batches] for step in loader.steps(0, steps, once=True))
        kept = ReferenceCache(path=folder / "reference.parquet", about=about)
        with computing(model, device, precision):
            reference = prepare_reference(kept, batches, steps, asked(model.eval()))
    trainer = Trainer(
        name=stage.name,
        model=model,
        objective=objective_config.build(model, reference),  # before a checkpoint is loaded: of the model as it was
        loader=loader,
        config=TrainerConfig(
            steps=steps,
            seed=keyed(recipe.seed, stage.name),
            precision=precision,
            optim=stage.optim,
            checkpoint=stage.checkpoint,
            health=stage.health,
            trackers=recipe.trackers,
        ),
        folder=folder,
        effort=effort_of(
            model, trained_of(recipe, stage, device), compares=stage.compares, device=device, precision=precision
        ),
        after_step=_watch(stage, folder, steps, processor, precision),
    )
    return Prepared(trainer=trainer, processor=processor, originals=originals)


def _sources(
    recipe: Recipe,
    stage: StageConfig,
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    precision: Precision,
    device: torch.device,
) -> tuple[SourceConfig, ...]:
    """What a stage trains on: its data, or what the model makes of them under noise."""
    if stage.noised is None:
        return stage.data
    made: list[SourceConfig] = []
    seed, folder = keyed(recipe.seed, stage.name), recipe.folder / stage.name / "noised"
    if rank() == 0:  # one process writes, the others wait
        nn.Module.to(model, device)
        with autocast(device, precision):
            made = [
                make_noised_preferences(model, processor, source, stage.noised, folder / source.name, seed=seed)
                for source in stage.data
            ]
        nn.Module.to(model, "cpu")
    return tuple(from_first(made))


def _about_reference(
    loader: Loader,
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    precision: Precision,
    *,
    features: bool,
) -> dict[str, Any]:
    """What cached log-probabilities depend on, beside the documents' tokens, which are part of their keys."""
    return {
        "weights": fingerprint(model),
        "data": [[source.name, source.index.lengths.digest] for source in loader.sources],
        "decode": loader.reading.decode,
        "processor": encode(processor.config),
        "precision": precision,
        "float32": torch.get_float32_matmul_precision(),
        "attention": attention_name(model.language_model),
        "feature_cache": features,  # it rounds features
    }


def trained_of(recipe: Recipe, stage: StageConfig, device: torch.device) -> Trained:
    """What of the model a stage trains there, as its costs are counted."""
    return Trained(
        **vars(stage.train),
        rank=stage.lora.rank,
        recompute=recipe.parallel.recompute,
        by_position=isinstance(stage.objective_config(), DpoConfig),
        fused=device.type == "cpu",
    )


def _watch(
    stage: StageConfig, folder: Path, steps: int, processor: XGenMMProcessor, precision: Precision
) -> Callable[[Trainer], None] | None:
    """What evaluates the model while it trains, if the stage asks for it."""
    if stage.evaluate is None:
        return None
    watch = Watch(stage.evaluate, folder, steps, writes=rank() == 0)

    def after_step(trainer: Trainer) -> None:
        if watch.is_due(trainer.progress.step):
            model, device = trainer.model, trainer.device
            with averaged(trainer.optimizer), asked_in_parts(model), computing(model, device, precision):
                watch.evaluate(trainer.progress.step, model, processor)

    return after_step


def _result(recipe: Recipe, number: int, **figures: Any) -> StageResult:
    name = recipe.stages[number].name
    folder = recipe.folder / name
    assert recipe.precision != "auto", "it is settled when the first stage begins"
    return StageResult(
        name=name, folder=folder, precision=recipe.precision, load=lambda: load(folder / "weights"), **figures
    )


def _is_done(recipe: Recipe, number: int) -> bool:
    """Whether a stage has its weights."""
    return (recipe.folder / recipe.stages[number].name / "weights").is_dir()


def _finished(recipe: Recipe, number: int) -> StageResult:
    """The result of a stage that is done.

    Raises:
        ConfigError: It was begun with other settings.
    """
    stage = recipe.stages[number]
    folder = recipe.folder / stage.name
    compare_settings(recipe, number, folder)
    figures = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return _result(recipe, number, skipped=True, **figures)


def _settle_precision(recipe: Recipe, device: torch.device) -> tuple[Precision, Float32]:
    """What the recipe says, or what was found when the run began: a run does not change its arithmetic half-way."""
    if recipe.precision != "auto":
        return recipe.precision, "highest"
    path = recipe.folder / "precision.json"
    if rank() == 0 and not path.exists():
        found = probe(device)
        log.info(
            "computing in %s: bfloat16 is %.2g times as fast as float32 here, and oneDNN's float32 %.2g times as "
            "torch's default",
            *(found.choice, found.speed_up, found.float32_speed_up),
        )
        write_whole(path, json.dumps({"choice": found.choice, "float32": found.float32, **encode(found)}))
    from_first(None)  # nobody reads the file before it is there
    try:
        choice = json.loads(path.read_text(encoding="utf-8"))
        return choice["choice"], choice["float32"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): remove it, if the run has no checkpoint yet") from error
