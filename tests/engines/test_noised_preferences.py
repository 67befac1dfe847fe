"""The model's own answers to pictures under noise, as rows of preferences."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xgenmm.config import ConfigError, decode
from xgenmm.data.listing import ListedRows
from xgenmm.data.loader import Loader
from xgenmm.data.planner import BatchConfig
from xgenmm.data.quarantine import DataError, read_lines
from xgenmm.data.source import SourceConfig
from xgenmm.engines import noised_preferences
from xgenmm.engines.noise import NoiseConfig, noised
from xgenmm.engines.noised_preferences import NoisedConfig, make_noised_preferences
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.weights import ModelConfig, assemble, generation_settings

# ---------------------------------------------------------------------- the noise


def test_what_is_kept_is_the_published_schedules():
    """Computed as the two papers' codes do: cumulative products of 1 - beta."""
    sigmoid = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
    linear = np.linspace(1e-4, 0.02, 1000)
    for step in (1, 500, 1000):
        assert NoiseConfig(step=step).kept == pytest.approx(np.cumprod(1 - sigmoid)[step - 1])
        assert NoiseConfig(step=step, schedule="linear").kept == pytest.approx(np.cumprod(1 - linear)[step - 1])


def test_noise_replaces_variance_and_is_the_same_for_the_same_seed():
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    config = NoiseConfig(step=500, schedule="linear")
    one = noised(pixels, config, seed=1)
    assert torch.equal(one, noised(pixels, config, seed=1))
    assert not torch.equal(one, noised(pixels, config, seed=2))
    assert one.std().item() == pytest.approx(1, rel=0.02)
    correlation = torch.corrcoef(torch.stack([one.flatten(), pixels.flatten()]))[0, 1].item()
    assert correlation == pytest.approx(config.kept**0.5, abs=0.02)
    assert torch.equal(noised(pixels, NoiseConfig(step=0), seed=1), pixels)


def test_steps_outside_the_process_are_refused():
    with pytest.raises(ConfigError, match="step 1001 must lie between 0 and steps, 1000"):
        NoiseConfig(step=1001)
    for settings in ({"noise": {"step": -1}}, {"noise": {"step": 0, "steps": 1}}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError, match=r"noised.*: must be at least"):
            decode(NoisedConfig, settings, "noised")


# ---------------------------------------------------------------------- the rows


@pytest.fixture(scope="module")
def model(toy_folder, toy_processor):
    resampler = ResamplerConfig(latents=2, depth=1, heads=2, head_dim=8, ff_mult=2)
    config = ModelConfig(vision=str(toy_folder / "vision"), language=str(toy_folder / "language"), resampler=resampler)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = assemble(config, toy_processor).eval()
        model.generation_config = generation_settings(model, toy_processor)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def source(toy_folder, tmp_path):
    """Six rows of preferences and one whose picture is missing."""
    lines = (toy_folder / "preferences.jsonl").read_text().splitlines()[:6]
    lines.insert(2, json.dumps({**json.loads(lines[0]), "image": "none.png"}))
    (tmp_path / "pairs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    path = str(tmp_path / "pairs.jsonl")
    return SourceConfig(name="pairs", adapter="preference", path=path, images=str(toy_folder))


CONFIG = NoisedConfig(max_new_tokens=6, batch_size=3)


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch):
    monkeypatch.setattr(noised_preferences, "ROWS_AT_ONCE", 3)


@pytest.fixture
def answers(monkeypatch):
    """Stands for the model: says what it was asked and what it saw. Gives the prompts of every call."""
    asked = []

    def answer(_model, _processor, prompts, _config, **_):
        asked.append(prompts)
        return [f"{one.id} looks like {one.pixel_values.sum():.4f}" for one in prompts]

    monkeypatch.setattr(noised_preferences, "continue_prompts", answer)
    return asked


@pytest.mark.usefixtures("answers")
def test_rows_decode_as_preferences_with_the_same_prompt_and_pictures(model, toy_processor, source, tmp_path):
    made = make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    before, after = (ListedRows(one.name, one.patterns, Path(one.images)) for one in (source, made))
    good = [index for index in range(7) if index != 2]
    assert after.has(5)
    assert not after.has(6)
    for index, row in zip(good, range(6), strict=True):
        old = source.bind_adapter()(before.read(index), lambda _: 0)
        new = made.bind_adapter()(after.read(row), lambda _: 0)
        assert new.chosen == old.chosen
        assert new.rejected.startswith(f"{old.id} looks like ")
        ours, theirs = (toy_processor.prompt(one.prompt) for one in (new, old))
        assert torch.equal(ours.input_ids, theirs.input_ids)
        assert torch.equal(ours.pixel_values, theirs.pixel_values)  # what is trained on has no noise
    (fault,) = read_lines(tmp_path / "made" / "quarantine.jsonl")
    assert (fault["reason"], fault["id"]) == ("image_missing", "pairs/pairs.jsonl:line3")
    loader = Loader([made], BatchConfig(size=4), toy_processor, pairs=True, seed=0)
    loader.check()


@pytest.mark.usefixtures("answers")
def test_a_damaged_line_is_told(model, toy_processor, source, tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in [*lines[:4], '{"id": "broken', *lines[4:]]))
    make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    faults = {fault["id"]: fault["reason"] for fault in read_lines(tmp_path / "made" / "quarantine.jsonl")}
    assert faults == {"pairs/pairs.jsonl:line3": "image_missing", "pairs/pairs.jsonl:line5": "json_invalid"}
    assert len((tmp_path / "made" / "preferences.jsonl").read_text().splitlines()) == 6


def test_the_model_looks_at_noise(model, toy_processor, source, answers, tmp_path):
    make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    (first, *_), reader = answers[0], ListedRows("pairs", source.patterns, Path(source.images))
    clean = toy_processor.prompt(source.bind_adapter()(reader.read(0), lambda _: 0).prompt)
    difference = first.pixel_values - CONFIG.noise.kept**0.5 * clean.pixel_values
    assert difference.std().item() == pytest.approx((1 - CONFIG.noise.kept) ** 0.5, rel=0.05)
    assert torch.equal(first.input_ids, clean.input_ids)


def rows_of(folder):
    return (folder / "preferences.jsonl").read_text(), (folder / "quarantine.jsonl").read_text()


def test_a_stop_anywhere_changes_nothing(model, toy_processor, source, answers, tmp_path, monkeypatch):
    """After the first batch, and with a line half written."""
    whole = tmp_path / "whole"
    make_noised_preferences(model, toy_processor, source, CONFIG, whole, seed=3)
    real, count = noised_preferences.continue_prompts, [0]

    def stopped(*arguments, **options):
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(noised_preferences, "continue_prompts", stopped)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        make_noised_preferences(model, toy_processor, source, CONFIG, cut, seed=3)
    assert not (cut / "preferences.jsonl").exists()
    unfinished = cut / "unfinished.jsonl"
    unfinished.write_text(unfinished.read_text()[:-20])
    make_noised_preferences(model, toy_processor, source, CONFIG, cut, seed=3)
    assert rows_of(cut) == rows_of(whole)
    monkeypatch.setattr(noised_preferences, "continue_prompts", real)
    asked = len(answers)
    make_noised_preferences(model, toy_processor, source, CONFIG, cut, seed=3)
    assert len(answers) == asked  # what is done is not asked again
    other = tmp_path / "other"
    make_noised_preferences(model, toy_processor, source, CONFIG, other, seed=4)
    assert rows_of(other)[0] != rows_of(whole)[0]


@pytest.mark.usefixtures("answers")
def test_a_question_without_a_picture_is_left_out(model, toy_processor, source, tmp_path):
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    text = {**row, "prompt": row["prompt"].replace("<image>", "").strip()}
    text.pop("image")
    (tmp_path / "pairs.jsonl").write_text("".join(f"{line}\n" for line in [json.dumps(text), lines[1]]))
    make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    (fault,) = read_lines(tmp_path / "made" / "quarantine.jsonl")
    assert (fault["id"], fault["reason"]) == ("pairs/pairs.jsonl:line1", "no_image")


@pytest.mark.usefixtures("answers")
def test_a_mistake_does_not_spoil_the_folder(model, toy_processor, source, tmp_path):
    """Whoever mends it gives the same folder again."""
    for wrong in ({"adapter": "llava"}, {"path": str(tmp_path / "nope.jsonl")}):
        with pytest.raises((ConfigError, DataError)):
            make_noised_preferences(
                model, toy_processor, dataclasses.replace(source, **wrong), CONFIG, tmp_path / "made", seed=3
            )
    make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    assert len(read_lines(tmp_path / "made" / "preferences.jsonl")) == 6


@pytest.mark.usefixtures("answers")
def test_a_folder_of_other_answers_is_refused(model, toy_processor, source, tmp_path):
    make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    stronger = dataclasses.replace(CONFIG, noise=NoiseConfig(step=900))
    with pytest.raises(ConfigError, match="holds answers of another config: remove it"):
        make_noised_preferences(model, toy_processor, source, stronger, tmp_path / "made", seed=3)


def test_answers_that_are_none_or_the_preferred_one_are_left_out(model, toy_processor, source, tmp_path, monkeypatch):
    chosen = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])["chosen"]

    def answer(_model, _processor, prompts, _config, **_):
        return [
            {"pairs/pairs.jsonl:line1": f" {chosen}\n", "pairs/pairs.jsonl:line2": " "}.get(p.id, "so") for p in prompts
        ]

    monkeypatch.setattr(noised_preferences, "continue_prompts", answer)
    make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "made", seed=3)
    faults = {line["id"]: line["reason"] for line in read_lines(tmp_path / "made" / "quarantine.jsonl")}
    assert faults == {
        "pairs/pairs.jsonl:line1": "preference_identical",
        "pairs/pairs.jsonl:line2": "text_empty",
        "pairs/pairs.jsonl:line3": "image_missing",
    }
    monkeypatch.setattr(noised_preferences, "continue_prompts", lambda _m, _p, prompts, _c, **_: [""] * len(prompts))
    with pytest.raises(DataError, match='data set "pairs": no row is left'):
        make_noised_preferences(model, toy_processor, source, CONFIG, tmp_path / "none", seed=3)


def test_the_real_model_answers(model, toy_processor, source, tmp_path):
    """Whatever a model of random weights says: each row is a row or a fault, and the same ones in larger batches."""
    found = []
    for number, size in enumerate((1, 5)):
        folder, config = tmp_path / str(number), dataclasses.replace(CONFIG, batch_size=size, max_new_tokens=12)
        make_noised_preferences(model, toy_processor, source, config, folder, seed=3)
        rows, faults = read_lines(folder / "preferences.jsonl"), read_lines(folder / "quarantine.jsonl")
        assert len(rows) + len(faults) == 7
        found.append((rows, faults))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2  # it happens to say something in letters twice
