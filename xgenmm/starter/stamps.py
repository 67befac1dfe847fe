"""Tux Paint's stamps, where they are installed: photographs and drawings of things, each with one English sentence."""

import os
import re
from pathlib import Path

from PIL import Image

from xgenmm.starter.fetch import StarterError
from xgenmm.starter.pictures import SIDE, Item, describe, fit

FOLDER = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's `tuxpaint-stamps-default` puts them; `XGENMM_STAMPS` names another place."""
MAX_NAME_WORDS = 6

KIND_OF_FOLDER = {
    "animals": "nature",
    "plants": "nature",
    "naturalforces": "nature",
    "food": "food",
    "people": "person",
    "vehicles": "travel",
    "town": "travel",
    "space": "travel",
    "sports": "activity",
    "hobbies": "activity",
    "seasonal": "activity",
    "household": "object",
    "clothes": "object",
    "medical": "object",
    "military": "object",
}
"""Symbols (letters, coins, sign language) are left out: nobody could name them from the picture."""


def read_stamps() -> tuple[list[Item], dict[str, Image.Image]]:
    """All stamps that are pictures with a sentence: items and their pictures (RGBA, 224 px).

    Raises:
        StarterError: They are not installed.
    """
    root = Path(os.environ.get("XGENMM_STAMPS") or FOLDER)
    if not root.is_dir():
        raise StarterError(
            f"no Tux Paint stamps in {root}: install Debian's tuxpaint-stamps-default, or set XGENMM_STAMPS to the "
            "folder that holds animals/, food/ and the others, or go on without --with-stamps"
        )
    items, pictures = [], {}
    for text in sorted(root.glob("*/**/*.txt")):
        path, kind = text.with_suffix(".png"), KIND_OF_FOLDER.get(text.relative_to(root).parts[0])
        name = read_name(text)
        if kind is None or name is None or not path.is_file():
            continue
        key = "stamp-" + "-".join(path.relative_to(root).with_suffix("").parts)
        topic = path.parent.name
        items.append(Item(id=key, name=name, kind=kind, topic=topic, family=f"stamp {name}", source="stamps"))
        with Image.open(path) as picture:
            pictures[key] = fit(picture.convert("RGBA"), SIDE)
    return describe(items, pictures), pictures


def read_name(path: Path) -> str | None:
    """The thing's name from the first line of a stamp's text: "A great blue heron." is "great blue heron"."""
    with path.open(encoding="utf-8", errors="replace") as file:
        sentence = file.readline().strip()
    name = re.sub(r"^(a|an|the|some)\s+", "", sentence.rstrip(".! "), flags=re.IGNORECASE).lower()
    return name if 0 < len(name.split()) <= MAX_NAME_WORDS and "=" not in name else None
