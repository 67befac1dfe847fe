"""A file is written whole, or what was there stays."""

from pathlib import Path

import pytest

from xgenmm.files import write_whole


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "figures.json"
    write_whole(path, "one")
    write_whole(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_what_was_there_stays_where_the_disk_is_full(tmp_path, monkeypatch, what):
    path = tmp_path / "figures.json"
    write_whole(path, "before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": ("os.fsync", full), "replace": (Path, "replace", full)}[what])
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]
