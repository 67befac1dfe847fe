"""`xgenmm data scan`: rows of every data set."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from scans import JPEG, ocr_captions, records, talk, write_json


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
