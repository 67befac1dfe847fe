"""Parse, call one function, print. Imports nothing heavy before it knows that it must."""

import argparse
import errno
import logging
import os
import select
import sys
from collections.abc import Sequence

from xgenmm import __version__
from xgenmm.cli import data, evaluating, talking, training
from xgenmm.cli.shared import PROGRAM

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_UNREAD = 1, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; gives the exit code: 0 only on success, 1 for a failure, 2 for a mistake in command or recipe.

    A run that a signal stopped exits with 128 + its number, as the shell does (130 for Ctrl-C); with 75 for SIGUSR1;
    with 141 if nobody reads what it prints any more (`| head`).
    """
    try:
        options = _parsed(arguments)
        _prepare()
        options.function(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_UNREAD
        code = _exit_code(error)
        if code is None:
            raise
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        advice = ". What was whole before is untouched: make room and give the same command again" if full else ""
        # All processes of a machine read the same recipe: its mistake is told once.
        if code != EXIT_USAGE or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{PROGRAM}: {error}{advice}", file=sys.stderr)
        return code
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options. A recipe's settings may stand behind them as well, where argparse expects no more."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        if "settings" not in options or not all("=" in one and not one.startswith("-") for one in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.settings += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Train, look at and talk to xGen-MM (BLIP-3) models.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for part in (training, talking, data, evaluating):
        part.add(verbs)
    return parser


def _prepare() -> None:
    """What must be settled before torch is imported, and how the package's messages are shown."""
    # Idle OpenMP threads spin by default: two processes on one machine then cost each other a factor of two to four.
    # A thousand turns (microseconds) are not felt there, and where nothing else runs they save waking threads up.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
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


def _nobody_reads() -> bool:
    """Whether what is printed goes into a pipe that was closed, as by `| head`. Python shall not try it once more."""
    output, polled = sys.stdout.fileno(), select.poll()
    polled.register(output, 0)
    closed = any(event & select.POLLERR for _, event in polled.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


def _exit_code(error: Exception) -> int | None:
    """The exit code for what a user can mend and the message explains; None for a bug, whose traceback is wanted.

    The classes are imported only now, when something has gone wrong.
    """
    from xgenmm.config import ConfigError

    if isinstance(error, ConfigError):
        return EXIT_USAGE
    from xgenmm.data.quarantine import DataError
    from xgenmm.evaluation.settings import EvaluationError
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
