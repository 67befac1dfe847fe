"""Raw rows -> samples: one function for each way in which data sets write down pictures and text.

Adapters do no I/O (pictures stay unopened) and know no tokens. What an adapter lets people choose are its keyword-only
arguments, which a recipe sets under `options`.
"""

import json
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import PICTURE_SUFFIXES, Row
from xgenmm.types import Conversation, Document, Given, Part, Picture, Preference, Sample, Turn

Role = Literal["system", "user", "assistant"]
MARKER = "<image>"
"""Where a picture stands in the text of a data set. In our samples pictures are parts, and no text means a picture."""


def caption_pairs(
    row: Row, rng: random.Random, *, prefix: str = "", every: bool = False
) -> Sample | tuple[Sample, ...]:
    """A picture with its caption: img2dataset shards (`{key}.jpg`, `.txt`, `.json`) or a folder of such files.

    A list `captions` in the JSON goes before the text file. Each of its entries is a text, or an object with a `prompt`
    and a `caption`: the prompt is given to the model and not predicted.

    Args:
        row: A tar's or a folder's row.
        rng: Draws the caption; seeded by run, epoch and row.
        prefix: Text between the picture and the caption.
        every: Give all captions of the list, each as a document of its own, instead of one that is drawn anew in every
            epoch. They share a row, in which the picture stands once (`processor.branching`).

    Raises:
        BadSample: No picture, no caption, or a caption of white space.
    """
    metadata = _json_member(row, "json") if "json" in row.fields else {}
    captions = _optional(metadata, "captions", list)
    if captions is not None:
        if not captions:
            raise BadSample("schema_wrong_type", 'the list "captions" is empty')
        captions = captions if every else [rng.choice(captions)]
    elif "txt" in row.fields:
        captions = [_text_member(row, "txt")]
    else:
        raise BadSample("sample_incomplete", 'neither a ".txt" member nor "captions" in a ".json" one')
    picture = _picture_member(row)
    documents = (Document(id=row.id, parts=(picture, *_caption_parts(caption, prefix))) for caption in captions)
    return tuple(documents) if every else next(documents)


def _caption_parts(caption: Any, prefix: str) -> tuple[Part, ...]:
    if isinstance(caption, dict):
        prompt, text = (_not_blank(_required(caption, name, str), name).strip() for name in ("prompt", "caption"))
        return Given(text=prefix + prompt), f" {text}"
    return (prefix + _not_blank(_typed(caption, str, "captions"), "caption").strip(),)


def mint(row: Row, rng: random.Random, *, max_images: int = 30) -> Document:
    """An interleaved document of MINT-1T (PDF, ArXiv): `{key}.json` with `texts` and `images`, `{key}.tiff` with pages.

    The two lists are parallel, and at every place one is null; the n-th image is the n-th page of the TIFF.

    Args:
        row: A tar's row.
        rng: Not used: a document is what it is.
        max_images: A document with more is left out.

    Raises:
        BadSample: The lists do not fit each other or the TIFF, or there are no or too many images.

    Source: spec 5.1 (the published card); limit of 30 images: arXiv 2406.11271.
    """
    del rng
    content = _json_member(row, "json")
    texts, images = _required(content, "texts", list), _required(content, "images", list)
    if len(texts) != len(images):
        raise BadSample("interleaved_length_mismatch", f"{len(texts)} texts, {len(images)} images")
    num_images = sum(image is not None for image in images)
    if not num_images:
        raise BadSample("no_image", "every image is null")
    if num_images > max_images:
        raise BadSample("too_many_images", f"{num_images}, and {max_images} are allowed")
    pages = iter(split_tiff(_bytes_member(row, "tiff")))
    parts: list[Part] = []
    for place, (text, image) in enumerate(zip(texts, images, strict=True)):
        if (text is None) == (image is None):
            raise BadSample(f"interleaved_both_{'null' if text is None else 'set'}", f"at place {place}")
        if image is None:
            parts.append(_typed(text, str, f"texts[{place}]"))
            continue
        page = next(pages, None)
        if page is None:
            raise BadSample("image_missing", f"{num_images} images, but the TIFF has fewer pages")
        parts.append(Picture(source=page, name=f"{row.id}.tiff ({image})"))
    return Document(id=row.id, parts=tuple(parts))


def llava(
    row: Row, rng: random.Random, *, max_images: int = 12, independent: bool = False
) -> Conversation | tuple[Conversation, ...]:
    """A conversation in LLaVA's JSON: `image` (a name, a list of names, none), `conversations` of `from` and `value`.

    Pictures stand where `<image>` stands in the text. One picture that nobody marks comes first, as in the reference's
    loader.

    Args:
        row: A JSON row.
        rng: Not used.
        max_images: A conversation with more is left out.
        independent: Every question with its answer becomes a conversation of its own, which begins with the pictures:
            for questions that do not build on each other. They share a row (`processor.branching`).

    Raises:
        BadSample: Fields are missing or of another type, marks and pictures differ in number, roles do not take turns.

    Source: spec 3.2 and 5.1.
    """
    del rng
    pictures = _pictures(row, row.fields.get("image"), max_images)
    messages = [_message(m) for m in _required(row.fields, "conversations", list)]
    roles = [role for role, _ in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise BadSample("role_order", f"after an optional system message, user and assistant take turns, not {roles}")
    texts = [_not_blank(text, f"message of the {role}") for role, text in messages]
    first_user = roles.index("user")
    conversation = _conversation(row.id, list(zip(roles, texts, strict=True)), pictures, first_user)
    return _questions_apart(conversation) if independent else conversation


def preference(row: Row, rng: random.Random) -> Preference:
    """A prompt with a preferred and a dispreferred answer: `prompt`, `chosen`, `rejected`, and `image` as in LLaVA.

    Args:
        row: A JSON row.
        rng: Not used.

    Raises:
        BadSample: Fields are missing or blank, or the two answers are the same.
    """
    del rng
    prompt, chosen, rejected = (
        _not_blank(_required(row.fields, name, str), name) for name in ("prompt", "chosen", "rejected")
    )
    if chosen.strip() == rejected.strip():
        raise BadSample("preference_identical", "both answers are the same")
    pictures = _pictures(row, row.fields.get("image"), max_images=12)
    return Preference(
        id=row.id, prompt=_conversation(row.id, [("user", prompt)], pictures, 0), chosen=chosen, rejected=rejected
    )


def vlguard(row: Row, rng: random.Random) -> Conversation:
    """A row of VLGuard: an unsafe picture with one question, or a safe one with a safe and an unsafe question.

    Args:
        row: A JSON row.
        rng: Draws the order of the two questions, as the published converter does; seeded by run, epoch and row.

    Raises:
        BadSample: Fields are missing or of another type.

    Source: spec 5.1, computed there from ys-zong/VLGuard's files.
    """
    safe = _required(row.fields, "safe", bool)
    kinds = ("safe_instruction", "unsafe_instruction") if safe else ("instruction",)
    entries = _required(row.fields, "instr-resp", list)
    rounds: list[list[tuple[Role, str]]] = []
    for kind in kinds:
        matching = [entry for entry in entries if isinstance(entry, dict) and kind in entry]
        if len(matching) != 1:
            raise BadSample("schema_missing_field", f'"instr-resp" must hold one "{kind}", and holds {len(matching)}')
        question, answer = (_not_blank(_required(matching[0], name, str), name) for name in (kind, "response"))
        rounds.append([("user", question), ("assistant", answer)])
    rng.shuffle(rounds)
    pictures = _pictures(row, _required(row.fields, "image", str), max_images=1)
    return _conversation(row.id, [message for one in rounds for message in one], pictures, 0)


Adapter = Callable[[Row, random.Random], Sample | tuple[Sample, ...]]

ADAPTERS: dict[str, Callable[..., Sample | tuple[Sample, ...]]] = {
    "caption_pairs": caption_pairs,
    "mint": mint,
    "llava": llava,
    "preference": preference,
    "vlguard": vlguard,
}


def split_tiff(data: bytes) -> Iterator[bytes]:
    """The pages of a TIFF, each as a TIFF whose first page it is, without decoding anything.

    A TIFF's header says where its first page is described, and every description says where the next one is: so a page
    becomes the first by writing another number into the header.

    Raises:
        BadSample: Not a TIFF, or its chain of pages leads outside the file or in a circle.

    Source: TIFF 6.0, section 2.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise BadSample("image_corrupt", "not a TIFF file")
    seen: set[int] = set()
    try:
        (offset,) = struct.unpack_from(f"{order}I", data, 4)
        while offset:
            if offset in seen:
                raise BadSample("image_corrupt", "the TIFF's chain of pages is a circle")
            seen.add(offset)
            (entries,) = struct.unpack_from(f"{order}H", data, offset)
            (following,) = struct.unpack_from(f"{order}I", data, offset + 2 + 12 * entries)
            yield data[:4] + struct.pack(f"{order}I", offset) + data[8:]
            offset = following
    except struct.error as error:
        raise BadSample("image_corrupt", "the TIFF's chain of pages leads outside the file") from error


def _conversation(
    sample_id: str, messages: list[tuple[Role, str]], pictures: list[Picture], first_user: int
) -> Conversation:
    """Put pictures where the marks are; one picture without a mark goes in front of the first user's message."""
    marks = sum(text.count(MARKER) for _, text in messages)
    if len(pictures) == 1 and marks == 0:
        role, text = messages[first_user]
        messages[first_user] = (role, f"{MARKER}{text}")
    elif marks != len(pictures):
        raise BadSample("placeholder_mismatch", f"{marks} times {MARKER} in the text, and {len(pictures)} pictures")
    remaining = iter(pictures)
    turns = []
    for role, text in messages:
        if role == "assistant" and MARKER in text:
            raise BadSample("placeholder_mismatch", f"{MARKER} in an answer")
        turns.append(Turn(role=role, parts=tuple(_split_marks(text, remaining))))
    return Conversation(id=sample_id, turns=tuple(turns))


def _questions_apart(conversation: Conversation) -> tuple[Conversation, ...]:
    """Each question with its answer, behind what the first message has up to its last picture."""
    turns = conversation.turns
    system = turns[:1] if turns[0].role == "system" else ()
    rounds = turns[len(system) :]
    first = rounds[0].parts
    pictures = [place for place, part in enumerate(first) if isinstance(part, Picture)]
    shared = first[: pictures[-1] + 1] if pictures else ()
    own = first[len(shared) :]
    apart = "\n" if shared and own and str(own[0]).startswith("\n") else ""
    questions = [own, *((apart + str(turn.parts[0]), *turn.parts[1:]) for turn in rounds[2::2])]
    return tuple(
        Conversation(id=conversation.id, turns=(*system, Turn(role="user", parts=(*shared, *question)), answer))
        for question, answer in zip(questions, rounds[1::2], strict=True)
    )


def _split_marks(text: str, pictures: Iterator[Picture]) -> Iterator[Part]:
    for place, piece in enumerate(text.split(MARKER)):
        if place:
            yield next(pictures)
        if piece:
            yield piece


_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def _message(message: Any) -> tuple[Role, str]:
    fields = _typed(message, dict, "conversations")
    role = _required(fields, "from", str)
    if role not in _ROLES:
        raise BadSample("role_order", f'unknown speaker "{role}"; known are {", ".join(_ROLES)}')
    return _ROLES[role], _required(fields, "value", str)


def _pictures(row: Row, names: Any, max_images: int) -> list[Picture]:
    """The pictures that a JSON row names, one name or a list of them, as paths under the row's root."""
    names = [] if names is None else names if isinstance(names, list) else [names]
    if len(names) > max_images:
        raise BadSample("too_many_images", f"{len(names)}, and {max_images} are allowed")
    for name in names:
        path = Path(_typed(name, str, "image"))
        if path.is_absolute() or ".." in path.parts:
            raise BadSample("path_escape", f"{name} leads out of the data set's folder")
    return [Picture(source=row.root / name, name=str(row.root / name)) for name in names]


def _picture_member(row: Row) -> Picture:
    extension = next((e for e in PICTURE_SUFFIXES if e in row.fields), None)
    if extension is None:
        raise BadSample("no_image", f"no picture among {', '.join(row.fields)}")
    return Picture(source=row.fields[extension], name=f"{row.id}.{extension}")


def _bytes_member(row: Row, extension: str) -> bytes:
    if extension not in row.fields:
        raise BadSample("sample_incomplete", f'no ".{extension}" among {", ".join(row.fields)}')
    content = row.fields[extension]
    return content.read_bytes() if isinstance(content, Path) else content


def _text_member(row: Row, extension: str) -> str:
    try:
        return _bytes_member(row, extension).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error


def _json_member(row: Row, extension: str) -> dict[str, Any]:
    try:
        content = json.loads(_text_member(row, extension))
    except json.JSONDecodeError as error:
        raise BadSample("json_invalid", str(error)) from error
    return _typed(content, dict, f".{extension}")


def _required(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in fields:
        raise BadSample("schema_missing_field", f'no "{name}"; there are {", ".join(map(str, fields))}')
    return _typed(fields[name], kind, name)


def _optional(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    return None if fields.get(name) is None else _typed(fields[name], kind, name)


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise BadSample("schema_wrong_type", f'"{name}" must be {kind.__name__}, but is {type(value).__name__}')
    return value


def _not_blank(text: str, name: str) -> str:
    if not text.strip():
        raise BadSample("text_empty", f"the {name} is blank")
    return text
