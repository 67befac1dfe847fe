"""The loop: however a step is cut, the same weights and the same records come out."""

import dataclasses
import json
import types

import pytest
import torch
from trained import gradients, metrics, same, weights

from xgenmm import phases
from xgenmm.data.quarantine import DataError, read_lines
from xgenmm.model.resampler import PerceiverResampler
from xgenmm.training import sums


def test_the_same_recipe_twice_gives_the_same_bits(make_trainer, tmp_path):
    one, other = make_trainer(tmp_path / "one"), make_trainer(tmp_path / "other")
    one.run()
    other.run()
    assert same(weights(one), weights(other))
    assert metrics(tmp_path / "one") == metrics(tmp_path / "other")
    third = make_trainer(tmp_path / "third", seed=1)
    third.run()
    assert not same(weights(one), weights(third))


def test_it_learns(make_trainer, tmp_path):
    make_trainer(tmp_path, steps=40, size=8).run()
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("objective", ["next_token", "dpo"])
def test_micro_batches_change_nothing(make_trainer, tmp_path, objective):
    whole, whole_gradients = gradients(make_trainer(tmp_path / "8", size=8, objective=objective))
    for micro in (4, 3, 1):
        cut, cut_gradients = gradients(make_trainer(tmp_path / str(micro), size=8, micro=micro, objective=objective))
        assert cut.count == whole.count
        assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
        assert cut.source_losses["toy"] == pytest.approx(whole.source_losses["toy"], rel=1e-6)
        norm = torch.stack([g.norm() for g in whole_gradients.values()]).norm()
        difference = torch.stack([(cut_gradients[n] - g).norm() for n, g in whole_gradients.items()]).norm()
        assert difference / norm < 1e-6


def test_the_loss_is_the_mean_over_supervised_tokens(make_trainer, tmp_path):
    """By the model's own mean over one batch of all rows, where short rows weigh less than long ones."""
    trainer = make_trainer(tmp_path, size=8, micro=3)
    sums, _ = gradients(trainer)
    (whole,) = next(iter(make_trainer(tmp_path, size=8, micro=8).loader.steps(0, 1))).batches
    with torch.no_grad():
        output = trainer.model(**whole.inputs(), targets=whole.labels[None])
    assert sums.loss / sums.count == pytest.approx(output.loss.item(), rel=1e-6)


def test_frozen_parts_do_not_move(make_trainer, make_model, tmp_path):
    before = {name: p.detach().clone() for name, p in make_model().named_parameters()}
    trainer = make_trainer(tmp_path, model=make_model(language=False), steps=2)
    trainer.run()
    after = weights(trainer)
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"vision_tokenizer"}
    assert list(read_lines(tmp_path / "metrics.jsonl")[0]["lr"]) == ["resampler"]


@pytest.mark.parametrize("micro", [8, 2])
def test_the_gradient_is_clipped_once_per_step(make_trainer, tmp_path, micro):
    """With clip 0 almost nothing moves; the recorded norm is that before the clip, however the step is cut."""
    trainer = make_trainer(tmp_path, steps=1, size=8, micro=micro, optim={"clip": 0.5})
    step = next(iter(trainer.loader.steps(0, 1)))
    norm = trainer.update(step, trainer.accumulate(step)).norm
    clipped = torch.stack([p.grad.norm() for p in trainer.parameters if p.grad is not None]).norm().item()
    assert norm > 0.5
    assert clipped == pytest.approx(0.5, rel=1e-4)


def cut_picture(folder):
    """A picture without its last pixels: its header, which an index looks at, is whole."""
    whole = (folder / "images" / "red-square.png").read_bytes()
    (folder / "images" / "cut.png").write_bytes(whole[:-30])
    return "images/cut.png"


def test_bad_rows_are_written_down_and_make_the_step_smaller(make_trainer, tmp_path, toy_folder):
    rows = json.loads((toy_folder / "instructions.json").read_text())[:8]
    for row in rows:
        row["image"] = str(row["image"])
    rows[3]["image"] = cut_picture(toy_folder)
    path = toy_folder / "broken.json"
    path.write_text(json.dumps(rows))
    for folder in (tmp_path / "one", tmp_path / "two"):
        make_trainer(folder, path="broken.json", size=8, steps=3).run()
        assert [line["samples"] for line in metrics(folder)] == [7, 7, 7]
        (line,) = read_lines(folder / "quarantine.jsonl")
        assert (line["step"], line["id"], line["reason"]) == (0, "toy/broken.json:3", "image_truncated")
        report = json.loads((folder / "data_report.json").read_text())["toy"]
        assert (report["rows"], report["samples"], report["dropped"]) == (24, 21, {"image_truncated": 3})
    # a step whose only row is bad passes without an update
    make_trainer(tmp_path / "three", path="broken.json", size=1, steps=8).run()
    assert [line["loss"] is None for line in metrics(tmp_path / "three")].count(True) == 1
    path.unlink()


def test_too_many_bad_rows_stop_the_run(make_trainer, tmp_path, toy_folder):
    rows = json.loads((toy_folder / "instructions.json").read_text())[:8]
    rows[0]["image"] = rows[1]["image"] = cut_picture(toy_folder)
    (toy_folder / "bad.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"more than 5% .*\n  toy: \d+ of 2\d\d unusable \(\d+ image_truncated\)"):
        make_trainer(tmp_path, path="bad.json", size=32, steps=20).run()
    (toy_folder / "bad.json").unlink()


def test_the_objectives_figures_are_means(make_trainer, tmp_path):
    make_trainer(tmp_path, objective="dpo", steps=2, size=4, micro=2).run()
    first = metrics(tmp_path)[0]
    # before the first update policy and reference agree: every margin is 0, every loss log 2
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert first["figures"]["reward_margin"] == pytest.approx(0.0, abs=1e-5)
    assert first["targets"] == 4
    assert first["source_loss"]["toy"] == pytest.approx(first["loss"])


def test_the_phases_of_a_step_add_up_to_it(make_trainer, tmp_path):
    make_trainer(tmp_path, steps=2, micro=2).run()
    for line in read_lines(tmp_path / "metrics.jsonl"):
        phases = line["speed"]["phases"]
        assert sum(phases.values()) == pytest.approx(line["speed"]["seconds"], rel=0.02)
        assert min(phases[name] for name in ("vision", "lm_forward", "backward", "optimizer")) > 0


def test_time_goes_to_the_phase_that_took_it(make_trainer, tmp_path, monkeypatch):
    """By a clock that moves only where somebody says so."""
    clock = types.SimpleNamespace(now=100.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(phases, "time", clock)

    def taking(seconds, function):
        def slow(*args, **kwargs):
            clock.now += seconds
            return function(*args, **kwargs)

        return slow

    trainer = make_trainer(tmp_path, steps=1)
    monkeypatch.setattr(PerceiverResampler, "forward", taking(1, PerceiverResampler.forward))
    monkeypatch.setattr(torch.Tensor, "backward", taking(4, torch.Tensor.backward))
    monkeypatch.setattr(sums, "gather", taking(16, sums.gather))
    trainer.objective = taking(2, trainer.objective)
    trainer.optimizer.step = taking(8, trainer.optimizer.step)
    step = trainer.loader._step
    trainer.loader._step = lambda *planned: dataclasses.replace(step(*planned), wait=32.0)
    trainer.run()
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    spent = {"data_wait": 32, "vision": 1, "lm_forward": 2, "backward": 4, "optimizer": 8, "communication": 16}
    assert line["speed"]["phases"] == {**spent, "other": 0}
    assert line["speed"]["seconds"] == 63
    assert line["speed"]["wait_share"] == pytest.approx(32 / 63)
    assert line["speed"]["tokens_per_second"] == pytest.approx(line["tokens"] / 63)
    text = line["speed"]["text_tokens_per_second"] + line["speed"]["vision_tokens_per_second"]
    assert text == pytest.approx(line["speed"]["tokens_per_second"])
