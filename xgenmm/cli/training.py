"""Verbs that make models: quickstart, starter, train, plan."""

import argparse
from pathlib import Path

from xgenmm.cli.shared import PROGRAM, Verbs, add_recipe, write_toy


def add(verbs: Verbs) -> None:
    """Add these verbs to the command."""
    quick = verbs.add_parser("quickstart", help="the whole chain on the starter's data; ends with a report and a model")
    quick.add_argument("--fast", action="store_true", help="fewer steps, fewer questions, cruder figures")
    quick.add_argument("--output", default="runs", help="the run's folder is OUTPUT/quickstart (default: %(default)s)")
    _add_stamps(quick)
    quick.set_defaults(function=_quickstart)

    starter = verbs.add_parser("starter", help="build only the starter's data and weights")
    starter.add_argument("--folder", type=Path, default=Path("data/starter"), help="(default: %(default)s)")
    _add_stamps(starter)
    starter.set_defaults(function=_starter)

    train = verbs.add_parser("train", help="run the stages of a recipe; the same command again resumes")
    add_recipe(train)
    train.set_defaults(function=_train)

    about = "parameters, operations, memory, hours and cost of a recipe, before it runs"
    plan = verbs.add_parser("plan", help=about, description=f"{about}; plan.NAME=VALUE sets what is assumed")
    add_recipe(plan)
    plan.add_argument(
        "--measure", action="store_true", help="make some steps of each stage here, and show them beside the figures"
    )
    plan.set_defaults(function=_plan)


def _add_stamps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with-stamps", action="store_true", help="train on Tux Paint's photographs too, if they are installed"
    )


def _quickstart(options: argparse.Namespace) -> None:
    from xgenmm.training.stopping import leave_when_preempted

    leave_when_preempted()
    from xgenmm.quickstart import quickstart

    report = quickstart(fast=options.fast, stamps=options.with_stamps, output=options.output)
    print(f"report: {report}\nchat:   {PROGRAM} chat {report.parent / 'safety' / 'weights'} --image PICTURE")


def _starter(options: argparse.Namespace) -> None:
    from xgenmm.starter.build import build

    print(f"the starter's data and weights: {build(options.folder, stamps=options.with_stamps)}")


def _train(options: argparse.Namespace) -> None:
    from xgenmm.training.stopping import leave_when_preempted

    leave_when_preempted()
    from xgenmm.recipe.run import run
    from xgenmm.recipe.settings import load_recipe
    from xgenmm.training.parallel import processes
    from xgenmm.training.ranks import from_first, rank

    recipe = load_recipe(options.recipe, options.settings)
    with processes():
        if rank() == 0:
            write_toy(recipe.toy)
        from_first(None)  # nobody reads the toy before it is there
        results = run(recipe)
        if rank() == 0:
            print(f"weights: {results[-1].folder / 'weights'}")


def _plan(options: argparse.Namespace) -> None:
    from xgenmm.budget.make import plan_of
    from xgenmm.budget.view import load_view

    recipe = load_view(options.recipe, options.settings)
    if recipe.toy is not None and not Path(recipe.toy).is_dir():  # its writer imports torch
        write_toy(recipe.toy)
    drawn = None
    if recipe.data_are_here:  # to look into indexes takes tokenizers, and seconds to import them
        from xgenmm.recipe.drawing import drawn_steps
        from xgenmm.recipe.settings import load_recipe

        drawn = drawn_steps(load_recipe(options.recipe, options.settings))
    print(plan_of(recipe, drawn))
    if options.measure:
        from xgenmm.budget.measured import measured_text
        from xgenmm.recipe.measuring import measure

        names = [stage.name for stage in recipe.stages]
        print(f"\n{measured_text(measure(options.recipe, options.settings, names))}")
