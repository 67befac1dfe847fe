"""The command `xgenmm`: parses, calls one function, prints. Imports nothing heavy before it knows that it must."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xgenmm import __version__

if TYPE_CHECKING:
    from xgenmm.data.source import SourceConfig
    from xgenmm.inference.sampling import GenerationConfig
    from xgenmm.recipe import Recipe

PROGRAM = "xgenmm"
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; gives the exit code: 0 only on success, 1 for a failure, 2 for a mistake in command or recipe.

    A run that a signal stopped exits with 128 + its number, as the shell does (130 for Ctrl-C); with 75 for SIGUSR1.
    """
    options = _parser().parse_args(arguments)
    _prepare()
    try:
        options.function(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        advice = ". What was whole before is untouched: make room and give the same command again" if full else ""
        print(f"{PROGRAM}: {error}{advice}", file=sys.stderr)
        return code
    return 0


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
    from xgenmm import recipe as recipes
    from xgenmm.training.parallel import processes
    from xgenmm.training.ranks import from_first, rank

    recipe = recipes.load_recipe(options.recipe, options.settings)
    with processes():
        if recipe.toy is not None and rank() == 0:
            from xgenmm.starter.toy import write_toy

            write_toy(Path(recipe.toy))
        from_first(None)  # nobody reads the toy before it is there
        results = recipes.run(recipe)
        if rank() == 0:
            print(f"weights: {results[-1].folder / 'weights'}")


def _plan(options: argparse.Namespace) -> None:
    from xgenmm.budget.make import plan_of
    from xgenmm.budget.view import load_view

    recipe = load_view(options.recipe, options.settings)
    if recipe.toy is not None and not Path(recipe.toy).is_dir():
        from xgenmm.starter.toy import write_toy

        write_toy(Path(recipe.toy))
    print(plan_of(recipe))


def _chat(options: argparse.Namespace) -> None:
    from xgenmm.inference.chat import Chat, run_chat
    from xgenmm.inference.load import load

    config = _generation(options)
    model, processor = load(options.weights, device=_device())
    chat = Chat(model, processor, config)
    run_chat(chat, input, lambda text: print(text, end="", flush=True), options.image)


def _generate(options: argparse.Namespace) -> None:
    from xgenmm.inference.generate import stream
    from xgenmm.inference.load import load
    from xgenmm.types import Conversation, Document, Picture, Turn

    config = _generation(options)
    model, processor = load(options.weights, device=_device())
    parts = (*(Picture(source=path, name=str(path)) for path in options.image), options.text)
    sample: Conversation | Document = Conversation(id="command line", turns=(Turn(role="user", parts=parts),))
    if options.plain:
        sample = Document(id="command line", parts=parts)
    for piece in stream(model, processor, sample, config):
        print(piece, end="", flush=True)
    print()


def _evaluate(options: argparse.Namespace) -> None:
    from xgenmm.config import ConfigError

    modes = [name for name in ("weights", "rescore", "compare") if getattr(options, name) is not None]
    if len(modes) != 1:
        raise ConfigError("give either WEIGHTS to evaluate, or --rescore DIR, or --compare A B")
    output = options.output
    if options.compare is not None:
        from xgenmm.evaluation.compare import compare, comparison_text

        first, second = options.compare
        print(comparison_text(compare(first, second, output)))
        return
    from xgenmm.evaluation import run

    if options.rescore is not None:
        results = run.rescore(options.rescore, options.profile, output)
    else:
        if output is None or not options.tasks:
            raise ConfigError("evaluate WEIGHTS needs --tasks and --output")
        results = run.evaluate(
            run.EvaluationConfig(
                weights=str(options.weights),
                tasks=tuple(options.tasks),
                output=str(output),
                data=str(options.data),
                profile=options.profile,
                shots=tuple(options.shots),
                limit=options.limit,
                batch_size=options.batch_size,
                trials=options.trials,
                selection=options.selection,
                text_only_zero_shot=options.text_only_zero_shot,
                rices_encoder=options.rices_encoder,
                sources=dict(options.source),
            )
        )
    if os.environ.get("RANK", "0") == "0":
        print(f"{run.summary(results)}\nresults: {results}\nreport:  {results.with_name('report.html')}")


def _data_scan(options: argparse.Namespace) -> None:
    from xgenmm.data.scan import scan

    summary = scan(options.path, options.output, schema=options.schema, workers=options.workers, images=options.images)
    print(f"{summary.text()}\nreport: {options.output}")


def _data_index(options: argparse.Namespace) -> None:
    from xgenmm.config import ConfigError
    from xgenmm.data.indexing import NEVER_CUT, byte_processor, index_sources
    from xgenmm.data.loader import document_limits
    from xgenmm.data.source import index_folder
    from xgenmm.recipe import is_recipe, stage_processor

    recipes = [name for name in options.data if is_recipe(name)]
    if recipes and (options.weights or options.schema != "auto" or options.images):
        raise ConfigError("a recipe says itself what its data are: --weights, --schema and --images are for others")
    for name in recipes:
        recipe = _recipe(name)
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


def _data_fetch(options: argparse.Namespace) -> None:
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


def _data_make_noised_preferences(options: argparse.Namespace) -> None:
    from xgenmm.data.source import SourceConfig
    from xgenmm.engines.noise import NoiseConfig
    from xgenmm.engines.noised_preferences import NoisedConfig, make_noised_preferences
    from xgenmm.inference.load import load

    images = str(options.images) if options.images else None
    source = SourceConfig(name=options.name, adapter=options.adapter, path=tuple(options.data), images=images)
    noise = NoiseConfig(step=options.noise_step, schedule=options.noise_schedule)
    config = NoisedConfig(noise=noise, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
    model, processor = load(options.weights, device=_device())
    made = make_noised_preferences(model, processor, source, config, options.output, seed=options.seed)
    print(f"rows: {made.path}\nas a source: {{name: {made.name}, adapter: {made.adapter}, ", end="")
    print(f"path: {made.path}, images: {made.images}}}")


def _sources(name: str, schema: str, images: Path | None) -> "Sequence[SourceConfig]":
    """The sources of a recipe, or of files, folders and globs."""
    from xgenmm.data.sources import find_sources
    from xgenmm.recipe import is_recipe, sources_of

    if is_recipe(name):
        return [source for _, source in sources_of(_recipe(name))]
    return find_sources(name, schema=schema, images=images)


def _recipe(name: str, settings: Sequence[str] = ()) -> "Recipe":
    """A recipe, with its toy weights and data written if it wants some."""
    from xgenmm import recipe as recipes

    recipe = recipes.load_recipe(name, settings)
    if recipe.toy is not None:
        from xgenmm.starter.toy import write_toy

        write_toy(Path(recipe.toy))
    return recipe


def _data_check(options: argparse.Namespace) -> None:
    from xgenmm.data.quarantine import DataError
    from xgenmm.recipe_data import check_data

    found = check_data(_recipe(options.recipe, options.settings), steps=options.steps, output=options.output)
    print(f"{found.text()}\n\nreport: {found.report}")
    if found.faults:
        raise DataError("not fit to be trained on: " + "; ".join(found.faults))


def _data_replay(options: argparse.Namespace) -> None:
    from xgenmm.recipe_data import replay

    print(replay(_recipe(options.recipe, options.settings), options.to_step, options.stage))


def _data_view(options: argparse.Namespace) -> None:
    from functools import partial

    from xgenmm.data.sources import find_sources
    from xgenmm.data.view.app import HOST, make_app, open_port, serve
    from xgenmm.data.view.catalogue import Catalogue, listed
    from xgenmm.recipe import is_recipe
    from xgenmm.recipe_data import catalogue_of

    port = open_port(options.port)
    if is_recipe(options.source):
        catalogue, plans = catalogue_of(_recipe(options.source))
    else:
        sources = find_sources(options.source, schema=options.schema, images=options.images)
        catalogue, plans = Catalogue([(source.name, partial(listed, source)) for source in sources]), {}
    print(f"look at http://{HOST}:{port.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    serve(make_app(catalogue, options.source, plans), port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Train, look at and talk to xGen-MM (BLIP-3) models.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    quick = verbs.add_parser("quickstart", help="the whole chain on the starter's data; ends with a report and a model")
    quick.add_argument("--fast", action="store_true", help="half the steps and cruder figures")
    quick.add_argument("--output", default="runs", help="the run's folder is OUTPUT/quickstart (default: %(default)s)")
    _add_stamps(quick)
    quick.set_defaults(function=_quickstart)

    starter = verbs.add_parser("starter", help="build only the starter's data and weights")
    starter.add_argument("--folder", type=Path, default=Path("data/starter"), help="(default: %(default)s)")
    _add_stamps(starter)
    starter.set_defaults(function=_starter)

    train = verbs.add_parser("train", help="run the stages of a recipe; the same command again resumes")
    train.add_argument("recipe", metavar="RECIPE", help="a YAML file, or one of ours by its name: debug, paper/sft, …")
    train.add_argument("settings", metavar="a.b=c", nargs="*", help="settings that replace the recipe's")
    train.set_defaults(function=_train)

    plan = verbs.add_parser("plan", help="parameters, operations, memory, hours and cost of a recipe, before it runs")
    plan.add_argument("recipe", metavar="RECIPE", help="as for train")
    plan.add_argument("settings", metavar="a.b=c", nargs="*", help="as for train; plan.NAME=VALUE sets what is assumed")
    plan.set_defaults(function=_plan)

    chat = verbs.add_parser("chat", help="talk to a model at the terminal")
    _add_generation(chat)
    chat.set_defaults(function=_chat)

    generate = verbs.add_parser("generate", help="one answer to one text, with or without pictures")
    _add_generation(generate)
    generate.add_argument("text", metavar="TEXT", help="what to ask, or with --plain what to continue")
    generate.add_argument("--plain", action="store_true", help="continue the text instead of answering it")
    generate.set_defaults(function=_generate)

    data = verbs.add_parser("data", help="look at data before training on it")
    jobs = data.add_subparsers(title="jobs", required=True, metavar="JOB")
    scan = jobs.add_parser("scan", help="every record and every damage as a line of JSON; changes and fetches nothing")
    scan.add_argument("path", metavar="PATH", type=Path, help="a file, or a folder of files")
    scan.add_argument("--output", metavar="REPORT.jsonl", type=Path, required=True, help="where the lines go")
    scan.add_argument("--schema", default="auto", metavar="NAME", help="a data set's or an adapter's name (auto)")
    scan.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core, at most four)")
    scan.add_argument("--images", type=Path, metavar="DIR", help="where pictures that tables name are")
    scan.set_defaults(function=_data_scan)
    index = jobs.add_parser("index", help="where every record lies and how long it is; training does it on first use")
    index.add_argument("data", metavar="RECIPE|SOURCE", nargs="+", help="a recipe; or files, folders, globs")
    index.add_argument("--weights", metavar="WEIGHTS", type=Path, help="whose tokens are counted, for sources")
    index.add_argument("--schema", default="auto", metavar="NAME", help="as for scan, for sources")
    index.add_argument("--images", type=Path, metavar="DIR", help="where pictures that tables name are, for sources")
    index.add_argument("--folder", type=Path, metavar="DIR", help="of indexes (default: the recipe's, or the cache)")
    index.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    index.set_defaults(function=_data_index)
    _add_fetch(jobs.add_parser("fetch", help="the pictures that tables name by address, into a folder; resumes"))

    _add_check(
        jobs.add_parser("check", help="what a recipe's stages will see, as a table and a page; fails if they can't")
    )
    _add_replay(jobs.add_parser("replay", help="where the plan stands before a step, and that step's rows, as JSON"))
    _add_view(jobs.add_parser("view", help="a local page: records as people and as the model see them"))
    make = jobs.add_parser("make", help="data that a model makes")
    kinds = make.add_subparsers(title="kinds", required=True, metavar="KIND")
    _add_noised(kinds.add_parser("noised-preferences", help="pairs with the model's own answer to a noised picture"))

    _add_evaluate(verbs.add_parser("evaluate", help="benchmarks, few-shot and safety; or saved answers scored again"))
    return parser


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or one of ours by its name")
    parser.add_argument("settings", metavar="a.b=c", nargs="*", help="settings that replace the recipe's")
    parser.add_argument("--steps", type=int, metavar="N", help="steps to plan of each stage (default: at most 1000)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of data_report.html (default: the run's)")
    parser.set_defaults(function=_data_check)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or one of ours by its name")
    parser.add_argument("settings", metavar="a.b=c", nargs="*", help="settings that replace the recipe's")
    parser.add_argument("--to-step", type=int, required=True, metavar="N", help="the step, counted from 0")
    parser.add_argument("--stage", metavar="NAME", help="(default: the first)")
    parser.set_defaults(function=_data_replay)


def _add_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE|RECIPE", help="a file, a folder, a glob, or a recipe")
    parser.add_argument("--port", type=int, default=8017, metavar="N", help="on this machine (default: %(default)s)")
    parser.add_argument("--schema", default="auto", metavar="NAME", help="a data set's or an adapter's name (auto)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where pictures that tables name are")
    parser.set_defaults(function=_data_view)


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
    parser.set_defaults(function=_data_make_noised_preferences)


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
    parser.set_defaults(function=_data_fetch)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, nargs="?", help="a folder of weights")
    parser.add_argument("--tasks", type=_words, metavar="A,B", help="names of benchmarks: see docs/evaluation.md")
    parser.add_argument(
        "--shots", type=_numbers, default=(0,), metavar="N,N", help="few-shot demonstrations, as 0,4,8 (default: 0)"
    )
    parser.add_argument("--profile", default="paper", help="paper, vlmevalkit or lmms-eval (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("."), metavar="ROOT", help="folder of the benchmarks' data")
    parser.add_argument("--limit", type=int, metavar="N", help="questions per task (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="questions at a time; changes no answer")
    parser.add_argument("--trials", type=int, default=1, metavar="N", help="draws of demonstrations (default: 1)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where answers go; the same again resumes")
    parser.add_argument(
        "--selection",
        choices=("random", "fixed", "rices"),
        default="random",
        help="demonstrations: drawn for each question, once for all, or the most similar (default: %(default)s)",
    )
    parser.add_argument("--rices-encoder", metavar="PATH", help="a CLIP or SigLIP folder (default: the model's own)")
    parser.add_argument(
        "--text-only-zero-shot", action="store_true", help="0 shots shows two demonstrations without their pictures"
    )
    parser.add_argument(
        "--source",
        type=_pair,
        action="append",
        default=[],
        metavar="TASK=WHERE",
        help="another repository or path for a benchmark's data; may be given repeatedly",
    )
    parser.add_argument("--rescore", type=Path, metavar="DIR", help="score the answers of DIR again, without a model")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two result folders")
    parser.set_defaults(function=_evaluate)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: write TASK=WHERE")
    return name, value


def _add_stamps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with-stamps", action="store_true", help="train on Tux Paint's photographs too, if they are installed"
    )


def _add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="a folder of weights, as runs/NAME/STAGE/weights")
    parser.add_argument(
        "--image", metavar="PATH", type=Path, action="append", default=[], help="may be given repeatedly"
    )
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest tokens of this probability")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")


def _generation(options: argparse.Namespace) -> "GenerationConfig":
    from xgenmm.config import ConfigError
    from xgenmm.inference.sampling import GenerationConfig

    names = ("max_new_tokens", "temperature", "top_p", "seed")
    try:
        return GenerationConfig(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _prepare() -> None:
    """What must be settled before torch is imported, and how the package's messages are shown."""
    # Idle OpenMP threads spin by default: two processes on one machine then cost each other a factor of two to four.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(PROGRAM)
    logger.handlers.clear()  # a test may call `main` repeatedly in one process
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    """Writes to what `sys.stderr` is at the moment: while a progress bar is shown, a stream that knows of the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _exit_code(error: Exception) -> int | None:
    """The exit code for what a user can mend and the message explains; None for a bug, whose traceback is wanted.

    The classes are imported only now, when something has gone wrong.
    """
    from xgenmm.config import ConfigError

    if isinstance(error, ConfigError):
        return EXIT_USAGE
    from xgenmm.data.quarantine import DataError
    from xgenmm.evaluation.run import EvaluationError
    from xgenmm.model.weights import WeightsError
    from xgenmm.processor.images import ImageError
    from xgenmm.processor.processor import PromptTooLong
    from xgenmm.starter.fetch import StarterError
    from xgenmm.training.checkpoint import CheckpointError
    from xgenmm.training.health import TrainingError
    from xgenmm.training.lock import LockError
    from xgenmm.training.stopping import Stopped

    if isinstance(error, Stopped):
        return error.exit_code
    told = (
        *(StarterError, DataError, WeightsError, ImageError, PromptTooLong, CheckpointError, TrainingError),
        *(LockError, EvaluationError, OSError),
    )
    return EXIT_FAILED if isinstance(error, told) else None


if __name__ == "__main__":
    sys.exit(main())
