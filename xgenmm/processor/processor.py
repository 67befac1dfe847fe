"""Sample -> Example: joins prompt formats, tokenizer and tiling, and saves and loads itself. Knows no model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Num, UInt8
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from xgenmm.config import Count, Finite, Positive, decode, encode
from xgenmm.pixels import normalised
from xgenmm.processor.collate import collate
from xgenmm.processor.images import open_image
from xgenmm.processor.outline import Outline
from xgenmm.processor.placeholders import images_by_row, spread_placeholders
from xgenmm.processor.prompt import (
    DEFAULT_SYSTEM,
    IMAGE,
    IMAGE_PLACEHOLDER,
    PROMPTS,
    Segment,
    chat_template,
    close_answer,
    close_document,
    open_answer,
    render_conversation,
    render_document,
)
from xgenmm.processor.tiling import Decoded, Size, grid_of, needed_size, write_tiles
from xgenmm.processor.tokens import TextEncoder, add_special_tokens
from xgenmm.types import IGNORE_INDEX, Conversation, Document, Example, Grid, Picture, Preference, Sample, Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How samples become tokens and tiles."""

    prompt: str
    """Name in `PROMPTS` of the chat format."""
    tile: Count
    """Side of a tile in pixels: what the vision encoder takes."""
    mean: tuple[Finite, Finite, Finite]
    """Subtracted from each channel of pixels in 0..1, then divided by `std`."""
    std: tuple[Positive, Positive, Positive]
    grids: tuple[tuple[Count, Count], ...]
    """Any-resolution grids as (rows, columns), most preferred first; none: every image is squashed to one tile."""
    tokens_per_tile: Count
    """Vision tokens of a tile: the resampler's number of latents."""
    max_tokens: Count
    """Longest sequence, vision tokens included; what is longer is refused, never cut."""
    system: str = DEFAULT_SYSTEM
    """System text of conversations that have none of their own; "" for no system turn."""
    document_prefix: str = ""
    """Unsupervised text in front of every document."""


class PromptTooLong(ValueError):
    """A sample has more tokens than `max_tokens`. It is refused whole: a cut could part an image from its text."""

    def __init__(self, sample_id: str, tokens: int, vision_tokens: int, max_tokens: int) -> None:
        super().__init__(
            f"{sample_id}: {tokens} tokens ({vision_tokens} of them vision tokens), but max_tokens is {max_tokens}: "
            "shorten the text, give fewer pictures or tiles, or raise max_tokens as far as the language model goes"
        )
        self.sample_id = sample_id
        self.tokens = tokens
        self.max_tokens = max_tokens


class XGenMMProcessor(ProcessorMixin):
    """Prepares text and pictures for xGen-MM.

    `example`, `pair`, `prompt` and `continuation` serve this package: pictures and plain text in, aligned labels out.
    Calling it and `apply_chat_template` follow Hugging Face: special tokens in the text count, `<image>` stands for a
    picture.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ProcessorConfig) -> None:
        """Take over a tokenizer: special tokens that it lacks are added to it.

        Raises:
            ValueError: The prompt format is unknown, or the tokenizer has no end of sequence.
        """
        if config.prompt not in PROMPTS:
            raise ValueError(f'there is no prompt format "{config.prompt}"; known are: {", ".join(PROMPTS)}')
        if tokenizer.eos_token is None:
            raise ValueError(
                "the tokenizer has no end-of-sequence token: set tokenizer.eos_token, documents end with it"
            )
        self.config = config
        self._chat = PROMPTS[config.prompt]
        add_special_tokens(tokenizer, self._chat)
        super().__init__(tokenizer, chat_template=chat_template(self._chat, config.system))
        tokenizer.chat_template = self.chat_template
        tokenizer.padding_side = "left"
        self._encoder = TextEncoder(tokenizer)
        self._grids = tuple(Grid(rows, cols) for rows, cols in config.grids)
        self._no_tiles = torch.empty((0, 3, config.tile, config.tile), dtype=torch.uint8)

    @property
    def image_token_id(self) -> int:
        """The id that stands for one vision token."""
        return self._encoder.id(IMAGE)

    @property
    def pad_token_id(self) -> int:
        """The id of padding."""
        return self.tokenizer.pad_token_id

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the chat format's end of turn, and the end of sequence."""
        return tuple(dict.fromkeys([self._encoder.id(self._chat.end), self.tokenizer.eos_token_id]))

    @property
    def model_input_names(self) -> list[str]:
        """What calling the processor gives."""
        return ["input_ids", "attention_mask", "pixel_values", "image_layouts"]

    def example(self, sample: Document | Conversation) -> Example:
        """A sample to train on: a document with all its text supervised, a conversation with the assistant's turns.

        Raises:
            ImageError: A picture cannot be used.
            PromptTooLong: The sample is longer than `max_tokens`.
        """
        (example,) = self._examples(sample)
        return example

    def pair(self, sample: Preference) -> tuple[Example, Example]:
        """The preferred answer and the other one, each behind the prompt; only the answer is supervised.

        Raises:
            ImageError, PromptTooLong: As `example`.
        """
        chosen, rejected = self._examples(sample)
        return chosen, rejected

    def outlines(self, sample: Sample, size: Callable[[Picture], Size]) -> tuple[Outline, ...]:
        """What `example` or `pair` will give, before any picture is decoded and however long it is.

        Args:
            sample: A document or a conversation gives one outline, a preference one for each answer.
            size: Gives width and height in pixels of a picture.
        """
        if isinstance(sample, Document):
            segments = render_document(sample, self.config.document_prefix)
            if sample.ends:
                segments += close_document(self.tokenizer.eos_token)
            return (self._outline(sample.id, segments, size),)
        if isinstance(sample, Conversation):
            return (self._outline(sample.id, render_conversation(self._chat, sample, self.config.system), size),)

        def answered(answer: str) -> Outline:
            turns = sample.prompt.turns
            whole = Conversation(id=sample.id, turns=(*turns, Turn(role="assistant", parts=(answer,))))
            segments = render_conversation(self._chat, whole, self.config.system, supervised_from=len(turns))
            return self._outline(sample.id, segments, size)

        return answered(sample.chosen), answered(sample.rejected)

    def count_text(self, text: str) -> int:
        """Tokens of a plain text in the midst of another."""
        return len(self._encoder.text(text, "\n"))

    def tiles_of(self, size: Size) -> int:
        """Tiles of a picture of this width and height, its base tile included."""
        grid = grid_of(size, self._grids, self.config.tile)
        return 1 + grid.rows * grid.cols

    def fill(
        self, outline: Outline, images: Sequence[Decoded], into: UInt8[Tensor, "T 3 S S"] | None = None
    ) -> Example:
        """An outline with its pictures as tiles of bytes.

        Args:
            outline: What `outlines` gave.
            images: Its pictures, decoded at least as large as `needed` of the outline says.
            into: Where the tiles are written, and stay; by default in memory of their own.
        """
        side = self.config.tile
        pixels = torch.empty((outline.tiles, 3, side, side), dtype=torch.uint8) if into is None else into
        tiles = pixels.numpy()
        for image, (rows, cols, height, width) in zip(images, outline.layouts, strict=True):
            tiles = tiles[write_tiles(tiles, image, Grid(rows, cols), (width, height)) :]
        return dataclasses.replace(outline.example, pixel_values=pixels)

    def _fill(self, outline: Outline, images: Sequence[Image.Image]) -> Example:
        """As `fill`, normalised."""
        example = self.fill(outline, images)
        pixels = normalised(example.pixel_values, self.config.mean, self.config.std)
        return dataclasses.replace(example, pixel_values=pixels)

    def prompt(self, sample: Document | Conversation) -> Example:
        """What a model continues: a conversation up to the assistant's next word, or a document without its end.

        The tokens are the first ones of `example` for the same sample with an answer. Nothing is supervised.

        Raises:
            ValueError: The conversation does not end with the user.
            ImageError, PromptTooLong: As `example`.
        """
        if isinstance(sample, Document):
            segments = render_document(sample, self.config.document_prefix)
        elif sample.turns and sample.turns[-1].role == "user":
            segments = render_conversation(self._chat, sample, self.config.system) + open_answer(self._chat)
        else:
            last = sample.turns[-1].role if sample.turns else "nobody"
            raise ValueError(f"{sample.id}: a prompt must end with the user's turn, this one ends with: {last}")
        example = self._build(sample.id, segments)
        return dataclasses.replace(example, labels=torch.full_like(example.labels, IGNORE_INDEX))

    def rendered(self, name: str, text: str, pictures: Sequence[Picture]) -> Example:
        """A text that somebody has rendered already: special tokens in it count, each `<image>` stands for a picture.

        For formats that are not ours to choose, such as a reference's few-shot prompts. Nothing is supervised.

        Raises:
            ValueError: Pictures and `<image>` differ in number.
            ImageError, PromptTooLong: As `example`.
        """
        row = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if (count := row.count(self.image_token_id)) != len(pictures):
            raise ValueError(f"{name}: {count} {IMAGE} in the text for {len(pictures)} pictures: write one for each")
        return self._from_ids(name, row, [open_image(picture) for picture in pictures])

    def continuation(self, prompt: Example, text: str, *, end: bool = False) -> Example:
        """A prompt with one possible continuation, which alone is supervised: for the likelihood of answers.

        Args:
            prompt: What `prompt` gave.
            text: How it goes on, as the model would write it.
            end: Also supervise what closes it: the assistant's end of turn, or a document's end of sequence.

        Raises:
            PromptTooLong: Both together are longer than `max_tokens`.
        """
        ids = prompt.input_ids.tolist()
        last = self.tokenizer.convert_ids_to_tokens(ids[-1]) if ids else ""
        new = self._encoder.text(text, last if last == "" or self._encoder.is_special(last) else "\n")
        supervised = [True] * len(new)
        if end:
            opening, _ = self._encoder(open_answer(self._chat), [])
            in_chat = ids[-len(opening) :] == opening
            closing = close_answer(self._chat) if in_chat else close_document(self.tokenizer.eos_token)
            closing_ids, closing_supervised = self._encoder(closing, [])
            new, supervised = new + closing_ids, supervised + closing_supervised
        whole = ids + new
        self._check_length(prompt.id, whole)
        return _example(prompt.id, whole, [False] * len(ids) + supervised, prompt.pixel_values, prompt.image_layouts)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        padding: bool | str = True,
        padding_side: Literal["left", "right"] = "left",
        return_tensors: str | None = "pt",
        add_special_tokens: bool = False,
        **tokenizer_options: Any,
    ) -> BatchFeature:
        """Prepare rendered texts, Hugging Face's way: special tokens spelled out in them are special tokens.

        Args:
            images: Pictures (PIL images, paths, URLs, base64 text, bytes or arrays): one, a list in the order of the
                placeholders of all texts, or a list of such lists, one a text.
            text: One text or several. Each picture is one `<image>`; or `<image>` and as many `<image placeholder>` as
                make its number of vision tokens.
            padding: Texts of different lengths need it; there is no padding to a fixed length.
            padding_side: Left for generation.
            return_tensors: Tensors are returned in any case; only PyTorch's.
            add_special_tokens: Let the tokenizer add its own; our formats have none.
            tokenizer_options: Passed to the tokenizer.

        Returns:
            `input_ids` and `attention_mask` [B, L], `pixel_values` [T, 3, S, S], `image_layouts` [N, 4].

        Raises:
            ValueError: Placeholders and pictures do not match in number.
            ImageError: A picture cannot be used.
        """
        if text is None:
            raise ValueError("the processor needs text: a prompt with one <image> for each picture")
        if return_tensors not in ("pt", None):
            raise ValueError(
                f'return_tensors="{return_tensors}" is not there: this processor gives PyTorch tensors ("pt")'
            )
        texts = [text] if isinstance(text, str) else list(text)
        rows = self.tokenizer(texts, add_special_tokens=add_special_tokens, **tokenizer_options)["input_ids"]
        pictures = images_by_row(images, [row.count(self.image_token_id) for row in rows])
        examples = [self._from_ids(f"text {i}", *row) for i, row in enumerate(zip(rows, pictures, strict=True))]
        lengths = {len(example.input_ids) for example in examples}
        if len(lengths) > 1 and padding not in (True, "longest"):
            raise ValueError(f"texts of {sorted(lengths)} tokens make no tensor without padding: pass padding=True")
        batch = collate(examples, self.pad_token_id, padding_side)
        return BatchFeature({name: getattr(batch, name) for name in self.model_input_names})

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds: the settings by name."""
        return {**encode(self.config), "processor_class": type(self).__name__}

    @classmethod
    def from_args_and_dict(
        cls, args: Sequence[Any], processor_dict: Mapping[str, Any], **_loading_options: Any
    ) -> "XGenMMProcessor":
        """Build from a loaded tokenizer and the content of `processor_config.json`. The chat template follows."""
        (tokenizer,) = args
        settings = {k: v for k, v in processor_dict.items() if k not in ("processor_class", "chat_template")}
        return cls(tokenizer, decode(ProcessorConfig, settings, where="processor_config.json"))

    def _examples(self, sample: Sample) -> tuple[Example, ...]:
        images: dict[Picture, Image.Image] = {}

        def size(picture: Picture) -> Size:
            if picture not in images:
                images[picture] = open_image(picture)
            return images[picture].size

        outlines = self.outlines(sample, size)
        for outline in outlines:
            self._check_length(outline.example.id, outline.example.input_ids.tolist())
        first = self._fill(outlines[0], [images[picture] for picture in outlines[0].pictures])
        # both answers of a preference stand behind the same pictures
        return first, *(dataclasses.replace(o.example, pixel_values=first.pixel_values) for o in outlines[1:])

    def _build(self, sample_id: str, segments: Sequence[Segment]) -> Example:
        images = {part: open_image(part) for part in segments if isinstance(part, Picture)}
        outline = self._outline(sample_id, segments, lambda picture: images[picture].size)
        self._check_length(sample_id, outline.example.input_ids.tolist())
        return self._fill(outline, [images[picture] for picture in outline.pictures])

    def _outline(self, name: str, segments: Sequence[Segment], size: Callable[[Picture], Size]) -> Outline:
        pictures = tuple(part for part in segments if isinstance(part, Picture))
        sizes = [size(picture) for picture in pictures]
        grids = [self._grid(one) for one in sizes]
        ids, supervised = self._encoder(segments, [self._vision_tokens(grid) for grid in grids])
        return self._outlined(name, ids, supervised, pictures, sizes, grids)

    def _from_ids(self, name: str, row: Sequence[int], images: Sequence[Image.Image]) -> Example:
        """An unsupervised example of ids that hold one `<image>` (and maybe fillers behind it) for each picture."""
        sizes = [image.size for image in images]
        grids = [self._grid(one) for one in sizes]
        tokens = [self._vision_tokens(grid) for grid in grids]
        ids = spread_placeholders(name, row, tokens, self.image_token_id, self._encoder.id(IMAGE_PLACEHOLDER))
        self._check_length(name, ids)
        return self._fill(self._outlined(name, ids, [False] * len(ids), (), sizes, grids), images)

    def _grid(self, size: Size) -> Grid:
        return grid_of(size, self._grids, self.config.tile)

    def _vision_tokens(self, grid: Grid) -> int:
        return (1 + grid.rows * grid.cols) * self.config.tokens_per_tile

    def _outlined(
        self,
        name: str,
        ids: Sequence[int],
        supervised: Sequence[bool],
        pictures: tuple[Picture, ...],
        sizes: Sequence[Size],
        grids: Sequence[Grid],
    ) -> Outline:
        placed = list(zip(sizes, grids, strict=True))
        layouts = tuple((grid.rows, grid.cols, height, width) for (width, height), grid in placed)
        as_tensor = torch.from_numpy(np.array(layouts, dtype=np.int64).reshape(-1, 4))
        return Outline(
            example=_example(name, ids, supervised, self._no_tiles, as_tensor),
            pictures=pictures,
            layouts=layouts,
            needed=tuple(needed_size(size, grid, self.config.tile) for size, grid in placed),
        )

    def _check_length(self, name: str, ids: Sequence[int]) -> None:
        if len(ids) > self.config.max_tokens:
            raise PromptTooLong(name, len(ids), list(ids).count(self.image_token_id), self.config.max_tokens)


def _example(
    name: str,
    ids: Sequence[int],
    supervised: Sequence[bool],
    pixels: Num[Tensor, "T 3 S S"],
    layouts: Int[Tensor, "N 4"],
) -> Example:
    """Align the labels: a position's label is the next token, where that one is supervised."""
    # by numpy: for so few numbers a call of torch's takes ten times as long
    input_ids = np.array(ids, dtype=np.int64)
    labels = np.full(len(input_ids), IGNORE_INDEX)
    np.copyto(labels[:-1], input_ids[1:], where=np.array(supervised[1:], dtype=bool))
    return Example(
        id=name,
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        pixel_values=pixels,
        image_layouts=layouts,
    )
