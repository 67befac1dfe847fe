"""Data that is missing, damaged or of another form: told by file and column, for its own task alone."""

import json

import pytest
from benchmark_rows import ROW, picture, write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.evaluation.answers import Answer
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.source import BenchmarkDataError, read_docs
from xgenmm.evaluation.samples import read_samples
from xgenmm.evaluation.scorers.profiles import PROFILES
from xgenmm.evaluation.scoring import ScoringError, judge, rules_for, sample_of
from xgenmm.model import weights


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_data") / "weights"
    processor = make_processor("phi3")
    weights.save(make_answering_model(processor), processor, folder)
    return folder


def asked_and_scored(name, root):
    """What a benchmark asks and makes of the answer "A", under every profile; no model is needed for it."""
    benchmark, docs = benchmark_named(name), read_docs(benchmark_named(name), root)
    found = []
    for profile in PROFILES:
        references = rules_for(benchmark, profile, few_shot=False)
        prompts = [benchmark.parts(doc, references[0]) for doc in docs]
        answers = [Answer(place=place, prompt="", text="A") for place in range(len(docs))]
        samples = [sample_of(benchmark, docs[answer.place], answer) for answer in answers]
        outcome = judge(benchmark, samples, references)
        verdicts = [(sample.key, sample.gold, sample.group, sample.score) for sample in outcome.samples]
        texts = [[part for part in parts if isinstance(part, str)] for parts in prompts]
        counts = [len(parts) for parts in prompts]
        found.append((texts, counts, repr(outcome.aggregate), repr(outcome.corrected), verdicts))
    return found


@pytest.mark.parametrize(
    "name", [name for name in ROW if name != "vlguard" and not benchmark_named(name).source.made_by]
)
def test_a_column_that_is_not_there_is_told_or_was_not_needed(tmp_path, name):
    write_benchmark(tmp_path / "whole", name)
    whole = asked_and_scored(name, tmp_path / "whole")
    told = {}
    for column in ROW[name](0):
        root = tmp_path / column
        write_benchmark(root, name, change=lambda row, column=column: {k: v for k, v in row.items() if k != column})
        try:
            found = asked_and_scored(name, root)
        except BenchmarkDataError as error:
            told[column] = str(error)
        else:
            assert found == whole, f"{name} without {column} is something else, and nobody says so"
    assert len(told) >= 2  # the answer and the picture, in any case
    for column, message in told.items():
        assert f"no column {column};" in message
        assert f"hf download {benchmark_named(name).source.repo}" in message
        assert ".parquet" in message


def test_a_row_that_cannot_be_scored_fails_its_task_alone(model, tmp_path, capsys):
    def odd(row):
        return {**row, "options": "[1, 2" if row["id"] == "validation_Art_1" else row["options"]}

    write_benchmark(tmp_path, "mmmu_val", change=odd)
    write_benchmark(tmp_path, "gqa")
    command = ["evaluate", str(model), "--tasks", "mmmu_val,gqa", "--data", str(tmp_path), "--limit", "4"]
    assert main([*command, "--profile", "lmms-eval", "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "validation_Art_1 cannot be scored" in told
    assert "validation-00000-of-00001.parquet" in told
    assert "hf download lmms-lab/MMMU" in told
    assert "1 of 2 tasks could not be evaluated: mmmu_val" in told
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert set(results["results"]) == {"gqa"}
    assert set(results["failed"]) == {"mmmu_val"}
    assert "mmmu_val was not evaluated" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    # The answers are kept: with the data mended, or other rules, nothing is asked again.
    assert (tmp_path / "out" / "answers" / "mmmu_val.0.jsonl").is_file()


def test_rescoring_leaves_a_damaged_file_out(model, tmp_path, capsys):
    for name in ("gqa", "pope"):
        write_benchmark(tmp_path, name)
    command = ["evaluate", str(model), "--tasks", "gqa,pope", "--data", str(tmp_path), "--limit", "2"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "samples_pope.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["doc"]["answer"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert main(["evaluate", "--rescore", str(tmp_path / "out"), "--profile", "lmms-eval"]) == 1
    assert "samples_pope.jsonl: random-0 cannot be scored: no column answer" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "rescored-lmms-eval" / "results.json").read_text(encoding="utf-8"))
    assert set(results["results"]) == {"gqa"}
    assert set(results["failed"]) == {"pope"}


@pytest.mark.parametrize("name", ["coco_caption", "mmbench_dev", "muirbench", "seedbench_img"])
def test_bad_pictures_are_wrong_listed_and_shift_nothing(model, tmp_path, name):
    def damaged(row):
        names = [key for key, value in row.items() if is_picture(value)]
        bad = {"bytes": picture(0)["bytes"][:60], "path": "cut.png"}
        cut = {key: [bad] * len(row[key]) if isinstance(row[key], list) else bad for key in names}
        return {**row, **cut} if damaged.count == 1 else row

    def each_once(row):
        changed = damaged(row)
        damaged.count += 1
        return changed

    damaged.count = 0
    write_benchmark(tmp_path / "bad", name, change=each_once)
    write_benchmark(tmp_path / "good", name)
    found = []
    for data in ("bad", "good"):
        output = tmp_path / f"o-{data}"
        command = ["evaluate", str(model), "--tasks", name, "--data", str(tmp_path / data), "--output", str(output)]
        assert main(command) == 0
        found.append(read_samples(output / f"samples_{name}.jsonl"))
    bad, good = found
    place = 0 if name == "seedbench_img" else 1  # its first row is a video, and no question
    assert [bool(sample.fault) for sample in bad] == [n == place for n in range(len(good))]
    assert bad[place].fault.startswith("image_")
    assert bad[place].score in (0.0, None)  # a caption's CIDEr is the set's
    for n, (one, other) in enumerate(zip(bad, good, strict=True)):
        assert (one.key, one.gold) == (other.key, other.gold)
        if n != place:
            assert (one.prompt, one.answer) == (other.prompt, other.answer)
    results = json.loads((tmp_path / "o-bad" / "results.json").read_text(encoding="utf-8"))["results"][name]
    assert results["n_faults"] == 1
    assert results["faults"][0].startswith(f"{bad[place].key}: image_")


def is_picture(value):
    if isinstance(value, list):
        return bool(value) and all(is_picture(one) for one in value)
    return isinstance(value, dict) and "bytes" in value


def test_a_row_of_another_form_names_its_file_and_line(tmp_path):
    path = write_benchmark(tmp_path, "vlguard")
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows[2]["instr-resp"] = None
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(BenchmarkDataError, match=r"test-00000-of-00001\.json, row 2: TypeError.*hf download"):
        len(read_docs(benchmark_named("vlguard"), tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.tsv", "index\tquestion\n1\ttwo\tthree\n", "line 2 has more cells"),
        ("data.jsonl", '{"index": 1}\n[2]\n', "no list of objects"),
        ("data.jsonl", '{"index": 1\n', "cannot be read"),
        ("data.json", '{"rows": 7}', "no list of objects"),
        ("data.parquet", "no parquet", "cannot be read"),
    ],
)
def test_files_that_hold_something_else(tmp_path, name, content, message):
    (tmp_path / "MMStar").mkdir()
    (tmp_path / "MMStar" / name).write_text(content, encoding="utf-8")
    with pytest.raises(BenchmarkDataError, match=message):
        read_docs(benchmark_named("mmstar"), tmp_path)


def test_a_set_that_cannot_be_scored_together_says_so():
    """MME's points need two questions a picture, and three are none."""
    benchmark = benchmark_named("mme")
    rows = [{**ROW["mme"](0), "_root": ".", "_place": n} for n in range(3)]
    samples = [sample_of(benchmark, row, Answer(place=n, prompt="", text="yes")) for n, row in enumerate(rows)]
    with pytest.raises(ScoringError, match="the set cannot be scored: ValueError: MME image"):
        judge(benchmark, samples, rules_for(benchmark, "paper", few_shot=False))
