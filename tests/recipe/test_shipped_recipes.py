"""Every shipped recipe is found, decodes, has the published numbers and works at toy size."""

import pytest
from debug_recipe import STAGES, metrics

from xgenmm.config import RECIPES, decode, encode
from xgenmm.recipe.run import run
from xgenmm.recipe.settings import Recipe, load_recipe

SHIPPED = sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.yaml"))
TOY_RESAMPLER = {"latents": 2, "depth": 1, "heads": 2, "head_dim": 8, "ff_mult": 2}
TOY_FILES = {
    "caption_pairs": "pairs.tar",
    "mint": "documents.tar",
    "llava": "instructions.json",
    "preference": "preferences.jsonl",
    "vlguard": "safety.json",
}


def test_all_recipes_are_found():
    assert {"debug", *(f"paper/{stage}" for stage in STAGES)} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_decodes_and_comes_back(name):
    recipe = load_recipe(name)
    assert decode(Recipe, encode(recipe)) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_makes_a_step_at_toy_size(name, toy_folder, straight, tmp_path):
    """Its own settings with toy weights and data in place of the paths."""
    settings = encode(load_recipe(name))
    settings.update(output=str(tmp_path), toy=None)
    if settings["model"] is not None:
        backbones = {part: str(toy_folder / part) for part in ("vision", "language")}
        settings["model"].update(backbones, resampler=TOY_RESAMPLER)
    for stage in settings["stages"]:
        if stage["init"] is not None:
            stage["init"] = str(straight[1][1].folder / "weights")
        for source in stage["data"]:
            source.update(path=str(toy_folder / TOY_FILES[source["adapter"]]), images=None)
        stage.update(steps=1, epochs=None)
        stage["batch"].update(size=2, rows=None, micro=1)
        if stage["noised"] is not None:
            stage["noised"].update(max_new_tokens=8)
    recipe = decode(Recipe, settings)
    results = run(recipe)
    assert [len(metrics(result.folder)) for result in results] == [1] * len(recipe.stages)
    assert all((result.folder / "weights" / "config.json").is_file() for result in results)


def test_the_papers_mixture_is_the_published_one():
    """Percentages of arXiv 2408.08872's figure (spec 4.1): MINT-1T 32.5, split 7 : 5 : 1."""
    shares = {source.name: source.weight for source in load_recipe("paper/pretrain").stages[0].data}
    assert sum(shares.values()) == 100
    mint = [shares.pop(f"mint_{part}") for part in ("html", "pdf", "arxiv")]
    assert sum(mint) == 32.5
    assert [share / mint[2] for share in mint] == [7, 5, 1]
    assert shares == {
        "obelics": 17.5,
        "kale": 25,
        "datacomp": 10,
        "ocr_200m": 5,
        "grounding_50m": 5,
        **dict.fromkeys(("cc12m", "cc3m", "sbu", "vg"), 1.25),
    }


def test_the_papers_published_counts_and_rates():
    """Spec 4.2 (the published script and its example mixture), 4.4, 4.5."""
    sft, dpo, safety = (load_recipe(f"paper/{name}").stages[0] for name in ("sft", "dpo", "safety"))
    assert sum(source.samples for source in sft.data) == 816_639
    assert (sft.epochs, sft.batch.size) == (1, 64)
    assert (sft.optim.lr, sft.optim.warmup_steps, sft.optim.weight_decay, sft.optim.clip) == (2e-5, 2000, 0.0, 1.0)
    assert (dpo.epochs, dpo.train.language, dpo.objective["name"]) == (1, "lora", "dpo")
    assert (safety.epochs, safety.data[1].samples) == (3, 5000)
