"""What breaks first when a stage grows."""

import dataclasses
import re
from pathlib import Path

import pytest
from test_plan_settings import SMOLLM2

from xgenmm.budget import growth
from xgenmm.budget.backbones import find_model
from xgenmm.budget.make import plan_of
from xgenmm.budget.plan import plan_stage
from xgenmm.budget.view import ResamplerView, load_view
from xgenmm.costs.architectures import model_shape

LONG = ("plan.document_tokens=2048", "stages.pretrain.batch.micro=1")


def test_a_model_grows_by_the_factor_that_is_asked_for():
    recipe = load_view("paper/pretrain")
    shape, _ = find_model(recipe)
    for one in (
        shape,
        model_shape({"model_type": "siglip_vision_model"}, SMOLLM2, dataclasses.asdict(ResamplerView())),
    ):
        wide = growth.grown(one, 10.0)
        blocks, before = wide.language.blocks, one.language.blocks
        assert blocks.parameters / before.parameters == pytest.approx(10, rel=0.05)
        assert blocks.head_dim == before.head_dim
        assert sum(linear.outputs for linear in blocks.first) == blocks.attention_width + 2 * blocks.kv_width
        assert wide.vision == one.vision
        assert wide.resampler.width_out == blocks.width


def test_what_breaks_first_by_hand():
    """The paper's pre-training: 747 H100-hours at the peak for 100 B tokens, so 1,866 at 40 %: 11.1 GPUs for a week."""
    recipe = load_view("paper/pretrain", LONG)
    shape, _ = find_model(recipe)
    plan = plan_stage(recipe, recipe.stages[0], shape)
    once, ten, hundred = growth.growth(recipe, recipe.stages[0], shape, plan)
    # Whole machines of eight. Of 256 rows, 112 GPUs would have up to three, as 86 would; 128 have two.
    assert (once.gpus, ten.gpus) == (16, 128)
    limits = {limit.name: limit for limit in ten.limits}
    rows = limits["rows of a step, one for each GPU"]
    assert (rows.needed, rows.there) == (128, plan.step.rows)
    # 989.4 TFLOP/s * 0.4 / 26.59 GFLOP a token = 14,884 tokens a second and GPU; half of them vision, 128 a tile: 58.1.
    assert limits["cores that decode tiles"].needed == pytest.approx(128 * 58.1 * 0.006, rel=0.001)
    assert limits["cores that decode tiles"].there == 12 * 128
    # 12 bytes of each of 3.931 B parameters, over 16 machines of 2 GB/s.
    assert limits["writing a checkpoint, between two"].needed == pytest.approx(47.17 / 32, rel=0.001)
    # 50,000 / 128 hours between failures, each of which costs 0.25 + 0.2 hours.
    assert limits["time lost to failures"].needed == pytest.approx(100 * 0.45 / (50_000 / 128))
    assert not ten.broken
    assert hundred.parameters > 8 * ten.parameters
    loads = [limit.load for limit in hundred.broken]
    assert loads == sorted(loads, reverse=True)
    assert hundred.broken[0].name == "rows of a step, one for each GPU"
    text = plan_of(recipe)
    assert re.search(
        r"^100x: rows of a step, one for each GPU \([\d.]+ times what there is\), then ", text, re.MULTILINE
    )


def test_what_breaks_first_stands_in_the_documents_as_it_is_printed():
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    told = re.search(r"plan\.document_tokens=2048` prints\n\n((?:    .*\n)+)", text)
    assert told
    printed = plan_of(load_view("paper/pretrain", ["plan.document_tokens=2048"])).splitlines()
    assert [line for line in told[1].splitlines() if line[4:] not in printed] == []
