"""Whatever stops a run and wherever: nothing is lost but what is told, and it ends as one that was not stopped."""

import itertools
import json
import os
import random
import signal
import threading
import time

import pytest
import torch
from safetensors import SafetensorError
from trained import Killed, killed_after, metrics, same, weights

from xgenmm.data.quarantine import read_lines
from xgenmm.model.lora import LoraConfig
from xgenmm.training import shards
from xgenmm.training.checkpoint import CheckpointError, latest_checkpoint
from xgenmm.training.health import TrainingError
from xgenmm.training.optim import averaged, lr_share, set_learning_rates
from xgenmm.training.stopping import Stopped
from xgenmm.training.trainer import Trainer


@pytest.fixture(scope="module", params=[{"size": 4}, {"size": None, "rows": 2, "tokens": 128}], ids=["size", "rows"])
def straight(request, make_trainer, tmp_path_factory):
    """A run without interruption, and what its steps hold."""
    trainer = make_trainer(tmp_path_factory.mktemp("straight"), **request.param)
    trainer.run()
    return trainer, request.param


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resume_is_no_interruption(make_trainer, tmp_path, straight, stop):
    whole, batch = straight
    with pytest.raises(Killed):
        make_trainer(tmp_path, **batch, after_step=killed_after(stop)).run()
    resumed = make_trainer(tmp_path, **batch)
    resumed.run()
    assert same(weights(whole), weights(resumed))
    assert metrics(tmp_path) == metrics(whole.folder)
    one, other = (json.loads((folder / "data_report.json").read_text()) for folder in (tmp_path, whole.folder))
    assert one == other


@pytest.mark.parametrize("objective", ["next_token", "dpo"])
def test_resume_is_no_interruption_with_lora_and_dropout(make_trainer, make_model, tmp_path, objective):
    def model():
        model = make_model()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            lora = LoraConfig(rank=2, alpha=4, dropout=0.2 if objective == "next_token" else 0.0)
            model.set_trainable(vision=False, resampler=objective == "next_token", language="lora", lora=lora)
        return model

    straight = make_trainer(tmp_path / "straight", model=model(), objective=objective)
    straight.run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "killed", model=model(), objective=objective, after_step=killed_after(3)).run()
    resumed = make_trainer(tmp_path / "killed", model=model(), objective=objective)
    resumed.run()
    assert same(weights(straight), weights(resumed))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "straight")
    assert not same(weights(straight), dict(model().named_parameters()))


def test_resume_is_no_interruption_with_an_average(make_trainer, tmp_path):
    optim = {"ema": 0.5, "schedule": "wsd", "layer_decay": {"language": 0.7}}
    straight = make_trainer(tmp_path / "straight", optim=optim)
    straight.run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "killed", optim=optim, after_step=killed_after(3)).run()
    resumed = make_trainer(tmp_path / "killed", optim=optim)
    resumed.run()
    assert same(weights(straight), weights(resumed))
    last = weights(resumed)
    with averaged(straight.optimizer), averaged(resumed.optimizer):
        assert same(weights(straight), weights(resumed))
        assert not same(weights(resumed), last)


def test_a_loss_that_is_not_finite_stops_before_the_update(make_trainer, tmp_path):
    def spoil(trainer):
        if trainer.progress.step == 3:
            with torch.no_grad():
                trainer.model.vision_tokenizer.latents[0, 0] = float("nan")
            trainer.spoiled = weights(trainer)

    trainer = make_trainer(tmp_path, after_step=spoil)
    with pytest.raises(TrainingError, match=r"step 3: loss nan .* were not changed"):
        trainer.run()
    after = weights(trainer)
    assert all(torch.equal(after[n].nan_to_num(7), trainer.spoiled[n].nan_to_num(7)) for n in after)
    (report,) = read_lines(tmp_path / "non_finite.jsonl")
    assert (report["step"], report["rank"], report["loss"]) == (3, 0, "nan")
    expected = next(iter(make_trainer(tmp_path).loader.steps(3, 4)))
    assert [document["id"] for document in report["documents"]] == list(expected.batches[0].ids)
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-2"
    assert len(metrics(tmp_path)) == 3


def test_a_gradient_that_is_not_finite_stops_as_well(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.vision_tokenizer.latents.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(trainer)
    with pytest.raises(TrainingError, match=r"gradient norm (inf|nan)"):
        trainer.run()
    assert same(before, weights(trainer))


def infinite_gradients(trainer, calls):
    """Gradients of the resampler's latents are infinite at these calls of backward."""
    seen = itertools.count()
    trainer.model.vision_tokenizer.latents.register_hook(
        lambda gradient: gradient * (float("inf") if next(seen) in calls else 1.0)
    )
    return trainer


def test_a_step_that_is_not_finite_can_be_left_out(make_trainer, tmp_path):
    """The run ends as one in which that step had learning rate 0 and left the moments alone."""
    trainer = infinite_gradients(make_trainer(tmp_path / "left out", health={"skip_in_row": 1}), {1, 3})
    trainer.run()
    lines = metrics(tmp_path / "left out")
    assert [line["loss"] is None for line in lines] == [False, True, False, True, False, False]
    assert lines[1]["incident"]["skipped"]
    assert lines[1]["incident"]["grad_norm"] in ("inf", "nan")
    assert [line["step"] for line in read_lines(tmp_path / "left out/non_finite.jsonl")] == [1, 3]

    by_hand = make_trainer(tmp_path / "by hand")
    by_hand.model.train()
    for step in by_hand.loader.steps(0, 6):
        set_learning_rates(by_hand.optimizer, lr_share(by_hand.config.optim, step.number, 6))
        sums = by_hand.accumulate(step)
        if step.number not in (1, 3):
            by_hand.update(step, sums)
    assert same(weights(trainer), weights(by_hand))


@pytest.mark.parametrize(
    ("health", "calls"), [({"skip_in_row": 1}, {1, 2}), ({"skip_in_row": 1, "skip_in_all": 1}, {1, 4})]
)
def test_too_many_steps_that_are_not_finite_stop_the_run(make_trainer, tmp_path, health, calls):
    """Also where an interruption lies between them."""
    stop = max(calls)

    def save_and_die(trainer):
        if trainer.progress.step == stop:
            trainer.save()
            trainer.checkpoints.wait()
            raise Killed

    with pytest.raises(Killed):
        infinite_gradients(make_trainer(tmp_path, health=health, after_step=save_and_die), calls).run()
    trainer = infinite_gradients(make_trainer(tmp_path, health=health), {0})
    in_row, in_all = (2 if "skip_in_all" not in health else 1), 2
    with pytest.raises(TrainingError, match=rf"step {stop}: .*number {in_row} in a row and {in_all} in all"):
        trainer.run()


def test_a_jump_of_the_loss_is_noted_with_its_samples(make_trainer, tmp_path, caplog):
    def spoil(trainer):
        if trainer.progress.step == 23:
            with torch.no_grad():
                embeddings = trainer.model.language_model.get_output_embeddings().weight
                embeddings.add_(torch.randn_like(embeddings) * 5)

    make_trainer(tmp_path, steps=25, after_step=spoil).run()
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if line["incident"]] == [23, 24]
    incident = lines[23]["incident"]
    losses = sorted(line["loss"] for line in lines[:23])
    spread = sorted(abs(loss - losses[11]) for loss in losses)[11]
    assert incident["spike"] == pytest.approx((lines[23]["loss"] - losses[11]) / (1.4826 * spread))
    step = next(iter(make_trainer(tmp_path / "other").loader.steps(23, 24)))
    assert sorted(incident["ids"]) == sorted(step.sources)
    assert "step 23: loss" in caplog.text


@pytest.mark.slow
def test_stopped_at_twenty_random_steps_it_ends_as_one_that_was_not(make_trainer, tmp_path):
    settings = {"steps": 24, "optim": {"ema": 0.9}, "checkpoint": {"every": 7}}
    straight = make_trainer(tmp_path / "straight", **settings)
    straight.run()
    stops = sorted(random.Random(0).sample(range(1, 24), 20))
    signals = itertools.cycle([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
    for stop, number in zip(stops, signals, strict=False):

        def ask(trainer, stop=stop, number=number):
            if trainer.progress.step == stop:
                os.kill(os.getpid(), number)

        with pytest.raises(Stopped, match=f"stopped after {stop} steps"):
            make_trainer(tmp_path / "stopped", after_step=ask, **settings).run()
    resumed = make_trainer(tmp_path / "stopped", **settings)
    resumed.run()
    assert same(weights(straight), weights(resumed))
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "straight")
    with averaged(straight.optimizer), averaged(resumed.optimizer):
        assert same(weights(straight), weights(resumed))
    one, other = (json.loads((tmp_path / name / "data_report.json").read_text()) for name in ("straight", "stopped"))
    assert one == other


def test_a_step_that_hangs_is_told_with_its_samples(make_trainer, tmp_path, monkeypatch, caplog):
    real = Trainer.accumulate

    def accumulate(self, step):
        if step.number == 2:
            time.sleep(1.0)
        return real(self, step)

    monkeypatch.setattr(Trainer, "accumulate", accumulate)
    make_trainer(tmp_path, steps=3, health={"hang_seconds": 0.9}).run()
    (step,) = make_trainer(tmp_path / "other").loader.steps(2, 3)
    assert f"step 2 takes more than 0.9 s. Its samples: {', '.join(step.sources)}" in caplog.text
    assert "in accumulate" in (tmp_path / "stacks-0.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_end_of_the_step(make_trainer, tmp_path, number):
    def ask(trainer):
        if trainer.progress.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped after 3 steps") as stopped:
        make_trainer(tmp_path, after_step=ask).run()
    assert stopped.value.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}[number]
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-3"
    assert signal.getsignal(number) == before
    straight = make_trainer(tmp_path / "straight")
    straight.run()
    resumed = make_trainer(tmp_path)
    resumed.run()
    assert same(weights(straight), weights(resumed))


def test_a_signal_while_the_last_checkpoint_is_written_is_not_forgotten(make_trainer, tmp_path, monkeypatch):
    """Otherwise the next stage would begin, and know nothing of it."""
    trainer = make_trainer(tmp_path)
    save, calls = trainer.save, []

    def save_and_signal():
        if trainer.progress.step == trainer.config.steps and not calls:
            calls.append(os.kill(os.getpid(), signal.SIGTERM))
        return save()

    monkeypatch.setattr(trainer, "save", save_and_signal)
    with pytest.raises(Stopped, match=f"stopped after {trainer.config.steps} steps"):
        trainer.run()
    resumed = make_trainer(tmp_path)
    assert resumed.run().step == trainer.config.steps
    assert same(weights(trainer), weights(resumed))


def test_a_crash_while_files_of_lines_are_written_anew_loses_none(make_trainer, tmp_path, monkeypatch):
    make_trainer(tmp_path).run()
    before = (tmp_path / "metrics.jsonl").read_text()

    def killed(*_):
        raise Killed

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(Killed):
        make_trainer(tmp_path).run()
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_text() == before
    make_trainer(tmp_path).run()
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_the_second_signal_stops_at_once(make_trainer, tmp_path, monkeypatch):
    def ask(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, after_step=ask).run()
    assert latest_checkpoint(tmp_path / "checkpoints") is None
    # torchrun passes on what a terminal has sent to every process already: that is one request
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(Stopped):
        make_trainer(tmp_path, after_step=ask).run()


@pytest.mark.parametrize(("every", "done"), [(2, 4), (20, 41)])
def test_a_full_disk_stops_with_the_last_good_checkpoint(make_trainer, tmp_path, monkeypatch, every, done):
    """The thread that writes finds it; the run stops in the step that goes on meanwhile, or at the end of a later."""

    def fill(trainer):
        if trainer.progress.step == 2 * every - 1:
            trainer.checkpoints.wait()

            def full(*_):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(shards, "_write_safetensors", full)
        if trainer.progress.step == 2 * every + 1:
            deadline = time.monotonic() + 60
            while not trainer.checkpoints.failed:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    settings = {"steps": 45, "size": 1, "checkpoint": {"every": every}}
    with pytest.raises(CheckpointError, match=rf"step-{2 * every}: .*No space left.*step-{every}, untouched"):
        make_trainer(tmp_path, after_step=fill, **settings).run()
    assert len(metrics(tmp_path)) == done
    monkeypatch.undo()
    straight, resumed = make_trainer(tmp_path / "straight", **settings), make_trainer(tmp_path, **settings)
    straight.run()
    resumed.run()
    assert same(weights(straight), weights(resumed))


def test_training_goes_on_while_a_checkpoint_is_written(make_trainer, tmp_path, monkeypatch):
    """For a twentieth of an interval, here one step: the disk gets going again only when that is done."""
    disk = threading.Event()
    real = shards._write_safetensors
    monkeypatch.setattr(shards, "_write_safetensors", lambda *args: disk.wait(60) and real(*args))
    newest = {}

    def look(trainer):
        newest[trainer.progress.step] = latest_checkpoint(tmp_path / "checkpoints")
        if trainer.progress.step == 21:
            disk.set()

    make_trainer(tmp_path, steps=22, size=1, checkpoint={"every": 20}, after_step=look).run()
    assert newest[21] is None
    assert newest[22] == tmp_path / "checkpoints/step-20"


def test_a_crash_costs_no_more_than_an_interval(make_trainer, tmp_path, monkeypatch):
    """No step is written down as done before the checkpoint of an interval ago is on the disk, however slow that is."""
    real = shards._write_safetensors
    monkeypatch.setattr(shards, "_write_safetensors", lambda *args: (time.sleep(0.1), real(*args))[1])
    lost = []

    def look(trainer):
        path = latest_checkpoint(tmp_path / "checkpoints")
        lost.append(trainer.progress.step - (int(path.name.removeprefix("step-")) if path else 0))

    make_trainer(tmp_path, steps=9, size=1, checkpoint={"every": 2}, after_step=look).run()
    assert lost == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    held_up = [line["speed"]["save_seconds"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert all(seconds > 0 for seconds in held_up[2::2])


def test_a_full_disk_under_the_feature_cache_is_told_as_one(make_trainer, make_model, tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    model = make_model()
    model.use_feature_cache(tmp_path / "features")
    monkeypatch.setattr("xgenmm.model.feature_cache.save_file", full)
    with pytest.raises(OSError, match=r"could not write features to .*No space left"):
        make_trainer(tmp_path, model=model).run()
