"""xGen-MM (BLIP-3): data, training, evaluation and chat for large multimodal models.

After `import xgenmm`, transformers' AutoModelForImageTextToText and AutoProcessor read our folders;
`xgenmm.load(folder)` gives model and processor.
"""

from typing import TYPE_CHECKING, Any

from xgenmm import autoclasses

if TYPE_CHECKING:
    from xgenmm.inference.load import load as load

__version__ = "0.1.0"

autoclasses.install()


def __getattr__(name: str) -> Any:
    """`load`, imported when it is asked for: torch is not needed to import this package."""
    if name == "load":
        from xgenmm.inference.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
