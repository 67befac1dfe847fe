"""Names, families, splits and colours of the starter's pictures, on entries and drawings made here."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from xgenmm.starter.pictures import (
    Item,
    describe,
    measure_colours,
    motif,
    read_table,
    render,
    split_families,
)


def entry(unified: str, name: str, short: str, category: str = "Objects", topic: str = "tool") -> dict:
    return {"unified": unified, "name": name, "short_name": short, "category": category, "subcategory": topic}


def item(number: int, family: str) -> Item:
    return Item(
        id=f"{number:04X}", name=f"thing {number}", kind="object", topic="tool", family=family, colours=("red",)
    )


def test_the_table_keeps_what_has_a_kind_and_a_drawing():
    entries = [
        entry("1F6E0-FE0F", "HAMMER AND WRENCH", "hammer_and_wrench"),
        entry("1F1F3-1F1EC", "Nigeria Flag", "flag-ng", "Flags", "country-flag"),  # no kind
        entry("1F9F0", "TOOLBOX", "toolbox"),  # no drawing
    ]
    items = read_table(entries, ["1F6E0", "1F1F3-1F1EC"])  # OpenMoji's file name leaves FE0F out
    assert [(i.id, i.name, i.kind) for i in items] == [("1F6E0", "hammer and wrench", "object")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("1F9D1-200D-1F33E", "farmer"), ("1F469-200D-1F33E", "female-farmer")),
        (("1F3C3", "runner"), ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "woman_running_facing_right")),
        (("1F468-200D-1F9B0", "red_haired_man"), ("1F9D1-200D-1F9B3", "white_haired_person")),
        (("1F934", "prince"), ("1F478", "princess")),
    ],
)
def test_variants_of_people_share_a_motif(first: tuple[str, str], second: tuple[str, str]):
    one, other = (motif(code, short, short, "person", "person role") for code, short in (first, second))
    assert one == other
    assert one != motif("1F468-200D-1F373", "male-cook", "man cook", "person", "person role")


def test_series_share_a_motif():
    assert motif("1F550", "clock1", "clock face one o'clock", "travel", "time") == "clock"
    assert motif("1F566", "clock1130", "clock face eleven-thirty", "travel", "time") == "clock"
    assert motif("23F0", "alarm_clock", "alarm clock", "travel", "time") == "travel alarm clock"


def draw(colour: str, *, at: int, outline: str | None = None) -> Image.Image:
    picture = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(picture).rectangle((at, 16, at + 20, 50), fill=colour, outline=outline, width=2)
    return picture


def test_near_identical_and_mirrored_pictures_become_one_family():
    pictures = {
        "0001": draw("red", at=4),
        "0002": draw("red", at=4),
        "0003": draw("red", at=39),
        "0004": draw("blue", at=4),
    }
    items = describe([item(n, family=f"f{n}") for n in (1, 2, 3, 4)], pictures)
    families = [i.family for i in items]
    assert families[0] == families[1] == families[2]  # the third is the mirror image of the first (4 + 39 + 20 = 63)
    assert families[3] != families[0]


def test_a_family_is_never_split_and_large_ones_stay_in_training():
    items = [item(n, family=f"pair {n // 2}") for n in range(40)] + [item(100 + n, family="series") for n in range(7)]
    split = split_families(items, test=8, validation=4, seed=0)
    counts = {name: sum(i.split == name for i in split) for name in ("train", "validation", "test")}
    assert counts == {"train": 35, "validation": 4, "test": 8}
    for family in {i.family for i in split}:
        assert len({i.split for i in split if i.family == family}) == 1
    assert {i.split for i in split if i.family == "series"} == {"train"}
    assert split == split_families(items, test=8, validation=4, seed=0)


def test_colours_are_measured_by_area_and_the_outline_counts_less():
    picture = Image.new("RGBA", (60, 60))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, 59, 29), fill="black")
    pen.rectangle((0, 30, 59, 44), fill="#5C9E31")
    pen.rectangle((0, 45, 59, 49), fill="#EA5A47")
    # areas 30 : 15 : 5 rows; black counts a third, so green 15, black 10, red 5 of 30: red has more than an eighth
    assert measure_colours(picture) == ("green", "black", "red")
    assert measure_colours(Image.new("RGBA", (8, 8))) == ("white",)


def test_rendering_keeps_proportions():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 5"><rect width="10" height="5" fill="#ff0000"/></svg>'
    )
    alpha = np.asarray(render(svg))[..., 3]
    assert alpha.shape == (224, 224)
    rows = np.flatnonzero(alpha[:, 112] > 128)
    assert (rows.min(), rows.max()) == (56, 167)  # half as high as wide, in the middle
