"""What counts as a jump, and what the settings refuse."""

import json
import math
import statistics

import pytest

from xgenmm.config import ConfigError, decode
from xgenmm.data.quarantine import read_lines
from xgenmm.training.health import Health, HealthConfig, robust_deviations


def test_deviations_of_a_bell_curve_are_its_standard_deviations():
    curve = statistics.NormalDist(mu=3.0, sigma=0.2)
    usual = [curve.inv_cdf((i + 0.5) / 1001) for i in range(1001)]
    assert robust_deviations(3.8, usual) == pytest.approx(4.0, rel=1e-2)
    assert robust_deviations(2.2, usual) == pytest.approx(-4.0, rel=1e-2)
    # a tenth of jumps hardly moves what is usual; mean and standard deviation would make 3.8 one deviation
    assert robust_deviations(3.8, usual + [10.0] * 100) > 3


def test_too_few_losses_and_losses_that_hardly_vary_make_no_jump():
    assert robust_deviations(100.0, [1.0] * 19) == 0.0
    assert robust_deviations(1.05, [1.0] * 20) == pytest.approx(5.0)  # in hundredths of the median


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("skip_in_row", -1), ("skip_in_all", -1), ("spike", 0), ("spike", math.nan), ("spike_window", 5)),
        *(("hang_seconds", 0), ("hang_seconds", math.nan)),
    ],
)
def test_settings_without_sense_are_refused(name, number):
    with pytest.raises(ConfigError, match=rf"health.{name}: must be"):
        decode(HealthConfig, {name: number}, "health")


def test_steps_that_come_again_are_forgotten(tmp_path):
    path = tmp_path / "non_finite.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "rank": 0}) + "\n" for step in (1, 2, 3)) + '{"st', encoding="utf-8"
    )
    health = Health(HealthConfig(), tmp_path)
    health.begin(3)
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    health.begin(0)
    assert path.read_text(encoding="utf-8") == ""


def test_never_is_a_time_for_a_hang():
    assert decode(HealthConfig, {"hang_seconds": math.inf}).hang_seconds == math.inf
