"""Given answers: their numbers are those of plain forward passes, however they are shared out; and who wins by them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_rows import write_benchmark
from toy import alone_logp, make_answering_model, make_processor

from xgenmm.evaluation import settings
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.benchmark import Weighing
from xgenmm.evaluation.cases import score_aggregate, score_case
from xgenmm.evaluation.controls import others
from xgenmm.evaluation.run import evaluate_model
from xgenmm.evaluation.samples import Sample, read_samples
from xgenmm.evaluation.scorers.profiles import XGENMM
from xgenmm.evaluation.settings import EvaluationConfig
from xgenmm.model import weights
from xgenmm.types import Conversation, Document, Picture, Turn

TASKS = ("starter_captions", "starter_kind", "starter_several", "starter_preferences")


@pytest.fixture(scope="module")
def toy():
    processor = make_processor("phi3")
    return make_answering_model(processor), processor


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in TASKS:
        write_benchmark(root, name)
    return root


def evaluated(toy, data: Path, output: Path, tasks=TASKS, **others) -> dict[str, list[Sample]]:
    config = EvaluationConfig(weights="toy", tasks=tasks, data=str(data), output=str(output), **others)
    results = evaluate_model(config, *toy)
    return {label: read_samples(output / f"samples_{label}.jsonl") for label in results["labels"]}


def picture(data: Path, sample: Sample) -> Picture:
    return Picture(source=data / "starter" / "heldout" / sample.doc["image"], name="picture")


def test_captions_are_weighed_behind_their_picture_another_and_the_first_ones(toy, data, tmp_path):
    samples = evaluated(toy, data, tmp_path)["starter_captions"]
    assert len(samples) == 4

    def weighed(sample: Sample, text: str) -> float:
        return alone_logp(*toy, Document(id="d", parts=(picture(data, sample), "A picture of")), text)[0]

    for sample, other in zip(samples, others(4), strict=True):
        texts = [sample.doc["caption"], *sample.doc["distractors"]]
        assert sample.logps["seen"] == pytest.approx([weighed(sample, text) for text in texts], abs=1e-3)
        assert sample.logps["shuffled"] == pytest.approx([weighed(samples[other], texts[0])], abs=1e-3)
        prior = [sum(weighed(first, text) for first in samples) / 4 for text in texts]
        assert sample.logps["prior"] == pytest.approx(prior, abs=1e-3)
        evidence = [seen - usual for seen, usual in zip(sample.logps["seen"], sample.logps["prior"], strict=True)]
        assert sample.answer == texts[evidence.index(max(evidence))]
        assert sample.prompt.endswith("<image>A picture of")
    assert len({sample.logps["seen"] for sample in samples}) == 4


def test_preferences_count_the_end_of_an_answer(toy, data, tmp_path):
    for sample in evaluated(toy, data, tmp_path)["starter_preferences"]:
        turn = Turn(role="user", parts=(picture(data, sample), "Describe it."))
        expected = [
            alone_logp(*toy, Conversation(id="c", turns=(turn,)), sample.doc[name], end=True)
            for name in ("chosen", "rejected")
        ]
        assert sample.logps["seen"] == pytest.approx([value for value, _ in expected], abs=1e-3)
        assert sample.tokens == tuple(count for _, count in expected)
        assert sample.result["hit"] == (expected[0][0] > expected[1][0])


def test_white_paper_has_the_questions_number_of_pictures_and_nothing_on_them(toy, data, tmp_path):
    samples = evaluated(toy, data, tmp_path)
    for task, count in (("starter_kind", 1), ("starter_several", 2)):
        assert {sample.prompt.count("<image>") for sample in samples[task]} == {count}
        assert len({sample.logps["blank"] for sample in samples[task]}) == 1  # the same question, without its picture
        assert len({sample.logps["seen"] for sample in samples[task]}) == 4


def test_numbers_are_the_same_to_the_last_bit_after_a_restart(toy, data, tmp_path):
    whole = evaluated(toy, data, tmp_path / "whole")
    for task in TASKS:
        lines = (tmp_path / "whole" / "answers" / f"{task}.0.jsonl").read_text().splitlines(keepends=True)
        path = tmp_path / "cut" / "answers" / f"{task}.0.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines[:1]))
    assert evaluated(toy, data, tmp_path / "cut") == whole


@pytest.mark.slow
def test_two_processes_give_the_same_files(toy, data, tmp_path):
    weights.save(*toy, tmp_path / "weights")
    command = ["-m", "xgenmm.cli", "evaluate", str(tmp_path / "weights"), "--tasks", ",".join(TASKS)]
    command += ["--data", str(data), "--batch-size", "1"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29637"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, launcher in (("one", []), ("two", torchrun)):
        subprocess.run(
            [sys.executable, *launcher, *command, "--output", str(tmp_path / name)],
            check=True,
            capture_output=True,
            env=environment,
        )
    for task in TASKS:
        file = f"samples_{task}.jsonl"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert all(path.stat().st_size for path in (tmp_path / "two" / "answers").glob(f"{task}.*.jsonl"))
        assert len(list((tmp_path / "two" / "answers").glob(f"{task}.*.jsonl"))) == 2


def test_a_damaged_picture_is_a_wrong_answer_and_no_ones_control(toy, tmp_path):
    path = write_benchmark(tmp_path / "data", "starter_captions")
    (path.parent.parent / "pictures" / "2.png").write_bytes(b"damaged")
    samples = evaluated(toy, tmp_path / "data", tmp_path / "out", ("starter_captions",))["starter_captions"]
    assert [bool(sample.fault) for sample in samples] == [False, False, True, False]
    assert samples[2].score == 0
    assert samples[2].logps == {}
    without = others(4).index(2)
    assert ["shuffled" in sample.logps for sample in samples] == [place not in (2, without) for place in range(4)]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]["starter_captions"]
    assert results["accuracy.n,none"] == 4
    assert results["loss.n,none"] == 3
    assert results["n_faults"] == 1


def test_given_answers_behind_demonstrations(toy, tmp_path, monkeypatch):
    """Few-shot rank classification, as any benchmark of the few-shot suite may ask for."""
    vqav2 = benchmark_named("vqav2")
    ranked = dataclasses.replace(
        vqav2,
        scorer="likelihood",
        weighing=Weighing(candidates=lambda _: ["red", "blue"]),
        case=lambda doc: {"candidates": ["red", "blue"], "answer": int(doc["question_id"]) % 2},
        headlines={},
        value=lambda result, _: float(result["hit"]),
        references=(XGENMM,),
    )
    monkeypatch.setattr(settings, "benchmark_named", lambda _: ranked)
    write_benchmark(tmp_path / "data", "vqav2")
    samples = evaluated(toy, tmp_path / "data", tmp_path / "out", ("vqav2",), shots=(2,))["vqav2_2shot"]
    for sample in samples:
        assert sample.prompt.count("<|endofchunk|>") == 2
        assert sample.answer in ("red", "blue")
        assert set(sample.logps) == {"seen"}


CASE = {
    "candidates": ["cat", "dog", "fox"],
    "answer": 1,
    "tokens": [1, 2, 1],
    "logps": {"seen": [-2.0, -3.0, -4.0], "prior": [-1.0, -4.0, -4.0], "blank": [-1.0, -2.0, -9.0]},
}


def test_the_rule_by_hand():
    result = score_case("likelihood", "paper", CASE)
    # over the prior: -1, +1, 0: the dog by one; without the picture 0, +2, -5
    assert result == {
        "loss": 3.0,
        "tokens": 2,
        "picked": "dog",
        "hit": True,
        "margin": 1.0,
        "blank": {"loss": 2.0, "tokens": 2, "picked": "dog", "hit": True, "margin": 2.0},
    }
    plain = {**CASE, "logps": {"seen": [-2.0, -2.0, -4.0]}}
    tied = score_case("likelihood", "lmms-eval", plain)
    assert (tied["hit"], tied["margin"]) == (False, 0.0)  # a tie is wrong, whoever stands first
    figures = score_aggregate("likelihood", "paper", [CASE, plain])
    assert figures["accuracy"]["value"] == 0.5
    assert figures["loss"]["value"] == 1.25  # five nats over four tokens
    assert figures["loss_blank"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert figures["majority"]["value"] == 1.0
