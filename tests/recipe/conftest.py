"""A run of the debug recipe that all tests of recipes share."""

import pytest
from debug_recipe import debug

from xgenmm.recipe.run import run


@pytest.fixture(scope="session")
def straight(toy_folder, tmp_path_factory):
    """The debug recipe without interruption, and what its hooks were given."""
    output = tmp_path_factory.mktemp("straight")
    seen = []
    recipe = debug(toy_folder, output)
    results = run(recipe, before_first=seen.append, after_stage=seen.append)
    return recipe, results, seen
