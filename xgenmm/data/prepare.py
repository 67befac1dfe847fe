"""A row -> the documents that training packs: how long they are, without decoding, and then what they are.

Index and loader both go through here, so a planned length is the length that comes. Knows no file and no order.
"""

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from xgenmm.data.adapters import Adapter
from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.cutting import Unfit, Window, cut_out, windows
from xgenmm.data.files import Place
from xgenmm.data.pictures import INTERLEAVED, MAX_PIXELS, look_at, pictures_of
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.processor.images import PictureFile
from xgenmm.processor.outline import Outline, joined
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.processor.tiling import Decoded
from xgenmm.types import Conversation, Document, Example, Picture, Preference, Sample

NO_LIMIT = 2**31 - 1
Decode = Literal["draft", "exact"]
"""See `ReadConfig`."""


class Excerpt(NamedTuple):
    """A document of a row: some of the samples that its adapter gives, or a window of one of them."""

    first: int
    """The first sample."""
    last: int
    """Behind the last sample."""
    window: Window | None = None
    """Of the only sample."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a document may be; what is longer is cut."""

    tokens: int
    tiles: int = NO_LIMIT


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A row's samples, with the headers of their pictures read."""

    samples: tuple[Sample, ...]
    files: Mapping[Picture, PictureFile]
    remark: str = ""
    """What fell out of it, in words."""

    def size(self, picture: Picture) -> tuple[int, int]:
        """Width and height of a picture in pixels."""
        return self.files[picture].size


def open_row(name: str, adapter: Adapter, row: Row, choose: Choose, roots: tuple[Place, ...] = ()) -> Opened:
    """Read a row's samples and the headers of their pictures; see `Preparer.open`.

    Args:
        name: The adapter's name.
        adapter: With its options.
        row: The row.
        choose: Takes one of the row's alternatives.
        roots: Folders that its picture files must really lie in, links followed.

    Raises:
        BadSample: It cannot be used.
    """
    try:
        found = adapter(row, choose)
    except RecursionError as error:
        raise BadSample("json_invalid", "nested too deeply") from error
    samples = found if isinstance(found, tuple) else (found,)
    pictures = list(dict.fromkeys(picture for sample in samples for picture in pictures_of(sample)))
    files: dict[Picture, PictureFile] = {}

    def size(picture: Picture) -> tuple[int, int]:
        files[picture] = PictureFile(picture, MAX_PIXELS)
        return files[picture].size

    looked = look_at(pictures, name, size, roots)
    lost = {picture: BadSample("image_missing", f"{picture.name} is not fetched") for picture in looked.absent}
    lost.update(looked.failed)
    if not lost:
        return Opened(samples=samples, files=files)
    first = next(lost[picture] for picture in pictures if picture in lost)
    if name not in INTERLEAVED:
        raise first
    if len(lost) == len(pictures):
        raise BadSample("all_images_failed", "; ".join(str(one.detail) for one in lost.values()))
    kept = tuple(without(sample, lost) for sample in samples)
    remark = f"{len(lost)} of {len(pictures)} pictures fall out: {first.detail}"
    return Opened(samples=kept, files=files, remark=remark)


class Preparer:
    """Turns rows of one data set into documents."""

    def __init__(self, processor: XGenMMProcessor, name: str, adapter: Adapter, limits: Limits) -> None:
        """Take what does not change from row to row.

        Args:
            processor: Turns samples into tokens and tiles.
            name: The adapter's name.
            adapter: With its options.
            limits: Of a document.
        """
        self.processor = processor
        self._name = name
        self._adapter = adapter
        self._limits = limits
        self.tokens_per_tile = processor.config.tokens_per_tile

    def open(self, row: Row, choose: Choose, roots: tuple[Place, ...] = ()) -> Opened:
        """Read a row's samples and the headers of their pictures. From documents, bad pictures fall out alone.

        Args:
            row: The row.
            choose: Takes one of the row's alternatives.
            roots: Folders that its picture files must really lie in, links followed.

        Raises:
            BadSample: It cannot be used.
        """
        return open_row(self._name, self._adapter, row, choose, roots)

    def cut(self, opened: Opened) -> list[tuple[Excerpt, Outline]]:
        """The documents of a row, in order, none longer than the limits.

        Several samples become branches of one document where they share their pictures.

        Raises:
            BadSample: Nothing of it is supervised, or it cannot be cut small enough.
        """
        whole = self.whole(opened)
        outlines = [self.processor.outlines(sample, opened.size) for sample in opened.samples]
        if not all(outline.loss_tokens for group in outlines for outline in group):
            raise BadSample("no_target_tokens", "no token of it is supervised")
        flat = [outline for group in outlines for outline in group]
        one = flat[0] if len(flat) == 1 else self._join(flat)
        if one is not None and self._fits(one):
            return [(whole, one)]
        if isinstance(opened.samples[0], Preference):
            longest = max(outline.tokens for outline in flat) if one is None else one.tokens
            raise BadSample("text_too_long", f"{longest} tokens, and {self._limits.tokens} are a row")
        if one is None or len(flat) == 1:
            return [
                document
                for number, outline in enumerate(flat)
                for document in self._cut_sample(opened, number, outline)
            ]
        return self._groups(opened, flat)

    def whole(self, opened: Opened) -> Excerpt:
        """All of a row, as one document."""
        return Excerpt(0, len(opened.samples))

    def outline(self, opened: Opened, excerpt: Excerpt) -> Outline:
        """One document of a row."""
        samples = opened.samples[excerpt.first : excerpt.last]
        if excerpt.window is not None:
            (sample,) = samples
            assert isinstance(sample, Document | Conversation)
            samples = (cut_out(sample, excerpt.window),)
        outlines = [outline for sample in samples for outline in self.processor.outlines(sample, opened.size)]
        one = outlines[0] if len(outlines) == 1 else self._join(outlines)
        assert one is not None, "only samples that share their pictures were put into one document"
        return one

    def fill(self, opened: Opened, outline: Outline, decode: Decode, into: Tensor | None = None) -> Example:
        """A document with its pictures decoded, each once.

        Args:
            opened: The row.
            outline: What `outline` gave.
            decode: How.
            into: Where its tiles go, as in `XGenMMProcessor.fill`.

        Raises:
            ImageError: A picture is damaged.
        """
        needed: dict[Picture, tuple[int, int]] = {}
        for picture, (width, height) in zip(outline.pictures, outline.needed, strict=True):
            before = needed.get(picture, (0, 0))
            needed[picture] = (max(width, before[0]), max(height, before[1]))
        images = {picture: _decoded(opened.files[picture], size, decode) for picture, size in needed.items()}
        return self.processor.fill(outline, [images[picture] for picture in outline.pictures], into)

    def _join(self, outlines: list[Outline]) -> Outline | None:
        return joined(outlines, self.processor.image_token_id)

    def _fits(self, outline: Outline) -> bool:
        return outline.tokens <= self._limits.tokens and outline.tiles <= self._limits.tiles

    def _groups(self, opened: Opened, outlines: list[Outline]) -> list[tuple[Excerpt, Outline]]:
        """As many samples as fit become branches of one document; the others of another."""
        documents: list[tuple[Excerpt, Outline]] = []
        first = 0
        while first < len(outlines):
            stop, fitting = first + 1, outlines[first]
            if not self._fits(fitting):
                documents += self._cut_sample(opened, first, fitting)
                first = stop
                continue
            while stop < len(outlines):
                more = self._join(outlines[first : stop + 1])
                if more is None or not self._fits(more):
                    break
                stop, fitting = stop + 1, more
            documents.append((Excerpt(first, stop), fitting))
            first = stop
        return documents

    def _cut_sample(self, opened: Opened, number: int, outline: Outline) -> list[tuple[Excerpt, Outline]]:
        if self._fits(outline):
            return [(Excerpt(number, number + 1), outline)]
        sample = opened.samples[number]
        assert isinstance(sample, Document | Conversation)
        try:
            found = windows(sample, _Ruler(self.processor, self._limits, opened))
        except Unfit as error:
            raise BadSample("text_too_long", f"{outline.tokens} tokens, {outline.tiles} tiles: {error}") from error
        excerpts = [Excerpt(number, number + 1, window) for window in found]
        documents = [(excerpt, self.outline(opened, excerpt)) for excerpt in excerpts]
        return [(excerpt, piece) for excerpt, piece in documents if piece.loss_tokens]


class _Ruler:
    """Measures parts of a sample with the processor."""

    def __init__(self, processor: XGenMMProcessor, limits: Limits, opened: Opened) -> None:
        self.processor = processor
        self._opened = opened
        self._limits = limits
        around = processor.outlines(Document(id="", parts=()), opened.size)[0].tokens
        self.tokens = max(limits.tokens - around, 1)
        self.tiles = limits.tiles

    def text(self, text: str) -> int:
        return self.processor.count_text(text)

    def picture(self, picture: Picture) -> tuple[int, int]:
        tiles = self.processor.tiles_of(self._opened.size(picture))
        return tiles * self.processor.config.tokens_per_tile, tiles

    def fits(self, sample: Document | Conversation) -> bool:
        (outline,) = self.processor.outlines(sample, self._opened.size)
        return outline.tokens <= self._limits.tokens and outline.tiles <= self._limits.tiles


def without(sample: Sample, lost: Container[Picture]) -> Sample:
    """A document without some of its pictures."""
    assert isinstance(sample, Document), "only documents lose pictures"
    parts = tuple(part for part in sample.parts if not (isinstance(part, Picture) and part in lost))
    return dataclasses.replace(sample, parts=parts)


def _decoded(file: PictureFile, size: tuple[int, int], decode: Decode) -> Decoded:
    return file.decode() if decode == "exact" else file.decode_pixels(size)
