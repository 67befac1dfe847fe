"""Chat formats and the plain few-shot form: messages -> segments of text, special tokens and pictures, each with its
supervision. Training and inference render through the same functions. Knows no tokenizer and no pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from xgenmm.types import Conversation, Document, Given, Part, Picture, Turn

IMAGE = "<image>"
IMAGE_PLACEHOLDER = "<image placeholder>"
END_OF_CHUNK = "<|endofchunk|>"

DEFAULT_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Special:
    """A special token. Only formats write these; what people wrote is always `Text`."""

    token: str
    supervised: bool = False


@dataclass(frozen=True)
class Text:
    """Plain text: special tokens spelled out in it are letters."""

    text: str
    supervised: bool = False


Segment = Special | Text | Picture


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a language model's conversations are written: `opening` content `end` `separator`, turn by turn."""

    opening: Mapping[str, tuple[str, str]]
    """Role -> special token and the plain text behind it."""
    end: str
    """The special token that closes a turn; the assistant's is supervised."""
    separator: str = "\n"

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """All special tokens of the format, each once."""
        return tuple(dict.fromkeys([*(token for token, _ in self.opening.values()), self.end]))


PROMPTS: dict[str, ChatFormat] = {
    "phi3": ChatFormat(
        opening={role: (f"<|{role}|>", "\n") for role in ("system", "user", "assistant")}, end="<|end|>"
    ),
    "chatml": ChatFormat(
        opening={role: ("<|im_start|>", f"{role}\n") for role in ("system", "user", "assistant")}, end="<|im_end|>"
    ),
}
"""Name -> format. phi3: xGen-MM v1.5's own (spec: LAVIS `conversation.py`); chatml: Qwen, SmolLM2 and many others."""


def render_conversation(
    chat: ChatFormat, conversation: Conversation, system: str, *, supervised_from: int = 0
) -> list[Segment]:
    """Write a conversation turn by turn. Supervised are the text and the end token of the assistant's turns.

    Args:
        chat: The format.
        conversation: Its turns are written in order, whatever their order is.
        system: Text of the system turn that is put in front where the conversation has none of its own; "" puts none.
        supervised_from: Turns before this one are never supervised.
    """
    segments: list[Segment] = []
    if system and not (conversation.turns and conversation.turns[0].role == "system"):
        segments += _render_turn(chat, Turn(role="system", parts=(system,)), supervised=False)
    for index, turn in enumerate(conversation.turns):
        segments += _render_turn(chat, turn, supervised=turn.role == "assistant" and index >= supervised_from)
    return segments


def open_answer(chat: ChatFormat) -> list[Segment]:
    """What stands between a user's turn and the assistant's first word: the end of a prompt."""
    token, text = chat.opening["assistant"]
    return [Special(token), Text(text)]


def close_answer(chat: ChatFormat) -> list[Segment]:
    """The token that the assistant ends its turn with."""
    return [Special(chat.end, supervised=True)]


def render_document(document: Document, prefix: str) -> list[Segment]:
    """Write text and pictures in reading order, `<|endofchunk|>` between a text and the next picture.

    This is also the few-shot form: `<image>text<|endofchunk|><image>text...`. Text in front of the first picture has no
    end of chunk, as in OpenFlamingo. All text is supervised but `prefix` and what is `Given`; special tokens are not.
    """
    segments: list[Segment] = [Text(prefix)]
    in_chunk = False
    for part in document.parts:
        if isinstance(part, Picture):
            if in_chunk and isinstance(segments[-1], Text):
                segments.append(Special(END_OF_CHUNK))
            in_chunk = True
            segments.append(part)
        elif _words(part):
            segments.append(_segment(part, supervised=True))
    return segments


def close_document(eos: str) -> list[Segment]:
    """The end of a document that is complete. The end of sequence is supervised, the end of chunk is not."""
    return [Special(END_OF_CHUNK), Special(eos, supervised=True)]


def chat_template(chat: ChatFormat, system: str) -> str:
    """The same format as a Jinja template, for `apply_chat_template` of Hugging Face and for servers.

    Takes messages whose content is a string or a list of `{"type": "image"}` and `{"type": "text", "text": ...}`.
    """
    opening = {role: token + text for role, (token, text) in chat.opening.items()}
    roles = ", ".join(f"{_jinja(role)}: {_jinja(text)}" for role, text in opening.items())
    end = _jinja(chat.end + chat.separator)
    return f"""\
{{%- set opening = {{{roles}}} -%}}
{{%- if {_jinja(system)} and messages[0]['role'] != 'system' -%}}
    {{{{- opening['system'] + {_jinja(system)} + {end} -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
    {{%- if message['role'] not in opening -%}}
        {{{{- raise_exception('unknown role: ' + message['role']) -}}}}
    {{%- endif -%}}
    {{{{- opening[message['role']] -}}}}
    {{%- if message['content'] is string -%}}
        {{{{- message['content'] -}}}}
    {{%- else -%}}
        {{%- set parts = message['content'] -%}}
        {{%- set pictures = parts | selectattr('type', 'equalto', 'image') | list -%}}
        {{%- set alone = message['role'] == 'user' and pictures | length == 1 -%}}
        {{%- for part in parts -%}}
            {{%- if part['type'] == 'image' -%}}
                {{{{- {_jinja(IMAGE)} -}}}}
                {{%- if alone and loop.nextitem is defined and loop.nextitem['text'][0] != '\\n' -%}}
                    {{{{- '\\n' -}}}}
                {{%- endif -%}}
            {{%- elif part['type'] == 'text' -%}}
                {{{{- part['text'] -}}}}
            {{%- else -%}}
                {{{{- raise_exception('unknown kind of content: ' + part['type']) -}}}}
            {{%- endif -%}}
        {{%- endfor -%}}
    {{%- endif -%}}
    {{{{- {end} -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
    {{{{- opening['assistant'] -}}}}
{{%- endif -%}}
"""


def _render_turn(chat: ChatFormat, turn: Turn, *, supervised: bool) -> list[Segment]:
    token, text = chat.opening[turn.role]
    segments: list[Segment] = [Special(token), Text(text)]
    parts = turn.parts if turn.role != "user" else _set_apart(turn.parts)
    segments += [_segment(part, supervised=supervised) for part in parts]
    return [*segments, Special(chat.end, supervised), Text(chat.separator)]


def _set_apart(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """A user's only picture gets a line of its own: `<image>\\n{question}`. Several stand inline, as written."""
    pictures = [index for index, part in enumerate(parts) if isinstance(part, Picture)]
    if len(pictures) != 1:
        return parts
    after = pictures[0] + 1
    before, behind = parts[:after], parts[after:]
    if not behind or _words(behind[0]).startswith("\n"):
        return parts
    return (*before, "\n", *behind)


def _segment(part: Part, *, supervised: bool) -> Segment:
    if isinstance(part, Picture):
        return part
    return Text(_words(part), supervised and not isinstance(part, Given))


def _words(part: Part) -> str:
    """The text of a part; a picture has none."""
    if isinstance(part, str):
        return part
    return part.text if isinstance(part, Given) else ""


def _jinja(text: str) -> str:
    """`text` as a Jinja string literal."""
    return "'" + text.encode("unicode_escape").decode().replace("'", "\\'") + "'"
