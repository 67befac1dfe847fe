"""Makes transformers' Auto classes know xGen-MM once `xgenmm` is imported, without importing transformers for it.

`import xgenmm` must be quick, and while transformers imports itself it cannot be asked for its models. So nothing is
registered before the first call of `from_pretrained` of AutoConfig (which all AutoModel classes make) or AutoProcessor;
a finder in front of Python's own sees to that as soon as somebody imports those two.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AUTO_CLASSES = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.processing_auto": "AutoProcessor",
}
"""Module and class, whose `from_pretrained` registers us first."""
_waiting: list[tuple[type, Any]] = []
"""Auto classes that have not been called yet, and their own `from_pretrained`."""


def register() -> None:
    """Tell the Auto classes of our configuration, model and processor. Imports torch."""
    while _waiting:
        auto_class, from_pretrained = _waiting.pop()
        auto_class.from_pretrained = from_pretrained  # pyrefly: ignore
    # The model registers itself, and its configuration. Nothing can do so for the processor, which knows no model.
    importlib.import_module("xgenmm.model.vlm")
    configuration = importlib.import_module("xgenmm.model.configuration")
    processor = importlib.import_module("xgenmm.processor.processor")
    transformers = importlib.import_module("transformers")
    transformers.AutoProcessor.register(configuration.XGenMMConfig, processor.XGenMMProcessor, exist_ok=True)


def _register_at_first_call(auto_class: type) -> None:
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        register()
        return cls.from_pretrained(*args, **kwargs)

    _waiting.append((auto_class, auto_class.__dict__["from_pretrained"]))
    auto_class.from_pretrained = classmethod(from_pretrained)  # pyrefly: ignore


class _Finder:
    """Finds the Auto classes' modules as Python's path finder does, and has their classes wait for a first call."""

    @staticmethod
    def find_spec(name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's spec with a loader that goes on to us; None for all other modules.

        `path` is what the import system passes: for namespace packages an object that is no `Sequence`.
        """
        spec = PathFinder.find_spec(name, path, target) if name in AUTO_CLASSES else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_wait(module: ModuleType) -> None:
            execute(module)
            _register_at_first_call(getattr(module, AUTO_CLASSES[name]))

        spec.loader.exec_module = execute_and_wait  # pyrefly: ignore
        return spec


def install() -> None:
    """Have the Auto classes register us, those that are there already and those that will be imported."""
    sys.meta_path.insert(0, _Finder)
    for name, class_name in AUTO_CLASSES.items():
        if name in sys.modules:
            _register_at_first_call(getattr(sys.modules[name], class_name))
