"""The batch script for Slurm, with stand-ins for Slurm's own commands: preempted, it saves, requeues, and goes on."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from xgenmm.config import read_recipe
from xgenmm.data.quarantine import read_lines
from xgenmm.training.checkpoint import latest_checkpoint
from xgenmm.training.stopping import EXIT_PREEMPTED

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm.sbatch"
COMMANDS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; "$@" & echo $! > "$FOLDER/step"; wait $!',
    # Slurm signals every process of a job's steps, whatever groups and sessions they have made for themselves.
    "scancel": """[ "$*" = "--signal=USR1 42" ] || exit 1
        family() { echo "$1"; for child in $(pgrep -P "$1"); do family "$child"; done; }
        kill -USR1 $(family "$(cat "$FOLDER/step")")""",
    "scontrol": 'case "$1" in show) echo localhost;; *) echo "$@" >> "$FOLDER/requeued";; esac',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


def test_bash_can_read_the_script():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.fixture
def slurm(tmp_path):
    """An environment with Slurm's commands and variables, for one machine with two GPUs (that are processes here)."""
    for name, body in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_NODELIST": "node1"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, **job, "PATH": path, "FOLDER": str(tmp_path), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_preempted_job_stands_in_the_queue_again_and_goes_on(slurm, toy_folder, tmp_path):
    recipe = read_recipe("debug", [])
    recipe["stages"] = [{**recipe["stages"][0], "steps": 5000, "checkpoint": {"every": 5000}}]
    text = yaml.safe_dump(recipe).replace("runs/toy", str(toy_folder))
    (tmp_path / "recipe.yaml").write_text(text)
    stage = tmp_path / "debug" / "pretrain"
    command = ["bash", SCRIPT, tmp_path / "recipe.yaml", f"output={tmp_path}"]
    saved = []
    for _ in range(2):
        with (tmp_path / "log").open("ab") as log:
            job = subprocess.Popen(command, env=slurm, cwd=tmp_path, stdout=log, stderr=log)
        begun = saved[-1] if saved else 0
        until = time.monotonic() + 240
        while len(read_lines(stage / "metrics.jsonl") if stage.is_dir() else []) < begun + 2:
            assert job.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)  # what `#SBATCH --signal=B:USR1` sends: to the script alone
        assert job.wait(timeout=120) == EXIT_PREEMPTED, (tmp_path / "log").read_text()
        newest = latest_checkpoint(stage / "checkpoints")
        saved.append(int(newest.name.removeprefix("step-")))
    assert (tmp_path / "requeued").read_text().splitlines() == ["requeue 42"] * 2
    assert 2 <= saved[0] < saved[1]
    assert [line["step"] for line in read_lines(stage / "metrics.jsonl")] == list(range(saved[1]))
