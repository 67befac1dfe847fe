"""`xgenmm evaluate` from end to end, on a toy model and rows with the published columns."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmark_rows import COLOURS, ROW, picture, write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.evaluation import run as runs
from xgenmm.evaluation import settings as evaluation_settings
from xgenmm.evaluation.answers import Answer, AnswerStore
from xgenmm.evaluation.benchmarks import benchmark_named, benchmarks
from xgenmm.evaluation.rescoring import rescore
from xgenmm.evaluation.run import evaluate, evaluate_model
from xgenmm.evaluation.samples import read_samples
from xgenmm.evaluation.scorers.profiles import PROFILES
from xgenmm.evaluation.settings import EvaluationConfig, EvaluationError
from xgenmm.inference.load import load
from xgenmm.model import weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy model, and the data of all benchmarks."""
    root = tmp_path_factory.mktemp("evaluate")
    processor = make_processor("phi3")
    weights.save(make_answering_model(processor), processor, root / "weights")
    for name in ROW:
        write_benchmark(root / "data", name)
    return root


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """The toy model never ends by itself."""

    def short(name):
        benchmark = benchmark_named(name)
        return dataclasses.replace(benchmark, max_new_tokens=min(benchmark.max_new_tokens, 16))

    monkeypatch.setattr(evaluation_settings, "benchmark_named", short)


def settings(folder: Path, output: str, tasks: tuple[str, ...], **others) -> EvaluationConfig:
    names = {"weights": str(folder / "weights"), "data": str(folder / "data"), "output": str(folder / output)}
    return EvaluationConfig(**{**names, "tasks": tasks, **others})


def test_every_benchmark_has_rows_here():
    assert set(ROW) == set(benchmarks())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_benchmark_is_read_asked_and_scored(folder, profile):
    path = evaluate(settings(folder, f"all-{profile}", tuple(ROW), profile=profile))
    results = json.loads(path.read_text(encoding="utf-8"))
    assert set(results["results"]) == set(ROW)
    for name, result in results["results"].items():
        assert result["references"], name
        assert result["headline,none"] is not None, name
        assert result["n_faults"] == 0, (name, result["faults"])
        lines = read_samples(path.parent / f"samples_{name}.jsonl")
        assert results["n-samples"][name]["effective"] == len(lines) > 0
        assert all("<image>" in line.prompt for line in lines), name
    # Rows that are not part of a benchmark are no questions: a video, the other type of CV-Bench.
    assert [len(read_samples(path.parent / f"samples_{n}.jsonl")) for n in ("seedbench_img", "cvbench_2d")] == [3, 2]
    assert "<svg" in (path.parent / "report.html").read_text(encoding="utf-8")
    fresh = rescore(path.parent, profile)  # no model: from the samples alone
    assert json.loads(fresh.read_text(encoding="utf-8"))["results"] == results["results"]
    for name in ROW:
        file = f"samples_{name}.jsonl"
        assert (fresh.parent / file).read_bytes() == (path.parent / file).read_bytes()


def test_perfect_answers_get_the_full_number(folder, monkeypatch):
    """The gold answer in place of the model's must score 100 wherever gold alone decides."""
    perfect = {
        **dict.fromkeys(["vqav2", "textvqa", "okvqa", "vizwiz"], lambda doc: COLOURS[doc["_place"]]),
        **dict.fromkeys(["seedbench_img", "seedbench_v2", "mmstar", "mmbench_dev", "muirbench"], lambda d: d["answer"]),
        **dict.fromkeys(["blink", "cvbench_2d", "cvbench_3d"], lambda doc: doc["answer"].strip("()")),
        **dict.fromkeys(["ai2d"], lambda doc: "ABCD"[int(doc["answer"])]),
        **dict.fromkeys(["scienceqa_img"], lambda doc: "ABC"[doc["answer"]]),
        **dict.fromkeys(["docvqa", "infovqa", "ocrbench"], lambda doc: (doc.get("answers") or doc["answer"])[0]),
        **dict.fromkeys(["chartqa", "gqa", "mme", "pope", "mathvista_testmini"], lambda doc: doc["answer"]),
        "hallusionbench": lambda doc: ("No", "Yes")[int(doc["gt_answer"])],
        "qbench2": lambda doc: doc["correct_choice"],
        "mmvet": lambda doc: doc["answer"].split("<OR>")[0],
    }
    monkeypatch.setattr(runs, "ask", _answers_with(perfect))
    path = evaluate(settings(folder, "perfect", tuple(perfect)))
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    numbers = {name: result["headline,none"] for name, result in results.items()}
    # Two defects of references are part of their numbers: OCRBench divides by 1,000 whatever there is; and of MME's
    # sums only one category is there, 200 of 2,800. VQA: 7 of 10 agree, so the leave-one-out mean is 1.
    assert numbers.pop("ocrbench") == pytest.approx(100 * 4 / 1000)
    assert numbers.pop("mme") == pytest.approx(100 * 200 / 2800)
    # Of the two floating-point questions VLMEvalKit reads neither as a choice: they need no judge either.
    assert all(number == pytest.approx(100) for number in numbers.values()), numbers
    assert all(result["score,none"] == pytest.approx(1) for result in results.values()), results


def _answers_with(perfect):
    def ask(queries, items, store, _batch_size, advance):
        for item in items:
            text = str(perfect[queries.benchmark.name](queries.docs[item.test]))
            store.add([Answer(place=item.test, prompt="", text=text)])
        advance(len(items))

    return ask


def test_the_same_answers_at_every_batch_size(folder):
    tasks = ("mantis_eval", "mmmu_val", "vqav2", "qbench2")
    paths = [evaluate(settings(folder, f"batch{n}", tasks, batch_size=n)) for n in (1, 2, 8)]
    for task in tasks:
        texts = [(path.parent / f"samples_{task}.jsonl").read_bytes() for path in paths]
        assert texts[0] == texts[1] == texts[2]
    assert len({sample.answer for sample in read_samples(paths[0].parent / "samples_vqav2.jsonl")}) > 1


def test_few_shot_shows_demonstrations_and_their_pictures(folder):
    path = evaluate(settings(folder, "shots", ("vqav2", "coco_caption"), shots=(0, 2), trials=2))
    samples = read_samples(path.parent / "samples_vqav2_2shot_trial0.jsonl")
    for sample in samples:
        shown = [f"<image>Question:what colour is picture {n}? Short answer:{COLOURS[n]}<|endofchunk|>\n"
                 for n in sample.demonstrations]  # fmt: skip
        question = f"<image>Question:what colour is picture {sample.place}? Short answer:"
        assert sample.prompt == "".join([*shown, question])
        assert len(sample.demonstrations) == 2
    captions = read_samples(path.parent / "samples_coco_caption_2shot_trial1.jsonl")
    first = captions[0]
    assert first.prompt.startswith(f"<image>Output:a {COLOURS[first.demonstrations[0]]} thing<|endofchunk|>\n")
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["n-shot"] == {"vqav2_0shot": 0, "vqav2_2shot": 2, "coco_caption_0shot": 0, "coco_caption_2shot": 2}
    assert results["results"]["vqav2_2shot"]["trials"] == 2
    drawn = [read_samples(path.parent / f"samples_vqav2_2shot_trial{n}.jsonl") for n in (0, 1)]
    assert [s.demonstrations for s in drawn[0]] != [s.demonstrations for s in drawn[1]]


def test_a_shared_beginning_changes_no_answer(folder, monkeypatch):
    tasks = ("vqav2", "coco_caption")
    shared = evaluate(settings(folder, "fixed", tasks, shots=(2,), selection="fixed"))
    monkeypatch.setattr("xgenmm.evaluation.asking.FewShotQueries._read_beginning", lambda *_: None)
    whole = evaluate(settings(folder, "fixed-whole", tasks, shots=(2,), selection="fixed"))
    for task in tasks:
        name = f"samples_{task}_2shot.jsonl"
        assert (shared.parent / name).read_bytes() == (whole.parent / name).read_bytes()
        assert len({sample.demonstrations for sample in read_samples(shared.parent / name)}) == 1


def test_rices_shows_the_most_similar_last(folder):
    path = evaluate(settings(folder, "rices", ("vqav2",), shots=(2,), selection="rices"))
    # The train split holds the test split's pictures: the most similar one is the same picture.
    samples = read_samples(path.parent / "samples_vqav2_2shot.jsonl")
    assert [sample.demonstrations[-1] for sample in samples] == [sample.place for sample in samples]


def test_text_only_zero_shot_has_two_demonstrations_without_pictures(folder):
    path = evaluate(settings(folder, "zero", ("vqav2",), text_only_zero_shot=True))
    for sample in read_samples(path.parent / "samples_vqav2_0shot.jsonl"):
        assert sample.prompt.count("<image>") == 1
        assert sample.prompt.count("Short answer:") == 3


def test_damaged_pictures_are_counted_wrong_and_in_their_place(folder, tmp_path):
    bad = {1: {"bytes": b"not a picture", "path": "1.png"}, 2: None}

    def damaged(row):
        place = int(row["question_id"])
        return {**row, "image": bad.get(place, row["image"])}

    write_benchmark(tmp_path, "pope", change=damaged)
    path = evaluate(settings(folder, "damaged", ("pope",), data=str(tmp_path), profile="lmms-eval"))
    result = json.loads(path.read_text(encoding="utf-8"))["results"]["pope"]
    samples = read_samples(path.parent / "samples_pope.jsonl")
    assert [bool(sample.fault) for sample in samples] == [False, True, True, False]
    assert [sample.fault.partition(":")[0] for sample in samples[1:3]] == ["image_not_decodable", "image_missing"]
    assert [sample.score for sample in samples[1:3]] == [0.0, 0.0]
    assert result["n_faults"] == 2
    assert len(result["faults"]) == 2
    assert result["faults"][0].startswith("random-1: image_not_decodable")
    whole = read_samples(
        evaluate(settings(folder, "whole", ("pope",), profile="lmms-eval")).parent / "samples_pope.jsonl"
    )
    assert [samples[n].answer for n in (0, 3)] == [whole[n].answer for n in (0, 3)]


@pytest.mark.parametrize("name", ["pope", "mme", "hallusionbench", "mathvista_testmini", "vlguard", "vqav2", "ai2d"])
def test_what_cannot_be_asked_is_wrong_under_every_rule(folder, tmp_path, name):
    def damaged(row):
        column = "decoded_image" if "decoded_image" in row else "image"
        return {**row, column: {"bytes": b"broken", "path": "broken.png"}}

    path = write_benchmark(tmp_path, name, change=damaged)
    if name == "vlguard":
        for picture_file in path.parent.glob("*.png"):
            picture_file.write_bytes(b"broken")
    for profile in PROFILES:
        results = evaluate(settings(folder, f"broken-{name}-{profile}", (name,), data=str(tmp_path), profile=profile))
        result = json.loads(results.read_text(encoding="utf-8"))["results"][name]
        assert result["n_faults"] == json.loads(results.read_text())["n-samples"][name]["effective"]
        assert result["headline,none"] == (100 if name == "vlguard" else 0)
        assert result["score,none"] == 0


def test_missing_data_and_columns_stop_only_their_task(folder, tmp_path, capsys):
    write_benchmark(tmp_path, "ai2d")
    write_benchmark(tmp_path, "chartqa", change=lambda row: {k: v for k, v in row.items() if k != "answer"})
    command = ["evaluate", str(folder / "weights"), "--tasks", "ai2d,chartqa,pope", "--data", str(tmp_path)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "no column answer" in told
    assert "test-00000-of-00001.parquet" in told
    assert "lmms-lab/POPE" in told
    assert "2 of 3 tasks could not be evaluated: chartqa, pope" in told
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert set(results["results"]) == {"ai2d"}
    assert set(results["failed"]) == {"chartqa", "pope"}


def test_rescoring_under_other_rules(folder):
    path = evaluate(settings(folder, "rescored", ("pope", "chartqa", "vqav2"), profile="vlmevalkit"))
    other = json.loads(rescore(path.parent, "lmms-eval").read_text(encoding="utf-8"))
    assert other["profile"] == "lmms-eval"
    assert other["config"]["asked_under"] == "vlmevalkit"
    assert other["results"]["pope"]["references"] == ["lmms-eval==0.7.3"]
    assert json.loads(path.read_text(encoding="utf-8"))["profile"] == "vlmevalkit"


def test_comparison_of_two_folders(folder, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    for target in (first, second):
        evaluate(settings(folder, str(target), ("gqa", "chartqa")))
    lines = [json.loads(line) for line in (second / "samples_gqa.jsonl").read_text().splitlines()]
    for line in lines[:3]:
        line["score"] = 1.0
    (second / "samples_gqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", "--compare", str(first), str(second), "--output", str(tmp_path / "cmp")]) == 0
    found = {one["label"]: one for one in json.loads((tmp_path / "cmp" / "comparison.json").read_text())["tasks"]}
    assert found["gqa"]["difference"] == pytest.approx(0.75)
    assert (found["gqa"]["gained"], found["gqa"]["lost"]) == (3, 0)
    assert found["gqa"]["p_value"] == pytest.approx(2 / 2**3)  # three heads in three throws, two-sided
    # groups are pictures, two questions each: the interval comes from resampling two groups
    assert (found["gqa"]["low"], found["gqa"]["high"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert found["chartqa"]["difference"] == 0
    assert "gqa" in capsys.readouterr().out
    assert main(["evaluate", "--compare", str(first), str(tmp_path / "nothing")]) == 2


def test_a_folder_belongs_to_one_configuration(folder):
    evaluate(settings(folder, "claimed", ("gqa",), profile="vlmevalkit"))
    with pytest.raises(ConfigError, match="profile was vlmevalkit and is now lmms-eval"):
        evaluate(settings(folder, "claimed", ("gqa",), profile="lmms-eval"))
    evaluate(settings(folder, "claimed", ("gqa", "chartqa"), profile="vlmevalkit"))  # more tasks are welcome


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ("vqa2",)}, 'did you mean "vqav2"'),
        ({"tasks": ("vqav2",), "profile": "lmms"}, "there is no profile"),
        ({"tasks": ("vqav2",), "shots": (-1,)}, "--shots"),
        ({"tasks": ("vqav2",), "limit": 0}, "--limit"),
        ({"tasks": ()}, "names no benchmark"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(wrong, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(weights="w", output="o", **wrong)


@pytest.mark.slow
def test_a_killed_evaluation_ends_in_the_same_file(folder, tmp_path):
    tasks = ("vqav2", "pope", "mme", "textvqa", "gqa")
    whole = evaluate(settings(folder, str(tmp_path / "whole"), tasks, batch_size=1)).parent
    command = [sys.executable, "-m", "xgenmm.cli", "evaluate", str(folder / "weights"), "--tasks", ",".join(tasks)]
    command += ["--data", str(folder / "data"), "--output", str(tmp_path / "killed"), "--batch-size", "1"]
    answers = tmp_path / "killed" / "answers"
    killed = 0
    for stop_at in (2, 9):  # answers after which the process dies
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and _count(answers) < stop_at:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed
    assert 0 < _count(answers) < 4 * len(tasks)
    subprocess.run(command, check=True, capture_output=True)
    for task in tasks:
        name = f"samples_{task}.jsonl"
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes()


def _count(answers: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in answers.glob("*.jsonl"))


@pytest.mark.slow
def test_two_processes_give_the_same_files(folder, tmp_path):
    tasks = ("vqav2", "pope", "coco_caption")
    options = ["--tasks", ",".join(tasks), "--data", str(folder / "data"), "--shots", "0,2", "--batch-size", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631"]
    command = [*torchrun, "-m", "xgenmm.cli", "evaluate", str(folder / "weights"), *options]
    subprocess.run(
        [*command, "--output", str(tmp_path / "two")],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    one = evaluate(settings(folder, str(tmp_path / "one"), tasks, shots=(0, 2), batch_size=2)).parent
    names = sorted(path.name for path in one.glob("samples_*.jsonl"))
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (one / name).read_bytes()
    parts = list((tmp_path / "two" / "answers").glob("pope.*.jsonl"))
    assert len(parts) == 2
    assert all(part.stat().st_size for part in parts)


def test_a_line_that_a_crash_cut_is_answered_again(tmp_path):
    store = AnswerStore(tmp_path, "task", 0)
    store.add([Answer(place=0, prompt="p", text="first"), Answer(place=1, prompt="p", text="second")])
    path = tmp_path / "task.0.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    again = AnswerStore(tmp_path, "task", 0)
    assert list(again.answers) == [0]
    again.add([Answer(place=1, prompt="p", text="second")])
    assert [answer.text for answer in AnswerStore(tmp_path, "task", 1).answers.values()] == ["first", "second"]


def test_tables_of_vlmevalkit_are_read(folder, tmp_path):
    """Its TSV has the picture as base64 text and numbers as text."""
    import base64
    import csv

    path = tmp_path / "Lin-Chen" / "MMStar" / "MMStar_val.tsv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [{**ROW["mmstar"](n), "image": base64.b64encode(picture(n)["bytes"]).decode()} for n in range(3)]
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    results = evaluate(settings(folder, str(tmp_path / "tsv"), ("mmstar",), data=str(tmp_path)))
    parquet = evaluate(settings(folder, str(tmp_path / "parquet"), ("mmstar",), limit=3))
    answers = [[s.answer for s in read_samples(p.parent / "samples_mmstar.jsonl")] for p in (results, parquet)]
    assert answers[0] == answers[1]


def test_another_place_of_the_data_is_a_setting(folder, tmp_path):
    path = write_benchmark(tmp_path, "gqa")
    sources = {"gqa": str(path.parent.parent)}
    results = evaluate(settings(folder, str(tmp_path / "o"), ("gqa",), data=str(tmp_path / "no"), sources=sources))
    assert json.loads(results.read_text())["n-samples"]["gqa"]["effective"] == 4


def test_a_name_that_leads_out_of_the_data_is_refused(folder, tmp_path):
    path = write_benchmark(tmp_path, "vlguard")
    rows = json.loads(path.read_text())
    rows[0]["image"] = "../../../../etc/hostname.png"
    path.write_text(json.dumps(rows))
    results = evaluate(settings(folder, str(tmp_path / "o"), ("vlguard",), data=str(tmp_path)))
    faults = json.loads(results.read_text())["results"]["vlguard"]["faults"]
    assert len(faults) == 2
    assert all("path_escape" in fault for fault in faults)


def test_all_failed_is_an_error(folder, tmp_path):
    with pytest.raises(EvaluationError, match="1 of 1 tasks"):
        evaluate(settings(folder, str(tmp_path / "o"), ("gqa",), data=str(tmp_path)))


def test_a_model_in_training_is_evaluated_by_one_process_that_waits_for_nobody(folder, monkeypatch, tmp_path):
    """The other processes of the training wait for it elsewhere: a barrier of its own would meet theirs."""

    def nobody_comes(*_, **__):
        raise AssertionError("waited for the other processes")

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.barrier", nobody_comes)
    model, processor = load(folder / "weights")
    results = evaluate_model(settings(folder, str(tmp_path / "o"), ("pope",), limit=2), model, processor)
    assert results["n-samples"]["pope"] == {"original": 4, "effective": 2}


def test_notes_name_what_did_not_run(folder):
    path = evaluate(settings(folder, "okvqa", ("okvqa",), shots=(2,)))
    notes = json.loads(path.read_text(encoding="utf-8"))["configs"]["okvqa_2shot"]["metadata"]["notes"]
    assert "stemming did not run" in notes
    assert benchmark_named("okvqa").notes in notes


def test_a_limit_may_part_the_questions_of_a_picture(folder):
    path = evaluate(settings(folder, "limited", ("mme",), limit=3))
    assert json.loads(path.read_text(encoding="utf-8"))["n-samples"]["mme"] == {"original": 4, "effective": 3}
