"""Segments -> token ids, and the special tokens that xGen-MM adds to a tokenizer. Knows no pixels and no model."""

import re
from collections.abc import Sequence

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from xgenmm.processor.prompt import END_OF_CHUNK, IMAGE, IMAGE_PLACEHOLDER, ChatFormat, Segment, Special, Text

PAD = "<pad>"
_SHORT, _REMEMBERED = 12, 4096
"""Texts of so few characters are remembered, and so many of them."""


def add_special_tokens(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    """Register what xGen-MM needs, in the order of the released weights; what is there already stays as it is.

    First `<pad>`, if the tokenizer has no padding token or pads with its end of sequence; then `<image>`,
    `<image placeholder>` and `<|endofchunk|>`; last the chat format's tokens, so that a language model that never saw
    them can be used too. The format's tokens are marked special, whatever they were: nobody may write them as text.

    Source: LAVIS branch xgen-mm, factory.py and xgenmm.py (Phi-3 gets the ids 32011 to 32014 by it).
    """
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.add_special_tokens({"pad_token": PAD})
    known = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    for content in (IMAGE, IMAGE_PLACEHOLDER, END_OF_CHUNK, *chat.special_tokens):
        token = known.get(content)
        if token is None or not token.special:
            strips = {"lstrip": token.lstrip, "rstrip": token.rstrip} if token else {}
            tokenizer.add_tokens([AddedToken(content, special=True, normalized=False, **strips)], special_tokens=True)


class TextEncoder:
    """Writes segments as token ids, exactly as the tokenizer writes the whole rendered text.

    A tokenizer treats text differently at the start of a string and behind a special token (SentencePiece may put a
    blank in front, some special tokens swallow the white space behind them), so each text is encoded behind what it
    follows, and the ids of that are taken off again. Special tokens that are spelled out in a text are cut in two
    before they are encoded, so that no text can ever yield a special token. So are added tokens that swallow white
    space (Phi-3's `</s>`): text must come back as it was written. Other added tokens (`<think>`) are words like any.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._ids = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.lstrip or token.rstrip
        }
        self._special = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))
        self._cached: dict[str, list[int]] = {}
        self._short: dict[tuple[str, str], list[int]] = {}
        """What formats write between turns comes with every sample."""

    def __call__(self, segments: Sequence[Segment], vision_tokens: Sequence[int]) -> tuple[list[int], list[bool]]:
        """Token ids and, for each, whether it is supervised.

        Args:
            segments: What a prompt format rendered.
            vision_tokens: Number of vision tokens of each picture, in order; that many `<image>` ids stand for it.
        """
        ids: list[int] = []
        supervised: list[bool] = []
        counts = iter(vision_tokens)
        behind = ""
        for segment in _join_texts(segments):
            if isinstance(segment, Text):
                new, flag = self.text(segment.text, behind), segment.supervised
                behind = "\n" if new else behind  # a special token may have swallowed all of it
            elif isinstance(segment, Special):
                new, flag = [self.id(segment.token)], segment.supervised
                behind = segment.token
            else:
                new, flag = [self.id(IMAGE)] * next(counts), False
                behind = IMAGE
            ids += new
            supervised += [flag] * len(new)
        return ids, supervised

    def id(self, token: str) -> int:
        """Id of a special token."""
        return self._ids[token]

    def is_special(self, token: str) -> bool:
        """Whether this is a special token's spelling."""
        return token in self._ids

    def text(self, text: str, behind: str) -> list[int]:
        """Ids of a plain text.

        Args:
            text: Anything; special tokens spelled out in it stay letters.
            behind: The special token that it follows; a line break where it follows other text; "" at the very start.
        """
        text = _well_formed(text)
        ids: list[int] = []
        start = 0
        while match := self._special.search(text, start):
            cut = match.start() + 1
            ids += self._encode_behind(text[start:cut], behind)
            start, behind = cut, "\n"
        return ids + self._encode_behind(text[start:], behind)

    def _encode_behind(self, text: str, behind: str) -> list[int]:
        if len(text) > _SHORT:
            return self._encode_anew(text, behind)
        ids = self._short.get((text, behind))
        if ids is None:
            ids = self._encode_anew(text, behind)
            if len(self._short) >= _REMEMBERED:
                self._short.clear()
            self._short[text, behind] = ids
        return ids

    def _encode_anew(self, text: str, behind: str) -> list[int]:
        if behind not in self._cached:
            self._cached[behind] = self._encode(behind)
        head = self._cached[behind]
        whole = self._encode(behind + text)
        if whole[: len(head)] == head:
            return whole[len(head) :]
        return self._encode(text)  # the line break became one token with the text's own white space

    def _encode(self, text: str) -> list[int]:
        if isinstance(self.tokenizer, PreTrainedTokenizerFast):  # its wrapper costs as much as a short text does
            return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)


def _well_formed(text: str) -> str:
    """Text that can be encoded: half a surrogate pair, which JSON can smuggle in, becomes the replacement character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _join_texts(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbouring texts of equal supervision as one, as a tokenizer sees them; empty ones are left out."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if isinstance(segment, Text) and isinstance(last, Text) and last.supervised == segment.supervised:
            joined[-1] = Text(last.text + segment.text, segment.supervised)
        elif not isinstance(segment, Text) or segment.text:
            joined.append(segment)
    return joined
