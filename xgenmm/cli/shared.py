"""What several verbs need."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from xgenmm.recipe.settings import Recipe

PROGRAM = "xgenmm"

Verbs: TypeAlias = "argparse._SubParsersAction[Any]"
"""What verbs, or the jobs of a verb, are added to."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """RECIPE and the settings after it."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or one of ours by its name: debug, paper/sft, …")
    # Without a default, argparse calls it required where RECIPE is missing.
    parser.add_argument("settings", metavar="a.b=c", nargs="*", default=[], help="settings that replace the recipe's")


def write_toy(folder: str | None) -> None:
    """Write the weights and data of a recipe that is made to be tried, if it names a folder for them."""
    if folder is not None:
        from xgenmm.starter import toy

        toy.write_toy(Path(folder))


def ready_recipe(name: str, settings: Sequence[str] = ()) -> "Recipe":
    """A recipe, with its toy weights and data written if it wants some."""
    from xgenmm.recipe.settings import load_recipe

    recipe = load_recipe(name, settings)
    write_toy(recipe.toy)
    return recipe


def device() -> str:
    """Where a model answers."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
