"""The values that travel along the path: Sample -> Example -> Batch. Knows nothing of files, tokens' texts or models.

Letters in shapes mean the same everywhere: B rows of a batch, L tokens of a row, T tiles (all images together),
N images, S side of a tile in pixels, P vision patches of a tile, K latents (= vision tokens) of a tile, D width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int, Num
from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position that is not supervised."""


@dataclass(frozen=True)
class Grid:
    """How many tiles an image is cut into: rows and columns. `Grid(0, 0)` is an image that has only its base tile."""

    rows: int
    cols: int


@runtime_checkable
class Stored(Protocol):
    """A file that lies somewhere else than on this machine."""

    def read_bytes(self) -> bytes:
        """The whole content; OSError where it cannot be had."""
        ...


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An encoded image that nobody has opened yet: its bytes, or where they lie. Opened by `processor.images`."""

    source: bytes | Path | Stored
    name: str
    """What messages about this picture call it: a path, a member of a shard, a URL."""

    def __hash__(self) -> int:
        """Of the name: going through all bytes of a picture takes as long as reading it."""
        return hash(self.name)


@dataclass(frozen=True, kw_only=True)
class Given:
    """Text of a document that a model is given and not asked to predict: words that ask for what follows them."""

    text: str


Part = str | Picture | Given
"""A piece of a text in reading order. Text is always plain text: special tokens spelled out in it stay letters."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Text and pictures in reading order: a caption pair or a page. All text but `Given` is supervised."""

    id: str
    parts: tuple[Part, ...]
    ends: bool = True
    """Whether the last part is its end. Where not, no end of sequence is written, and none is learnt."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages in order; the assistant's turns are supervised."""

    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A prompt (a conversation that ends with the user), an answer that people preferred and one that they did not."""

    id: str
    prompt: Conversation
    chosen: str
    rejected: str


Sample = Document | Conversation | Preference


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample as a model takes it.

    `labels[i]` is the target of position i, that is `input_ids[i + 1]` where that token is supervised and IGNORE_INDEX
    elsewhere: labels are aligned at birth, and nobody shifts them afterwards.
    """

    id: str
    input_ids: Int[Tensor, " L"]
    labels: Int[Tensor, " L"]
    pixel_values: Num[Tensor, "T 3 S S"]
    """Tiles of all images, base tile first, then row by row: normalised, or bytes that the model normalises."""
    image_layouts: Int[Tensor, "N 4"]
    """Per image: rows and columns of its grid (0, 0: base tile only), height and width of the original in pixels."""
    branches: Int[Tensor, " L"] | None = None
    """For a row that holds several continuations of one beginning (`processor.branching`): 0 in the shared trunk, and
    1, 2, ... in the branches, which see the trunk and themselves. None: plain text from left to right."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Documents one behind the other, nothing between them, for one forward pass: a packed row.

    No document sees another, and positions restart with each; so every token gets what it would get if its document
    were alone. Images stand in the order of their placeholders.
    """

    ids: tuple[str, ...]
    """Sample id of each document."""
    input_ids: Int[Tensor, " L"]
    labels: Int[Tensor, " L"]
    documents: Int[Tensor, " L"]
    """The document in which each position stands, as an index into `ids`; -1 at padding, which stands at the end."""
    position_ids: Int[Tensor, " L"]
    """Position within the document; a branch counts on from the end of its trunk."""
    pixel_values: Num[Tensor, "T 3 S S"]
    image_layouts: Int[Tensor, "N 4"]
    tile_counts: tuple[int, ...]
    """Tiles of each document."""
    branches: Int[Tensor, " L"] | None = None
    """See `Example`; None where no document has branches."""

    def inputs(self) -> dict[str, Tensor | None]:
        """The arguments of a model's forward pass without targets: this row is a batch of one."""
        return {
            "input_ids": self.input_ids[None],
            "position_ids": self.position_ids[None],
            "documents": self.documents,
            "branches": self.branches,
            "pixel_values": self.pixel_values,
            "image_layouts": self.image_layouts,
        }


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """Rows of one width: for generation and for the Hugging Face interface. Images in the order of their placeholders,
    row after row.
    """

    input_ids: Int[Tensor, "B L"]
    attention_mask: Int[Tensor, "B L"]
    """1 at tokens, 0 at padding."""
    pixel_values: Float[Tensor, "T 3 S S"]
    image_layouts: Int[Tensor, "N 4"]
