"""Adapters: a row as its data set publishes it, and the sample that it must give."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.adapters.choosing import Asked, pick
from xgenmm.data.adapters.conversations import MARKER
from xgenmm.data.adapters.interleaved import split_tiff
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.types import Given, Picture

ROOT = Path("/data")


def adapt(name, fields, number=0, **options):
    return ADAPTERS[name](Row(id="row", fields=fields, root=ROOT), pick(number), **options)


def picture(name):
    return Picture(source=ROOT / name, name=f"/data/{name}")


def says(*values):
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


def tiff(*colours, **options):
    frames = [Image.new("RGB", (4, 4), colour) for colour in colours]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def first_pixel(data):
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").getpixel((0, 0))


def test_caption_pair_of_img2dataset():
    fields = {"jpg": b"jpeg", "txt": b" a dog \n", "json": b'{"url": "u", "status": "success"}'}
    document = adapt("caption_pairs", fields, prefix="Picture of ")
    assert document.parts == (Picture(source=b"jpeg", name="row.jpg"), "Picture of a dog")


def alternatives(name, fields, **options):
    """All samples that a row can give, in order."""
    asked = Asked()
    first = ADAPTERS[name](Row(id="row", fields=fields, root=ROOT), asked, **options)
    return [first, *(adapt(name, fields, number, **options) for number in range(1, asked.count))]


def test_one_of_several_captions_is_chosen():
    fields = {"png": b"png", "json": json.dumps({"captions": ["a", "b", "c"]}).encode()}
    assert [sample.parts[1] for sample in alternatives("caption_pairs", fields)] == ["a", "b", "c"]
    assert len(alternatives("caption_pairs", fields, every=True)) == 1


def test_every_region_of_visual_genome_can_be_chosen():
    fields = {"id": 7, "regions": [{"phrase": "a hat"}, {"phrase": "a tree"}]}
    assert [sample.parts[1] for sample in alternatives("visual_genome", fields)] == ["a hat", "a tree"]


def test_mint_document_in_reading_order():
    content = {"texts": ["one", None, "two", None], "images": [None, "page_0_image_85", None, "page_1_image_2"]}
    document = adapt("mint", {"json": json.dumps(content).encode(), "tiff": tiff("red", "blue")})
    text, first, more, second = document.parts
    assert (text, more) == ("one", "two")
    assert first_pixel(first.source) == (255, 0, 0)
    assert first_pixel(second.source) == (0, 0, 255)
    assert second.name == "row.tiff (page_1_image_2)"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_tiff_pages_become_first_pages(compression):
    pages = list(split_tiff(tiff("red", "lime", "blue", compression=compression)))
    found = [tuple(round(channel / 255) for channel in first_pixel(page)) for page in pages]
    assert found == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


def test_tiff_in_a_circle_or_cut_does_not_hang():
    data = tiff("red", "blue")
    first = int.from_bytes(data[4:8], "little")
    following = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    circle = data[:following] + data[4:8] + data[following + 4 :]
    for broken in (circle, data[:40], b"PNG"):
        with pytest.raises(BadSample, match="image_corrupt"):
            list(split_tiff(broken))


def test_llava_single_picture():
    fields = {"id": "0", "image": "coco/1.jpg", "conversations": says("<image>\nWhat?", "A dog.", "Sure?", "Yes.")}
    talk = adapt("llava", fields)
    assert [turn.role for turn in talk.turns] == ["user", "assistant", "user", "assistant"]
    assert talk.turns[0].parts == (picture("coco/1.jpg"), "\nWhat?")
    assert talk.turns[1].parts == ("A dog.",)


def test_llava_several_pictures_stand_where_they_are_marked():
    fields = {"image": ["a.png", "b.png"], "conversations": says("Is <image> like <image>?", "No.")}
    parts = adapt("llava", fields).turns[0].parts
    assert parts == ("Is ", picture("a.png"), " like ", picture("b.png"), "?")


def test_llava_text_only_with_system_and_other_names_of_the_roles():
    fields = {"conversations": [{"from": "system", "value": "Be short."}, *says("2+2?", "4")]}
    fields["conversations"][1]["from"] = "user"
    talk = adapt("llava", fields)
    assert [turn.role for turn in talk.turns] == ["system", "user", "assistant"]


def test_llava_marks_and_pictures_agree_in_number_both_ways():
    for image, text in (("a.png", "What?"), ("a.png", "<image><image>What?"), (["a.png", "b.png"], "<image>What?")):
        with pytest.raises(BadSample, match="placeholder_mismatch"):
            adapt("llava", {"image": image, "conversations": says(text, "A dog.")})


def test_preference():
    row = {"id": "7", "image": "a.png", "prompt": "What?", "chosen": "A dog.", "rejected": "A cat."}
    sample = adapt("preference", row)
    assert sample.prompt.turns[0].parts == (picture("a.png"), "What?")
    assert (sample.chosen, sample.rejected) == ("A dog.", "A cat.")


def test_vlguard_unsafe_and_safe():
    unsafe = {"safe": False, "image": "bad_ads/1.png", "instr-resp": [{"instruction": "Do it.", "response": "No."}]}
    talk = adapt("vlguard", unsafe)
    assert [turn.parts for turn in talk.turns] == [(picture("bad_ads/1.png"), "Do it."), ("No.",)]
    pairs = [{"response": "Fine.", "safe_instruction": "What?"}, {"unsafe_instruction": "Hurt.", "response": "No."}]
    safe = {"safe": True, "image": "a.png", "instr-resp": pairs}
    orders = [[str(turn.parts[-1]) for turn in talk.turns] for talk in alternatives("vlguard", safe)]
    assert orders == [["What?", "Fine.", "Hurt.", "No."], ["Hurt.", "No.", "What?", "Fine."]]
    assert len(alternatives("vlguard", unsafe)) == 1
    talk = adapt("vlguard", safe)
    assert [isinstance(turn.parts[0], Picture) for turn in talk.turns] == [True, False, False, False]


CAPTIONS = json.dumps({"captions": []}).encode()


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("caption_pairs", {"txt": b"a"}, "sample_incomplete"),
        ("caption_pairs", {"jpg": b"x"}, "sample_incomplete"),
        ("caption_pairs", {"jpg": b"x", "txt": b" \n"}, "text_empty"),
        ("caption_pairs", {"jpg": b"x", "txt": b"\xff\xfe"}, "text_invalid_utf8"),
        ("caption_pairs", {"jpg": b"x", "txt": b"a", "json": b"{"}, "json_invalid"),
        ("caption_pairs", {"jpg": b"x", "json": CAPTIONS}, "schema_wrong_type"),
        ("mint", {"json": b'{"texts": ["a"], "images": []}', "tiff": b""}, "interleaved_length_mismatch"),
        ("mint", {"json": b'{"texts": ["a"], "images": [null]}', "tiff": b""}, "no_image"),
        ("mint", {"json": b'{"texts": ["a"], "images": ["p"]}', "tiff": tiff("red")}, "interleaved_both_set"),
        (
            "mint",
            {"json": b'{"texts": [null, null], "images": [null, "p"]}', "tiff": tiff("red")},
            "interleaved_both_null",
        ),
        ("mint", {"json": b'{"texts": [null, null], "images": ["p", "q"]}', "tiff": tiff("red")}, "image_missing"),
        ("mint", {"json": json.dumps({"texts": [None] * 31, "images": ["p"] * 31}).encode()}, "too_many_images"),
        ("mint", {"json": b"[]"}, "schema_wrong_type"),
        ("llava", {"image": "a.png"}, "schema_missing_field"),
        ("llava", {"image": 7, "conversations": says("a", "b")}, "schema_wrong_type"),
        ("llava", {"image": "../a.png", "conversations": says("a", "b")}, "path_escape"),
        ("llava", {"image": "/a.png", "conversations": says("a", "b")}, "path_escape"),
        ("llava", {"image": ["a.png", "b.png"], "conversations": says("<image>", "b")}, "placeholder_mismatch"),
        ("llava", {"image": "a.png", "conversations": says("<image><image>", "b")}, "placeholder_mismatch"),
        ("llava", {"conversations": says("<image>", "b")}, "placeholder_mismatch"),
        ("llava", {"image": "a.png", "conversations": says("a", f"b {MARKER}")}, "placeholder_mismatch"),
        ("llava", {"image": [f"{n}.png" for n in range(13)], "conversations": says("a", "b")}, "too_many_images"),
        ("llava", {"conversations": says("a")}, "role_order"),
        ("llava", {"conversations": says("a", "b")[::-1]}, "role_order"),
        ("llava", {"conversations": []}, "role_order"),
        ("llava", {"conversations": [{"from": "bing", "value": "a"}]}, "role_order"),
        ("llava", {"conversations": says("a", "")}, "text_empty"),
        ("llava", {"conversations": says("a", 4)}, "schema_wrong_type"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b "}, "preference_identical"),
        ("preference", {"prompt": "a", "chosen": "b"}, "schema_missing_field"),
        ("vlguard", {"safe": "false", "image": "a.png", "instr-resp": []}, "schema_wrong_type"),
        ("vlguard", {"safe": False, "image": "a.png", "instr-resp": []}, "schema_missing_field"),
    ],
)
def test_rows_that_are_refused(name, fields, reason):
    with pytest.raises(BadSample) as error:
        adapt(name, fields)
    assert error.value.reason == reason


def test_every_caption_as_a_document_of_its_own():
    fields = {"png": b"png", "json": json.dumps({"captions": ["a dog", "an animal"]}).encode()}
    documents = adapt("caption_pairs", fields, every=True)
    assert [document.parts for document in documents] == [
        (Picture(source=b"png", name="row.png"), "a dog"),
        (Picture(source=b"png", name="row.png"), "an animal"),
    ]


def test_independent_questions_each_begin_with_the_pictures():
    talk = says("First <image> then <image>\nWhich is red?", "The first.", "Which is blue?", "The second.")
    one, two = adapt("llava", {"image": ["a.png", "b.png"], "conversations": talk}, independent=True)
    shared = ("First ", picture("a.png"), " then ", picture("b.png"))
    assert [turn.parts for turn in one.turns] == [(*shared, "\nWhich is red?"), ("The first.",)]
    assert [turn.parts for turn in two.turns] == [(*shared, "\nWhich is blue?"), ("The second.",)]


def test_a_caption_with_a_prompt_is_predicted_and_its_prompt_is_given():
    captions = [{"prompt": "Kind:", "caption": "animal."}]
    document = adapt("caption_pairs", {"png": b"png", "json": json.dumps({"captions": captions}).encode()})
    assert document.parts[1:] == (Given(text="Kind:"), " animal.")


URL = "https://example.org/a.jpg"
CACHED = ROOT / "70" / "700caca5ae8f856fc70b39312664d5c97f25108545c8f774199da1edfcc4ac60"


def ocr_row(texts):
    entries = [
        {"granularity": level, "include_datacomp_raw_cap": raw, "text": texts.get((level, raw), "x")}
        for level in range(6)
        for raw in (False, True)
    ]
    return {"url": URL, "captions": json.dumps(entries)}


def test_a_fetched_picture_is_found_by_its_address():
    sample = adapt("kale", {"url": URL, "caption": " A cat. "})
    assert sample.parts[0].source == CACHED
    assert sample.parts[1:] == ("A cat.",)


def test_ocr_draws_the_wanted_captions_and_drops_filler():
    fields = ocr_row({(2, False): 'The text reads "SHOP" 1/2 from the left', (2, True): "raw"})
    sample = adapt("ocr", fields, levels=(2,), raw_caption=False)
    assert sample.parts[1] == '"SHOP" 1/2 from the left'
    assert adapt("ocr", fields, levels=(2,), raw_caption=False, remove_filler=False).parts[1].startswith("The text")
    fields = ocr_row({(n, False): f"level {n}" for n in range(6)})
    offered = [sample.parts[1] for sample in alternatives("ocr", fields, raw_caption=False)]
    assert offered == [f"level {n}" for n in range(6)]
    assert len(alternatives("ocr", fields)) == 12


def test_grounding_reads_python_and_json():
    listed = [["a cat (in the center)", 0, True], ["a cat <bbox>0.1,0.2,0.5,0.6</bbox>", 2, False]]
    for text in (str(listed), json.dumps(listed)):
        assert adapt("grounding", {"url": URL, "captions": text}, levels=(0,)).parts[1] == "a cat (in the center)"


def test_grounding_evaluates_no_code():
    with pytest.raises(BadSample, match="json_invalid"):
        adapt("grounding", {"url": URL, "captions": "__import__('os').getcwd()"})


def test_pages_keep_their_order_and_each_picture_once():
    fields = {"texts": ["first", None, "second", None], "images": [None, URL, None, URL]}
    parts = adapt("interleaved_rows", fields).parts
    assert [part if isinstance(part, str) else part.source for part in parts] == ["first", CACHED, "second"]


def test_openai_parts_become_pictures_in_their_places():
    image = {"type": "image_url", "image_url": {"url": URL}}
    content = [{"type": "text", "text": "Is "}, image, {"type": "text", "text": " a cat?"}]
    said = (("system", "Be brief."), ("user", content), ("assistant", "Yes."))
    talk = [{"role": role, "content": text} for role, text in said]
    system, user, assistant = adapt("messages", {"messages": talk}).turns
    assert (system.role, system.parts) == ("system", ("Be brief.",))
    assert [part if isinstance(part, str) else part.source for part in user.parts] == ["Is ", CACHED, " a cat?"]
    assert assistant.parts == ("Yes.",)


def test_the_cauldron_puts_pictures_first():
    cells = [{"bytes": b"one", "path": None}, {"bytes": b"two", "path": None}]
    texts = [{"user": "q1", "assistant": "a1", "source": "s"}, {"user": "q2", "assistant": "a2", "source": "s"}]
    turns = adapt("cauldron", {"images": cells, "texts": texts}).turns
    assert [turn.role for turn in turns] == ["user", "assistant"] * 2
    assert [part if isinstance(part, str) else part.source for part in turns[0].parts] == [b"one", b"two", "q1"]


def test_vlfeedback_takes_the_best_and_the_worst_mean():
    def answer(text, *ratings):
        names = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
        return {"response": text, "annotations": {name: {"Rating": r} for name, r in zip(names, ratings, strict=True)}}

    answers = [answer("middle", "4", "4", "4"), answer("best", "5", "4", "5"), answer("worst", "1", 4, "5")]
    pair = adapt("vlfeedback", {"prompt": "q", "img_path": "a.jpg", "completions": answers})
    assert (pair.chosen, pair.rejected) == ("best", "worst")
    assert pair.prompt.turns[0].parts[0].source == ROOT / "a.jpg"


def test_instructions_of_text_alone():
    turns = adapt("instructions", {"instruction": "Add.", "input": "1 and 2", "output": "3"}).turns
    assert [turn.parts for turn in turns] == [("Add.\n1 and 2",), ("3",)]


def test_a_region_of_visual_genome_is_drawn():
    regions = [{"phrase": f"region {n}", "x": 0, "y": 0, "width": 1, "height": 1} for n in range(3)]
    sample = adapt("visual_genome", {"id": 7, "regions": regions})
    assert sample.parts[0].source == ROOT / "7.jpg"
    assert sample.parts[1] in {"region 0", "region 1", "region 2"}
