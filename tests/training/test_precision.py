"""The number format: chosen by measurement, and no loss for what is frozen."""

import pytest
import torch
from torch import nn

from xgenmm.model.lora import merged_state
from xgenmm.training.precision import Probe, autocast, lost_in, multiplying, probe


@pytest.mark.parametrize(
    ("speed_up", "error", "choice"),
    [(5.0, 0.002, "bfloat16"), (5.0, 0.05, "float32"), (1.1, 0.002, "float32"), (0.03, 0.002, "float32")],
)
def test_bfloat16_must_be_faster_and_accurate(speed_up, error, choice):
    assert Probe(speed_up=speed_up, error=error).choice == choice


@pytest.mark.parametrize(
    ("speed_up", "error", "way"), [(2.0, 1e-6, "medium"), (2.0, 1e-3, "highest"), (1.1, 1e-6, "highest")]
)
def test_float32_must_stay_float32(speed_up, error, way):
    found = Probe(speed_up=1.0, error=0.0, float32_speed_up=speed_up, float32_error=error)
    assert found.float32 == way


def test_float32_is_multiplied_in_a_way_and_then_as_before():
    before = torch.get_float32_matmul_precision()
    with multiplying("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_probe_measures_the_error_of_rounding():
    result = probe(torch.device("cpu"), seconds=0.02)
    # the result is rounded to 8 bits of significand: relative errors are spread over 0 to 2^-8, some 0.0017 in the mean
    assert 0.001 < result.error < 0.0025
    assert result.speed_up > 0
    # sums of 576 products of numbers with 24 bits; or with bfloat16's 8, where a processor takes the name at its word
    assert 1e-8 < result.float32_error < 1e-5 or 1e-3 < result.float32_error < 1e-2
    assert result.float32_speed_up > 0


def test_autocast_only_when_chosen():
    layer, inputs = nn.Linear(2, 2), torch.ones(1, 2)
    cpu = torch.device("cpu")
    with autocast(cpu, "bfloat16"):
        assert layer(inputs).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert layer(inputs).dtype == torch.float32


def test_frozen_parameters_are_saved_as_they_were():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1 / 3)  # needs more than 8 bits
        model[0].bias.fill_(0.5)
        model[1].weight.fill_(1 / 3)
    model[0].requires_grad_(False)
    originals = lost_in(model, torch.bfloat16)
    assert list(originals) == ["0.weight"]
    for parameter in model[0].parameters():
        parameter.data = parameter.data.bfloat16()
    state = merged_state(model, originals)
    assert state["0.weight"][0, 0].item() == torch.tensor(1 / 3).item()
    assert state["0.bias"].tolist() == [0.5, 0.5]
    assert state["1.weight"].dtype == torch.float32
    assert merged_state(model, originals, keep=False) == {}
