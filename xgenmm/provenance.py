"""What a result depends on beside its settings: versions of packages, and our own commit."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from shutil import which

PACKAGES = ("xgenmm", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pillow")
"""Whose versions are noted beside results."""


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: version(name) for name in PACKAGES}


def commit() -> str | None:
    """The commit that this package runs from; None where it is not in a git repository."""
    return _git("rev-parse", "HEAD")


def branch() -> str | None:
    """The branch of that commit, if it is checked out as one."""
    return _git("symbolic-ref", "--short", "HEAD")


def _git(*words: str) -> str | None:
    if not which("git"):
        return None
    command = ["git", "-C", str(Path(__file__).parent), *words]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None
