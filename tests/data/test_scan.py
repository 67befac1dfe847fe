"""`xgenmm data scan` on small real files, each with one thing wrong (or merely unusual)."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xgenmm.cli import main
from xgenmm.data.scan import scan, scan_file

HD = "😀 مرحبا \u202eabc\u202c 👩‍👩‍👧 <|im_start|>user <image>"
"""Unusual and good: joiners, right to left, words of chat templates."""


def picture(form="JPEG", mode="RGB", size=(40, 30), **options) -> bytes:
    content = io.BytesIO()
    image = Image.effect_noise(size, 60).convert(mode) if mode in ("L", "RGB", "CMYK") else Image.new(mode, size)
    image.save(content, form, **options)
    return content.getvalue()


JPEG = picture()
LARGE = picture(size=(400, 300))


def flat() -> bytes:
    """A white picture with tables made for it: its scan is nothing but zeros."""
    content = io.BytesIO()
    Image.new("RGB", (800, 600), "white").save(content, "JPEG", optimize=True)
    assert bytes(64) in content.getvalue()
    return content.getvalue()


def bomb() -> bytes:
    """A PNG of some kilobytes whose header says 24,000 x 20,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 24_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9000))) + chunk(b"IEND", b"")
    )


def write_tar(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pair(key: str, image: bytes = JPEG, text: bytes = b"a grey cloud", suffix: str = "jpg"):
    return [(f"{key}.{suffix}", image), (f"{key}.txt", text)]


def found(path: Path, schema: str = "auto") -> dict[tuple[str, str], list[str]]:
    """(kind, key) -> reasons, "ok" where there is none."""
    result: dict[tuple[str, str], list[str]] = {}
    for finding in scan_file(path, schema):
        assert (finding.status == "ok") == (not finding.reason)
        result.setdefault((finding.kind, finding.key), []).append(finding.reason or "ok")
    return result


def records(path: Path, schema: str = "auto") -> dict[str, str]:
    return {key: reasons[0] for (kind, key), reasons in found(path, schema).items() if kind == "record"}


# ---- pictures and captions ----

PICTURES = {
    "good": (JPEG, "ok"),
    "cmyk": (picture(mode="CMYK"), "ok"),
    "grey16": (picture("PNG", "I;16"), "ok"),
    "palette": (picture("PNG", "P"), "ok"),
    "alpha": (picture("PNG", "RGBA"), "ok"),
    "animated": (picture("GIF", "P", save_all=True, append_images=[Image.new("P", (40, 30), 3)]), "ok"),
    "webp": (picture("WEBP"), "ok"),
    "progressive": (picture(progressive=True), "ok"),
    "flat": (flat(), "ok"),
    "junk_behind": (JPEG + b"junk" * 9, "ok"),
    "turned": (picture(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"), "ok"),
    "cut": (JPEG[: len(JPEG) // 2], "image_truncated"),
    "hole": (LARGE[:20_000] + bytes(500) + LARGE[20_500:], "image_corrupt"),
    "empty": (b"", "image_empty"),
    "html": (b"<html>404</html>", "image_not_decodable"),
    "noise": (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "image_not_decodable"),
    "bomb": (bomb(), "image_too_large"),
    "dot": (picture("PNG", size=(1, 1)), "image_too_small"),
    "strip": (picture("PNG", size=(4000, 8)), "image_aspect"),
}


def test_pictures_of_every_kind(tmp_path):
    members = [member for key, (content, _) in PICTURES.items() for member in pair(key, content)]
    assert records(write_tar(tmp_path / "s.tar", members)) == {key: reason for key, (_, reason) in PICTURES.items()}


TEXTS = {
    "good": (HD.encode(), "ok"),
    "lines": (b"two\nlines\tand a tab", "ok"),
    "empty": (b"", "text_empty"),
    "blank": (b" \n ", "text_empty"),
    "invisible": ("\u200b\u200d\ufeff".encode(), "text_empty"),
    "latin": ("Stra\xdfe".encode("latin-1"), "text_invalid_utf8"),
    "nul": (b"a\0b", "text_control_chars"),
    "escape": (b"\x1b[31mred", "text_control_chars"),
    "long": (b"word " * 60_000, "text_too_long"),
}


def test_texts_of_every_kind(tmp_path):
    members = [member for key, (text, _) in TEXTS.items() for member in pair(key, text=text)]
    assert records(write_tar(tmp_path / "s.tar", members)) == {key: reason for key, (_, reason) in TEXTS.items()}


def test_samples_that_lack_something(tmp_path):
    members = [
        *pair("upper", suffix="JPG"),
        ("no_text.jpg", JPEG),
        ("no_picture.txt", b"alone"),
        *pair("list_json"),
        ("list_json.json", b"[1]"),
        *pair("bad_json"),
        ("bad_json.json", b'{"url": '),
        ("caption_in_json.jpg", JPEG),
        ("caption_in_json.json", b'{"caption": "a cloud"}'),
        *pair("with.dot/a"),
        (".DS_Store", b"mac"),
        ("._good.jpg", b"mac"),
    ]
    assert records(write_tar(tmp_path / "s.tar", members)) == {
        "upper": "ok",
        "no_text": "sample_incomplete",
        "no_picture": "sample_incomplete",
        "list_json": "schema_wrong_type",
        "bad_json": "json_invalid",
        "caption_in_json": "ok",
        "with.dot/a": "ok",
    }


# ---- archives ----


def test_a_damaged_header_costs_one_sample(tmp_path):
    path = write_tar(tmp_path / "s.tar", [member for n in range(6) for member in pair(str(n))])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        data[archive.getmember("2.txt").offset + 150] ^= 0xFF
    path.write_bytes(data)
    assert found(path) == {
        **{("record", str(n)): ["ok"] for n in (0, 1, 3, 4, 5)},
        ("record", "2"): ["sample_incomplete"],
        ("shard", ""): ["archive_corrupt"],
    }


def test_a_cut_archive_keeps_what_is_whole(tmp_path):
    path = write_tar(tmp_path / "s.tar", [member for n in range(4) for member in pair(str(n))])
    with tarfile.open(path) as archive:
        place = archive.getmember("2.jpg").offset_data
    path.write_bytes(path.read_bytes()[: place + 100])
    whole = {("record", "0"): ["ok"], ("record", "1"): ["ok"]}
    assert found(path) == {**whole, ("record", "2"): ["archive_truncated"], ("shard", ""): ["archive_truncated"]}
    path.write_bytes(path.read_bytes()[: place - 400])  # within the header
    assert found(path) == {**whole, ("shard", ""): ["archive_truncated"]}


def test_missing_end_blocks_cost_no_sample(tmp_path):
    path = write_tar(tmp_path / "s.tar", [*pair("0"), *pair("1")])
    path.write_bytes(path.read_bytes().rstrip(b"\0") + bytes(512 - len(path.read_bytes().rstrip(b"\0")) % 512))
    assert records(path) == {"0": "ok", "1": "ok"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "shard_empty"), (bytes(10240), "shard_empty"), (b"no tar " * 500, "archive_corrupt"),
     (b"\x1f\x8b\x08" + bytes(2000), "archive_corrupt")],
)  # fmt: skip
def test_what_is_no_archive(tmp_path, content, reason):
    (tmp_path / "s.tar").write_bytes(content)
    assert found(tmp_path / "s.tar") == {("shard", ""): [reason]}


def test_doubles_and_fragments(tmp_path):
    double = write_tar(tmp_path / "double.tar", [*pair("a"), *pair("b"), *pair("a")])
    assert found(double) == {("record", "a"): ["ok", "key_duplicate"], ("record", "b"): ["ok"]}
    torn = [("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"x"), ("b.txt", b"x"), *pair("c")]
    fragments = found(write_tar(tmp_path / "fragments.tar", torn))
    assert fragments == {
        ("record", "c"): ["ok"],
        ("record", "a"): ["key_fragmented"],
        ("record", "b"): ["key_fragmented"],
    }


def test_members_that_could_do_harm(tmp_path):
    def special(name, kind, target=""):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        return name, member

    members = [
        *pair("../up"),
        *pair("/etc/abs"),
        special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("link.txt", b"a"),
        special("hard.jpg", tarfile.LNKTYPE, "good.jpg"),
        ("hard.txt", b"a"),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("device.jpg", tarfile.CHRTYPE),
        special("folder.jpg", tarfile.DIRTYPE),
        special("folder", tarfile.DIRTYPE),
        *pair("new\nline"),
        *pair("good"),
    ]
    assert records(write_tar(tmp_path / "s.tar", members)) == {
        "good": "ok",
        "../up": "path_escape",
        "/etc/abs": "path_escape",
        **dict.fromkeys(["link", "hard", "pipe", "device", "folder"], "archive_member_type"),
        "new\nline": "key_invalid",
    }


def test_long_names_are_followed(tmp_path):
    name = "folder/" * 30 + "x" * 120
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
            for suffix, content in (("jpg", JPEG), ("txt", b"a cloud")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        assert records(tmp_path / "s.tar") == {name: "ok"}


# ---- interleaved documents ----


def tiff(frames: int, size=(40, 30)) -> bytes:
    content = io.BytesIO()
    pages = [Image.new("RGB", size, (20 * n, 0, 0)) for n in range(frames)]
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    return content.getvalue()


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


# ---- tables ----


def write_json(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def talk(*values, image=None, roles=("human", "gpt")):
    turns = [{"from": roles[n % len(roles)], "value": value} for n, value in enumerate(values)]
    return {"id": "x", **({} if image is None else {"image": image}), "conversations": turns}


def test_conversations_of_llava(tmp_path):
    (tmp_path / "sub dir").mkdir()
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "sub dir" / "é ü.jpg").write_bytes(JPEG)
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    (tmp_path / "link.jpg").symlink_to("/etc/hostname")
    cases = [
        (talk("<image>\nwhat?", "a cloud", image="a.jpg"), "ok"),
        (talk("what?", "words"), "ok"),
        (talk("<image>\nwhat?", "a cloud", image="sub dir/é ü.jpg"), "ok"),
        (talk("<image><image> same?", "yes", image=["a.jpg", "a.jpg"]), "ok"),
        (talk("<image>" * 7 + "how many?", "7", image=["a.jpg"] * 7), "ok"),
        (talk("<image>\nwhat?", "a", image="A.JPG"), "image_missing"),
        (talk("<image><image> same?", "yes", image=["a.jpg", "no.jpg"]), "image_missing"),
        (talk("<image>\nwhat?", "a", image="bad.jpg"), "image_not_decodable"),
        (talk("<image>\nwhat?", "a", image="../a.jpg"), "path_escape"),
        (talk("<image>\nwhat?", "a", image="/etc/passwd"), "path_escape"),
        (talk("<image>\nwhat?", "a", image="file:///etc/passwd"), "path_escape"),
        (talk("<image>\nwhat?", "a", image="link.jpg"), "path_escape"),
        (talk("<image><image>\nwhat?", "a", image="a.jpg"), "placeholder_mismatch"),
        (talk("<image>\nwhat?", "a"), "placeholder_mismatch"),
        (talk("what?", "<image> a", image="a.jpg"), "placeholder_mismatch"),
        (talk("what?", "a", "b", "c", roles=("human", "gpt", "gpt", "human")), "role_order"),
        (talk("what?", roles=("human",)), "role_order"),
        (talk("what?", ""), "text_empty"),
        (talk("what?", 7), "schema_wrong_type"),
        ({"id": "x"}, "schema_missing_field"),
        ("stray", "schema_wrong_type"),
        (talk("half a character \ud800", "a"), "text_invalid_utf8"),
    ]
    path = write_json(tmp_path / "llava.json", [row for row, _ in cases])
    assert list(records(path).values()) == [reason for _, reason in cases]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(records(path).values()) == [reason for _, reason in cases]


def test_damaged_json_keeps_the_rows_before(tmp_path):
    path = write_json(tmp_path / "llava.json", [talk("a", "b"), talk("c", "d"), talk("e", "f")])
    path.write_bytes(path.read_bytes()[:-30])
    assert found(path) == {("record", "0"): ["ok"], ("record", "1"): ["ok"], ("shard", ""): ["json_invalid"]}
    path.write_text(json.dumps([talk("a", "b")]), encoding="utf-16")
    assert found(path) == {("shard", ""): ["text_invalid_utf8"]}
    path.write_text("[]")
    assert found(path) == {("shard", ""): ["shard_empty"]}


def test_lines_that_are_none(tmp_path):
    path = tmp_path / "llava.jsonl"
    good = json.dumps(talk("a", "b"))
    path.write_bytes("\n".join([good, "{bad", "", '"stray"', good]).encode() + b"\n\xff\xfe\n")
    assert records(path) == {
        "line1": "ok",
        "line2": "json_invalid",
        "line4": "schema_wrong_type",
        "line5": "ok",
        "line6": "text_invalid_utf8",
    }


def test_relatives_of_llava(tmp_path):
    cell = {"bytes": JPEG, "path": "a.jpg"}
    mantis = [{"role": "user", "content": "<image> what?"}, {"role": "assistant", "content": "a cloud"}]
    tables = {
        "mantis": [{"id": "1", "images": [cell], "conversation": mantis}],
        "cauldron": [{"images": [cell], "texts": [{"user": "what?", "assistant": "a cloud", "source": "own"}]}],
    }
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        assert records(tmp_path / f"{name}.parquet") == {"0": "ok"}
    parts = [{"type": "text", "text": "what?"}, {"type": "image"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a cloud"}]
    (tmp_path / "a.jpg").write_bytes(JPEG)
    rows = [{"messages": messages, "images": ["a.jpg"]}, {"messages": messages}, {"messages": messages[:1]}]
    path = write_json(tmp_path / "chat.json", rows)
    assert list(records(path).values()) == ["ok", "placeholder_mismatch", "role_order"]


def ocr_captions(texts=None):
    return [
        {"granularity": level, "include_datacomp_raw_cap": raw, "text": (texts or {}).get(level, "The text reads SHOP")}
        for level in range(6)
        for raw in (False, True)
    ]


def test_captions_with_words_and_boxes(tmp_path):
    url = "https://example.org/a.jpg"
    tag = "<ocr>SHOP</ocr><bbox>[0.1, 0.2][0.5, 0.6]</bbox>"

    def row(captions, boxes=((0.1, 0.2, 0.5, 0.6),)):
        entities = [{"text": "SHOP", "bbox": list(box), "confidence": 0.9} for box in boxes]
        text = captions if isinstance(captions, str) else json.dumps(captions)
        return {"uid": "u", "url": url, "key": "k", "captions": text, "metadata": json.dumps({"entities": entities})}

    cases = [
        (row(ocr_captions({5: tag})), "ok"),
        (row(ocr_captions()[:6]), "sample_incomplete"),
        (row("[{"), "json_invalid"),
        (row(ocr_captions({5: "<ocr>SHOP<bbox>[0.1, 0.2][0.5, 0.6]</bbox>"})), "tag_unbalanced"),
        (row(ocr_captions({5: tag.replace("0.5", "1.5")})), "bbox_invalid"),
        (row(ocr_captions(), [(0.5, 0.2, 0.1, 0.6)]), "bbox_invalid"),
        (row(ocr_captions(), [(0.1, 0.2, float("nan"), 0.6)]), "bbox_invalid"),
        (row(ocr_captions(), [(10, 20, 110, 220)]), "bbox_invalid"),
    ]
    pq.write_table(pa.Table.from_pylist([one for one, _ in cases]), tmp_path / "ocr_001.parquet")
    assert list(records(tmp_path / "ocr_001.parquet").values()) == [reason for _, reason in cases]


def test_captions_with_phrases_and_boxes(tmp_path):
    def row(captions, entities=()):
        metadata = json.dumps({"format": "x1y1x2y2", "length": len(entities), "entities": list(entities)})
        return {"url": "https://example.org/a.jpg", "cogvlm_caption": "c", "captions": captions, "metadata": metadata}

    good = "[['a cat (in the center)', 0, True], ['a <object>cat</object><bbox>[0.1, 0.2][0.5, 0.6]</bbox>', 2, False]]"
    natural = json.dumps([["a cat (starts at [0.1, 0.2] and extends upto [0.5, 0.6])", 1, False]])
    cases = [
        (row(good, [[0.1, 0.2, 0.5, 0.6, 0.9, "cat"]]), "ok"),
        (row(natural), "ok"),
        (row("['a cat"), "json_invalid"),
        (row(good, [[0.6, 0.2, 0.5, 0.6, 0.9, "cat"]]), "bbox_invalid"),
        (row("[['<bbox>0.1,0.2,0.5,2.6</bbox>', 2, False]]"), "bbox_invalid"),
        (row("[['I am a cat</object>', 2, False]]"), "tag_unbalanced"),
    ]
    pq.write_table(pa.Table.from_pylist([one for one, _ in cases]), tmp_path / "combined_part_00.parquet")
    assert list(records(tmp_path / "combined_part_00.parquet").values()) == [reason for _, reason in cases]


def test_dense_captions(tmp_path):
    url = "https://example.org/a.jpg"
    cases = [
        ("A red brick house, built in 1890, stands beside the river.", "ok"),
        ("As an AI language model, I cannot see the picture.", "caption_artifact"),
        ("Sentence 1: the cat. The raw caption says a cat.", "caption_artifact"),
        ("a cat on a mat and " * 12, "caption_repetition"),
        ("", "text_empty"),
    ]
    rows = [{"url": url, "caption": caption} for caption, _ in cases]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "kale_core.parquet")
    assert list(records(tmp_path / "kale_core.parquet").values()) == [reason for _, reason in cases]


def test_tables_of_addresses_in_either_order(tmp_path):
    (tmp_path / "cc12m.tsv").write_text("https://example.org/a.jpg\ta cat\nhttps://example.org/b.jpg\t \nonly one\n")
    (tmp_path / "cc3m.tsv").write_text("a cat\thttps://example.org/a.jpg\n")
    assert list(records(tmp_path / "cc12m.tsv").values()) == ["ok", "text_empty", "schema_missing_field"]
    assert list(records(tmp_path / "cc3m.tsv").values()) == ["ok"]
    sbu = {"image_urls": ["http://example.org/a.jpg"], "captions": ["a cat"]}
    (tmp_path / "sbu.json").write_text(json.dumps(sbu))
    assert list(records(tmp_path / "sbu.json").values()) == ["ok"]
    genome = [{"id": 1, "regions": [{"x": 1, "y": 2, "width": 3, "height": 4, "phrase": "a cat"}]}]
    (tmp_path / "1.jpg").write_bytes(JPEG)
    assert list(records(write_json(tmp_path / "region_descriptions.json", genome)).values()) == ["ok"]


def test_preferences(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)

    def answer(text, *ratings):
        names = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
        return {
            "model": "m",
            "response": text,
            "annotations": {n: {"Rating": r} for n, r in zip(names, ratings, strict=True)},
        }

    def row(*answers):
        return {"id": "x", "prompt": "what?", "img_path": "a.jpg", "completions": list(answers)}

    cases = [
        (row(answer("a", "5", "4", "5"), answer("b", "1", "2", "5")), "ok"),
        (row(answer("a", 5, 4, 5), answer("b", 1, 2, 5)), "ok"),
        (row(answer("a", "3", "4", "5"), answer("b", "5", "4", "3")), "preference_tie"),
        (row(answer("a", "N/A", "4", "5"), answer("b", "1", "2", "5")), "preference_missing_rating"),
        (row(answer("a", "11", "4", "5"), answer("b", "1", "2", "5")), "preference_missing_rating"),
        (row(answer("a", "5", "4", "5")), "preference_single"),
        (row(answer("a", "5", "4", "5"), answer("a", "1", "2", "5")), "preference_identical"),
    ]
    path = write_json(tmp_path / "vlfeedback.json", [one for one, _ in cases])
    assert list(records(path).values()) == [reason for _, reason in cases]


def test_safety_rows(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    first = {"safe_instruction": "what?", "response": "a cloud"}
    second = {"unsafe_instruction": "harm?", "response": "No."}
    turned = {"response": "No.", "unsafe_instruction": "harm?"}
    unsafe = [{"instruction": "q", "response": "No."}]
    cases = [
        ({"safe": True, "image": "a.jpg", "instr-resp": [first, second]}, "ok"),
        ({"safe": True, "image": "a.jpg", "instr-resp": [turned, first]}, "ok"),
        ({"safe": False, "image": "a.jpg", "instr-resp": unsafe}, "ok"),
        (
            {"safe": "false", "image": "a.jpg", "instr-resp": unsafe},
            "schema_wrong_type",
        ),
        ({"safe": False, "image": "a.jpg", "instr-resp": []}, "schema_missing_field"),
    ]
    path = write_json(tmp_path / "train.json", [one for one, _ in cases])
    assert list(records(path).values()) == [reason for _, reason in cases]


def test_parquet_damages(tmp_path):
    rows = [{"url": f"https://example.org/{n}.jpg", "caption": f"a cat with the number {n}"} for n in range(300)]
    path = tmp_path / "kale.parquet"
    options = {"row_group_size": 100, "write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    data = bytearray(path.read_bytes())
    data[data.index(b"a cat with the number 150")] ^= 0xFF
    path.write_bytes(data)
    findings = list(scan_file(path))
    assert [finding.key for finding in findings if finding.status == "ok"] == [
        *map(str, range(100)),
        *map(str, range(200, 300)),
    ]
    (shard,) = [finding for finding in findings if finding.kind == "shard"]
    assert (shard.reason, shard.lost) == ("parquet_corrupt", 100)
    path.write_bytes(data[:-20])
    assert found(path) == {("shard", ""): ["parquet_corrupt"]}
    pq.write_table(pa.Table.from_pylist(rows[:0], schema=pa.schema({"url": pa.string(), "caption": pa.string()})), path)
    assert found(path) == {("shard", ""): ["shard_empty"]}
    pq.write_table(pa.table({"url": ["https://example.org/a.jpg"]}), path)
    assert records(path, "kale") == {"0": "schema_missing_field"}


# ---- the whole command ----


def corpus(root: Path) -> Path:
    write_tar(root / "captions" / "0.tar", [m for n in range(5) for m in pair(str(n))])
    write_tar(root / "captions" / "1.tar", [*pair("0"), *pair("1", b"")])
    write_json(root / "sft" / "llava.json", [talk("<image>a", "b", image="a.jpg"), talk("c", "")])
    (root / "sft" / "a.jpg").write_bytes(JPEG)
    return root


def test_the_report_does_not_depend_on_the_workers(tmp_path, monkeypatch):
    root = corpus(tmp_path / "corpus")
    before = sorted(root.rglob("*"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("no network"))
    reports = []
    for workers in (1, 2, 4):
        report = tmp_path / "out" / f"{workers}.jsonl"
        summary = scan(root, report, workers=workers)
        reports.append(report.read_bytes())
        assert (summary.files, summary.records, summary.quarantined, summary.shards) == (3, 9, 2, 0)
    assert reports[0] == reports[1] == reports[2]
    assert sorted(root.rglob("*")) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.jsonl", "2.jsonl", "4.jsonl"]
    lines = [json.loads(line) for line in reports[0].decode().splitlines()]
    assert all(list(line) == ["path", "kind", "key", "status", "reason", "detail"] for line in lines)


def test_the_command(tmp_path, capsys):
    root = corpus(tmp_path / "corpus")
    assert main(["data", "scan", str(root), "--output", str(tmp_path / "r.jsonl"), "--workers", "1"]) == 0
    assert "9 records: 7 good, 2 quarantined" in capsys.readouterr().out
    assert main(["data", "scan", str(root / "none"), "--output", str(tmp_path / "r.jsonl")]) == 2
    assert main(["data", "scan", str(root), "--output", str(tmp_path / "r.jsonl"), "--schema", "lava"]) == 2
    assert 'did you mean "llava"' in capsys.readouterr().err


def test_folders_of_pictures(tmp_path):
    for name, content in (("a.jpg", JPEG), ("b.png", b""), ("c.x.jpg", JPEG)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.txt").write_text("a cloud")
    scan(tmp_path, tmp_path / "out" / "r.jsonl", workers=1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "r.jsonl").read_text().splitlines()]
    assert [(Path(line["path"]).name, line["reason"]) for line in lines] == [
        ("a.jpg", ""),
        ("b.png", "image_empty"),
        ("c.x.jpg", ""),
    ]
