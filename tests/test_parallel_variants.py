"""What a stage may ask for beside its loss, on two processes as on one: an average, answers to noised pictures."""

import pytest
from ranks import on_ranks
from test_parallel_runs import assert_same_run, debug, train

from xgenmm.data.quarantine import read_lines
from xgenmm.engines import noised_preferences
from xgenmm.inference.generate import continue_prompts
from xgenmm.recipe.run import run
from xgenmm.training.ranks import rank


@pytest.mark.slow
def test_the_average_of_split_weights_is_that_of_whole_ones(toy_folder, tmp_path):
    settings = ("stages.pretrain.optim.ema=0.5", "parallel.strategy=fsdp")
    whole, split = (debug(toy_folder, tmp_path / name, *settings, stages=("pretrain",)) for name in ("one", "two"))
    run(whole)
    on_ranks(2, train, tmp_path, split)
    assert_same_run(split, whole, "pretrain")


def train_on_answers(folder, recipe):
    """With answers from elsewhere, as an untrained model says nothing that is a text. It is asked all the same, for
    what that leaves behind in it. Notes which process asked."""

    def answer(model, processor, prompts, config, **options):
        (folder / f"asked-by-{rank()}").touch()
        continue_prompts(model, processor, prompts, config, **options)
        return [f"mauve {number}" for number in range(len(prompts))]

    noised_preferences.continue_prompts = answer
    run(recipe)


@pytest.mark.slow
def test_answers_to_noised_pictures_are_made_once_for_all(toy_folder, tmp_path, monkeypatch):
    """One process asks the model while the other waits; then both train on these answers and a cached reference."""
    monkeypatch.setattr(noised_preferences, "continue_prompts", None)  # what this process sets is taken back
    settings = ("stages.dpo.noised={max_new_tokens: 4}", "stages.dpo.objective.reference=cached")
    whole, split = (debug(toy_folder, tmp_path / name, *settings, stages=("dpo",)) for name in ("one", "two"))
    (tmp_path / "one").mkdir()
    train_on_answers(tmp_path / "one", whole)
    on_ranks(2, train_on_answers, tmp_path, split)
    assert [path.name for path in tmp_path.glob("asked-by-*")] == ["asked-by-0"]
    rows = read_lines(split.folder / "dpo/noised/preferences/preferences.jsonl")
    assert rows
    assert all(row["rejected"].startswith("mauve") for row in rows)
    assert_same_run(split, whole, "dpo")
