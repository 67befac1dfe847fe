"""Where a benchmark's rows are, and how they are read: local parquet, TSV, JSON or JSON lines, by row number.

Under the data root, a data set lies in a folder called like its repository (`owner/name`, `owner__name` or `name`) or
like the benchmark. Files of another split or configuration are left alone. The Hub is asked only when nothing is there.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from xgenmm.config import ConfigError
from xgenmm.evaluation.benchmarks.benchmark import BAD_ROW, Benchmark, Doc, Source, explained

SUFFIXES = (".parquet", ".tsv", ".json", ".jsonl")
SPLITS = ("train", "dev", "val", "validation", "test", "testdev", "testmini", "val2014")
"""Words in file names that say which split a file holds."""
_SAME = {"validation": "val"}


class BenchmarkDataError(ConfigError):
    """A benchmark's data is not there or not what it should be; the message says where to get it."""


class Docs(Sequence[Doc]):
    """The questions of a benchmark by number; pictures are read when their row is."""

    def __init__(self, source: Source, files: Sequence[Path], benchmark: Benchmark | None = None) -> None:
        """Open the files.

        Args:
            source: Whose columns they must have.
            files: In the order of the rows.
            benchmark: Whose questions are wanted, if rows hold several or none; otherwise every row is one.

        Raises:
            BenchmarkDataError: A file cannot be read or lacks a column.
        """
        self.source, self.files, self.benchmark = source, files, benchmark
        self._tables = [_open(path) for path in files]
        for path, table in zip(files, self._tables, strict=True):
            missing = [name for name in source.columns if name not in table.columns]
            if missing:
                raise BenchmarkDataError(
                    f"{path}: no column {', '.join(missing)}; it has {', '.join(sorted(table.columns))}. {self.advice}"
                )
        self._starts = [0]
        for table in self._tables:
            self._starts.append(self._starts[-1] + len(table))
        self.pictures: _Pictures | None = None

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        row, question = self._questions[place]
        return self._expanded(row)[question]

    @cached_property
    def _questions(self) -> list[tuple[int, int]]:
        """Row and number within the row of every question."""
        if self.benchmark is None or self.benchmark.expand is None:
            return [(row, 0) for row in range(self._starts[-1])]
        return [(row, n) for row in range(self._starts[-1]) for n in range(len(self._expanded(row)))]

    def _expanded(self, row: int) -> Sequence[dict[str, Any]]:
        number = next(n for n, start in enumerate(self._starts[1:]) if row < start)
        path, line = self.files[number], row - self._starts[number]
        try:
            doc = {**self._tables[number][line], "_root": str(path.parent), "_place": row}
            if self.pictures is not None:
                doc["image"] = self.pictures.get(str(doc[self.source.pictures_key]))
            if self.benchmark is None or self.benchmark.expand is None:
                return [doc]
            return self.benchmark.expand(doc)
        except BenchmarkDataError:
            raise
        except (OSError, *BAD_ROW) as error:
            raise BenchmarkDataError(f"{path}, row {line}: {explained(error)}. {self.advice}") from error

    @property
    def where(self) -> str:
        """The files, for messages."""
        return ", ".join(map(str, self.files))

    @property
    def advice(self) -> str:
        """How to get the data, for messages."""
        return _advice(self.source)


def read_docs(benchmark: Benchmark, root: Path, overrides: Mapping[str, str] | None = None) -> Docs:
    """A benchmark's questions.

    Args:
        benchmark: Which.
        root: Folder of all data sets.
        overrides: Repository or path by benchmark name, instead of the published repository.

    Raises:
        BenchmarkDataError: There is no data, or other columns.
    """
    where = (overrides or {}).get(benchmark.name)
    docs = Docs(benchmark.source, find(benchmark.source, root, benchmark.name, where), benchmark)
    if benchmark.source.pictures is not None and "image" not in docs._tables[0].columns:
        other = benchmark.source.pictures
        docs.pictures = _Pictures(Docs(other, find(other, root, benchmark.name, where)))
    len(docs)  # counts the questions of all rows, so that an odd one is told now
    return docs


def read_train(source: Source, root: Path) -> Docs:
    """The train split that demonstrations come from.

    Raises:
        BenchmarkDataError: As `read_docs`.
    """
    return Docs(source, find(source, root))


def find(source: Source, root: Path, name: str = "", where: str | None = None) -> list[Path]:
    """The files of a data set's split, in order.

    Args:
        source: Which data set.
        root: Folder of all data sets.
        name: The benchmark's, which its folder may have as well.
        where: A path to look at, or another repository, instead.

    Raises:
        BenchmarkDataError: There are none.
    """
    repo = where or source.repo
    owner, _, short = repo.rpartition("/")
    folders = [root / repo, root / f"{owner}__{short}", root / short, root / name] if name else [root / repo]
    folders += [root / f"{owner}__{short}", root / short]
    if where is not None:
        folders.insert(0, Path(where))
    for folder in folders:
        files = _of_split(folder, source)
        if files:
            return files
    downloaded = [] if source.made_by else _download(repo, source)
    if downloaded:
        return downloaded
    wanted = source.file or f"{', '.join(SUFFIXES)} files"
    raise BenchmarkDataError(
        f"no data of {source.repo} ({_config(source)}split {source.split}) under {root}: looked into "
        f"{', '.join(dict.fromkeys(str(folder) for folder in folders))} for {wanted}. {_advice(source)}"
    )


def _of_split(folder: Path, source: Source) -> list[Path]:
    if folder.is_file():
        return [folder]
    if source.file:
        return [path for path in (folder / source.file,) if path.is_file()]
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return [path for path in files if _fits(path.relative_to(folder), source)]


def _fits(path: Path, source: Source) -> bool:
    """Whether a file's name speaks for the split and configuration, or at least not for another one."""
    words = [_SAME.get(word, word) for word in re.split(r"[^a-z0-9]+", str(path.with_suffix("")).lower()) if word]
    wanted = _SAME.get(source.split.lower(), source.split.lower())
    splits = [word for word in words if word in {_SAME.get(split, split) for split in SPLITS}]
    if splits and wanted not in splits:
        return False
    return source.config is None or len(path.parts) == 1 or source.config.lower() in str(path).lower()


def _download(repo: str, source: Source) -> list[Path]:
    patterns = [f"*{source.split}*{suffix}" for suffix in SUFFIXES]
    try:
        folder = snapshot_download(repo, repo_type="dataset", allow_patterns=patterns, etag_timeout=3)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError):
        return []  # not reachable or not there: the caller says where the data should be
    return _of_split(Path(folder), source)


def _advice(source: Source) -> str:
    if source.made_by:
        return f"Make it with: {source.made_by}"
    return f"Get it with: hf download {source.repo} --repo-type dataset --local-dir ROOT/{source.repo}"


def _config(source: Source) -> str:
    return f"configuration {source.config}, " if source.config else ""


# ---- tables ----


class _Rows:
    """Rows that are in memory."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[row]


class _Parquet:
    """Rows of a parquet file; a row group is read when one of its rows is wanted, and the last one kept."""

    def __init__(self, path: Path) -> None:
        self.file = pq.ParquetFile(path, page_checksum_verification=True)
        self.columns = self.file.schema_arrow.names
        self._starts = [0]
        for group in range(self.file.num_row_groups):
            self._starts.append(self._starts[-1] + self.file.metadata.row_group(group).num_rows)
        self._group: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> dict[str, Any]:
        number = next(n for n, start in enumerate(self._starts[1:]) if row < start)
        if self._group is None or self._group[0] != number:
            self._group = (number, self.file.read_row_group(number))
        return self._group[1].slice(row - self._starts[number], 1).to_pylist()[0]


def _open(path: Path) -> _Rows | _Parquet:
    try:
        if path.suffix == ".parquet":
            return _Parquet(path)
        if path.suffix == ".tsv":
            return _Rows(list(_tsv(path)))
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            return _Rows(_listed([json.loads(line) for line in text.split("\n") if line.strip()]))
        return _Rows(_listed(json.loads(text)))
    except (OSError, ValueError, csv.Error, pa.ArrowInvalid) as error:
        raise BenchmarkDataError(f"{path} cannot be read: {error}") from error


def _tsv(path: Path) -> Iterator[dict[str, Any]]:
    """VLMEvalKit's tables: a picture is base64 text, which may be long. Numbers stay text."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more cells than the first line names columns")
            yield row


def _listed(content: Any) -> list[dict[str, Any]]:
    """The rows of a JSON file: a list, or a list under one of these names (Karpathy's file has "images")."""
    if isinstance(content, Mapping):
        content = next((content[name] for name in ("images", "data", "questions", "rows") if name in content), None)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("it holds no list of objects")
    return content


class _Pictures:
    """Pictures by key, in a table of their own."""

    def __init__(self, docs: Docs) -> None:
        self.docs = docs
        key, self.column = docs.source.columns
        self.places = {str(doc[key]): place for place, doc in enumerate(docs)}

    def get(self, key: str) -> Any:
        place = self.places.get(key)
        return None if place is None else self.docs[place][self.column]
