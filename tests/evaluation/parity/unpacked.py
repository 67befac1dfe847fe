"""An unpacked wheel of a reference, whose modules are loaded one by one, without their packages' start-up code.

What they would only need online or on a GPU (judges, data sets, models) is stood in for; no scorer here uses it.
"""

import builtins
import importlib
import importlib.util
import random
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np


class Wheel:
    """Modules of an unpacked wheel."""

    def __init__(self, root: Path, package: str, packages: Sequence[str], stand_ins: Sequence[str] = ()) -> None:
        """Begin.

        Args:
            root: Where the wheel was unpacked.
            package: Its own top-level package.
            packages: Packages of it whose start-up code is left out.
            stand_ins: Modules of it that are never really loaded.
        """
        self.package, self.root = package, root / package
        if not self.root.is_dir():
            raise ValueError(f"{root} has no {package}: unpack its wheel there")
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        for name in (package, *packages):
            self._package(name)
        for name in stand_ins:
            sys.modules[name] = MagicMock()

    def _package(self, name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__path__ = [str(self.root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], last, module)
        return module

    def module(self, path: str) -> Any:
        """The module at a path such as "tasks/mme/utils"; what it imports and nobody installed is stood in for."""
        name = f"{self.package}.{path.replace('/', '.')}"
        while True:
            try:
                if name not in sys.modules:
                    self._load(name, path)
                return sys.modules[name]
            except ModuleNotFoundError as error:
                sys.modules.pop(name, None)  # a half of it would look like a whole one
                if error.name is None or error.name.partition(".")[0] == self.package:
                    raise
                sys.modules[error.name] = MagicMock()

    def _load(self, name: str, path: str) -> None:
        parent = name.rpartition(".")[0]
        if parent not in sys.modules:
            self._package(parent)
        spec = importlib.util.spec_from_file_location(name, self.root / f"{path}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def quietly(call: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What a call gives, and what it would have printed."""
    printed: list[Any] = []
    original = builtins.print
    builtins.print = lambda *args, **_: printed.extend(args)
    try:
        return call(), printed
    finally:
        builtins.print = original


def without_draws(module: Any, call: Callable[[], Any]) -> Any:
    """What a call gives if nothing is drawn at random: the draw is None."""
    module.random, before = getattr(module, "random", random), getattr(module, "random", None)
    module.np = np  # the older versions forgot to import it
    draw = random.choice
    random.choice = lambda _: None
    try:
        return call()
    finally:
        random.choice = draw
        if before is None:
            del module.random
