"""A picture with its caption: img2dataset's shards, tables of addresses and captions, regions of a picture."""

from typing import Any

from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.adapters.fields import (
    embedded_picture,
    fetched_picture,
    json_member,
    named_picture,
    not_blank,
    optional,
    picture_member,
    required,
    text_member,
    typed,
)
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.types import Document, Given, Part, Picture, Sample

CAPTIONS = ("caption", "text", "alt_text", "captions")
"""Columns that may hold the caption, the best first."""
ADDRESSES = ("url", "image_url", "URL", "image_urls")
EMBEDDED = ("image", "jpg", "png")


def caption_pairs(row: Row, choose: Choose, *, prefix: str = "", every: bool = False) -> Sample | tuple[Sample, ...]:
    """A picture with its caption: img2dataset shards (`{key}.jpg`, `.txt`, `.json`) or a folder of such files.

    A list `captions` in the JSON goes before the text file, and that before a single `caption` in the JSON. An entry of
    the list is a text, or an object with a `prompt` and a `caption`: the prompt is given to the model and not
    predicted.

    Args:
        row: A tar's or a folder's row.
        choose: Draws the caption.
        prefix: Text between the picture and the caption.
        every: Give all captions of the list, each as a document of its own, instead of one that is drawn anew in every
            epoch. They share a row, in which the picture stands once (`processor.branching`).

    Raises:
        BadSample: No picture, no caption, or a caption of white space.
    """
    metadata = json_member(row, "json") if "json" in row.fields else {}
    captions = optional(metadata, "captions", list)
    if captions is not None:
        if not captions:
            raise BadSample("schema_wrong_type", 'the list "captions" is empty')
        captions = captions if every else [captions[choose(len(captions))]]
    elif "txt" in row.fields:
        captions = [text_member(row, "txt")]
    elif "caption" in metadata:
        captions = [required(metadata, "caption", str)]
    else:
        raise BadSample("sample_incomplete", 'neither a ".txt" member nor "captions" in a ".json" one')
    picture = picture_member(row)
    documents = (Document(id=row.id, parts=(picture, *_caption_parts(caption, prefix))) for caption in captions)
    return tuple(documents) if every else next(documents)


def _caption_parts(caption: Any, prefix: str) -> tuple[Part, ...]:
    if isinstance(caption, dict):
        prompt, text = (not_blank(required(caption, name, str), name).strip() for name in ("prompt", "caption"))
        return Given(text=prefix + prompt), f" {text}"
    return (prefix + not_blank(typed(caption, str, "captions"), "caption").strip(),)


def caption_rows(row: Row, choose: Choose, *, prefix: str = "") -> Document:
    """A row of a table with a picture and a caption: BLIP3-KALE, DataComp's and CC12M's metadata, CC3M, SBU.

    The picture is in the row, or the row has its address and `images` is the folder that `xgenmm data fetch` filled.

    Args:
        row: A parquet, TSV or JSON row.
        choose: Not used.
        prefix: Text between the picture and the caption.

    Raises:
        BadSample: No picture, no caption, or one that says nothing.
    """
    del choose
    name = next((one for one in CAPTIONS if one in row.fields), CAPTIONS[0])
    caption = not_blank(required(row.fields, name, str), name).strip()
    return Document(id=row.id, parts=(row_picture(row), prefix + caption))


def row_picture(row: Row) -> Picture:
    """The picture of a table's row.

    Raises:
        BadSample: It has none.
    """
    for name in EMBEDDED:
        if row.fields.get(name) is not None:
            return embedded_picture(row, row.fields[name], name)
    for name in ADDRESSES:
        if name in row.fields:
            return fetched_picture(row, row.fields[name])
    raise BadSample("schema_missing_field", f"neither a picture nor an address; there are {', '.join(row.fields)}")


def visual_genome(row: Row, choose: Choose) -> Document:
    """An entry of Visual Genome's `region_descriptions.json`: a picture and the phrase of one of its regions.

    Args:
        row: A JSON row with `id` and `regions`; the picture is `{id}.jpg` under `images`, or that of a `url` (which the
            published file lacks and its tables on the hub have).
        choose: Draws the region.

    Raises:
        BadSample: No regions, or one without a phrase.
    """
    regions = required(row.fields, "regions", list)
    if not regions:
        raise BadSample("text_empty", "there is no region")
    region = typed(regions[choose(len(regions))], dict, "regions")
    if row.fields.get("url") is not None:
        return Document(id=row.id, parts=(fetched_picture(row, row.fields["url"]), _phrase(region)))
    number = required(row.fields, "id", int) if "id" in row.fields else required(row.fields, "image_id", int)
    return Document(id=row.id, parts=(named_picture(row, f"{number}.jpg"), _phrase(region)))


def _phrase(region: dict[str, Any]) -> str:
    return not_blank(required(region, "phrase", str), "phrase").strip()
