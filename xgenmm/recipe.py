"""A whole run: its settings, what only the whole can know about them, and the stages in their order.

The only file that sees all parts. It puts them together; it has no loop of its own and no defaults of parts.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoTokenizer

from xgenmm.budget.settings import PlanConfig
from xgenmm.config import ConfigError, decode, encode, nearest, read_recipe, read_yaml, shipped_recipes, to_yaml
from xgenmm.costs.sharding import ParallelConfig
from xgenmm.data.files import find
from xgenmm.data.loader import Loader, ReadConfig
from xgenmm.data.memory import keep_freed_memory
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.permutation import keyed
from xgenmm.data.planner import BatchConfig
from xgenmm.data.source import SourceConfig
from xgenmm.engines.noised_preferences import NoisedConfig, make_noised_preferences
from xgenmm.evaluation.watch import Watch, WatchConfig
from xgenmm.inference.load import load
from xgenmm.model.feature_cache import fingerprint
from xgenmm.model.language import embedding_table
from xgenmm.model.lora import LoraConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import ModelConfig, assemble, check_folder, read_encoder_config, save
from xgenmm.objectives import OBJECTIVES
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.objectives.next_token import NextTokenConfig
from xgenmm.objectives.reference import asked
from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor
from xgenmm.processor.prompt import PROMPTS
from xgenmm.provenance import commit, package_versions
from xgenmm.training.checkpoint import CheckpointConfig, latest_checkpoint
from xgenmm.training.health import HealthConfig
from xgenmm.training.lock import hold
from xgenmm.training.metrics import peak_memory_mb
from xgenmm.training.optim import OptimConfig, averaged
from xgenmm.training.parallel import computing, processes, spread
from xgenmm.training.precision import Precision, autocast, lost_in, probe
from xgenmm.training.ranks import from_first, gather, rank, world_size
from xgenmm.training.reference_cache import ReferenceCache, prepare_reference
from xgenmm.training.trainer import Trainer, TrainerConfig, to_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What of each part of the model a stage trains: all of it, nothing, or LoRA adapters on its linear layers."""

    vision: bool | Literal["lora"] = False
    resampler: bool | Literal["lora"] = True
    language: bool | Literal["lora"] = True
    """With its embeddings, unless it is LoRA."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a run. Stages differ in their settings; they are all the same code."""

    name: str
    """Its folder's name."""
    init: str | None = None
    """Folder of weights to start from. By default those of the stage before; for the first one, `model`'s parts."""
    data: tuple[SourceConfig, ...]
    """The data sets of the mixture."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """How they share the steps."""
    batch: BatchConfig
    steps: int | None = None
    """Optimizer steps. Either this or `epochs`."""
    epochs: float | None = None
    """Passes over the data; not with weights, which say how often a source comes without regard to its size."""
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Size of the adapters, where `train` asks for some."""
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "next_token"})
    """`name`, a key of `OBJECTIVES`, and its settings."""
    optim: OptimConfig
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    processor: dict[str, Any] = field(default_factory=dict)
    """What this stage sets differently from the recipe's `processor`."""
    feature_cache: bool | None = None
    """Keep features of the frozen vision encoder; by default as the recipe says."""
    evaluate: WatchConfig | None = None
    """Benchmarks that are run on the model while it trains."""
    noised: NoisedConfig | None = None
    """For preferences: before the stage, its model answers every prompt while it looks at a picture under noise, and
    that answer takes the place of the dispreferred one."""

    def objective_config(self) -> NextTokenConfig | DpoConfig:
        """The objective's settings as their dataclass.

        Raises:
            ConfigError: There is no such objective, or it has no such setting.
        """
        where = f"recipe.stages.{self.name}.objective"
        settings = dict(self.objective)
        name = settings.pop("name", None)
        if name not in OBJECTIVES:
            raise ConfigError(f'{where}.name: there is no objective "{name}"; {nearest(str(name), OBJECTIVES)}')
        return decode(OBJECTIVES[name], settings, where)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run."""

    name: str
    """The run's folder is `output/name`."""
    output: str = "runs"
    seed: int = 0
    precision: Literal["auto"] | Precision = "auto"
    """Of computation; what trains is kept in float32. `auto`: bfloat16 if a probe finds it faster here and accurate."""
    model: ModelConfig | None = None
    """What a new model is made of; needed unless the first stage has `init`."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Fields of `ProcessorConfig`, less `tile` and `tokens_per_tile`, which encoder and resampler say."""
    reading: ReadConfig = field(default_factory=ReadConfig)
    """How the machine reads data."""
    feature_cache: bool = False
    """Compute the frozen vision encoder's features of a tile once and keep them in the run's folder."""
    stages: tuple[StageConfig, ...]
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How the work is spread over processes."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """What `xgenmm plan` assumes; training does not read it."""
    toy: str | None = None
    """For `recipes/debug.yaml`: where `xgenmm train` first writes toy weights and data, if the folder is not there."""

    @property
    def folder(self) -> Path:
        """Where the run keeps everything."""
        return Path(self.output) / self.name


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """A stage that is done, or the model before the first one."""

    name: str
    """The stage's name, or `untrained`."""
    folder: Path
    """The stage's folder in the run."""
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


def is_recipe(name: str) -> bool:
    """Whether a name is a recipe's: a YAML file, or one of ours where there is no file of that name."""
    return name.endswith((".yaml", ".yml")) or (not Path(name).exists() and name in shipped_recipes())


def sources_of(recipe: Recipe) -> list[tuple[StageConfig, SourceConfig]]:
    """All sources of all stages. What several stages use comes once; a namesake that differs gets its stage's name."""
    found: dict[str, tuple[StageConfig, SourceConfig]] = {}
    for stage in recipe.stages:
        for source in stage.data:
            same = dataclasses.replace(source, weight=None, samples=None)
            if found.setdefault(source.name, (stage, same))[1] != same:
                name = f"{stage.name}/{source.name}"
                found[name] = (stage, dataclasses.replace(same, name=name))
    return list(found.values())


def stage_processor(recipe: Recipe, stage: StageConfig) -> XGenMMProcessor:
    """The processor that a stage will have. No model is made, and no weights of the stages before need to be there.

    Raises:
        ConfigError: A folder is missing, or settings do not fit.
    """
    settings: dict[str, Any] = {}
    tokenizer = None
    for one in recipe.stages[: recipe.stages.index(stage) + 1]:
        if one.init is not None:
            check_folder(Path(one.init))
            saved = XGenMMProcessor.from_pretrained(one.init)
            tokenizer, settings = saved.tokenizer, encode(saved.config)
        settings = {**settings, **recipe.processor, **one.processor}
    try:
        if tokenizer is None:
            assert recipe.model is not None, "`check` sees to it"
            _check_backbone("recipe.model.language", recipe.model.language)
            tokenizer, settings = (
                AutoTokenizer.from_pretrained(recipe.model.language),
                {**settings, **_parts(recipe.model)},
            )
        return _make_processor(tokenizer, settings)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe.stages.{stage.name}: {error}") from error


def load_recipe(name: str, assignments: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its path, or one of ours by its name (`debug`, `paper/sft`), with `a.b=c` applied.

    Raises:
        ConfigError: There is none, or it does not decode.
    """
    return decode(Recipe, read_recipe(name, assignments))


def check(recipe: Recipe) -> None:
    """Find the mistakes that can be found before anything is loaded: in all stages, so that none comes hours later.

    Raises:
        ConfigError: Names the place.
    """
    names = [stage.name for stage in recipe.stages]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"recipe.stages: at least one, each with a name of its own, not {names}")
    first = recipe.stages[0]
    if recipe.model is None and first.init is None:
        raise ConfigError(f'recipe: the first stage "{first.name}" needs weights: set `model`, or the stage\'s `init`')
    if recipe.model is not None and first.init is None:
        _check_backbone("recipe.model.vision", recipe.model.vision)
        _check_backbone("recipe.model.language", recipe.model.language)
    for stage in recipe.stages:
        _check_stage(recipe, stage)


def _check_stage(recipe: Recipe, stage: StageConfig) -> None:
    where = f"recipe.stages.{stage.name}"
    if Path(stage.name).name != stage.name or stage.name == "untrained":
        raise ConfigError(f'{where}: "{stage.name}" cannot be the name of a stage, which is also a folder\'s')
    if (stage.steps is None) == (stage.epochs is None):
        raise ConfigError(f"{where}: give either steps or epochs")
    if (stage.steps is not None and stage.steps < 1) or (stage.epochs is not None and stage.epochs <= 0):
        raise ConfigError(f"{where}: steps and epochs must be above 0")
    if not any((stage.train.vision, stage.train.resampler, stage.train.language)):
        raise ConfigError(f"{where}.train: nothing trains; set vision, resampler or language")
    if stage.train.vision and (recipe.feature_cache if stage.feature_cache is None else stage.feature_cache):
        raise ConfigError(f"{where}.feature_cache: the vision encoder trains, so its features change; set false")
    objective = stage.objective_config()
    lives = isinstance(objective, DpoConfig) and objective.reference == "live"
    if lives and world_size() > 1 and True in vars(stage.train).values():
        raise ConfigError(
            f"{where}.objective.reference: several processes share the weights and keep no copy of them as they were; "
            "set cached, or train LoRA adapters only"
        )
    if stage.noised is not None and not isinstance(objective, DpoConfig):
        raise ConfigError(f"{where}.noised: answers to noised pictures are for preferences, with the objective dpo")
    _check_processor({**recipe.processor, **stage.processor}, f"{where}.processor", whole=recipe.stages[0].init is None)
    if stage.init is not None:
        check_folder(Path(stage.init))
    for source in stage.data:
        source.bind_adapter()
        find(source.name, source.patterns)


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
            return _run_stages(recipe, device, before_first, after_stage)


def _run_stages(
    recipe: Recipe, device: torch.device, before_first: Hook | None, after_stage: Hook | None
) -> list[StageResult]:
    precision = _settle_precision(recipe, device)
    recipe = dataclasses.replace(recipe, precision=precision)
    if before_first is not None:
        folder = recipe.folder / "untrained"
        before_first(StageResult(name="untrained", folder=folder, load=lambda: build(recipe, recipe.stages[0])))
    results = []
    for number, stage in enumerate(recipe.stages):
        done = from_first(_is_done(recipe, number))
        result = _finished(recipe, number) if done else _train(recipe, number, precision, device)
        log.info("%s %s", stage.name, "is done already" if result.skipped else f"done: {result.folder / 'weights'}")
        results.append(result)
        if after_stage is not None:
            after_stage(result)
    return results


def build(recipe: Recipe, stage: StageConfig) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    """Model and processor as they are when a stage begins, on the CPU, in float32. The same in every call.

    Raises:
        ConfigError: Parts and settings do not fit each other.
        WeightsError: A folder lacks weights.
    """
    weights = _initial_weights(recipe, stage)
    settings = {**recipe.processor, **stage.processor}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed(recipe.seed, "model"))
        try:
            if weights is None:
                return _assemble(recipe, settings)
            model, saved = load(weights, attention=recipe.model.attention if recipe.model else "sdpa")
            processor = _make_processor(saved.tokenizer, {**encode(saved.config), **settings})
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"recipe.stages.{stage.name}: {error}") from error
    if len(processor.tokenizer) > len(embedding_table(model.language_model)):
        raise ConfigError(
            f'recipe.stages.{stage.name}.processor: "{processor.config.prompt}" needs tokens that {weights} lacks'
        )
    model.config.image_mean, model.config.image_std = list(processor.config.mean), list(processor.config.std)
    return model, processor


def _assemble(recipe: Recipe, settings: Mapping[str, Any]) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    assert recipe.model is not None
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.language)
    processor = _make_processor(tokenizer, {**settings, **_parts(recipe.model)})
    return assemble(recipe.model, processor).eval(), processor


def _parts(model: ModelConfig) -> dict[str, int]:
    """What the parts of a model say of its processor."""
    return {"tile": read_encoder_config(model.vision).image_size, "tokens_per_tile": model.resampler.latents}


def _train(recipe: Recipe, number: int, precision: Precision, device: torch.device) -> StageResult:
    """Put a stage's parts together, train, and write its weights."""
    stage = recipe.stages[number]
    folder = recipe.folder / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        _note_settings(recipe, number, folder)
    model, processor = build(recipe, stage)
    objective_config = stage.objective_config()
    stage = dataclasses.replace(stage, data=_sources(recipe, stage, model, processor, precision, device))
    cached = isinstance(objective_config, DpoConfig) and objective_config.reference == "cached"
    keep_freed_memory()
    loader = make_loader(recipe, stage, processor)
    loader.check()
    steps = loader.planner.count_steps() if stage.steps is None else stage.steps
    about = _about_reference(loader, model, processor, precision) if cached else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed(recipe.seed, "lora", stage.name))
        model.set_trainable(**vars(stage.train), lora=stage.lora)
    dtype = getattr(torch, precision)
    originals = lost_in(model, dtype) if rank() == 0 else {}
    model.to_compute_dtype(dtype)
    spread(model, recipe.parallel, precision, device)
    cache = recipe.feature_cache if stage.feature_cache is None else stage.feature_cache
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
        ),
        folder=folder,
        after_step=_watch(stage, folder, steps, processor, precision),
    )
    progress = trainer.run()
    figures = {"steps": steps, "seconds": progress.seconds, "peak_memory_mb": max(gather(peak_memory_mb(device)))}
    if rank() == 0:
        (folder / "result.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    with averaged(trainer.optimizer):
        path, card = folder / "weights", _card(recipe, number)
        save(model, processor, path, card=card, instead=originals, writes=rank() == 0)
    from_first(None)  # nobody reads the weights before they are there
    return StageResult(name=stage.name, folder=folder, load=lambda: load(folder / "weights"), **figures)


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


def make_loader(recipe: Recipe, stage: StageConfig, processor: XGenMMProcessor) -> Loader:
    """What reads a stage's data, as training does; what is not indexed yet is indexed first.

    Raises:
        ConfigError, DataError: As `Loader`.
    """
    return Loader(
        stage.data,
        stage.batch,
        processor,
        pairs=isinstance(stage.objective_config(), DpoConfig),
        seed=keyed(recipe.seed, stage.name),
        mixture=stage.mixture,
        epochs=stage.epochs,
        reading=recipe.reading,
        rank=rank(),
        world_size=world_size(),
    )


def _about_reference(
    loader: Loader, model: XGenMMForConditionalGeneration, processor: XGenMMProcessor, precision: Precision
) -> dict[str, Any]:
    """What cached log-probabilities depend on, beside the documents' tokens, which are part of their keys."""
    return {
        "weights": fingerprint(model),
        "data": [[source.name, source.index.lengths.digest] for source in loader.sources],
        "decode": loader.reading.decode,
        "processor": encode(processor.config),
        "precision": precision,
    }


def _watch(
    stage: StageConfig, folder: Path, steps: int, processor: XGenMMProcessor, precision: Precision
) -> Callable[[Trainer], None] | None:
    """What evaluates the model while it trains, if the stage asks for it."""
    if stage.evaluate is None:
        return None
    watch = Watch(stage.evaluate, folder, steps)

    def after_step(trainer: Trainer) -> None:
        if watch.is_due(trainer.progress.step):
            with computing(trainer.model, trainer.device, precision), averaged(trainer.optimizer):
                watch.evaluate(trainer.progress.step, trainer.model, processor)

    return after_step


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
    _compare_settings(recipe, number, folder)
    figures = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return StageResult(name=stage.name, folder=folder, skipped=True, load=lambda: load(folder / "weights"), **figures)


def _initial_weights(recipe: Recipe, stage: StageConfig) -> Path | None:
    number = recipe.stages.index(stage)
    if stage.init is not None:
        return Path(stage.init)
    return recipe.folder / recipe.stages[number - 1].name / "weights" if number else None


def _make_processor(tokenizer: Any, settings: Mapping[str, Any]) -> XGenMMProcessor:
    return XGenMMProcessor(tokenizer, decode(ProcessorConfig, dict(settings), "recipe.processor"))


def _settle_precision(recipe: Recipe, device: torch.device) -> Precision:
    """What the recipe says, or what was found when the run began: a run does not change its arithmetic half-way."""
    if recipe.precision != "auto":
        return recipe.precision
    path = recipe.folder / "precision.json"
    if rank() == 0 and not path.exists():
        result = probe(device)
        log.info("computing in %s: bfloat16 is %.1f times as fast here", result.choice, result.speed_up)
        path.write_text(json.dumps({"choice": result.choice, **encode(result)}), encoding="utf-8")
    from_first(None)  # nobody reads the file before it is there
    choice = json.loads(path.read_text(encoding="utf-8"))["choice"]
    return "bfloat16" if choice == "bfloat16" else "float32"


def _check_backbone(where: str, name: str) -> None:
    """Refuse what is neither a folder nor looks like a name on a hub (`name` or `owner/name`)."""
    if not Path(name).is_dir() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise ConfigError(f"{where}: there is no folder {name}")


def _check_processor(settings: Mapping[str, Any], where: str, *, whole: bool) -> None:
    said_elsewhere = {"tile": "the vision encoder", "tokens_per_tile": "model.resampler.latents"}
    for name, owner in said_elsewhere.items():
        if name in settings:
            raise ConfigError(f"{where}.{name}: {owner} says this already")
    others: dict[str, Any] = {"prompt": "", "mean": [0.0] * 3, "std": [1.0] * 3, "grids": [], "max_tokens": 1}
    filled = {**({} if whole else others), **settings, "tile": 1, "tokens_per_tile": 1}
    prompt = decode(ProcessorConfig, filled, where).prompt
    if prompt and prompt not in PROMPTS:
        raise ConfigError(f'{where}.prompt: there is no format "{prompt}"; {nearest(prompt, PROMPTS)}')


def _note_settings(recipe: Recipe, number: int, folder: Path) -> None:
    """Write the settings of a stage that begins; refuse to go on with others."""
    if latest_checkpoint(folder / "checkpoints") is not None:
        _compare_settings(recipe, number, folder)
        return
    text = to_yaml(encode(dataclasses.replace(recipe, stages=recipe.stages[: number + 1])))
    (folder / "recipe.yaml").write_text(f"{_versions()}\n{text}", encoding="utf-8")


def _compare_settings(recipe: Recipe, number: int, folder: Path) -> None:
    """Make sure that what is in a stage's folder came from these settings, its own and those of the stages before.

    Raises:
        ConfigError: Names the settings that differ.
    """
    path = folder / "recipe.yaml"
    now, then = _settings_that_matter(encode(recipe), number), _settings_that_matter(read_yaml(path), number)
    different = [
        f"{place} was {then.get(place, 'not set')} and is {now.get(place, 'not set')}"
        for place in sorted(now.keys() | then.keys())
        if now.get(place) != then.get(place)
    ]
    if different:
        raise ConfigError(
            f"{folder} was begun with other settings: {'; '.join(different[:5])}. Take them back, give the run another "
            f"name (name=...), or remove {folder} and what comes after it to train them again"
        )


def _settings_that_matter(settings: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Everything that decides a stage's weights, flat. Where the run lies, when it saves and gives up does not."""
    stages = {
        stage["name"]: {key: value for key, value in stage.items() if key not in ("checkpoint", "health", "name")}
        for stage in settings["stages"][: number + 1]
    }
    others = ("seed", "precision", "model", "processor", "feature_cache")
    decode_mode = settings["reading"]["decode"]
    return _flatten({**{name: settings[name] for name in others}, "decode": decode_mode, "stages": stages})


def _flatten(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = {item.get("name", n) if isinstance(item, dict) else n: item for n, item in enumerate(value)}
    if not isinstance(value, dict):
        return {place: value}
    return {k: v for key, item in value.items() for k, v in _flatten(item, f"{place}.{key}" if place else key).items()}


def _versions() -> str:
    """Versions of what the result depends on, as comment lines."""
    lines = [f"# {' '.join(f'{name} {number}' for name, number in package_versions().items())}"]
    if number := commit():
        lines.append(f"# commit {number}")
    return "\n".join(lines)


def _card(recipe: Recipe, number: int) -> str:
    """The model card: where the weights come from, how to load them, and the whole recipe."""
    stages = recipe.stages[: number + 1]
    settings = to_yaml(encode(dataclasses.replace(recipe, stages=stages)))
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---

# {recipe.name}: {stages[-1].name}

An xGen-MM model, trained by the package xgenmm (arXiv 2408.08872) in {len(stages)} stage(s):
{", ".join(stage.name for stage in stages)}.

```python
import xgenmm  # registers the classes; no remote code
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder")
processor = AutoProcessor.from_pretrained("path/to/this/folder")
```

The licences of its backbones and of its data are those of the folders and files named below.

```yaml
{_versions()}
{settings}```
"""
