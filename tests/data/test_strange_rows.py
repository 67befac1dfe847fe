"""Rows in which something is of another kind than anybody expects: each is used or told, and none ends the scan."""

import copy
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import JPEG, ocr_captions, talk, tiff

from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.readers import Row
from xgenmm.data.scan import judge

URL = "https://example.org/a.jpg"
NAMES = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")


def answer(text, rating):
    return {
        "model": "m",
        "response": text,
        "annotations": {name: {"Rating": rating, "Rationale": "r"} for name in NAMES},
    }


PUBLISHED = {
    "caption_pairs": {
        "jpg": JPEG,
        "txt": b"a cloud",
        "json": json.dumps({"key": "0", "url": URL, "width": 40}).encode(),
    },
    "caption_rows": {"uid": "u", "url": URL, "text": "a cat", "original_width": 40, "face_bboxes": [], "sha256": "0"},
    "kale": {"uuid": "u", "url": URL, "caption": "a cat of 1890", "cogvlm_caption": "a cat", "stage": 1, "name": "n"},
    "ocr": {
        "uid": "u",
        "url": URL,
        "key": "k",
        "face_bboxes": [[0.1, 0.2, 0.3, 0.4]],
        "captions": json.dumps(ocr_captions()),
        "metadata": {"length": 1, "entities": [{"text": "SHOP", "bbox": [0.1, 0.2, 0.5, 0.6], "confidence": 0.9}]},
    },
    "grounding": {
        "uid": "u",
        "url": URL,
        "cogvlm_caption": "a cat",
        "captions": str([["a cat (in the center)", 0, True], ["a cat", 2, False]]),
        "metadata": {"format": "x1y1x2y2", "length": 1, "entities": [[0.1, 0.2, 0.5, 0.6, 0.9, "cat"]]},
    },
    "visual_genome": {
        "id": 1,
        "regions": [{"region_id": 3, "x": 1, "y": 2, "width": 3, "height": 4, "phrase": "a cat", "image_id": 1}],
        "url": URL,
    },
    "mint": {
        "json": json.dumps(
            {
                "texts": ["a", None],
                "images": [None, "page_0_image_85"],
                "image_metadata": [{"page": 0, "xref": 85, "width": 40, "height": 30, "sha256": "0"}],
                "url": URL,
                "pdf_name": "x.pdf",
                "language_id_whole_page_fasttext": {"en": 0.9},
                "previous_word_count": 300,
                "bff_contained_ngram_count_before_dedupe": 12,
            }
        ).encode(),
        "tiff": tiff(1),
    },
    "interleaved_rows": {
        "images": [None, URL],
        "texts": ["a", None],
        "metadata": json.dumps([None, {"document_url": URL, "src": URL, "alt_text": "a", "original_width": 40}]),
        "general_metadata": json.dumps({"url": URL, "warc_filename": "w"}),
    },
    "llava": {**talk("what?", "a cloud"), "model": ""},
    "messages": {
        "id": "m",
        "images": [{"bytes": JPEG, "path": "a.jpg"}],
        "conversation": [{"role": "user", "content": "<image> what?"}, {"role": "assistant", "content": "a cloud"}],
        "source": "own",
    },
    "cauldron": {
        "images": [{"bytes": JPEG, "path": None}],
        "texts": [{"user": "what?", "assistant": "a cloud", "source": "own"}],
    },
    "instructions": {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    "preference": {"prompt": "what?", "chosen": "a", "rejected": "b"},
    "vlfeedback": {
        "id": "x",
        "prompt": "what?",
        "models": ["m", "n"],
        "completions": [answer("a", "5"), answer("b", "1")],
    },
    "vlguard": {
        "id": "x",
        "image": "none.jpg",
        "safe": False,
        "harmful_category": "privacy",
        "harmful_subcategory": "p",
        "instr-resp": [{"instruction": "q", "response": "No."}],
    },
}
"""A row of each data set with its published columns."""


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_rows_with_the_published_columns_are_used(tmp_path, adapter):
    fields = copy.deepcopy(PUBLISHED[adapter])
    if adapter == "vlguard":
        (tmp_path / "none.jpg").write_bytes(JPEG)
    assert judge(Row(id="x", fields=fields, root=tmp_path), adapter)[0] == ""
    shuffled = list(fields.items())
    random.Random(0).shuffle(shuffled)
    assert judge(Row(id="x", fields=dict(shuffled), root=tmp_path), adapter)[0] == ""


strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(
        ["", " ", "\0", "\ud800", "<image>", "http://\ud800", "a/" * 3000, "../x", URL, "[", "{}", "7", "[[]]"]
    ),
    st.sampled_from([[], [None], [[]], [1, [2]], {}, {"bytes": None}, {"bytes": b"x", "path": 7}, [{}], b"\xff", b""]),
)


def places(value, here=()):
    """Ways to all values in a row."""
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*here, key))


@settings(deadline=None, max_examples=400)
@given(adapter=st.sampled_from(list(ADAPTERS)), data=st.data())
def test_a_value_of_any_kind_anywhere_is_used_or_told(tmp_path_factory, adapter, data):
    fields = copy.deepcopy(PUBLISHED[adapter])
    packed = {
        name: json.loads(text)
        for name, text in fields.items()
        if name in ("captions", "json") and adapter != "grounding"
    }
    fields.update(packed)
    way = data.draw(st.sampled_from([one for one in places(fields) if one]))
    target = fields
    for key in way[:-1]:
        target = target[key]
    target[way[-1]] = data.draw(strange)
    for name in packed:
        if isinstance(fields[name], dict | list):
            try:
                text = json.dumps(fields[name])
            except TypeError:
                return  # JSON holds no bytes
            fields[name] = text.encode() if adapter in ("mint", "caption_pairs") else text
    if adapter in ("mint", "caption_pairs") and not all(isinstance(value, bytes) for value in fields.values()):
        return  # an archive holds nothing else
    reason, detail = judge(Row(id="x", fields=fields, root=tmp_path_factory.getbasetemp()), adapter)
    assert isinstance(reason, str)
    assert isinstance(detail, str)
