"""Our weights inside lmms-eval 0.7.3: its own command, a local task, and the answers that we give ourselves.

Runs where lmms-eval is installed. It asks for another filelock than we have, so it is no dependency of our tests:
`make lmms-eval` makes an environment for it and runs this there.
"""

import json
import os
import subprocess
import sys

import pytest
from benchmark_rows import write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.source import read_docs
from xgenmm.inference.generate import generate
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model import weights
from xgenmm.types import Conversation, Turn

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

TASK = """
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {path}}}}}
task: local_pope
test_split: test
output_type: generate_until
doc_to_visual: !function local.visuals
doc_to_text: !function local.question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, temperature: 0, do_sample: false}}
process_results: !function local.score
metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
metadata: [{{version: 0.0}}]
"""
FUNCTIONS = """
import io
from PIL import Image

def visuals(doc):
    image = doc["image"]
    image = image if hasattr(image, "convert") else Image.open(io.BytesIO(image["bytes"]))
    return [image.convert("RGB")]

def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"].strip() + "\\nAnswer the question using a single word or phrase."

def score(doc, results):
    return {"right": float(results[0].strip().lower() == doc["answer"])}
"""


@pytest.mark.slow
def test_answers_inside_the_harness_are_ours(tmp_path):
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    weights.save(model, processor, tmp_path / "weights")
    path = write_benchmark(tmp_path / "data", "pope")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(TASK.format(path=path))
    (tmp_path / "tasks" / "local.py").write_text(FUNCTIONS)
    command = [sys.executable, "-m", "lmms_eval", "--model", "xgenmm", "--tasks", "local_pope", "--batch_size", "2"]
    command += [
        "--model_args",
        f"pretrained={tmp_path / 'weights'},device=cpu",
        "--include_path",
        str(tmp_path / "tasks"),
    ]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    samples = list((tmp_path / "out").rglob("*samples*.jsonl"))
    # The harness ends with 0 even where it failed.
    told = done.stdout[-1500:] + done.stderr[-3000:]
    assert done.returncode == 0, told
    assert len(samples) == 1, told
    lines = sorted(map(json.loads, samples[0].read_text().splitlines()), key=lambda line: line["doc_id"])
    answers = [line["filtered_resps"] for line in lines]
    benchmark = benchmark_named("pope")
    docs = read_docs(benchmark, tmp_path / "data")
    asked = [
        Conversation(id="x", turns=(Turn(role="user", parts=benchmark.parts(doc, "lmms-eval==0.7.3")),)) for doc in docs
    ]
    ours = generate(model, processor, asked, GenerationConfig(max_new_tokens=8))
    assert answers == [text.strip() for text in ours]  # the harness strips
    assert len(set(answers)) > 1
