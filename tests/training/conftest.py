"""Trainers at toy size."""

import copy

import pytest
import torch

from xgenmm.data.loader import Loader
from xgenmm.data.planner import BatchConfig
from xgenmm.data.source import SourceConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.weights import ModelConfig, assemble
from xgenmm.objectives import OBJECTIVES
from xgenmm.training.checkpoint import CheckpointConfig
from xgenmm.training.health import HealthConfig
from xgenmm.training.optim import OptimConfig
from xgenmm.training.trainer import Trainer, TrainerConfig


@pytest.fixture(scope="session")
def new_model(toy_folder, toy_processor):
    resampler = ResamplerConfig(latents=2, depth=1, heads=2, head_dim=8, ff_mult=2)
    config = ModelConfig(vision=str(toy_folder / "vision"), language=str(toy_folder / "language"), resampler=resampler)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return assemble(config, toy_processor)


@pytest.fixture(scope="session")
def make_model(new_model):
    """The same new model in every call."""

    def build(vision=False, resampler=True, language=True):
        model = copy.deepcopy(new_model)
        model.set_trainable(vision=vision, resampler=resampler, language=language)
        return model

    return build


@pytest.fixture(scope="session")
def make_trainer(toy_folder, toy_processor, make_model):
    """A trainer for instructions (or preferences) with everything that a test may want to change."""

    def build(
        folder,
        steps=6,
        objective="next_token",
        path="instructions.json",
        model=None,
        optim=None,
        checkpoint=None,
        health=None,
        seed=0,
        after_step=None,
        **batch,
    ):
        pairs = objective == "dpo"
        adapter, path = ("preference", "preferences.jsonl") if pairs else ("llava", path)
        source = SourceConfig(name="toy", adapter=adapter, path=str(toy_folder / path))
        model = model or make_model()
        folder.mkdir(parents=True, exist_ok=True)
        return Trainer(
            name="test",
            model=model,
            objective=OBJECTIVES[objective]().build(model),
            loader=Loader(
                [source], BatchConfig(**{"size": 4, "micro": 4, **batch}), toy_processor, pairs=pairs, seed=seed
            ),
            config=TrainerConfig(
                steps=steps,
                seed=seed,
                precision="float32",
                optim=OptimConfig(**{"lr": 1e-2, "warmup_steps": 2, **(optim or {})}),
                checkpoint=CheckpointConfig(**{"every": 2, "keep": 2, **(checkpoint or {})}),
                health=HealthConfig(**(health or {})),
            ),
            folder=folder,
            after_step=after_step,
        )

    return build
