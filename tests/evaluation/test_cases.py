"""Every scorer against stored outcomes of the references, and the functions that score by name."""

import json
from pathlib import Path

import pytest

from xgenmm.evaluation.cases import (
    SCORERS,
    check,
    corrected_aggregate,
    differences,
    is_unparsed,
    main,
    read_records,
    references_of,
    score_aggregate,
    score_case,
)

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.rglob("*.jsonl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CASES).with_suffix("").as_posix())
def test_outcomes_are_the_references(path: Path):
    records = read_records(path)
    tallies = check(records, "all")
    assert [failure for tally in tallies.values() for failure in tally.failures] == []
    outcomes = sum(len(record["expected"]) for record in records)
    assert sum(tally.passed + tally.skipped for tally in tallies.values()) == outcomes


def test_every_scorer_has_cases():
    own = {"mmvet_offline", "likelihood"}  # rules of ours: there is no reference to agree with
    assert {record["scorer"] for path in FILES for record in read_records(path)} == set(SCORERS) - own


def test_a_wrong_outcome_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = [json.loads(line) for line in (CASES / "anls.jsonl").read_text().splitlines()]
    lines[1]["expected"]["lmms-eval==0.7.3"]["harness"] += 2e-9
    path = tmp_path / "anls.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert main([str(path), "--profile", "lmms-eval"]) == 1
    assert "lmms-eval==0.7.3\tpassed 8\tfailed 1" in capsys.readouterr().out
    assert main([str(path), "--profile", "vlmevalkit"]) == 0


@pytest.mark.parametrize("profile", ["paper", "vlmevalkit", "lmms-eval", "open_flamingo@655f693"])
def test_every_profile_reads_every_file(profile: str, capsys: pytest.CaptureFixture[str]):
    # A file whose scorer the profile has no rules for prints nothing and fails nothing.
    assert main([*map(str, sorted(CASES.glob("*.jsonl"))), "--profile", profile]) == 0
    assert "failed 0" in capsys.readouterr().out


def test_a_profile_follows_its_references():
    assert references_of("vqa_accuracy", "paper") == ("vlmevalkit@820176c", "open_flamingo@655f693")
    assert references_of("blink", "vlmevalkit") == ("vlmevalkit@e8e78f0",)
    assert references_of("mantis", "paper") == ("lmms-eval==0.7.3",)  # VLMEvalKit has no Mantis-Eval
    assert references_of("blink", "lmms-eval@75571cf(0.7.2)") == ("lmms-eval@75571cf(0.7.2)",)


def test_case_may_be_the_record_or_its_input():
    record = read_records(CASES / "blink.jsonl")[0]
    assert score_case("blink", "paper", record) == score_case("blink", "paper", record["input"])
    assert score_case("blink", "paper", record) == {"option": "Z", "hit": 0}


def test_unknown_names_are_errors_that_give_the_known_ones():
    with pytest.raises(ValueError, match="no scorer 'blonk'"):
        score_case("blonk", "paper", {})
    with pytest.raises(ValueError, match="'papers' is neither a profile"):
        score_case("blink", "papers", {})
    with pytest.raises(ValueError, match="'vlmevalkit@e8e78f0' has no rules for 'mantis'"):
        references_of("mantis", "vlmevalkit@e8e78f0")


def test_nothing_is_drawn_at_random():
    case = {"prediction": "I don't know", "options": ["1", "2"], "gold": "A"}
    results = [score_case("mmmu_mcq", "lmms-eval", case) for _ in range(20)]
    assert all(result == results[0] and result["correct"] is None and is_unparsed(result) for result in results)


def test_corrected_values_stand_beside_reproduced_defects():
    pope = [r for r in read_records(CASES / "pope.jsonl") if r["type"] == "case"]
    assert score_aggregate("pope", "lmms-eval", pope)["pope_yes_ratio"] == pytest.approx(4 / 12)  # of the golds
    assert corrected_aggregate("pope", "lmms-eval", pope) == {"pope_yes_ratio": pytest.approx(6 / 12)}  # of the answers
    chart = [{"prediction": "2.1", "answer": "2", "type": "human_test"}]  # 5 % of 2.1, but 5.0000001 % of 2
    assert score_aggregate("chartqa_relaxed", "paper", chart)["Overall"] == 100
    assert corrected_aggregate("chartqa_relaxed", "paper", chart)["Overall"] == 0
    ocr = [{"prediction": "a", "answer": ["a"], "dataset": "IIIT5K", "question_type": "Regular Text Recognition"}]
    assert score_aggregate("ocrbench", "lmms-eval", ocr)["ocrbench_accuracy"] == 0.001
    assert corrected_aggregate("ocrbench", "lmms-eval", ocr)["ocrbench_accuracy"] == 1


def test_a_question_without_its_first_rotation_does_not_count():
    row = {"question": "?", "A": "x", "B": "y", "answer": "A", "category": "c", "L2-category": "logic_reasoning"}
    rows = [{**row, "index": index, "prediction": "A", "split": "dev"} for index in (3, 1_000_003, 1_000_004)]
    for profile in ("paper", "lmms-eval"):
        assert score_aggregate("mmbench_circular", profile, rows)["group_hits"] == {"3": 1}


def test_golds_that_are_no_literals_warn_of_nothing():
    case = {"prediction": "24cm", "answer": "24cm", "type": "human_test"}
    assert score_case("chartqa_relaxed", "paper", case) == {"score": 1.0, "gt": ["24cm"]}
    assert score_case("chartqa_relaxed", "paper", {**case, "answer": "[24cm]"})["gt"] == ["[24cm]"]


def test_differences_name_the_place():
    assert differences({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.5}]}, 1e-9) == ["a[1].b: 2.0 != 2.5"]
    assert differences({"a": float("nan")}, {"a": "NaN"}, 1e-9) == []
    assert differences({}, {"METEOR": 0.5, "x": {"reference_raises": "e"}}, 1e-9) == []


def test_a_case_that_cannot_be_scored_is_a_failure_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = [json.loads(line) for line in (CASES / "anls.jsonl").read_text().splitlines()]
    del lines[0]["input"]["answers"]
    path = tmp_path / "anls.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert main([str(path), "--profile", "lmms-eval"]) == 1
    told = capsys.readouterr().out
    assert "passed 7\tfailed 2" in told  # the case, and the set that has it
    assert "KeyError: 'answers'" in told


def test_golds_that_are_no_text_are_compared_as_text():
    """By VLMEvalKit's own functions, out of ms-vlmeval 0.0.5: a number is text there, and a missing gold no option."""
    assert score_case("mmmu_open", "paper", {"prediction": "It is 2.5 m", "gold": 2.5}) == {"option": "A", "hit": 1}
    assert score_case("mmmu_open", "paper", {"prediction": "x = 5", "gold": None}) == {"option": "Z", "hit": 0}
    chart = {"prediction": "2.4", "answer": 2.5, "type": "human_test"}
    assert score_case("chartqa_relaxed", "paper", chart) == {"score": 1.0, "gt": [2.5]}
    free = {"question_type": "free_form", "answer_type": "text", "choices": None, "precision": None, "prediction": "x"}
    assert score_case("mathvista", "paper", {**free, "answer": "None"})["correct"] is True  # nothing is read, as text
    assert score_case("mathvista", "paper", {**free, "answer": "x"}) == {"prefetch": None, "needs_llm": True}


def test_a_missing_option_has_a_letter_where_options_are_a_list():
    case = {"prediction": "(C)", "options": ["red", "blue", None, "green"], "gold": "C"}
    assert score_case("mmmu_mcq", "lmms-eval", case) == {"parsed": "C", "correct": True}
    assert score_case("mmmu_mcq", "paper", case) == {"option": "Z", "hit": 0}  # an empty cell is no option
