"""What a run tells: JSON lines that survive a crash, TensorBoard, lines in a log."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xgenmm.training.metrics import Incident, Journal, Speed, StepRecord, peak_memory_mb


def record(step, loss=1.5):
    speed = Speed(
        seconds=0.5, tokens_per_second=80.0, samples_per_second=4.0, wait_share=0.25, memory_mb=10.0, save_seconds=0.0
    )
    return StepRecord(
        step=step,
        loss=loss,
        lr={"resampler": 1e-3, "language": 1e-5},
        grad_norm=None if loss is None else 0.3,
        samples=2,
        dropped=0,
        tokens=40,
        padding=0.1,
        targets=7,
        source_loss={"pairs": 1.5},
        figures={"reward_accuracy": 0.5},
        incident=Incident(spike=7.5, ids=("a",)),
        speed=speed,
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_step_is_a_line_at_once(tmp_path):
    journal = Journal(tmp_path, "test", 0, 2)
    journal.write(record(0))
    (line,) = lines(tmp_path)  # before close: a killed run must not lose it
    assert (line["step"], line["loss"], line["lr"]["language"], line["speed"]["wait_share"]) == (0, 1.5, 1e-5, 0.25)
    journal.close()


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path):
    journal = Journal(tmp_path, "test", 0, 5)
    for step in range(4):
        journal.write(record(step, loss=float(step)))
    journal.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    journal = Journal(tmp_path, "test", 2, 5)
    for step in range(2, 5):
        journal.write(record(step, loss=float(step)))
    journal.close()
    assert [line["loss"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]


def test_tensorboard_holds_the_same_numbers(tmp_path):
    journal = Journal(tmp_path, "test", 0, 2)
    journal.write(record(0))
    journal.write(record(1, loss=None))
    journal.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("loss")] == [1.5]
    assert board.Scalars("lr/resampler")[1].value == pytest.approx(1e-3)
    assert board.Scalars("figures/reward_accuracy")[0].value == 0.5
    assert board.Scalars("speed/tokens_per_second")[0].value == 80.0


def test_without_a_terminal_there_are_plain_lines(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        journal = Journal(tmp_path, "sft", 0, 3)
        for step in range(3):
            journal.write(record(step))
        journal.close()
    first, last = (entry.getMessage() for entry in caplog.records)  # not the middle one: too soon
    assert first.startswith("sft 1/3  loss 1.500  80 tokens/s  waits for data 25%  ")
    assert last.startswith("sft 3/3")
    assert last.endswith("  0 s left")


def test_on_a_terminal_there_is_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    journal = Journal(tmp_path, "sft", 0, 2)
    journal.write(record(0))
    journal.write(record(1))
    journal.close()
    shown = capsys.readouterr().err
    assert "sft" in shown
    assert "2/2" in shown
    assert "80 tokens/s" in shown


def test_peak_memory_is_that_of_the_kernel():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc on this system")
    kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert math.isclose(peak_memory_mb(torch.device("cpu")), kilobytes * 1024 / 1e6, rel_tol=0.05)
