"""A plan beside what training does: measured steps, indexed data, the model that is built."""

import pytest

from xgenmm.budget.backbones import find_model
from xgenmm.budget.make import plan_of
from xgenmm.budget.plan import plan_stage
from xgenmm.budget.view import load_view
from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.model.layout import layout_of
from xgenmm.recipe.drawing import drawn_steps
from xgenmm.recipe.measuring import measure
from xgenmm.recipe.parts import build, make_loader, stage_processor
from xgenmm.recipe.settings import load_recipe


@pytest.mark.slow
def test_measured_steps_are_those_of_training(toy_folder, tmp_path, capsys):
    at = f"{toy_folder}/"
    settings = [f"model.vision={at}vision", f"model.language={at}language", f"toy={at}", f"output={tmp_path}"]
    data = f"[{{name: toy, adapter: llava, path: {at}instructions.json}}]"
    settings += [f"reading.index={tmp_path}/index", f"stages.sft.data={data}", "stages.sft.batch.size=4"]
    (found,) = measure("debug", settings, ["sft"])
    recipe = load_recipe("debug", settings)
    stage = next(stage for stage in recipe.stages if stage.name == "sft")
    loader = make_loader(recipe, stage, stage_processor(recipe, stage))
    lengths = [
        [segment.length for batch in step.batches for segment in layout_of(batch.documents).segments]
        for step in loader.steps(0, 4)
    ]
    assert found.tokens == sum(map(sum, lengths[1:])) / 3  # the first one sets things up
    assert found.precision == "float32"
    assert sum(found.phases.values()) == pytest.approx(found.seconds, rel=1)  # a mean of three, and their median
    assert 0 < found.utilisation < 1
    assert 0 < found.foretold_memory < found.memory  # of a toy, most is what torch sets up
    assert not (tmp_path / "debug").exists()  # nothing of it is a run
    with pytest.raises(ConfigError, match=r"sft cannot be measured: .*there is no folder"):
        measure("debug", [*settings, f"model.language={tmp_path}/none"], ["sft"])
    assert main(["plan", "debug", *settings, "model.vision=/none", "--measure"]) == 2
    assert "/none" in capsys.readouterr().err


def test_a_plan_of_indexed_data_assumes_nothing_about_them(toy_folder, tmp_path, capsys):
    at = f"{toy_folder}/"
    settings = [f"model.vision={at}vision", f"model.language={at}language", f"toy={at}", f"output={tmp_path}"]
    settings += [
        f"reading.index={tmp_path}/index",
        f"stages.sft.data=[{{name: toy, adapter: llava, path: {at}instructions.json}}]",
    ]
    settings = [*settings, "stages.sft.batch.size=4", "stages.sft.steps=3"]
    recipe = load_recipe("debug", settings)
    assert drawn_steps(recipe) == {}
    stage = next(stage for stage in recipe.stages if stage.name == "sft")
    loader = make_loader(recipe, stage, stage_processor(recipe, stage))  # indexes
    drawn = drawn_steps(recipe)["sft"]
    # What training will really see: its batches, read and counted.
    steps = list(loader.steps(0, 3))
    batches = [batch for step in steps for batch in step.batches]
    segments = [segment for batch in batches for segment in layout_of(batch.documents, batch.branches).segments]
    assert (drawn.steps, drawn.of_steps, drawn.documents) == (3, 3, sum(len(batch.ids) for batch in batches))
    assert drawn.work.tokens == sum(segment.length for segment in segments)
    assert drawn.work.pairs == sum(segment.pairs for segment in segments)
    assert drawn.work.tiles == sum(len(batch.pixel_values) for batch in batches)
    assert drawn.work.targets == pytest.approx(sum(int((batch.labels >= 0).sum()) for batch in batches))
    text = plan_of(load_view("debug", settings), {"sft": drawn})
    assert f"From the data's index: 3 planned steps, {drawn.documents} documents" in text
    view = load_view("debug", settings)
    number = [one.name for one in view.stages].index("sft")
    plan = plan_stage(view, view.stages[number], find_model(view)[0], drawn)
    assert plan.step.work.tokens == drawn.work.tokens / 3
    assert main(["plan", "debug", *settings]) == 0
    assert "From the data's index: 3 planned steps" in capsys.readouterr().out


def test_a_plan_counts_the_model_that_training_builds(toy_folder, tmp_path):
    # From the folders' config.json and tokenizer.json alone, new token rows included.
    at = f"{toy_folder}/"
    settings = [f"model.vision={at}vision", f"model.language={at}language", f"toy={at}", f"output={tmp_path}"]
    shape, notes = find_model(load_view("debug", settings))
    recipe = load_recipe("debug", settings)
    model, processor = build(recipe, recipe.stages[0])
    built = {part: count.trainable + count.frozen for part, count in model.parameter_table().items()}
    assert shape.parameters == built
    assert f"{len(processor.tokenizer)} tokens" in notes[0] or f"among {len(processor.tokenizer)}" in notes[0]
