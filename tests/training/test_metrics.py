"""What a run tells: JSON lines that survive a crash, TensorBoard, a terminal, trackers, a page."""

import json
import logging
import math
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xgenmm.config import ConfigError
from xgenmm.phases import PHASES
from xgenmm.training import stage_page
from xgenmm.training.effort import Utilisation
from xgenmm.training.metrics import Incident, Speed, StepRecord, peak_memory_mb
from xgenmm.training.records import open_records
from xgenmm.training.sinks import JsonLines, TensorBoard, Terminal, describe_loss
from xgenmm.training.stage_page import write_stage_page
from xgenmm.training.trackers import Tracker, check_tracker


def record(step, loss=1.5, **changes):
    spent = {"data_wait": 0.1, "vision": 0.05, "lm_forward": 0.1, "backward": 0.2, "optimizer": 0.05}
    speed = Speed(
        seconds=0.5,
        phases={**dict.fromkeys(PHASES, 0.0), **spent},
        tokens_per_second=80.0,
        text_tokens_per_second=50.0,
        vision_tokens_per_second=30.0,
        supervised_tokens_per_second=14.0,
        samples_per_second=4.0,
        wait_share=0.2,
        utilisation=Utilisation(mfu=0.33, hfu=0.4, parts={"vision": 0.13, "linear": 0.2}, peak_tflops=0.5),
        memory_mb=2100.0,
        save_seconds=0.0,
    )
    return StepRecord(
        **{
            "step": step,
            "loss": loss,
            "lr": {"resampler": 1e-3, "language": 1e-5},
            "grad_norm": None if loss is None else 0.3,
            "samples": 2,
            "dropped": 0,
            "tokens": 40,
            "vision_tokens": 15,
            "supervised_tokens": 7,
            "fill": 0.9,
            "targets": 7,
            "source_loss": {"pairs": 1.5},
            "figures": {"reward_accuracy": 0.5},
            "incident": Incident(spike=7.5, ids=("a",)) if step == 1 else None,
            "speed": speed,
            **changes,
        }
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_step_is_a_line_at_once(tmp_path):
    sink = JsonLines(tmp_path, 0)
    sink.write(record(0))
    (line,) = lines(tmp_path)  # before close: a killed run must not lose it
    assert (line["step"], line["loss"], line["lr"]["language"], line["fill"]) == (0, 1.5, 1e-5, 0.9)
    assert line["speed"]["phases"]["backward"] == 0.2
    assert line["speed"]["utilisation"]["parts"]["vision"] == 0.13
    sink.close()


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path):
    sink = JsonLines(tmp_path, 0)
    for step in range(4):
        sink.write(record(step, loss=float(step)))
    sink.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    sink = JsonLines(tmp_path, 2)
    for step in range(2, 5):
        sink.write(record(step, loss=float(step)))
    sink.close()
    assert [line["loss"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]


def test_tensorboard_holds_the_same_numbers(tmp_path):
    sink = TensorBoard(tmp_path, 0)
    sink.write(record(0))
    sink.write(record(1, loss=None))
    sink.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("loss")] == [1.5]
    assert board.Scalars("lr/resampler")[1].value == pytest.approx(1e-3)
    for name, value in {
        "figures/reward_accuracy": 0.5,
        "fill": 0.9,
        "source_loss/pairs": 1.5,
        "speed/vision_tokens_per_second": 30.0,
        "speed/phases/vision": 0.05,
        "speed/utilisation/mfu": 0.33,
        "speed/utilisation/parts/linear": 0.2,
        "speed/memory_mb": 2100.0,
    }.items():
        assert board.Scalars(name)[0].value == pytest.approx(value), name


LINE = (
    "loss 1.500  80 tokens/s (30 vision, 14 supervised)  MFU 33% (HFU 40%)  fill 90%  2.1 GB  "
    "data 20%, vision 10%, forward 20%, backward 40%, optimizer 10%  "
)


def test_without_a_terminal_there_are_plain_lines(caplog):
    with caplog.at_level(logging.INFO):
        sink = Terminal("sft", 0, 3)
        for step in range(3):
            sink.write(record(step, source_loss={"a": 1.0, "b": 2.0} if step else {"a": 1.5}))
        sink.close()
    first, last = (entry.getMessage() for entry in caplog.records)  # not the middle one: too soon
    assert first.startswith(f"sft 1/3  {LINE}")
    assert last.startswith("sft 3/3  loss 1.500 (a 1.000, b 2.000)  ")
    assert last.endswith("  0 s left")


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    sink = Terminal("sft", 0, 2)
    sink.write(record(0))
    sink.write(record(1))
    sink.close()
    shown = capsys.readouterr().err
    for part in ("sft", "2/2", "loss 1.500", *LINE.split("  ")):
        assert part in shown


def test_many_sources_leave_the_bar_and_the_time_their_room(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    sink = Terminal("pretrain", 0, 12)
    losses = {f"source_number_{number}": 1.0 + number for number in range(8)}
    sink.write(record(0, source_loss=losses))
    sink.close()
    lines = capsys.readouterr().err.splitlines()
    (row,) = {line for line in lines if "loss 1.500" in line}
    assert "1/12" in row
    assert ":" in row  # hours and minutes that are left
    for name in losses:
        assert any(name in line for line in lines)


def test_a_step_that_was_left_out_is_not_called_empty():
    assert describe_loss(record(3, loss=None)) == "no data"
    assert describe_loss(record(3, loss=None, incident=Incident(skipped=True))) == "not finite, left out"


class Service:
    """What wandb and trackio have in common, offline."""

    def __init__(self, breaks=()):
        self.begun, self.seen, self.ended, self.breaks = [], {}, 0, breaks

    def module(self):
        return types.SimpleNamespace(init=self.init)

    def init(self, **settings):
        if "init" in self.breaks:
            raise ConnectionError("no route to host")
        self.begun.append(settings)
        return self

    def log(self, numbers, step):
        if "log" in self.breaks:
            raise ConnectionError("no route to host")
        self.seen[step] = numbers

    def finish(self):
        self.ended += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_the_same_numbers(name, tmp_path, monkeypatch):
    service, folder = Service(), tmp_path / "paper" / "sft"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("seed: 3\n")
    monkeypatch.setitem(sys.modules, name, service.module())
    for start in (0, 1):  # the second one resumes
        records = open_records(folder, "sft", start, 2, (), (name,))
        records.write(record(start), ())
        records.close()
    first, second = service.begun
    assert (first["project"], first["name"], first["config"], first["resume"]) == ("paper", "sft", {"seed": 3}, "allow")
    assert second.get("id") == first.get("id")  # the same run goes on
    assert (name == "wandb") == ("id" in first)
    assert sorted(service.seen) == [0, 1]
    assert service.seen[1]["speed/utilisation/mfu"] == 0.33
    assert service.seen[0]["source_loss/pairs"] == 1.5
    assert service.ended == 2


@pytest.mark.parametrize("breaks", ["init", "log"])
def test_a_tracker_that_fails_is_left_out_and_training_goes_on(breaks, tmp_path, monkeypatch, caplog):
    service = Service(breaks=(breaks,))
    monkeypatch.setitem(sys.modules, "trackio", service.module())
    tracker = Tracker("trackio", tmp_path)
    tracker.write(record(0))
    tracker.write(record(1))
    tracker.close()
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]  # told once
    assert "no route to host" in caplog.text


def test_a_tracker_that_is_not_installed_is_a_mistake_in_the_recipe(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"recipe.trackers: the package wandb is not installed; pip install wandb"):
        check_tracker("wandb")


class Page(HTMLParser):
    """Text, charts, and whatever would be fetched from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.words, self.charts, self.outside = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.charts += tag == "svg"
        self.outside += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_data(self, data):
        self.words.append(data)


def test_a_stage_has_a_page_of_its_own(tmp_path):
    folder = tmp_path / "paper" / "sft"
    folder.mkdir(parents=True)
    records = open_records(folder, "sft", 0, 500, ())
    for step in range(500):
        loss = None if step == 3 else 3.0 - step / 500
        sources = {"ocr & text": 3.0} if step % 2 else {"ocr & text": 3.0, "captions": 1.0}
        records.write(record(step, loss=loss, source_loss=sources if loss else {}), ())
    records.close()
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    assert page.outside == []
    assert page.charts == 9
    for said in (
        *("paper · sft", "1 to 500", "20,000: 12,500 text, 7,500 vision; 3,500 supervised", "ocr & text", "captions"),
        *("250.0 s, a step 0.500 s", "data wait 20.0%", "33.0% of 0.5 TFLOP/s; 40.0% with what is computed again"),
        *("Step 1: the loss lay 7.5 robust standard deviations above the last ones", "90.0%", "2.10 GB"),
    ):
        assert said in words, said
    assert "computed again" in words  # a layer of its own, over the parts of MFU
    polylines = re.findall(r'<polyline points="([^"]*)"', text)
    assert max(len(line.split()) for line in polylines) <= 240
    assert len(text) < 200_000


def test_a_page_that_cannot_be_written_hides_no_other_error(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage_page, "write_whole", full)
    records = open_records(tmp_path, "sft", 0, 5, ())
    records.write(record(0), ())
    records.close()
    assert "report.html is not up to date: [Errno 28] No space left on device" in caplog.text


def test_before_the_first_step_there_is_no_page(tmp_path):
    open_records(tmp_path, "sft", 0, 5, ()).close()
    assert write_stage_page(tmp_path) is None


def test_peak_memory_is_that_of_the_kernel():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc on this system")
    kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert math.isclose(peak_memory_mb(torch.device("cpu")), kilobytes * 1024 / 1e6, rel_tol=0.05)
