"""METEOR through Java equals the reference's own run; what is missing is said."""

import dataclasses
from pathlib import Path

import pytest
from benchmark_rows import write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.evaluation import java_metrics
from xgenmm.evaluation.answers import Answer
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.cases import read_records
from xgenmm.evaluation.java_metrics import missing, with_java_metrics
from xgenmm.evaluation.scoring import judge, rules_for, sample_of
from xgenmm.model import weights

CASES = Path(__file__).parent / "cases" / "caption_metrics.jsonl"


@pytest.mark.slow
@pytest.mark.skipif(missing("METEOR") != "", reason="needs Java and pycocoevalcap")
def test_meteor_is_the_references():
    """The corpus of the parity data, scored by pycocoevalcap's own run."""
    records = {record["id"]: record for record in read_records(CASES)}
    corpus = next(record for record in records.values() if record["type"] == "aggregate")
    columns = {"key": lambda doc: doc["id"], "gold": lambda doc: doc["references"][0], "case": dict}
    benchmark = dataclasses.replace(benchmark_named("coco_caption"), **columns)
    samples = []
    for place, name in enumerate(corpus["case_ids"]):
        doc = {**records[name]["input"], "id": name}
        samples.append(sample_of(benchmark, doc, Answer(place=place, prompt="", text=doc["prediction"])))
    outcome = judge(benchmark, samples, rules_for(benchmark, "paper", few_shot=False))
    found = with_java_metrics(benchmark, outcome)
    assert found.aggregate["METEOR"] == pytest.approx(corpus["expected"]["pycocoevalcap==1.2"]["METEOR"], abs=1e-6)
    assert {**found.aggregate, "METEOR": 0, "SPICE": 0} == {**outcome.aggregate, "METEOR": 0, "SPICE": 0}


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    processor = make_processor("phi3")
    weights.save(make_answering_model(processor), processor, tmp_path / "weights")
    write_benchmark(tmp_path / "data", "nocaps")
    monkeypatch.setattr(java_metrics.shutil, "which", lambda _: None)
    command = ["evaluate", str(tmp_path / "weights"), "--tasks", "nocaps", "--data", str(tmp_path / "data")]
    assert main([*command, "--java-metrics", "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "METEOR was not computed: there is no java on the PATH." in page
    assert "SPICE was not computed: there is no java on the PATH." in page


def test_spice_is_not_fetched_behind_the_users_back(monkeypatch, tmp_path):
    monkeypatch.setattr(java_metrics.shutil, "which", lambda _: "/usr/bin/java")
    monkeypatch.setattr(java_metrics, "_folder", lambda: tmp_path)
    assert missing("METEOR") == ""
    assert "stanford-corenlp-3.6.0 is not in" in missing("SPICE")
    monkeypatch.setattr(java_metrics, "_folder", lambda: None)
    assert "pip install pycocoevalcap" in missing("METEOR")
