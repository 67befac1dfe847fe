"""An outline as the model sees it: tokens with their supervision, pictures as tiles on their canvas."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xgenmm.processor.outline import Outline
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.processor.tiling import fitting_size
from xgenmm.types import IGNORE_INDEX, Grid, Picture

UNKNOWN = "\ufffd"
LONGEST_CHARACTER = 4
"""Tokens that may have to be read together to make one character."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token, or a few that only together are a character, or all placeholders of a picture."""

    kind: str
    """text, special or picture."""
    text: str
    ids: tuple[int, ...]
    """None if it is only to be predicted: the end of a branch, which nothing follows."""
    place: int
    """Of the first one in the sequence."""
    supervised: bool
    """Whether the model is to predict it."""
    branch: int = 0
    picture: int = -1
    """Which picture of the document the placeholders stand for."""

    @property
    def count(self) -> int:
        """Positions that it takes."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """How a picture lies on its tiles, in pixels of the canvas. The base tile comes on top: all of it, squashed."""

    picture: Picture
    rows: int
    """0: there is only the base tile."""
    cols: int
    tile: int
    height: int
    """Of the original."""
    width: int
    left: int
    top: int
    shown_width: int
    """As it lies on the canvas."""
    shown_height: int
    vision_tokens: int

    @property
    def tiles(self) -> int:
        """Tiles, the base tile included."""
        return 1 + self.rows * self.cols


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A document as the model sees it."""

    tokens: tuple[Token, ...]
    canvases: tuple[Canvas, ...]
    length: int
    vision_tokens: int
    loss_tokens: int

    @property
    def trunk(self) -> list[Token]:
        """What all branches see; all of a document that has none."""
        return [token for token in self.tokens if not token.branch]

    @property
    def branches(self) -> list[list[Token]]:
        """What each branch alone sees, behind the trunk."""
        groups: dict[int, list[Token]] = {}
        for token in self.tokens:
            if token.branch:
                groups.setdefault(token.branch, []).append(token)
        return list(groups.values())


def see(outline: Outline, processor: XGenMMProcessor) -> Seen:
    """What a model is given of a document, and what of it is supervised."""
    canvases = tuple(_canvases(outline, processor))
    return Seen(
        tokens=tuple(_tokens(outline, processor, canvases)),
        canvases=canvases,
        length=outline.tokens,
        vision_tokens=sum(canvas.vision_tokens for canvas in canvases),
        loss_tokens=outline.loss_tokens,
    )


def _canvases(outline: Outline, processor: XGenMMProcessor) -> Iterator[Canvas]:
    tile = processor.config.tile
    for picture, layout in zip(outline.pictures, outline.layouts, strict=True):
        rows, cols, height, width = layout
        shown_width, shown_height = fitting_size((width, height), Grid(rows, cols), tile) if rows else (tile, tile)
        yield Canvas(
            picture=picture,
            rows=rows,
            cols=cols,
            tile=tile,
            height=height,
            width=width,
            left=(cols * tile - shown_width) // 2 if rows else 0,
            top=(rows * tile - shown_height) // 2 if rows else 0,
            shown_width=shown_width,
            shown_height=shown_height,
            vision_tokens=(1 + rows * cols) * processor.config.tokens_per_tile,
        )


def _tokens(outline: Outline, processor: XGenMMProcessor, canvases: Sequence[Canvas]) -> Iterator[Token]:
    example = outline.example
    ids, labels = example.input_ids.tolist(), example.labels.tolist()
    branches = [0] * len(ids) if example.branches is None else example.branches.tolist()
    supervised = _supervised(ids, labels, branches)
    special = {*processor.tokenizer.all_special_ids, *processor.tokenizer.added_tokens_decoder}
    picture, place = 0, 0
    while place < len(ids):
        if ids[place] == processor.image_token_id:
            count = canvases[picture].vision_tokens
            kind, text, number = "picture", f"{count} \N{MULTIPLICATION SIGN} <image>", picture
            picture += 1
        elif ids[place] in special:
            kind, text, count, number = "special", processor.tokenizer.convert_ids_to_tokens(ids[place]), 1, -1
        else:
            kind, number = "text", -1
            text, count = _read_text(processor, ids, place, special)
        yield Token(
            kind=kind,
            text=text,
            ids=tuple(ids[place : place + count]),
            place=place,
            supervised=supervised[place],
            branch=branches[place],
            picture=number,
        )
        place += count
        expected = labels[place - 1]
        if expected != IGNORE_INDEX and (place == len(ids) or branches[place] != branches[place - 1]):
            text = processor.tokenizer.decode([expected])
            yield Token(
                kind="special" if expected in special else "text",
                text=text,
                ids=(),
                place=place,
                supervised=True,
                branch=branches[place - 1],
            )


def _supervised(ids: Sequence[int], labels: Sequence[int], branches: Sequence[int]) -> list[bool]:
    """Which tokens are predicted, each by the position before it. None by a trunk: `branch` sees to that."""
    flags = [False] * len(ids)
    for place in range(1, len(ids)):
        if branches[place] == branches[place - 1]:
            flags[place] = labels[place - 1] != IGNORE_INDEX and labels[place - 1] == ids[place]
    return flags


def _read_text(processor: XGenMMProcessor, ids: Sequence[int], place: int, special: set[int]) -> tuple[str, int]:
    """A token's text, with as many more as it takes to read whole characters."""
    decode = processor.tokenizer.decode
    text = decode(ids[place : place + 1])
    for count in range(2, LONGEST_CHARACTER + 1):
        if UNKNOWN not in text:
            return text, count - 1
        more = ids[place : place + count]
        if len(more) < count or more[-1] in special:
            break
        if UNKNOWN not in (longer := decode(more)):
            return longer, count
    return text, 1
