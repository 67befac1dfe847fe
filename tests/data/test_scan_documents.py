"""`xgenmm data scan`: interleaved documents."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from scans import records, tiff, write_tar


def test_documents_of_mint(tmp_path):
    def document(key, texts, images, pages):
        return [(f"{key}.json", json.dumps({"texts": texts, "images": images}).encode()), (f"{key}.tiff", pages)]

    members = [
        *document("good", ["a", None, "b"], [None, "page_0_image_1", None], tiff(1)),
        *document("unequal", ["a"], [None, "x"], tiff(1)),
        *document("both", ["a", "b"], [None, "x"], tiff(1)),
        *document("neither", ["a", None], [None, None], tiff(1)),
        *document("no_picture", ["a", "b"], [None, None], tiff(1)),
        *document("short_tiff", ["a", None, None], [None, "x", "y"], tiff(1)),
        *document("many", ["a"] + [None] * 40, [None] + [f"i{n}" for n in range(40)], tiff(40)),
        *document("all_bad", ["a", None], [None, "x"], tiff(1, size=(4, 4))),
    ]
    assert records(write_tar(tmp_path / "s.tar", members)) == {
        "good": "ok",
        "unequal": "interleaved_length_mismatch",
        "both": "interleaved_both_set",
        "neither": "interleaved_both_null",
        "no_picture": "no_image",
        "short_tiff": "image_missing",
        "many": "too_many_images",
        "all_bad": "all_images_failed",
    }


def test_documents_of_obelics(tmp_path):
    url = "https://example.org/a.jpg"
    rows = [
        {"images": [None, url], "texts": ["a", None], "metadata": "[{}", "general_metadata": "{"},
        {"images": [None, url, url], "texts": ["a", None, None], "metadata": "[]", "general_metadata": "{}"},
        {"images": [None], "texts": ["a", None], "metadata": "[]", "general_metadata": "{}"},
        {"images": [url, None], "texts": ["a", None], "metadata": "[]", "general_metadata": "{}"},
        {"images": ["file:///etc/passwd", None], "texts": [None, "a"], "metadata": "[]", "general_metadata": "{}"},
        {"images": ["../../secret.jpg", None], "texts": [None, "a"], "metadata": "[]", "general_metadata": "{}"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "obelics.parquet")
    assert list(records(tmp_path / "obelics.parquet").values()) == [
        "ok",
        "ok",
        "interleaved_length_mismatch",
        "interleaved_both_set",
        "path_escape",
        "path_escape",
    ]
