"""`xgenmm plan`: a recipe in, a plan as text out."""

from xgenmm.budget.backbones import find_model
from xgenmm.budget.plan import assumed_documents, plan_stage, row_length
from xgenmm.budget.text import render
from xgenmm.budget.view import RecipeView


def plan_of(recipe: RecipeView) -> str:
    """What a recipe will take.

    Raises:
        ConfigError: Settings are wrong, or a backbone's sizes are nowhere to be found.
    """
    shape, notes = find_model(recipe)
    stages = []
    for stage in recipe.stages:
        documents = assumed_documents(recipe.plan, shape.resampler.latents, row_length(recipe, stage))
        stages.append(plan_stage(recipe, stage, shape, documents))
    return render(recipe, notes, stages)
