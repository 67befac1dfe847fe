"""Signals to the command as a scheduler or a person sends them, and its exit codes."""

import signal
import subprocess
import sys
import time

import pytest

from xgenmm.data.quarantine import read_lines

PATIENCE = 180


@pytest.fixture
def command(toy_folder, tmp_path):
    """Starts `xgenmm train` on a long stage of one sample a step."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/toy").symlink_to(toy_folder)
    stage = {"steps": 5000, "batch.size": 1, "batch.micro": 1, "checkpoint.every": 1000}
    settings = [f"stages.pretrain.{name}={value}" for name, value in stage.items()]
    started = []

    def start():
        line = [sys.executable, "-m", "xgenmm.cli", "train", "debug", *settings]
        process = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps(folder):
    return len(read_lines(folder / "runs/debug/pretrain/metrics.jsonl"))


@pytest.mark.slow
def test_preempted_it_saves_and_says_how_to_go_on(command, tmp_path):
    process = command()
    wait_for(lambda: steps(tmp_path) >= 3)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    done = steps(tmp_path)
    assert said.strip().endswith(f"stopped after {done} steps and saved; the same command goes on from there")
    assert (tmp_path / f"runs/debug/pretrain/checkpoints/step-{done}/manifest.json").is_file()


@pytest.mark.slow
def test_preempted_before_the_first_step_it_leaves(command, tmp_path):
    process = command()
    wait_for(lambda: (tmp_path / "runs/debug/lock").exists())
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75


STUCK = """
import hashlib
from xgenmm.training.stopping import asked_to_stop
with asked_to_stop():
    print("waiting", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # without a moment for Python, as in a collective
"""


def test_a_second_signal_ends_a_process_that_waits_for_another():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
    finally:
        process.kill()
        process.communicate()
