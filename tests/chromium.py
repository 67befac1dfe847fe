"""A real browser without a window, for the tests of pages: Debian's chromium, started anew for each look."""

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from PIL import Image

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs chromium: apt-get install chromium")

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--virtual-time-budget=10000",
)


def _look(url: str, *options: str) -> bytes:
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *_OPTIONS, f"--user-data-dir={profile}", *options, url]
        # its own home, so that nothing of a user's comes in or goes out
        environment = {**os.environ, "HOME": profile}
        done = subprocess.run(command, capture_output=True, timeout=90, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def dom(url: str) -> str:
    """The page as the browser has it after everything ran that would run."""
    return _look(url, "--dump-dom").decode()


def screenshot(url: str, width: int = 1280, height: int = 1400) -> Image.Image:
    """What one sees of the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.png"
        _look(url, f"--screenshot={path}", f"--window-size={width},{height}")
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def share_of(image: Image.Image, colour: tuple[int, int, int], tolerance: int = 12) -> float:
    """Share of the pixels that have nearly this colour."""
    near = sum(
        count
        for count, pixel in image.getcolors(image.width * image.height)
        if all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))
    )
    return near / (image.width * image.height)
