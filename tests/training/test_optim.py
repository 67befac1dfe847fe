"""The optimizer: what gets which learning rate, and when."""

import math

import pytest
import torch
from torch import nn

from xgenmm.config import ConfigError
from xgenmm.training.optim import (
    OptimConfig,
    build_optimizer,
    gradient_norm,
    lr_share,
    scale_gradients,
    set_learning_rates,
)

PARTS = {"vision": "eyes", "resampler": "middle", "language": "mouth"}


def make_model():
    model = nn.Module()
    model.eyes, model.middle, model.mouth = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(3, 1, bias=False)
    return model


def test_every_trainable_part_has_its_own_rate_and_frozen_ones_none():
    model = make_model()
    model.eyes.requires_grad_(False)
    optimizer = build_optimizer(OptimConfig(lr=1e-3, part_lr={"language": 1e-5}), model, PARTS)
    assert set_learning_rates(optimizer, 0.5) == {"resampler": 5e-4, "language": 5e-6}
    assert {p for group in optimizer.param_groups for p in group["params"]} == {
        *model.middle.parameters(),
        *model.mouth.parameters(),
    }


def test_settings_that_make_no_sense():
    with pytest.raises(ConfigError, match='there is no part "langage"; did you mean "language"'):
        build_optimizer(OptimConfig(lr=1.0, part_lr={"langage": 1.0}), make_model(), PARTS)
    with pytest.raises(ConfigError, match="nothing trains"):
        build_optimizer(OptimConfig(lr=1.0), make_model().requires_grad_(False), PARTS)


def test_cosine_by_hand():
    config = OptimConfig(lr=1.0, warmup_steps=4, floor=0.0)
    assert [lr_share(config, step, 12) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    # a third of the way down: (1 + cos(60 degrees)) / 2 = 0.75 needs 8 / 3 steps, so look at the quarters
    assert lr_share(config, 6, 12) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert lr_share(config, 8, 12) == pytest.approx(0.5)
    assert lr_share(config, 12, 12) == pytest.approx(0.0)


def test_cosine_is_that_of_transformers():
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 0, 20)
    config = OptimConfig(lr=1.0, floor=0.0)
    for step in range(20):
        assert lr_share(config, step, 20) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_constant_after_the_warm_up():
    config = OptimConfig(lr=1.0, schedule="constant", warmup_steps=2)
    assert [lr_share(config, step, 5) for step in range(5)] == [0.5, 1, 1, 1, 1]


def test_norm_and_scale_of_all_gradients_together():
    one, other, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    one.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm([one, other, unused]).item() == 5.0
    scale_gradients([one, other, unused], 0.5)
    assert one.grad.tolist() == [1.5, 0.0]
    assert unused.grad is None
