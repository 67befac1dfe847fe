"""The elements of a JSON list one after another, however long the list is: a window of the file is in memory."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from xgenmm.data.files import BinaryFile

LONGEST_ELEMENT = 64 << 20
"""Characters of one element; more are no row."""
_READ_AT_ONCE = 1 << 22
_NEAR_THE_END = 16
"""An error so close to where reading stopped may only mean that the rest is still to come (`-Infin|ity`)."""
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class Element(NamedTuple):
    """One element, and where it lies, in bytes."""

    offset: int
    size: int
    content: bytes


class Broken(NamedTuple):
    """Why there are no more elements."""

    reason: str
    detail: str


def elements_in(file: BinaryFile) -> Iterator[Element | Broken] | None:
    """The elements of a list, in order, and the damage that ends it, if any. None: it is no list.

    Bytes that are no UTF-8 cost nothing here: whoever reads their element finds them.
    """
    window = _Window(file)
    window.skip_space()
    if window.text[window.place : window.place + 1] != "[":
        return None
    window.place += 1
    return _elements(window)


def _elements(window: "_Window") -> Iterator[Element | Broken]:
    first = True
    while True:
        window.skip_space()
        mark = window.text[window.place : window.place + 1]
        if mark == "]" and (first or not window.comma):
            window.place += 1
            window.skip_space()
            if rest := window.text[window.place : window.place + 20]:
                yield Broken("json_invalid", f"behind the list stands {rest!r}")
            return
        if not first and not window.comma:
            if mark != ",":
                what = repr(mark) if mark else "the end of the file"
                yield Broken("json_invalid", f"expected a comma or the end of the list, and found {what}{window.where}")
                return
            window.place += 1
            window.comma = True
            continue
        try:
            yield window.element()
        except ValueError as error:
            yield Broken("json_invalid", f"{getattr(error, 'msg', error)}{window.where}")
            return
        except RecursionError:
            yield Broken("json_invalid", f"nested too deeply{window.where}")
            return
        first = window.comma = False


class _Window:
    """A part of a file as text, and where one stands in it."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        # what is no UTF-8 becomes half characters, which become the same bytes again when they are counted
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._ended = False
        self._counted = 0
        """Up to where in the text bytes were counted."""
        self._offset = 0
        """Bytes of the file up to there."""
        self.text = ""
        self.place = 0
        self.comma = False
        """Whether a comma was met that no element has followed yet."""
        while not self.text and self._grow():
            pass
        if self.text.startswith("\ufeff"):
            self.place = 1

    @property
    def where(self) -> str:
        """For messages: where in the file one stands."""
        return f" at byte {self._bytes_before(self.place)}"

    def skip_space(self) -> None:
        """Go on to what is no white space, or to the end."""
        while True:
            found = _SPACE.match(self.text, self.place)
            self.place = found.end() if found else self.place
            if self.place < len(self.text) or not self._grow():
                return

    def element(self) -> Element:
        """Go on behind the element that begins here.

        Raises:
            ValueError, RecursionError: There is none.
        """
        self._forget()
        while True:
            try:
                _, end = _DECODER.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _NEAR_THE_END
                if not (cut and self._grow()):
                    raise
                continue
            if end + _NEAR_THE_END <= len(self.text) or not self._grow():  # 1 may be the beginning of 1.5
                break
        begin, content = self._bytes_before(self.place), self.text[self.place : end].encode("utf-8", "surrogateescape")
        self.place = self._counted = end
        self._offset = begin + len(content)
        return Element(begin, len(content), content)

    def _bytes_before(self, place: int) -> int:
        self._offset += _size(self.text[self._counted : place])
        self._counted = place
        return self._offset

    def _forget(self) -> None:
        """Let go of what is behind us."""
        if self.place > _READ_AT_ONCE:
            self._bytes_before(self.place)
            self.text, self.place, self._counted = self.text[self.place :], 0, 0

    def _grow(self) -> bool:
        """Read on, as much again as there is; False at the end."""
        if self._ended:
            return False
        if len(self.text) - self.place > LONGEST_ELEMENT:
            raise ValueError(f"an element of more than {LONGEST_ELEMENT} characters")
        content = self._file.read(max(_READ_AT_ONCE, len(self.text) - self.place))
        self._ended = not content
        self.text += self._decode(content, self._ended)
        return True


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
