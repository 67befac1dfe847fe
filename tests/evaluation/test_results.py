"""`results.json` has the keys of a file that lmms-eval wrote, so that its users' tools read it.

`lmms_eval_keys.json` lists those of a run of lmms-eval 0.7.3 on the local task of `test_lmms_eval.py`.
"""

import json
from pathlib import Path

import pytest
from benchmark_rows import write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.evaluation.scorers.statistics import clustered_error
from xgenmm.model import weights

KEYS = json.loads((Path(__file__).parent / "lmms_eval_keys.json").read_text(encoding="utf-8"))
LEFT_OUT = {"efficiency"}
"""Tokens that were paid for, by answer."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    processor = make_processor("phi3")
    weights.save(make_answering_model(processor), processor, folder / "run" / "weights")
    (folder / "run" / "recipe.yaml").write_text("name: tiny\n", encoding="utf-8")
    for name in ("pope", "vlguard"):
        write_benchmark(folder / "data", name)
    command = ["evaluate", str(folder / "run" / "weights"), "--tasks", "pope,vlguard", "--data", str(folder / "data")]
    assert main([*command, "--output", str(folder / "out"), "--limit", "3"]) == 0
    return json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


def test_all_of_lmms_evals_keys_are_there(results):
    assert set(KEYS["top"]) - set(results) == LEFT_OUT
    assert set(KEYS["config"]) <= set(results["config"])
    for task in ("pope", "vlguard"):
        assert set(KEYS["configs"]) <= set(results["configs"][task])
        assert set(KEYS["n-samples"]) <= set(results["n-samples"][task])
        assert {name.replace("NAME", "score") for name in KEYS["results"]} <= set(results["results"][task])


def test_tables_by_task_name_the_same_tasks(results):
    for name in ("configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks", "task_hashes"):
        assert set(results[name]) == {"pope", "vlguard"}, name
    assert results["n-samples"]["pope"] == {"original": 4, "effective": 3}
    assert results["higher_is_better"] == {
        "pope": {"headline": True, "F1": True, "score": True},
        "vlguard": {"headline": False, "attack success": False, "score": True},
    }


def test_what_is_ours_stands_beside_it(results):
    assert results["profile"] == "paper"
    assert results["scorer_version"]
    assert results["recipe"]["name"] == "tiny"
    assert results["packages"]["torch"]
    for result in results["results"].values():
        assert 0 <= result["unparsed_rate"] <= 1
        assert result["references"]
    assert float(results["total_evaluation_time_seconds"]) >= 0
    assert results["end_time"] >= results["start_time"]


def test_errors_clustered_and_not():
    """By hand: scores 1, 0, 1, 1 have the mean 3/4. Alone: sum of squares 3/4, so sqrt(4/3 * 3/4) / 4 = 1/4.
    In pairs the residuals add up to -1/2 and 1/2: sqrt(2 * 1/2) / 4 = 1/4, too; as 1, 1, 0, 1 in threes and one:
    -1/4 and 1/4, so sqrt(2 * 1/8) / 4 = 1/8.
    """
    assert clustered_error([1, 0, 1, 1], range(4)) == pytest.approx(1 / 4)
    assert clustered_error([1, 0, 1, 1], [0, 0, 1, 1]) == pytest.approx(1 / 4)
    assert clustered_error([1, 1, 0, 1], [0, 0, 0, 1]) == pytest.approx(1 / 8)
