"""Services that others watch runs with: Weights & Biases, trackio. Not dependencies: who asks for one installs it."""

import importlib
import importlib.util
import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from xgenmm.config import ConfigError, read_yaml
from xgenmm.files import write_whole
from xgenmm.training.metrics import StepRecord, scalars

log = logging.getLogger(__name__)

TrackerName = Literal["wandb", "trackio"]


class Tracker:
    """Sends the numbers of every step; the run has the names of its folders, and its recipe as settings.

    A tracker is company, not part of the work: one that fails is told of and left out, and training goes on.
    """

    def __init__(self, name: TrackerName, folder: Path) -> None:
        """Begin, or go on with, a run.

        Args:
            name: Of the package.
            folder: The stage's.
        """
        self.name = name
        self._run: Any = None
        self._try("cannot be begun", lambda: _open(name, folder))

    def write(self, record: StepRecord) -> None:
        """Send a step."""
        if self._run is not None:
            self._try("gets no more records", lambda: self._log(record))

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._try("was not told of the end", lambda: self._run.finish())

    def _log(self, record: StepRecord) -> Any:
        self._run.log(dict(scalars(asdict(record))), step=record.step)
        return self._run

    def _try(self, otherwise: str, action: Callable[[], Any]) -> None:
        try:
            self._run = action()
        except Exception as error:  # noqa: BLE001 - whatever a service's client may raise
            log.warning("%s %s: %s", self.name, otherwise, error)
            self._run = None


def check_tracker(name: TrackerName) -> None:
    """Make sure that a tracker's package is there.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"recipe.trackers: the package {name} is not installed; pip install {name}")


def _open(name: TrackerName, folder: Path) -> Any:
    package: Any = importlib.import_module(name)
    recipe = folder / "recipe.yaml"
    settings = read_yaml(recipe) if recipe.is_file() else {}
    names: dict[str, Any] = {"project": folder.parent.name, "name": folder.name, "config": settings}
    if name == "wandb":
        names |= {"dir": str(folder), "id": _identity(folder)}
    return package.init(**names, resume="allow")


def _identity(folder: Path) -> str:
    """The same in every process that goes on with a stage, and in no other stage."""
    path = folder / "tracker.json"
    if not path.is_file():
        write_whole(path, json.dumps({"id": uuid.uuid4().hex}))
    return json.loads(path.read_text(encoding="utf-8"))["id"]
