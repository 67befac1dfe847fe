"""Which data set a file holds, by its columns and, where these leave a choice, by its name. Reads no pictures."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, nearest
from xgenmm.data.adapters import ADAPTERS

AUTO = "auto"
ALIASES = {
    "webdataset": "caption_pairs",
    "caption": "caption_pairs",
    "captions": "caption_pairs",
    "image_text": "caption_pairs",
    "img2dataset": "caption_pairs",
    "folder": "caption_pairs",
    "datacomp": "caption_rows",
    "cc12m": "caption_rows",
    "cc3m": "caption_rows",
    "sbu": "caption_rows",
    "ocr_hd": "ocr",
    "interleaved": "interleaved_rows",
    "mint_pdf": "mint",
    "mint_arxiv": "mint",
    "mint_html": "interleaved_rows",
    "obelics": "interleaved_rows",
    "sharegpt": "llava",
    "sharegpt4v": "llava",
    "mantis": "messages",
    "openai": "messages",
    "openai_messages": "messages",
    "text": "instructions",
    "instruction": "instructions",
    "vg": "visual_genome",
    "dpo": "preference",
    "preferences": "preference",
}
"""Data sets by name -> the adapter of their files."""
_IN_TARS = {"caption_rows": "caption_pairs", "interleaved_rows": "mint"}
_IN_TABLES = {tar: table for table, tar in _IN_TARS.items()}
NAMED = {
    "vlguard": "vlguard",
    "vlfeedback": "vlfeedback",
    "preference": "preference",
    "obelics": "interleaved_rows",
    "mint": "interleaved_rows",
    "interleaved": "interleaved_rows",
    "grounding": "grounding",
    "ocr": "ocr",
    "kale": "kale",
    "cauldron": "cauldron",
    "mantis": "messages",
    "openai": "messages",
    "messages": "messages",
    "llava": "llava",
    "sharegpt": "llava",
    "sft": "llava",
    "datacomp": "caption_rows",
    "cc12m": "caption_rows",
    "cc3m": "caption_rows",
    "sbu": "caption_rows",
    "genome": "visual_genome",
    "region_descriptions": "visual_genome",
    "instruct": "instructions",
}
"""Words in file and folder names -> adapter, for tables whose rows do not tell."""
LOOKED_AT = 200
"""Rows whose columns are looked at."""


def adapter_name(schema: str, *, in_tar: bool | None = None) -> str:
    """The adapter of a schema that somebody named.

    Args:
        schema: An adapter's or a data set's name, however it is written ("MINT-1T HTML", "mint_1t_html").
        in_tar: Whether its files are archives: captions and documents are written otherwise in tables.

    Raises:
        ConfigError: There is none; the message offers the nearest name.
    """
    known = {**{name: name for name in ADAPTERS}, **ALIASES}
    name = re.sub("[^a-z0-9]+", "_", schema.casefold()).strip("_")
    name = re.sub("_(?:[0-9]+[kmb]|[0-9]+t)(?=_|$)", "", name.removeprefix("blip3_"))
    if name not in known:
        raise ConfigError(f'there is no schema "{schema}"; {nearest(schema, [AUTO, *known])}')
    adapter = known[name]
    if in_tar is None:
        return adapter
    return (_IN_TARS if in_tar else _IN_TABLES).get(adapter, adapter)


def schema_of_rows(rows: Iterable[Any], path: Path) -> str:
    """The adapter of a table's rows: what most of them look like, or what the file is called."""
    votes: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if number >= LOOKED_AT:
            break
        if isinstance(row, Mapping) and (found := schema_of_row(row, path)):
            votes[found] += 1
    return votes.most_common(1)[0][0] if votes else schema_of_name(path) or "llava"


def schema_of_name(path: Path) -> str | None:
    """The adapter that a file's name, or its folder's, speaks for."""
    for part in (path.name.lower(), path.parent.name.lower()):
        for word, adapter in NAMED.items():
            if word in part:
                return adapter
    return None


def schema_of_row(row: Mapping[str, Any], path: Path) -> str | None:
    """The adapter whose columns a row has; None where it has nobody's."""
    names = set(row)
    for column, adapter in _COLUMNS.items():
        if column in names:
            return adapter
    if "conversations" in names:
        return _schema_of_talk(row["conversations"])
    if "texts" in names:
        texts = row["texts"] or ()
        return "cauldron" if any(isinstance(text, Mapping) for text in texts) else "interleaved_rows"
    if "captions" in names:
        return _schema_of_captions(row, path)
    if names & {"caption", "text"}:
        return "kale" if schema_of_name(path) == "kale" else "caption_rows"
    return "instructions" if names & {"instruction", "prompt", "question"} else None


_COLUMNS = {
    "instr-resp": "vlguard",
    "completions": "vlfeedback",
    "chosen": "preference",
    "rejected": "preference",
    "regions": "visual_genome",
    "messages": "messages",
    "conversation": "messages",
    "image_urls": "caption_rows",
}


def _schema_of_talk(talk: Any) -> str:
    """ShareGPT's exports come with LLaVA's words (from, value) and with OpenAI's (role, content)."""
    first = talk[0] if isinstance(talk, list) and talk else None
    return "messages" if isinstance(first, Mapping) and "role" in first and "from" not in first else "llava"


def _schema_of_captions(row: Mapping[str, Any], path: Path) -> str:
    if schema_of_name(path) in ("ocr", "grounding"):
        return schema_of_name(path) or "ocr"
    return "ocr" if "granularity" in str(row["captions"])[:2000] and "cogvlm_caption" not in row else "grounding"
