"""Questions and answers about pictures: LLaVA's JSON and its relatives."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.adapters.fields import embedded_picture, named_picture, not_blank, required, sound, typed
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.types import Conversation, Part, Picture, Turn

Role = Literal["system", "user", "assistant"]
MARKER = "<image>"
"""Where a picture stands in the text of a data set. In our samples pictures are parts, and no text means a picture."""


def llava(
    row: Row, choose: Choose, *, max_images: int = 12, independent: bool = False
) -> Conversation | tuple[Conversation, ...]:
    """A conversation in LLaVA's JSON: `image` (a name, a list of names, none), `conversations` of `from` and `value`.

    Pictures stand where `<image>` stands in the text: as many marks as pictures. (The reference's loader puts a picture
    that nobody marks in front; a row that lost its mark may have lost more, so here it is counted as a mismatch.)

    Args:
        row: A JSON row.
        choose: Not used.
        max_images: A conversation with more is left out.
        independent: Every question with its answer becomes a conversation of its own, which begins with the pictures:
            for questions that do not build on each other. They share a row (`processor.branching`).

    Raises:
        BadSample: Fields are missing or of another type, marks and pictures differ in number, roles do not take turns.

    Source: spec 3.2 and 5.1.
    """
    del choose
    pictures = named_pictures(row, row.fields.get("image"), max_images)
    messages = [_message(m, "from", "value") for m in required(row.fields, "conversations", list)]
    conversation = _taking_turns(row.id, messages, pictures)
    return _questions_apart(conversation) if independent else conversation


def messages(row: Row, choose: Choose, *, max_images: int = 12) -> Conversation:
    """A conversation of `role` and `content`, with the pictures in a list: OpenAI's `messages`, Mantis' `conversation`,
    ShareGPT's exports.

    A content is a text with `<image>` marks, or OpenAI's list of parts. Pictures are in `images` or `image`, as names,
    {bytes, path}, or addresses.

    Args:
        row: A JSON or parquet row.
        choose: Not used.
        max_images: A conversation with more is left out.

    Raises:
        BadSample: As `llava`.
    """
    del choose
    name = next((one for one in ("messages", "conversation", "conversations") if one in row.fields), "messages")
    given = row.fields.get("images") if row.fields.get("images") is not None else row.fields.get("image")
    cells = [] if given is None else given if isinstance(given, list) else [given]
    if len(cells) > max_images:
        raise BadSample("too_many_images", f"{len(cells)}, and {max_images} are allowed")
    pictures = [embedded_picture(row, cell, f"images[{place}]") for place, cell in enumerate(cells)]
    spoken: list[tuple[Role, str]] = []
    for one in required(row.fields, name, list):
        role, text, inline = _openai_message(row, one)
        spoken.append((role, text))
        pictures += inline
    return _taking_turns(row.id, spoken, pictures)


def cauldron(row: Row, choose: Choose, *, max_images: int = 12) -> Conversation:
    """A row of the Cauldron: `images`, and `texts` of `user` and `assistant`. The pictures come first.

    Args:
        row: A parquet row.
        choose: Not used.
        max_images: A row with more is left out.

    Raises:
        BadSample: Fields are missing or of another type.
    """
    del choose
    cells = required(row.fields, "images", list)
    if len(cells) > max_images:
        raise BadSample("too_many_images", f"{len(cells)}, and {max_images} are allowed")
    pictures = [embedded_picture(row, cell, f"images[{place}]") for place, cell in enumerate(cells)]
    turns = []
    for place, one in enumerate(required(row.fields, "texts", list)):
        texts = [not_blank(required(typed(one, dict, "texts"), role, str), role) for role in ("user", "assistant")]
        parts: tuple[Part, ...] = (*pictures, texts[0]) if place == 0 else (texts[0],)
        turns += [Turn(role="user", parts=parts), Turn(role="assistant", parts=(texts[1],))]
    if not turns:
        raise BadSample("text_empty", "there is no question")
    return Conversation(id=row.id, turns=tuple(turns))


def instructions(row: Row, choose: Choose) -> Conversation:
    """A text-only instruction: `instruction` (and `input`) with `output`, or `prompt` or `question` with its answer.

    Args:
        row: A JSON or parquet row.
        choose: Not used.

    Raises:
        BadSample: Fields are missing, blank, or of another type.
    """
    del choose
    for asked, answered in (("instruction", "output"), ("prompt", "response"), ("question", "answer")):
        if asked in row.fields:
            question = not_blank(required(row.fields, asked, str), asked)
            more = row.fields.get("input") or ""
            text = f"{question}\n{sound(typed(more, str, 'input'), 'input')}" if more else question
            answer = not_blank(required(row.fields, answered, str), answered)
            return Conversation(
                id=row.id, turns=(Turn(role="user", parts=(text,)), Turn(role="assistant", parts=(answer,)))
            )
    raise BadSample(
        "schema_missing_field", f"neither instruction, prompt nor question; there are {', '.join(row.fields)}"
    )


def _taking_turns(name: str, spoken: list[tuple[Role, str]], pictures: list[Picture]) -> Conversation:
    roles = [role for role, _ in spoken]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise BadSample("role_order", f"after an optional system message, user and assistant take turns, not {roles}")
    texts = [not_blank(text, f"message of the {role}") for role, text in spoken]
    return conversation_of(name, list(zip(roles, texts, strict=True)), pictures)


def _openai_message(row: Row, message: Any) -> tuple[Role, str, list[Picture]]:
    content = typed(message, dict, "messages").get("content")
    if not isinstance(content, list):
        return *_message(message, "role", "content"), []
    texts, pictures = [], []
    for part in content:
        kind = required(typed(part, dict, "content"), "type", str)
        if kind == "text":
            texts.append(required(part, "text", str))
        elif kind in ("image", "image_url"):
            value = part.get(kind)
            texts.append(MARKER)
            if value is not None:
                value = value.get("url") if kind == "image_url" and isinstance(value, Mapping) else value
                pictures.append(embedded_picture(row, value, kind))
        else:
            raise BadSample("schema_wrong_type", f'a part of type "{kind}"')
    role, text = _message({"role": message.get("role"), "content": "".join(texts)}, "role", "content")
    return role, text, pictures


def picture_first(messages: list[tuple[Role, str]], pictures: list[Picture]) -> list[tuple[Role, str]]:
    """For data sets that mark no pictures: one picture stands in front of the first message."""
    if len(pictures) != 1 or any(MARKER in text for _, text in messages):
        return messages
    (role, text), *rest = messages
    return [(role, f"{MARKER}{text}"), *rest]


def conversation_of(sample_id: str, messages: list[tuple[Role, str]], pictures: list[Picture]) -> Conversation:
    """Put pictures where the marks are.

    Raises:
        BadSample: There are not as many marks as pictures, or one in an answer.
    """
    marks = sum(text.count(MARKER) for _, text in messages)
    if marks != len(pictures):
        raise BadSample("placeholder_mismatch", f"{marks} times {MARKER} in the text, and {len(pictures)} pictures")
    remaining = iter(pictures)
    turns = []
    for role, text in messages:
        if role == "assistant" and MARKER in text:
            raise BadSample("placeholder_mismatch", f"{MARKER} in an answer")
        turns.append(Turn(role=role, parts=tuple(split_marks(text, remaining))))
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


def split_marks(text: str, pictures: Iterator[Picture]) -> Iterator[Part]:
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


def _message(message: Any, speaker: str, said: str) -> tuple[Role, str]:
    fields = typed(message, dict, "conversations")
    role = required(fields, speaker, str)
    if role not in _ROLES:
        raise BadSample("role_order", f'unknown speaker "{role}"; known are {", ".join(_ROLES)}')
    return _ROLES[role], required(fields, said, str)


def named_pictures(row: Row, names: Any, max_images: int) -> list[Picture]:
    """The pictures that a JSON row names, one name or a list of them, as paths under the row's root."""
    names = [] if names is None else names if isinstance(names, list) else [names]
    if len(names) > max_images:
        raise BadSample("too_many_images", f"{len(names)}, and {max_images} are allowed")
    return [named_picture(row, name) for name in names]
