"""`xgenmm plan`: a recipe in, a plan as text out."""

from collections.abc import Mapping

from xgenmm.budget.backbones import find_model, with_saved_length
from xgenmm.budget.growth import growth
from xgenmm.budget.plan import Drawn, plan_stage
from xgenmm.budget.text import render
from xgenmm.budget.view import RecipeView


def plan_of(recipe: RecipeView, drawn: Mapping[str, Drawn] | None = None) -> str:
    """What a recipe will take.

    Args:
        recipe: The recipe.
        drawn: By stage, what its data's index says of its steps.

    Raises:
        ConfigError: Settings are wrong, or a backbone's sizes are nowhere to be found.
    """
    recipe = with_saved_length(recipe)
    shape, notes = find_model(recipe)
    if recipe.parallel.offload:
        notes.append("times leave out what parallel.offload costs: the way to the CPU's memory, and its slower update")
    noised = [stage.name for stage in recipe.stages if stage.noised is not None]
    if noised:
        notes.append(
            f"times of {', '.join(noised)} leave out the answers to noised pictures, which one process writes first"
        )
    stages = [plan_stage(recipe, stage, shape, (drawn or {}).get(stage.name)) for stage in recipe.stages]
    # The stage that costs most tells how the recipe grows.
    number = max(range(len(stages)), key=lambda n: stages[n].performed * (stages[n].steps or 1))
    larger = growth(recipe, recipe.stages[number], shape, stages[number])
    return render(recipe, notes, stages, larger)
