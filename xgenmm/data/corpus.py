"""Which files under a path are data. Opens none."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xgenmm.config import ConfigError
from xgenmm.data.readers import PICTURE_SUFFIXES
from xgenmm.data.records import Damage

TABLES = (".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
ARCHIVE = ".tar"
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".7z", ".rar")
_OF_PEOPLE = ("readme", "license", "licence", "notice", "changelog")
"""How texts begin that are no captions."""
_LEADS_NOWHERE = {".parquet": "parquet_corrupt", ARCHIVE: "archive_corrupt"}


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """Pictures that are records of their own, with the texts beside them, in one folder."""

    place: Path
    records: Mapping[str, dict[str, Path]]
    """Name without suffix -> suffix without its dot, in lower case -> file."""

    is_captioned: bool
    """Whether texts belong to these pictures: then one without is half a record, and so is a text alone."""


@dataclass(frozen=True, kw_only=True)
class Unopened:
    """A file that is named like data and cannot be opened as such."""

    place: Path
    damage: Damage


@dataclass(kw_only=True)
class Corpus:
    """What lies under a path."""

    files: list[Path] = field(default_factory=list)
    """Shards and tables, in order."""
    folders: list[PictureFolder] = field(default_factory=list)
    unopened: list[Unopened] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Suffixes of files that are not named like data; pictures that a table may name are none of them."""

    @property
    def size(self) -> int:
        """Number of data files."""
        return len(self.files) + len(self.unopened) + sum(len(folder.records) for folder in self.folders)


def look_through(path: Path, leave_out: Iterable[Path] = ()) -> Corpus:
    """Find the data: shards and tables; pictures where they are data of their own.

    A picture is a record of its own where a text lies beside it, or where no table is in the tree that may name it.

    Args:
        path: A file or a folder.
        leave_out: Files that are no data, such as a report of ours.

    Raises:
        ConfigError: There is no such path.
    """
    if path.is_file():
        return _one_file(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder")
    apart = {one.absolute() for one in leave_out}
    corpus = Corpus()
    found: list[Path] = []
    for one in sorted(path.rglob("*")):
        if one.name.startswith(".") or one.absolute() in apart:
            continue
        if one.is_file() and one.suffix.lower() not in COMPRESSED:
            found.append(one)
        elif damage := _damage_of(one):
            corpus.unopened.append(Unopened(place=one, damage=damage))
    stems = {one.with_suffix("") for one in found if _is_picture(one)}
    for one in found:
        suffix = one.suffix.lower()
        if suffix == ARCHIVE or (suffix in TABLES and one.with_suffix("") not in stems and not _tells_of_a_shard(one)):
            corpus.files.append(one)
        elif not (_is_picture(one) or suffix in (*TABLES, ".txt")):
            corpus.others[suffix or one.name] += 1
    _add_pictures(corpus, found)
    return corpus


def _one_file(path: Path) -> Corpus:
    if damage := _damage_of(path):
        return Corpus(unopened=[Unopened(place=path, damage=damage)])
    if path.suffix.lower() in (ARCHIVE, *TABLES):
        return Corpus(files=[path])
    beside = {
        one.suffix[1:].lower(): one
        for one in path.parent.iterdir()
        if one.stem == path.stem and one.is_file() and one.suffix.lower() in (".txt", ".json")
    }
    files = {path.suffix[1:].lower(): path, **beside}
    folder = PictureFolder(place=path.parent, records={path.stem: files}, is_captioned=bool(beside))
    return Corpus(folders=[folder])


def _add_pictures(corpus: Corpus, found: Iterable[Path]) -> None:
    beside: dict[Path, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    own = set(corpus.files)
    for one in found:
        suffix = one.suffix[1:].lower()
        is_text = suffix == "txt" and not one.name.lower().startswith(_OF_PEOPLE)
        if one not in own and (_is_picture(one) or is_text or suffix == "json"):
            records = beside[one.parent]
            twice = suffix in records[one.stem]  # a.jpg and a.JPG
            records[one.name if twice else one.stem][suffix] = one
    for place, records in beside.items():
        captioned = any({"txt", "json"} & set(files) and _has_picture(files) for files in records.values())
        if not captioned:
            records = {} if corpus.files else {stem: files for stem, files in records.items() if _has_picture(files)}
        if records:
            corpus.folders.append(PictureFolder(place=place, records=records, is_captioned=captioned))


def _damage_of(path: Path) -> Damage | None:
    """What is wrong with a file that is named like data, as far as its name and its links tell."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSED and path.is_file():
        return Damage(reason="archive_corrupt", detail="compressed: decompress it first")
    if path.is_symlink() and not path.exists():
        if suffix in (ARCHIVE, *TABLES):
            return Damage(reason=_LEADS_NOWHERE.get(suffix, "json_invalid"), detail="a link that leads nowhere")
        if _is_picture(path):
            return Damage(reason="image_missing", detail="a link that leads nowhere")
    return None


def _is_picture(path: Path) -> bool:
    return path.suffix[1:].lower() in PICTURE_SUFFIXES


def _has_picture(files: Iterable[str]) -> bool:
    return bool(set(files) & set(PICTURE_SUFFIXES))


def _tells_of_a_shard(table: Path) -> bool:
    """Whether a table is what img2dataset notes about a shard of digits: its samples are in the shard."""
    number = table.stem.removesuffix("_stats")
    if not number.isdigit():
        return False
    shards = [table.with_name(f"{number}.tar"), table.with_name(number)]
    if table.stem != number:
        shards.append(table.with_name(f"{number}.parquet"))
    return any(shard.exists() for shard in shards)
