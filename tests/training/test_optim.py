"""The optimizer: what gets which learning rate, and when."""

import math

import pytest
import torch
import transformers
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import make_toy_model

from xgenmm.config import ConfigError, decode
from xgenmm.training.optim import (
    OptimConfig,
    averaged,
    build_optimizer,
    gradient_norm,
    lr_share,
    scale_gradients,
    set_learning_rates,
    update_average,
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
        OptimConfig(lr=1.0, part_lr={"langage": 1.0})
    with pytest.raises(ConfigError, match=r'optim.layer_decay: there is no part "tongue"'):
        OptimConfig(lr=1.0, layer_decay={"tongue": 0.9})
    with pytest.raises(ConfigError, match="only with the schedule wsd"):
        OptimConfig(lr=1.0, decay_steps=5)
    with pytest.raises(ConfigError, match="nothing trains"):
        build_optimizer(OptimConfig(lr=1.0), make_model().requires_grad_(False), PARTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, r"optim.lr: must be at least 0, but is -1.0"),
        ({"lr": float("inf")}, r"optim.lr: must be a finite number"),
        ({"part_lr": {"language": -1}}, r"optim.part_lr.language: must be at least 0, but is -1.0"),
        ({"layer_decay": {"vision": 1.5}}, r"optim.layer_decay.vision: must be above 0 and at most 1, but is 1.5"),
        ({"warmup_steps": -4}, r"optim.warmup_steps: must be at least 0, but is -4"),
        ({"schedule": "wsd", "decay_steps": 0}, r"optim.decay_steps: must be at least 1, but is 0"),
        ({"floor": 3}, r"optim.floor: must be at least 0 and at most 1, but is 3.0"),
        ({"weight_decay": -1}, r"optim.weight_decay: must be at least 0, but is -1.0"),
        ({"betas": [0.9, 1.5]}, r"optim.betas.1: must be at least 0 and below 1, but is 1.5"),
        ({"eps": -1}, r"optim.eps: must be at least 0, but is -1.0"),
        ({"clip": 0}, r"optim.clip: must be above 0, but is 0.0"),
        ({"clip": -1}, r"optim.clip: must be above 0, but is -1.0"),
        ({"ema": 1}, r"optim.ema: must be at least 0 and below 1, but is 1.0"),
    ],
)
def test_numbers_that_would_train_wrongly_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        decode(OptimConfig, {"lr": 1.0, **settings}, "optim")


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


@pytest.mark.parametrize(
    ("schedule", "theirs", "options"),
    [("linear", "get_linear_schedule_with_warmup", {}), ("wsd", "get_wsd_schedule", {"decay_type": "linear"})],
)
def test_straight_lines_are_those_of_transformers(schedule, theirs, options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    decay = {"num_decay_steps": 5} if schedule == "wsd" else {}
    scheduler = getattr(transformers, theirs)(optimizer, num_warmup_steps=0, num_training_steps=20, **decay, **options)
    config = OptimConfig(lr=1.0, schedule=schedule, floor=0.0, decay_steps=decay.get("num_decay_steps"))
    for step in range(20):
        assert lr_share(config, step, 20) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_wsd_by_hand():
    """Two steps up, a plateau, and the last tenth of 30 steps down to a fifth: 1, 1 - 0.8 / 3, 1 - 1.6 / 3."""
    config = OptimConfig(lr=1.0, schedule="wsd", warmup_steps=2, floor=0.2)
    shares = [lr_share(config, step, 30) for step in range(30)]
    assert shares[:2] == [0.5, 1.0]
    assert shares[2:28] == [1.0] * 26
    assert shares[28:] == pytest.approx([1 - 0.8 / 3, 1 - 1.6 / 3])


def test_a_shorter_schedule_than_its_warm_up_and_decay():
    config = OptimConfig(lr=1.0, schedule="wsd", warmup_steps=3, decay_steps=10, floor=0.0)
    assert [lr_share(config, step, 5) for step in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.5])


def test_rates_fall_with_the_distance_from_the_output():
    """ELECTRA's and BEiT's rule: with n layers, layer i gets decay^(n - i), what is below all layers decay^(n + 1)."""
    model = make_toy_model().requires_grad_(True)
    parts = {"vision": "vision_encoder", "resampler": "vision_tokenizer", "language": "language_model"}
    config = OptimConfig(lr=1.0, part_lr={"vision": 0.1}, layer_decay={"vision": 0.5, "language": 0.8})
    optimizer = build_optimizer(config, model, parts)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(names)  # nothing is lost
    expected = {
        "language_model.lm_head.weight": 1.0,
        "language_model.model.norm.weight": 1.0,
        "language_model.model.layers.1.mlp.down_proj.weight": 0.8,
        "language_model.model.layers.0.self_attn.qkv_proj.weight": 0.64,
        "language_model.model.embed_tokens.weight": 0.512,
        "vision_encoder.encoder.layers.1.mlp.fc1.weight": 0.05,
        "vision_encoder.embeddings.patch_embedding.weight": 0.0125,
        "vision_tokenizer.latents": 1.0,
    }
    assert {name: rates[name] for name in expected} == pytest.approx(expected)
    assert set_learning_rates(optimizer, 0.5) == {"vision": 0.05, "resampler": 0.5, "language": 0.5}


def test_the_average_is_torchs():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        update_average(optimizer, 0.8)
        theirs.update_parameters(model)
    last = model.weight.detach().clone()
    with averaged(optimizer):
        torch.testing.assert_close(model.weight, theirs.module.weight)
        torch.testing.assert_close(model.bias, theirs.module.bias)
        assert not torch.equal(model.weight, last)
    assert torch.equal(model.weight, last)


def test_what_never_moves_has_no_average_and_moves_later():
    """A part that a step does not use must not look to AdamW as if it had begun."""
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([used, unused], lr=0.1)
    used.sum().backward()
    optimizer.step()
    update_average(optimizer, 0.9)
    (used.sum() + unused.sum()).backward()
    optimizer.step()
    assert not torch.equal(unused, torch.ones(2))


def test_norm_and_scale_of_all_gradients_together():
    one, other, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    one.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm([one, other, unused]).item() == 5.0
    scale_gradients([one, other, unused], 0.5)
    assert one.grad.tolist() == [1.5, 0.0]
    assert unused.grad is None
