"""Lists of JSON in parts: what the standard library reads as a whole."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgenmm.data import json_list
from xgenmm.data.json_list import Broken, elements_in

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=[1, 3, 64])
def window(request, monkeypatch):
    """So many bytes are read at a time."""
    monkeypatch.setattr(json_list, "_READ_AT_ONCE", request.param)


def read(content):
    spans = elements_in(io.BytesIO(content))
    return None if spans is None else list(spans)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(values, max_size=6), indent=st.sampled_from([None, 0, 2]), ascii=st.booleans(), bom=st.booleans())
@pytest.mark.usefixtures("window")
def test_elements_lie_where_they_are_said_to(rows, indent, ascii, bom):
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    content = (b"\xef\xbb\xbf" if bom else b"") + text.encode("utf-8")
    found = read(content)
    assert [json.loads(element) for *_, element in found] == rows
    assert all(content[offset : offset + size] == element for offset, size, element in found)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), min_size=1, max_size=5), data=st.data())
@pytest.mark.usefixtures("window")
def test_wherever_a_file_is_cut_what_stands_before_is_kept(rows, data):
    """Objects, because half a number is a number."""
    content = json.dumps(rows, ensure_ascii=False).encode("utf-8")
    whole = read(content)
    cut = data.draw(st.integers(1, len(content) - 1))
    *kept, end = read(content[:cut])
    assert isinstance(end, Broken)
    assert kept == [span for span in whole if sum(span[:2]) <= cut]


def test_what_is_no_list_is_left_to_others():
    assert [read(content) for content in (b"", b" {}", b"7", "[]".encode("utf-16"))] == [None] * 4
    assert read(b" [ ] ") == []


def test_an_element_without_an_end_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(json_list, "LONGEST_ELEMENT", 1000)
    monkeypatch.setattr(json_list, "_READ_AT_ONCE", 100)
    (end,) = read(b'["' + b"a" * 5000)
    assert end == Broken("json_invalid", "an element of more than 1000 characters at byte 1")
