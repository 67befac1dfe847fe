"""The verb evaluate: benchmarks, saved answers scored again, two results compared."""

import argparse
import os
from pathlib import Path

from xgenmm.cli.shared import Verbs


def add(verbs: Verbs) -> None:
    """Add this verb to the command."""
    parser = verbs.add_parser("evaluate", help="benchmarks, few-shot and safety; or saved answers scored again")
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
    parser.add_argument(
        "--judge", metavar="URL", help="an OpenAI-compatible server that judges, as http://localhost:8000/v1"
    )
    parser.add_argument("--judge-model", default="", metavar="NAME", help="the name that the server knows the judge by")
    parser.add_argument(
        "--judge-timeout", type=float, default=60.0, metavar="S", help="seconds for a verdict (default: %(default)s)"
    )
    parser.add_argument(
        "--judge-retries", type=int, default=4, metavar="N", help="further tries for a verdict (default: %(default)s)"
    )
    parser.add_argument(
        "--java-metrics", action="store_true", help="METEOR and SPICE of captions, by pycocoevalcap and Java"
    )
    parser.add_argument("--rescore", type=Path, metavar="DIR", help="score the answers of DIR again, without a model")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two result folders")
    parser.set_defaults(function=_evaluate)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write numbers, as 0,4,8") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: write TASK=WHERE")
    return name, value


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
    from xgenmm.evaluation.folder import summary
    from xgenmm.evaluation.judging import JudgeConfig

    judge = None
    if options.judge is not None:
        judge = JudgeConfig(
            url=options.judge,
            model=options.judge_model,
            timeout=options.judge_timeout,
            retries=options.judge_retries,
        )
    if options.rescore is not None:
        from xgenmm.evaluation.rescoring import rescore

        results = rescore(options.rescore, options.profile, output, judge, java_metrics=options.java_metrics)
    else:
        if output is None or not options.tasks:
            raise ConfigError("evaluate WEIGHTS needs --tasks and --output")
        from xgenmm.evaluation.run import evaluate
        from xgenmm.evaluation.settings import EvaluationConfig

        results = evaluate(
            EvaluationConfig(
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
                judge=judge,
                java_metrics=options.java_metrics,
            )
        )
    if os.environ.get("RANK", "0") == "0":
        print(f"{summary(results)}\nresults: {results}\nreport:  {results.with_name('report.html')}")
