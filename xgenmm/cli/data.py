"""The verb data and its jobs: scan, index, fetch, check, replay, view, make."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xgenmm.cli.shared import Verbs, add_recipe, device, ready_recipe

if TYPE_CHECKING:
    from xgenmm.data.source import SourceConfig


def add(verbs: Verbs) -> None:
    """Add this verb to the command."""
    data = verbs.add_parser("data", help="look at data before training on it")
    jobs = data.add_subparsers(title="jobs", required=True, metavar="JOB")
    _add_scan(
        jobs.add_parser("scan", help="every record and every damage as a line of JSON; changes and fetches nothing")
    )
    _add_index(
        jobs.add_parser("index", help="where every record lies and how long it is; training does it on first use")
    )
    _add_fetch(jobs.add_parser("fetch", help="the pictures that tables name by address, into a folder; resumes"))
    _add_check(
        jobs.add_parser("check", help="what a recipe's stages will see, as a table and a page; fails if they can't")
    )
    _add_replay(jobs.add_parser("replay", help="where the plan stands before a step, and that step's rows, as JSON"))
    _add_view(jobs.add_parser("view", help="a local page: records as people and as the model see them"))
    make = jobs.add_parser("make", help="data that a model makes")
    kinds = make.add_subparsers(title="kinds", required=True, metavar="KIND")
    _add_noised(kinds.add_parser("noised-preferences", help="pairs with the model's own answer to a noised picture"))


def _add_scan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a file, or a folder of files")
    parser.add_argument("--output", metavar="REPORT.jsonl", type=Path, required=True, help="where the lines go")
    parser.add_argument("--schema", default="auto", metavar="NAME", help="a data set's or an adapter's name (auto)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core, at most four)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where pictures that tables name are")
    parser.set_defaults(function=_scan)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="RECIPE|SOURCE", nargs="+", help="a recipe; or files, folders, globs")
    parser.add_argument("--weights", metavar="WEIGHTS", type=Path, help="whose tokens are counted, for sources")
    parser.add_argument("--schema", default="auto", metavar="NAME", help="as for scan, for sources")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where pictures that tables name are, for sources")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="of indexes (default: the recipe's, or the cache)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.set_defaults(function=_index)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", metavar="SOURCE|TABLE", nargs="+", help="files, folders, globs, or a recipe")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="`images` of the sources in a recipe")
    parser.add_argument("--schema", default="auto", metavar="NAME", help="a data set's or an adapter's name (auto)")
    parser.add_argument(
        "--workers", type=int, default=32, metavar="N", help="pictures at a time (default: %(default)s)"
    )
    parser.add_argument("--per-host", type=int, default=4, metavar="N", help="of one server (default: %(default)s)")
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="further tries (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="for all of a picture (default: %(default)s)"
    )
    parser.add_argument("--max-bytes", type=int, default=50_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--max-pixels", type=int, default=100_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--allow-private",
        action="store_true",
        help="also addresses of this machine and its network; never for tables that strangers wrote",
    )
    parser.set_defaults(function=_fetch)


def _add_check(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--steps", type=int, metavar="N", help="steps to plan of each stage (default: at most 1000)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of data_report.html (default: the run's)")
    parser.set_defaults(function=_check)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--to-step", type=int, required=True, metavar="N", help="the step, counted from 0")
    parser.add_argument("--stage", metavar="NAME", help="(default: the first)")
    parser.set_defaults(function=_replay)


def _add_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE|RECIPE", help="a file, a folder, a glob, or a recipe")
    parser.add_argument("--port", type=int, default=8017, metavar="N", help="on this machine (default: %(default)s)")
    parser.add_argument("--schema", default="auto", metavar="NAME", help="a data set's or an adapter's name (auto)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where pictures that tables name are")
    parser.set_defaults(function=_view)


def _add_noised(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="folder of the model that answers")
    parser.add_argument("--data", metavar="PATH", nargs="+", required=True, help="files of preferences")
    parser.add_argument("--adapter", metavar="NAME", default="preference", help="(default: %(default)s)")
    parser.add_argument("--images", metavar="DIR", type=Path, help="where pictures that tables name are")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="gets rows and pictures")
    parser.add_argument("--name", default="noised", help="of the source (default: %(default)s)")
    parser.add_argument("--noise-step", type=int, default=500, metavar="N", help="of 1000 (default: %(default)s)")
    parser.add_argument(
        "--noise-schedule", default="sigmoid", choices=("sigmoid", "linear"), help="(default: %(default)s)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)")
    parser.set_defaults(function=_make_noised_preferences)


def _scan(options: argparse.Namespace) -> None:
    from xgenmm.data.scan import scan

    summary = scan(options.path, options.output, schema=options.schema, workers=options.workers, images=options.images)
    print(f"{summary.text()}\nreport: {options.output}")


def _index(options: argparse.Namespace) -> None:
    from xgenmm.config import ConfigError
    from xgenmm.data.indexing import NEVER_CUT, byte_processor, index_sources
    from xgenmm.data.loader import document_limits
    from xgenmm.data.source import index_folder
    from xgenmm.recipe.parts import stage_processor
    from xgenmm.recipe.settings import is_recipe

    recipes = [name for name in options.data if is_recipe(name)]
    if recipes and (options.weights or options.schema != "auto" or options.images):
        raise ConfigError("a recipe says itself what its data are: --weights, --schema and --images are for others")
    for name in recipes:
        recipe = ready_recipe(name)
        folder = index_folder(str(options.folder) if options.folder else recipe.reading.index)
        for stage in recipe.stages:
            processor = stage_processor(recipe, stage)
            limits = document_limits(stage.batch, processor)
            print(f"{recipe.name} {stage.name}")
            print(index_sources(stage.data, processor, limits, folder, workers=options.workers))
    others = [
        one for name in options.data if name not in recipes for one in _sources(name, options.schema, options.images)
    ]
    if others:
        if options.weights:
            from xgenmm.processor.processor import XGenMMProcessor

            processor = XGenMMProcessor.from_pretrained(options.weights)
        else:
            processor = byte_processor()
            print("lengths are in bytes, and a picture counts as one: --weights names a model to count for")
        folder = index_folder(str(options.folder) if options.folder else None)
        print(index_sources(others, processor, NEVER_CUT, folder, workers=options.workers))


def _fetch(options: argparse.Namespace) -> None:
    from xgenmm.data.fetch import FetchConfig, fetch
    from xgenmm.web import WebConfig

    web = WebConfig(seconds=options.timeout, max_bytes=options.max_bytes, allow_private=options.allow_private)
    config = FetchConfig(
        workers=options.workers,
        per_host=options.per_host,
        retries=options.retries,
        max_pixels=options.max_pixels,
        web=web,
    )
    sources = [source for name in options.tables for source in _sources(name, options.schema, None)]
    summary = fetch(sources, options.output, config)
    print(f"{summary.text()}\npictures: {options.output}")


def _check(options: argparse.Namespace) -> None:
    from xgenmm.data.quarantine import DataError
    from xgenmm.recipe.data import check_data

    found = check_data(ready_recipe(options.recipe, options.settings), steps=options.steps, output=options.output)
    print(f"{found.text()}\n\nreport: {found.report}")
    if found.faults:
        raise DataError("not fit to be trained on: " + "; ".join(found.faults))


def _replay(options: argparse.Namespace) -> None:
    from xgenmm.recipe.data import replay

    print(replay(ready_recipe(options.recipe, options.settings), options.to_step, options.stage))


def _view(options: argparse.Namespace) -> None:
    from functools import partial

    from xgenmm.data.sources import find_sources
    from xgenmm.data.view.app import HOST, make_app, open_port, serve
    from xgenmm.data.view.catalogue import Catalogue, listed
    from xgenmm.recipe.data import catalogue_of
    from xgenmm.recipe.settings import is_recipe

    port = open_port(options.port)
    if is_recipe(options.source):
        catalogue, plans = catalogue_of(ready_recipe(options.source))
    else:
        sources = find_sources(options.source, schema=options.schema, images=options.images)
        catalogue, plans = Catalogue([(source.name, partial(listed, source)) for source in sources]), {}
    print(f"look at http://{HOST}:{port.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    serve(make_app(catalogue, options.source, plans), port)


def _make_noised_preferences(options: argparse.Namespace) -> None:
    from xgenmm.config import decode
    from xgenmm.data.source import SourceConfig
    from xgenmm.engines.noised_preferences import NoisedConfig, make_noised_preferences
    from xgenmm.inference.load import load

    images = str(options.images) if options.images else None
    source = SourceConfig(name=options.name, adapter=options.adapter, path=tuple(options.data), images=images)
    noise = {"step": options.noise_step, "schedule": options.noise_schedule}
    given = {"noise": noise, "max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    config = decode(NoisedConfig, given, "noised-preferences")
    model, processor = load(options.weights, device=device())
    made = make_noised_preferences(model, processor, source, config, options.output, seed=options.seed)
    print(f"rows: {made.path}\nas a source: {{name: {made.name}, adapter: {made.adapter}, ", end="")
    print(f"path: {made.path}, images: {made.images}}}")


def _sources(name: str, schema: str, images: Path | None) -> "Sequence[SourceConfig]":
    """The sources of a recipe, or of files, folders and globs."""
    from xgenmm.data.sources import find_sources
    from xgenmm.recipe.settings import is_recipe, sources_of

    if is_recipe(name):
        return [source for _, source in sources_of(ready_recipe(name))]
    return find_sources(name, schema=schema, images=images)
