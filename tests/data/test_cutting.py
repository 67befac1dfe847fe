"""Cutting: windows fit, nothing is lost or told twice, and borders are where people would put them."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgenmm.data.cutting import Unfit, Window, cut_out, windows
from xgenmm.types import Conversation, Document, Given, Picture, Turn


class Ruler:
    """A token is a character, a picture takes 5 tokens and a tile."""

    def __init__(self, tokens, tiles=1000):
        self.tokens, self.tiles = tokens, tiles

    def text(self, text):
        return len(text)

    def picture(self, _):
        return 5, 1

    def fits(self, sample):
        parts = [part for turn in getattr(sample, "turns", [sample]) for part in turn.parts]
        pictures = sum(isinstance(part, Picture) for part in parts)
        return 5 * pictures + sum(len(words(part)) for part in parts) <= self.tokens and pictures <= self.tiles


def words(part):
    return part if isinstance(part, str) else part.text if isinstance(part, Given) else ""


def picture(number):
    return Picture(source=b"x", name=str(number))


def document(*parts):
    return Document(id="d", parts=parts)


def cut(sample, ruler):
    return [cut_out(sample, window) for window in windows(sample, ruler)]


def whole_text(pieces):
    return "".join(words(part) for piece in pieces for part in piece.parts)


def test_a_document_is_cut_at_its_paragraphs():
    text = "\n\n".join(f"{letter}" * 9 for letter in "abcdef")
    assert [piece.parts for piece in cut(document(text), Ruler(34))] == [
        ("aaaaaaaaa\n\nbbbbbbbbb\n\nccccccccc\n\n",),
        ("ddddddddd\n\neeeeeeeee\n\nfffffffff",),
    ]
    assert cut(document(text), Ruler(80)) == [document(text)]


def test_without_paragraphs_lines_then_sentences_then_words_are_borders():
    assert [p.parts[0] for p in cut(document("aaaa bbbb.\ncccc dddd.\neeee"), Ruler(12))] == [
        "aaaa bbbb.\n",
        "cccc dddd.\n",
        "eeee",
    ]
    assert [p.parts[0] for p in cut(document("aaa bb. cc ddd. eee fff."), Ruler(9))] == [
        "aaa bb. ",
        "cc ddd. ",
        "eee fff.",
    ]
    assert [p.parts[0] for p in cut(document("aaaa bbbb cccc"), Ruler(10))] == ["aaaa bbbb ", "cccc"]
    assert [p.parts[0] for p in cut(document("a" * 10), Ruler(6))] == ["a" * 5, "a" * 5]


def test_a_picture_goes_with_the_text_behind_it():
    one, two = picture(1), picture(2)
    pieces = cut(document("aaaa\n\n", one, "bbbb\n\n", two, "cccc"), Ruler(17))
    assert [piece.parts for piece in pieces] == [("aaaa\n\n",), (one, "bbbb\n\n"), (two, "cccc")]


def test_only_the_last_window_ends():
    assert [piece.ends for piece in cut(document("aaaa\n\nbbbb\n\ncccc"), Ruler(6))] == [False, False, True]
    excerpt = dataclasses.replace(document("aaaa\n\nbbbb"), ends=False)
    assert [piece.ends for piece in cut(excerpt, Ruler(6))] == [False, False]


def test_what_is_given_stays_given():
    pieces = cut(document(Given(text="aaaa\nbbbb\n"), "cccc"), Ruler(10))
    assert [piece.parts for piece in pieces] == [(Given(text="aaaa\nbbbb\n"),), ("cccc",)]


def test_too_many_tiles_are_cut_as_well():
    parts = [part for number in range(5) for part in (picture(number), f"{number}")]
    pieces = cut(document(*parts), Ruler(1000, tiles=2))
    assert [sum(isinstance(part, Picture) for part in piece.parts) for piece in pieces] == [2, 2, 1]


def test_a_picture_larger_than_a_row_cannot_be_cut():
    with pytest.raises(Unfit):
        cut(document("a", picture(1), "b"), Ruler(4))


def talk(*texts, system=None):
    turns = [
        Turn(role=("user", "assistant")[n % 2], parts=t if isinstance(t, tuple) else (t,)) for n, t in enumerate(texts)
    ]
    head = () if system is None else (Turn(role="system", parts=(system,)),)
    return Conversation(id="c", turns=(*head, *turns))


def test_a_conversation_is_cut_between_questions_and_keeps_system_and_pictures():
    one, two = picture(1), picture(2)
    sample = talk((one, "aa"), "bb", "cc", "dd", (two, "ee"), "ff", "gg", "hh", system="ss")
    pieces = cut(sample, Ruler(22))
    assert [[turn.parts for turn in piece.turns] for piece in pieces] == [
        [("ss",), (one, "aa"), ("bb",), ("cc",), ("dd",)],
        [("ss",), (one, two, "ee"), ("ff",), ("gg",), ("hh",)],
    ]


def test_a_round_longer_than_a_row_cannot_be_cut():
    with pytest.raises(Unfit, match="turn 2"):
        cut(talk("a", "b", "c" * 20, "d"), Ruler(10))


PARTS = st.lists(
    st.one_of(
        st.text(alphabet="ab .\n", min_size=1, max_size=60),
        st.builds(picture, st.integers(0, 3)),
        st.builds(Given, text=st.text(alphabet="ab\n", min_size=1, max_size=20)),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(PARTS, st.integers(6, 80), st.integers(1, 4))
def test_windows_fit_and_hold_everything_once_in_order(parts, tokens, tiles):
    sample, ruler = document(*parts), Ruler(tokens, tiles)
    pieces = cut(sample, ruler)
    assert all(ruler.fits(piece) for piece in pieces)
    assert whole_text(pieces) == whole_text([sample])
    shown = [part for piece in pieces for part in piece.parts if isinstance(part, Picture)]
    assert shown == [part for part in parts if isinstance(part, Picture)]
    assert all(isinstance(window, Window) for window in windows(sample, ruler))
