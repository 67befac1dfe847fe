"""`xgenmm data check`, `replay` and `view` of a recipe, against what its loader really does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from chromium import dom, needs_chromium
from view_site import Site

from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.data.view.app import make_app
from xgenmm.data.view.catalogue import Query
from xgenmm.recipe.data import catalogue_of, check_data, find_stage, replay
from xgenmm.recipe.parts import make_loader, stage_processor
from xgenmm.recipe.settings import load_recipe
from xgenmm.types import IGNORE_INDEX


@pytest.fixture
def recipe_path(toy_folder, tmp_path) -> Path:
    """Two stages on the toy's data; the second one's file has two rows that cannot be used."""
    rows = json.loads((toy_folder / "instructions.json").read_text())
    rows[1]["image"] = "images/nobody.png"
    rows[2]["conversations"][1]["value"] = "  "
    shutil.copytree(toy_folder / "images", tmp_path / "images")
    (tmp_path / "instructions.json").write_text(json.dumps(rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
name: mine
output: {tmp_path}/runs
model:
  vision: {toy_folder}/vision
  language: {toy_folder}/language
  resampler: {{latents: 4, depth: 1, heads: 2, head_dim: 16, ff_mult: 2}}
processor: {{prompt: chatml, system: "", mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], grids: [], max_tokens: 256}}
reading: {{index: {tmp_path}/index}}
stages:
  - name: pretrain
    data:
      - {{name: pairs, adapter: caption_pairs, path: {toy_folder}/pairs.tar, weight: 0.75}}
      - {{name: documents, adapter: mint, path: {toy_folder}/documents.tar, weight: 0.25}}
    mixture: {{at_end: repeat}}
    batch: {{rows: 2, tokens: 128}}
    steps: 50
    optim: {{lr: 0.001}}
  - name: sft
    data: [{{name: talk, adapter: llava, path: {tmp_path}/instructions.json}}]
    processor: {{grids: [[1, 2], [2, 1]]}}
    batch: {{size: 6, max_bad: 0.5}}
    epochs: 2
    optim: {{lr: 0.001}}
"""
    )
    return path


@pytest.fixture
def recipe(recipe_path):
    return load_recipe(str(recipe_path))


# ---- check ----


def test_a_check_says_what_training_will_see(recipe):
    found = check_data(recipe)
    pretrain, sft = found.stages
    assert not found.faults
    assert (pretrain.steps, pretrain.of_steps, sft.of_steps) == (50, 50, -(-2 * 14 // 6))
    pairs, documents = pretrain.sources
    assert (pairs.records, pairs.usable, documents.records) == (48, 48, 16)
    assert pairs.shares["samples"] == pytest.approx(0.75, abs=0.01)
    (talk,) = sft.sources
    assert (talk.records, talk.usable, dict(talk.quarantined)) == (16, 14, {"image_missing": 1, "text_empty": 1})
    # the loader's own batches have as many tokens
    loader = make_loader(recipe, recipe.stages[1], stage_processor(recipe, recipe.stages[1]))
    batches = [batch for step in loader.steps(0, sft.steps) for batch in step.batches]
    assert talk.text_tokens + talk.vision_tokens == sum(len(batch.input_ids) for batch in batches)
    assert talk.loss_tokens == sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in batches)
    assert talk.vision_tokens == 4 * sum(len(batch.pixel_values) for batch in batches)
    assert talk.samples == 28


def test_the_command_writes_and_prints(recipe_path, tmp_path, capsys):
    assert main(["data", "check", str(recipe_path), "--steps", "7", "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "pretrain: 7 steps of 50 planned" in text
    assert "talk: dropped 1 image_missing, 1 text_empty" in text
    page = (tmp_path / "out" / "data_report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "image_missing" in page


def test_a_source_without_anything_to_learn_fails_and_is_told_with_the_others(recipe_path, tmp_path, capsys):
    rows = json.loads((tmp_path / "instructions.json").read_text())
    for row in rows:
        for message in row["conversations"][1::2]:
            message["value"] = "\u200b"
    (tmp_path / "instructions.json").write_text(json.dumps(rows))
    assert main(["data", "check", str(recipe_path), "--output", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert 'NOT USABLE: data set "talk"' in told.out
    assert "pretrain: 50 steps planned" in told.out  # the other stage is audited all the same
    assert "not fit to be trained on: sft" in told.err
    assert "cannot be trained on" in (tmp_path / "data_report.html").read_text(encoding="utf-8")


def test_too_much_that_is_bad_fails_as_it_does_in_training(recipe_path, capsys, monkeypatch):
    monkeypatch.setattr("xgenmm.data.loader.ROWS_BEFORE_SHARE_COUNTS", 10)
    assert main(["data", "check", str(recipe_path), "stages.sft.batch.max_bad=0.1"]) == 1
    assert "more than 10% (batch.max_bad)" in capsys.readouterr().err


def test_no_pixel_is_decoded(recipe, monkeypatch):
    def refuse(*_):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    monkeypatch.setattr("PIL.Image.Image.load", refuse)
    assert not check_data(recipe).faults


# ---- replay ----


def test_a_replay_is_what_training_keeps_and_reads(recipe):
    stage = recipe.stages[0]
    loader = make_loader(recipe, stage, stage_processor(recipe, stage))
    steps = list(loader.steps(0, 6))
    found = json.loads(replay(recipe, 5))
    assert found["stage"] == "pretrain"
    assert found["state"] == steps[4].plan  # what a checkpoint behind step 4 holds
    assert found["digest"] == steps[4].plan["digest"]
    assert found["digest_after"] == steps[5].plan["digest"]
    names = [document["id"] for row in found["rows"] for document in row["documents"]]
    assert sorted(names) == sorted(name for batch in steps[5].batches for name in batch.ids)
    assert [row["tokens"] for row in found["rows"]] == [
        sum(document["tokens"] for document in row["documents"]) for row in found["rows"]
    ]


def test_replay_of_what_is_not_there(recipe, recipe_path, capsys):
    with pytest.raises(ConfigError, match='no stage "sftt"'):
        find_stage(recipe, "sftt")
    with pytest.raises(ConfigError, match="ends after"):
        replay(recipe, 10_000, "sft")
    assert main(["data", "replay", str(recipe_path), "--to-step", "-1"]) == 2
    assert "counted from 0" in capsys.readouterr().err


# ---- view ----


def test_a_packed_row_on_the_page_is_the_batch_of_training(recipe):
    _, plans = catalogue_of(recipe)
    for stage in recipe.stages:
        loader = make_loader(recipe, stage, stage_processor(recipe, stage))
        plan = plans[stage.name]
        (step,) = loader.steps(2, 3)
        shown = plan.step(2)
        assert plan.step(0).number == 0  # back, and
        assert plan.step(2) == shown  # on again
        rows = {}
        for number in range(len(shown.rows)):
            documents = plan.documents(shown, number, seen=True)
            ids = [token for one in documents for shown_token in one.seen.tokens for token in shown_token.ids]
            rows[tuple(ids)] = documents
        assert rows.keys() == {tuple(batch.input_ids.tolist()) for batch in step.batches}
        for batch in step.batches:
            documents = rows[tuple(batch.input_ids.tolist())]
            assert [one.start for one in documents] == torch.nonzero(batch.position_ids == 0).flatten().tolist()
            assert sum(one.loss_tokens for one in documents) == int((batch.labels != IGNORE_INDEX).sum())
    assert plans["pretrain"].step(49) is not None
    assert plans["pretrain"].step(50) is None  # the stage ends, though its mixture does not
    assert plans["sft"].step(5) is None


def test_an_indexed_source_has_its_quarantine_first(recipe):
    catalogue, _ = catalogue_of(recipe)
    shelf = catalogue.shelf("talk")
    assert [shelf.rows.has(number) for number in (-1, 0, 15, 16)] == [False, True, True, False]
    assert shelf.rows.judged == 2
    bad = catalogue.page(Query(source="talk", status="quarantine"))
    assert [(entry.id, entry.reason) for entry in bad.entries] == [
        ("talk/instructions.json:1", "image_missing"),
        ("talk/instructions.json:2", "text_empty"),
    ]
    assert bad.looked_at == 2  # the rest is known to be good
    assert bad.entries[0].row.fields["image"] == "images/nobody.png"
    for number in range(16):
        name = f"talk/instructions.json:{number}"
        entry = catalogue.find(name)
        assert (entry.id, bool(entry.reason)) == (name, number in (1, 2))
        assert entry.row.fields["id"] is not None
    assert catalogue.find("talk/instructions.json:16") is None


def test_a_recipe_without_its_backbones_is_shown_as_people_read_it(recipe_path, toy_folder, tmp_path, caplog):
    text = recipe_path.read_text().replace(f"language: {toy_folder}/language", f"language: {tmp_path}/nothing")
    recipe_path.write_text(text)
    catalogue, plans = catalogue_of(load_recipe(str(recipe_path)))
    assert not plans
    assert "there is no folder" in caplog.text
    assert len(catalogue.page(Query(source="pairs")).entries) == 24


def test_the_pages_of_packed_rows(recipe):
    catalogue, plans = catalogue_of(recipe)
    with Site(make_app(catalogue, "mine", plans)) as site:
        page = site.page("/rows", stage="pretrain", step=3)
        assert page.count('<svg class="row"') == 2
        row = site.page("/row", stage="pretrain", step=3, number=1)
        name = plans["pretrain"].documents(plans["pretrain"].step(3), 0, seen=False)[0].id
        assert name in page
        assert row.count('<article class="model">') == len(plans["pretrain"].step(3).rows[1].slots)
        for values in ({"stage": "nobody"}, {"stage": "sft", "step": 99}, {"stage": "sft", "step": -1}):
            assert site.get("/rows", **values)[0].status == 404
        assert site.get("/row", stage="sft", step=0, number=99)[0].status == 404


@needs_chromium
def test_a_browser_shows_the_report(recipe, tmp_path):
    report = check_data(recipe, output=tmp_path).report
    page = dom(report.as_uri())
    assert page.count('<svg class="row"') == 4  # two of a step of pre-training, two of the first one of tuning
    assert page.count("<figure>") == 2 + 1 + 2 + 1 + 1 + 1
